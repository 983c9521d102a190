/* common/sub1/blocked_avx2.c: the product with a blocked matrix by AVX2. A shuffle looks up within 16 bytes, and a block has 16
 * columns: codes are transposed once, so that each half of a register belongs to one block, and a row's nonzeros of that block are
 * pairs of bytes, which are added in 16 bits.
 *
 * Sums of 16 bits: a unit adds at most 2 * 255 * 3 to each, and a panel has 16 units: 24480 < 2^15. */
#include "sub1/blocked_int.h"

#if defined(__AVX2__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* A pair of a row's nonzeros: for blocks 0 and 1, then 2 and 3: two registers of indices, then two of weights, for the rows in this
 * order: 0-3, 8-11; 4-7, 12-15. The second nonzero of the last pair has no weight if n is odd. */
enum { MAX_LONE_ROWS = 1, PANEL_UNITS = 16, MAX_PART_BYTES = 2 * 256, MAX_PAIRS = 2 };
#define NUM_PAIRS(n) (((n) + 1) / 2)
typedef struct {
    __m256i index[2], weight[2];
} pair;
typedef struct {
    __m256i blocks[2]; /* 0 and 1, 2 and 3; a half each; a byte a row */
} strip_bytes;

INLINE strip_bytes transposed(__m256i rows0, __m256i rows8)
{
    const __m256i by_block = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m256i a = _mm256_shuffle_epi8(rows0, by_block), b = _mm256_shuffle_epi8(rows8, by_block);
    return (strip_bytes){{_mm256_permute4x64_epi64(_mm256_unpacklo_epi32(a, b), 0xd8),
                          _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(a, b), 0xd8)}};
}

/* The strip's signs, bit 4r + k: 0x40 in a byte where it is set, in the order of transposed(). */
INLINE strip_bytes transposed_signs(const uint8_t *at)
{
    const __m256i byte_of = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 2, 2, 3, 3, 6, 6, 7, 7));
    const __m256i bit01 = _mm256_setr_epi64x(0x1001100110011001, 0x1001100110011001, 0x2002200220022002,
                                             0x2002200220022002);
    const __m256i bit23 = _mm256_slli_epi16(bit01, 2), sign = _mm256_set1_epi8(0x40);
    int64_t signs;
    __builtin_memcpy(&signs, at, 8);
    __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi64x(signs), byte_of);
    return (strip_bytes){{_mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit01), bit01), sign),
                          _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit23), bit23), sign)}};
}

INLINE __m256i without_low_bits(__m256i v)
{
    return _mm256_and_si256(v, _mm256_set1_epi8(0x3c));
}

/* The way to the next nonzero, in the bits of the place: code's bits 6, 7, 0, 1. */
INLINE __m256i way_of(__m256i codes)
{
    return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(codes, 4), _mm256_set1_epi8(0x0c)),
                           _mm256_and_si256(_mm256_slli_epi16(codes, 4), _mm256_set1_epi8(0x30)));
}

/* A strip's bytes of a unit, transposed. */
typedef struct {
    strip_bytes codes, nibbles, signs;
} strip_parts;

INLINE strip_parts load_strip(const uint32_t n, const uint8_t *unit, uint32_t strip)
{
    strip_parts s = {0};
    s.signs = transposed_signs(unit + fs_blocked_signs_at(n) + FS_BLOCKED_STRIP_SIGNS * strip);
    if (n % 2) {
        const uint8_t *at = unit + fs_blocked_nibbles_at(n) + FS_BLOCKED_STRIP_NIBBLES * strip;
        __m256i both = _mm256_loadu_si256((const __m256i *)at);
        s.nibbles = transposed(without_low_bits(_mm256_slli_epi16(both, 2)),
                               without_low_bits(_mm256_srli_epi16(both, 2)));
    }
    if (n >= 2) {
        const uint8_t *at = unit + FS_BLOCKED_STRIP_CODES * strip;
        s.codes = transposed(_mm256_loadu_si256((const __m256i *)at),
                             _mm256_loadu_si256((const __m256i *)(at + 32)));
    }
    return s;
}

/* The places and signs of two blocks' nonzeros: sign << 6 | place << 2. */
INLINE void find_places(const uint32_t n, const strip_parts *s, int b, __m256i out[FS_BLOCKED_MAX_N])
{
    if (n == 1) {
        out[0] = _mm256_or_si256(s->nibbles.blocks[b], s->signs.blocks[b]);
        return;
    }
    out[0] = _mm256_or_si256(without_low_bits(s->codes.blocks[b]), s->signs.blocks[b]);
    out[1] = _mm256_sub_epi8(out[0], way_of(s->codes.blocks[b]));
    if (n == 3) out[2] = _mm256_sub_epi8(out[1], s->nibbles.blocks[b]);
}

/* A row's nonzeros 2j and 2j + 1 side by side; what is beside the place does not disturb a shuffle (bits 4-6), and bit 7 comes out
 * as 0. If n is odd, the last one is its own neighbour, and somebody sees to it that it counts once. */
INLINE void pair_up(const uint32_t n, const __m256i places[FS_BLOCKED_MAX_N], uint32_t j, __m256i index[2])
{
    __m256i a = _mm256_srli_epi16(places[2 * j], 2),
            b = 2 * j + 1 < n ? _mm256_srli_epi16(places[2 * j + 1], 2) : a;
    index[0] = _mm256_unpacklo_epi8(a, b);
    index[1] = _mm256_unpackhi_epi8(a, b);
}

INLINE bool is_half_pair(const uint32_t n, uint32_t j)
{
    return 2 * j + 1 == n;
}

/* out[pair][blocks] */
INLINE void take_apart(const uint32_t n, const bool symmetric, const uint8_t *unit, uint32_t strip,
                       pair (*out)[2])
{
    const __m256i one = _mm256_set1_epi8(1), sign = _mm256_set1_epi8(0x10);
    const strip_parts s = load_strip(n, unit, strip);
#pragma GCC unroll 2
    for (int b = 0; b < 2; b++) {
        __m256i places[FS_BLOCKED_MAX_N];
        find_places(n, &s, b, places);
        for (uint32_t j = 0; j < NUM_PAIRS(n); j++) {
            pair *p = &out[j][b];
            pair_up(n, places, j, p->index);
            for (int i = 0; i < 2; i++) {
                __m256i negative = _mm256_cmpeq_epi8(_mm256_and_si256(p->index[i], sign), sign);
                __m256i weight = symmetric ? _mm256_or_si256(negative, one) : _mm256_and_si256(negative, one);
                p->weight[i] = is_half_pair(n, j) ? _mm256_and_si256(weight, _mm256_set1_epi16(0xff))
                                                  : weight;
            }
        }
    }
}

/* 16 sums of 32 bits, rows in order. */
typedef struct {
    __m256i rows[2];
} sums32;

/* The two blocks of each row added up. */
INLINE __m256i widened(__m256i sum16)
{
    return _mm256_add_epi32(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum16)),
                            _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum16, 1)));
}

INLINE sums32 joined(const __m256i sum16[2])
{
    __m256i a = widened(sum16[0]), b = widened(sum16[1]);
    return (sums32){{_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)}};
}

INLINE __m256 widen_scales(const uint8_t *bf16)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)bf16));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* scales: the strip's first pos. sums: P - N if symmetric, else P + N, then N. */
INLINE void finish(const bool symmetric, const uint8_t *scales, const int32_t *sums, float x_scale, float *y)
{
    for (int half = 0; half < 2; half++, scales += 16, sums += 8, y += 8) {
        __m256i total = _mm256_load_si256((const __m256i *)sums),
                negative = _mm256_load_si256((const __m256i *)(sums + 16));
        __m256 pos = widen_scales(scales), sum;
        if (symmetric) {
            sum = _mm256_mul_ps(pos, _mm256_cvtepi32_ps(total));
        } else {
            __m256 neg = widen_scales(scales + FS_BLOCKED_SCALE_BYTES);
            sum = _mm256_add_ps(_mm256_mul_ps(pos, _mm256_cvtepi32_ps(_mm256_sub_epi32(total, negative))),
                                _mm256_mul_ps(neg, _mm256_cvtepi32_ps(negative)));
        }
        _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_set1_ps(x_scale), sum));
    }
}

INLINE void add_sums(int32_t *sums, sums32 more, bool begin)
{
    for (int i = 0; i < 2; i++) {
        __m256i *at = (__m256i *)(sums + 8 * i);
        __m256i before = begin ? _mm256_setzero_si256() : _mm256_load_si256(at);
        _mm256_store_si256(at, _mm256_add_epi32(before, more.rows[i]));
    }
}

/* A lone row is not biased: its values are the second factor, which has a sign. If symmetric, they take that of the weight: any number that
 * is not 0 and has it will do. */
INLINE void add_lone(const uint32_t n, const bool symmetric, const strip_parts *s, int b, __m256i window,
                     __m256i total[2], __m256i negative[2])
{
    const __m256i one = _mm256_set1_epi8(1), only_first = _mm256_set1_epi16(1);
    __m256i places[FS_BLOCKED_MAX_N];
    find_places(n, s, b, places);
#pragma GCC unroll 2
    for (uint32_t j = 0; j < NUM_PAIRS(n); j++) {
        const __m256i counted = is_half_pair(n, j) ? only_first : one;
        __m256i index[2];
        pair_up(n, places, j, index);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            __m256i found = _mm256_shuffle_epi8(window, index[i]);
            if (symmetric) {
                found = _mm256_sign_epi8(found, _mm256_or_si256(_mm256_slli_epi16(index[i], 3), one));
            } else { /* bit 4 of the index: 16 of each */
                __m256i weight = _mm256_and_si256(index[i], _mm256_slli_epi16(counted, 4));
                negative[i] = _mm256_add_epi16(negative[i],
                                               _mm256_srai_epi16(_mm256_maddubs_epi16(weight, found), 4));
            }
            total[i] = _mm256_add_epi16(total[i], _mm256_maddubs_epi16(counted, found));
        }
    }
}

INLINE void multiply_lone_strip(const uint32_t n, const bool symmetric, const uint8_t *group, uint32_t strip,
                                uint32_t num_units, const uint8_t *x, float x_scale, float *y)
{
    _Alignas(32) int32_t sums[32] = {0};
    const uint8_t *unit = group + fs_blocked_scales(symmetric);
    for (uint32_t u = 0; u < num_units;) {
        uint32_t end = num_units - u < PANEL_UNITS ? num_units : u + PANEL_UNITS;
        __m256i total[2] = {0}, negative[2] = {0};
        for (; u < end; u++, unit += fs_blocked_unit_bytes(n), x += FS_BLOCKED_UNIT_COLS) {
            const strip_parts s = load_strip(n, unit, strip);
            add_lone(n, symmetric, &s, 0, _mm256_load_si256((const __m256i *)x), total, negative);
            add_lone(n, symmetric, &s, 1, _mm256_load_si256((const __m256i *)(x + 32)), total, negative);
        }
        add_sums(sums, joined(total), false);
        if (!symmetric) add_sums(sums + 16, joined(negative), false);
    }
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
    const __m256i x_bias = _mm256_set1_epi8((char)128);
    __m256i weighted[2] = {0};
    pair(*p)[2] = (pair(*)[2])parts;
    for (uint32_t u = 0; u < num_units; u++, unit += fs_blocked_unit_bytes(n), p += NUM_PAIRS(n)) {
        pair made[MAX_PAIRS][2];
        take_apart(n, symmetric, unit, strip, made);
        for (uint32_t j = 0; j < NUM_PAIRS(n); j++) {
            for (int bi = 0; bi < 4; bi++) {
                __m256i weight = made[j][bi / 2].weight[bi % 2];
                weighted[bi % 2] = _mm256_add_epi16(weighted[bi % 2], _mm256_maddubs_epi16(x_bias, weight));
            }
            p[j][0] = made[j][0];
            p[j][1] = made[j][1];
        }
    }
    __m256i all = _mm256_set1_epi32((int32_t)(128 * 4 * n * num_units));
    sums32 by_weight = joined(weighted);
    add_sums(bias, symmetric ? by_weight : (sums32){{all, all}}, true);
    add_sums(bias + 16, by_weight, true);
}

INLINE sums32 minus_bias(const __m256i sum16[2], const int32_t *bias)
{
    sums32 s = joined(sum16);
    for (int i = 0; i < 2; i++)
        s.rows[i] = _mm256_sub_epi32(s.rows[i], _mm256_load_si256((const __m256i *)(bias + 8 * i)));
    return s;
}

/* rows of x (a constant, few enough for the registers), of the `stride` / 64 that a tile has. */
INLINE void add_rows(const uint32_t n, const bool symmetric, const uint32_t rows, pair (*p)[2],
                     uint32_t num_units, const uint8_t *x, uint32_t stride, const int32_t *bias, bool begin,
                     int32_t *sums)
{
    const __m256i one = _mm256_set1_epi8(1), only_first = _mm256_set1_epi16(1);
    __m256i total[4][2] = {{{0}}}, negative[4][2] = {{{0}}};
    for (uint32_t u = 0; u < num_units; u++, p += NUM_PAIRS(n), x += stride) {
#pragma GCC unroll 8
        for (uint32_t jbi = 0; jbi < 4 * NUM_PAIRS(n); jbi++) {
            const uint32_t j = jbi / 4, b = jbi / 2 % 2, i = jbi % 2;
            __m256i index = p[j][b].index[i], weight = p[j][b].weight[i];
            __m256i counted = n % 2 && j + 1 == NUM_PAIRS(n) ? only_first : one;
#pragma GCC unroll 4
            for (uint32_t r = 0; r < rows; r++) {
                __m256i window = _mm256_load_si256((const __m256i *)(x + 64 * r + 32 * b));
                __m256i found = _mm256_shuffle_epi8(window, index),
                        weighted = _mm256_maddubs_epi16(found, weight);
                if (symmetric) {
                    total[r][i] = _mm256_add_epi16(total[r][i], weighted);
                } else {
                    total[r][i] = _mm256_add_epi16(total[r][i], _mm256_maddubs_epi16(found, counted));
                    negative[r][i] = _mm256_add_epi16(negative[r][i], weighted);
                }
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        add_sums(sums + ROW_SUMS * r, minus_bias(total[r], bias), begin);
        if (!symmetric) add_sums(sums + ROW_SUMS * r + 16, minus_bias(negative[r], bias + 16), begin);
    }
}

INLINE void add_tile(const uint32_t n, const bool symmetric, const uint32_t rows, uint8_t *parts,
                     uint32_t num_units, const uint8_t *x, const int32_t *bias, bool begin, int32_t *sums)
{
    const uint32_t most = symmetric ? 4 : 2, at_once = rows < most ? rows : most;
    for (uint32_t r = 0; r < rows; r += at_once)
        add_rows(n, symmetric, at_once, (pair(*)[2])parts, num_units, x + 64 * r, 64 * rows, bias, begin,
                 sums + ROW_SUMS * r);
}

#include "sub1/blocked_wide.h"

static void arrange(const fs_sub1_x *x, uint32_t first, uint8_t *arranged)
{
    uint32_t tile = fs_sub1_tile(x->num_rows, first);
    const __m256i flip = _mm256_set1_epi8((char)(x->num_rows == 1 ? 0 : 128)), least = _mm256_set1_epi8(-127);
    uint8_t *out = arranged + (size_t)first * x->padded_cols;
    for (uint32_t c = 0; c < x->padded_cols; c += 64)
        for (uint32_t i = 0; i < 2 * tile; i++, out += 32) {
            const int8_t *from = x->row[first + i / 2] + c + 32 * (i % 2);
            __m256i v = _mm256_max_epi8(_mm256_loadu_si256((const __m256i *)from), least);
            _mm256_store_si256((__m256i *)out, _mm256_xor_si256(v, flip));
        }
}

static bool usable(void)
{
    return __builtin_cpu_supports("avx2");
}

const fs_sub1_kernels fs_sub1_kernels_avx2 = {
    .name = "avx2", .usable = usable, .arrange = arrange, .blocked = blocked, .free = fs_free_avx2};
#endif
