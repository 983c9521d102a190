/* common/compute/kernels_avx512.c: the kernels in 512-bit registers: a register is the 16 virtual lanes. */
#include "compute/compute_int.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __mmask16 first_lanes(size_t n)
{
    return n >= FS_LANES ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

INLINE __m512 load_bf16(const fs_bf16 *w, __mmask16 mask)
{
    __m256i half = _mm256_maskz_loadu_epi16(mask, w);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE __m512 load_weights(const void *w, size_t at, __mmask16 mask, const bool is_bf16)
{
    if (is_bf16) return load_bf16((const fs_bf16 *)w + at, mask);
    return _mm512_maskz_loadu_ps(mask, (const float *)w + at);
}

/* The tree 8, 4, 2, 1 on one register. */
INLINE float sum_lanes(__m512 v)
{
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

/* The same tree on 16 registers at once, by transposing as it folds. Lane i of the result is the sum of acc[SLOT(i)]. */
#define SLOT(i) ((i) % 4 * 4 + (i) / 4)
INLINE __m512 sum_lanes_16(const __m512 acc[16])
{
    __m512 s8[8], s4[4], s2[2];
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++)
        s8[k] = _mm512_add_ps(_mm512_shuffle_f32x4(acc[2 * k], acc[2 * k + 1], 0x44),
                              _mm512_shuffle_f32x4(acc[2 * k], acc[2 * k + 1], 0xee));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        s4[k] = _mm512_add_ps(_mm512_shuffle_f32x4(s8[2 * k], s8[2 * k + 1], 0x88),
                              _mm512_shuffle_f32x4(s8[2 * k], s8[2 * k + 1], 0xdd));
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
        __m512d a = _mm512_castps_pd(s4[2 * k]), b = _mm512_castps_pd(s4[2 * k + 1]);
        s2[k] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                              _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    return _mm512_add_ps(_mm512_shuffle_ps(s2[0], s2[1], 0x88), _mm512_shuffle_ps(s2[0], s2[1], 0xdd));
}

/* acc[SLOT(base + r * per_row + o)] += x[r][at..] * w[o][at..], one step of 16 columns. */
INLINE void step(__m512 acc[16], const float *const *x, const void *const *w, size_t at, __mmask16 mask,
                 const int num_x, const int num_w, const int base, const int per_row, const bool is_bf16)
{
    __m512 xv[4];
#pragma GCC unroll 4
    for (int r = 0; r < num_x; r++) xv[r] = _mm512_maskz_loadu_ps(mask, x[r] + at);
#pragma GCC unroll 8
    for (int o = 0; o < num_w; o++) {
        __m512 wv = load_weights(w[o], at, mask, is_bf16);
#pragma GCC unroll 4
        for (int r = 0; r < num_x; r++) {
            const int slot = SLOT(base + r * per_row + o);
            acc[slot] = _mm512_fmadd_ps(xv[r], wv, acc[slot]);
        }
    }
}

/* num_x * num_w chains over all columns. Pointers stay in general registers: at most 8 + 4. */
INLINE void accumulate(__m512 acc[16], const float *const *x, const void *const *w, size_t cols,
                       const int num_x, const int num_w, const int base, const int per_row,
                       const bool is_bf16)
{
    size_t at = 0;
    for (; at + FS_LANES <= cols; at += FS_LANES)
        step(acc, x, w, at, 0xffff, num_x, num_w, base, per_row, is_bf16);
    if (at < cols) step(acc, x, w, at, first_lanes(cols - at), num_x, num_w, base, per_row, is_bf16);
}

/* 16 dot products: num_x rows (1, 2 or 4) by 16 / num_x outputs, of which rows and outs are wanted: the others repeat the
 * last one, which costs no branch inside. */
INLINE void tile(const float *x, size_t x_stride, const void *w, float *y, size_t y_stride, size_t rows,
                 size_t outs, size_t cols, const int num_x, const bool is_bf16)
{
    const int per_row = 16 / num_x;
    const size_t w_size = is_bf16 ? sizeof(fs_bf16) : sizeof(float);
    const float *xp[4];
    const void *wp[16];
    __m512 acc[16];
#pragma GCC unroll 4
    for (int r = 0; r < num_x; r++) xp[r] = x + ((size_t)r < rows ? (size_t)r : rows - 1) * x_stride;
#pragma GCC unroll 16
    for (int o = 0; o < per_row; o++)
        wp[o] = (const char *)w + ((size_t)o < outs ? (size_t)o : outs - 1) * cols * w_size;
#pragma GCC unroll 16
    for (int k = 0; k < 16; k++) acc[k] = _mm512_setzero_ps();
    if (num_x == 1) {
        accumulate(acc, xp, wp, cols, 1, 8, 0, per_row, is_bf16);
        accumulate(acc, xp, wp + 8, cols, 1, 8, 8, per_row, is_bf16);
    } else {
        accumulate(acc, xp, wp, cols, num_x, per_row, 0, per_row, is_bf16);
    }
    float out[16] __attribute__((aligned(64)));
    _mm512_store_ps(out, sum_lanes_16(acc));
    for (size_t r = 0; r < rows; r++) {
        if (outs == (size_t)per_row)
            memcpy(y + r * y_stride, out + r * (size_t)per_row, (size_t)per_row * sizeof *y);
        else
            memcpy(y + r * y_stride, out + r * (size_t)per_row, outs * sizeof *y);
    }
}

/* All outputs for rows that are taken num_x at a time. A block of weight rows stays in L1 while all rows pass. */
INLINE void matmul_by(const float *x, size_t x_stride, const void *w, float *y, size_t y_stride, size_t rows,
                      size_t outs, size_t cols, const int num_x, const bool is_bf16)
{
    const size_t per_row = (size_t)(16 / num_x), w_size = is_bf16 ? sizeof(fs_bf16) : sizeof(float);
    for (size_t o = 0; o < outs; o += per_row) {
        size_t num_outs = outs - o < per_row ? outs - o : per_row;
        const void *block = (const char *)w + o * cols * w_size;
        for (size_t r = 0; r < rows; r += (size_t)num_x) {
            size_t num_rows = rows - r < (size_t)num_x ? rows - r : (size_t)num_x;
            tile(x + r * x_stride, x_stride, block, y + r * y_stride + o, y_stride, num_rows, num_outs, cols,
                 num_x, is_bf16);
        }
    }
}

static void matmul_f32(const float *x, size_t x_stride, const float *w, float *y, size_t y_stride,
                       size_t rows, size_t outs, size_t cols)
{
    if (rows == 1)
        matmul_by(x, x_stride, w, y, y_stride, rows, outs, cols, 1, false);
    else if (rows == 2)
        matmul_by(x, x_stride, w, y, y_stride, rows, outs, cols, 2, false);
    else
        matmul_by(x, x_stride, w, y, y_stride, rows, outs, cols, 4, false);
}

static void matmul_bf16(const float *x, size_t x_stride, const fs_bf16 *w, float *y, size_t y_stride,
                        size_t rows, size_t outs, size_t cols)
{
    if (rows == 1)
        matmul_by(x, x_stride, w, y, y_stride, rows, outs, cols, 1, true);
    else if (rows == 2)
        matmul_by(x, x_stride, w, y, y_stride, rows, outs, cols, 2, true);
    else
        matmul_by(x, x_stride, w, y, y_stride, rows, outs, cols, 4, true);
}

static float dot_f32(const float *a, const float *b, size_t n)
{
    __m512 acc = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += FS_LANES) {
        __mmask16 mask = first_lanes(n - i);
        acc = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i), acc);
    }
    return sum_lanes(acc);
}

static void rms_norm(const float *x, const float *w, float eps, float *y, size_t n)
{
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(dot_f32(x, x, n) / (float)n + eps));
    for (size_t i = 0; i < n; i += FS_LANES) {
        __mmask16 mask = first_lanes(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, w + i)));
    }
}

INLINE __m512 power_of_two(__m512i n)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}

/* Step for step exp_one of kernels_scalar.c. min and max return their second operand for NaN. */
INLINE __m512 exp_16(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(FS_ROUND_MAGIC);
    x = _mm512_min_ps(_mm512_set1_ps(FS_EXP_HI), x);
    x = _mm512_max_ps(_mm512_set1_ps(FS_EXP_LO), x);
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(FS_EXP_LOG2E), magic);
    __m512i n = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(FS_ROUND_BITS));
    __m512 nf = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fmadd_ps(nf, _mm512_set1_ps(-FS_EXP_LN2_HI), x);
    r = _mm512_fmadd_ps(nf, _mm512_set1_ps(-FS_EXP_LN2_LO), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(FS_EXP_C5), r, _mm512_set1_ps(FS_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FS_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FS_EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FS_EXP_C1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FS_EXP_C0));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    __m512i half = _mm512_srai_epi32(n, 1);
    return _mm512_mul_ps(_mm512_mul_ps(p, power_of_two(half)), power_of_two(_mm512_sub_epi32(n, half)));
}

static void exp_f32(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i += FS_LANES) {
        __mmask16 mask = first_lanes(n - i);
        _mm512_mask_storeu_ps(y + i, mask, exp_16(_mm512_maskz_loadu_ps(mask, x + i)));
    }
}

static float max_f32(const float *x, size_t n)
{
    const __m512 low = _mm512_set1_ps(-INFINITY);
    __m512 v = low;
    for (size_t i = 0; i < n; i += FS_LANES)
        v = _mm512_max_ps(_mm512_mask_loadu_ps(low, first_lanes(n - i), x + i), v);
    __m256 m8 = _mm256_max_ps(_mm512_extractf32x8_ps(v, 1), _mm512_castps512_ps256(v));
    __m128 m4 = _mm_max_ps(_mm256_extractf128_ps(m8, 1), _mm256_castps256_ps128(m8));
    __m128 m2 = _mm_max_ps(_mm_movehl_ps(m4, m4), m4);
    return _mm_cvtss_f32(_mm_max_ss(_mm_movehdup_ps(m2), m2));
}

static void softmax(float *x, size_t n)
{
    __m512 max = _mm512_set1_ps(max_f32(x, n)), lane = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += FS_LANES) {
        __mmask16 mask = first_lanes(n - i);
        __m512 e = _mm512_maskz_mov_ps(mask, exp_16(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), max)));
        _mm512_mask_storeu_ps(x + i, mask, e);
        lane = _mm512_add_ps(lane, e);
    }
    __m512 sum = _mm512_set1_ps(sum_lanes(lane));
    for (size_t i = 0; i < n; i += FS_LANES) {
        __mmask16 mask = first_lanes(n - i);
        _mm512_mask_storeu_ps(x + i, mask, _mm512_div_ps(_mm512_maskz_loadu_ps(mask, x + i), sum));
    }
}

static void silu_mul(const float *gate, const float *up, float *y, size_t n)
{
    const __m512 one = _mm512_set1_ps(1.0f), sign = _mm512_set1_ps(-0.0f);
    for (size_t i = 0; i < n; i += FS_LANES) {
        __mmask16 mask = first_lanes(n - i);
        __m512 g = _mm512_maskz_loadu_ps(mask, gate + i), u = _mm512_maskz_loadu_ps(mask, up + i);
        __m512 sigmoid = _mm512_div_ps(one, _mm512_add_ps(one, exp_16(_mm512_xor_ps(g, sign))));
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(_mm512_mul_ps(g, sigmoid), u));
    }
}

static void axpy(float a, const float *x, float *y, size_t n)
{
    const __m512 av = _mm512_set1_ps(a);
    for (size_t i = 0; i < n; i += FS_LANES) {
        __mmask16 mask = first_lanes(n - i);
        __m512 v = _mm512_fmadd_ps(av, _mm512_maskz_loadu_ps(mask, x + i),
                                   _mm512_maskz_loadu_ps(mask, y + i));
        _mm512_mask_storeu_ps(y + i, mask, v);
    }
}

/* 64 columns at a time stay in registers while all rows pass. */
static void weighted_sum(const float *weight, const float *rows, size_t row_stride, size_t num_rows, float *y,
                         size_t n)
{
    for (size_t i = 0; i < n; i += 4 * FS_LANES) {
        __mmask16 mask[4];
        __m512 acc[4];
        for (size_t k = 0; k < 4; k++) {
            size_t at = i + k * FS_LANES;
            mask[k] = at < n ? first_lanes(n - at) : 0;
            acc[k] = _mm512_maskz_loadu_ps(mask[k], y + at);
        }
        for (size_t r = 0; r < num_rows; r++) {
            const __m512 w = _mm512_set1_ps(weight[r]);
            const float *row = rows + r * row_stride + i;
#pragma GCC unroll 4
            for (size_t k = 0; k < 4; k++)
                acc[k] = _mm512_fmadd_ps(w, _mm512_maskz_loadu_ps(mask[k], row + k * FS_LANES), acc[k]);
        }
        for (size_t k = 0; k < 4; k++) _mm512_mask_storeu_ps(y + i + k * FS_LANES, mask[k], acc[k]);
    }
}

static float quantize_i8(const float *x, int8_t *q, size_t n)
{
    __m512i amax = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += FS_LANES) {
        __m512i v = _mm512_castps_si512(_mm512_maskz_loadu_ps(first_lanes(n - i), x + i));
        amax = _mm512_max_epi32(amax, _mm512_and_si512(v, _mm512_set1_epi32(0x7fffffff)));
    }
    int32_t bits = _mm512_reduce_max_epi32(amax);
    if (bits >= 0x7f800000) {
        memset(q, 0, n);
        return NAN;
    }
    float max = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
    float scale = (max > FS_AMAX_MIN ? max : FS_AMAX_MIN) / (float)FS_I8_MAX;
    const __m512 scales = _mm512_set1_ps(scale);
    for (size_t i = 0; i < n; i += FS_LANES) {
        __mmask16 mask = first_lanes(n - i);
        __m512i v = _mm512_cvtps_epi32(_mm512_div_ps(_mm512_maskz_loadu_ps(mask, x + i), scales));
        v = _mm512_max_epi32(_mm512_min_epi32(v, _mm512_set1_epi32(FS_I8_MAX)),
                             _mm512_set1_epi32(-FS_I8_MAX));
        _mm512_mask_cvtepi32_storeu_epi8(q + i, mask, v);
    }
    return scale;
}

const fs_kernels fs_kernels_avx512 = {
    .name = "avx512",
    .usable = fs_isa_has_avx512,
    .dot_f32 = dot_f32,
    .matmul_f32 = matmul_f32,
    .matmul_bf16 = matmul_bf16,
    .rms_norm = rms_norm,
    .softmax = softmax,
    .silu_mul = silu_mul,
    .exp_f32 = exp_f32,
    .axpy = axpy,
    .quantize_i8 = quantize_i8,
    .max_f32 = max_f32,
    .weighted_sum = weighted_sum,
};

#else
const fs_kernels fs_kernels_avx512 = {.name = "avx512", .usable = fs_isa_has_avx512};
#endif
