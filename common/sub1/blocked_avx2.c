/* common/sub1/blocked_avx2.c: the product with a blocked 2:16 matrix by AVX2: a 32-bit lane a matrix row, 8 rows at a time;
 * a shuffle looks up 16 activations, so that each of a unit's four blocks has its own. */
#include "sub1/sub1_int.h"

#if defined(__AVX2__)
#include <immintrin.h>

enum { GROUP_ROWS = FS_SUB1_GROUP_ROWS, UNIT = FS_BLOCKED_2_16_UNIT, HALF_ROWS = 8, TILE = 4 };
/* A unit adds at most 4 * 128 to a 16-bit sum: after this many, the sums go to 32 bits. */
enum { UNITS_IN_16_BITS = 60 };
#define INLINE static inline __attribute__((always_inline))

/* Half a unit, taken apart once for all rows of x. */
typedef struct {
    __m256i a, b;         /* positions within the block, 0 to 15 */
    __m256i neg_a, neg_b; /* all ones where that weight is negative */
} half_parts;

INLINE half_parts take_apart(const uint8_t *codes, const uint8_t *signs)
{
    const __m256i nibble = _mm256_set1_epi8(15), bit = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    __m256i v = _mm256_loadu_si256((const __m256i *)codes);
    __m256i lo = _mm256_and_si256(v, nibble), hi = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
    int32_t signs32;
    __builtin_memcpy(&signs32, signs, 4);
    __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(signs32), byte_of);
    __m256i s = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit), o = _mm256_cmpgt_epi8(lo, hi);
    return (half_parts){lo, hi, _mm256_and_si256(o, s), _mm256_or_si256(o, s)};
}

/* Byte 4r+k of the result is x[16k + at[4r+k]]. An index with its top bit set looks up 0. */
INLINE __m256i look_up(const __m256i x[4], __m256i at)
{
    const __m256i other0 = _mm256_set1_epi32((int)0x80808000), other1 = _mm256_set1_epi32((int)0x80800080);
    const __m256i other2 = _mm256_set1_epi32((int)0x80008080), other3 = _mm256_set1_epi32(0x00808080);
    __m256i v0 = _mm256_shuffle_epi8(x[0], _mm256_or_si256(at, other0));
    __m256i v1 = _mm256_shuffle_epi8(x[1], _mm256_or_si256(at, other1));
    __m256i v2 = _mm256_shuffle_epi8(x[2], _mm256_or_si256(at, other2));
    __m256i v3 = _mm256_shuffle_epi8(x[3], _mm256_or_si256(at, other3));
    return _mm256_or_si256(_mm256_or_si256(v0, v1), _mm256_or_si256(v2, v3));
}

/* Sums in 16 bits, two a matrix row. */
typedef struct {
    __m256i total, negative;
} sums;

INLINE void add_half(const half_parts *p, const int8_t *x, sums *sum)
{
    const __m256i one = _mm256_set1_epi8(1);
    __m256i window[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        window[k] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(x + 16 * k)));
    __m256i xa = look_up(window, p->a), xb = look_up(window, p->b);
    __m256i all = _mm256_add_epi16(_mm256_maddubs_epi16(one, xa), _mm256_maddubs_epi16(one, xb));
    __m256i neg = _mm256_add_epi16(_mm256_maddubs_epi16(one, _mm256_and_si256(xa, p->neg_a)),
                                   _mm256_maddubs_epi16(one, _mm256_and_si256(xb, p->neg_b)));
    sum->total = _mm256_add_epi16(sum->total, all);
    sum->negative = _mm256_add_epi16(sum->negative, neg);
}

INLINE __m256i widened(__m256i sum32, __m256i sum16)
{
    return _mm256_add_epi32(sum32, _mm256_madd_epi16(sum16, _mm256_set1_epi16(1)));
}

INLINE __m256 widen_scales(const uint8_t *bf16)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)bf16));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* scales: at the half's first row of pos. */
INLINE void finish(const uint8_t *scales, __m256i total, __m256i negative, float x_scale, float *y)
{
    __m256 p = _mm256_cvtepi32_ps(_mm256_sub_epi32(total, negative)), n = _mm256_cvtepi32_ps(negative);
    __m256 pos = _mm256_mul_ps(widen_scales(scales), p),
           neg = _mm256_mul_ps(widen_scales(scales + 2 * GROUP_ROWS), n);
    _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_set1_ps(x_scale), _mm256_add_ps(pos, neg)));
}

/* rows (1 to TILE, a constant where this is inlined) rows of x with 8 rows of the group. */
INLINE void multiply_tile(const uint8_t *group, uint32_t half, uint32_t num_units, const int8_t *const *x,
                          const float *x_scale, float *const *y, size_t y_at, const uint32_t rows)
{
    __m256i total[TILE], negative[TILE];
    for (uint32_t r = 0; r < rows; r++) total[r] = negative[r] = _mm256_setzero_si256();
    for (uint32_t u = 0; u < num_units;) {
        uint32_t end = num_units - u > UNITS_IN_16_BITS ? u + UNITS_IN_16_BITS : num_units;
        sums sum[TILE] = {0};
        for (; u < end; u++) {
            const uint8_t *unit = group + FS_BLOCKED_SCALE_BYTES + (size_t)u * UNIT;
            half_parts p = take_apart(unit + 32 * half, unit + FS_BLOCKED_2_16_SIGNS + 4 * half);
#pragma GCC unroll 4
            for (uint32_t r = 0; r < rows; r++)
                add_half(&p, x[r] + (size_t)u * FS_BLOCKED_UNIT_COLS, &sum[r]);
        }
        for (uint32_t r = 0; r < rows; r++) {
            total[r] = widened(total[r], sum[r].total);
            negative[r] = widened(negative[r], sum[r].negative);
        }
    }
    for (uint32_t r = 0; r < rows; r++)
        finish(group + 2 * HALF_ROWS * half, total[r], negative[r], x_scale[r], y[r] + y_at);
}

static void multiply_half(const uint8_t *group, uint32_t half, uint32_t num_units, const int8_t *const *x,
                          const float *x_scale, float *const *y, size_t y_at, uint32_t num_rows)
{
    uint32_t r = 0;
    for (; num_rows - r >= 4; r += 4)
        multiply_tile(group, half, num_units, x + r, x_scale + r, y + r, y_at, 4);
    for (; r < num_rows; r++) multiply_tile(group, half, num_units, x + r, x_scale + r, y + r, y_at, 1);
}

static void blocked_2_16(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                         const float *x_scale, float *const *y, uint32_t num_rows)
{
    uint32_t num_units = w->padded_cols / FS_BLOCKED_UNIT_COLS;
    size_t group_bytes = FS_BLOCKED_SCALE_BYTES + (size_t)num_units * UNIT;
    for (uint32_t g = first; g < first + count; g++)
        for (uint32_t half = 0; half < 2; half++)
            multiply_half(w->payload + g * group_bytes, half, num_units, x, x_scale, y,
                          (size_t)g * GROUP_ROWS + half * HALF_ROWS, num_rows);
}

static bool usable(void)
{
    return __builtin_cpu_supports("avx2");
}

const fs_sub1_kernels fs_sub1_kernels_avx2 = {"avx2", usable, blocked_2_16};
#endif
