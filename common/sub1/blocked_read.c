/* common/sub1/blocked_read.c: blocked N:16: the shape of its payload, the check of everything in it, and decoding. */
#include <string.h>

#include "sub1/blocked_int.h"

enum { GROUP_ROWS = FS_BLOCKED_GROUP_ROWS, UNIT_COLS = FS_BLOCKED_UNIT_COLS, BLOCK = FS_BLOCKED_BLOCK_COLS };

static uint32_t num_units(uint32_t cols)
{
    return (cols + UNIT_COLS - 1) / UNIT_COLS;
}

static size_t payload_bytes(const fs_sub1_codec *codec, uint32_t rows, uint32_t cols, bool symmetric)
{
    size_t groups = (rows + GROUP_ROWS - 1) / GROUP_ROWS;
    return groups * fs_blocked_group_bytes(codec->n, symmetric, num_units(cols));
}

static fs_bf16 scale_at(const uint8_t *group, uint32_t index)
{
    return (fs_bf16)(group[2 * index] | group[2 * index + 1] << 8);
}

/* pos: zero or a positive finite number; neg: zero or a negative one, in a symmetric matrix not there. Zero where the row has no such
 * weight. *needs_both: some row of the group could not be written with one scale. */
static fs_status check_scales(const fs_sub1_matrix *m, const uint8_t *group, uint32_t first_row,
                              bool *needs_both, fs_detail *detail)
{
    for (uint32_t r = 0; r < GROUP_ROWS; r++) {
        fs_bf16 pos = scale_at(group, r), neg = m->symmetric ? 0 : scale_at(group, GROUP_ROWS + r);
        bool padding = first_row + r >= m->rows;
        if (pos >= 0x7f80 || (neg != 0 && (neg <= 0x8000 || neg >= 0xff80)) || (padding && (pos || neg)))
            return fs_fail(detail, FS_CORRUPT, "blob: row %u%s has the scales %g and %g", first_row + r,
                           padding ? " (padding)" : "", (double)fs_bf16_to_f32(pos),
                           (double)fs_bf16_to_f32(neg));
        *needs_both |= pos != 0 && neg != 0 && neg != (pos | 0x8000);
    }
    return FS_OK;
}

/* 2:16: both places the same. */
static bool has_reserved_pair(const uint8_t *unit)
{
    uint8_t found = 0;
    for (uint32_t i = 0; i < 4 * GROUP_ROWS; i++) found |= (unit[i] & 0xc3) == 0;
    return found;
}

/* 3:16: two places the same, or one of the two orders that say what another says (fs_sub1_encode_blocked: order_of). */
static bool has_reserved_triple(const uint8_t *unit)
{
    bool found = false;
    for (uint32_t i = 0; i < 4 * GROUP_ROWS; i++) {
        fs_blocked_block b = fs_blocked_get(3, unit, i / 4, i % 4);
        uint32_t first = b.at[0], second = b.at[1], third = b.at[2];
        bool turns = (first < second) != (second < third);
        found |= first == second || second == third || third == first || (turns && third < first);
    }
    return found;
}

static bool has_reserved_code(uint32_t n, const uint8_t *unit)
{
    return n == 2 ? has_reserved_pair(unit) : n == 3 && has_reserved_triple(unit);
}

/* Columns of padding beside `real` ones of a block: its nonzeros are the first of them, and positive. */
static bool padding_is_plain(const fs_blocked_block *b, uint32_t n, uint32_t real)
{
    uint32_t seen = 0, count = 0;
    for (uint32_t j = 0; j < n; j++) {
        if (b->at[j] < real) continue;
        if (b->negative[j]) return false;
        seen |= 1u << b->at[j];
        count++;
    }
    return seen == ((1u << count) - 1) << real;
}

/* Padding says nothing, so it has one spelling: a matrix has exactly one blob. */
static bool unit_is_plain(const uint8_t *unit, uint32_t n, uint32_t rows_left, uint32_t cols_left)
{
    for (uint32_t i = 0; i < 4 * GROUP_ROWS; i++) {
        uint32_t row = i / 4, col = i % 4 * BLOCK;
        uint32_t real = row >= rows_left || col >= cols_left ? 0 : cols_left - col;
        if (real >= BLOCK) continue;
        fs_blocked_block b = fs_blocked_get(n, unit, row, i % 4);
        if (!padding_is_plain(&b, n, real)) return false;
    }
    return true;
}

static fs_status check_group(const fs_sub1_matrix *m, const uint8_t *group, uint32_t row, bool *needs_both,
                             fs_detail *detail)
{
    fs_status st = check_scales(m, group, row, needs_both, detail);
    if (st != FS_OK) return st;
    const uint8_t *unit = group + fs_blocked_scales(m->symmetric);
    for (uint32_t col = 0; col < m->cols; col += UNIT_COLS, unit += fs_blocked_unit_bytes(m->n)) {
        if (has_reserved_code(m->n, unit))
            return fs_fail(detail, FS_CORRUPT, "blob: reserved code in the unit of row %u, column %u", row,
                           col);
        bool whole = m->rows - row >= GROUP_ROWS && m->cols - col >= UNIT_COLS;
        if (!whole && !unit_is_plain(unit, m->n, m->rows - row, m->cols - col))
            return fs_fail(detail, FS_CORRUPT, "blob: padding in the unit of row %u, column %u is not plain",
                           row, col);
    }
    return FS_OK;
}

static fs_status check(const fs_sub1_matrix *m, fs_detail *detail)
{
    size_t group_bytes = fs_blocked_group_bytes(m->n, m->symmetric, num_units(m->cols));
    const uint8_t *group = m->payload;
    bool needs_both = m->symmetric;
    for (uint32_t row = 0; row < m->rows; row += GROUP_ROWS, group += group_bytes) {
        fs_status st = check_group(m, group, row, &needs_both, detail);
        if (st != FS_OK) return st;
    }
    if (!needs_both)
        return fs_fail(detail, FS_CORRUPT, "blob: two scales a row, and one would do in every row");
    return FS_OK;
}

static void decode_unit(const fs_sub1_matrix *m, const uint8_t *unit, const uint8_t *group,
                        uint32_t rows_left, uint32_t cols_left, float *w)
{
    for (uint32_t i = 0; i < 4 * GROUP_ROWS; i++) {
        uint32_t r = i / 4, col = i % 4 * BLOCK;
        if (r >= rows_left || col >= cols_left) continue;
        float pos = fs_bf16_to_f32(scale_at(group, r));
        float neg = m->symmetric ? -pos : fs_bf16_to_f32(scale_at(group, GROUP_ROWS + r));
        fs_blocked_block b = fs_blocked_get(m->n, unit, r, i % 4);
        for (uint32_t j = 0; j < m->n; j++)
            if (col + b.at[j] < cols_left) w[(size_t)r * m->cols + col + b.at[j]] = b.negative[j] ? neg : pos;
    }
}

static void decode(const fs_sub1_matrix *m, float *w)
{
    memset(w, 0, sizeof(float) * m->rows * m->cols);
    const uint8_t *at = m->payload;
    for (uint32_t row = 0; row < m->rows; row += GROUP_ROWS) {
        const uint8_t *group = at;
        at += fs_blocked_scales(m->symmetric);
        for (uint32_t col = 0; col < m->cols; col += UNIT_COLS, at += fs_blocked_unit_bytes(m->n))
            decode_unit(m, at, group, m->rows - row, m->cols - col, w + (size_t)row * m->cols + col);
    }
}

#define CODEC(N)                                                                                             \
    {                                                                                                        \
        .format = FS_SUB1_BLOCKED, .n = N, .m = BLOCK, .group_rows = GROUP_ROWS,                             \
        .min_padded_cols = UNIT_COLS, .may_be_symmetric = true, .payload_bytes = payload_bytes,              \
        .check = check, .decode = decode                                                                     \
    }
const fs_sub1_codec fs_blocked_1_16 = CODEC(1), fs_blocked_2_16 = CODEC(2), fs_blocked_3_16 = CODEC(3);
