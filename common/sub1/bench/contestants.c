/* common/sub1/bench/contestants.c: random weights in every format, and rows of x for them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "bench/bench_int.h"
#include "bench/memory.h"
#include "model/names.h"

#define FREE_NONZEROS                   0.115f /* of a free matrix: what a ternary checkpoint of QMoE (arXiv 2310.16795) has */
#define MEMORY_OF_EACH                  ((size_t)64 << 20)
#define COPIES_OF_MEMORY(bytes, stride) ((bytes) / (stride) ? (bytes) / (stride) : 1)

/* nonzeros: n in every 16 columns, or, with n 0, each weight with a probability. */
static void random_weights(fs_bench *b, uint32_t n, bool symmetric, uint32_t rows, uint32_t cols, float *w)
{
    const float scale[2] = {0.5f, symmetric ? -0.5f : -0.25f};
    memset(w, 0, sizeof(float) * rows * cols);
    for (uint32_t r = 0; r < rows; r++) {
        float *row = w + (size_t)r * cols;
        for (uint32_t c = 0; n == 0 && c < cols; c++)
            if (fs_random_unit(&b->random) < FREE_NONZEROS) row[c] = scale[fs_random_below(&b->random, 2)];
        for (uint32_t c = 0; n && c + 16 <= cols; c += 16) {
            for (uint32_t k = 0; k < n;) {
                float *at = row + c + fs_random_below(&b->random, 16);
                if (*at != 0) continue;
                *at = scale[fs_random_below(&b->random, 2)];
                k++;
            }
        }
    }
}

static fs_status encode(fs_bench *b, uint32_t n, bool symmetric, uint32_t rows, uint32_t cols, fs_buffer *out)
{
    float *w = malloc(sizeof(float) * rows * cols);
    if (!w) return FS_NO_MEMORY;
    random_weights(b, n, symmetric, rows, cols, w);
    fs_status st = FS_OK;
    if (n == 0) {
        st = fs_sub1_encode_free(w, rows, cols, out, b->detail);
    } else {
        size_t most = fs_sub1_blob_bytes(FS_SUB1_BLOCKED, n, 16, rows, cols);
        st = fs_buffer_reserve(out, most);
        if (st == FS_OK) st = fs_sub1_encode_blocked(w, rows, cols, n, 16, out->data + out->size, b->detail);
        if (st == FS_OK) out->size += most;
    }
    fs_buffer_append(out, (const uint8_t[64]){0}, (64 - out->size % 64) % 64);
    free(w);
    return out->failed ? FS_NO_MEMORY : st;
}

/* ---- memory ---- */

/* Copies of bytes, out of the caches: as many as the options say, one at least. NULL: of ones. */
static fs_status fill_memory(fs_bench *b, fs_bench_contestant *c, const uint8_t *bytes)
{
    size_t memory = b->options->memory ? b->options->memory : MEMORY_OF_EACH;
    c->stride = (c->size + 63) / 64 * 64;
    c->copies = b->options->dram ? COPIES_OF_MEMORY(memory, c->stride) : 1;
    c->mapped = c->copies * c->stride;
    c->bytes = fs_bench_map(c->mapped);
    if (!c->bytes) return FS_NO_MEMORY;
    for (size_t i = 0; i < c->copies; i++) {
        if (bytes)
            memcpy(c->bytes + i * c->stride, bytes, c->size);
        else
            memset(c->bytes + i * c->stride, 1, c->stride);
    }
    fs_bench_flush(c->bytes, c->mapped);
    return FS_OK;
}

static fs_bench_contestant *add(fs_bench *b, fs_bench_kind kind, const char *name, uint64_t weights)
{
    FS_ASSERT(b->count < FS_BENCH_MAX_CONTESTANTS);
    fs_bench_contestant *c = &b->list[b->count++];
    *c = (fs_bench_contestant){.kind = kind, .weights = weights};
    snprintf(c->name, sizeof(c->name), "%s", name);
    return c;
}

static uint64_t weights_of_matrix(const fs_bench *b)
{
    return (uint64_t)b->options->rows * b->options->cols;
}

static fs_status add_bf16(fs_bench *b)
{
    fs_bench_contestant *c = add(b, FS_BENCH_BF16, "bf16", weights_of_matrix(b));
    c->size = sizeof(fs_bf16) * weights_of_matrix(b);
    return fill_memory(b, c, NULL);
}

/* ---- our formats ---- */

/* Opens the blobs that lie one behind the other at the first copy. */
static fs_status open_all(fs_bench *b, fs_bench_contestant *c, const size_t size[], uint32_t num)
{
    size_t at = 0;
    for (uint32_t i = 0; i < num; i++) {
        fs_status st = fs_sub1_open(c->bytes + at, size[i], &c->matrix[i], b->detail);
        if (st != FS_OK) return st;
        at += size[i];
        c->size -= size[i] - c->matrix[i].blob_bytes; /* what the encoder left as zeros */
    }
    return FS_OK;
}

static fs_status add_product(fs_bench *b, const char *name, uint32_t n, bool symmetric)
{
    fs_buffer blob = {0};
    fs_bench_contestant *c = add(b, FS_BENCH_PRODUCT, name, weights_of_matrix(b));
    fs_status st = encode(b, n, symmetric, b->options->rows, b->options->cols, &blob);
    c->size = blob.size;
    if (st == FS_OK) st = fill_memory(b, c, blob.data);
    if (st == FS_OK) st = open_all(b, c, &blob.size, 1);
    fs_buffer_free(&blob);
    return st;
}

static fs_status add_expert(fs_bench *b, fs_bench_kind kind, const char *name)
{
    const uint32_t rows = b->options->rows, cols = b->options->cols;
    fs_bench_contestant *c = add(b, kind, name, 3 * weights_of_matrix(b));
    fs_buffer blobs = {0};
    size_t size[3] = {0};
    fs_status st = FS_OK;
    for (int i = 0; st == FS_OK && i < 3; i++) {
        size_t before = blobs.size;
        bool down = i == FS_PART_DOWN;
        st = encode(b, 2, true, down ? cols : rows, down ? rows : cols, &blobs);
        size[i] = blobs.size - before;
    }
    c->size = blobs.size;
    if (st == FS_OK) st = fill_memory(b, c, blobs.data);
    if (st == FS_OK) st = open_all(b, c, size, 3);
    fs_buffer_free(&blobs);
    return st;
}

static fs_status add_ours(fs_bench *b)
{
    static const char *const names[3][2] = {{"blocked 1:16", "blocked 1:16 symmetric"},
                                            {"blocked 2:16", "blocked 2:16 symmetric"},
                                            {"blocked 3:16", "blocked 3:16 symmetric"}};
    fs_bench_contestant *read = add(b, FS_BENCH_READ, "memory read", 0);
    fs_status st = add_bf16(b);
    for (uint32_t n = 1; st == FS_OK && n <= 3; n++) {
        for (uint32_t s = 0; st == FS_OK && s < 2; s++) st = add_product(b, names[n - 1][s], n, s);
        /* The limit is that of the format that the others are measured by. */
        if (n == 2) read->size = b->list[b->count - 1].size;
    }
    if (st == FS_OK) st = fill_memory(b, read, NULL);
    if (st == FS_OK) st = add_product(b, "free", 0, false);
    if (st == FS_OK) st = add_expert(b, FS_BENCH_THREE_PRODUCTS, "three products");
    return st == FS_OK ? add_expert(b, FS_BENCH_EXPERT, "expert") : st;
}

/* ---- ggml's ---- */

static fs_status add_ggml_type(fs_bench *b, const fs_ggml_type *type, const float *w)
{
    const uint32_t rows = b->options->rows, cols = b->options->cols, batch = b->options->batch;
    char name[40];
    snprintf(name, sizeof(name), "ggml %s", type->name);
    fs_bench_contestant *c = add(b, FS_BENCH_GGML, name, weights_of_matrix(b));
    c->ggml = *type;
    c->size = rows * fs_ggml_row_bytes(type, cols);
    c->x_bytes = fs_ggml_x_bytes(type, cols);
    c->x = fs_alloc_aligned(batch * c->x_bytes);
    uint8_t *stored = fs_alloc_aligned(c->size);
    fs_status st = c->x && stored ? fs_ggml_quantise(type, w, rows, cols, stored, b->detail) : FS_NO_MEMORY;
    if (st == FS_OK) st = fill_memory(b, c, stored);
    for (uint32_t r = 0; st == FS_OK && r < batch; r++)
        type->x_from_float(b->x_f32 + (size_t)r * b->width, c->x + r * c->x_bytes, cols);
    free(stored);
    return st;
}

/* Notes in left_out what this library, or this shape, does not have. */
static fs_status add_ggml(fs_bench *b, char left_out[256])
{
    const uint32_t rows = b->options->rows, cols = b->options->cols;
    fs_status st = fs_ggml_open(b->options->ggml, &b->ggml, b->detail);
    float *w = st == FS_OK ? malloc(sizeof(float) * rows * cols) : NULL;
    if (st == FS_OK && !w) st = FS_NO_MEMORY;
    if (st == FS_OK) random_weights(b, 0, true, rows, cols, w);
    for (uint32_t i = 0; st == FS_OK && i < FS_GGML_NUM_TYPES; i++) {
        fs_ggml_type type;
        fs_detail why = {0};
        size_t used = strlen(left_out);
        st = fs_ggml_find(b->ggml, i, &type, &why);
        if (st == FS_OK && (cols % type.block_cols || cols % type.x_block_cols))
            snprintf(left_out + used, 256 - used, "%sggml %s: %u columns are not a multiple of %zu",
                     used ? "; " : "", type.name, cols, type.block_cols);
        else if (st == FS_NOT_FOUND)
            snprintf(left_out + used, 256 - used, "%s%s", used ? "; " : "", why.text);
        else if (st == FS_OK)
            st = add_ggml_type(b, &type, w);
        else
            fs_fail(b->detail, st, "%s", why.text);
        if (st == FS_NOT_FOUND) st = FS_OK;
    }
    free(w);
    return st;
}

/* ---- rows of x ---- */

static fs_status make_rows(fs_bench *b)
{
    const uint32_t rows = b->options->rows, cols = b->options->cols, batch = b->options->batch;
    b->width = fs_sub1_round_up(rows > cols ? rows : cols, 256); /* what any format reads of a row */
    size_t all = (size_t)batch * b->width;
    b->x_i8 = fs_alloc_aligned(all);
    b->x_f32 = fs_alloc_aligned(all * sizeof(float));
    b->y = fs_alloc_aligned(all * sizeof(float) * b->options->threads);
    b->arranged = fs_alloc_aligned(fs_sub1_arranged_bytes(batch, b->width));
    if (!b->x_i8 || !b->x_f32 || !b->y || !b->arranged) return FS_NO_MEMORY;
    for (size_t i = 0; i < all; i++) {
        b->x_i8[i] = (int8_t)((int)fs_random_below(&b->random, 255) - 127);
        b->x_f32[i] = (float)b->x_i8[i];
    }
    for (uint32_t r = 0; r < batch; r++) {
        b->x_row[r] = b->x_i8 + (size_t)r * b->width;
        b->x_scale[r] = 0.01f;
    }
    fs_sub1_x x = {batch, b->width, b->x_row, b->x_scale, b->arranged};
    for (uint32_t r = 0; b->sub1->arrange && r < batch; r += fs_sub1_tile(batch, r))
        b->sub1->arrange(&x, r, b->arranged);
    return FS_OK;
}

/* What the last contestant so far, an expert, needs beside its rows. */
static fs_status make_scratch(fs_bench *b)
{
    const fs_bench_contestant *c = &b->list[b->count - 1];
    fs_expert e = {
        .storage = FS_EXPERTS_SUB1, .hidden_size = b->options->cols, .intermediate_size = b->options->rows};
    memcpy(e.sub1, c->matrix, sizeof(e.sub1));
    b->scratch = fs_alloc_aligned(fs_expert_scratch_bytes(&e, b->options->batch));
    return b->scratch ? FS_OK : FS_NO_MEMORY;
}

fs_status fs_bench_add_contestants(fs_bench *b, char left_out[256])
{
    left_out[0] = 0;
    fs_status st = make_rows(b);
    if (st == FS_OK) st = add_ours(b);
    if (st == FS_OK) st = make_scratch(b);
    if (st == FS_OK && b->options->ggml) st = add_ggml(b, left_out);
    return st;
}

void fs_bench_free_contestants(fs_bench *b)
{
    for (uint32_t i = 0; i < b->count; i++) {
        fs_bench_unmap(b->list[i].bytes, b->list[i].mapped);
        free(b->list[i].x);
    }
    fs_ggml_close(b->ggml);
    free(b->x_i8);
    free(b->x_f32);
    free(b->y);
    free(b->arranged);
    free(b->scratch);
}
