/* common/sub1/blocked_encode.c: a matrix that is already ternary and 2:16, into a blob; anything else is refused. */
#include <math.h>
#include <string.h>

#include "sub1/sub1_int.h"

enum { GROUP_ROWS = FS_SUB1_GROUP_ROWS, UNIT = FS_BLOCKED_2_16_UNIT, BLOCK = FS_BLOCKED_BLOCK_COLS };

static bool is_bf16(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return (bits & 0xffff) == 0;
}

/* The row's one positive and one negative value; 0 where it has none. -0 counts as zero. */
static fs_status find_scales(const float *w, uint32_t row, uint32_t cols, float scale[2], fs_detail *detail)
{
    scale[0] = scale[1] = 0;
    for (uint32_t c = 0; c < cols; c++) {
        float v = w[c], *have = &scale[v < 0];
        if (v == 0 || v == *have) continue;
        if (!isfinite(v))
            return fs_fail(detail, FS_INVALID, "row %u, column %u: %g is not finite", row, c, (double)v);
        if (!is_bf16(v))
            return fs_fail(detail, FS_INVALID, "row %u, column %u: %.9g is not exactly a bf16", row, c,
                           (double)v);
        if (*have != 0)
            return fs_fail(detail, FS_INVALID, "row %u, column %u: not ternary: the row has both %g and %g",
                           row, c, (double)*have, (double)v);
        *have = v;
    }
    return FS_OK;
}

/* One row of one block: the byte of positions, and the sign bit. */
static fs_status encode_block(const float *w, uint32_t row, uint32_t col, uint8_t *byte, bool *sign,
                              fs_detail *detail)
{
    uint32_t at[2], count = 0;
    for (uint32_t c = 0; c < BLOCK; c++) {
        if (w[c] == 0) continue;
        if (count == 2)
            return fs_fail(detail, FS_INVALID,
                           "row %u, column %u: a third nonzero in columns %u to %u, 2:16 has 2", row, col + c,
                           col, col + BLOCK - 1);
        at[count++] = c;
    }
    if (count < 2)
        return fs_fail(detail, FS_INVALID, "row %u, column %u: %u nonzeros in columns %u to %u, 2:16 has 2",
                       row, col, count, col, col + BLOCK - 1);
    bool i_neg = w[at[0]] < 0, j_neg = w[at[1]] < 0;
    *byte = (uint8_t)(i_neg ? at[1] | at[0] << 4
                            : at[0] | at[1] << 4); /* the order says the first one's sign */
    *sign = j_neg;
    return FS_OK;
}

static fs_status encode_row(const float *w, uint32_t row, uint32_t cols, uint8_t *group, fs_detail *detail)
{
    float scale[2];
    fs_status st = find_scales(w, row, cols, scale, detail);
    if (st != FS_OK) return st;
    uint32_t r = row % GROUP_ROWS;
    for (uint32_t i = 0; i < 2; i++) {
        fs_bf16 v = fs_f32_to_bf16(scale[i]); /* exact: find_scales saw to it */
        group[2 * (GROUP_ROWS * i + r)] = (uint8_t)v;
        group[2 * (GROUP_ROWS * i + r) + 1] = (uint8_t)(v >> 8);
    }
    for (uint32_t col = 0; col < cols; col += BLOCK) {
        uint8_t *unit = group + FS_BLOCKED_SCALE_BYTES + (size_t)(col / FS_BLOCKED_UNIT_COLS) * UNIT;
        uint32_t i = 4 * r + col % FS_BLOCKED_UNIT_COLS / BLOCK;
        bool sign = false;
        st = encode_block(w + col, row, col, &unit[i], &sign, detail);
        if (st != FS_OK) return st;
        unit[FS_BLOCKED_2_16_SIGNS + i / 8] |= (uint8_t)(sign << i % 8);
    }
    return FS_OK;
}

/* A group of nothing but padding. */
static void clear_group(uint8_t *group, uint32_t cols)
{
    memset(group, 0, FS_BLOCKED_SCALE_BYTES);
    uint8_t *unit = group + FS_BLOCKED_SCALE_BYTES;
    for (uint32_t col = 0; col < cols; col += FS_BLOCKED_UNIT_COLS, unit += UNIT) {
        memset(unit, FS_BLOCKED_2_16_PADDING, FS_BLOCKED_2_16_SIGNS);
        memset(unit + FS_BLOCKED_2_16_SIGNS, 0, UNIT - FS_BLOCKED_2_16_SIGNS);
    }
}

fs_status fs_sub1_encode_blocked(const float *w, uint32_t rows, uint32_t cols, uint32_t n, uint32_t m,
                                 uint8_t *out, fs_detail *detail)
{
    const fs_sub1_codec *codec = fs_sub1_codec_find(FS_SUB1_BLOCKED, n, m);
    if (!codec) return fs_fail(detail, FS_INVALID, "blocked %u:%u is not a format of this build", n, m);
    size_t bytes = fs_sub1_blob_bytes(FS_SUB1_BLOCKED, n, m, rows, cols);
    if (bytes == 0)
        return fs_fail(detail, FS_INVALID, "%u x %u: rows and columns are 1 to %u, columns a multiple of %u",
                       rows, cols, FS_SUB1_MAX_DIM, m);
    size_t group_bytes = (bytes - FS_SUB1_HEADER_BYTES) / (fs_sub1_round_up(rows, GROUP_ROWS) / GROUP_ROWS);
    for (uint32_t row = 0; row < rows; row++) {
        uint8_t *group = out + FS_SUB1_HEADER_BYTES + row / GROUP_ROWS * group_bytes;
        if (row % GROUP_ROWS == 0) clear_group(group, cols);
        fs_status st = encode_row(w + (size_t)row * cols, row, cols, group, detail);
        if (st != FS_OK) return st;
    }
    fs_sub1_seal(codec, rows, cols, out);
    return FS_OK;
}
