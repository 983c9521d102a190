/* common/sub1/free_vbmi.c: the product with a *free* matrix by AVX-512 VBMI and VNNI: a 32-bit lane a matrix row, its bytes the four
 * codes of a step; a multiplication makes positions of codes, two byte permutes look them up in a window of 256 activations. */
#include "sub1/free_int.h"

#if defined(__AVX512VBMI__)
#include <immintrin.h>

enum { LANES = FS_FREE_LANES, HALF = FS_FREE_HALF, TILE = 4 /* rows of x: 16 of 32 registers are sums */ };
#define INLINE static inline __attribute__((always_inline))

/* Half a step, taken apart once for all rows of x: byte 4r+k is lane r's code k. */
typedef struct {
    __m512i at;        /* position in the window */
    __mmask64 nonzero; /* there is a weight there */
    __mmask64 high;    /* ... in the window's second 128 columns */
    __m512i weight;    /* 15, or 30 where it is negative */
} half_parts;

/* Sums of a half, a 32-bit lane a matrix row: `total` over all weights, `weighted` 15 times that plus 15 times the sum over the
 * negative ones. |total| <= 65536 * 128 = 2^23 and |weighted| is at most 30 times as much, under 2^28: int32 holds both. (No column of a
 * lane comes twice: the reader saw to it.) */

/* code: 4 bits a byte. last: in each 32-bit lane's top byte, the position that the lane has passed; moved along. first: nothing is
 * passed yet, so that position 0 can be reached. The sum of four codes is at most 120 and stays in its byte; a code that leaves the
 * window stops at its end. */
INLINE half_parts take_apart(__m512i code, __mmask64 sign, __m512i each_byte, __m512i move, bool first,
                             __m512i *last)
{
    const __m512i skip = _mm512_set1_epi8(FS_FREE_SKIP), long_skip = _mm512_set1_epi8(FS_FREE_LONG_SKIP);
    const __m512i top_byte = _mm512_broadcast_i32x4(
        _mm_setr_epi8(3, 3, 3, 3, 7, 7, 7, 7, 11, 11, 11, 11, 15, 15, 15, 15));
    half_parts p;
    p.nonzero = _mm512_test_epi8_mask(code, code);
    p.weight = _mm512_mask_blend_epi8(sign, skip, long_skip);
    __m512i advance = _mm512_mask_blend_epi8(p.nonzero, p.weight, code);
    __m512i sum = _mm512_mullo_epi32(advance, each_byte); /* byte k: codes 0 to k */
    if (first) sum = _mm512_sub_epi8(sum, _mm512_set1_epi8(1));
    __m512i passed = _mm512_subs_epu8(_mm512_shuffle_epi8(*last, top_byte), move);
    *last = p.at = _mm512_adds_epu8(passed, sum);
    p.high = _mm512_movepi8_mask(p.at);
    return p;
}

/* Adds a half's part of the window that begins at x. */
INLINE void add_half(const half_parts *p, const __m512i x[4], __m512i *total, __m512i *weighted)
{
    __m512i low = _mm512_maskz_permutex2var_epi8(p->nonzero, x[0], p->at, x[1]);
    __m512i high = _mm512_maskz_permutex2var_epi8(p->nonzero, x[2], p->at, x[3]);
    __m512i v = _mm512_mask_blend_epi8(p->high, low, high);
    *total = _mm512_dpbusd_epi32(*total, _mm512_set1_epi8(1), v);
    *weighted = _mm512_dpbusd_epi32(*weighted, p->weight, v);
}

/* Both halves of a step. */
typedef struct {
    half_parts half[2];
} step_parts;

INLINE step_parts take_step(const uint8_t *step, __m512i each_byte, __m512i move, bool first, __m512i last[2])
{
    const __m512i nibble = _mm512_set1_epi8(15);
    uint64_t sign[2];
    __builtin_memcpy(sign, step + FS_FREE_STEP_SIGNS, sizeof(sign));
    __m512i codes = _mm512_loadu_si512(step), high = _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble);
    codes = _mm512_and_si512(codes, nibble);
    step_parts p;
    p.half[0] = take_apart(codes, _cvtu64_mask64(sign[0]), each_byte, move, first, &last[0]);
    p.half[1] = take_apart(high, _cvtu64_mask64(sign[1]), each_byte, move, first, &last[1]);
    return p;
}

/* Sums of a group, or what to add to them: by lane, over the positive weights, then over the negative ones. */
typedef struct {
    int32_t lane[2 * LANES];
} group_sums;

static void add_side(const fs_free_group *g, const int8_t *x, group_sums *sums)
{
    const uint8_t *side = g->side;
    for (uint32_t i = 0; i < g->num_side; i++, side += FS_FREE_SIDE_BYTES)
        sums->lane[side[2] & 63] += x[fs_free_u16(side)];
}

INLINE __m512 widen_scales(const uint8_t *bf16)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)bf16));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE void finish_half(const uint8_t *scales, __m512i p, __m512i n, float x_scale, float *y)
{
    __m512 pos = _mm512_mul_ps(widen_scales(scales), _mm512_cvtepi32_ps(p));
    __m512 neg = _mm512_mul_ps(widen_scales(scales + 2 * LANES), _mm512_cvtepi32_ps(n));
    _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_set1_ps(x_scale), _mm512_add_ps(pos, neg)));
}

/* Where lanes' results go. */
typedef struct {
    const uint8_t *row;
    uint32_t block, rows; /* the block's first row; how many rows the matrix has */
} places;

INLINE void scatter(const places *to, const float *lane, float *y)
{
    y += to->block;
    uint32_t rows = to->rows - to->block;
    if (rows >= FS_FREE_BLOCK_ROWS)
#pragma GCC unroll 32
        for (uint32_t i = 0; i < LANES; i++) y[to->row[i]] = lane[i];
    else
        for (uint32_t i = 0; i < LANES; i++)
            if (to->row[i] < rows) y[to->row[i]] = lane[i];
}

INLINE void finish(const fs_free_group *g, const places *to, const __m512i total[2],
                   const __m512i weighted[2], const group_sums *more, float x_scale, float *y)
{
    const __m512i fifteen = _mm512_set1_epi32(15),
                  inverse = _mm512_set1_epi32((int)0xeeeeeeef); /* mod 2^32 */
    _Alignas(64) float lane[LANES];
    for (int h = 0; h < 2; h++) {
        __m512i beyond = _mm512_sub_epi32(weighted[h], _mm512_mullo_epi32(total[h], fifteen));
        __m512i n = _mm512_mullo_epi32(beyond, inverse); /* a fifteenth, exactly */
        __m512i p = _mm512_sub_epi32(total[h], n);
        p = _mm512_add_epi32(p, _mm512_loadu_si512(more->lane + HALF * h));
        n = _mm512_add_epi32(n, _mm512_loadu_si512(more->lane + LANES + HALF * h));
        finish_half(g->scales + 2 * HALF * h, p, n, x_scale, lane + HALF * h);
    }
    scatter(to, lane, y);
}

/* One step with `rows` rows of x, whose window begins at base. */
INLINE void add_step(const step_parts *p, const int8_t *const *x, uint32_t base, __m512i total[2 * TILE],
                     __m512i weighted[2 * TILE], const uint32_t rows)
{
#pragma GCC unroll 4
    for (uint32_t r = 0; r < rows; r++) {
        const int8_t *at = x[r] + base;
        const __m512i window[4] = {_mm512_loadu_si512(at), _mm512_loadu_si512(at + 64),
                                   _mm512_loadu_si512(at + 128), _mm512_loadu_si512(at + 192)};
        add_half(&p->half[0], window, &total[2 * r], &weighted[2 * r]);
        add_half(&p->half[1], window, &total[2 * r + 1], &weighted[2 * r + 1]);
    }
}

/* rows: 1 to TILE, a constant where this is inlined. */
INLINE void multiply_coded(const fs_free_group *g, const places *to, const int8_t *const *x,
                           const float *x_scale, float *const *y, const uint32_t rows)
{
    static const uint32_t move_bytes[4] = {0, 0x40404040, 0x80808080,
                                           0xc0c0c0c0}; /* FS_FREE_MOVE times 0 to 3 */
    __m512i each_byte = _mm512_set1_epi32(0x01010101);
    __asm__(""
            : "+v"(each_byte)); /* or gcc makes four shifts and four additions of each multiplication by it */
    group_sums more[TILE];
    __m512i total[2 * TILE], weighted[2 * TILE], last[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
#pragma GCC unroll 8
    for (uint32_t r = 0; r < 2 * rows; r++) total[r] = weighted[r] = _mm512_setzero_si512();
    for (uint32_t r = 0; r < rows; r++) {
        more[r] = (group_sums){0};
        add_side(g, x[r], &more[r]);
    }
    const uint8_t *step = g->steps;
    uint32_t base = 0;
    if (g->num_steps) {
        step_parts p = take_step(step, each_byte, _mm512_setzero_si512(), true, last);
        add_step(&p, x, base, total, weighted, rows);
    }
    for (uint32_t s = 1; s < g->num_steps; s++) {
        step += FS_FREE_STEP_BYTES;
        uint32_t move = fs_free_move(g, s);
        base += move * FS_FREE_MOVE;
        step_parts p = take_step(step, each_byte, _mm512_set1_epi32((int)move_bytes[move]), false, last);
        add_step(&p, x, base, total, weighted, rows);
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < rows; r++)
        finish(g, to, total + 2 * r, weighted + 2 * r, &more[r], x_scale[r], y[r]);
}

/* Bits of 64 columns a row: 64 activations at a time, and one horizontal sum a row. */
static void multiply_dense(const fs_free_group *g, const places *to, uint32_t num_units, const int8_t *x,
                           float x_scale, float *y)
{
    const __m512i one = _mm512_set1_epi8(1);
    const __m512i none[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    group_sums sums;
    const uint8_t *unit = g->steps;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        __m512i pos = _mm512_setzero_si512(), neg = _mm512_setzero_si512();
        for (uint32_t u = 0; u < num_units; u++, unit += FS_FREE_UNIT_BYTES) {
            uint64_t bits[2];
            __builtin_memcpy(bits, unit, sizeof(bits));
            __m512i v = _mm512_loadu_si512(x + (size_t)u * 64);
            pos = _mm512_dpbusd_epi32(pos, _mm512_maskz_mov_epi8(_cvtu64_mask64(bits[0]), one), v);
            neg = _mm512_dpbusd_epi32(neg, _mm512_maskz_mov_epi8(_cvtu64_mask64(bits[1]), one), v);
        }
        sums.lane[lane] = _mm512_reduce_add_epi32(pos);
        sums.lane[LANES + lane] = _mm512_reduce_add_epi32(neg);
    }
    finish(g, to, none, none, &sums, x_scale, y);
}

static void write_empty(const places *to, float x_scale, float *y)
{
    float lane[LANES];
    for (int i = 0; i < LANES; i++)
        lane[i] = x_scale * 0.0f; /* not always 0: a broken row of x stays broken */
    scatter(to, lane, y);
}

static void multiply_group(const fs_sub1_matrix *w, const fs_free_group *g, const places *to,
                           const int8_t *const *x, const float *x_scale, float *const *y, uint32_t num_rows)
{
    uint32_t r = 0;
    if (g->kind == FS_FREE_CODED) {
        for (; num_rows - r >= 4; r += 4) multiply_coded(g, to, x + r, x_scale + r, y + r, 4);
        if (num_rows - r >= 2) multiply_coded(g, to, x + r, x_scale + r, y + r, 2), r += 2;
        if (num_rows - r >= 1) multiply_coded(g, to, x + r, x_scale + r, y + r, 1);
        return;
    }
    for (; r < num_rows; r++) {
        if (g->kind == FS_FREE_EMPTY)
            write_empty(to, x_scale[r], y[r]);
        else
            multiply_dense(g, to, fs_free_units(w->cols), x[r], x_scale[r], y[r]);
    }
}

void fs_free_vbmi(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                  const float *x_scale, float *const *y, uint32_t num_rows)
{
    for (uint32_t i = first; i < first + count; i++) {
        fs_free_group g = fs_free_parts(fs_free_group_bytes(w, i));
        places to = {g.row, i / FS_FREE_BLOCK_GROUPS * FS_FREE_BLOCK_ROWS, w->rows};
        multiply_group(w, &g, &to, x, x_scale, y, num_rows);
    }
}
#endif
