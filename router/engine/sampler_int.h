/* router/engine/sampler_int.h: the steps of sampling, shared by its files. All sums run in index order or in the order of
 * falling probability, in double, which vector units and compilers keep (no fast-math): the same bits everywhere. */
#ifndef FS_ENGINE_SAMPLER_INT_H
#define FS_ENGINE_SAMPLER_INT_H

#include "engine/sampler.h"

/* In sampler_draw.c. One draw over softmax(x / temperature), cut by top_k, top_p and min_p. x [vocab_size] is overwritten with
 * weights; order [vocab_size] is scratch. At least one x is finite, none is NaN or +inf. unit: 0 <= unit < 1. */
uint32_t fs_sampler_draw(const fs_sampling *sampling, float *x, uint32_t *order, uint32_t vocab_size,
                         double unit);

/* In sampler_logprob.c. The logprob of out->token and the num_top most probable ones, of softmax(logits). scratch [vocab_size]. */
void fs_sampler_logprobs(const float *logits, uint32_t vocab_size, float *scratch, uint32_t num_top,
                         fs_sample *out);

/* The natural logarithm of a finite x >= 1, by a fixed polynomial. */
float fs_sampler_log(float x);

/* The first of the largest. */
uint32_t fs_sampler_argmax(const float *x, uint32_t n);

#endif
