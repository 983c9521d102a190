/* common/sub1/free_encode.c: any ternary matrix into a *free* blob: rows sorted into groups, and for each group the moves of the
 * window that take the fewest bytes. */
#include <stdlib.h>
#include <string.h>

#include "sub1/free_int.h"

enum { LANES = FS_FREE_LANES, CODES = FS_FREE_CODES, MAX_MOVE = 3, MAX_COUNT = 65535 };

/* The nonzeros of all rows: columns ascending, and whether negative. */
typedef struct {
    uint32_t rows, cols, padded_rows, padded_cols;
    size_t *start; /* [padded_rows + 1] */
    uint16_t *col;
    uint8_t *neg;
    fs_bf16 *scale;  /* [padded_rows][2] */
    uint32_t *order; /* [padded_rows] the row at each lane, group after group */
} nonzeros;

static void free_nonzeros(nonzeros *z)
{
    free(z->start), free(z->col), free(z->neg), free(z->scale), free(z->order);
}

static bool alloc_nonzeros(const float *w, uint32_t rows, uint32_t cols, nonzeros *z)
{
    size_t count = 0;
    for (size_t i = 0; i < (size_t)rows * cols; i++) count += w[i] != 0;
    z->start = calloc((size_t)z->padded_rows + 1, sizeof(*z->start));
    z->col = malloc((count + 1) * sizeof(*z->col));
    z->neg = malloc(count + 1);
    z->scale = calloc(z->padded_rows, 2 * sizeof(*z->scale));
    z->order = malloc(z->padded_rows * sizeof(*z->order));
    return z->start && z->col && z->neg && z->scale && z->order;
}

static fs_status collect(const float *w, nonzeros *z, fs_detail *detail)
{
    size_t count = 0;
    for (uint32_t r = 0; r < z->padded_rows; r++) {
        z->start[r] = count;
        if (r >= z->rows) continue;
        const float *row = w + (size_t)r * z->cols;
        float scale[2];
        fs_status st = fs_sub1_find_scales(row, r, z->cols, scale, detail);
        if (st != FS_OK) return st;
        for (int i = 0; i < 2; i++) z->scale[2 * r + i] = fs_f32_to_bf16(scale[i]); /* exact */
        for (uint32_t c = 0; c < z->cols; c++) {
            if (row[c] == 0) continue;
            z->col[count] = (uint16_t)c;
            z->neg[count++] = row[c] < 0;
        }
    }
    z->start[z->padded_rows] = count;
    return FS_OK;
}

/* ---- rows into groups ---- */

static size_t row_count(const nonzeros *z, uint32_t row)
{
    return z->start[row + 1] - z->start[row];
}

/* Rows of a block by falling number of nonzeros, then by number: an insertion sort of at most 256. */
static void sort_block(const nonzeros *z, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t row = first + i, at = i;
        size_t n = row_count(z, row);
        for (; at > 0 && row_count(z, z->order[first + at - 1]) < n; at--)
            z->order[first + at] = z->order[first + at - 1];
        z->order[first + at] = row;
    }
}

static void sort_rows(const nonzeros *z)
{
    for (uint32_t first = 0; first < z->padded_rows; first += FS_FREE_BLOCK_ROWS) {
        uint32_t left = z->padded_rows - first;
        sort_block(z, first, left < FS_FREE_BLOCK_ROWS ? left : FS_FREE_BLOCK_ROWS);
    }
}

/* ---- one group: a walk through the columns ---- */

typedef struct {
    const uint16_t *col;
    const uint8_t *neg;
    uint32_t count, next; /* nonzeros, and the first that is not dealt with */
    int32_t last;         /* column that was passed */
} lane_state;

/* What a walk leaves; steps and side are NULL when only the size is asked for. */
typedef struct {
    uint8_t *moves, *steps, *side; /* zeroed, room for max_steps and all nonzeros */
    uint32_t num_steps, num_side;
} group_bytes;

typedef struct {
    const nonzeros *z;
    lane_state lane[LANES];
    uint32_t base;
} walk;

static void start_walk(const nonzeros *z, uint32_t group, walk *w)
{
    *w = (walk){.z = z};
    for (uint32_t l = 0; l < LANES; l++) {
        uint32_t row = z->order[group * LANES + l];
        w->lane[l] = (lane_state){z->col + z->start[row], z->neg + z->start[row], (uint32_t)row_count(z, row),
                                  0, -1};
    }
}

static void put_side(const lane_state *lane, uint32_t l, uint32_t index, group_bytes *out)
{
    if (out && out->side) {
        uint8_t *at = out->side + (size_t)out->num_side * FS_FREE_SIDE_BYTES;
        at[0] = (uint8_t)lane->col[index];
        at[1] = (uint8_t)(lane->col[index] >> 8);
        at[2] = (uint8_t)(l | (uint32_t)lane->neg[index] << 5);
    }
    out->num_side++;
}

/* Moves the window; what a lane loses by it goes to the side. */
static void move_window(walk *w, uint32_t moves, group_bytes *out)
{
    if (moves == 0) return;
    w->base += moves * FS_FREE_MOVE;
    for (uint32_t l = 0; l < LANES; l++) {
        lane_state *lane = &w->lane[l];
        if (lane->last < (int32_t)w->base) lane->last = (int32_t)w->base;
        for (; lane->next < lane->count && lane->col[lane->next] <= lane->last; lane->next++)
            put_side(lane, l, lane->next, out);
    }
}

static void put_code(group_bytes *out, uint32_t l, uint32_t k, uint32_t code, bool sign)
{
    if (!out->steps) return;
    uint8_t *step = out->steps + (size_t)out->num_steps * FS_FREE_STEP_BYTES;
    uint32_t half = l / FS_FREE_HALF, i = l % FS_FREE_HALF * CODES + k, bit = 64 * half + i;
    step[i] |= (uint8_t)(code << 4 * half);
    step[FS_FREE_STEP_SIGNS + bit / 8] |= (uint8_t)(sign << bit % 8);
}

/* The lane's four codes: a nonzero where one can be reached, else the longest skip that passes none. */
static void step_lane(walk *w, uint32_t l, group_bytes *out)
{
    lane_state *lane = &w->lane[l];
    int32_t end = (int32_t)w->base + FS_FREE_WINDOW - 1;
    for (uint32_t k = 0; k < CODES; k++) {
        bool left = lane->next < lane->count;
        int32_t col = left ? lane->col[lane->next] : end + 1, gap = col - lane->last;
        if (gap <= FS_FREE_SKIP && col <= end) {
            put_code(out, l, k, (uint32_t)gap, lane->neg[lane->next]);
            lane->last = col;
            lane->next++;
            continue;
        }
        bool far = left && gap > FS_FREE_LONG_SKIP; /* a lane that is done has only one spelling */
        put_code(out, l, k, 0, far);
        lane->last += far ? FS_FREE_LONG_SKIP : FS_FREE_SKIP;
        if (lane->last > end) lane->last = end;
    }
}

/* How bad a move is: nonzeros that it loses, and codes of the next step that find none in the window. */
static double move_cost(const walk *w, uint32_t moves, double idle_cost)
{
    uint32_t base = w->base + moves * FS_FREE_MOVE, lost = 0, idle = 0;
    for (uint32_t l = 0; l < LANES; l++) {
        const lane_state *lane = &w->lane[l];
        uint32_t i = lane->next;
        for (; moves && i < lane->count && lane->col[i] <= base; i++) lost++;
        for (uint32_t k = 0; k < CODES; k++)
            idle += i + k >= lane->count || lane->col[i + k] >= base + FS_FREE_WINDOW;
    }
    return lost * 8.0 * FS_FREE_SIDE_BYTES + idle * idle_cost;
}

static uint32_t best_move(const walk *w, double idle_cost)
{
    uint32_t best = 0;
    double best_cost = 0;
    for (uint32_t m = 0; m <= MAX_MOVE && w->base + m * FS_FREE_MOVE + FS_FREE_WINDOW <= w->z->padded_cols;
         m++) {
        double cost = move_cost(w, m, idle_cost);
        if (m == 0 || cost < best_cost) best = m, best_cost = cost;
    }
    return best;
}

static uint32_t nonzeros_left(const walk *w)
{
    uint32_t left = 0;
    for (uint32_t l = 0; l < LANES; l++) left += w->lane[l].count - w->lane[l].next;
    return left;
}

static size_t coded_bytes(uint32_t steps, uint32_t side)
{
    return fs_free_move_bytes(steps) + (size_t)steps * FS_FREE_STEP_BYTES + (size_t)side * FS_FREE_SIDE_BYTES;
}

/* How a group is coded: what an idle code costs when moves are weighed, and how many steps are made before all the rest goes aside. */
typedef struct {
    double idle_cost;
    uint32_t steps;
    size_t bytes; /* SIZE_MAX: it cannot be coded */
} plan;

static void one_step(walk *w, double idle_cost, group_bytes *out)
{
    uint32_t n = out->num_steps, moves = n ? best_move(w, idle_cost) : 0;
    if (out->moves) out->moves[n / 4] |= (uint8_t)(moves << n % 4 * 2);
    move_window(w, moves, out);
    for (uint32_t l = 0; l < LANES; l++) step_lane(w, l, out);
    out->num_steps++;
}

/* The best number of steps for this idle_cost. limit: give up when the steps alone take more bytes. */
static plan try_plan(const nonzeros *z, uint32_t group, double idle_cost, size_t limit)
{
    walk w;
    start_walk(z, group, &w);
    group_bytes none = {0};
    plan best = {idle_cost, 0, SIZE_MAX};
    for (;;) {
        uint32_t left = nonzeros_left(&w), side = none.num_side + left;
        size_t bytes = coded_bytes(none.num_steps, side);
        if (side <= MAX_COUNT && bytes < best.bytes) best.steps = none.num_steps, best.bytes = bytes;
        if (left == 0 || none.num_steps == MAX_COUNT || coded_bytes(none.num_steps, none.num_side) > limit)
            return best;
        one_step(&w, idle_cost, &none);
    }
}

static plan best_plan(const nonzeros *z, uint32_t group, size_t limit)
{
    static const double costs[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    plan best = {0, 0, SIZE_MAX};
    for (size_t i = 0; i < sizeof(costs) / sizeof(costs[0]); i++) {
        plan p = try_plan(z, group, costs[i], best.bytes < limit ? best.bytes : limit);
        if (p.bytes < best.bytes) best = p;
    }
    return best;
}

/* ---- bytes ---- */

static int by_lane_and_column(const void *a, const void *b)
{
    const uint8_t *x = a, *y = b;
    uint32_t vx = (fs_free_side_lane(x) << 16) | fs_free_u16(x),
             vy = (fs_free_side_lane(y) << 16) | fs_free_u16(y);
    return vx < vy ? -1 : vx > vy;
}

/* out: coded_bytes, zeroed. */
static void write_coded(const nonzeros *z, uint32_t group, const plan *p, uint8_t *out, uint32_t *num_side)
{
    walk w;
    start_walk(z, group, &w);
    group_bytes to = {.moves = out, .steps = out + fs_free_move_bytes(p->steps)};
    to.side = to.steps + (size_t)p->steps * FS_FREE_STEP_BYTES;
    while (to.num_steps < p->steps) one_step(&w, p->idle_cost, &to);
    for (uint32_t l = 0; l < LANES; l++)
        for (lane_state *lane = &w.lane[l]; lane->next < lane->count; lane->next++)
            put_side(lane, l, lane->next, &to);
    qsort(to.side, to.num_side, FS_FREE_SIDE_BYTES, by_lane_and_column);
    *num_side = to.num_side;
}

static void write_dense(const nonzeros *z, uint32_t group, uint8_t *out)
{
    size_t lane_bytes = (size_t)fs_free_units(z->cols) * FS_FREE_UNIT_BYTES;
    for (uint32_t l = 0; l < LANES; l++, out += lane_bytes) {
        uint32_t row = z->order[group * LANES + l];
        for (size_t i = z->start[row]; i < z->start[row + 1]; i++) {
            uint32_t c = z->col[i];
            out[c / 64 * FS_FREE_UNIT_BYTES + 8 * z->neg[i] + c % 64 / 8] |= (uint8_t)(1 << c % 8);
        }
    }
}

static void write_head(const nonzeros *z, uint32_t group, fs_free_kind kind, uint32_t steps, uint32_t side,
                       uint8_t *at)
{
    at[0] = (uint8_t)kind;
    at[1] = 0;
    at[2] = (uint8_t)steps, at[3] = (uint8_t)(steps >> 8);
    at[4] = (uint8_t)side, at[5] = (uint8_t)(side >> 8);
    at += FS_FREE_HEAD_BYTES;
    const uint32_t *order = z->order + group * LANES;
    for (uint32_t l = 0; l < LANES; l++) at[l] = (uint8_t)(order[l] % FS_FREE_BLOCK_ROWS);
    if (kind == FS_FREE_EMPTY) return;
    at += LANES;
    for (uint32_t i = 0; i < 2 * LANES; i++) {
        fs_bf16 v = z->scale[2 * order[i % LANES] + i / LANES];
        at[2 * i] = (uint8_t)v;
        at[2 * i + 1] = (uint8_t)(v >> 8);
    }
}

static fs_status append_group(const nonzeros *z, uint32_t group, fs_buffer *out)
{
    size_t count = 0, dense = (size_t)LANES * fs_free_units(z->cols) * FS_FREE_UNIT_BYTES;
    for (uint32_t l = 0; l < LANES; l++) count += row_count(z, z->order[group * LANES + l]);
    plan p = count ? best_plan(z, group, dense) : (plan){0};
    fs_free_kind kind = !count ? FS_FREE_EMPTY : p.bytes <= dense ? FS_FREE_CODED : FS_FREE_DENSE;
    size_t body = kind == FS_FREE_EMPTY ? 0 : FS_FREE_SCALE_BYTES + (kind == FS_FREE_CODED ? p.bytes : dense);
    size_t bytes = FS_FREE_HEAD_BYTES + LANES + body;
    fs_status st = fs_buffer_reserve(out, bytes);
    if (st != FS_OK) return st;
    uint8_t *at = out->data + out->size;
    memset(at, 0, bytes);
    uint8_t *content = at + FS_FREE_HEAD_BYTES + LANES + FS_FREE_SCALE_BYTES;
    uint32_t num_side = 0;
    if (kind == FS_FREE_CODED) write_coded(z, group, &p, content, &num_side);
    if (kind == FS_FREE_DENSE) write_dense(z, group, content);
    write_head(z, group, kind, kind == FS_FREE_CODED ? p.steps : 0, num_side, at);
    out->size += bytes;
    return FS_OK;
}

static fs_status append_payload(const nonzeros *z, fs_buffer *out, fs_detail *detail)
{
    uint32_t groups = z->padded_rows / LANES;
    size_t directory = out->size, start = directory;
    for (uint32_t g = 0; g < groups; g++) fs_buffer_append_u32(out, 0);
    for (uint32_t g = 0; g < groups && !out->failed; g++) {
        size_t at = out->size - start;
        FS_ASSERT(at <= UINT32_MAX); /* 2.1 bits for each of 2^32 weights */
        for (int i = 0; i < 4; i++) out->data[directory + 4 * (size_t)g + (size_t)i] = (uint8_t)(at >> 8 * i);
        if (append_group(z, g, out) != FS_OK) break;
    }
    return out->failed ? fs_fail(detail, FS_NO_MEMORY, "no memory for a matrix of %u x %u", z->rows, z->cols)
                       : FS_OK;
}

fs_status fs_sub1_encode_free(const float *w, uint32_t rows, uint32_t cols, fs_buffer *out, fs_detail *detail)
{
    if (rows == 0 || cols == 0 || rows > FS_SUB1_MAX_DIM || cols > FS_SUB1_MAX_DIM)
        return fs_fail(detail, FS_INVALID, "%u x %u: rows and columns are 1 to %u", rows, cols,
                       FS_SUB1_MAX_DIM);
    nonzeros z = {.rows = rows,
                  .cols = cols,
                  .padded_rows = fs_sub1_round_up(rows, LANES),
                  .padded_cols = fs_sub1_padded_cols(&fs_free, cols)};
    size_t start = out->size;
    fs_status st = alloc_nonzeros(w, rows, cols, &z) ? FS_OK
                                                     : fs_fail(detail, FS_NO_MEMORY, "no memory to encode");
    if (st == FS_OK) st = collect(w, &z, detail);
    if (st == FS_OK) st = fs_buffer_reserve(out, FS_SUB1_HEADER_BYTES);
    if (st == FS_OK) {
        sort_rows(&z);
        out->size += FS_SUB1_HEADER_BYTES;
        st = append_payload(&z, out, detail);
    }
    if (st == FS_OK)
        fs_sub1_seal(&fs_free, rows, cols, 0, out->size - start - FS_SUB1_HEADER_BYTES, out->data + start);
    else
        out->size = start;
    free_nonzeros(&z);
    return st;
}
