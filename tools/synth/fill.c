/* tools/synth/fill.c: the bytes of a tensor, a piece at a time, from its seed alone. */
#include <math.h>
#include <string.h>

#include "base/random.h"
#include "compute/kernels.h"
#include "synth/synth.h"

enum { ONE = 0x3f80 /* 1.0 as bf16 */, NUM_SUMS = 4 * 255 + 1 };

/* A sum of four bytes is nearly normal; there are 1021 of them, so that a weight is a look-up. */
static void make_table(float std, fs_bf16 table[NUM_SUMS])
{
    const float unit = std / sqrtf(4 * (256.0f * 256.0f - 1) / 12);
    for (int i = 0; i < NUM_SUMS; i++) table[i] = fs_f32_to_bf16(unit * (float)(i - 510));
}

static uint32_t sum_of_bytes(uint32_t v)
{
    v = (v & 0xff00ff) + (v >> 8 & 0xff00ff);
    return (v & 0xffff) + (v >> 16);
}

static void fill_normal(const fs_synth_tensor *t, uint64_t unit, size_t count, fs_bf16 *out)
{
    fs_bf16 table[NUM_SUMS];
    fs_random seeds = {t->seed + unit}, random = {fs_random_next(&seeds)};
    make_table(t->std, table);
    for (size_t i = 0; i < count; i += 2) {
        uint64_t v = fs_random_next(&random);
        out[i] = table[sum_of_bytes((uint32_t)v)];
        if (i + 1 < count) out[i + 1] = table[sum_of_bytes((uint32_t)(v >> 32))];
    }
}

/* first: the piece's first weight, counted from the tensor's. */
static void fill_first_column(const fs_synth_plan *plan, const fs_synth_tensor *t, uint64_t first,
                              size_t count, fs_bf16 *out)
{
    if (t->first_column == FS_COLUMN_DRAWN) return;
    uint64_t row = (first + t->cols - 1) / t->cols;
    for (; row * t->cols < first + count; row++)
        out[row * t->cols - first] = fs_f32_to_bf16(t->first_column == FS_COLUMN_BIASES ? plan->bias[row]
                                                                                        : t->first_value);
}

static void fill_blob(const fs_synth_plan *plan, const fs_synth_tensor *t, uint8_t *out)
{
    const fs_sub1_random what = {t->rows, t->cols, t->std, t->seed};
    if (plan->options.format == FS_SYNTH_FREE)
        fs_sub1_random_free(plan->stock[t->stock], &what, out);
    else
        fs_sub1_random_blocked(&what, (uint32_t)plan->options.format - FS_SYNTH_BLOCKED_1 + 1, out);
    memset(out + t->blob_bytes, 0, t->bytes - t->blob_bytes);
}

void fs_synth_fill(const fs_synth_plan *plan, const fs_synth_tensor *tensor, uint64_t offset, size_t bytes,
                   uint8_t *out)
{
    const size_t count = bytes / sizeof(fs_bf16);
    fs_bf16 *weights = (fs_bf16 *)out;
    switch (tensor->kind) {
    case FS_FILL_SUB1: fill_blob(plan, tensor, out); return;
    case FS_FILL_ONES:
        for (size_t i = 0; i < count; i++) weights[i] = ONE;
        return;
    case FS_FILL_NORMAL:
        FS_ASSERT(offset % FS_SYNTH_UNIT_BYTES == 0);
        fill_normal(tensor, offset / FS_SYNTH_UNIT_BYTES, count, weights);
        fill_first_column(plan, tensor, offset / sizeof(fs_bf16), count, weights);
    }
}
