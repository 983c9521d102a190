/* common/sub1/bench.h: how fast products with compressed matrices are, beside bf16 and beside reading memory, in one interleaved run. */
#ifndef FS_SUB1_BENCH_H
#define FS_SUB1_BENCH_H

#include "base/status.h"

typedef struct {
    uint32_t rows, cols; /* of the matrix; the expert is cols -> rows -> cols */
    uint32_t batch;      /* rows of x, 1 to 256 */
    uint32_t threads;    /* 1 or more */
    uint32_t rounds;     /* the best of so many short runs is told; 0: 200 */
    uint32_t
        memory_mib; /* how much of each format is gone through for "dram"; 0: 64. A last-level cache should not hold all of them */
    bool l2, dram;  /* where the weights are: one matrix again and again, or memory_mib of them */
} fs_sub1_bench_options;

/* share_of_memory_read compares bytes_per_s with the "memory read" row of the same place. weights_per_cycle is of one core, 0 where the
 * clock is not known; both count a weight once for each row of x. bytes_per_s is of weights as they are stored. */
typedef struct {
    char format
        [40]; /* "memory read", "bf16", "blocked 2:16", "blocked 2:16 symmetric", ..., "free"; "three products" and
                          "expert": blocked 2:16 symmetric */
    const char *where; /* "l2" or "dram" */
    uint32_t rows, cols, batch, threads;
    double bits_per_weight, gweights_per_s, weights_per_cycle, bytes_per_s, share_of_memory_read;
} fs_sub1_bench_row;

#define FS_SUB1_BENCH_MAX_ROWS 32u

/* FS_INVALID: an option (the detail says which); FS_NO_MEMORY. Takes seconds. Results are of this machine as it is: other load is not seen.
 * Thread: any, one at a time. */
FS_MUST_USE fs_status fs_sub1_bench(const fs_sub1_bench_options *options,
                                    fs_sub1_bench_row out[FS_SUB1_BENCH_MAX_ROWS], uint32_t *num_rows,
                                    fs_detail *detail);

#endif
