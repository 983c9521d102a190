/* common/sub1/expert.c: one expert over a batch of rows, its matrices' row groups divided over a pool. */
#include <string.h>

#include "model/names.h"
#include "sub1/expert.h"
#include "sub1/sub1_int.h"

enum {
    ALIGN = 64,
    TASKS_PER_THREAD = 4,       /* evens out threads of unequal speed */
    MIN_TASK_WORK = 512 * 1024, /* weights times rows of x: about the cost of waking a thread */
};

/* Memory that is handed out from the front, or, with no base, only counted. */
typedef struct {
    uint8_t *base;
    size_t used;
} carver;

static void *carve(carver *c, size_t count, size_t bytes)
{
    size_t at = c->used;
    c->used += (count * bytes + ALIGN - 1) / ALIGN * ALIGN;
    return c->base ? c->base + at : NULL;
}

/* What a call needs beside its arguments. Strides in elements. */
typedef struct {
    const fs_expert *expert;
    const fs_expert_rows *rows;
    const fs_kernels *kernels;
    float *gate, *up; /* [rows][inter_stride]; the activations a replace gate */
    size_t inter_stride;

    /* sub1 */
    const fs_sub1_kernels *sub1;
    const int8_t *
        *x; /* [rows] of [padded hidden]: the caller's rows, or copies with the padding that a kernel reads */
    int8_t *x_padded, *a; /* [rows][x_stride], [rows][a_stride] */
    size_t x_stride, a_stride;
    const int8_t **a_row; /* [rows] into a, gate and up: as fs_sub1_matmul takes them */
    float *a_scale, **gate_row, **up_row;
    uint32_t groups_a_task;

    /* dense */
    float *x_f32, *y_f32; /* [rows][hidden_size]: fs_matmul takes adjacent rows */
} call;

static size_t lay_out(const fs_expert *e, uint32_t rows, uint8_t *scratch, call *c)
{
    carver memory = {scratch, 0};
    bool sub1 = e->storage == FS_EXPERTS_SUB1;
    c->inter_stride = fs_sub1_round_up(e->intermediate_size, FS_SUB1_GROUP_ROWS);
    c->gate = carve(&memory, rows * c->inter_stride, sizeof(float));
    c->up = carve(&memory, rows * c->inter_stride, sizeof(float));
    if (!sub1) {
        c->x_f32 = carve(&memory, (size_t)rows * e->hidden_size, sizeof(float));
        c->y_f32 = carve(&memory, (size_t)rows * e->hidden_size, sizeof(float));
        return memory.used;
    }
    c->x_stride = e->sub1[FS_PART_GATE].padded_cols;
    c->a_stride = e->sub1[FS_PART_DOWN].padded_cols;
    bool padded = c->x_stride != e->hidden_size;
    c->x_padded = padded ? carve(&memory, rows * c->x_stride, 1) : NULL;
    c->a = carve(&memory, rows * c->a_stride, 1);
    c->a_scale = carve(&memory, rows, sizeof(float));
    c->x = carve(&memory, rows, sizeof(*c->x));
    c->a_row = carve(&memory, rows, sizeof(*c->a_row));
    c->gate_row = carve(&memory, rows, sizeof(*c->gate_row));
    c->up_row = carve(&memory, rows, sizeof(*c->up_row));
    return memory.used;
}

size_t fs_expert_scratch_bytes(const fs_expert *expert, uint32_t max_rows)
{
    call c;
    return lay_out(expert, max_rows, NULL, &c);
}

static void set_up_rows(call *c)
{
    size_t hidden = c->expert->hidden_size, inter = c->expert->intermediate_size;
    for (uint32_t r = 0; r < c->rows->num_rows; r++) {
        c->gate_row[r] = c->gate + r * c->inter_stride;
        c->up_row[r] = c->up + r * c->inter_stride;
        int8_t *a = c->a + r * c->a_stride;
        memset(a + inter, 0, c->a_stride - inter);
        c->a_row[r] = a;
        c->x[r] = c->rows->x_i8[r];
        if (!c->x_padded) continue;
        int8_t *x = c->x_padded + r * c->x_stride;
        memcpy(x, c->rows->x_i8[r], hidden);
        memset(x + hidden, 0, c->x_stride - hidden);
        c->x[r] = x;
    }
}

/* How many row groups of a matrix are one task; all of them if threads would not pay. */
static uint32_t split(const fs_sub1_matrix *w, uint32_t rows, const fs_pool *pool, uint32_t *num_tasks)
{
    uint32_t groups = w->padded_rows / FS_SUB1_GROUP_ROWS;
    uint64_t by_work = (uint64_t)w->padded_rows * w->padded_cols * rows / MIN_TASK_WORK;
    uint64_t tasks = pool ? (uint64_t)fs_pool_num_threads(pool) * TASKS_PER_THREAD : 1;
    if (tasks > by_work) tasks = by_work;
    if (tasks > groups) tasks = groups;
    if (tasks == 0) tasks = 1;
    uint32_t each = (groups + (uint32_t)tasks - 1) / (uint32_t)tasks;
    *num_tasks = (groups + each - 1) / each;
    return each;
}

/* The groups of task `index`: the last task has what is left. */
static uint32_t task_groups(const fs_sub1_matrix *w, uint32_t each, uint32_t index, uint32_t *first)
{
    uint32_t groups = w->padded_rows / FS_SUB1_GROUP_ROWS;
    *first = index * each;
    return groups - *first < each ? groups - *first : each;
}

static void gate_and_up(void *arg, uint32_t index)
{
    const call *c = arg;
    const fs_sub1_matrix *gate = &c->expert->sub1[FS_PART_GATE], *up = &c->expert->sub1[FS_PART_UP];
    uint32_t first, count = task_groups(gate, c->groups_a_task, index, &first), rows = c->rows->num_rows;
    fs_sub1_matmul_groups(c->sub1, gate, first, count, c->x, c->rows->x_scale, c->gate_row, rows);
    fs_sub1_matmul_groups(c->sub1, up, first, count, c->x, c->rows->x_scale, c->up_row, rows);
    size_t at = (size_t)first * FS_SUB1_GROUP_ROWS;
    for (uint32_t r = 0; r < rows; r++)
        c->kernels->silu_mul(c->gate_row[r] + at, c->up_row[r] + at, c->gate_row[r] + at,
                             (size_t)count * FS_SUB1_GROUP_ROWS);
}

static void down(void *arg, uint32_t index)
{
    const call *c = arg;
    const fs_sub1_matrix *w = &c->expert->sub1[FS_PART_DOWN];
    uint32_t first, count = task_groups(w, c->groups_a_task, index, &first);
    fs_sub1_matmul_groups(c->sub1, w, first, count, c->a_row, c->a_scale, c->rows->out, c->rows->num_rows);
}

static void run_sub1(call *c, fs_pool *pool)
{
    const fs_expert *e = c->expert;
    uint32_t rows = c->rows->num_rows, num_tasks;
    c->sub1 = fs_sub1_kernels_best();
    set_up_rows(c);
    c->groups_a_task = split(&e->sub1[FS_PART_GATE], rows, pool, &num_tasks);
    fs_pool_run(num_tasks > 1 ? pool : NULL, gate_and_up, c, num_tasks);
    for (uint32_t r = 0; r < rows; r++)
        c->a_scale[r] = c->kernels->quantize_i8(c->gate_row[r], c->a + r * c->a_stride, e->intermediate_size);
    c->groups_a_task = split(&e->sub1[FS_PART_DOWN], rows, pool, &num_tasks);
    fs_pool_run(num_tasks > 1 ? pool : NULL, down, c, num_tasks);
}

static void run_dense(call *c, fs_pool *pool)
{
    const fs_expert *e = c->expert;
    size_t hidden = e->hidden_size, rows = c->rows->num_rows;
    for (size_t r = 0; r < rows; r++)
        memcpy(c->x_f32 + r * hidden, c->rows->x_f32[r], hidden * sizeof(float));
    fs_matmul(pool, c->kernels, &e->dense[FS_PART_GATE], c->x_f32, hidden, c->gate, c->inter_stride, rows);
    fs_matmul(pool, c->kernels, &e->dense[FS_PART_UP], c->x_f32, hidden, c->up, c->inter_stride, rows);
    for (size_t r = 0; r < rows; r++) {
        float *gate = c->gate + r * c->inter_stride;
        c->kernels->silu_mul(gate, c->up + r * c->inter_stride, gate, e->intermediate_size);
    }
    fs_matmul(pool, c->kernels, &e->dense[FS_PART_DOWN], c->gate, c->inter_stride, c->y_f32, hidden, rows);
    for (size_t r = 0; r < rows; r++) memcpy(c->rows->out[r], c->y_f32 + r * hidden, hidden * sizeof(float));
}

void fs_expert_run(const fs_expert *expert, const fs_expert_rows *rows, void *scratch, fs_pool *pool)
{
    FS_ASSERT(rows->num_rows >= 1 && rows->num_rows <= FS_EXPERT_MAX_ROWS);
    FS_ASSERT((uintptr_t)scratch % ALIGN == 0);
    FS_ASSERT(expert->activation == FS_ACT_SILU);
    call c = {.expert = expert, .rows = rows, .kernels = fs_kernels_best()};
    lay_out(expert, rows->num_rows, scratch, &c);
    if (expert->storage == FS_EXPERTS_SUB1)
        run_sub1(&c, pool);
    else
        run_dense(&c, pool);
}
