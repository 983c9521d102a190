/* common/sub1/free_encode.c: any ternary matrix into a *free* blob: rows into groups that keep pace, and for each group the moves of the
 * window that take the fewest bytes, as far as a beam search finds them. */
#include <stdlib.h>
#include <string.h>

#include "sub1/free_int.h"

enum {
    LANES = FS_FREE_LANES,
    CODES = FS_FREE_CODES,
    WINDOW = FS_FREE_WINDOW,
    MOVES = 4, /* that there are before a step */
    BEAM = 4,  /* walks that are pursued */
    CODE_BITS = 5,
    SIDE_BITS = 8 * FS_FREE_SIDE_BYTES,
};

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

/* How far to the left a row's weights lie: rows that differ in it do not keep pace though they have as many. */
static int64_t row_lean(const nonzeros *z, uint32_t row)
{
    int64_t lean = 0;
    for (size_t i = z->start[row]; i < z->start[row + 1]; i++) lean += (int64_t)z->cols - 2 * z->col[i];
    return lean;
}

typedef struct {
    int64_t key;
    uint32_t row;
} sort_key;

static int by_falling_key(const void *a, const void *b)
{
    const sort_key *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return x->row < y->row ? -1 : 1;
}

/* Rows [0, count) of two groups, sorted by number of nonzeros: where those do not differ much, by their lean. */
static void sort_pair(const nonzeros *z, sort_key *key, uint32_t count)
{
    if (key[count - 1].key < key[0].key - key[0].key / 4) return;
    for (uint32_t i = 0; i < count; i++) key[i].key = row_lean(z, key[i].row);
    qsort(key, count, sizeof(*key), by_falling_key);
}

static void sort_block(const nonzeros *z, uint32_t first, uint32_t count)
{
    enum { PAIR = 2 * LANES };
    sort_key key[FS_FREE_BLOCK_ROWS];
    for (uint32_t i = 0; i < count; i++) key[i] = (sort_key){(int64_t)row_count(z, first + i), first + i};
    qsort(key, count, sizeof(*key), by_falling_key);
    for (uint32_t i = 0; i < count; i += PAIR) sort_pair(z, key + i, count - i < PAIR ? count - i : PAIR);
    for (uint32_t i = 0; i < count; i++) z->order[first + i] = key[i].row;
}

static void sort_rows(const nonzeros *z)
{
    for (uint32_t first = 0; first < z->padded_rows; first += FS_FREE_BLOCK_ROWS) {
        uint32_t left = z->padded_rows - first;
        sort_block(z, first, left < FS_FREE_BLOCK_ROWS ? left : FS_FREE_BLOCK_ROWS);
    }
}

/* ---- which skips lead to a nonzero ---- */

/* By distance modulo the window: fewest[0] skips until a code reaches it, fewest[j] if j skips must come first. */
typedef struct {
    uint8_t fewest[CODES][WINDOW];
} skip_table;

static uint32_t less_of_two(const uint8_t *fewest, uint32_t distance)
{
    uint32_t a = fewest[(distance - FS_FREE_SKIP) % WINDOW],
             b = fewest[(distance - FS_FREE_LONG_SKIP) % WINDOW];
    return a < b ? a : b;
}

static void make_skip_table(skip_table *t)
{
    uint8_t *fewest = t->fewest[0];
    for (uint32_t d = 0; d < WINDOW; d++) fewest[d] = d >= 1 && d <= 15 ? 0 : UINT8_MAX;
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t d = 0; d < WINDOW; d++) {
            uint32_t by_skip = less_of_two(fewest, d) + 1;
            if (by_skip < fewest[d]) fewest[d] = (uint8_t)by_skip, changed = true;
        }
    }
    for (uint32_t j = 1; j < CODES; j++)
        for (uint32_t d = 0; d < WINDOW; d++) t->fewest[j][d] = (uint8_t)less_of_two(t->fewest[j - 1], d);
}

/* ---- one group: a walk through the columns ---- */

typedef struct {
    const uint16_t *col;
    const uint8_t *neg;
    const uint32_t *codes; /* [count + 1] that it takes from each nonzero on, if none waits */
    uint32_t count;
} lane_content;

typedef struct {
    lane_content lane[LANES];
    uint32_t num_nonzeros, padded_cols, move_shift;
    skip_table skips;
    uint32_t *codes; /* owned: what the lanes point to */
} group_content;

typedef struct {
    uint32_t next[LANES]; /* the first nonzero that is not dealt with */
    uint8_t last[LANES];  /* the column that was passed, modulo the window */
    uint32_t base, num_side, left;
    uint64_t cost; /* an estimate of all the bits that the nonzeros take */
} walk;

/* What a walk writes. */
typedef struct {
    uint8_t *step;
    uint32_t *side; /* [num_side] col << 6 | negative << 5 | lane */
    uint32_t num_side;
} walk_output;

static void count_codes(const lane_content *lane, uint32_t *codes)
{
    codes[lane->count] = 0;
    for (uint32_t i = lane->count; i-- > 0;) {
        uint32_t gap = i ? lane->col[i] - (uint32_t)lane->col[i - 1] : lane->col[i] + 1u;
        uint32_t skips = gap <= 15 ? 0 : (gap - 15 + FS_FREE_LONG_SKIP - 1) / FS_FREE_LONG_SKIP;
        codes[i] = codes[i + 1] + 1 + skips;
    }
}

/* Moves that are wide enough for a group of so many codes: a step has 128, of which some must wait. */
static uint32_t find_shift(uint32_t cols, uint64_t codes)
{
    uint64_t steps = codes / (LANES * CODES) + 1;
    uint32_t shift = 0;
    while (shift < FS_FREE_MAX_SHIFT && cols > steps * (48u << shift)) shift++;
    return shift;
}

/* False: no memory. c->codes is to be freed. */
static bool find_content(const nonzeros *z, uint32_t group, group_content *c)
{
    const uint32_t *row = z->order + group * LANES;
    c->num_nonzeros = 0;
    for (uint32_t l = 0; l < LANES; l++) c->num_nonzeros += (uint32_t)row_count(z, row[l]);
    c->padded_cols = z->padded_cols;
    c->codes = malloc((c->num_nonzeros + LANES) * sizeof(*c->codes));
    if (!c->codes) return false;
    uint32_t *codes = c->codes;
    uint64_t all = 0;
    for (uint32_t l = 0; l < LANES; l++) {
        size_t at = z->start[row[l]];
        c->lane[l] = (lane_content){z->col + at, z->neg + at, codes, (uint32_t)row_count(z, row[l])};
        count_codes(&c->lane[l], codes);
        all += codes[0];
        codes += c->lane[l].count + 1;
    }
    c->move_shift = find_shift(z->cols, all);
    make_skip_table(&c->skips);
    return true;
}

static walk start_walk(const group_content *c)
{
    walk w = {.left = c->num_nonzeros};
    memset(w.last, WINDOW - 1, sizeof(w.last));
    return w;
}

static void put_side(const lane_content *lane, uint32_t l, uint32_t index, walk_output *out)
{
    if (out)
        out->side[out->num_side++] = (uint32_t)lane->col[index] << 6 | (uint32_t)lane->neg[index] << 5 | l;
}

static void put_code(walk_output *out, uint32_t l, uint32_t k, uint32_t code, bool sign)
{
    if (!out) return;
    uint32_t half = l / FS_FREE_HALF, i = l % FS_FREE_HALF * CODES + k, bit = 64 * half + i;
    out->step[i] |= (uint8_t)(code << 4 * half);
    out->step[FS_FREE_STEP_SIGNS + bit / 8] |= (uint8_t)(sign << bit % 8);
}

/* The lane's four codes: a nonzero where one can be reached, else the skip from which the next will be soonest. A lane whose next is not in
 * the window yet skips too, as far as once around: only where it then stands matters. */
static inline void step_lane(const group_content *c, walk *w, uint32_t l, walk_output *out)
{
    const lane_content *lane = &c->lane[l];
    uint32_t next = w->next[l], last = w->last[l], end = w->base + WINDOW;
    for (; next < lane->count && lane->col[next] < w->base; next++) { /* the window has left it behind */
        put_side(lane, l, next, out);
        w->num_side++, w->left--;
    }
    for (uint32_t k = 0; k < CODES && next < lane->count; k++) {
        uint32_t col = lane->col[next], distance = (col - last) % WINDOW;
        if (col < end && distance >= 1 && distance <= 15) {
            put_code(out, l, k, distance, lane->neg[next]);
            last = col % WINDOW;
            next++, w->left--;
            continue;
        }
        const uint8_t *fewest = c->skips.fewest[col < end ? 0 : CODES - 1 - k];
        bool far = fewest[(distance - FS_FREE_LONG_SKIP) % WINDOW] <=
                   fewest[(distance - FS_FREE_SKIP) % WINDOW];
        put_code(out, l, k, 0, far);
        last = (last + (far ? FS_FREE_LONG_SKIP : FS_FREE_SKIP)) % WINDOW;
    }
    w->next[l] = next, w->last[l] = (uint8_t)last;
    if (next < lane->count)
        w->cost += CODE_BITS *
                   (lane->codes[next + 1] + 1 + c->skips.fewest[0][(lane->col[next] - last) % WINDOW]);
}

/* move: 0 to MOVES - 1. out: NULL if nobody wants the bytes. */
static inline void take_step(const group_content *c, walk *w, uint32_t move, walk_output *out)
{
    w->base += fs_free_move_columns(move, c->move_shift);
    if (w->base > c->padded_cols - WINDOW) w->base = c->padded_cols - WINDOW;
    w->cost = 0;
    for (uint32_t l = 0; l < LANES; l++) step_lane(c, w, l, out);
    w->cost += (uint64_t)SIDE_BITS * w->num_side;
}

/* ---- the search for moves ---- */

typedef struct {
    walk walk;
    uint8_t parent, move; /* parent: its place in the beam one step earlier */
} candidate;

typedef struct {
    uint8_t parent[BEAM], move[BEAM];
} beam_step;

/* How a group is coded best: after so many moves all the rest goes aside. */
typedef struct {
    uint8_t *moves; /* [steps], owned */
    uint32_t steps, num_side;
    size_t bytes;
} plan;

static size_t coded_bytes(uint32_t cols, uint32_t steps, uint32_t side)
{
    return 2 * fs_free_side_parts(cols) + fs_free_move_bytes(steps) + (size_t)steps * FS_FREE_STEP_BYTES +
           (size_t)side * FS_FREE_SIDE_BYTES;
}

/* Of walks with the same window only the best goes on: they differ little. */
static uint32_t add_candidate(candidate *list, uint32_t count, const candidate *new)
{
    for (uint32_t i = 0; i < count; i++) {
        if (list[i].walk.base != new->walk.base) continue;
        if (new->walk.cost < list[i].walk.cost) list[i] = *new;
        return count;
    }
    list[count] = *new;
    return count + 1;
}

/* beam [*count]: one step further. */
static void advance(const group_content *c, candidate *beam, uint32_t *count, beam_step *step)
{
    candidate list[BEAM * MOVES];
    uint32_t num = 0;
    for (uint32_t i = 0; i < *count; i++) {
        for (uint32_t m = 0; m < MOVES; m++) {
            candidate new = {beam[i].walk, (uint8_t)i, (uint8_t)m};
            take_step(c, &new.walk, m, NULL);
            num = add_candidate(list, num, &new);
        }
    }
    *count = num < BEAM ? num : BEAM;
    for (uint32_t i = 0; i < *count; i++) {
        uint32_t best = i;
        for (uint32_t j = i + 1; j < num; j++)
            if (list[j].walk.cost < list[best].walk.cost) best = j;
        beam[i] = list[best];
        list[best] = list[i];
        step->parent[i] = beam[i].parent, step->move[i] = beam[i].move;
    }
}

static bool trace_back(const beam_step *steps, uint32_t place, plan *p)
{
    p->moves = malloc(p->steps + 1);
    if (!p->moves) return false;
    for (uint32_t s = p->steps; s-- > 0; place = steps[s].parent[place]) p->moves[s] = steps[s].move[place];
    return true;
}

/* limit: bytes that need not be reached, the plan is then of no use. False: no memory. */
static bool find_plan(const group_content *c, uint32_t cols, size_t limit, plan *p)
{
    uint32_t count = 1, max_steps = (uint32_t)(limit / FS_FREE_STEP_BYTES) + 1, place = 0;
    beam_step *steps = malloc(max_steps * sizeof(*steps));
    candidate beam[BEAM] = {{.walk = start_walk(c)}};
    if (!steps) return false;
    *p = (plan){.num_side = c->num_nonzeros, .bytes = coded_bytes(cols, 0, c->num_nonzeros)};
    for (uint32_t s = 0; s < max_steps; s++) {
        bool ended = true;
        advance(c, beam, &count, &steps[s]);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t side = beam[i].walk.num_side + beam[i].walk.left;
            size_t bytes = coded_bytes(cols, s + 1, side);
            if (bytes < p->bytes) p->bytes = bytes, p->steps = s + 1, p->num_side = side, place = i;
            ended = ended && beam[i].walk.left == 0;
        }
        if (ended) break;
    }
    bool made = trace_back(steps, place, p);
    free(steps);
    return made;
}

/* ---- bytes ---- */

static int by_column_and_lane(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a & ~32u, y = *(const uint32_t *)b & ~32u; /* without the sign */
    return x < y ? -1 : x > y;
}

static void write_side(uint32_t *side, uint32_t count, uint8_t *counts, uint8_t *out)
{
    qsort(side, count, sizeof(*side), by_column_and_lane);
    for (uint32_t i = 0; i < count; i++, out += FS_FREE_SIDE_BYTES) {
        uint32_t col = side[i] >> 6, entry = col % FS_FREE_SIDE_COLS | (side[i] & 63) << 10;
        uint8_t *n = counts + 2 * (col / FS_FREE_SIDE_COLS);
        if (++n[0] == 0) n[1]++; /* at most 1024 columns of 32 lanes */
        out[0] = (uint8_t)entry, out[1] = (uint8_t)(entry >> 8);
    }
}

/* out: p->bytes, zeroed. False: no memory. */
static bool write_coded(const group_content *c, uint32_t cols, const plan *p, uint8_t *out)
{
    uint8_t *counts = out, *moves = counts + 2 * fs_free_side_parts(cols),
            *steps = moves + fs_free_move_bytes(p->steps);
    walk_output to = {.step = steps, .side = malloc((p->num_side + 1) * sizeof(*to.side))};
    if (!to.side) return false;
    walk w = start_walk(c);
    for (uint32_t s = 0; s < p->steps; s++, to.step += FS_FREE_STEP_BYTES) {
        moves[s / 4] |= (uint8_t)(p->moves[s] << s % 4 * 2);
        take_step(c, &w, p->moves[s], &to);
    }
    for (uint32_t l = 0; l < LANES; l++)
        for (uint32_t i = w.next[l]; i < c->lane[l].count; i++) put_side(&c->lane[l], l, i, &to);
    FS_ASSERT(to.num_side == p->num_side);
    write_side(to.side, to.num_side, counts, to.step);
    free(to.side);
    return true;
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

/* at: the group's first byte. */
static void write_head(const nonzeros *z, uint32_t group, fs_free_kind kind, uint32_t shift, uint32_t steps,
                       uint8_t *at)
{
    at[0] = (uint8_t)kind;
    at[1] = (uint8_t)shift;
    at[2] = (uint8_t)steps, at[3] = (uint8_t)(steps >> 8);
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

static bool append_group(const nonzeros *z, uint32_t group, const group_content *c, const plan *p,
                         fs_buffer *out)
{
    size_t dense = (size_t)LANES * fs_free_units(z->cols) * FS_FREE_UNIT_BYTES;
    fs_free_kind kind = !c->num_nonzeros ? FS_FREE_EMPTY : p->bytes <= dense ? FS_FREE_CODED : FS_FREE_DENSE;
    size_t body = kind == FS_FREE_EMPTY ? 0
                                        : FS_FREE_SCALE_BYTES + (kind == FS_FREE_CODED ? p->bytes : dense);
    size_t bytes = FS_FREE_HEAD_BYTES + LANES + body;
    if (fs_buffer_reserve(out, bytes) != FS_OK) return false;
    uint8_t *at = out->data + out->size;
    memset(at, 0, bytes);
    uint8_t *content = at + FS_FREE_HEAD_BYTES + LANES + FS_FREE_SCALE_BYTES;
    if (kind == FS_FREE_CODED && !write_coded(c, z->cols, p, content)) return false;
    if (kind == FS_FREE_DENSE) write_dense(z, group, content);
    bool coded = kind == FS_FREE_CODED;
    write_head(z, group, kind, coded ? c->move_shift : 0, coded ? p->steps : 0, at);
    out->size += bytes;
    return true;
}

/* False: no memory. */
static bool encode_group(const nonzeros *z, uint32_t group, fs_buffer *out)
{
    group_content c;
    plan p = {0};
    size_t dense = (size_t)LANES * fs_free_units(z->cols) * FS_FREE_UNIT_BYTES;
    bool done = find_content(z, group, &c) && find_plan(&c, z->cols, dense, &p) &&
                append_group(z, group, &c, &p, out);
    free(c.codes), free(p.moves);
    return done;
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
        if (!encode_group(z, g, out)) out->failed = true;
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
