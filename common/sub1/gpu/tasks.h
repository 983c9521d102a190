/* common/sub1/gpu/tasks.h: what the host tells a kernel: lists of these in device memory. C17 and C++17 at once. All pointers are
 * device addresses; every number was checked by the host. */
#ifndef FS_GPU_TASKS_H
#define FS_GPU_TASKS_H

#include <stdint.h>

#include "gpu/grid.h"

#define FS_GPU_UNIT_COLS 64u

/* blocked N:16, as blocked_int.h has it: groups of 64 rows; a unit of 64 columns is 256 bytes of codes (n >= 2), 128 of nibbles (n odd)
 * and 32 of signs. */
#define FS_GPU_GROUP_ROWS    64u
#define FS_GPU_NIBBLES_AT(n) ((n) >= 2u ? 256u : 0u)
#define FS_GPU_SIGNS_AT(n)   (FS_GPU_NIBBLES_AT(n) + ((n) % 2u ? 128u : 0u))
#define FS_GPU_UNIT_BYTES(n) (FS_GPU_SIGNS_AT(n) + 32u)

/* free, as free_int.h has it. */
#define FS_GPU_FREE_WINDOW     128u
#define FS_GPU_FREE_MOVES      0x30201800u /* columns for the moves 0 to 3, a byte each */
#define FS_GPU_FREE_SKIP       15u
#define FS_GPU_FREE_LONG_SKIP  30u
#define FS_GPU_FREE_STEP_SIGNS 64u
#define FS_GPU_FREE_STEP_BYTES 80u
#define FS_GPU_FREE_SCALES     128u
#define FS_GPU_FREE_SIDE_COLS  1024u
#define FS_GPU_FREE_CODED      1u /* kinds of group */
#define FS_GPU_FREE_DENSE      2u

/* A block's table in shared memory: for 16 columns 32 words, or for each four rows of x 16 pairs of words. */
#define FS_GPU_TABLE_BLOCK  128u
#define FS_GPU_TABLE_UNIT   (4u * FS_GPU_TABLE_BLOCK)
#define FS_GPU_MAX_NONZEROS 258u /* of a row in one block: see blocked_kernels.h */

/* Integer sums of one compressed matrix over rows of x. A product has blocks of its own in the grid, one for each (columns, matrix
 * rows, rows of x), rows of x first, so that blocks that read the same weights run together. */
typedef struct {
    const uint8_t *payload;
    const int8_t *x; /* [num_x][x_stride]: zeros beyond the matrix's columns; x_stride >= padded columns */
    int32_t *sums; /* [num_x][2][padded_rows]: over the positive, then over the negative weights; 0 before */
    uint32_t num_x, x_stride;
    uint32_t rows, padded_rows, num_units; /* a unit: 64 columns, padding included */
    uint32_t cols_units;                   /* free: without what pads a row of x to its window */
    uint32_t group_bytes, scale_bytes;     /* blocked: of a group, and of the scales that begin it */
    uint32_t first_block, x_tiles, row_tiles, units_a_split;
} fs_gpu_product;

/* fs_activation's values. */
#define FS_GPU_SILU           0u
#define FS_GPU_GELU           1u
#define FS_GPU_GELU_TANH      2u
#define FS_GPU_RELU           3u
#define FS_GPU_SWIGLU_CLAMPED 4u

/* The float part of one expert over its rows. Without a gate, its entries are not looked at. */
typedef struct {
    const uint16_t *scales[3]; /* gate, up, down: [2][sum_rows] bf16, positive and negative */
    const int32_t *sums[3];    /* [num_x][2][sum_rows], as fs_gpu_product's */
    uint32_t sum_rows[3];      /* padded rows of the matrix */
    uint32_t symmetric[3];     /* one scale a row */
    const float *bias[3];      /* [rows of the matrix], or NULL */
    const float *x_scale;      /* [num_x] */
    float *a;                  /* [num_x][a_stride] activations before they are quantised */
    uint32_t *a_max;           /* [num_x] bits of the largest |a|; 0 before */
    int8_t *a_i8;              /* [num_x][a_stride] */
    float *out;                /* [num_x][hidden] */
    uint32_t num_x, hidden, intermediate;
    uint32_t activation, no_gate;
    float swiglu_limit;
    uint32_t a_stride;       /* padded columns of down */
    uint32_t first_block[2]; /* in the grids over activations and over outputs */
} fs_gpu_item;

/* Elements of a row that a block of the float kernels treats. */
#define FS_GPU_TILE (4u * FS_BLOCK_DIM)

/* Every kernel: its name here, its symbol, its list's type. x1, x4, x8: rows of x that a block treats at once. */
#define FS_GPU_KERNELS(X)                                                                                    \
    X(BLOCKED_2_16_X1, fs_blocked_2_16_x1)                                                                   \
    X(BLOCKED_2_16_X4, fs_blocked_2_16_x4)                                                                   \
    X(BLOCKED_2_16_X8, fs_blocked_2_16_x8)                                                                   \
    X(BLOCKED_1_16_X1, fs_blocked_1_16_x1)                                                                   \
    X(BLOCKED_1_16_X4, fs_blocked_1_16_x4)                                                                   \
    X(BLOCKED_1_16_X8, fs_blocked_1_16_x8)                                                                   \
    X(BLOCKED_3_16_X1, fs_blocked_3_16_x1)                                                                   \
    X(BLOCKED_3_16_X4, fs_blocked_3_16_x4)                                                                   \
    X(BLOCKED_3_16_X8, fs_blocked_3_16_x8)                                                                   \
    X(FREE_X1, fs_free_x1)                                                                                   \
    X(FREE_X4, fs_free_x4)                                                                                   \
    X(ACTIVATE, fs_activate)                                                                                 \
    X(QUANTISE, fs_quantise)                                                                                 \
    X(FINISH, fs_finish)

#define FS_GPU_KERNEL_ID(id, symbol) FS_GPU_##id,
typedef enum { FS_GPU_KERNELS(FS_GPU_KERNEL_ID) FS_GPU_NUM_KERNELS } fs_gpu_kernel;

#endif
