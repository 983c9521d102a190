/* common/sub1/expert.c: one expert over a batch of rows, its matrices' rows divided over a pool. */
#include <string.h>

#include "model/names.h"
#include "sub1/expert.h"
#include "sub1/sub1_int.h"

enum {
    ALIGN = 64,
    TASKS_PER_THREAD = 4,      /* at most, unless they are long: evens out threads of unequal speed */
    MIN_SHARED_WORK = 1 << 20, /* weights times rows of x of a phase: with less, two threads gain nothing */
    MIN_TASK_WORK =
        3 << 17, /* half a microsecond; taking a task costs a tenth, as two cores fight for a counter */
    MAX_TASK_WORK = 1 << 24, /* what others may have to wait for at the end of a phase: about 30 us */
    SCATTERED_ROWS = 256,    /* within which a scattered format's rows change places */
    OWN_BYTES =
        16 *
        1024, /* rows of x so small are arranged by each task for itself: sooner done than brought from another core */
    DENSE_ROWS = 16, /* whole register tiles */
    DENSE_WORK = 16, /* a dense weight takes as long as so many compressed ones */
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

/* What a call needs beside its arguments; lies at the front of its scratch. Strides in elements. */
typedef struct {
    const fs_expert *expert;
    const fs_expert_rows *rows;
    const fs_kernels *kernels;
    uint32_t first_quantum, first_tasks; /* of gate and up: rows that a task has a multiple of, and tasks */
    uint32_t down_quantum, down_tasks;
    bool own_x;
    float *gate, *up; /* [rows][inter_stride]; the activations replace up */
    size_t inter_stride;

    /* sub1 */
    const fs_sub1_kernels *sub1;
    product_rows x, a;
    float **gate_row, **up_row, **out_row;
    float *out; /* [rows][out_stride] if the kernels write more than the caller's rows have */
    size_t out_stride;

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
    carve(&memory, 1, sizeof(*c));
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
    for (uint32_t r = 0; r < c->rows->num_rows; r++) {
        c->gate_row[r] = c->gate + r * c->inter_stride;
        c->up_row[r] = c->up + r * c->inter_stride;
        c->out_row[r] = c->out ? c->out + r * c->out_stride : c->rows->out[r];
        c->a.row[r] = c->a.copies + (size_t)r * c->a.padded_cols;
        c->x.row[r] = c->x.copies ? c->x.copies + (size_t)r * c->x.padded_cols : c->rows->x_i8[r];
        c->x.scale[r] = c->rows->x_scale[r];
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

static uint32_t divide_up(uint64_t a, uint64_t by)
{
    return (uint32_t)((a + by - 1) / by);
}

/* How many tasks a phase is whose matrices have num_rows rows and so much work in all. Equal ones but for the last; as many as cost
 * nothing: when all threads run alike, the one with most quanta has no more than with any other number of tasks. */
static uint32_t count_tasks(uint32_t threads, uint64_t work, uint32_t num_rows, uint32_t quantum)
{
    uint32_t quanta = divide_up(num_rows, quantum), best = 1, fewest = UINT32_MAX;
    if (threads <= 1 || work < MIN_SHARED_WORK) return 1;
    uint32_t most = (uint32_t)(work / MAX_TASK_WORK / threads);
    if (most < TASKS_PER_THREAD) most = TASKS_PER_THREAD;
    for (uint32_t k = 1; k <= most && k <= quanta; k++) {
        uint32_t each = divide_up(quanta, (uint64_t)threads * k), tasks = divide_up(quanta, each);
        uint32_t busiest = divide_up(tasks, threads) * each;
        if (busiest > fewest || (k > 1 && work / tasks < MIN_TASK_WORK)) continue;
        best = tasks;
        fewest = busiest;
    }
    return best;
}

/* A task's rows of a matrix, which has num_rows of them. */
typedef struct {
    uint32_t first, count;
} row_range;

static row_range range_of(uint32_t num_rows, uint32_t quantum, uint32_t num_tasks, uint32_t index)
{
    uint32_t each = divide_up(divide_up(num_rows, quantum), num_tasks) * quantum, first = each * index;
    return (row_range){first, num_rows - first < each ? num_rows - first : each};
}

static void multiply(const call *c, const fs_sub1_matrix *w, row_range range, const fs_sub1_x *x,
                     float *const *y)
{
    uint32_t first = range.first / w->group_rows;
    uint32_t end = (range.first + range.count + w->group_rows - 1) / w->group_rows;
    fs_sub1_multiply(c->sub1, w, first, end - first, x, y);
}

static void gate_and_up(void *arg, uint32_t index)
{
    const call *c = arg;
    const fs_expert *e = c->expert;
    _Alignas(ALIGN) uint8_t own[OWN_BYTES];
    fs_sub1_x x = rows_for_kernels(c, &c->x);
    if (c->own_x) {
        x.arranged = own;
        for (uint32_t r = 0; r < x.num_rows && c->sub1->arrange; r += fs_sub1_tile(x.num_rows, r))
            c->sub1->arrange(&x, r, own);
    }
    row_range range = range_of(e->intermediate_size, c->first_quantum, c->first_tasks, index);
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
    row_range range = range_of(c->expert->hidden_size, c->down_quantum, c->down_tasks, index);
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
    size_t hidden = c->expert->hidden_size;
    uint32_t first = tile_first(c->rows->num_rows, index), count = fs_sub1_tile(c->rows->num_rows, first);
    for (uint32_t r = first; r < first + count && c->x.copies; r++) {
        int8_t *x = c->x.copies + (size_t)r * c->x.padded_cols;
        memcpy(x, c->rows->x_i8[r], hidden);
        memset(x + hidden, 0, c->x.padded_cols - hidden);
    }
    const fs_sub1_matrix *gate = gate_of(c->expert), *up = &c->expert->sub1[FS_PART_UP];
    arrange(c, &c->x, gate->format == FS_SUB1_BLOCKED ? gate : up, first);
}

static void quantise(void *arg, uint32_t index)
{
    const call *c = arg;
    size_t inter = c->expert->intermediate_size;
    uint32_t first = tile_first(c->rows->num_rows, index), count = fs_sub1_tile(c->rows->num_rows, first);
    for (uint32_t r = first; r < first + count; r++) {
        int8_t *a = c->a.copies + (size_t)r * c->a.padded_cols;
        c->a.scale[r] = c->kernels->quantize_i8(c->up_row[r], a, inter);
        memset(a + inter, 0, c->a.padded_cols - inter);
    }
    arrange(c, &c->a, &c->expert->sub1[FS_PART_DOWN], first);
}

static uint64_t weights_of(const fs_sub1_matrix *w)
{
    return (uint64_t)w->rows * w->cols;
}

static uint32_t plan_sub1(call *c, uint32_t threads, fs_phase phase[FS_EXPERT_PHASES])
{
    const fs_expert *e = c->expert;
    const fs_sub1_matrix *up = &e->sub1[FS_PART_UP], *w_down = &e->sub1[FS_PART_DOWN];
    uint64_t rows = c->rows->num_rows,
             first = weights_of(up) + (e->no_gate ? 0 : weights_of(&e->sub1[FS_PART_GATE]));
    uint32_t tiles = count_tiles(c->rows->num_rows);
    c->sub1 = fs_sub1_kernels_best();
    set_up_rows(c);
    c->first_quantum = larger(quantum(gate_of(e)), quantum(up)); /* each divides the other */
    c->down_quantum = quantum(w_down);
    c->first_tasks = count_tasks(threads, first * rows, e->intermediate_size, c->first_quantum);
    c->down_tasks = count_tasks(threads, weights_of(w_down) * rows, e->hidden_size, c->down_quantum);
    c->own_x = c->first_tasks > 1 && c->first_tasks <= threads * TASKS_PER_THREAD && !c->x.copies &&
               fs_sub1_arranged_bytes(c->rows->num_rows, c->x.padded_cols) <= OWN_BYTES;
    uint32_t num = 0;
    if (!c->own_x) phase[num++] = (fs_phase){arrange_x, tiles};
    phase[num++] = (fs_phase){gate_and_up, c->first_tasks};
    phase[num++] = (fs_phase){quantise, tiles};
    phase[num++] = (fs_phase){down, c->down_tasks};
    return num;
}

/* ---- dense ---- */

static void copy_x(void *arg, uint32_t index)
{
    const call *c = arg;
    size_t hidden = c->expert->hidden_size;
    uint32_t first = tile_first(c->rows->num_rows, index), count = fs_sub1_tile(c->rows->num_rows, first);
    for (uint32_t r = first; r < first + count; r++)
        memcpy(c->x_f32 + r * hidden, c->rows->x_f32[r], hidden * sizeof(float));
}

static void dense_gate_and_up(void *arg, uint32_t index)
{
    const call *c = arg;
    const fs_expert *e = c->expert;
    size_t hidden = e->hidden_size, rows = c->rows->num_rows, stride = c->inter_stride;
    row_range range = range_of(e->intermediate_size, c->first_quantum, c->first_tasks, index);
    if (!e->no_gate)
        fs_matmul_outs(c->kernels, &e->dense[FS_PART_GATE], range.first, range.count, c->x_f32, hidden,
                       c->gate, stride, rows);
    fs_matmul_outs(c->kernels, &e->dense[FS_PART_UP], range.first, range.count, c->x_f32, hidden, c->up,
                   stride, rows);
    for (size_t r = 0; r < rows; r++)
        activate(c, e->no_gate ? NULL : c->gate + r * stride, c->up + r * stride, range.first, range.count);
}

static void dense_down(void *arg, uint32_t index)
{
    const call *c = arg;
    const fs_expert *e = c->expert;
    size_t hidden = e->hidden_size, rows = c->rows->num_rows;
    row_range range = range_of(e->hidden_size, c->down_quantum, c->down_tasks, index);
    fs_matmul_outs(c->kernels, &e->dense[FS_PART_DOWN], range.first, range.count, c->up, c->inter_stride,
                   c->y_f32, hidden, rows);
    for (size_t r = 0; r < rows; r++) {
        float *out = c->rows->out[r];
        memcpy(out + range.first, c->y_f32 + r * hidden + range.first, range.count * sizeof(float));
        add_bias(&e->bias[FS_PART_DOWN], out, range.first, range.count);
    }
}

static uint32_t plan_dense(call *c, uint32_t threads, fs_phase phase[FS_EXPERT_PHASES])
{
    const fs_expert *e = c->expert;
    uint64_t work = (uint64_t)e->hidden_size * e->intermediate_size * c->rows->num_rows * DENSE_WORK;
    c->first_quantum = c->down_quantum = DENSE_ROWS;
    c->first_tasks = count_tasks(threads, e->no_gate ? work : 2 * work, e->intermediate_size, DENSE_ROWS);
    c->down_tasks = count_tasks(threads, work, e->hidden_size, DENSE_ROWS);
    phase[0] = (fs_phase){copy_x, count_tiles(c->rows->num_rows)};
    phase[1] = (fs_phase){dense_gate_and_up, c->first_tasks};
    phase[2] = (fs_phase){dense_down, c->down_tasks};
    return 3;
}

uint32_t fs_expert_plan(const fs_expert *expert, const fs_expert_rows *rows, void *scratch, uint32_t threads,
                        fs_phase phase[FS_EXPERT_PHASES])
{
    FS_ASSERT(rows->num_rows >= 1 && rows->num_rows <= FS_EXPERT_MAX_ROWS);
    FS_ASSERT((uintptr_t)scratch % ALIGN == 0);
    call *c = scratch;
    *c = (call){.expert = expert, .rows = rows, .kernels = fs_kernels_best()};
    lay_out(expert, rows->num_rows, scratch, c);
    return expert->storage == FS_EXPERTS_SUB1 ? plan_sub1(c, threads, phase) : plan_dense(c, threads, phase);
}

void fs_expert_run(const fs_expert *expert, const fs_expert_rows *rows, void *scratch, fs_pool *pool)
{
    fs_phase phase[FS_EXPERT_PHASES];
    uint32_t num = fs_expert_plan(expert, rows, scratch, pool ? fs_pool_num_threads(pool) : 1, phase);
    fs_pool_run_phases(pool, phase, num, scratch);
}
