/* common/backbone/rows.c: per-row steps over a batch, divided by rows where that is worth a wake-up. */
#include "backbone/backbone_int.h"

#define MIN_POOL_ELEMENTS (size_t)(64 * 1024)

typedef struct {
    const fs_kernels *kernels;
    const float *x, *w;
    float *y;
    float eps;
    size_t n;
} norm_job;

static void norm_row(void *arg, uint32_t row)
{
    const norm_job *j = arg;
    j->kernels->rms_norm(j->x + row * j->n, j->w, j->eps, j->y + row * j->n, j->n);
}

void fs_rows_norm(fs_pool *pool, const fs_kernels *kernels, const float *x, const float *w, float eps,
                  float *y, size_t num_rows, size_t n)
{
    norm_job j = {kernels, x, w, y, eps, n};
    fs_pool_run(num_rows * n < MIN_POOL_ELEMENTS ? NULL : pool, norm_row, &j, (uint32_t)num_rows);
}

void fs_add(const fs_kernels *kernels, float *x, const float *y, size_t n)
{
    kernels->axpy(1.0f, y, x, n); /* fmaf(1, y, x) is x + y */
}
