/* common/sub1/blocked_read.c: blocked 2:16: the shape of its payload, the check of everything in it, and decoding. */
#include <string.h>

#include "sub1/sub1_int.h"

enum { GROUP_ROWS = FS_SUB1_GROUP_ROWS, UNIT = FS_BLOCKED_2_16_UNIT, SIGNS = FS_BLOCKED_2_16_SIGNS };

static size_t payload_bytes(uint32_t rows, uint32_t cols)
{
    if (cols % FS_BLOCKED_BLOCK_COLS) return 0;
    size_t groups = fs_sub1_round_up(rows, GROUP_ROWS) / GROUP_ROWS;
    size_t units = fs_sub1_round_up(cols, FS_BLOCKED_UNIT_COLS) / FS_BLOCKED_UNIT_COLS;
    return groups * (FS_BLOCKED_SCALE_BYTES + units * UNIT);
}

static fs_bf16 scale_at(const uint8_t *group, uint32_t index)
{
    return (fs_bf16)(group[2 * index] | group[2 * index + 1] << 8);
}

static uint64_t signs_of(const uint8_t *unit)
{
    uint64_t signs = 0;
    for (int i = 0; i < 8; i++) signs |= (uint64_t)unit[SIGNS + i] << (8 * i);
    return signs;
}

/* pos: zero or a positive finite number; neg: zero or a negative one. Zero where the row has no such weight. */
static fs_status check_scales(const uint8_t *group, uint32_t first_row, uint32_t rows, fs_detail *detail)
{
    for (uint32_t r = 0; r < GROUP_ROWS; r++) {
        fs_bf16 pos = scale_at(group, r), neg = scale_at(group, GROUP_ROWS + r);
        bool padding = first_row + r >= rows;
        if (pos >= 0x7f80 || (neg != 0 && (neg <= 0x8000 || neg >= 0xff80)) || (padding && (pos || neg)))
            return fs_fail(detail, FS_CORRUPT, "blob: row %u%s has the scales %g and %g", first_row + r,
                           padding ? " (padding)" : "", (double)fs_bf16_to_f32(pos),
                           (double)fs_bf16_to_f32(neg));
    }
    return FS_OK;
}

static bool has_reserved_code(const uint8_t *unit)
{
    uint8_t found = 0;
    for (uint32_t i = 0; i < SIGNS; i++) found |= (unit[i] >> 4) == (unit[i] & 15);
    return found;
}

/* Padding says nothing, so it has one spelling: a matrix has exactly one blob. */
static bool padding_is_plain(const uint8_t *unit, uint32_t rows_left, uint32_t cols_left)
{
    uint64_t signs = signs_of(unit);
    for (uint32_t i = 0; i < SIGNS; i++) {
        bool padding = i / 4 >= rows_left || i % 4 * FS_BLOCKED_BLOCK_COLS >= cols_left;
        if (padding && (unit[i] != FS_BLOCKED_2_16_PADDING || (signs >> i & 1))) return false;
    }
    return true;
}

static fs_status check(const fs_sub1_matrix *m, fs_detail *detail)
{
    const uint8_t *at = m->payload;
    for (uint32_t row = 0; row < m->rows; row += GROUP_ROWS) {
        fs_status st = check_scales(at, row, m->rows, detail);
        if (st != FS_OK) return st;
        at += FS_BLOCKED_SCALE_BYTES;
        for (uint32_t col = 0; col < m->cols; col += FS_BLOCKED_UNIT_COLS, at += UNIT) {
            if (has_reserved_code(at))
                return fs_fail(detail, FS_CORRUPT, "blob: reserved code in the unit of row %u, column %u",
                               row, col);
            bool whole = m->rows - row >= GROUP_ROWS && m->cols - col >= FS_BLOCKED_UNIT_COLS;
            if (!whole && !padding_is_plain(at, m->rows - row, m->cols - col))
                return fs_fail(detail, FS_CORRUPT,
                               "blob: padding in the unit of row %u, column %u is not plain", row, col);
        }
    }
    return FS_OK;
}

static void decode_unit(const uint8_t *unit, const uint8_t *group, uint32_t rows_left, uint32_t cols_left,
                        uint32_t cols, float *w)
{
    uint64_t signs = signs_of(unit);
    for (uint32_t i = 0; i < SIGNS; i++) {
        uint32_t r = i / 4, col = i % 4 * FS_BLOCKED_BLOCK_COLS;
        if (r >= rows_left || col >= cols_left) continue;
        uint32_t a = unit[i] & 15, b = unit[i] >> 4;
        bool o = a > b, s = signs >> i & 1;
        const float scale[2] = {fs_bf16_to_f32(scale_at(group, r)),
                                fs_bf16_to_f32(scale_at(group, GROUP_ROWS + r))};
        float *row = w + (size_t)r * cols + col;
        row[a] = scale[o && s];
        row[b] = scale[o || s];
    }
}

static void decode(const fs_sub1_matrix *m, float *w)
{
    memset(w, 0, sizeof(float) * m->rows * m->cols);
    const uint8_t *at = m->payload;
    for (uint32_t row = 0; row < m->rows; row += GROUP_ROWS) {
        const uint8_t *group = at;
        at += FS_BLOCKED_SCALE_BYTES;
        for (uint32_t col = 0; col < m->cols; col += FS_BLOCKED_UNIT_COLS, at += UNIT)
            decode_unit(at, group, m->rows - row, m->cols - col, m->cols, w + (size_t)row * m->cols + col);
    }
}

const fs_sub1_codec fs_blocked_2_16 = {FS_SUB1_BLOCKED, 2, 16, payload_bytes, check, decode};
