/* common/sub1/blocked_vbmi.c: the product with a blocked 2:16 matrix by AVX-512 VBMI and VNNI: a 32-bit lane a matrix row,
 * one byte permute looks up 64 activations, dot products with ones add them up. */
#include "sub1/sub1_int.h"

#if defined(__AVX512VBMI__)
#include <immintrin.h>

enum {
    GROUP_ROWS = FS_SUB1_GROUP_ROWS,
    UNIT = FS_BLOCKED_2_16_UNIT,
    TILE = 8 /* rows of x: 16 of 32 registers */
};
#define INLINE static inline __attribute__((always_inline))

/* A unit, taken apart once for all rows of x: byte 4r+k belongs to row r, columns 16k to 16k+15. */
typedef struct {
    __m512i a, b;         /* the columns, 0 to 63 */
    __m512i neg_a, neg_b; /* 1 where that weight is negative, else 0 */
} unit_parts;

INLINE unit_parts take_apart(const uint8_t *unit)
{
    const __m512i nibble = _mm512_set1_epi8(15), block = _mm512_set1_epi32(0x30201000),
                  one = _mm512_set1_epi8(1);
    enum { AND_OR = 0xea }; /* the truth table of (x & y) | z */
    __m512i codes = _mm512_loadu_si512(unit), high = _mm512_srli_epi16(codes, 4);
    __m512i a = _mm512_ternarylogic_epi32(codes, nibble, block, AND_OR);
    __m512i b = _mm512_ternarylogic_epi32(high, nibble, block, AND_OR);
    uint64_t signs;
    __builtin_memcpy(&signs, unit + FS_BLOCKED_2_16_SIGNS, 8);
    __mmask64 s = _cvtu64_mask64(signs), o = _mm512_cmpgt_epu8_mask(a, b);
    return (unit_parts){a, b, _mm512_maskz_mov_epi8(_kand_mask64(o, s), one),
                        _mm512_maskz_mov_epi8(_kor_mask64(o, s), one)};
}

/* Adds the unit's part of one row of x. total: over all weights; negative: over the negative ones. */
INLINE void add_unit(const unit_parts *p, const int8_t *x, __m512i total[2], __m512i negative[2])
{
    const __m512i one = _mm512_set1_epi8(1);
    __m512i window = _mm512_loadu_si512(x);
    __m512i xa = _mm512_permutexvar_epi8(p->a, window), xb = _mm512_permutexvar_epi8(p->b, window);
    total[0] = _mm512_dpbusd_epi32(total[0], one, xa);
    total[1] = _mm512_dpbusd_epi32(total[1], one, xb);
    negative[0] = _mm512_dpbusd_epi32(negative[0], p->neg_a, xa);
    negative[1] = _mm512_dpbusd_epi32(negative[1], p->neg_b, xb);
}

INLINE __m512 widen_scales(const uint8_t *bf16)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)bf16));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE void finish(const uint8_t *group, __m512i total, __m512i negative, float x_scale, float *y)
{
    __m512 p = _mm512_cvtepi32_ps(_mm512_sub_epi32(total, negative)), n = _mm512_cvtepi32_ps(negative);
    __m512 pos = _mm512_mul_ps(widen_scales(group), p),
           neg = _mm512_mul_ps(widen_scales(group + 2 * GROUP_ROWS), n);
    _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_set1_ps(x_scale), _mm512_add_ps(pos, neg)));
}

/* One row of x. Two units a turn with sums of their own: a dot product takes 4 cycles and others start in that time. */
static void multiply_one(const uint8_t *group, uint32_t num_units, const int8_t *x, float x_scale, float *y)
{
    __m512i total[4] = {0}, negative[4] = {0};
    const uint8_t *unit = group + FS_BLOCKED_SCALE_BYTES;
    uint32_t u = 0;
    for (; u + 2 <= num_units; u += 2, unit += 2 * UNIT, x += 2 * FS_BLOCKED_UNIT_COLS) {
        unit_parts even = take_apart(unit), odd = take_apart(unit + UNIT);
        add_unit(&even, x, total, negative);
        add_unit(&odd, x + FS_BLOCKED_UNIT_COLS, total + 2, negative + 2);
    }
    if (u < num_units) {
        unit_parts last = take_apart(unit);
        add_unit(&last, x, total, negative);
    }
    for (int i = 1; i < 4; i++) {
        total[0] = _mm512_add_epi32(total[0], total[i]);
        negative[0] = _mm512_add_epi32(negative[0], negative[i]);
    }
    finish(group, total[0], negative[0], x_scale, y);
}

/* rows (2 to TILE, a constant where this is inlined) rows of x. y: at the group's first row. */
INLINE void multiply_tile(const uint8_t *group, uint32_t num_units, const int8_t *const *x,
                          const float *x_scale, float *const *y, size_t y_at, const uint32_t rows)
{
    const __m512i one = _mm512_set1_epi8(1);
    __m512i total[TILE], negative[TILE];
    for (uint32_t r = 0; r < rows; r++) total[r] = negative[r] = _mm512_setzero_si512();
    const uint8_t *unit = group + FS_BLOCKED_SCALE_BYTES;
    for (uint32_t u = 0; u < num_units; u++, unit += UNIT) {
        unit_parts p = take_apart(unit);
#pragma GCC unroll 8
        for (uint32_t r = 0; r < rows; r++) {
            __m512i window = _mm512_loadu_si512(x[r] + (size_t)u * FS_BLOCKED_UNIT_COLS);
            __m512i xa = _mm512_permutexvar_epi8(p.a, window), xb = _mm512_permutexvar_epi8(p.b, window);
            total[r] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(total[r], one, xa), one, xb);
            negative[r] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(negative[r], p.neg_a, xa), p.neg_b, xb);
        }
    }
    for (uint32_t r = 0; r < rows; r++) finish(group, total[r], negative[r], x_scale[r], y[r] + y_at);
}

/* All rows of x with one group, whose bytes stay in the first-level cache meanwhile. */
static void multiply_group(const uint8_t *group, uint32_t num_units, const int8_t *const *x,
                           const float *x_scale, float *const *y, size_t y_at, uint32_t num_rows)
{
    uint32_t r = 0;
    for (; num_rows - r >= 8; r += 8) multiply_tile(group, num_units, x + r, x_scale + r, y + r, y_at, 8);
    if (num_rows - r >= 4) multiply_tile(group, num_units, x + r, x_scale + r, y + r, y_at, 4), r += 4;
    if (num_rows - r >= 2) multiply_tile(group, num_units, x + r, x_scale + r, y + r, y_at, 2), r += 2;
    if (num_rows - r >= 1) multiply_one(group, num_units, x[r], x_scale[r], y[r] + y_at);
}

static void blocked_2_16(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                         const float *x_scale, float *const *y, uint32_t num_rows)
{
    uint32_t num_units = w->padded_cols / FS_BLOCKED_UNIT_COLS;
    size_t group_bytes = FS_BLOCKED_SCALE_BYTES + (size_t)num_units * UNIT;
    for (uint32_t g = first; g < first + count; g++)
        multiply_group(w->payload + g * group_bytes, num_units, x, x_scale, y, (size_t)g * GROUP_ROWS,
                       num_rows);
}

static bool usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}

const fs_sub1_kernels fs_sub1_kernels_vbmi = {"avx512_vbmi", usable, blocked_2_16};
#endif
