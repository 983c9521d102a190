/* common/sub1/free_scalar.c: the product with a *free* matrix as plain C: the definition of what the others give. */
#include <string.h>

#include "sub1/free_int.h"

enum { LANES = FS_FREE_LANES, TILE = 32 /* rows of x for which a group is walked once */ };

void fs_free_walk_step(const fs_free_group *g, uint32_t lane, uint32_t step, fs_free_walk *walk,
                       fs_free_weight out[FS_FREE_CODES])
{
    const uint8_t *at = g->steps + (size_t)step * FS_FREE_STEP_BYTES;
    uint32_t half = lane / FS_FREE_HALF, first = lane % FS_FREE_HALF * FS_FREE_CODES;
    walk->base = fs_free_next_base(g, step, walk->base, walk->padded_cols);
    for (uint32_t k = 0; k < FS_FREE_CODES; k++) {
        uint32_t code = at[first + k] >> 4 * half & 15, bit = 64 * half + first + k;
        bool sign = at[FS_FREE_STEP_SIGNS + bit / 8] >> bit % 8 & 1;
        walk->last += code ? code : sign ? FS_FREE_LONG_SKIP : FS_FREE_SKIP;
        walk->last %= FS_FREE_WINDOW;
        uint32_t in_window = (walk->last - walk->base) % FS_FREE_WINDOW;
        out[k] = (fs_free_weight){.col = walk->base + in_window, .nonzero = code != 0, .negative = sign};
    }
}

/* sum[r][0] and [1]: of row r of x over a lane's positive and negative weights. */
typedef int32_t lane_sums[TILE][2];

static void add_weight(uint32_t col, bool negative, const int8_t *const *x, uint32_t rows, lane_sums sum)
{
    for (uint32_t r = 0; r < rows; r++) sum[r][negative] += x[r][col];
}

static void add_side(const fs_free_group *g, uint32_t lane, uint32_t cols, const int8_t *const *x,
                     uint32_t rows, lane_sums sum)
{
    const uint8_t *side = g->side;
    for (uint32_t p = 0; p < fs_free_side_parts(cols); p++) {
        for (uint32_t i = fs_free_u16(g->counts + 2 * p); i > 0; i--, side += FS_FREE_SIDE_BYTES) {
            uint32_t entry = fs_free_u16(side);
            if (fs_free_side_lane(entry) == lane)
                add_weight(p * FS_FREE_SIDE_COLS + fs_free_side_col(entry), entry >> 15, x, rows, sum);
        }
    }
}

static void add_coded(const fs_sub1_matrix *m, const fs_free_group *g, uint32_t lane, const int8_t *const *x,
                      uint32_t rows, lane_sums sum)
{
    fs_free_walk walk = fs_free_start_walk(m);
    fs_free_weight w[FS_FREE_CODES];
    for (uint32_t s = 0; s < g->num_steps; s++) {
        fs_free_walk_step(g, lane, s, &walk, w);
        for (uint32_t k = 0; k < FS_FREE_CODES; k++)
            if (w[k].nonzero) add_weight(w[k].col, w[k].negative, x, rows, sum);
    }
    add_side(g, lane, m->cols, x, rows, sum);
}

static void add_dense(const fs_free_group *g, uint32_t lane, uint32_t cols, const int8_t *const *x,
                      uint32_t rows, lane_sums sum)
{
    const uint8_t *unit = g->steps + (size_t)lane * fs_free_units(cols) * FS_FREE_UNIT_BYTES;
    for (uint32_t col = 0; col < cols; col++) {
        const uint8_t *bits = unit + col / 64 * FS_FREE_UNIT_BYTES + col % 64 / 8;
        if (bits[0] >> col % 8 & 1) add_weight(col, false, x, rows, sum);
        if (bits[8] >> col % 8 & 1) add_weight(col, true, x, rows, sum);
    }
}

static void multiply_lane(const fs_sub1_matrix *m, const fs_free_group *g, uint32_t lane,
                          const int8_t *const *x, const float *x_scale, float *const *y, uint32_t row,
                          uint32_t rows)
{
    lane_sums sum = {0};
    if (g->kind == FS_FREE_CODED) add_coded(m, g, lane, x, rows, sum);
    if (g->kind == FS_FREE_DENSE) add_dense(g, lane, m->cols, x, rows, sum);
    float pos_scale = 0, neg_scale = 0;
    if (g->kind != FS_FREE_EMPTY) {
        pos_scale = fs_bf16_to_f32((fs_bf16)fs_free_u16(g->scales + 2 * lane));
        neg_scale = fs_bf16_to_f32((fs_bf16)fs_free_u16(g->scales + 2 * (LANES + lane)));
    }
    for (uint32_t r = 0; r < rows; r++) {
        float pos = pos_scale * (float)sum[r][0], neg = neg_scale * (float)sum[r][1];
        y[r][row] = x_scale[r] * (pos + neg);
    }
}

void fs_free_scalar(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                    const float *x_scale, float *const *y, uint32_t num_rows)
{
    for (uint32_t i = first; i < first + count; i++) {
        fs_free_group g = fs_free_parts(fs_free_group_bytes(w, i), w->cols);
        uint32_t block = i / FS_FREE_BLOCK_GROUPS * FS_FREE_BLOCK_ROWS;
        for (uint32_t lane = 0; lane < LANES; lane++) {
            uint32_t row = block + g.row[lane];
            if (row >= w->rows) continue; /* padding */
            for (uint32_t r = 0; r < num_rows; r += TILE)
                multiply_lane(w, &g, lane, x + r, x_scale + r, y + r, row,
                              num_rows - r < TILE ? num_rows - r : TILE);
        }
    }
}
