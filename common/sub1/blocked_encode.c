/* common/sub1/blocked_encode.c: a matrix that is already ternary and N:16, into a blob; anything else is refused. */
#include <math.h>
#include <string.h>

#include "sub1/blocked_int.h"

enum { GROUP_ROWS = FS_BLOCKED_GROUP_ROWS, UNIT_COLS = FS_BLOCKED_UNIT_COLS, BLOCK = FS_BLOCKED_BLOCK_COLS };

/* A matrix on its way into a blob. */
typedef struct {
    const float *w;
    uint32_t rows, cols, n;
    bool symmetric;
    uint8_t *payload;
    fs_detail *detail;
} encoder;

static bool is_bf16(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return (bits & 0xffff) == 0;
}

fs_status fs_sub1_find_scales(const float *w, uint32_t row, uint32_t cols, float scale[2], fs_detail *detail)
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

/* The block's n nonzeros, lowest first. Where it has columns of padding, what is missing goes to the first of those. */
static fs_status find_nonzeros(const encoder *e, uint32_t row, uint32_t col, fs_blocked_block *out)
{
    const float *w = e->w + (size_t)row * e->cols + col;
    uint32_t left = e->cols - col < BLOCK ? e->cols - col : BLOCK, count = 0;
    for (uint32_t c = 0; c < left; c++) {
        if (w[c] == 0) continue;
        if (count == e->n)
            return fs_fail(e->detail, FS_INVALID,
                           "row %u, column %u: more than %u nonzeros in columns %u to %u, %u:16 has %u", row,
                           col + c, e->n, col, col + left - 1, e->n, e->n);
        out->at[count] = c;
        out->negative[count++] = w[c] < 0;
    }
    if (e->n - count > BLOCK - left)
        return fs_fail(e->detail, FS_INVALID,
                       "row %u, column %u: %u nonzeros in columns %u to %u, %u:16 has %u", row, col, count,
                       col, col + left - 1, e->n, e->n);
    for (uint32_t c = left; count < e->n; c++) {
        out->at[count] = c;
        out->negative[count++] = false;
    }
    return FS_OK;
}

/* In which order the places are written, so that the signs come out: walking from one to the next, passing column 0 downwards (which is
 * where the next is higher) changes the sign. For three, four of the six orders do; the other two would repeat one of them. */
static void order_of(uint32_t n, const bool negative[FS_BLOCKED_MAX_N], uint32_t order[FS_BLOCKED_MAX_N])
{
    static const uint32_t same[] = {2, 1, 0}, first[] = {0, 2, 1}, middle[] = {0, 1, 2}, last[] = {1, 0, 2};
    const uint32_t *chosen = same;
    if (n == 3 && negative[0] != negative[1])
        chosen = negative[1] == negative[2] ? first : middle;
    else if (n == 3 && negative[1] != negative[2])
        chosen = last;
    for (uint32_t j = 0; j < n && n == 3; j++) order[j] = chosen[j];
    if (n == 2) order[0] = negative[0] == negative[1], order[1] = !order[0];
    if (n == 1) order[0] = 0;
}

/* b: lowest place first. */
static void put_block(uint32_t n, uint8_t *unit, uint32_t row, uint32_t k, const fs_blocked_block *b)
{
    uint32_t order[FS_BLOCKED_MAX_N] = {0}, i = 4 * row + k, in_strip = i % 64;
    order_of(n, b->negative, order);
    uint32_t at = b->at[order[0]], way = (at - b->at[order[n > 1]]) & 15;
    uint32_t nibble = n == 1 ? at : (b->at[order[1]] - b->at[order[2]]) & 15;
    if (n >= 2) unit[i] = (uint8_t)(way >> 2 | at << 2 | way << 6);
    uint8_t *nibbles = unit + fs_blocked_nibbles_at(n) +
                       row / FS_BLOCKED_STRIP_ROWS * FS_BLOCKED_STRIP_NIBBLES;
    if (n % 2) nibbles[in_strip % 32] |= (uint8_t)(nibble << in_strip / 32 * 4);
    unit[fs_blocked_signs_at(n) + i / 8] |= (uint8_t)(b->negative[order[0]] << i % 8);
}

static fs_status encode_unit(const encoder *e, uint32_t first_row, uint32_t first_col, uint8_t *unit)
{
    memset(unit, 0, fs_blocked_unit_bytes(e->n));
    for (uint32_t i = 0; i < 4 * GROUP_ROWS; i++) {
        uint32_t row = first_row + i / 4, col = first_col + i % 4 * BLOCK;
        fs_blocked_block b = {.at = {0, 1, 2}};
        if (row < e->rows && col < e->cols) {
            fs_status st = find_nonzeros(e, row, col, &b);
            if (st != FS_OK) return st;
        }
        put_block(e->n, unit, i / 4, i % 4, &b);
    }
    return FS_OK;
}

static void put_scale(uint8_t *scales, uint32_t index, float scale)
{
    fs_bf16 v = fs_f32_to_bf16(scale); /* exact: fs_sub1_find_scales saw to it */
    scales[2 * index] = (uint8_t)v;
    scales[2 * index + 1] = (uint8_t)(v >> 8);
}

static fs_status encode_scales(const encoder *e, uint32_t first_row, uint8_t *group)
{
    memset(group, 0, fs_blocked_scales(e->symmetric));
    for (uint32_t r = 0; r < GROUP_ROWS && first_row + r < e->rows; r++) {
        float scale[2];
        fs_status st = fs_sub1_find_scales(e->w + (size_t)(first_row + r) * e->cols, first_row + r, e->cols,
                                           scale, e->detail);
        if (st != FS_OK) return st;
        put_scale(group, r, e->symmetric && scale[1] < 0 ? -scale[1] : scale[0]);
        if (!e->symmetric) put_scale(group, GROUP_ROWS + r, scale[1]);
    }
    return FS_OK;
}

static fs_status encode(const encoder *e)
{
    uint8_t *at = e->payload;
    for (uint32_t row = 0; row < e->rows; row += GROUP_ROWS) {
        fs_status st = encode_scales(e, row, at);
        at += fs_blocked_scales(e->symmetric);
        for (uint32_t col = 0; st == FS_OK && col < e->cols;
             col += UNIT_COLS, at += fs_blocked_unit_bytes(e->n))
            st = encode_unit(e, row, col, at);
        if (st != FS_OK) return st;
    }
    return FS_OK;
}

/* Whether one scale a row does. */
static fs_status find_symmetry(encoder *e)
{
    e->symmetric = true;
    for (uint32_t row = 0; row < e->rows && e->symmetric; row++) {
        float scale[2];
        fs_status st = fs_sub1_find_scales(e->w + (size_t)row * e->cols, row, e->cols, scale, e->detail);
        if (st != FS_OK) return st;
        e->symmetric = scale[0] == 0 || scale[1] == 0 || scale[0] == -scale[1];
    }
    return FS_OK;
}

fs_status fs_sub1_encode_blocked(const float *w, uint32_t rows, uint32_t cols, uint32_t n, uint32_t m,
                                 uint8_t *out, fs_detail *detail)
{
    const fs_sub1_codec *codec = fs_sub1_codec_find(FS_SUB1_BLOCKED, n, m);
    if (!codec) return fs_fail(detail, FS_INVALID, "blocked %u:%u is not a format of this build", n, m);
    size_t most = fs_sub1_blob_bytes(FS_SUB1_BLOCKED, n, m, rows, cols);
    if (most == 0)
        return fs_fail(detail, FS_INVALID, "%u x %u: rows and columns are 1 to %u", rows, cols,
                       FS_SUB1_MAX_DIM);
    encoder e = {w, rows, cols, n, false, out + FS_SUB1_HEADER_BYTES, detail};
    fs_status st = find_symmetry(&e);
    if (st == FS_OK) st = encode(&e);
    if (st != FS_OK) return st;
    size_t payload = codec->payload_bytes(codec, rows, cols, e.symmetric);
    memset(e.payload + payload, 0, most - FS_SUB1_HEADER_BYTES - payload);
    fs_sub1_seal(codec, rows, cols, e.symmetric ? FS_SUB1_SYMMETRIC : 0, payload, out);
    return FS_OK;
}
