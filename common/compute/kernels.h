/* common/compute/kernels.h: the fixed-order float32 arithmetic (docs/design.md, Numbers). Every table gives the same bits: sums
 * run in 16 virtual lanes, lane i over elements i, i+16, ..., with fused multiply-add, then a fixed tree (8, 4, 2, 1); a tail
 * that is not a multiple of 16 is as if padded with zeros. exp, sigmoid and silu are our own fixed polynomials. */
#ifndef FS_COMPUTE_KERNELS_H
#define FS_COMPUTE_KERNELS_H

#include "base/status.h"

typedef uint16_t fs_bf16; /* the upper half of a float32 */

typedef struct {
    const char *name; /* "scalar", "avx2", "avx512" */
    bool (*usable)(void);

    float (*dot_f32)(const float *a, const float *b, size_t n);
    /* y[r * y_stride + o] = dot(x[r], w[o]) for every row r and output o. x [rows][x_stride], w [outs][cols] row-major, y
     * [rows][y_stride]. w_bf16: bf16 weights, widened exactly. Result bits do not depend on rows or outs. */
    void (*matmul_f32)(const float *x, size_t x_stride, const float *w, float *y, size_t y_stride, size_t rows,
                       size_t outs, size_t cols);
    void (*matmul_bf16)(const float *x, size_t x_stride, const fs_bf16 *w, float *y, size_t y_stride, size_t rows,
                        size_t outs, size_t cols);
    /* y = x * rsqrt(mean(x^2) + eps) * w, with 1/sqrtf; y may be x. */
    void (*rms_norm)(const float *x, const float *w, float eps, float *y, size_t n);
    /* In place over n elements: y = max-subtracted softmax in the fixed order. n >= 1. */
    void (*softmax)(float *x, size_t n);
    /* y[i] = silu(gate[i]) * up[i]; y may be gate. silu(x) = x * sigmoid(x) by the fixed polynomial. */
    void (*silu_mul)(const float *gate, const float *up, float *y, size_t n);
    /* y[i] = exp(x[i]); y may be x. Within 2 ulp; inf above 88.72, 0 below -103.97, NaN for NaN. */
    void (*exp_f32)(const float *x, float *y, size_t n);
    /* y[i] = fmaf(a, x[i], y[i]) */
    void (*axpy)(float a, const float *x, float *y, size_t n);
    /* Row to int8: s = max(max|x|, 1e-8) / 127, q = round-half-even(x / s) clamped to +-127. Returns s. Non-finite x gives s NaN and q 0:
     * the caller's row stays visibly broken rather than silently wrong. */
    float (*quantize_i8)(const float *x, int8_t *q, size_t n);
    float (*max_f32)(const float *x, size_t n); /* largest, NaN passed over; -inf for n 0 */
    /* y[i] = fmaf(weight[r], rows[r * row_stride + i], y[i]) for r = 0, 1, ... in order: num_rows axpy in one pass over y. */
    void (*weighted_sum)(const float *weight, const float *rows, size_t row_stride, size_t num_rows, float *y, size_t n);
} fs_kernels;

extern const fs_kernels fs_kernels_scalar, fs_kernels_avx2, fs_kernels_avx512; /* a file each; scalar is the definition */

/* The best usable table. Picked once; the environment variable FORESIGHT_ISA (scalar, avx2, avx512, avx512_vbmi) caps it, for tests. An
 * unknown word there is refused by fs_isa_check. Thread: any. */
const fs_kernels *fs_kernels_best(void);
FS_MUST_USE fs_status fs_isa_check(fs_detail *detail);

/* The widest instruction set to use: for dispatch in other libraries (sub1) with the same cap. */
typedef enum { FS_ISA_SCALAR, FS_ISA_AVX2, FS_ISA_AVX512, FS_ISA_AVX512_VBMI } fs_isa;
fs_isa fs_isa_best(void);
const char *fs_isa_name(fs_isa isa);

/* Rope (rotate halves): for one head row x [head_dim], position p: element i pairs with i + head_dim/2 and turns by
 * p * theta^(-2i/head_dim). cos/sin are [head_dim/2] for that position, from the table below. In place. */
void fs_rope_apply(float *x, const float *cos, const float *sin, uint32_t head_dim);
/* Tables computed in double once at load: cos, sin [max_positions][head_dim/2], cast to float. The libm's sin and cos are
 * used here; their results are rounded from double, so that they do not depend on its last digit in practice. */
void fs_rope_table(float theta, uint32_t head_dim, uint32_t max_positions, float *cos, float *sin);

static inline float fs_bf16_to_f32(fs_bf16 v)
{
    union { uint32_t u; float f; } x = {(uint32_t)v << 16};
    return x.f;
}
fs_bf16 fs_f32_to_bf16(float v); /* round to nearest even; NaN stays NaN */
float fs_f16_to_f32(uint16_t v);

#endif
