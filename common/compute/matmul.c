/* common/compute/matmul.c: a linear layer, its outputs divided over a pool. */
#include "compute/matmul.h"

/* Waking a thread costs microseconds: a task is worth that only with this many multiplications. */
#define MIN_TASK_WORK   (size_t)(128 * 1024)
#define TASKS_A_THREAD  4u
#define TASK_OUTS_ALIGN 16u /* whole register tiles */

typedef struct {
    const fs_kernels *kernels;
    const fs_matrix *w;
    const float *x;
    float *y;
    size_t x_stride, y_stride, rows, outs_a_task;
} job;

void fs_matmul_outs(const fs_kernels *kernels, const fs_matrix *w, size_t first, size_t outs, const float *x,
                    size_t x_stride, float *y, size_t y_stride, size_t rows)
{
    size_t at = first * w->cols;
    if (w->is_bf16)
        kernels->matmul_bf16(x, x_stride, (const fs_bf16 *)w->data + at, y + first, y_stride, rows, outs,
                             w->cols);
    else
        kernels->matmul_f32(x, x_stride, (const float *)w->data + at, y + first, y_stride, rows, outs,
                            w->cols);
}

static void run_outs(const job *j, size_t first, size_t outs)
{
    fs_matmul_outs(j->kernels, j->w, first, outs, j->x, j->x_stride, j->y, j->y_stride, j->rows);
}

static void run_task(void *arg, uint32_t index)
{
    const job *j = arg;
    size_t first = index * j->outs_a_task, left = j->w->outs - first;
    run_outs(j, first, left < j->outs_a_task ? left : j->outs_a_task);
}

/* A few tasks a thread, so that imbalance evens out, none of them tiny. */
static size_t outs_a_task(const fs_matrix *w, size_t rows, uint32_t num_threads)
{
    size_t work_an_out = rows * w->cols;
    size_t least = work_an_out < MIN_TASK_WORK ? MIN_TASK_WORK / (work_an_out + 1) : 1;
    size_t even = w->outs / ((size_t)num_threads * TASKS_A_THREAD) + 1;
    size_t outs = even > least ? even : least;
    return (outs + TASK_OUTS_ALIGN - 1) / TASK_OUTS_ALIGN * TASK_OUTS_ALIGN;
}

void fs_matmul(fs_pool *pool, const fs_kernels *kernels, const fs_matrix *w, const float *x, size_t x_stride,
               float *y, size_t y_stride, size_t rows)
{
    if (rows == 0 || w->outs == 0) return;
    uint32_t num_threads = pool != NULL ? fs_pool_num_threads(pool) : 1;
    job j = {kernels, w, x, y, x_stride, y_stride, rows, w->outs};
    if (num_threads > 1) j.outs_a_task = outs_a_task(w, rows, num_threads);
    if (j.outs_a_task >= w->outs)
        run_outs(&j, 0, w->outs);
    else
        fs_pool_run(pool, run_task, &j, (uint32_t)((w->outs + j.outs_a_task - 1) / j.outs_a_task));
}
