/* common/compute/kernels_scalar.c: the definition of every kernel; the wide files must give the same bits. */
#include <math.h>
#include <string.h>

#include "compute/compute_int.h"

static float bits_to_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t f32_to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* The fixed tree: 8, 4, 2, 1. */
static float sum_lanes(float lane[FS_LANES])
{
    for (size_t half = FS_LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

/* A tail counts as padded with zeros. That is not the same as skipping it: -0 + 0 * 0 is +0. */
static void pad_lanes(float lane[FS_LANES], size_t n)
{
    for (size_t l = n % FS_LANES; l != 0 && l < FS_LANES; l++) lane[l] = fmaf(0.0f, 0.0f, lane[l]);
}

static float dot_f32(const float *a, const float *b, size_t n)
{
    float lane[FS_LANES] = {0};
    for (size_t i = 0; i < n; i++) lane[i % FS_LANES] = fmaf(a[i], b[i], lane[i % FS_LANES]);
    pad_lanes(lane, n);
    return sum_lanes(lane);
}

static float dot_bf16(const float *a, const fs_bf16 *b, size_t n)
{
    float lane[FS_LANES] = {0};
    for (size_t i = 0; i < n; i++) lane[i % FS_LANES] = fmaf(a[i], fs_bf16_to_f32(b[i]), lane[i % FS_LANES]);
    pad_lanes(lane, n);
    return sum_lanes(lane);
}

static void matmul_f32(const float *x, size_t x_stride, const float *w, float *y, size_t y_stride,
                       size_t rows, size_t outs, size_t cols)
{
    for (size_t o = 0; o < outs; o++)
        for (size_t r = 0; r < rows; r++) y[r * y_stride + o] = dot_f32(x + r * x_stride, w + o * cols, cols);
}

static void matmul_bf16(const float *x, size_t x_stride, const fs_bf16 *w, float *y, size_t y_stride,
                        size_t rows, size_t outs, size_t cols)
{
    for (size_t o = 0; o < outs; o++)
        for (size_t r = 0; r < rows; r++)
            y[r * y_stride + o] = dot_bf16(x + r * x_stride, w + o * cols, cols);
}

static void rms_norm(const float *x, const float *w, float eps, float *y, size_t n)
{
    float scale = 1.0f / sqrtf(dot_f32(x, x, n) / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = x[i] * scale * w[i];
}

/* 2^n for -126 <= n <= 127. */
static float power_of_two(int32_t n)
{
    return bits_to_f32((uint32_t)(n + 127) << 23);
}

static float exp_one(float x)
{
    /* Written so that NaN stays: every comparison with it is false. */
    x = FS_EXP_HI < x ? FS_EXP_HI : x;
    x = FS_EXP_LO > x ? FS_EXP_LO : x;
    float t = fmaf(x, FS_EXP_LOG2E, FS_ROUND_MAGIC);
    int32_t n = (int32_t)(f32_to_bits(t) - FS_ROUND_BITS);
    float nf = t - FS_ROUND_MAGIC;
    float r = fmaf(nf, -FS_EXP_LN2_LO, fmaf(nf, -FS_EXP_LN2_HI, x));
    float p = fmaf(FS_EXP_C5, r, FS_EXP_C4);
    p = fmaf(p, r, FS_EXP_C3);
    p = fmaf(p, r, FS_EXP_C2);
    p = fmaf(p, r, FS_EXP_C1);
    p = fmaf(p, r, FS_EXP_C0);
    p = fmaf(p, r * r, r) + 1.0f;
    /* In two steps: 2^n alone may be no normal number. Only the second can round. */
    int32_t half = n >> 1;
    return p * power_of_two(half) * power_of_two(n - half);
}

static void exp_f32(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = exp_one(x[i]);
}

/* NaN is passed over: x > m is false. */
static float max_f32(const float *x, size_t n)
{
    float lane[FS_LANES];
    for (size_t l = 0; l < FS_LANES; l++) lane[l] = -INFINITY;
    for (size_t i = 0; i < n; i++) lane[i % FS_LANES] = x[i] > lane[i % FS_LANES] ? x[i] : lane[i % FS_LANES];
    for (size_t half = FS_LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lane[l] = lane[l + half] > lane[l] ? lane[l + half] : lane[l];
    return lane[0];
}

static void softmax(float *x, size_t n)
{
    float max = max_f32(x, n), lane[FS_LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        x[i] = exp_one(x[i] - max);
        lane[i % FS_LANES] += x[i];
    }
    float sum = sum_lanes(lane);
    for (size_t i = 0; i < n; i++) x[i] /= sum;
}

static void silu_mul(const float *gate, const float *up, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float sigmoid = 1.0f / (1.0f + exp_one(-gate[i]));
        y[i] = gate[i] * sigmoid * up[i];
    }
}

static void axpy(float a, const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = fmaf(a, x[i], y[i]);
}

static void weighted_sum(const float *weight, const float *rows, size_t row_stride, size_t num_rows, float *y,
                         size_t n)
{
    for (size_t r = 0; r < num_rows; r++) axpy(weight[r], rows + r * row_stride, y, n);
}

static float quantize_i8(const float *x, int8_t *q, size_t n)
{
    uint32_t amax = 0; /* as bits: for non-negative floats the order is the same, and NaN is above infinity */
    for (size_t i = 0; i < n; i++) {
        uint32_t a = f32_to_bits(x[i]) & 0x7fffffffu;
        amax = a > amax ? a : amax;
    }
    if (amax >= 0x7f800000u) {
        memset(q, 0, n);
        return NAN;
    }
    float max = bits_to_f32(amax);
    float scale = (max > FS_AMAX_MIN ? max : FS_AMAX_MIN) / (float)FS_I8_MAX;
    for (size_t i = 0; i < n; i++) {
        int32_t v = (int32_t)(f32_to_bits(x[i] / scale + FS_ROUND_MAGIC) - FS_ROUND_BITS);
        q[i] = (int8_t)(v > FS_I8_MAX ? FS_I8_MAX : v < -FS_I8_MAX ? -FS_I8_MAX : v);
    }
    return scale;
}

static bool usable(void)
{
    return true;
}

const fs_kernels fs_kernels_scalar = {
    .name = "scalar",
    .usable = usable,
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
