/* router/engine/sampler_logprob.c: log-probabilities of the model's own distribution, before any penalty or cut. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "compute/kernels.h"
#include "engine/sampler_int.h"

/* x = 2^e * m with m in [sqrt(1/2), sqrt(2)); log m by the polynomial of Cephes' logf (Moshier). */
float fs_sampler_log(float x)
{
    static const float c[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                              -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                              2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t e = (int32_t)(bits >> 23) - 126;
    bits = (bits & 0x7fffffu) | 0x3f000000u; /* [1/2, 1) */
    memcpy(&x, &bits, sizeof x);
    if (x < 0.707106781186547524f) {
        e--;
        x += x;
    }
    x -= 1;
    float z = x * x, y = c[0];
    for (size_t i = 1; i < sizeof c / sizeof *c; i++) y = fmaf(y, x, c[i]);
    y = y * x * z;
    y = fmaf(-2.12194440e-4f, (float)e, y);
    y = fmaf(-0.5f, z, y);
    return fmaf(0.693359375f, (float)e, x + y);
}

/* Puts token where it belongs among the num best so far (falling logit, ties to the lower id), which are at most max. */
static uint32_t insert_top(const float *logits, uint32_t token, uint32_t *top, uint32_t num, uint32_t max)
{
    uint32_t at = num;
    while (at > 0 && logits[token] > logits[top[at - 1]]) at--;
    if (at == max) return num;
    if (num < max) num++;
    for (uint32_t i = num - 1; i > at; i--) top[i] = top[i - 1];
    top[at] = token;
    return num;
}

static float log_sum_exp(const float *logits, uint32_t n, float max, float *scratch)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) scratch[i] = logits[i] - max;
    fs_kernels_best()->exp_f32(scratch, scratch, n);
    for (uint32_t i = 0; i < n; i++) sum += (double)scratch[i];
    return fs_sampler_log((float)sum); /* at least 1: the largest has exp(0) */
}

void fs_sampler_logprobs(const float *logits, uint32_t n, float *scratch, uint32_t num_top, fs_sample *out)
{
    float max = logits[fs_sampler_argmax(logits, n)];
    float log_sum = log_sum_exp(logits, n, max, scratch);
    out->logprob = logits[out->token] - max - log_sum;
    if (num_top > FS_MAX_TOP_LOGPROBS) num_top = FS_MAX_TOP_LOGPROBS;
    for (uint32_t i = 0; num_top > 0 && i < n; i++)
        if (logits[i] >= -FLT_MAX)
            out->num_top = insert_top(logits, i, out->top_token, out->num_top, num_top);
    for (uint32_t i = 0; i < out->num_top; i++)
        out->top_logprob[i] = logits[out->top_token[i]] - max - log_sum;
}
