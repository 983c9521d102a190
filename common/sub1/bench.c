/* common/sub1/bench.c: the contestants take turns, round after round, and each one's best round counts: so that other load on the
 * machine, and its clock, hit all of them alike. */
#include "sub1/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/clock.h"
#include "base/random.h"
#include "model/names.h"
#include "sub1/expert.h"
#include "sub1/sub1_int.h"

enum { MAX_BATCH = 256, MAX_CONTESTANTS = 12, PARTS_PER_THREAD = 4 };
#define RUN_S 0.4e-3

typedef enum { READ, BF16, PRODUCT, THREE_PRODUCTS, EXPERT } kind;

/* Something that is timed: `copies` times the same bytes, one behind the other. */
typedef struct {
    kind kind;
    char name[40];
    uint32_t rows, cols;
    uint64_t weights; /* of a copy */
    uint8_t *bytes;   /* [copies][stride], owned */
    size_t size, stride, copies;
    size_t next, a_run;       /* copies: where the next run begins, and how many it goes through */
    fs_sub1_matrix matrix[3]; /* of the first copy; a product has one */
    double best_s;
} contestant;

typedef struct {
    const fs_sub1_bench_options *options;
    fs_pool *pool;
    const fs_kernels *kernels;
    const fs_sub1_kernels *sub1;
    contestant list[MAX_CONTESTANTS];
    uint32_t count;
    fs_detail *detail;
    fs_random random;

    /* Rows of x, wide enough for both directions of an expert, and room for results: each part of a run has its own. */
    uint32_t width;
    int8_t *x_i8;
    const int8_t *x_row[MAX_BATCH];
    float x_scale[MAX_BATCH], *x_f32, *y;
    uint8_t *arranged, *scratch;
    size_t scratch_bytes;
    volatile uint64_t sink;

    /* the run */
    const contestant *now;
    size_t copies, parts; /* tasks: each part of each copy */
} bench;

static double seconds(void)
{
    return (double)fs_clock_now(fs_clock_system()) * 1e-9;
}

/* ---- contestants ---- */

/* nonzeros: n in every 16 columns, or, with n 0, each weight with the probability 0.115. */
static void random_weights(bench *b, uint32_t n, bool symmetric, uint32_t rows, uint32_t cols, float *w)
{
    memset(w, 0, sizeof(float) * rows * cols);
    for (uint32_t r = 0; r < rows; r++) {
        float scale[2] = {0.5f, symmetric ? -0.5f : -0.25f};
        float *row = w + (size_t)r * cols;
        for (uint32_t c = 0; n == 0 && c < cols; c++)
            if (fs_random_unit(&b->random) < 0.115f) row[c] = scale[fs_random_below(&b->random, 2)];
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

static fs_status encode(bench *b, uint32_t n, bool symmetric, uint32_t rows, uint32_t cols, fs_buffer *out)
{
    float *w = malloc(sizeof(float) * rows * cols);
    if (!w) return FS_NO_MEMORY;
    random_weights(b, n, symmetric, rows, cols, w);
    fs_status st = FS_OK;
    size_t most = n ? fs_sub1_blob_bytes(FS_SUB1_BLOCKED, n, 16, rows, cols) : 0;
    if (n == 0) {
        st = fs_sub1_encode_free(w, rows, cols, out, b->detail);
    } else {
        st = fs_buffer_reserve(out, most);
        if (st == FS_OK) st = fs_sub1_encode_blocked(w, rows, cols, n, 16, out->data + out->size, b->detail);
        if (st == FS_OK) out->size += most;
    }
    fs_buffer_append(out, (const uint8_t[64]){0}, (64 - out->size % 64) % 64);
    free(w);
    return out->failed ? FS_NO_MEMORY : st;
}

/* Copies of bytes: as many as make memory_mib, one at least. */
static fs_status fill_memory(bench *b, contestant *c, const uint8_t *bytes)
{
    size_t mib = b->options->memory_mib ? b->options->memory_mib : 64;
    c->stride = (c->size + 63) / 64 * 64;
    c->copies = b->options->dram ? (mib << 20) / c->stride : 1;
    if (c->copies == 0) c->copies = 1;
    c->bytes = fs_alloc_aligned(c->copies * c->stride);
    if (!c->bytes) return FS_NO_MEMORY;
    for (size_t i = 0; i < c->copies; i++) {
        if (bytes)
            memcpy(c->bytes + i * c->stride, bytes, c->size);
        else
            memset(c->bytes + i * c->stride, 1, c->stride);
    }
    return FS_OK;
}

static contestant *add(bench *b, kind what, const char *name, uint64_t weights)
{
    contestant *c = &b->list[b->count++];
    *c = (contestant){.kind = what, .rows = b->options->rows, .cols = b->options->cols, .weights = weights};
    snprintf(c->name, sizeof(c->name), "%s", name);
    return c;
}

static fs_status add_plain(bench *b, kind what, const char *name)
{
    uint64_t weights = (uint64_t)b->options->rows * b->options->cols;
    contestant *c = add(b, what, name, what == READ ? 0 : weights);
    c->size = what == BF16 ? 2 * weights
                           : (size_t)b->options->rows * b->options->cols / 14; /* 0.571 bits each */
    if (c->size < 64) c->size = 64;
    return fill_memory(b, c, NULL);
}

/* Opens the blobs that lie one behind the other at the first copy. */
static fs_status open_all(bench *b, contestant *c, const size_t size[], uint32_t num)
{
    size_t at = 0;
    for (uint32_t i = 0; i < num; i++) {
        fs_status st = fs_sub1_open(c->bytes + at, size[i], &c->matrix[i], b->detail);
        if (st != FS_OK) return st;
        at += size[i];
    }
    return FS_OK;
}

static fs_status add_product(bench *b, const char *name, uint32_t n, bool symmetric)
{
    fs_buffer blob = {0};
    contestant *c = add(b, PRODUCT, name, (uint64_t)b->options->rows * b->options->cols);
    fs_status st = encode(b, n, symmetric, c->rows, c->cols, &blob);
    c->size = blob.size;
    if (st == FS_OK) st = fill_memory(b, c, blob.data);
    if (st == FS_OK) st = open_all(b, c, &blob.size, 1);
    if (st == FS_OK) c->size = c->matrix[0].blob_bytes; /* without what the encoder left as zeros */
    fs_buffer_free(&blob);
    return st;
}

static fs_status add_expert(bench *b, kind what, const char *name)
{
    contestant *c = add(b, what, name, 3 * (uint64_t)b->options->rows * b->options->cols);
    fs_buffer blobs = {0};
    size_t size[3] = {0};
    fs_status st = FS_OK;
    for (int i = 0; st == FS_OK && i < 3; i++) {
        size_t before = blobs.size;
        bool down = i == FS_PART_DOWN;
        st = encode(b, 2, true, down ? c->cols : c->rows, down ? c->rows : c->cols, &blobs);
        size[i] = blobs.size - before;
    }
    c->size = blobs.size;
    if (st == FS_OK) st = fill_memory(b, c, blobs.data);
    if (st == FS_OK) st = open_all(b, c, size, 3);
    for (int i = 0; st == FS_OK && i < 3; i++) c->size -= size[i] - c->matrix[i].blob_bytes;
    fs_buffer_free(&blobs);
    return st;
}

static fs_status add_all(bench *b)
{
    static const char *const names[3][2] = {{"blocked 1:16", "blocked 1:16 symmetric"},
                                            {"blocked 2:16", "blocked 2:16 symmetric"},
                                            {"blocked 3:16", "blocked 3:16 symmetric"}};
    fs_status st = add_plain(b, READ, "memory read");
    if (st == FS_OK) st = add_plain(b, BF16, "bf16");
    for (uint32_t n = 1; st == FS_OK && n <= 3; n++)
        for (uint32_t s = 0; st == FS_OK && s < 2; s++) st = add_product(b, names[n - 1][s], n, s);
    if (st == FS_OK) st = add_product(b, "free", 0, false);
    if (st == FS_OK) st = add_expert(b, THREE_PRODUCTS, "three products");
    return st == FS_OK ? add_expert(b, EXPERT, "expert") : st;
}

/* ---- runs ---- */

/* The matrix, as it is in another copy. */
static fs_sub1_matrix in_copy(const contestant *c, uint32_t i, size_t copy)
{
    fs_sub1_matrix m = c->matrix[i];
    m.payload += copy * c->stride;
    return m;
}

static void rows_of_y(const bench *b, size_t task, float *y[MAX_BATCH])
{
    for (uint32_t r = 0; r < b->options->batch; r++)
        y[r] = b->y + (task % (b->options->threads * PARTS_PER_THREAD) * b->options->batch + r) * b->width;
}

static void multiply(bench *b, const fs_sub1_matrix *m, size_t part, size_t parts, float *const *y)
{
    fs_sub1_x x = {b->options->batch, b->width, b->x_row, b->x_scale, b->arranged};
    /* Scattered rows stay within 256, and parts should not write to each other's. */
    uint32_t each = m->scattered ? 256 / m->group_rows : 1, groups = m->padded_rows / m->group_rows;
    size_t quanta = (groups + each - 1) / each;
    uint32_t first = (uint32_t)(quanta * part / parts) * each,
             end = (uint32_t)(quanta * (part + 1) / parts) * each;
    if (end > groups) end = groups;
    if (first < end) fs_sub1_multiply(b->sub1, m, first, end - first, &x, y);
}

static void read_part(bench *b, const uint8_t *from, size_t size)
{
    const uint64_t *words = (const uint64_t *)from;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= size / 8; i += 8)
        for (int k = 0; k < 8; k++) sum[k] ^= words[i + (size_t)k];
    for (int k = 1; k < 8; k++) sum[0] ^= sum[k];
    b->sink = sum[0];
}

static void multiply_bf16(bench *b, const uint8_t *weights, size_t part, float *const *y)
{
    const contestant *c = b->now;
    size_t first = c->rows * part / b->parts, end = c->rows * (part + 1) / b->parts;
    const fs_bf16 *w = (const fs_bf16 *)(const void *)weights + first * c->cols;
    b->kernels->matmul_bf16(b->x_f32, b->width, w, y[0] + first, b->width, b->options->batch, end - first,
                            c->cols);
}

static void run_expert(bench *b, size_t copy)
{
    const contestant *c = b->now;
    fs_expert e = {.storage = FS_EXPERTS_SUB1, .hidden_size = c->cols, .intermediate_size = c->rows};
    for (uint32_t i = 0; i < 3; i++) e.sub1[i] = in_copy(c, i, copy);
    float *y[MAX_BATCH];
    rows_of_y(b, 0, y);
    fs_expert_rows rows = {.num_rows = b->options->batch, .x_i8 = b->x_row, .x_scale = b->x_scale, .out = y};
    fs_expert_run(&e, &rows, b->scratch, b->pool);
}

static void run_task(void *arg, uint32_t index)
{
    bench *b = arg;
    const contestant *c = b->now;
    size_t copy = (c->next + index / b->parts) % c->copies, part = index % b->parts;
    const uint8_t *bytes = c->bytes + copy * c->stride;
    float *y[MAX_BATCH];
    rows_of_y(b, index, y);
    if (c->kind == READ) {
        size_t each = c->stride / b->parts / 64 * 64;
        read_part(b, bytes + part * each, part + 1 == b->parts ? c->stride - part * each : each);
    } else if (c->kind == BF16) {
        multiply_bf16(b, bytes, part, y);
    } else {
        for (uint32_t i = 0; i < (c->kind == PRODUCT ? 1u : 3u); i++) {
            fs_sub1_matrix m = in_copy(c, i, copy);
            multiply(b, &m, part, b->parts, y);
        }
    }
}

/* Goes through a_run copies, from where the last run ended (the first again and again if there is one), and keeps the time if it is the
 * best. */
static void run(bench *b, contestant *c)
{
    b->now = c;
    b->parts = b->options->threads == 1 ? 1 : b->options->threads * PARTS_PER_THREAD;
    double start = seconds();
    if (c->kind == EXPERT)
        for (size_t i = 0; i < c->a_run; i++) run_expert(b, (c->next + i) % c->copies);
    else
        fs_pool_run(b->pool, run_task, b, (uint32_t)(c->a_run * b->parts));
    double took = (seconds() - start) / (double)c->a_run;
    c->next = (c->next + c->a_run) % c->copies;
    if (took < c->best_s) c->best_s = took;
}

/* So many copies that a run takes RUN_S: long enough for threads to be awake, short enough to fall between other processes' turns. */
static void choose_length(bench *b, contestant *c)
{
    c->a_run = 1;
    run(b, c);
    double copies = RUN_S / c->best_s;
    c->a_run = copies < 1 ? 1 : copies > 10000 ? 10000 : (size_t)copies;
}

static void run_rounds(bench *b, bool dram)
{
    uint32_t rounds = b->options->rounds ? b->options->rounds : 200;
    size_t all[MAX_CONTESTANTS];
    for (uint32_t i = 0; i < b->count; i++) {
        contestant *c = &b->list[i];
        c->best_s = 1e30;
        c->next = 0;
        all[i] = c->copies;
        if (!dram) c->copies = 1;
        choose_length(b, c);
    }
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t i = 0; i < b->count; i++) run(b, &b->list[i]);
    for (uint32_t i = 0; i < b->count; i++) b->list[i].copies = all[i];
}

/* Cycles a second now: additions that wait for each other take one each. */
static double clock_rate(void)
{
    double best = 0;
#if defined(__x86_64__)
    for (int i = 0; i < 200; i++) {
        uint64_t v = 1;
        double start = seconds();
        for (int k = 0; k < 2000; k++)
            __asm__ volatile("add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n"
                             "add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n"
                             : "+r"(v));
        double rate = 20000 / (seconds() - start);
        if (rate > best) best = rate;
    }
#endif
    return best;
}

static void tell(const bench *b, const char *where, fs_sub1_bench_row *out, uint32_t *num)
{
    double rate = clock_rate(), read = 0;
    for (uint32_t i = 0; i < b->count; i++) {
        const contestant *c = &b->list[i];
        fs_sub1_bench_row *row = &out[(*num)++];
        *row = (fs_sub1_bench_row){.where = where,
                                   .rows = c->rows,
                                   .cols = c->cols,
                                   .batch = b->options->batch,
                                   .threads = b->options->threads};
        snprintf(row->format, sizeof(row->format), "%s", c->name);
        double weights = (double)c->weights;
        row->bytes_per_s = (double)(c->kind == READ ? c->stride : c->size) / c->best_s;
        if (c->kind == READ) read = row->bytes_per_s;
        row->share_of_memory_read = row->bytes_per_s / read;
        if (c->kind == READ) continue;
        row->bits_per_weight = 8 * (double)c->size / weights;
        row->gweights_per_s = weights * b->options->batch / c->best_s * 1e-9;
        row->weights_per_cycle = rate > 0 ? row->gweights_per_s * 1e9 / rate / b->options->threads : 0;
    }
}

/* ---- set up ---- */

static fs_status check(const fs_sub1_bench_options *o, fs_detail *detail)
{
    if (o->rows == 0 || o->cols == 0 || o->rows > FS_SUB1_MAX_DIM || o->cols > FS_SUB1_MAX_DIM ||
        o->rows % 16 || o->cols % 16)
        return fs_fail(detail, FS_INVALID, "shape: %u x %u: both are multiples of 16 up to %u", o->rows,
                       o->cols, FS_SUB1_MAX_DIM);
    if (o->batch == 0 || o->batch > MAX_BATCH)
        return fs_fail(detail, FS_INVALID, "batch: %u, it is 1 to %d", o->batch, MAX_BATCH);
    if (o->threads == 0 || o->threads > 1024) return fs_fail(detail, FS_INVALID, "threads: %u", o->threads);
    return FS_OK;
}

static size_t expert_scratch(const bench *b)
{
    const contestant *c = &b->list[b->count - 1];
    fs_expert e = {.storage = FS_EXPERTS_SUB1, .hidden_size = c->cols, .intermediate_size = c->rows};
    memcpy(e.sub1, c->matrix, sizeof(e.sub1));
    return fs_expert_scratch_bytes(&e, b->options->batch);
}

static fs_status make_rows(bench *b)
{
    uint32_t widest = b->options->rows > b->options->cols ? b->options->rows : b->options->cols,
             batch = b->options->batch;
    b->width = fs_sub1_round_up(widest, 256); /* what any format reads of a row */
    size_t all = (size_t)batch * b->width;
    b->x_i8 = fs_alloc_aligned(all);
    b->x_f32 = fs_alloc_aligned(all * sizeof(float));
    b->y = fs_alloc_aligned(all * sizeof(float) * b->options->threads * PARTS_PER_THREAD);
    b->arranged = fs_alloc_aligned(fs_sub1_arranged_bytes(batch, b->width));
    b->scratch = fs_alloc_aligned(expert_scratch(b));
    if (!b->x_i8 || !b->x_f32 || !b->y || !b->arranged || !b->scratch) return FS_NO_MEMORY;
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

static void free_bench(bench *b)
{
    for (uint32_t i = 0; i < b->count; i++) free(b->list[i].bytes);
    free(b->x_i8), free(b->x_f32), free(b->y), free(b->arranged), free(b->scratch);
    fs_pool_destroy(b->pool);
    free(b);
}

fs_status fs_sub1_bench(const fs_sub1_bench_options *options, fs_sub1_bench_row out[FS_SUB1_BENCH_MAX_ROWS],
                        uint32_t *num_rows, fs_detail *detail)
{
    fs_status st = check(options, detail);
    if (st != FS_OK) return st;
    bench *b = calloc(1, sizeof(*b));
    if (!b) return fs_fail(detail, FS_NO_MEMORY, "no memory");
    *b = (bench){.options = options,
                 .kernels = fs_kernels_best(),
                 .sub1 = fs_sub1_kernels_best(),
                 .detail = detail,
                 .random = {1}};
    st = fs_pool_create(options->threads, &b->pool);
    if (st == FS_OK) st = add_all(b);
    if (st == FS_OK) st = make_rows(b);
    uint32_t num = 0;
    if (st == FS_OK && options->l2) run_rounds(b, false), tell(b, "l2", out, &num);
    if (st == FS_OK && options->dram) run_rounds(b, true), tell(b, "dram", out, &num);
    if (st == FS_OK)
        *num_rows = num;
    else if (st == FS_NO_MEMORY)
        st = fs_fail(detail, FS_NO_MEMORY, "%u x %u: no memory for all formats", options->rows,
                     options->cols);
    free_bench(b);
    return st;
}
