/* common/sub1/free_vbmi.c: the product with a *free* matrix by AVX-512 VBMI, VNNI and GFNI: a 32-bit lane a matrix row, its bytes the
 * four codes of a step; a multiplication makes places of codes, one byte permute looks them up in a window of 128 activations.
 *
 * A place is a column modulo 128. A lone row of x is kept so that column c of the window is at c modulo 128, whatever the window is: the
 * places are the permute's indices then. More rows share a subtraction that makes them count from the window's first column. */
#include "sub1/free_int.h"

#if defined(__AVX512VBMI__)
#include <immintrin.h>

enum { LANES = FS_FREE_LANES, HALF = FS_FREE_HALF, TILE = 4 /* rows of x: 16 of 32 registers are sums */ };
enum { AT_ONCE = 64, VARIANTS = AT_ONCE / FS_FREE_MOVE, MAX_LONE_COLS = 8192 };
#define INLINE static inline __attribute__((always_inline))

/* Half a step, taken apart once for all rows of x: byte 4r+k is lane r's code k. */
typedef struct {
    __m512i at;        /* the place; bit 7 is of no account */
    __mmask64 nonzero; /* there is a weight there */
    __m512i weight;    /* 15, or 30 where it is negative */
} half_parts;

/* Sums of a half, a 32-bit lane a matrix row: `total` over all weights, `weighted` 15 times that plus 15 times the sum over the
 * negative ones. |total| <= 65536 * 128 = 2^23 and |weighted| is at most 30 times as much, under 2^28: int32 holds both. (No column of a
 * lane comes twice: the reader saw to it.) */

/* For gf2p8affineqb: bits 0-3 of the result are a nibble of the byte, the others 0. */
#define LOW_NIBBLE  0x0102040800000000
#define HIGH_NIBBLE 0x1020408000000000

/* codes: a code is the low or the high half of a byte. last: in each 32-bit lane's top byte, the place that the lane has passed. The
 * sum of four codes is at most 120 and stays in its byte. */
INLINE half_parts take_apart(__m512i codes, const bool high, __mmask64 sign, __m512i each_byte, __m512i *last)
{
    const __m512i nibble = _mm512_set1_epi8((char)(high ? 0xf0 : 0x0f)),
                  matrix = _mm512_set1_epi64(high ? HIGH_NIBBLE : LOW_NIBBLE);
    const __m512i skip = _mm512_set1_epi8(FS_FREE_SKIP), long_skip = _mm512_set1_epi8(FS_FREE_LONG_SKIP);
    const __m512i top_byte = _mm512_broadcast_i32x4(
        _mm_setr_epi8(3, 3, 3, 3, 7, 7, 7, 7, 11, 11, 11, 11, 15, 15, 15, 15));
    half_parts p;
    p.nonzero = _mm512_test_epi8_mask(codes, nibble);
    p.weight = _mm512_mask_blend_epi8(sign, skip, long_skip);
    __m512i advance = _mm512_mask_gf2p8affine_epi64_epi8(p.weight, p.nonzero, codes, matrix, 0);
    __m512i sum = _mm512_mullo_epi32(advance, each_byte); /* byte k: codes 0 to k */
    *last = p.at = _mm512_add_epi8(_mm512_shuffle_epi8(*last, top_byte), sum);
    return p;
}

/* Adds a half's part. x: 128 activations, in the order of the places. */
INLINE void add_half(const half_parts *p, const __m512i x[2], __m512i *total, __m512i *weighted)
{
    __m512i v = _mm512_maskz_permutex2var_epi8(p->nonzero, x[0], p->at, x[1]);
    *total = _mm512_dpbusd_epi32(*total, _mm512_set1_epi8(1), v);
    *weighted = _mm512_dpbusd_epi32(*weighted, p->weight, v);
}

/* Both halves of a step. */
typedef struct {
    half_parts half[2];
} step_parts;

INLINE step_parts take_step(const uint8_t *step, __m512i each_byte, __m512i last[2])
{
    uint64_t sign[2];
    __builtin_memcpy(sign, step + FS_FREE_STEP_SIGNS, sizeof(sign));
    __m512i codes = _mm512_loadu_si512(step);
    step_parts p;
    p.half[0] = take_apart(codes, false, _cvtu64_mask64(sign[0]), each_byte, &last[0]);
    p.half[1] = take_apart(codes, true, _cvtu64_mask64(sign[1]), each_byte, &last[1]);
    return p;
}

/* ---- a lone row of x ---- */

/* The window that begins at column 64 b + o has the columns of block b from o on, block b + 1, and the first o columns of block b + 2, which
 * take the places that block b has left. A mixed block is the first and the last of them: mixed[8 b + o / 8]. */
typedef struct {
    const int8_t *x;
    _Alignas(64) int8_t mixed[VARIANTS * MAX_LONE_COLS];
} lone_row;

static void mix_blocks(const int8_t *x, uint32_t padded_cols, lone_row *row)
{
    row->x = x;
    for (uint32_t at = 0; at + FS_FREE_WINDOW <= padded_cols; at += AT_ONCE) {
        int8_t *mixed = row->mixed + (size_t)at * VARIANTS;
        __m512i block = _mm512_loadu_si512(x + at), later = block;
        if (at + FS_FREE_WINDOW < padded_cols) later = _mm512_loadu_si512(x + at + FS_FREE_WINDOW);
        _mm512_store_si512(mixed, block);
#pragma GCC unroll 8
        for (uint32_t i = 1; i < VARIANTS; i++) {
            __mmask16 left = (__mmask16)((1u << i * FS_FREE_MOVE / 4) - 1);
            _mm512_store_si512(mixed + (size_t)i * AT_ONCE, _mm512_mask_mov_epi32(block, left, later));
        }
    }
}

INLINE void load_window(const lone_row *row, uint32_t base, __m512i window[2])
{
    uint32_t block = base / AT_ONCE;
    const int8_t *mixed = row->mixed + (size_t)base * VARIANTS, *whole = row->x + (block + 1) * AT_ONCE;
    bool swapped = block % 2;
    window[0] = _mm512_loadu_si512(swapped ? whole : mixed);
    window[1] = _mm512_loadu_si512(swapped ? mixed : whole);
}

/* Sums of a group, or what to add to them: by lane, over the positive weights, then over the negative ones. */
typedef struct {
    int32_t lane[2 * LANES];
} group_sums;

/* The side list, entry by entry: one goes with each step, whose vector instructions leave time for it. */
typedef struct {
    const uint8_t *next, *part_end, *counts;
    uint32_t first_col, parts_left; /* the part's first column; parts behind it */
} side_walk;

static inline side_walk start_side(const fs_free_group *g, uint32_t cols)
{
    const uint8_t *end = g->side + (size_t)fs_free_u16(g->counts) * FS_FREE_SIDE_BYTES;
    return (side_walk){g->side, end, g->counts, 0, fs_free_side_parts(cols) - 1};
}

static inline bool find_part(side_walk *s)
{
    while (s->next == s->part_end) {
        if (s->parts_left == 0) return false;
        s->parts_left--;
        s->counts += 2, s->first_col += FS_FREE_SIDE_COLS;
        s->part_end += (size_t)fs_free_u16(s->counts) * FS_FREE_SIDE_BYTES;
    }
    return true;
}

/* False: there is no entry left. */
INLINE bool add_side_entry(side_walk *s, const int8_t *const *x, group_sums *to, const uint32_t rows)
{
    if (s->next == s->part_end && !find_part(s)) return false;
    uint32_t entry = fs_free_u16(s->next), col = s->first_col + fs_free_side_col(entry);
    s->next += FS_FREE_SIDE_BYTES;
    for (uint32_t r = 0; r < rows; r++) to[r].lane[entry >> 10] += x[r][col]; /* lane and sign */
    return true;
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

/* What a group is multiplied with. lone: NULL if there are more rows, or too many columns. */
typedef struct {
    const int8_t *const *x;
    const float *x_scale;
    float *const *y;
    const lone_row *lone;
} operands;

/* One step with `rows` rows of x, whose window begins at base. */
INLINE void add_step(step_parts *p, const operands *with, uint32_t base, __m512i total[2 * TILE],
                     __m512i weighted[2 * TILE], const uint32_t rows, const bool lone)
{
    __m512i window[2], first = _mm512_set1_epi8((char)base);
    for (int h = 0; h < 2 && !lone; h++) p->half[h].at = _mm512_sub_epi8(p->half[h].at, first);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < rows; r++) {
        if (lone) {
            load_window(with->lone, base, window);
        } else {
            window[0] = _mm512_loadu_si512(with->x[r] + base);
            window[1] = _mm512_loadu_si512(with->x[r] + base + AT_ONCE);
        }
        add_half(&p->half[0], window, &total[2 * r], &weighted[2 * r]);
        add_half(&p->half[1], window, &total[2 * r + 1], &weighted[2 * r + 1]);
    }
}

/* rows: 1 to TILE; both are constants where this is inlined. */
INLINE void multiply_coded(const fs_sub1_matrix *w, const fs_free_group *g, const places *to,
                           const operands *with, const uint32_t rows, const bool lone)
{
    __m512i each_byte = _mm512_set1_epi32(0x01010101);
    __asm__(""
            : "+v"(each_byte)); /* or gcc makes four shifts and four additions of each multiplication by it */
    group_sums more[TILE];
    __m512i total[2 * TILE], weighted[2 * TILE];
    __m512i last[2] = {_mm512_set1_epi8(FS_FREE_WINDOW - 1), _mm512_set1_epi8(FS_FREE_WINDOW - 1)};
#pragma GCC unroll 8
    for (uint32_t r = 0; r < 2 * rows; r++) total[r] = weighted[r] = _mm512_setzero_si512();
    for (uint32_t r = 0; r < rows; r++) more[r] = (group_sums){0};
    side_walk side = start_side(g, w->cols);
    const uint8_t *step = g->steps;
    uint32_t base = 0;
    for (uint32_t s = 0; s < g->num_steps; s++, step += FS_FREE_STEP_BYTES) {
        base = fs_free_next_base(g, s, base, w->padded_cols);
        step_parts p = take_step(step, each_byte, last);
        add_step(&p, with, base, total, weighted, rows, lone);
        add_side_entry(&side, with->x, more, rows);
    }
    while (add_side_entry(&side, with->x, more, rows)) {
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < rows; r++)
        finish(g, to, total + 2 * r, weighted + 2 * r, &more[r], with->x_scale[r], with->y[r]);
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

/* The same for further rows. */
INLINE operands behind(const operands *with, uint32_t rows)
{
    return (operands){with->x + rows, with->x_scale + rows, with->y + rows, NULL};
}

static void multiply_group(const fs_sub1_matrix *w, const fs_free_group *g, const places *to, operands with,
                           uint32_t num_rows)
{
    if (g->kind == FS_FREE_CODED) {
        if (with.lone) {
            multiply_coded(w, g, to, &with, 1, true);
            return;
        }
        for (; num_rows >= 4; num_rows -= 4, with = behind(&with, 4))
            multiply_coded(w, g, to, &with, 4, false);
        if (num_rows >= 2) {
            multiply_coded(w, g, to, &with, 2, false);
            num_rows -= 2, with = behind(&with, 2);
        }
        if (num_rows == 1) multiply_coded(w, g, to, &with, 1, false);
        return;
    }
    for (uint32_t r = 0; r < num_rows; r++) {
        if (g->kind == FS_FREE_EMPTY)
            write_empty(to, with.x_scale[r], with.y[r]);
        else
            multiply_dense(g, to, fs_free_units(w->cols), with.x[r], with.x_scale[r], with.y[r]);
    }
}

void fs_free_vbmi(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                  const float *x_scale, float *const *y, uint32_t num_rows)
{
    lone_row lone;
    bool is_lone = num_rows == 1 && w->padded_cols <= MAX_LONE_COLS;
    const operands with = {x, x_scale, y, is_lone ? &lone : NULL};
    if (is_lone) mix_blocks(x[0], w->padded_cols, &lone);
    for (uint32_t i = first; i < first + count; i++) {
        fs_free_group g = fs_free_parts(fs_free_group_bytes(w, i), w->cols);
        places to = {g.row, i / FS_FREE_BLOCK_GROUPS * FS_FREE_BLOCK_ROWS, w->rows};
        multiply_group(w, &g, &to, with, num_rows);
    }
}
#endif
