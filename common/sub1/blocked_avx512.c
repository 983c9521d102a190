/* common/sub1/blocked_avx512.c: the product with a blocked matrix by AVX-512 without byte permutes. A shuffle looks up within 16 bytes, and
 * a block has 16 columns: codes are transposed once, so that each quarter of a register belongs to one block, and a row's
 * nonzeros of that block are pairs of bytes, which are added in 16 bits.
 *
 * Sums of 16 bits: a unit adds at most 255 * 3 to each, and a run of them has 32 units: 24480 < 2^15. */
#include "sub1/blocked_int.h"

#if defined(__AVX512BW__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* A pair: two registers of indices (rows 0-7, rows 8-15), then two of weights. The second nonzero of the last pair has no weight if n is
 * odd. */
enum { MAX_LONE_ROWS = 1, PANEL_UNITS = 16, MAX_PART_BYTES = 2 * 256, MAX_PAIRS = 2 };
#define NUM_PAIRS(n) (((n) + 1) / 2)
typedef struct {
    __m512i index[2], weight[2];
} pair;

/* Byte 4r + k of four rows a quarter becomes byte r of quarter k. */
INLINE __m512i transposed(__m512i v)
{
    const __m512i by_block = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i together = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(together, _mm512_shuffle_epi8(v, by_block));
}

/* The strip's signs, bit 4r + k: a mask of bytes in the order of transposed(). */
INLINE __mmask64 transposed_signs(const uint8_t *at)
{
    const __m512i byte_of = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7));
    const __m512i bit_of = _mm512_set_epi64((int64_t)0x8008800880088008, (int64_t)0x8008800880088008,
                                            0x4004400440044004, 0x4004400440044004, 0x2002200220022002,
                                            0x2002200220022002, 0x1001100110011001, 0x1001100110011001);
    int64_t signs;
    __builtin_memcpy(&signs, at, 8);
    return _mm512_test_epi8_mask(_mm512_shuffle_epi8(_mm512_set1_epi64(signs), byte_of), bit_of);
}

/* v: sign << 6 | place << 2; second, the same for each row's other nonzero, or NULL. What is beside the place does not disturb a shuffle
 * (bits 4-6), and bit 7 comes out as 0. */
INLINE pair make_pair(const bool symmetric, __m512i v, const __m512i *second)
{
    const __m512i one = _mm512_set1_epi8(1), minus_one = _mm512_set1_epi8(-1), sign = _mm512_set1_epi8(0x10);
    __m512i a = _mm512_srli_epi16(v, 2), b = second ? _mm512_srli_epi16(*second, 2) : a;
    pair p = {.index = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)}};
    for (int i = 0; i < 2; i++) {
        __mmask64 negative = _mm512_test_epi8_mask(p.index[i], sign);
        p.weight[i] = symmetric ? _mm512_mask_mov_epi8(one, negative, minus_one)
                                : _mm512_maskz_mov_epi8(negative, one);
        if (!second) p.weight[i] = _mm512_and_si512(p.weight[i], _mm512_set1_epi16(0xff));
    }
    return p;
}

INLINE __m512i without_low_bits(__m512i v)
{
    return _mm512_and_si512(v, _mm512_set1_epi8(0x3c));
}

INLINE void take_apart(const uint32_t n, const bool symmetric, const uint8_t *unit, uint32_t strip,
                       pair out[MAX_PAIRS])
{
    __mmask64 signs = transposed_signs(unit + fs_blocked_signs_at(n) + FS_BLOCKED_STRIP_SIGNS * strip);
    __m512i sign = _mm512_maskz_mov_epi8(signs, _mm512_set1_epi8(0x40)), nibble = sign;
    if (n % 2) {
        const uint8_t *at = unit + fs_blocked_nibbles_at(n) + FS_BLOCKED_STRIP_NIBBLES * strip;
        __m256i both = _mm256_loadu_si256((const __m256i *)at);
        __m512i shifted = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_slli_epi16(both, 2)),
                                             _mm256_srli_epi16(both, 2), 1);
        nibble = transposed(without_low_bits(shifted));
    }
    if (n == 1) {
        out[0] = make_pair(symmetric, _mm512_or_si512(nibble, sign), NULL);
        return;
    }
    __m512i codes = transposed(_mm512_loadu_si512(unit + FS_BLOCKED_STRIP_CODES * strip));
    __m512i rotated = _mm512_ternarylogic_epi32(_mm512_set1_epi8(15), _mm512_srli_epi16(codes, 4),
                                                _mm512_slli_epi16(codes, 4), 0xca); /* x ? y : z */
    __m512i first = _mm512_or_si512(without_low_bits(codes), sign);
    __m512i second = _mm512_sub_epi8(first, without_low_bits(rotated));
    out[0] = make_pair(symmetric, first, &second);
    if (n == 3) out[1] = make_pair(symmetric, _mm512_sub_epi8(second, nibble), NULL);
}

/* Sums of 16 bits of rows 0-7 in each quarter to 32 bits, the quarters added up. */
INLINE __m256i widened(__m512i sum)
{
    __m512i halves = _mm512_add_epi32(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(sum)),
                                      _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sum, 1)));
    return _mm256_add_epi32(_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64(halves, 1));
}

INLINE __m512i joined(const __m512i sum[2])
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(widened(sum[0])), widened(sum[1]), 1);
}

INLINE __m512 widen_scales(const uint8_t *bf16)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)bf16));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* scales: the strip's first pos. sums: P - N if symmetric, else P + N, then N. */
INLINE void finish(const bool symmetric, const uint8_t *scales, const int32_t *sums, float x_scale, float *y)
{
    __m512i total = _mm512_load_si512(sums), negative = _mm512_load_si512(sums + 16);
    __m512 pos = widen_scales(scales), sum;
    if (symmetric) {
        sum = _mm512_mul_ps(pos, _mm512_cvtepi32_ps(total));
    } else {
        __m512 neg = widen_scales(scales + FS_BLOCKED_SCALE_BYTES);
        sum = _mm512_add_ps(_mm512_mul_ps(pos, _mm512_cvtepi32_ps(_mm512_sub_epi32(total, negative))),
                            _mm512_mul_ps(neg, _mm512_cvtepi32_ps(negative)));
    }
    _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_set1_ps(x_scale), sum));
}

/* A lone row is not biased: its values are the second factor, which has a sign. */
INLINE void add_lone(const uint32_t n, const bool symmetric, const pair *p, __m512i window, __m512i total[2],
                     __m512i negative[2])
{
    const __m512i one = _mm512_set1_epi8(1), only_first = _mm512_set1_epi16(1);
    for (uint32_t j = 0; j < NUM_PAIRS(n); j++) {
        for (int i = 0; i < 2; i++) {
            __m512i found = _mm512_shuffle_epi8(window, p[j].index[i]);
            __m512i counted = n % 2 && j + 1 == NUM_PAIRS(n) ? only_first : one;
            total[i] = _mm512_add_epi16(total[i], _mm512_maddubs_epi16(counted, found));
            negative[i] = _mm512_add_epi16(negative[i], _mm512_maddubs_epi16(p[j].weight[i], found));
        }
    }
}

INLINE void multiply_lone_strip(const uint32_t n, const bool symmetric, const uint8_t *group, uint32_t strip,
                                uint32_t num_units, const uint8_t *x, float x_scale, float *y)
{
    __m512i total = _mm512_setzero_si512(), negative = total;
    const uint8_t *unit = group + fs_blocked_scales(symmetric);
    for (uint32_t u = 0; u < num_units;) {
        uint32_t end = num_units - u < PANEL_UNITS ? num_units : u + PANEL_UNITS;
        __m512i total16[2] = {0}, negative16[2] = {0};
        for (; u < end; u++, unit += fs_blocked_unit_bytes(n), x += FS_BLOCKED_UNIT_COLS) {
            pair p[MAX_PAIRS];
            take_apart(n, false, unit, strip, p);
            add_lone(n, symmetric, p, _mm512_load_si512(x), total16, negative16);
        }
        total = _mm512_add_epi32(total, joined(total16));
        negative = _mm512_add_epi32(negative, joined(negative16));
    }
    if (symmetric) total = _mm512_sub_epi32(total, _mm512_slli_epi32(negative, 1));
    _Alignas(64) int32_t sums[32];
    _mm512_store_si512(sums, total);
    _mm512_store_si512(sums + 16, negative);
    finish(symmetric, group + 32 * strip, sums, x_scale, y);
}

INLINE void multiply_lone(const uint32_t n, const bool symmetric, const uint8_t *group, uint32_t num_units,
                          const uint8_t *x, float x_scale, float *y)
{
    for (uint32_t s = 0; s < FS_BLOCKED_STRIPS; s++)
        multiply_lone_strip(n, symmetric, group, s, num_units, x, x_scale, y + 16 * s);
}

INLINE void take_apart_panel(const uint32_t n, const bool symmetric, const uint8_t *unit, uint32_t strip,
                             uint32_t num_units, uint8_t *parts, int32_t *bias)
{
    const __m512i x_bias = _mm512_set1_epi8((char)128);
    __m512i weighted[2] = {0};
    pair *p = (pair *)parts;
    for (uint32_t u = 0; u < num_units; u++, unit += fs_blocked_unit_bytes(n), p += NUM_PAIRS(n)) {
        pair made[MAX_PAIRS];
        take_apart(n, symmetric, unit, strip, made);
        for (uint32_t j = 0; j < NUM_PAIRS(n); j++) {
            p[j] = made[j];
            for (int i = 0; i < 2; i++)
                weighted[i] = _mm512_add_epi16(weighted[i], _mm512_maddubs_epi16(x_bias, made[j].weight[i]));
        }
    }
    __m512i all = _mm512_set1_epi32((int32_t)(128 * 4 * n * num_units));
    _mm512_store_si512(bias, symmetric ? joined(weighted) : all);
    _mm512_store_si512(bias + 16, joined(weighted));
}

/* rows of x (1 to 4, a constant), of the `stride` / 64 that a tile has. */
INLINE void add_rows(const uint32_t n, const bool symmetric, const uint32_t rows, const pair *p,
                     uint32_t num_units, const uint8_t *x, uint32_t stride, const int32_t *bias, bool begin,
                     int32_t *sums)
{
    const __m512i one = _mm512_set1_epi8(1), only_first = _mm512_set1_epi16(1);
    __m512i total[4][2] = {{{0}}}, negative[4][2] = {{{0}}};
    for (uint32_t u = 0; u < num_units; u++, p += NUM_PAIRS(n), x += stride) {
#pragma GCC unroll 4
        for (uint32_t ji = 0; ji < 2 * NUM_PAIRS(n); ji++) {
            const uint32_t j = ji / 2, i = ji % 2;
            __m512i index = p[j].index[i], weight = p[j].weight[i];
            __m512i counted = n % 2 && j + 1 == NUM_PAIRS(n) ? only_first : one;
#pragma GCC unroll 4
            for (uint32_t r = 0; r < rows; r++) {
                __m512i found = _mm512_shuffle_epi8(_mm512_load_si512(x + 64 * r), index);
                __m512i weighted = _mm512_maddubs_epi16(found, weight);
                if (symmetric) {
                    total[r][i] = _mm512_add_epi16(total[r][i], weighted);
                } else {
                    total[r][i] = _mm512_add_epi16(total[r][i], _mm512_maddubs_epi16(found, counted));
                    negative[r][i] = _mm512_add_epi16(negative[r][i], weighted);
                }
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t half = 0; half < (symmetric ? 1 : 2); half++) {
            int32_t *sum = sums + ROW_SUMS * r + 16 * half;
            __m512i before = begin ? _mm512_setzero_si512() : _mm512_load_si512(sum);
            __m512i more = _mm512_sub_epi32(joined(half ? negative[r] : total[r]),
                                            _mm512_load_si512(bias + 16 * half));
            _mm512_store_si512(sum, _mm512_add_epi32(before, more));
        }
    }
}

INLINE void add_tile(const uint32_t n, const bool symmetric, const uint32_t rows, const uint8_t *parts,
                     uint32_t num_units, const uint8_t *x, const int32_t *bias, bool begin, int32_t *sums)
{
    const uint32_t at_once = rows < 4 ? rows : 4;
    for (uint32_t r = 0; r < rows; r += at_once)
        add_rows(n, symmetric, at_once, (const pair *)parts, num_units, x + 64 * r, 64 * rows, bias, begin,
                 sums + ROW_SUMS * r);
}

#include "sub1/blocked_wide.h"

INLINE __m512i clamped(const int8_t *x)
{
    return _mm512_max_epi8(_mm512_loadu_si512(x), _mm512_set1_epi8(-127));
}

static void arrange(const fs_sub1_x *x, uint32_t first, uint8_t *arranged)
{
    uint32_t tile = fs_sub1_tile(x->num_rows, first);
    const __m512i flip = x->num_rows == 1 ? _mm512_setzero_si512() : _mm512_set1_epi8((char)128);
    uint8_t *out = arranged + (size_t)first * x->padded_cols;
    for (uint32_t c = 0; c < x->padded_cols; c += 64)
        for (uint32_t r = 0; r < tile; r++, out += 64)
            _mm512_store_si512(out, _mm512_xor_si512(clamped(x->row[first + r] + c), flip));
}

static bool usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

const fs_sub1_kernels fs_sub1_kernels_avx512 = {
    .name = "avx512", .usable = usable, .arrange = arrange, .blocked = blocked, .free = fs_free_avx2};
#endif
