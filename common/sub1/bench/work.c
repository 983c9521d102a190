/* common/sub1/bench/work.c: what is timed. */
#include "bench/bench_int.h"
#include "bench/memory.h"
#include "model/names.h"

/* The matrix, as it is in another copy. */
static fs_sub1_matrix in_copy(const fs_bench_contestant *c, uint32_t i, size_t copy)
{
    fs_sub1_matrix m = c->matrix[i];
    m.payload += copy * c->stride;
    return m;
}

static void multiply(const fs_bench *b, const fs_sub1_matrix *m, size_t part, float *const *y)
{
    const size_t parts = b->now->parts;
    fs_sub1_x x = {b->options->batch, b->width, b->x_row, b->x_scale, b->arranged};
    /* Rows of a scattered format change places within 256: ranges that divided those would be as no expert's are. */
    uint32_t each = m->scattered ? 256 / m->group_rows : 1, groups = m->padded_rows / m->group_rows;
    size_t quanta = (groups + each - 1) / each;
    uint32_t first = (uint32_t)(quanta * part / parts) * each,
             end = (uint32_t)(quanta * (part + 1) / parts) * each;
    if (end > groups) end = groups;
    if (first < end) fs_sub1_multiply(b->sub1, m, first, end - first, &x, y);
}

static void multiply_bf16(const fs_bench *b, const uint8_t *weights, size_t part, float *const *y)
{
    const size_t rows = b->options->rows, cols = b->options->cols, parts = b->now->parts;
    size_t first = rows * part / parts, end = rows * (part + 1) / parts;
    const fs_bf16 *w = (const fs_bf16 *)(const void *)weights + first * cols;
    b->kernels->matmul_bf16(b->x_f32, b->width, w, y[0] + first, b->width, b->options->batch, end - first,
                            cols);
}

/* Row by row of the weights, each with every row of x: weights are read once. */
static void multiply_ggml(const fs_bench *b, const uint8_t *weights, size_t part, float *const *y)
{
    const fs_bench_contestant *c = b->now;
    const size_t rows = b->options->rows, row_bytes = fs_ggml_row_bytes(&c->ggml, b->options->cols);
    for (size_t o = rows * part / c->parts; o < rows * (part + 1) / c->parts; o++)
        for (uint32_t r = 0; r < b->options->batch; r++)
            c->ggml.vec_dot((int)b->options->cols, &y[r][o], 0, weights + o * row_bytes, 0,
                            c->x + r * c->x_bytes, 0, 1);
}

/* Copies lie one behind the other: they are read at once, up to the last. */
static void read_copies(fs_bench *b, size_t first, size_t end)
{
    const fs_bench_contestant *c = b->now;
    uint64_t sum = 0;
    for (size_t i = first; i < end;) {
        size_t at = (c->next + i) % c->copies, count = c->copies - at;
        if (count > end - i) count = end - i;
        sum ^= fs_bench_read(c->bytes + at * c->stride, count * c->stride, c->way);
        i += count;
    }
    atomic_fetch_xor(&b->sink, sum);
}

void fs_bench_work(fs_bench *b, size_t first, size_t end, float *const *y)
{
    const fs_bench_contestant *c = b->now;
    if (c->kind == FS_BENCH_READ) {
        read_copies(b, first, end);
        return;
    }
    for (size_t u = first; u < end; u++) {
        size_t copy = (c->next + u / c->parts) % c->copies, part = u % c->parts;
        const uint8_t *bytes = c->bytes + copy * c->stride;
        if (c->kind == FS_BENCH_BF16) multiply_bf16(b, bytes, part, y);
        if (c->kind == FS_BENCH_GGML) multiply_ggml(b, bytes, part, y);
        const uint32_t matrices = c->kind == FS_BENCH_PRODUCT          ? 1
                                  : c->kind == FS_BENCH_THREE_PRODUCTS ? 3
                                                                       : 0;
        for (uint32_t i = 0; i < matrices; i++) {
            fs_sub1_matrix m = in_copy(c, i, copy);
            multiply(b, &m, part, y);
        }
    }
}

void fs_bench_run_experts(fs_bench *b)
{
    const fs_bench_contestant *c = b->now;
    float *y[FS_BENCH_MAX_BATCH];
    for (uint32_t r = 0; r < b->options->batch; r++) y[r] = b->y + (size_t)r * b->width;
    fs_expert_rows rows = {.num_rows = b->options->batch, .x_i8 = b->x_row, .x_scale = b->x_scale, .out = y};
    for (size_t i = 0; i < c->a_run; i++) {
        fs_expert e = {.storage = FS_EXPERTS_SUB1,
                       .hidden_size = b->options->cols,
                       .intermediate_size = b->options->rows};
        for (uint32_t k = 0; k < 3; k++) e.sub1[k] = in_copy(c, k, (c->next + i) % c->copies);
        fs_expert_run(&e, &rows, b->scratch, b->pool);
    }
}
