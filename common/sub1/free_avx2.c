/* common/sub1/free_avx2.c: the product with a *free* matrix by AVX2: a 32-bit lane a matrix row, 8 rows at a time; a position in the
 * window is looked up by 16 shuffles of 16 activations. */
#include "sub1/free_int.h"

#if defined(__AVX2__)
#include <immintrin.h>

enum { LANES = FS_FREE_LANES, EIGHT = 8 /* rows at a time */, TILE = 4 /* rows of x */ };
/* A step adds at most 2 * 128 to a 16-bit sum: after this many, the sums go to 32 bits. */
enum { STEPS_IN_16_BITS = 64 };
#define INLINE static inline __attribute__((always_inline))

/* A quarter of a step, taken apart once for all rows of x: byte 4r+k is row r's code k. */
typedef struct {
    __m256i at
        [4]; /* [v]: the place among 16 columns if the position's bits 4 and 5 say v, else a byte that looks up 0 */
    __m256i bit6, bit7; /* the position, with that bit topmost */
    __m256i one, neg;   /* 1 where there is a weight, and where it is negative */
} quarter_parts;

/* Byte i is all ones if bit i is set. */
INLINE __m256i spread(const uint8_t *bits)
{
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    int32_t bits32;
    __builtin_memcpy(&bits32, bits, sizeof(bits32));
    __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32(bits32), byte_of);
    return _mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit);
}

/* code: 4 bits a byte. last: in each 32-bit lane's top byte, the position that the lane has passed; moved along. first: nothing is
 * passed yet. The sum of four codes is at most 120 and stays in its byte; a code that leaves the window stops at its end. */
INLINE quarter_parts take_apart(__m256i code, __m256i sign, __m256i move, bool first, __m256i *last)
{
    const __m256i one = _mm256_set1_epi8(1), skip = _mm256_set1_epi8(FS_FREE_SKIP),
                  low6 = _mm256_set1_epi8(63);
    const __m256i top_byte = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(3, 3, 3, 3, 7, 7, 7, 7, 11, 11, 11, 11, 15, 15, 15, 15));
    quarter_parts p;
    __m256i none = _mm256_cmpeq_epi8(code, _mm256_setzero_si256());
    __m256i skipped = _mm256_add_epi8(skip, _mm256_and_si256(sign, skip));
    __m256i advance = _mm256_or_si256(code, _mm256_and_si256(none, skipped));
    __m256i sum = _mm256_mullo_epi32(advance, _mm256_set1_epi32(0x01010101)); /* byte k: codes 0 to k */
    if (first) sum = _mm256_sub_epi8(sum, one);
    __m256i passed = _mm256_subs_epu8(_mm256_shuffle_epi8(*last, top_byte), move);
    __m256i at = *last = _mm256_adds_epu8(passed, sum), low = _mm256_and_si256(at, low6);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++)
        p.at[v] = _mm256_adds_epu8(_mm256_xor_si256(low, _mm256_set1_epi8((char)(v << 4))),
                                   _mm256_set1_epi8(0x70));
    p.bit6 = _mm256_add_epi8(at, at);
    p.bit7 = at;
    p.one = _mm256_andnot_si256(none, one);
    p.neg = _mm256_and_si256(p.one, sign);
    return p;
}

/* x[at] for a position in 64 columns. */
INLINE __m256i look_up_64(const int8_t *x, const __m256i at[4])
{
    __m256i v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        v[i] = _mm256_shuffle_epi8(
            _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(x + 16 * i))), at[i]);
    return _mm256_or_si256(_mm256_or_si256(v[0], v[1]), _mm256_or_si256(v[2], v[3]));
}

INLINE __m256i look_up(const int8_t *x, const quarter_parts *p)
{
    __m256i low = _mm256_blendv_epi8(look_up_64(x, p->at), look_up_64(x + 64, p->at), p->bit6);
    __m256i high = _mm256_blendv_epi8(look_up_64(x + 128, p->at), look_up_64(x + 192, p->at), p->bit6);
    return _mm256_blendv_epi8(low, high, p->bit7);
}

/* Over all weights and over the negative ones. 32-bit sums: |sum| <= 65536 * 128 = 2^23, as no column of a lane comes twice. */
typedef struct {
    __m256i total, negative;
} sums;

INLINE void widen(sums *sum32, sums *sum16)
{
    const __m256i one = _mm256_set1_epi16(1);
    sum32->total = _mm256_add_epi32(sum32->total, _mm256_madd_epi16(sum16->total, one));
    sum32->negative = _mm256_add_epi32(sum32->negative, _mm256_madd_epi16(sum16->negative, one));
    *sum16 = (sums){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

INLINE quarter_parts take_quarter(const uint8_t *step, uint32_t quarter, uint32_t move, bool first,
                                  __m256i *last)
{
    __m256i codes = _mm256_loadu_si256((const __m256i *)(step + 32 * (quarter % 2)));
    if (quarter / 2) codes = _mm256_srli_epi16(codes, 4);
    return take_apart(_mm256_and_si256(codes, _mm256_set1_epi8(15)),
                      spread(step + FS_FREE_STEP_SIGNS + 4 * quarter),
                      _mm256_set1_epi8((char)(move * FS_FREE_MOVE)), first, last);
}

/* Eight lanes of a coded group with rows (1 to TILE, a constant where this is inlined) rows of x. */
INLINE void multiply_quarter(const fs_free_group *g, uint32_t quarter, const int8_t *const *x, sums *total,
                             const uint32_t rows)
{
    sums sum16[TILE];
    __m256i last = _mm256_setzero_si256();
    const sums zero = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    const uint8_t *step = g->steps;
    uint32_t base = 0;
    for (uint32_t r = 0; r < rows; r++) total[r] = sum16[r] = zero;
    for (uint32_t s = 0; s < g->num_steps; s++, step += FS_FREE_STEP_BYTES) {
        uint32_t move = fs_free_move(g, s);
        base += move * FS_FREE_MOVE;
        quarter_parts p = s ? take_quarter(step, quarter, move, false, &last)
                            : take_quarter(step, quarter, move, true, &last);
#pragma GCC unroll 4
        for (uint32_t r = 0; r < rows; r++) {
            __m256i v = look_up(x[r] + base, &p);
            sum16[r].total = _mm256_add_epi16(sum16[r].total, _mm256_maddubs_epi16(p.one, v));
            sum16[r].negative = _mm256_add_epi16(sum16[r].negative, _mm256_maddubs_epi16(p.neg, v));
        }
        if (s % STEPS_IN_16_BITS == STEPS_IN_16_BITS - 1)
            for (uint32_t r = 0; r < rows; r++) widen(&total[r], &sum16[r]);
    }
    for (uint32_t r = 0; r < rows; r++) widen(&total[r], &sum16[r]);
}

/* Sums of a group: by lane, over the positive weights, then over the negative ones. */
typedef struct {
    int32_t lane[2 * LANES];
} group_sums;

static void add_side(const fs_free_group *g, const int8_t *x, group_sums *to)
{
    const uint8_t *side = g->side;
    for (uint32_t i = 0; i < g->num_side; i++, side += FS_FREE_SIDE_BYTES)
        to->lane[side[2] & 63] += x[fs_free_u16(side)];
}

INLINE __m256 widen_scales(const uint8_t *bf16)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)bf16));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* rows: of the matrix, from the block's first on. */
static void finish(const fs_free_group *g, const group_sums *sum, float x_scale, uint32_t rows, float *y)
{
    float lane[LANES];
    for (uint32_t l = 0; l < LANES; l += EIGHT) {
        __m256i p = _mm256_loadu_si256((const __m256i *)(sum->lane + l));
        __m256i n = _mm256_loadu_si256((const __m256i *)(sum->lane + LANES + l));
        __m256 pos = _mm256_mul_ps(widen_scales(g->scales + 2 * l), _mm256_cvtepi32_ps(p));
        __m256 neg = _mm256_mul_ps(widen_scales(g->scales + 2 * (LANES + l)), _mm256_cvtepi32_ps(n));
        _mm256_storeu_ps(lane + l, _mm256_mul_ps(_mm256_set1_ps(x_scale), _mm256_add_ps(pos, neg)));
    }
    for (uint32_t l = 0; l < LANES; l++)
        if (g->row[l] < rows) y[g->row[l]] = lane[l];
}

INLINE void multiply_coded(const fs_free_group *g, uint32_t matrix_rows, const int8_t *const *x,
                           const float *x_scale, float *const *y, size_t y_at, const uint32_t rows)
{
    group_sums sum[TILE];
    for (uint32_t quarter = 0; quarter < LANES / EIGHT; quarter++) {
        sums total[TILE];
        multiply_quarter(g, quarter, x, total, rows);
        for (uint32_t r = 0; r < rows; r++) {
            __m256i p = _mm256_sub_epi32(total[r].total, total[r].negative);
            _mm256_storeu_si256((__m256i *)(sum[r].lane + EIGHT * quarter), p);
            _mm256_storeu_si256((__m256i *)(sum[r].lane + LANES + EIGHT * quarter), total[r].negative);
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        add_side(g, x[r], &sum[r]);
        finish(g, &sum[r], x_scale[r], matrix_rows, y[r] + y_at);
    }
}

INLINE int32_t add_lanes(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* Adds the 32 activations whose bits are set. */
INLINE __m256i add_masked(__m256i sum, const uint8_t *bits, __m256i x)
{
    __m256i two = _mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_and_si256(spread(bits), x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
}

static void multiply_dense(const fs_free_group *g, uint32_t units, uint32_t matrix_rows, const int8_t *x,
                           float x_scale, float *y)
{
    group_sums sum;
    const uint8_t *unit = g->steps;
    for (uint32_t l = 0; l < LANES; l++) {
        __m256i pos = _mm256_setzero_si256(), neg = pos;
        for (uint32_t u = 0; u < units; u++, unit += FS_FREE_UNIT_BYTES) {
            for (uint32_t half = 0; half < 2; half++) {
                __m256i v = _mm256_loadu_si256((const __m256i *)(x + (size_t)u * 64 + 32 * half));
                pos = add_masked(pos, unit + 4 * half, v);
                neg = add_masked(neg, unit + 8 + 4 * half, v);
            }
        }
        sum.lane[l] = add_lanes(pos);
        sum.lane[LANES + l] = add_lanes(neg);
    }
    finish(g, &sum, x_scale, matrix_rows, y);
}

static void write_empty(const fs_free_group *g, uint32_t rows, float x_scale, float *y)
{
    for (uint32_t l = 0; l < LANES; l++)
        if (g->row[l] < rows)
            y[g->row[l]] = x_scale * 0.0f; /* not always 0: a broken row of x stays broken */
}

void fs_free_avx2(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                  const float *x_scale, float *const *y, uint32_t num_rows)
{
    for (uint32_t i = first; i < first + count; i++) {
        fs_free_group g = fs_free_parts(fs_free_group_bytes(w, i));
        uint32_t block = i / FS_FREE_BLOCK_GROUPS * FS_FREE_BLOCK_ROWS, rows = w->rows - block, r = 0;
        if (g.kind == FS_FREE_CODED)
            for (; num_rows - r >= TILE; r += TILE)
                multiply_coded(&g, rows, x + r, x_scale + r, y + r, block, TILE);
        for (; r < num_rows; r++) {
            if (g.kind == FS_FREE_CODED)
                multiply_coded(&g, rows, x + r, x_scale + r, y + r, block, 1);
            else if (g.kind == FS_FREE_DENSE)
                multiply_dense(&g, fs_free_units(w->cols), rows, x[r], x_scale[r], y[r] + block);
            else
                write_empty(&g, rows, x_scale[r], y[r] + block);
        }
    }
}
#endif
