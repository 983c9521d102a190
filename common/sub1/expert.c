/* common/sub1/expert.c: one expert over a batch of rows, its matrices' rows divided over a pool. */
#include <string.h>

#include "model/names.h"
#include "sub1/expert.h"
#include "sub1/sub1_int.h"

enum {
    ALIGN = 64,
    TASKS_PER_THREAD = 4,       /* evens out threads of unequal speed */
    MIN_TASK_WORK = 512 * 1024, /* weights times rows of x: about the cost of waking a thread */
    SCATTERED_ROWS = 256,       /* within which a scattered format's rows change places */
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

/* Rows of x for a product: as the caller has them, or copies with the padding that a kernel reads; and what kernels make of them. */
typedef struct {
    const int8_t **row;
    int8_t *copies; /* [rows][padded_cols] */
    float *scale;
    uint8_t *arranged;
    uint32_t padded_cols;
} product_rows;

/* What a call needs beside its arguments. Strides in elements. */
typedef struct {
    const fs_expert *expert;
    const fs_expert_rows *rows;
    const fs_kernels *kernels;
    float *gate, *up; /* [rows][inter_stride]; the activations replace up */
    size_t inter_stride;

    /* sub1 */
    const fs_sub1_kernels *sub1;
    product_rows x, a;
    float **gate_row, **up_row, **out_row;
    float *out; /* [rows][out_stride] if the kernels write more than the caller's rows have */
    size_t out_stride;
    uint32_t num_tasks;

    /* dense */
    float *x_f32, *y_f32; /* [rows][hidden_size]: fs_matmul takes adjacent rows */
} call;

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void carve_rows(carver *memory, uint32_t rows, product_rows *p)
{
    p->row = carve(memory, rows, sizeof(*p->row));
    p->scale = carve(memory, rows, sizeof(float));
    p->arranged = carve(memory, fs_sub1_arranged_bytes(rows, p->padded_cols), 1);
}

/* Of the first products; without a gate, up stands for both. */
static const fs_sub1_matrix *gate_of(const fs_expert *e)
{
    return &e->sub1[e->no_gate ? FS_PART_UP : FS_PART_GATE];
}

static void lay_out_sub1(const fs_expert *e, uint32_t rows, carver *memory, call *c)
{
    const fs_sub1_matrix *gate = gate_of(e), *up = &e->sub1[FS_PART_UP], *down = &e->sub1[FS_PART_DOWN];
    c->x.padded_cols = larger(gate->padded_cols, up->padded_cols);
    c->a.padded_cols = down->padded_cols;
    carve_rows(memory, rows, &c->x);
    carve_rows(memory, rows, &c->a);
    bool padded = c->x.padded_cols != e->hidden_size;
    c->x.copies = padded ? carve(memory, (size_t)rows * c->x.padded_cols, 1) : NULL;
    c->a.copies = carve(memory, (size_t)rows * c->a.padded_cols, 1);
    c->gate_row = carve(memory, rows, sizeof(float *));
    c->up_row = carve(memory, rows, sizeof(float *));
    c->out_row = carve(memory, rows, sizeof(float *));
    c->out_stride = !down->scattered && down->padded_rows != e->hidden_size ? down->padded_rows : 0;
    c->out = c->out_stride ? carve(memory, rows * c->out_stride, sizeof(float)) : NULL;
}

static size_t lay_out(const fs_expert *e, uint32_t rows, uint8_t *scratch, call *c)
{
    carver memory = {scratch, 0};
    bool sub1 = e->storage == FS_EXPERTS_SUB1;
    c->inter_stride = fs_sub1_round_up(e->intermediate_size,
                                       FS_BLOCKED_UNIT_COLS); /* what blocked kernels write */
    if (!e->no_gate) c->gate = carve(&memory, rows * c->inter_stride, sizeof(float));
    c->up = carve(&memory, rows * c->inter_stride, sizeof(float));
    if (sub1) {
        lay_out_sub1(e, rows, &memory, c);
        return memory.used;
    }
    c->x_f32 = carve(&memory, (size_t)rows * e->hidden_size, sizeof(float));
    c->y_f32 = carve(&memory, (size_t)rows * e->hidden_size, sizeof(float));
    return memory.used;
}

size_t fs_expert_scratch_bytes(const fs_expert *expert, uint32_t max_rows)
{
    call c = {0};
    size_t most = lay_out(expert, max_rows, NULL, &c);
    size_t few = lay_out(expert, max_rows < 3 ? max_rows : 3, NULL,
                         &c); /* which are arranged in more memory */
    return most > few ? most : few;
}

static void add_bias(const fs_expert_bias *bias, float *y, size_t first, size_t count)
{
    if (!bias->data) return;
    const float *f32 = bias->data;
    const fs_bf16 *bf16 = bias->data;
    for (size_t i = first; i < first + count; i++) y[i] += bias->is_bf16 ? fs_bf16_to_f32(bf16[i]) : f32[i];
}

/* Gate and up have their sums in elements [first, first + count) of a row: biases, and the activations in place of up. */
static void activate(const call *c, float *gate, float *up, size_t first, size_t count)
{
    const fs_expert *e = c->expert;
    add_bias(&e->bias[FS_PART_UP], up, first, count);
    if (!e->no_gate) add_bias(&e->bias[FS_PART_GATE], gate, first, count);
    fs_expert_activate(e, c->kernels, e->no_gate ? NULL : gate + first, up + first, up + first, count);
}

static void set_up_rows(call *c)
{
    size_t hidden = c->expert->hidden_size, inter = c->expert->intermediate_size;
    for (uint32_t r = 0; r < c->rows->num_rows; r++) {
        c->gate_row[r] = c->gate + r * c->inter_stride;
        c->up_row[r] = c->up + r * c->inter_stride;
        c->out_row[r] = c->out ? c->out + r * c->out_stride : c->rows->out[r];
        int8_t *a = c->a.copies + (size_t)r * c->a.padded_cols;
        memset(a + inter, 0, c->a.padded_cols - inter);
        c->a.row[r] = a;
        c->x.scale[r] = c->rows->x_scale[r];
        c->x.row[r] = c->rows->x_i8[r];
        if (!c->x.copies) continue;
        int8_t *x = c->x.copies + (size_t)r * c->x.padded_cols;
        memcpy(x, c->rows->x_i8[r], hidden);
        memset(x + hidden, 0, c->x.padded_cols - hidden);
        c->x.row[r] = x;
    }
}

static fs_sub1_x rows_for_kernels(const call *c, const product_rows *p)
{
    return (fs_sub1_x){c->rows->num_rows, p->padded_cols, p->row, p->scale, p->arranged};
}

/* Rows of a matrix that a task cannot divide further, and in which no other task writes. */
static uint32_t quantum(const fs_sub1_matrix *w)
{
    return w->scattered ? SCATTERED_ROWS : w->group_rows;
}

/* How many tasks a product of `rows` rows is, whose matrices' rows come in ranges of whole quanta; one if threads would not pay. */
static uint32_t count_tasks(const call *c, const fs_pool *pool, uint64_t weights, uint32_t quanta)
{
    uint64_t by_work = weights * c->rows->num_rows / MIN_TASK_WORK;
    uint64_t tasks = pool ? (uint64_t)fs_pool_num_threads(pool) * TASKS_PER_THREAD : 1;
    if (tasks > by_work) tasks = by_work;
    if (tasks > quanta) tasks = quanta;
    return tasks ? (uint32_t)tasks : 1;
}

/* A task's rows of a matrix, which has num_rows of them: ranges differ by at most one quantum. */
typedef struct {
    uint32_t first, count;
} row_range;

static row_range range_of(uint32_t num_rows, uint32_t each, uint32_t num_tasks, uint32_t index)
{
    uint64_t quanta = (num_rows + each - 1) / each;
    uint32_t first = (uint32_t)(quanta * index / num_tasks) * each;
    uint32_t end = (uint32_t)(quanta * (index + 1) / num_tasks) * each;
    return (row_range){first, (end < num_rows ? end : num_rows) - first};
}

static void multiply(const call *c, const fs_sub1_matrix *w, row_range range, const fs_sub1_x *x,
                     float *const *y)
{
    uint32_t first = range.first / w->group_rows;
    uint32_t end = (range.first + range.count + w->group_rows - 1) / w->group_rows;
    fs_sub1_multiply(c->sub1, w, first, end - first, x, y);
}

static uint32_t first_quantum(const fs_expert *e)
{
    return larger(quantum(gate_of(e)), quantum(&e->sub1[FS_PART_UP])); /* each divides the other */
}

static void gate_and_up(void *arg, uint32_t index)
{
    const call *c = arg;
    const fs_expert *e = c->expert;
    const fs_sub1_x x = rows_for_kernels(c, &c->x);
    row_range range = range_of(e->intermediate_size, first_quantum(e), c->num_tasks, index);
    if (!e->no_gate) multiply(c, &e->sub1[FS_PART_GATE], range, &x, c->gate_row);
    multiply(c, &e->sub1[FS_PART_UP], range, &x, c->up_row);
    for (uint32_t r = 0; r < x.num_rows; r++)
        activate(c, c->gate_row[r], c->up_row[r], range.first, range.count);
}

static void down(void *arg, uint32_t index)
{
    const call *c = arg;
    const fs_sub1_matrix *w = &c->expert->sub1[FS_PART_DOWN];
    const fs_sub1_x x = rows_for_kernels(c, &c->a);
    row_range range = range_of(c->expert->hidden_size, quantum(w), c->num_tasks, index);
    multiply(c, w, range, &x, c->out_row);
    for (uint32_t r = 0; r < x.num_rows; r++) {
        float *out = c->rows->out[r];
        if (c->out) memcpy(out + range.first, c->out_row[r] + range.first, range.count * sizeof(float));
        add_bias(&c->expert->bias[FS_PART_DOWN], out, range.first, range.count);
    }
}

/* A task of these two is a tile of rows; all but the last have 8. */
static uint32_t count_tiles(uint32_t num_rows)
{
    return num_rows / 8 + (uint32_t)__builtin_popcount(num_rows % 8);
}

static uint32_t tile_first(uint32_t num_rows, uint32_t index)
{
    uint32_t first = 0;
    for (uint32_t i = 0; i < index; i++) first += fs_sub1_tile(num_rows, first);
    return first;
}

static void arrange(const call *c, const product_rows *p, const fs_sub1_matrix *w, uint32_t first)
{
    const fs_sub1_x x = rows_for_kernels(c, p);
    if (c->sub1->arrange && w->format == FS_SUB1_BLOCKED) c->sub1->arrange(&x, first, p->arranged);
}

static void arrange_x(void *arg, uint32_t index)
{
    const call *c = arg;
    const fs_sub1_matrix *gate = gate_of(c->expert), *up = &c->expert->sub1[FS_PART_UP];
    arrange(c, &c->x, gate->format == FS_SUB1_BLOCKED ? gate : up, tile_first(c->rows->num_rows, index));
}

static void quantise(void *arg, uint32_t index)
{
    const call *c = arg;
    uint32_t first = tile_first(c->rows->num_rows, index);
    for (uint32_t r = first; r < first + fs_sub1_tile(c->rows->num_rows, first); r++)
        c->a.scale[r] = c->kernels->quantize_i8(c->up_row[r], c->a.copies + (size_t)r * c->a.padded_cols,
                                                c->expert->intermediate_size);
    arrange(c, &c->a, &c->expert->sub1[FS_PART_DOWN], first);
}

static uint64_t weights_of(const fs_sub1_matrix *w)
{
    return (uint64_t)w->rows * w->cols;
}

static void run_phase(call *c, fs_pool *pool, void (*fn)(void *, uint32_t), uint32_t num_tasks)
{
    c->num_tasks = num_tasks;
    fs_pool_run(num_tasks > 1 ? pool : NULL, fn, c, num_tasks);
}

static void run_sub1(call *c, fs_pool *pool)
{
    const fs_expert *e = c->expert;
    const fs_sub1_matrix *up = &e->sub1[FS_PART_UP], *w_down = &e->sub1[FS_PART_DOWN];
    uint32_t each = first_quantum(e), tiles = count_tiles(c->rows->num_rows);
    uint64_t weights = weights_of(up) + (e->no_gate ? 0 : weights_of(&e->sub1[FS_PART_GATE]));
    c->sub1 = fs_sub1_kernels_best();
    set_up_rows(c);
    run_phase(c, pool, arrange_x, tiles);
    run_phase(c, pool, gate_and_up, count_tasks(c, pool, weights, (up->rows + each - 1) / each));
    run_phase(c, pool, quantise, tiles);
    each = quantum(w_down);
    run_phase(c, pool, down, count_tasks(c, pool, weights_of(w_down), (w_down->rows + each - 1) / each));
}

static void run_dense(call *c, fs_pool *pool)
{
    const fs_expert *e = c->expert;
    size_t hidden = e->hidden_size, rows = c->rows->num_rows, stride = c->inter_stride;
    for (size_t r = 0; r < rows; r++)
        memcpy(c->x_f32 + r * hidden, c->rows->x_f32[r], hidden * sizeof(float));
    if (!e->no_gate)
        fs_matmul(pool, c->kernels, &e->dense[FS_PART_GATE], c->x_f32, hidden, c->gate, stride, rows);
    fs_matmul(pool, c->kernels, &e->dense[FS_PART_UP], c->x_f32, hidden, c->up, stride, rows);
    for (size_t r = 0; r < rows; r++)
        activate(c, e->no_gate ? NULL : c->gate + r * stride, c->up + r * stride, 0, e->intermediate_size);
    fs_matmul(pool, c->kernels, &e->dense[FS_PART_DOWN], c->up, stride, c->y_f32, hidden, rows);
    for (size_t r = 0; r < rows; r++) {
        memcpy(c->rows->out[r], c->y_f32 + r * hidden, hidden * sizeof(float));
        add_bias(&e->bias[FS_PART_DOWN], c->rows->out[r], 0, hidden);
    }
}

void fs_expert_run(const fs_expert *expert, const fs_expert_rows *rows, void *scratch, fs_pool *pool)
{
    FS_ASSERT(rows->num_rows >= 1 && rows->num_rows <= FS_EXPERT_MAX_ROWS);
    FS_ASSERT((uintptr_t)scratch % ALIGN == 0);
    call c = {.expert = expert, .rows = rows, .kernels = fs_kernels_best()};
    lay_out(expert, rows->num_rows, scratch, &c);
    if (expert->storage == FS_EXPERTS_SUB1)
        run_sub1(&c, pool);
    else
        run_dense(&c, pool);
}
