/* common/compute/kernels_avx2.c: the kernels in 256-bit registers: lanes 0..7 and 8..15 are a register each. */
#include "compute/compute_int.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define HALF   8u

/* The 16 virtual lanes. */
typedef struct {
    __m256 lo, hi;
} lanes;

/* All ones in the first n of 8 lanes. */
INLINE __m256i first_lanes(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < HALF ? (int)n : (int)HALF),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n of 8 floats, then zeros. */
INLINE __m256 load_first(const float *x, size_t n)
{
    return n >= HALF ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, first_lanes(n));
}

INLINE void store_first(float *y, size_t n, __m256 v)
{
    if (n >= HALF)
        _mm256_storeu_ps(y, v);
    else
        _mm256_maskstore_ps(y, first_lanes(n), v);
}

INLINE __m256 widen(__m128i half)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE lanes load_lanes(const float *x, size_t n)
{
    if (n >= FS_LANES) return (lanes){_mm256_loadu_ps(x), _mm256_loadu_ps(x + HALF)};
    size_t above = n > HALF ? n - HALF : 0;
    return (lanes){load_first(x, n), above != 0 ? load_first(x + HALF, above) : _mm256_setzero_ps()};
}

INLINE lanes load_weights(const void *w, size_t at, size_t n, const bool is_bf16)
{
    if (!is_bf16) return load_lanes((const float *)w + at, n);
    const fs_bf16 *src = (const fs_bf16 *)w + at;
    fs_bf16 tail[FS_LANES] __attribute__((aligned(32)));
    if (n < FS_LANES) {
        memset(tail, 0, sizeof tail);
        memcpy(tail, src, n * sizeof *src);
        src = tail;
    }
    __m256i v = _mm256_loadu_si256((const __m256i *)src);
    return (lanes){widen(_mm256_castsi256_si128(v)), widen(_mm256_extracti128_si256(v, 1))};
}

INLINE lanes fma_lanes(lanes a, lanes b, lanes c)
{
    return (lanes){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

/* The tree 8, 4, 2, 1. */
INLINE float sum_lanes(lanes v)
{
    __m256 s8 = _mm256_add_ps(v.lo, v.hi);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

INLINE __m256 fold_pair(__m256 a, __m256 b)
{
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

/* The same tree on four at once: lane i of the result is the sum of acc[i]. */
INLINE __m128 sum_lanes_4(const lanes acc[4])
{
    __m256 ab = fold_pair(_mm256_add_ps(acc[0].lo, acc[0].hi), _mm256_add_ps(acc[1].lo, acc[1].hi));
    __m256 cd = fold_pair(_mm256_add_ps(acc[2].lo, acc[2].hi), _mm256_add_ps(acc[3].lo, acc[3].hi));
    __m256d p = _mm256_castps_pd(ab), q = _mm256_castps_pd(cd);
    __m256 s2 = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(p, q)),
                              _mm256_castpd_ps(_mm256_unpackhi_pd(p, q)));
    __m256 s1 = _mm256_hadd_ps(s2, s2); /* a c a c | b d b d */
    return _mm_unpacklo_ps(_mm256_castps256_ps128(s1), _mm256_extractf128_ps(s1, 1));
}

INLINE void step(lanes acc[4], const float *const *x, const void *const *w, size_t at, size_t n,
                 const int num_x, const bool is_bf16)
{
    const int per_row = 4 / num_x;
    lanes xv[2];
#pragma GCC unroll 2
    for (int r = 0; r < num_x; r++) xv[r] = load_lanes(x[r] + at, n);
#pragma GCC unroll 4
    for (int o = 0; o < per_row; o++) {
        lanes wv = load_weights(w[o], at, n, is_bf16);
#pragma GCC unroll 2
        for (int r = 0; r < num_x; r++) acc[r * per_row + o] = fma_lanes(xv[r], wv, acc[r * per_row + o]);
    }
}

/* Four dot products: num_x rows (1 or 2) by 4 / num_x outputs, of which rows and outs are wanted: the others repeat the
 * last one. Eight chains keep both FMA units busy. */
INLINE void tile(const float *x, size_t x_stride, const void *w, float *y, size_t y_stride, size_t rows,
                 size_t outs, size_t cols, const int num_x, const bool is_bf16)
{
    const int per_row = 4 / num_x;
    const size_t w_size = is_bf16 ? sizeof(fs_bf16) : sizeof(float);
    const float *xp[2];
    const void *wp[4];
    lanes acc[4];
#pragma GCC unroll 2
    for (int r = 0; r < num_x; r++) xp[r] = x + ((size_t)r < rows ? (size_t)r : rows - 1) * x_stride;
#pragma GCC unroll 4
    for (int o = 0; o < per_row; o++)
        wp[o] = (const char *)w + ((size_t)o < outs ? (size_t)o : outs - 1) * cols * w_size;
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) acc[k] = (lanes){_mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t at = 0;
    for (; at + FS_LANES <= cols; at += FS_LANES) step(acc, xp, wp, at, FS_LANES, num_x, is_bf16);
    if (at < cols) step(acc, xp, wp, at, cols - at, num_x, is_bf16);
    float out[4] __attribute__((aligned(16)));
    _mm_store_ps(out, sum_lanes_4(acc));
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < outs; o++) y[r * y_stride + o] = out[r * (size_t)per_row + o];
}

/* A block of weight rows stays in L1 while all rows pass. */
INLINE void matmul_by(const float *x, size_t x_stride, const void *w, float *y, size_t y_stride, size_t rows,
                      size_t outs, size_t cols, const int num_x, const bool is_bf16)
{
    const size_t per_row = (size_t)(4 / num_x), w_size = is_bf16 ? sizeof(fs_bf16) : sizeof(float);
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
    else
        matmul_by(x, x_stride, w, y, y_stride, rows, outs, cols, 2, false);
}

static void matmul_bf16(const float *x, size_t x_stride, const fs_bf16 *w, float *y, size_t y_stride,
                        size_t rows, size_t outs, size_t cols)
{
    if (rows == 1)
        matmul_by(x, x_stride, w, y, y_stride, rows, outs, cols, 1, true);
    else
        matmul_by(x, x_stride, w, y, y_stride, rows, outs, cols, 2, true);
}

static float dot_f32(const float *a, const float *b, size_t n)
{
    lanes acc = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < n; i += FS_LANES)
        acc = fma_lanes(load_lanes(a + i, n - i), load_lanes(b + i, n - i), acc);
    return sum_lanes(acc);
}

static void rms_norm(const float *x, const float *w, float eps, float *y, size_t n)
{
    __m256 scale = _mm256_set1_ps(1.0f / sqrtf(dot_f32(x, x, n) / (float)n + eps));
    for (size_t i = 0; i < n; i += HALF) {
        __m256 v = _mm256_mul_ps(load_first(x + i, n - i), scale);
        store_first(y + i, n - i, _mm256_mul_ps(v, load_first(w + i, n - i)));
    }
}

INLINE __m256 power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* Step for step exp_one of kernels_scalar.c. min and max return their second operand for NaN. */
INLINE __m256 exp_8(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(FS_ROUND_MAGIC);
    x = _mm256_min_ps(_mm256_set1_ps(FS_EXP_HI), x);
    x = _mm256_max_ps(_mm256_set1_ps(FS_EXP_LO), x);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(FS_EXP_LOG2E), magic);
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(FS_ROUND_BITS));
    __m256 nf = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(nf, _mm256_set1_ps(-FS_EXP_LN2_HI), x);
    r = _mm256_fmadd_ps(nf, _mm256_set1_ps(-FS_EXP_LN2_LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(FS_EXP_C5), r, _mm256_set1_ps(FS_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FS_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FS_EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FS_EXP_C1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FS_EXP_C0));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i half = _mm256_srai_epi32(n, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, power_of_two(half)), power_of_two(_mm256_sub_epi32(n, half)));
}

static void exp_f32(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i += HALF) store_first(y + i, n - i, exp_8(load_first(x + i, n - i)));
}

INLINE __m256 max_first(const float *x, size_t n, __m256 so_far)
{
    if (n >= HALF) return _mm256_max_ps(_mm256_loadu_ps(x), so_far);
    __m256i mask = first_lanes(n);
    __m256 v = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), _mm256_maskload_ps(x, mask),
                                _mm256_castsi256_ps(mask));
    return _mm256_max_ps(v, so_far);
}

static float max_f32(const float *x, size_t n)
{
    __m256 lo = _mm256_set1_ps(-INFINITY), hi = lo;
    for (size_t i = 0; i < n; i += FS_LANES) {
        lo = max_first(x + i, n - i, lo);
        if (n - i > HALF) hi = max_first(x + i + HALF, n - i - HALF, hi);
    }
    __m256 m8 = _mm256_max_ps(hi, lo);
    __m128 m4 = _mm_max_ps(_mm256_extractf128_ps(m8, 1), _mm256_castps256_ps128(m8));
    __m128 m2 = _mm_max_ps(_mm_movehl_ps(m4, m4), m4);
    return _mm_cvtss_f32(_mm_max_ss(_mm_movehdup_ps(m2), m2));
}

/* exp(x - max) of the first n of 8, in place; zeros behind them in what is returned. */
INLINE __m256 exp_first(float *x, size_t n, __m256 max)
{
    __m256 e = exp_8(_mm256_sub_ps(load_first(x, n), max));
    e = _mm256_and_ps(e, _mm256_castsi256_ps(first_lanes(n)));
    store_first(x, n, e);
    return e;
}

static void softmax(float *x, size_t n)
{
    const __m256 max = _mm256_set1_ps(max_f32(x, n));
    lanes acc = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < n; i += FS_LANES) {
        acc.lo = _mm256_add_ps(acc.lo, exp_first(x + i, n - i, max));
        if (n - i > HALF) acc.hi = _mm256_add_ps(acc.hi, exp_first(x + i + HALF, n - i - HALF, max));
    }
    const __m256 sum = _mm256_set1_ps(sum_lanes(acc));
    for (size_t i = 0; i < n; i += HALF)
        store_first(x + i, n - i, _mm256_div_ps(load_first(x + i, n - i), sum));
}

static void silu_mul(const float *gate, const float *up, float *y, size_t n)
{
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    for (size_t i = 0; i < n; i += HALF) {
        __m256 g = load_first(gate + i, n - i), u = load_first(up + i, n - i);
        __m256 sigmoid = _mm256_div_ps(one, _mm256_add_ps(one, exp_8(_mm256_xor_ps(g, sign))));
        store_first(y + i, n - i, _mm256_mul_ps(_mm256_mul_ps(g, sigmoid), u));
    }
}

static void axpy(float a, const float *x, float *y, size_t n)
{
    const __m256 av = _mm256_set1_ps(a);
    for (size_t i = 0; i < n; i += HALF)
        store_first(y + i, n - i, _mm256_fmadd_ps(av, load_first(x + i, n - i), load_first(y + i, n - i)));
}

/* 64 columns at a time stay in registers while all rows pass; what is left goes 8 by 8. */
static void weighted_sum(const float *weight, const float *rows, size_t row_stride, size_t num_rows, float *y,
                         size_t n)
{
    size_t i = 0;
    for (; i + 8 * HALF <= n; i += 8 * HALF) {
        __m256 acc[8];
#pragma GCC unroll 8
        for (size_t k = 0; k < 8; k++) acc[k] = _mm256_loadu_ps(y + i + k * HALF);
        for (size_t r = 0; r < num_rows; r++) {
            const __m256 w = _mm256_set1_ps(weight[r]);
            const float *row = rows + r * row_stride + i;
#pragma GCC unroll 8
            for (size_t k = 0; k < 8; k++)
                acc[k] = _mm256_fmadd_ps(w, _mm256_loadu_ps(row + k * HALF), acc[k]);
        }
#pragma GCC unroll 8
        for (size_t k = 0; k < 8; k++) _mm256_storeu_ps(y + i + k * HALF, acc[k]);
    }
    for (; i < n; i += HALF) {
        __m256 acc = load_first(y + i, n - i);
        for (size_t r = 0; r < num_rows; r++)
            acc = _mm256_fmadd_ps(_mm256_set1_ps(weight[r]), load_first(rows + r * row_stride + i, n - i),
                                  acc);
        store_first(y + i, n - i, acc);
    }
}

/* The largest |x| as bits: for non-negative floats the order is the same, and NaN is above infinity. */
INLINE uint32_t abs_max_bits(const float *x, size_t n)
{
    __m256i amax = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += HALF) {
        __m256i v = _mm256_castps_si256(load_first(x + i, n - i));
        amax = _mm256_max_epi32(amax, _mm256_and_si256(v, _mm256_set1_epi32(0x7fffffff)));
    }
    __m128i m4 = _mm_max_epi32(_mm256_castsi256_si128(amax), _mm256_extracti128_si256(amax, 1));
    __m128i m2 = _mm_max_epi32(m4, _mm_unpackhi_epi64(m4, m4));
    __m128i m1 = _mm_max_epi32(m2, _mm_shuffle_epi32(m2, 1));
    return (uint32_t)_mm_cvtsi128_si32(m1);
}

static float quantize_i8(const float *x, int8_t *q, size_t n)
{
    uint32_t bits = abs_max_bits(x, n);
    if (bits >= 0x7f800000u) {
        memset(q, 0, n);
        return NAN;
    }
    float max = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)bits)));
    float scale = (max > FS_AMAX_MIN ? max : FS_AMAX_MIN) / (float)FS_I8_MAX;
    const __m256 scales = _mm256_set1_ps(scale);
    for (size_t i = 0; i < n; i += HALF) {
        __m256i v = _mm256_cvtps_epi32(_mm256_div_ps(load_first(x + i, n - i), scales));
        __m128i v16 = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        v16 = _mm_max_epi16(_mm_min_epi16(v16, _mm_set1_epi16(FS_I8_MAX)), _mm_set1_epi16(-FS_I8_MAX));
        int64_t v8 = _mm_cvtsi128_si64(_mm_packs_epi16(v16, v16));
        memcpy(q + i, &v8, n - i < HALF ? n - i : HALF);
    }
    return scale;
}

const fs_kernels fs_kernels_avx2 = {
    .name = "avx2",
    .usable = fs_isa_has_avx2,
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
const fs_kernels fs_kernels_avx2 = {.name = "avx2", .usable = fs_isa_has_avx2};
#endif
