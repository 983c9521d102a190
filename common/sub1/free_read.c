/* common/sub1/free_read.c: the check of everything in a *free* payload that a kernel trusts, and decoding. */
#include <string.h>

#include "sub1/free_int.h"

enum { LANES = FS_FREE_LANES };

/* ---- where things are ---- */

static uint32_t num_groups(const fs_sub1_matrix *m)
{
    return m->padded_rows / LANES;
}

static uint32_t block_of(uint32_t group)
{
    return group / FS_FREE_BLOCK_GROUPS * FS_FREE_BLOCK_ROWS;
}

/* Of a group whose head, at `at`, is within the payload, of which so many bytes are left. More than are left: it may be larger still. */
static size_t group_size(const fs_sub1_matrix *m, const uint8_t *at, size_t left)
{
    fs_free_group g = fs_free_parts(at, m->cols);
    if (g.kind == FS_FREE_EMPTY) return (size_t)(g.scales - at);
    if (g.kind == FS_FREE_DENSE)
        return (size_t)(g.steps - at) + (size_t)LANES * fs_free_units(m->cols) * FS_FREE_UNIT_BYTES;
    size_t bytes = (size_t)(g.side - at);
    if (bytes > left) return bytes;
    for (uint32_t p = 0; p < fs_free_side_parts(m->cols); p++)
        bytes += fs_free_u16(g.counts + 2 * p) * FS_FREE_SIDE_BYTES;
    return bytes;
}

static fs_status check_head(const fs_sub1_matrix *m, uint32_t group, const uint8_t *at, fs_detail *detail)
{
    bool coded = at[0] == FS_FREE_CODED;
    if (at[0] > FS_FREE_DENSE)
        return fs_fail(detail, FS_CORRUPT, "blob: group %u is of kind %u", group, at[0]);
    if (!coded && (at[1] || fs_free_u16(at + 2)))
        return fs_fail(detail, FS_CORRUPT, "blob: a field of group %u that must be zero is not", group);
    return FS_OK;
}

/* Groups follow each other without a gap, and the last one ends where the payload does. */
static fs_status check_directory(const fs_sub1_matrix *m, fs_detail *detail)
{
    size_t at = 4 * (size_t)num_groups(m);
    if (m->payload_bytes < at)
        return fs_fail(detail, FS_CORRUPT, "blob: payload of %zu bytes, the group offsets alone are %zu",
                       m->payload_bytes, at);
    for (uint32_t g = 0; g < num_groups(m); g++) {
        size_t stated = (size_t)(fs_free_group_bytes(m, g) - m->payload);
        if (stated != at)
            return fs_fail(detail, FS_CORRUPT, "blob: group %u is said to be at %zu and is at %zu", g, stated,
                           at);
        if (m->payload_bytes - at < FS_FREE_HEAD_BYTES)
            return fs_fail(detail, FS_CORRUPT, "blob: payload of %zu bytes ends in group %u",
                           m->payload_bytes, g);
        fs_status st = check_head(m, g, m->payload + at, detail);
        if (st != FS_OK) return st;
        size_t bytes = group_size(m, m->payload + at, m->payload_bytes - at);
        if (m->payload_bytes - at < bytes)
            return fs_fail(detail, FS_CORRUPT, "blob: group %u takes %zu bytes, %zu are left", g, bytes,
                           m->payload_bytes - at);
        at += bytes;
    }
    if (at == m->payload_bytes) return FS_OK;
    return fs_fail(detail, FS_CORRUPT, "blob: payload of %zu bytes, its groups take %zu", m->payload_bytes,
                   at);
}

/* ---- what is in a group ---- */

/* seen: a bit for each row of the block. */
static fs_status check_rows(const fs_sub1_matrix *m, uint32_t group, const fs_free_group *g,
                            uint8_t seen[FS_FREE_BLOCK_ROWS / 8], fs_detail *detail)
{
    uint32_t rows = m->padded_rows - block_of(group);
    for (uint32_t l = 0; l < LANES; l++) {
        uint32_t row = g->row[l];
        if (row >= rows || (seen[row / 8] >> row % 8 & 1))
            return fs_fail(detail, FS_CORRUPT, "blob: group %u, lane %u: row %u of its block is %s", group, l,
                           row, row >= rows ? "not in the matrix" : "there twice");
        seen[row / 8] |= (uint8_t)(1 << row % 8);
    }
    return FS_OK;
}

static bool is_padding(const fs_sub1_matrix *m, uint32_t group, const fs_free_group *g, uint32_t lane)
{
    return block_of(group) + g->row[lane] >= m->rows;
}

/* pos: zero or a positive finite number; neg: zero or a negative one; padding has none. */
static fs_status check_scales(const fs_sub1_matrix *m, uint32_t group, const fs_free_group *g,
                              fs_detail *detail)
{
    for (uint32_t l = 0; l < LANES; l++) {
        uint32_t pos = fs_free_u16(g->scales + 2 * l), neg = fs_free_u16(g->scales + 2 * (LANES + l));
        bool padding = is_padding(m, group, g, l);
        if (pos >= 0x7f80 || (neg != 0 && (neg <= 0x8000 || neg >= 0xff80)) || (padding && (pos || neg)))
            return fs_fail(detail, FS_CORRUPT, "blob: row %u%s has the scales %g and %g",
                           block_of(group) + g->row[l], padding ? " (padding)" : "",
                           (double)fs_bf16_to_f32((fs_bf16)pos), (double)fs_bf16_to_f32((fs_bf16)neg));
    }
    return FS_OK;
}

/* A window stops by itself at the last of the padded columns, and places are modulo its size: nothing else keeps a kernel in bounds. */
static fs_status check_moves(uint32_t group, const fs_free_group *g, fs_detail *detail)
{
    uint32_t used = g->num_steps % 4;
    if (g->move_shift > FS_FREE_MAX_SHIFT)
        return fs_fail(detail, FS_CORRUPT, "blob: group %u: moves are shifted by %u", group, g->move_shift);
    if (used && g->moves[g->num_steps / 4] >> 2 * used)
        return fs_fail(detail, FS_CORRUPT, "blob: group %u: moves behind its last step", group);
    return FS_OK;
}

/* In each part ascending by column, then by lane, so that none is there twice. */
static fs_status check_side(const fs_sub1_matrix *m, uint32_t group, const fs_free_group *g,
                            fs_detail *detail)
{
    const uint8_t *at = g->side;
    for (uint32_t p = 0; p < fs_free_side_parts(m->cols); p++) {
        uint32_t count = fs_free_u16(g->counts + 2 * p), next = 0;
        for (uint32_t i = 0; i < count; i++, at += FS_FREE_SIDE_BYTES) {
            uint32_t entry = fs_free_u16(at), lane = fs_free_side_lane(entry);
            uint32_t in_part = fs_free_side_col(entry), col = p * FS_FREE_SIDE_COLS + in_part;
            uint32_t place = in_part * LANES + lane;
            if (col >= m->cols || place < next || is_padding(m, group, g, lane))
                return fs_fail(
                    detail, FS_CORRUPT,
                    "blob: group %u: side entry %u of part %u (lane %u, column %u) cannot be there", group, i,
                    p, lane, col);
            next = place + 1;
        }
    }
    return FS_OK;
}

/* The side entries of one lane, one after the other. */
typedef struct {
    uint32_t part, left; /* entries that are left of the part */
    const uint8_t *next;
} side_walk;

static side_walk start_side(const fs_free_group *g)
{
    return (side_walk){0, fs_free_u16(g->counts), g->side};
}

/* Goes on to the lane's next entry. False: there is none. */
static bool next_side(const fs_free_group *g, uint32_t lane, uint32_t cols, side_walk *walk, uint32_t *col,
                      bool *negative)
{
    for (;;) {
        for (; walk->left > 0; walk->left--) {
            uint32_t entry = fs_free_u16(walk->next);
            walk->next += FS_FREE_SIDE_BYTES;
            if (fs_free_side_lane(entry) != lane) continue;
            *col = walk->part * FS_FREE_SIDE_COLS + fs_free_side_col(entry);
            *negative = entry >> 15;
            walk->left--;
            return true;
        }
        if (++walk->part >= fs_free_side_parts(cols)) return false;
        walk->left = fs_free_u16(g->counts + 2 * walk->part);
    }
}

/* A lane's columns ascend, are in the matrix and not in the side list too: so no weight is added twice and sums keep their bounds. */
static fs_status check_lane(const fs_sub1_matrix *m, uint32_t group, const fs_free_group *g, uint32_t lane,
                            fs_detail *detail)
{
    fs_free_walk walk = fs_free_start_walk(m);
    fs_free_weight w[FS_FREE_CODES];
    side_walk side = start_side(g);
    uint32_t side_col = 0, first = 0; /* first: that the next weight may have */
    bool padding = is_padding(m, group, g, lane), negative;
    bool more = next_side(g, lane, m->cols, &side, &side_col, &negative);
    for (uint32_t s = 0; s < g->num_steps; s++) {
        fs_free_walk_step(g, lane, s, &walk, w);
        for (uint32_t k = 0; k < FS_FREE_CODES; k++) {
            if (!w[k].nonzero) continue;
            while (more && side_col < w[k].col)
                more = next_side(g, lane, m->cols, &side, &side_col, &negative);
            bool twice = more && side_col == w[k].col;
            if (padding || w[k].col < first || w[k].col >= m->cols || twice)
                return fs_fail(detail, FS_CORRUPT,
                               "blob: group %u, lane %u, step %u: code %u leads to column %u%s", group, lane,
                               s, k, w[k].col,
                               twice ? ", which the side list has too" : ", which is not its to reach");
            first = w[k].col + 1;
        }
    }
    return FS_OK;
}

static fs_status check_dense(const fs_sub1_matrix *m, uint32_t group, const fs_free_group *g,
                             fs_detail *detail)
{
    const uint8_t *unit = g->steps;
    for (uint32_t l = 0; l < LANES; l++) {
        for (uint32_t col = 0; col < m->cols; col += 64, unit += FS_FREE_UNIT_BYTES) {
            uint64_t pos, neg;
            memcpy(&pos, unit, 8);
            memcpy(&neg, unit + 8, 8);
            uint64_t allowed = is_padding(m, group, g, l) ? 0
                               : m->cols - col >= 64      ? ~0ull
                                                          : (1ull << (m->cols - col)) - 1;
            if ((pos & neg) || ((pos | neg) & ~allowed))
                return fs_fail(detail, FS_CORRUPT,
                               "blob: group %u, lane %u: reserved bits in columns %u to %u", group, l, col,
                               col + 63);
        }
    }
    return FS_OK;
}

static fs_status check_coded(const fs_sub1_matrix *m, uint32_t group, const fs_free_group *g,
                             fs_detail *detail)
{
    fs_status st = check_moves(group, g, detail);
    if (st == FS_OK) st = check_side(m, group, g, detail);
    for (uint32_t l = 0; st == FS_OK && l < LANES; l++) st = check_lane(m, group, g, l, detail);
    return st;
}

static fs_status check(const fs_sub1_matrix *m, fs_detail *detail)
{
    uint8_t seen[FS_FREE_BLOCK_ROWS / 8] = {0};
    fs_status st = check_directory(m, detail);
    for (uint32_t i = 0; st == FS_OK && i < num_groups(m); i++) {
        fs_free_group g = fs_free_parts(fs_free_group_bytes(m, i), m->cols);
        if (i % FS_FREE_BLOCK_GROUPS == 0) memset(seen, 0, sizeof(seen));
        st = check_rows(m, i, &g, seen, detail);
        if (st == FS_OK && g.kind != FS_FREE_EMPTY) st = check_scales(m, i, &g, detail);
        if (st == FS_OK && g.kind == FS_FREE_CODED) st = check_coded(m, i, &g, detail);
        if (st == FS_OK && g.kind == FS_FREE_DENSE) st = check_dense(m, i, &g, detail);
    }
    return st;
}

/* ---- decoding ---- */

static void decode_coded(const fs_sub1_matrix *m, const fs_free_group *g, uint32_t lane, const float scale[2],
                         float *row)
{
    fs_free_walk walk = fs_free_start_walk(m);
    fs_free_weight w[FS_FREE_CODES];
    for (uint32_t s = 0; s < g->num_steps; s++) {
        fs_free_walk_step(g, lane, s, &walk, w);
        for (uint32_t k = 0; k < FS_FREE_CODES; k++)
            if (w[k].nonzero) row[w[k].col] = scale[w[k].negative];
    }
    side_walk side = start_side(g);
    uint32_t col;
    bool negative;
    while (next_side(g, lane, m->cols, &side, &col, &negative)) row[col] = scale[negative];
}

static void decode_dense(const fs_free_group *g, uint32_t lane, const float scale[2], uint32_t cols,
                         float *row)
{
    const uint8_t *unit = g->steps + (size_t)lane * fs_free_units(cols) * FS_FREE_UNIT_BYTES;
    for (uint32_t c = 0; c < cols; c++) {
        const uint8_t *bits = unit + c / 64 * FS_FREE_UNIT_BYTES + c % 64 / 8;
        for (int neg = 0; neg < 2; neg++)
            if (bits[8 * neg] >> c % 8 & 1) row[c] = scale[neg];
    }
}

static void decode(const fs_sub1_matrix *m, float *w)
{
    memset(w, 0, sizeof(float) * m->rows * m->cols);
    for (uint32_t i = 0; i < num_groups(m); i++) {
        fs_free_group g = fs_free_parts(fs_free_group_bytes(m, i), m->cols);
        for (uint32_t l = 0; g.kind != FS_FREE_EMPTY && l < LANES; l++) {
            if (is_padding(m, i, &g, l)) continue;
            float *row = w + (size_t)(block_of(i) + g.row[l]) * m->cols;
            const float scale[2] = {fs_bf16_to_f32((fs_bf16)fs_free_u16(g.scales + 2 * l)),
                                    fs_bf16_to_f32((fs_bf16)fs_free_u16(g.scales + 2 * (LANES + l)))};
            if (g.kind == FS_FREE_CODED)
                decode_coded(m, &g, l, scale, row);
            else
                decode_dense(&g, l, scale, m->cols, row);
        }
    }
}

const fs_sub1_codec fs_free = {.format = FS_SUB1_FREE,
                               .group_rows = LANES,
                               .min_padded_cols = FS_FREE_WINDOW,
                               .scattered = true,
                               .check = check,
                               .decode = decode};
