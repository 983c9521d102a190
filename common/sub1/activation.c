/* common/sub1/activation.c: what is between an expert's first and second products. Only exp is the table's; the rest is one operation after
 * the other on each element, which no compiler may change (-ffp-contract=off): so the bits are the same everywhere. */
#include "sub1/expert.h"

enum { CHUNK = 256 };
#define SWIGLU_ALPHA 1.702f

/* v[i] = 1 / (1 + exp(v[i])) */
static void sigmoid_of_negated(const fs_kernels *kernels, float *v, size_t n)
{
    kernels->exp_f32(v, v, n);
    for (size_t i = 0; i < n; i++) v[i] = 1.0f / (1.0f + v[i]);
}

/* Phi(x) = erfc(-x / sqrt 2) / 2, with erfc(z) = t exp(-z^2 + polynomial of t), t = 1 / (1 + z / 2), for z >= 0: relative error below
 * 1.2e-7 (Press et al., Numerical Recipes, 2nd edition, 6.2). */
static void normal_distribution(const fs_kernels *kernels, const float *x, float *out, size_t n)
{
    static const float c[] = {0.17087277f,  -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f,
                              -0.18628806f, 0.09678418f,  0.37409196f, 1.00002368f,  -1.26551223f};
    float t[CHUNK];
    for (size_t i = 0; i < n; i++) {
        float z = (x[i] < 0 ? -x[i] : x[i]) * 0.70710678f;
        t[i] = 1.0f / (1.0f + 0.5f * z);
        float p = c[0];
        for (int k = 1; k < 10; k++) p = p * t[i] + c[k];
        out[i] = p - z * z;
    }
    kernels->exp_f32(out, out, n);
    for (size_t i = 0; i < n; i++) {
        float half = 0.5f * (t[i] * out[i]);
        out[i] = x[i] < 0 ? half : 1.0f - half;
    }
}

/* out[i] = act(x[i]); n <= CHUNK; out is not x. */
static void activate(fs_activation activation, const fs_kernels *kernels, const float *x, float *out,
                     size_t n)
{
    switch (activation) {
    case FS_ACT_RELU:
        for (size_t i = 0; i < n; i++) out[i] = x[i] < 0 ? 0 : x[i]; /* NaN stays */
        return;
    case FS_ACT_GELU: normal_distribution(kernels, x, out, n); break;
    case FS_ACT_GELU_TANH:
        for (size_t i = 0; i < n; i++) out[i] = -1.5957691f * (x[i] + 0.044715f * (x[i] * x[i] * x[i]));
        sigmoid_of_negated(kernels, out, n);
        break;
    default:
        for (size_t i = 0; i < n; i++) out[i] = -x[i];
        sigmoid_of_negated(kernels, out, n);
    }
    for (size_t i = 0; i < n; i++) out[i] = x[i] * out[i];
}

/* gpt-oss. Comparisons are written so that NaN stays. */
static void clamped_swiglu(float limit, const fs_kernels *kernels, const float *gate, const float *up,
                           float *a, size_t n)
{
    float g[CHUNK], s[CHUNK];
    for (size_t i = 0; i < n; i++) {
        g[i] = gate[i] > limit ? limit : gate[i];
        s[i] = -(SWIGLU_ALPHA * g[i]);
    }
    sigmoid_of_negated(kernels, s, n);
    for (size_t i = 0; i < n; i++) {
        float u = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
        a[i] = (g[i] * s[i]) * (u + 1.0f);
    }
}

void fs_expert_activate(const fs_expert *expert, const fs_kernels *kernels, const float *gate,
                        const float *up, float *a, size_t n)
{
    if (expert->activation == FS_ACT_SILU && gate) {
        kernels->silu_mul(gate, up, a, n);
        return;
    }
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t count = n - i < CHUNK ? n - i : CHUNK;
        if (expert->activation == FS_ACT_SWIGLU_CLAMPED) {
            FS_ASSERT(gate);
            clamped_swiglu(expert->swiglu_limit, kernels, gate + i, up + i, a + i, count);
            continue;
        }
        float v[CHUNK];
        activate(expert->activation, kernels, (gate ? gate : up) + i, v, count);
        for (size_t k = 0; k < count; k++) a[i + k] = gate ? v[k] * up[i + k] : v[k];
    }
}
