/* router/engine/sampler.h: from logits to a token. Deterministic: scalar float32 in a fixed order with our own exp (no libm), so that a seed gives
 * the same token on every machine. */
#ifndef FS_ENGINE_SAMPLER_H
#define FS_ENGINE_SAMPLER_H

#include "base/random.h"
#include "base/status.h"

#define FS_MAX_LOGIT_BIAS   1024u
#define FS_MAX_TOP_LOGPROBS 20u

/* Plain data. fs_sampling_check has accepted it. */
typedef struct {
    float temperature; /* 0: greedy (ties to the lower id), whatever follows but penalties and bias */
    uint32_t top_k;    /* 0: off */
    float top_p;       /* (0, 1] */
    float min_p;       /* [0, 1] */
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;
    uint32_t num_bias;
    const uint32_t *bias_token; /* [num_bias] distinct, < vocab */
    const float *bias;          /* [num_bias] */
} fs_sampling;

/* FS_INVALID: a value is out of its range or not finite (ranges: foresight/v1/inference.proto); the detail names the field. */
FS_MUST_USE fs_status fs_sampling_check(const fs_sampling *sampling, uint32_t vocab_size, fs_detail *detail);

/* One sequence's sampling state. Counts of generated tokens and the set of prompt tokens, for the penalties; sized by vocab_size, kept by
 * the caller's memory. Thread: one at a time. */
typedef struct {
    fs_sampling sampling;
    uint32_t vocab_size;
    uint32_t *count;      /* [vocab_size] times generated; NULL when no penalty is on */
    uint8_t *in_prompt;   /* [vocab_size] */
    uint64_t num_sampled; /* the n-th token draws the n-th number of the seed: redoing a token gives the same one */
} fs_sampler;

/* Bytes of state that fs_sampler_init wants (0 when no penalty is on). */
size_t fs_sampler_state_bytes(const fs_sampling *sampling, uint32_t vocab_size);
void fs_sampler_init(fs_sampler *sampler, const fs_sampling *sampling, uint32_t vocab_size, void *state,
                     const uint32_t *prompt, size_t prompt_tokens);

typedef struct {
    uint32_t token;
    float logprob; /* of the unmodified logits' softmax */
    uint32_t num_top;
    uint32_t top_token[FS_MAX_TOP_LOGPROBS];
    float top_logprob[FS_MAX_TOP_LOGPROBS];
} fs_sample;

/* Order: logit bias, repetition penalty (x > 0 ? x / p : x * p over prompt and generated), presence and frequency penalties, temperature, top_k, top_p,
 * min_p, then one draw. logits [vocab_size], not changed; scratch [2 * vocab_size] floats (64-byte aligned). want_logprob: logprob and num_top (<= 20) most probable
 * are filled. Non-finite logits: FS_INTERNAL (NaN, or no finite one at all), so that a broken row ends its request instead of speaking. */
FS_MUST_USE fs_status fs_sampler_next(fs_sampler *sampler, const float *logits, float *scratch, bool want_logprob, uint32_t num_top,
                                      fs_sample *out);

#endif
