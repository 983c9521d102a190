/* common/compute/matmul.h: a linear layer over a batch of rows, divided over a pool. */
#ifndef FS_COMPUTE_MATMUL_H
#define FS_COMPUTE_MATMUL_H

#include "compute/kernels.h"
#include "compute/pool.h"

/* A weight matrix [outs][cols], bf16 or float32, borrowed. */
typedef struct {
    const void *data;
    bool is_bf16;
    uint32_t outs, cols;
} fs_matrix;

/* y[r] = W x[r]. x [rows][x_stride], y [rows][y_stride]; bits depend on neither rows nor the pool. Thread: worker. */
void fs_matmul(fs_pool *pool, const fs_kernels *kernels, const fs_matrix *w, const float *x, size_t x_stride, float *y,
               size_t y_stride, size_t rows);
/* Outputs first .. first + outs of it alone, on the caller's thread: y[r][first ..]. Whole register tiles are multiples of 16. */
void fs_matmul_outs(const fs_kernels *kernels, const fs_matrix *w, size_t first, size_t outs, const float *x,
                    size_t x_stride, float *y, size_t y_stride, size_t rows);

#endif
