/* common/sub1/bench/bench.h: how fast products with compressed matrices are, beside bf16, beside ggml's formats and beside reading
 * memory, in one interleaved run. */
#ifndef FS_BENCH_BENCH_H
#define FS_BENCH_BENCH_H

#include "base/status.h"

typedef struct {
    uint32_t rows, cols; /* of the matrix; the expert is cols -> rows -> cols */
    uint32_t batch;      /* rows of x, 1 to 256 */
    uint32_t threads;    /* 1 to 1024 */
    uint32_t rounds;     /* the best of so many short runs is told; 0: 200 */
    uint64_t memory;     /* bytes of each format that are gone through for "dram"; 0: 64 MiB */
    bool l2, dram;    /* where the weights are: one matrix again and again, or memory that no cache holds */
    const char *ggml; /* a library of ggml's CPU backend, or the folder with it; NULL: without */
} fs_sub1_bench_options;

/* share_of_memory_read compares bytes_per_s with the row "memory read" of the same place, whose bits_per_weight, gweights_per_s and
 * weights_per_cycle are 0. weights_per_cycle is of one core, 0 where the clock is not known; it and gweights_per_s count a weight once for
 * each row of x. bytes_per_s is of weights as they are stored, so that
 *   bits_per_weight * gweights_per_s * 1e9 / batch = 8 * bytes_per_s. */
typedef struct {
    /* "memory read", "bf16", "blocked 2:16", "blocked 2:16 symmetric", ..., "free"; "three products" and "expert": blocked 2:16
     * symmetric; "ggml TQ1_0", ... */
    char format[40];
    const char *where; /* "l2" or "dram" */
    uint32_t rows, cols, batch, threads;
    double bits_per_weight, gweights_per_s, weights_per_cycle, bytes_per_s, share_of_memory_read;
} fs_sub1_bench_row;

#define FS_SUB1_BENCH_MAX_ROWS 32u

typedef struct {
    fs_sub1_bench_row row[FS_SUB1_BENCH_MAX_ROWS];
    uint32_t num_rows, rounds;
    const char *isa;    /* of our kernels */
    char left_out[256]; /* which of ggml's formats are not there, and why; "": none */
} fs_sub1_bench_result;

/* Both dimensions are multiples of 16. FS_INVALID: an option (the detail says which), or a ggml whose results are wrong; FS_NOT_FOUND,
 * FS_UNSUPPORTED: ggml is not there, or is another than is known; FS_NO_MEMORY. Takes seconds and about 12 times the memory that is gone
 * through. Results are of this machine as it is: other load is not seen. Thread: any, one at a time. */
FS_MUST_USE fs_status fs_sub1_bench(const fs_sub1_bench_options *options, fs_sub1_bench_result *out,
                                    fs_detail *detail);

#endif
