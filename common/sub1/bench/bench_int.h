/* common/sub1/bench/bench_int.h: what the files of this folder share: contestants, and one unit of their work. */
#ifndef FS_BENCH_BENCH_INT_H
#define FS_BENCH_BENCH_INT_H

#include <stdatomic.h>

#include "base/random.h"
#include "bench/bench.h"
#include "bench/ggml.h"
#include "compute/pool.h"
#include "sub1/expert.h"
#include "sub1/sub1_int.h"

enum { FS_BENCH_MAX_BATCH = 256, FS_BENCH_MAX_CONTESTANTS = 16 };

typedef enum {
    FS_BENCH_READ,
    FS_BENCH_BF16,
    FS_BENCH_PRODUCT,
    FS_BENCH_THREE_PRODUCTS,
    FS_BENCH_EXPERT,
    FS_BENCH_GGML
} fs_bench_kind;

/* Something that is timed: `copies` times the same bytes, one behind the other. */
typedef struct {
    fs_bench_kind kind;
    char name[40];
    uint64_t weights;         /* of a copy; 0: none */
    uint8_t *bytes;           /* [copies][stride], owned */
    size_t size, stride;      /* of a copy: what is counted, and what there is */
    size_t mapped, copies;    /* copies: 1 for "l2" */
    fs_sub1_matrix matrix[3]; /* of the first copy; a product has one */
    fs_ggml_type ggml;
    uint8_t *x; /* ggml: [batch][x_bytes], owned */
    size_t x_bytes;

    /* the runs */
    size_t next, a_run,
        parts;     /* copies: where the next run begins, how many it goes through; ranges of rows of each */
    uint32_t way;  /* of memory reads */
    double best_s; /* for one copy */
} fs_bench_contestant;

typedef struct {
    const fs_sub1_bench_options *options;
    fs_detail *detail;
    fs_pool *pool;
    const fs_kernels *kernels;
    const fs_sub1_kernels *sub1;
    fs_ggml *ggml;
    fs_bench_contestant list[FS_BENCH_MAX_CONTESTANTS];
    uint32_t count;
    fs_random random;

    /* Rows of x, wide enough for both directions of an expert, and room for results: each thread has its own. */
    uint32_t width;
    int8_t *x_i8;
    const int8_t *x_row[FS_BENCH_MAX_BATCH];
    float x_scale[FS_BENCH_MAX_BATCH], *x_f32, *y; /* y [threads][batch][width] */
    uint8_t *arranged, *scratch;
    atomic_ullong sink; /* what memory reads came to */

    /* the run */
    fs_bench_contestant *now;
    atomic_uint num_placed, num_arrived; /* threads that have rows of y; that are awake for this run */
    uint32_t tasks;
    double clock_hz; /* of a core; 0: not known */
} fs_bench;

/* ---- contestants.c ---- */

/* Rows of x, and all contestants; memory reads first. left_out: bench.h. What there is by a failure is freed by fs_bench_free_contestants too. */
FS_MUST_USE fs_status fs_bench_add_contestants(fs_bench *b, char left_out[256]);
void fs_bench_free_contestants(fs_bench *b);

/* ---- work.c ---- */

/* The units [first, end) of the run that is now: part u % parts of copy next + u / parts. y: this thread's rows of results. */
void fs_bench_work(fs_bench *b, size_t first, size_t end, float *const *y);
/* The whole run of an expert, which divides itself. */
void fs_bench_run_experts(fs_bench *b);

#endif
