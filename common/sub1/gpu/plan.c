/* common/sub1/gpu/plan.c: a run's memory and launches: which kernels, over which lists, how many blocks. Integer sums are exact, so
 * columns may be split over as many blocks as keep the device busy: the bits do not change. */
#include <assert.h>
#include <string.h>

#include "gpu/device_int.h"
#include "model/names.h"

enum {
    BLOCKS_AN_SM = 6, /* of the sums: what fits there (docs/gpu.md), so that one wave fills the device */
    MIN_UNITS = 2,    /* of a block: below, filling its table is most of the work */
    MAX_UNITS = 32,   /* of a block: 32 KiB of shared memory with two quads of x */
    NUM_TILES = 3,    /* kernels of a format: x1, x4, x8 */
};

static_assert((int)FS_GPU_SILU == FS_ACT_SILU && (int)FS_GPU_GELU == FS_ACT_GELU &&
                  (int)FS_GPU_GELU_TANH == FS_ACT_GELU_TANH && (int)FS_GPU_RELU == FS_ACT_RELU &&
                  (int)FS_GPU_SWIGLU_CLAMPED == FS_ACT_SWIGLU_CLAMPED,
              "kernels know the activations by these numbers");

/* Where the parts of one item lie in the workspace. */
typedef struct {
    size_t x, x_scale, sums[FS_GPU_PARTS], a_max, a, a_i8, out;
    uint32_t x_stride, a_stride;
} places;

static size_t carve(size_t *at, size_t bytes)
{
    size_t place = *at;
    *at += (bytes + FS_GPU_ALIGN - 1) / FS_GPU_ALIGN * FS_GPU_ALIGN;
    return place;
}

static uint32_t blocks_for(uint32_t n, uint32_t each)
{
    return (n + each - 1) / each;
}

static const fs_sub1_matrix *matrix_of(const fs_device_item *item, uint32_t part)
{
    return &item->expert->shape.sub1[part];
}

/* The gate, where there is one. */
static uint32_t first_part(const fs_device_item *item)
{
    return item->expert->shape.no_gate ? FS_PART_UP : FS_PART_GATE;
}

static uint32_t padded_x(const fs_device_item *item)
{
    uint32_t gate = matrix_of(item, first_part(item))->padded_cols,
             up = matrix_of(item, FS_PART_UP)->padded_cols;
    return gate > up ? gate : up;
}

/* The five regions of a workspace, each filled item by item in the same order. */
typedef struct {
    size_t in, zero, work, out;
} cursor;

static places place(const fs_device_item *item, cursor *at)
{
    places p = {.x_stride = padded_x(item), .a_stride = matrix_of(item, FS_PART_DOWN)->padded_cols};
    size_t num_x = item->rows.num_rows;
    p.x = carve(&at->in, num_x * p.x_stride);
    p.x_scale = carve(&at->in, num_x * sizeof(float));
    for (uint32_t part = first_part(item); part < FS_GPU_PARTS; part++)
        p.sums[part] = carve(&at->zero, num_x * 2 * matrix_of(item, part)->padded_rows * sizeof(int32_t));
    p.a_max = carve(&at->zero, num_x * sizeof(uint32_t));
    p.a = carve(&at->work, num_x * p.a_stride * sizeof(float));
    p.a_i8 = carve(&at->work, num_x * p.a_stride);
    p.out = at->out;
    at->out += num_x * item->expert->shape.hidden_size *
               sizeof(float); /* close together: one copy brings them */
    return p;
}

static size_t product_list_bytes(uint32_t num_items)
{
    size_t at = 0;
    carve(&at, sizeof(fs_gpu_product) * FS_GPU_PARTS * num_items);
    return at;
}

static size_t item_list_bytes(uint32_t num_items)
{
    size_t at = 0;
    carve(&at, sizeof(fs_gpu_item) * num_items);
    return at;
}

/* Where the regions begin: found by placing all items once. */
static cursor regions(const fs_device_item *items, uint32_t num_items, fs_gpu_plan *plan)
{
    cursor end = {.in = product_list_bytes(num_items) + item_list_bytes(num_items)};
    for (uint32_t i = 0; i < num_items; i++) place(&items[i], &end);
    memset(plan, 0, sizeof(*plan));
    plan->in_bytes = end.in;
    plan->zero = end.in;
    plan->zero_bytes = end.zero;
    plan->out = end.in + end.zero + end.work;
    plan->out_bytes = end.out;
    plan->total = plan->out + end.out;
    return (cursor){.in = product_list_bytes(num_items) + item_list_bytes(num_items),
                    .zero = plan->zero,
                    .work = plan->zero + plan->zero_bytes,
                    .out = plan->out};
}

void fs_gpu_plan_sizes(const fs_device_item *items, uint32_t num_items, fs_gpu_plan *plan)
{
    regions(items, num_items, plan);
}

bool fs_gpu_kernel_for(const fs_sub1_matrix *m, uint32_t num_x, fs_gpu_kernel *kernel, uint32_t *x_a_tile)
{
    static const uint32_t tiles[NUM_TILES] = {1, 4, 8};
    static const fs_gpu_kernel blocked[] = {FS_GPU_BLOCKED_1_16_X1, FS_GPU_BLOCKED_2_16_X1,
                                            FS_GPU_BLOCKED_3_16_X1};
    uint32_t tile = num_x == 1 ? 0 : num_x <= 4 ? 1 : 2;
    if (m->format == FS_SUB1_FREE) {
        if (tile == 2) tile = 1;
        *kernel = (fs_gpu_kernel)(FS_GPU_FREE_X1 + tile);
    } else {
        if (m->format != FS_SUB1_BLOCKED || m->n < 1 || m->n > 3 || m->m != 16) return false;
        *kernel = (fs_gpu_kernel)(blocked[m->n - 1] + tile);
    }
    *x_a_tile = tiles[tile];
    return true;
}

/* Columns a block, in units: all, unless the phase has too few blocks to fill the device. */
static uint32_t units_a_split(const fs_sub1_matrix *m, uint32_t num_units, uint32_t splits)
{
    if (m->format == FS_SUB1_FREE)
        return num_units; /* a lane walks its row from the first column to the last */
    uint32_t exact = FS_GPU_MAX_NONZEROS / (4u * m->n), most = exact < MAX_UNITS ? exact : MAX_UNITS;
    uint32_t units = blocks_for(num_units, splits);
    if (units < MIN_UNITS) units = MIN_UNITS;
    if (units > most) units = blocks_for(num_units, blocks_for(num_units, most)); /* evenly */
    return units < num_units ? units : num_units;
}

static uint32_t row_and_x_tiles(const fs_device_item *item, uint32_t part)
{
    fs_gpu_kernel kernel;
    uint32_t x_a_tile = 1;
    FS_ASSERT(fs_gpu_kernel_for(matrix_of(item, part), item->rows.num_rows, &kernel, &x_a_tile));
    return blocks_for(matrix_of(item, part)->padded_rows, FS_BLOCK_DIM) *
           blocks_for(item->rows.num_rows, x_a_tile);
}

/* Everything that filling in needs. */
typedef struct {
    const fs_device_item *items;
    uint32_t num_items, num_sms;
    fs_gpu_address workspace;
    uint8_t *in;
    fs_gpu_plan *plan;
    cursor start;      /* before the first item */
    size_t product_at; /* where the next product is written */
} planner;

/* Device addresses as the pointers that kernels see. */
static void *at(const planner *p, size_t offset)
{
    return (void *)(uintptr_t)(p->workspace + offset);
}

static const void *of_expert(const fs_device_expert *expert, size_t offset)
{
    return (const void *)(uintptr_t)(expert->memory + offset);
}

static fs_gpu_launch *new_launch(planner *p, fs_gpu_kernel kernel, size_t list)
{
    FS_ASSERT(p->plan->num_launches < FS_GPU_MAX_LAUNCHES);
    fs_gpu_launch *launch = &p->plan->launch[p->plan->num_launches++];
    *launch = (fs_gpu_launch){.kernel = kernel, .list = list};
    return launch;
}

/* Appends the product of one part to a launch, whose blocks are one range after the other. */
static void add_product(planner *p, fs_gpu_launch *launch, const fs_device_item *item, const places *place,
                        uint32_t part, uint32_t x_a_tile, uint32_t splits)
{
    const fs_sub1_matrix *m = matrix_of(item, part);
    uint32_t num_x = item->rows.num_rows, num_units = m->padded_cols / FS_GPU_UNIT_COLS;
    fs_gpu_product product = {.payload = of_expert(item->expert, item->expert->payload_at[part]),
                              .x = at(p, part == FS_PART_DOWN ? place->a_i8 : place->x),
                              .sums = at(p, place->sums[part]),
                              .num_x = num_x,
                              .x_stride = part == FS_PART_DOWN ? place->a_stride : place->x_stride,
                              .rows = m->rows,
                              .padded_rows = m->padded_rows,
                              .num_units = num_units,
                              .cols_units = blocks_for(m->cols, FS_GPU_UNIT_COLS),
                              .first_block = launch->num_blocks,
                              .x_tiles = blocks_for(num_x, x_a_tile),
                              .row_tiles = blocks_for(m->padded_rows, FS_BLOCK_DIM),
                              .units_a_split = units_a_split(m, num_units, splits)};
    uint32_t table = 0;
    if (m->format == FS_SUB1_BLOCKED) {
        product.group_bytes = (uint32_t)(m->payload_bytes / (m->padded_rows / FS_GPU_GROUP_ROWS));
        product.scale_bytes = product.group_bytes - num_units * FS_GPU_UNIT_BYTES(m->n);
        table = product.units_a_split * FS_GPU_TABLE_UNIT * (x_a_tile == 8 ? 2 : 1);
    }
    if (table > launch->shared_bytes) launch->shared_bytes = table;
    launch->num_blocks += product.x_tiles * product.row_tiles * blocks_for(num_units, product.units_a_split);
    launch->count++;
    memcpy(p->in + p->product_at, &product, sizeof(product));
    p->product_at += sizeof(product);
}

/* The products that one kernel does in a phase: parts first to last of every expert. */
static void add_products(planner *p, fs_gpu_kernel kernel, uint32_t first, uint32_t last, uint32_t splits)
{
    fs_gpu_launch *launch = NULL;
    cursor c = p->start;
    for (uint32_t i = 0; i < p->num_items; i++) {
        places here = place(&p->items[i], &c);
        for (uint32_t part = first; part <= last; part++) {
            if (part < first_part(&p->items[i])) continue;
            fs_gpu_kernel its;
            uint32_t x_a_tile = 1;
            FS_ASSERT(
                fs_gpu_kernel_for(matrix_of(&p->items[i], part), p->items[i].rows.num_rows, &its, &x_a_tile));
            if (its != kernel) continue;
            if (!launch) launch = new_launch(p, kernel, p->product_at);
            add_product(p, launch, &p->items[i], &here, part, x_a_tile, splits);
        }
    }
}

static void add_phase(planner *p, uint32_t first, uint32_t last)
{
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < p->num_items; i++)
        for (uint32_t part = first; part <= last; part++)
            if (part >= first_part(&p->items[i])) blocks += row_and_x_tiles(&p->items[i], part);
    uint32_t splits = blocks_for(BLOCKS_AN_SM * p->num_sms, blocks);
    for (int kernel = 0; kernel < FS_GPU_ACTIVATE; kernel++)
        add_products(p, (fs_gpu_kernel)kernel, first, last, splits);
}

static fs_gpu_item gpu_item(const planner *p, const fs_device_item *item, const places *here)
{
    const fs_expert *e = &item->expert->shape;
    fs_gpu_item g = {.x_scale = at(p, here->x_scale),
                     .a = at(p, here->a),
                     .a_max = at(p, here->a_max),
                     .a_i8 = at(p, here->a_i8),
                     .out = at(p, here->out),
                     .num_x = item->rows.num_rows,
                     .hidden = e->hidden_size,
                     .intermediate = e->intermediate_size,
                     .activation = (uint32_t)e->activation,
                     .no_gate = e->no_gate,
                     .swiglu_limit = e->swiglu_limit,
                     .a_stride = here->a_stride};
    for (uint32_t part = first_part(item); part < FS_GPU_PARTS; part++) {
        if (e->bias[part].data) g.bias[part] = of_expert(item->expert, item->expert->bias_at[part]);
        g.scales[part] = of_expert(item->expert, item->expert->scales_at[part]);
        g.sums[part] = at(p, here->sums[part]);
        g.sum_rows[part] = matrix_of(item, part)->padded_rows;
        g.symmetric[part] = matrix_of(item, part)->symmetric;
    }
    return g;
}

static void write_rows(const planner *p, const fs_device_item *item, const places *here)
{
    uint32_t hidden = item->expert->shape.hidden_size;
    for (uint32_t r = 0; r < item->rows.num_rows; r++) {
        uint8_t *x = p->in + here->x + (size_t)r * here->x_stride;
        memcpy(x, item->rows.x_i8[r], hidden);
        memset(x + hidden, 0, here->x_stride - hidden);
    }
    memcpy(p->in + here->x_scale, item->rows.x_scale, item->rows.num_rows * sizeof(float));
}

/* The list of the float kernels, and the rows of x. blocks: of the grids over activations and over outputs. */
static size_t write_items(planner *p, uint32_t blocks[2])
{
    size_t list = product_list_bytes(p->num_items);
    cursor c = p->start;
    blocks[0] = blocks[1] = 0;
    for (uint32_t i = 0; i < p->num_items; i++) {
        places here = place(&p->items[i], &c);
        fs_gpu_item g = gpu_item(p, &p->items[i], &here);
        for (int b = 0; b < 2; b++) g.first_block[b] = blocks[b];
        blocks[0] += g.num_x * blocks_for(g.a_stride, FS_GPU_TILE);
        blocks[1] += g.num_x * blocks_for(g.hidden, FS_GPU_TILE);
        memcpy(p->in + list + i * sizeof(g), &g, sizeof(g));
        write_rows(p, &p->items[i], &here);
    }
    return list;
}

static void add_float(planner *p, fs_gpu_kernel kernel, size_t list, uint32_t blocks)
{
    fs_gpu_launch *launch = new_launch(p, kernel, list);
    launch->num_blocks = blocks;
    launch->count = p->num_items;
}

void fs_gpu_plan_run(const fs_device_item *items, uint32_t num_items, uint32_t num_sms,
                     fs_gpu_address workspace, uint8_t *in, fs_gpu_plan *plan)
{
    planner p = {.items = items,
                 .num_items = num_items,
                 .num_sms = num_sms,
                 .workspace = workspace,
                 .in = in,
                 .plan = plan};
    uint32_t blocks[2];
    p.start = regions(items, num_items, plan);
    size_t list = write_items(&p, blocks);
    add_phase(&p, FS_PART_GATE, FS_PART_UP);
    add_float(&p, FS_GPU_ACTIVATE, list, blocks[0]);
    add_float(&p, FS_GPU_QUANTISE, list, blocks[0]);
    add_phase(&p, FS_PART_DOWN, FS_PART_DOWN);
    add_float(&p, FS_GPU_FINISH, list, blocks[1]);
}
