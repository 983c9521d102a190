/* common/sub1/blocked_vbmi.c: the product with a blocked matrix by AVX-512 VBMI, VNNI and GFNI: a 32-bit lane a matrix row, one byte
 * permute looks up 64 activations, dot products add them up.
 *
 * An index byte is sign << 6 | place << 2 | block. x is transposed to match: byte 4p + k is column p of block k. The way to the next
 * nonzero is subtracted from the place, and the borrow flips the sign for free: the file's bytes are laid out for that. */
#include "sub1/blocked_int.h"

#if defined(__AVX512VBMI__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
/* Keeps a value in a register: gcc would rather load it twice, and loads are what is scarce. */
#define IN_REGISTER(v) __asm__("" : "+v"(v))

enum {
    MAX_LONE_ROWS = 3,
    PANEL_UNITS = 16,
    MAX_PART_BYTES = 64 * 2 * FS_BLOCKED_MAX_N,
    SIGN = 0x40,
    SIGN_SHIFT = 6
};
enum { AND_OR = 0xea }; /* the truth table of (x & y) | z */

/* For gf2p8affineqb: bits 2-5 of the result are a nibble of the byte, the others 0. Byte 7-i of the matrix selects what makes bit i. */
#define MATRIX(b2, b3, b4, b5)                                                                               \
    ((int64_t)((uint64_t)(b2) << 40 | (uint64_t)(b3) << 32 | (uint64_t)(b4) << 24 | (uint64_t)(b5) << 16))
#define ROTATED_BY_4 MATRIX(0x40, 0x80, 0x01, 0x02)
#define LOW_NIBBLE   MATRIX(0x01, 0x02, 0x04, 0x08)
#define HIGH_NIBBLE  MATRIX(0x10, 0x20, 0x40, 0x80)

/* The indices of a strip's nonzeros in a unit: byte 4r + k is row r's in block k. */
INLINE void find_indices(const uint32_t n, const uint8_t *unit, uint32_t strip, __m512i index[])
{
    const __m512i block = _mm512_set1_epi32(0x03020100), negative = _mm512_set1_epi32(0x43424140);
    uint64_t signs;
    __builtin_memcpy(&signs, unit + fs_blocked_signs_at(n) + FS_BLOCKED_STRIP_SIGNS * strip, 8);
    __m512i base = _mm512_mask_mov_epi8(block, _cvtu64_mask64(signs), negative), nibble = base;
    if (n % 2) {
        const __m512i matrix = _mm512_set_epi64(HIGH_NIBBLE, HIGH_NIBBLE, HIGH_NIBBLE, HIGH_NIBBLE,
                                                LOW_NIBBLE, LOW_NIBBLE, LOW_NIBBLE, LOW_NIBBLE);
        const uint8_t *at = unit + fs_blocked_nibbles_at(n) + FS_BLOCKED_STRIP_NIBBLES * strip;
        __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)at));
        nibble = _mm512_gf2p8affine_epi64_epi8(both, matrix, 0);
    }
    if (n == 1) {
        index[0] = _mm512_or_si512(nibble, base);
        return;
    }
    __m512i codes = _mm512_loadu_si512(unit + FS_BLOCKED_STRIP_CODES * strip);
    IN_REGISTER(codes);
    index[0] = _mm512_ternarylogic_epi32(codes, _mm512_set1_epi8(0x3c), base, AND_OR);
    index[1] = _mm512_sub_epi8(index[0],
                               _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(ROTATED_BY_4), 0));
    if (n == 3) index[2] = _mm512_sub_epi8(index[1], nibble);
}

INLINE __m512 widen_scales(const uint8_t *bf16)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)bf16));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* scales: the strip's first pos. total is P - N if symmetric, else P + N. */
INLINE void store(const bool symmetric, const uint8_t *scales, __m512i total, __m512i negative, float x_scale,
                  float *y)
{
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

INLINE void finish(const bool symmetric, const uint8_t *scales, const int32_t *sums, float x_scale, float *y)
{
    store(symmetric, scales, _mm512_load_si512(sums), _mm512_load_si512(sums + 16), x_scale, y);
}

/* A lone row: all strips of a unit share the loads of x, which is there twice, as it is and negated. */
INLINE void multiply_lone(const uint32_t n, const bool symmetric, const uint8_t *group, uint32_t num_units,
                          const uint8_t *x, float x_scale, float *y)
{
    const __m512i one = _mm512_set1_epi8(1), sign = _mm512_set1_epi8(SIGN);
    __m512i total[FS_BLOCKED_STRIPS] = {0}, negative[FS_BLOCKED_STRIPS] = {0};
    const uint8_t *unit = group + fs_blocked_scales(symmetric);
    for (uint32_t u = 0; u < num_units;
         u++, unit += fs_blocked_unit_bytes(n), x += 2 * FS_BLOCKED_UNIT_COLS) {
        __m512i plus = _mm512_load_si512(x), minus = _mm512_load_si512(x + 64);
#pragma GCC unroll 4
        for (uint32_t s = 0; s < FS_BLOCKED_STRIPS; s++) {
            __m512i index[FS_BLOCKED_MAX_N];
            find_indices(n, unit, s, index);
#pragma GCC unroll 3
            for (uint32_t j = 0; j < n; j++) {
                if (symmetric) {
                    total[s] = _mm512_dpbusd_epi32(total[s], one,
                                                   _mm512_permutex2var_epi8(plus, index[j], minus));
                    continue;
                }
                __m512i found = _mm512_permutexvar_epi8(index[j], plus);
                total[s] = _mm512_dpbusd_epi32(total[s], one, found);
                negative[s] = _mm512_dpbusd_epi32(negative[s], _mm512_and_si512(index[j], sign), found);
            }
        }
    }
    for (uint32_t s = 0; s < FS_BLOCKED_STRIPS; s++)
        store(symmetric, group + 32 * s, total[s], _mm512_srai_epi32(negative[s], SIGN_SHIFT), x_scale,
              y + 16 * s);
}

/* A unit: n registers of indices, then n of weights: 1 or -1 if symmetric, else 1 for a negative one and 0. The bias of x is 128. */
INLINE void take_apart_panel(const uint32_t n, const bool symmetric, const uint8_t *unit, uint32_t strip,
                             uint32_t num_units, uint8_t *parts, int32_t *bias)
{
    const __m512i one = _mm512_set1_epi8(1), minus_one = _mm512_set1_epi8(-1), sign = _mm512_set1_epi8(SIGN),
                  x_bias = _mm512_set1_epi8((char)128);
    __m512i weighted = _mm512_setzero_si512();
    for (uint32_t u = 0; u < num_units; u++, unit += fs_blocked_unit_bytes(n), parts += 128 * n) {
        __m512i index[FS_BLOCKED_MAX_N];
        find_indices(n, unit, strip, index);
#pragma GCC unroll 3
        for (uint32_t j = 0; j < n; j++) {
            __mmask64 negative = _mm512_test_epi8_mask(index[j], sign);
            __m512i weight = symmetric ? _mm512_mask_mov_epi8(one, negative, minus_one)
                                       : _mm512_maskz_mov_epi8(negative, one);
            _mm512_store_si512(parts + 64 * j, index[j]);
            _mm512_store_si512(parts + 64 * (n + j), weight);
            weighted = _mm512_dpbusd_epi32(weighted, x_bias, weight);
        }
    }
    __m512i all = _mm512_set1_epi32((int32_t)(128 * 4 * n * num_units));
    _mm512_store_si512(bias, symmetric ? weighted : all);
    _mm512_store_si512(bias + 16, weighted);
}

/* The panel with `rows` rows of x, which begin at x: 64 bytes of each, unit by unit. sums [rows][FS_BLOCKED_SUMS]. */
INLINE void add_tile(const uint32_t n, const bool symmetric, const uint32_t rows, const uint8_t *parts,
                     uint32_t num_units, const uint8_t *x, const int32_t *bias, bool begin, int32_t *sums)
{
    const __m512i one = _mm512_set1_epi8(1);
    __m512i total[8], negative[8];
#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++) {
        total[r] = begin ? _mm512_setzero_si512() : _mm512_load_si512(sums + ROW_SUMS * r);
        negative[r] = begin || symmetric ? _mm512_setzero_si512()
                                         : _mm512_load_si512(sums + ROW_SUMS * r + 16);
    }
    for (uint32_t u = 0; u < num_units; u++, parts += 128 * n, x += 64 * rows) {
        __m512i index[FS_BLOCKED_MAX_N], weight[FS_BLOCKED_MAX_N];
#pragma GCC unroll 3
        for (uint32_t j = 0; j < n; j++) {
            index[j] = _mm512_load_si512(parts + 64 * j);
            weight[j] = _mm512_load_si512(parts + 64 * (n + j));
        }
#pragma GCC unroll 8
        for (uint32_t r = 0; r < rows; r++) {
            __m512i window = _mm512_load_si512(x + 64 * r);
            IN_REGISTER(window);
#pragma GCC unroll 3
            for (uint32_t j = 0; j < n; j++) {
                __m512i found = _mm512_permutexvar_epi8(index[j], window);
                total[r] = _mm512_dpbusd_epi32(total[r], found, symmetric ? weight[j] : one);
                if (!symmetric) negative[r] = _mm512_dpbusd_epi32(negative[r], found, weight[j]);
            }
        }
    }
#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++) {
        _mm512_store_si512(sums + ROW_SUMS * r, _mm512_sub_epi32(total[r], _mm512_load_si512(bias)));
        if (!symmetric)
            _mm512_store_si512(sums + ROW_SUMS * r + 16,
                               _mm512_sub_epi32(negative[r], _mm512_load_si512(bias + 16)));
    }
}

#include "sub1/blocked_wide.h"

/* Transposed, so that byte 4p + k is column p of block k. */
INLINE __m512i transposed(const int8_t *x)
{
    const __m512i first = _mm512_set_epi64(0x3f2f1f0f3e2e1e0e, 0x3d2d1d0d3c2c1c0c, 0x3b2b1b0b3a2a1a0a,
                                           0x3929190938281808, 0x3727170736261606, 0x3525150534241404,
                                           0x3323130332221202, 0x3121110130201000);
    __m512i v = _mm512_max_epi8(_mm512_loadu_si512(x), _mm512_set1_epi8(-127));
    return _mm512_permutexvar_epi8(first, v);
}

static void arrange_lone(const int8_t *x, uint32_t num_cols, uint8_t *out)
{
    for (uint32_t c = 0; c < num_cols; c += 64, out += 128) {
        __m512i v = transposed(x + c);
        _mm512_store_si512(out, v);
        _mm512_store_si512(out + 64, _mm512_sub_epi8(_mm512_setzero_si512(), v));
    }
}

static void arrange(const fs_sub1_x *x, uint32_t first, uint8_t *arranged)
{
    uint32_t tile = fs_sub1_tile(x->num_rows, first);
    if (x->num_rows <= MAX_LONE_ROWS) {
        for (uint32_t r = first; r < first + tile; r++)
            arrange_lone(x->row[r], x->padded_cols, arranged + r * FS_BLOCKED_LONE_BYTES(x->padded_cols));
        return;
    }
    uint8_t *out = arranged + (size_t)first * x->padded_cols;
    for (uint32_t c = 0; c < x->padded_cols; c += 64)
        for (uint32_t r = 0; r < tile; r++, out += 64)
            _mm512_store_si512(
                out, _mm512_xor_si512(transposed(x->row[first + r] + c), _mm512_set1_epi8((char)128)));
}

static bool usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("gfni");
}

const fs_sub1_kernels fs_sub1_kernels_vbmi = {
    .name = "avx512_vbmi", .usable = usable, .arrange = arrange, .blocked = blocked, .free = fs_free_vbmi};
#endif
