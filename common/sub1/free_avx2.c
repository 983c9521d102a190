/* common/sub1/free_avx2.c: the product with a *free* matrix by AVX2: a 32-bit lane a matrix row, 8 rows at a time; a place in the window
 * is looked up by 8 shuffles of 16 activations, of which its upper bits choose one. */
#include "sub1/free_int.h"

#if defined(__AVX2__)
#include <immintrin.h>

/* A panel of steps is taken apart to the stack, then looked up: in one go, the chain of instructions from a code to a sum is longer than
 * what a core overlaps. A step adds at most 2 * 128 to a 16-bit sum, so a panel's fit. */
enum {
    LANES = FS_FREE_LANES,
    EIGHT = 8 /* rows at a time */,
    TILE = 4 /* rows of x */,
    PANEL = 16 /* steps */
};
#define INLINE static inline __attribute__((always_inline))

/* A quarter of a step, taken apart once for all rows of x: byte 4r+k is row r's code k. */
typedef struct {
    __m256i at;       /* the place, counted from the window's first column; -1 where there is no weight */
    __m256i negative; /* 1 where a weight is negative */
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

/* code: 4 bits a byte. last: in each 32-bit lane's top byte, the place that the lane has passed. The sum of four codes is at most 120
 * and stays in its byte. */
INLINE quarter_parts take_apart(__m256i code, __m256i sign, __m256i base, __m256i each_byte, __m256i *last)
{
    const __m256i skip = _mm256_set1_epi8(FS_FREE_SKIP), long_skip = _mm256_set1_epi8(FS_FREE_LONG_SKIP);
    const __m256i top_byte = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(3, 3, 3, 3, 7, 7, 7, 7, 11, 11, 11, 11, 15, 15, 15, 15));
    __m256i none = _mm256_cmpeq_epi8(code, _mm256_setzero_si256());
    __m256i advance = _mm256_blendv_epi8(code, _mm256_blendv_epi8(skip, long_skip, sign), none);
    __m256i sum = _mm256_mullo_epi32(advance, each_byte); /* byte k: codes 0 to k */
    *last = _mm256_add_epi8(_mm256_shuffle_epi8(*last, top_byte), sum);
    __m256i at = _mm256_and_si256(_mm256_sub_epi8(*last, base), _mm256_set1_epi8(FS_FREE_WINDOW - 1));
    return (quarter_parts){_mm256_or_si256(at, none), _mm256_and_si256(sign, _mm256_set1_epi8(1))};
}

/* x[at] in 16 columns: bits 4 to 6 of at are of no account. 0 where it is negative. */
INLINE __m256i look_up_16(const int8_t *x, __m256i at)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)x)), at);
}

INLINE __m256i look_up_32(const int8_t *x, __m256i at, __m256i bit4)
{
    return _mm256_blendv_epi8(look_up_16(x, at), look_up_16(x + 16, at), bit4);
}

/* x[at] in the window of 128, or 0. */
INLINE __m256i look_up(const int8_t *x, __m256i at)
{
    const __m256i bit4 = _mm256_slli_epi16(at, 3), bit5 = _mm256_slli_epi16(at, 2), /* ... topmost */
        bit6 = _mm256_add_epi8(at, at);
    __m256i low = _mm256_blendv_epi8(look_up_32(x, at, bit4), look_up_32(x + 32, at, bit4), bit5);
    __m256i high = _mm256_blendv_epi8(look_up_32(x + 64, at, bit4), look_up_32(x + 96, at, bit4), bit5);
    return _mm256_blendv_epi8(low, high, bit6);
}

/* Over all weights and over the negative ones. 32-bit sums: |sum| <= 65536 * 128 = 2^23, as no column of a lane comes twice. */
typedef struct {
    __m256i total, negative;
} sums;

INLINE void widen(sums *sum32, sums sum16)
{
    const __m256i one = _mm256_set1_epi16(1);
    sum32->total = _mm256_add_epi32(sum32->total, _mm256_madd_epi16(sum16.total, one));
    sum32->negative = _mm256_add_epi32(sum32->negative, _mm256_madd_epi16(sum16.negative, one));
}

/* Some steps of a group. */
typedef struct {
    uint32_t first, count;
    uint32_t base[PANEL]; /* where the window begins */
} panel;

/* A quarter's part of a panel. */
INLINE void take_panel(const fs_free_group *g, const panel *p, uint32_t quarter, __m256i *last,
                       quarter_parts *out)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i each_byte = _mm256_set1_epi32(0x01010101);
    __asm__("" : "+x"(each_byte)); /* or gcc makes four shifts and additions of each multiplication by it */
    const uint8_t *step = g->steps + (size_t)p->first * FS_FREE_STEP_BYTES;
    const __m128i shift = _mm_cvtsi32_si128(quarter / 2 ? 4 : 0);
    for (uint32_t s = 0; s < p->count; s++, step += FS_FREE_STEP_BYTES) {
        __m256i codes = _mm256_loadu_si256((const __m256i *)(step + 32 * (quarter % 2)));
        codes = _mm256_and_si256(_mm256_srl_epi16(codes, shift), nibble);
        out[s] = take_apart(codes, spread(step + FS_FREE_STEP_SIGNS + 4 * quarter),
                            _mm256_set1_epi8((char)p->base[s]), each_byte, last);
    }
}

INLINE void add_panel(const panel *p, const quarter_parts *parts, const int8_t *x, sums *total)
{
    const __m256i one = _mm256_set1_epi8(1);
    sums sum16 = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (uint32_t s = 0; s < p->count; s++) {
        __m256i v = look_up(x + p->base[s], parts[s].at);
        sum16.total = _mm256_add_epi16(sum16.total, _mm256_maddubs_epi16(one, v));
        sum16.negative = _mm256_add_epi16(sum16.negative, _mm256_maddubs_epi16(parts[s].negative, v));
    }
    widen(total, sum16);
}

/* Sums of a group: by lane, over the positive weights, then over the negative ones. */
typedef struct {
    int32_t lane[2 * LANES];
} group_sums;

static void add_side(const fs_free_group *g, uint32_t cols, const int8_t *x, group_sums *to)
{
    const uint8_t *side = g->side;
    for (uint32_t p = 0; p < fs_free_side_parts(cols); p++, x += FS_FREE_SIDE_COLS) {
        const uint8_t *end = side + (size_t)fs_free_u16(g->counts + 2 * p) * FS_FREE_SIDE_BYTES;
        for (; side < end; side += FS_FREE_SIDE_BYTES) {
            uint32_t entry = fs_free_u16(side);
            to->lane[entry >> 10] += x[fs_free_side_col(entry)]; /* lane and sign */
        }
    }
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

INLINE void multiply_coded(const fs_sub1_matrix *w, const fs_free_group *g, uint32_t matrix_rows,
                           const int8_t *const *x, const float *x_scale, float *const *y, size_t y_at,
                           const uint32_t rows)
{
    enum { QUARTERS = LANES / EIGHT };
    group_sums sum[TILE];
    sums total[TILE][QUARTERS] = {0};
    __m256i last[QUARTERS];
    panel p = {0};
    for (uint32_t q = 0; q < QUARTERS; q++) last[q] = _mm256_set1_epi8(FS_FREE_WINDOW - 1);
    for (uint32_t base = 0; p.first < g->num_steps; p.first += p.count) {
        p.count = g->num_steps - p.first < PANEL ? g->num_steps - p.first : PANEL;
        for (uint32_t s = 0; s < p.count; s++)
            p.base[s] = base = fs_free_next_base(g, p.first + s, base, w->padded_cols);
        for (uint32_t q = 0; q < QUARTERS; q++) {
            quarter_parts parts[PANEL];
            take_panel(g, &p, q, &last[q], parts);
            for (uint32_t r = 0; r < rows; r++) add_panel(&p, parts, x[r], &total[r][q]);
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t q = 0; q < QUARTERS; q++) {
            sums *t = &total[r][q];
            _mm256_storeu_si256((__m256i *)(sum[r].lane + EIGHT * q),
                                _mm256_sub_epi32(t->total, t->negative));
            _mm256_storeu_si256((__m256i *)(sum[r].lane + LANES + EIGHT * q), t->negative);
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        add_side(g, w->cols, x[r], &sum[r]);
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
        fs_free_group g = fs_free_parts(fs_free_group_bytes(w, i), w->cols);
        uint32_t block = i / FS_FREE_BLOCK_GROUPS * FS_FREE_BLOCK_ROWS, rows = w->rows - block, r = 0;
        if (g.kind == FS_FREE_CODED)
            for (; num_rows - r >= TILE; r += TILE)
                multiply_coded(w, &g, rows, x + r, x_scale + r, y + r, block, TILE);
        for (; r < num_rows; r++) {
            if (g.kind == FS_FREE_CODED)
                multiply_coded(w, &g, rows, x + r, x_scale + r, y + r, block, 1);
            else if (g.kind == FS_FREE_DENSE)
                multiply_dense(&g, fs_free_units(w->cols), rows, x[r], x_scale[r], y[r] + block);
            else
                write_empty(&g, rows, x_scale[r], y[r] + block);
        }
    }
}
#endif
