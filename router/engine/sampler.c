/* router/engine/sampler.c: the checks of a request's sampling, the penalties, and the way from logits to a token. */
#include "engine/sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "engine/sampler_int.h"

static fs_status check_range(const char *name, float value, float min, float max, fs_detail *detail)
{
    if (value >= min && value <= max) return FS_OK; /* NaN is not */
    return fs_fail(detail, FS_INVALID, "%s: %g is not within %g to %g", name, (double)value, (double)min,
                   (double)max);
}

static fs_status check_bias(const fs_sampling *s, uint32_t vocab_size, fs_detail *detail)
{
    if (s->num_bias > FS_MAX_LOGIT_BIAS)
        return fs_fail(detail, FS_INVALID, "logit_bias: %u entries, more than %u", s->num_bias,
                       FS_MAX_LOGIT_BIAS);
    for (uint32_t i = 0; i < s->num_bias; i++) {
        fs_status st = check_range("logit_bias", s->bias[i], -100, 100, detail);
        if (st != FS_OK) return st;
        uint32_t token = s->bias_token[i];
        if (token >= vocab_size)
            return fs_fail(detail, FS_INVALID, "logit_bias: token %u is not below %u", token, vocab_size);
        for (uint32_t j = 0; j < i; j++)
            if (s->bias_token[j] == token)
                return fs_fail(detail, FS_INVALID, "logit_bias: token %u twice", token);
    }
    return FS_OK;
}

fs_status fs_sampling_check(const fs_sampling *s, uint32_t vocab_size, fs_detail *detail)
{
    fs_status st = check_range("temperature", s->temperature, 0, 100, detail);
    if (st == FS_OK) st = check_range("top_p", s->top_p, 0, 1, detail);
    if (st == FS_OK && s->top_p == 0) st = fs_fail(detail, FS_INVALID, "top_p: must be over 0");
    if (st == FS_OK) st = check_range("min_p", s->min_p, 0, 1, detail);
    if (st == FS_OK && !(s->repetition_penalty > 0 && isfinite(s->repetition_penalty)))
        st = fs_fail(detail, FS_INVALID, "repetition_penalty: %g is not over 0 and finite",
                     (double)s->repetition_penalty);
    if (st == FS_OK) st = check_range("presence_penalty", s->presence_penalty, -2, 2, detail);
    if (st == FS_OK) st = check_range("frequency_penalty", s->frequency_penalty, -2, 2, detail);
    if (st == FS_OK) st = check_bias(s, vocab_size, detail);
    return st;
}

static bool has_penalty(const fs_sampling *s)
{
    return s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

size_t fs_sampler_state_bytes(const fs_sampling *sampling, uint32_t vocab_size)
{
    return has_penalty(sampling) ? (size_t)vocab_size * (sizeof(uint32_t) + sizeof(uint8_t)) : 0;
}

void fs_sampler_init(fs_sampler *sampler, const fs_sampling *sampling, uint32_t vocab_size, void *state,
                     const uint32_t *prompt, size_t prompt_tokens)
{
    *sampler = (fs_sampler){.sampling = *sampling, .vocab_size = vocab_size};
    if (!has_penalty(sampling)) return;
    memset(state, 0, fs_sampler_state_bytes(sampling, vocab_size));
    sampler->count = state;
    sampler->in_prompt = (uint8_t *)(sampler->count + vocab_size);
    for (size_t i = 0; i < prompt_tokens; i++)
        if (prompt[i] < vocab_size) sampler->in_prompt[prompt[i]] = 1;
}

/* A row that the model broke: NaN or +inf anywhere, or nothing that could be chosen. -inf is a masked token. */
static bool is_broken(const float *logits, uint32_t n)
{
    bool any_finite = false;
    for (uint32_t i = 0; i < n; i++) {
        if (!(logits[i] <= FLT_MAX)) return true;
        any_finite |= logits[i] >= -FLT_MAX;
    }
    return !any_finite;
}

/* Penalties may overflow; a token that was not masked stays one that can be chosen. */
static float keep_finite(float x)
{
    if (x > FLT_MAX) return FLT_MAX;
    return x < -FLT_MAX ? -FLT_MAX : x;
}

static float penalized(const fs_sampler *sampler, uint32_t token, float x)
{
    const fs_sampling *s = &sampler->sampling;
    uint32_t count = sampler->count[token];
    if (count > 0 || sampler->in_prompt[token])
        x = x > 0 ? x / s->repetition_penalty : x * s->repetition_penalty;
    if (count > 0) x -= s->presence_penalty;
    x -= s->frequency_penalty * (float)count;
    return keep_finite(x);
}

static void modify_logits(const fs_sampler *sampler, const float *logits, float *x)
{
    const fs_sampling *s = &sampler->sampling;
    memcpy(x, logits, sampler->vocab_size * sizeof *x);
    for (uint32_t i = 0; i < s->num_bias; i++) {
        float *biased = &x[s->bias_token[i]];
        if (*biased >= -FLT_MAX) *biased = keep_finite(*biased + s->bias[i]);
    }
    for (uint32_t i = 0; sampler->count && i < sampler->vocab_size; i++)
        if (x[i] >= -FLT_MAX) x[i] = penalized(sampler, i, x[i]);
}

uint32_t fs_sampler_argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* The num_sampled-th number of the seed, without the ones before it: splitmix64 only adds a constant at each step. */
static double draw_unit(const fs_sampler *sampler)
{
    fs_random random = {sampler->sampling.seed + sampler->num_sampled * 0x9e3779b97f4a7c15u};
    return (double)(fs_random_next(&random) >> 11) * 0x1p-53;
}

fs_status fs_sampler_next(fs_sampler *sampler, const float *logits, float *scratch, bool want_logprob,
                          uint32_t num_top, fs_sample *out)
{
    uint32_t n = sampler->vocab_size;
    if (is_broken(logits, n)) return FS_INTERNAL;
    fs_sample sample = {0};
    modify_logits(sampler, logits, scratch);
    if (sampler->sampling.temperature == 0)
        sample.token = fs_sampler_argmax(scratch, n);
    else
        sample.token = fs_sampler_draw(&sampler->sampling, scratch, (uint32_t *)(scratch + n), n,
                                       draw_unit(sampler));
    if (want_logprob) fs_sampler_logprobs(logits, n, scratch, num_top, &sample);
    if (sampler->count && sampler->count[sample.token] < UINT32_MAX) sampler->count[sample.token]++;
    sampler->num_sampled++;
    *out = sample;
    return FS_OK;
}
