/* tests/golden/backbone/model_helper.h: runs a readme_moe model with dense experts in one thread of control; the experts are a
 * plain loop of their own, so that a golden test does not lean on the compressed path. */
#ifndef FS_TEST_MODEL_HELPER_H
#define FS_TEST_MODEL_HELPER_H

#include <jansson.h>

#include "backbone/pregate.h"

#define TOLERANCE 2e-3f /* of the largest logit */
#define MAX_ROWS  512u

typedef struct {
    fs_model_config config;
    fs_tensors *tensors;
    fs_backbone *backbone;
    fs_pregate *pregate;
    fs_kv_pool *kv, *pregate_kv;
    fs_pool *pool; /* NULL: one thread */
    fs_batch *batch;
    bool is_int8;      /* experts get activations quantised to int8 */
    float *expert_out; /* [MAX_ROWS][top_k][hidden_size] */
} model;

/* One sequence: its tokens, their routes, its pages. */
typedef struct {
    uint32_t num_tokens, capacity; /* tokens computed so far */
    uint32_t *token, *pages, *pregate_pages;
    uint16_t *expert; /* [capacity][num_moe_layers][top_k] */
    float *weight;
} sequence;

/* Fails the test on any error. */
void model_open(model *m, const char *dir, uint32_t num_threads, bool is_int8);
void model_close(model *m);
void sequence_open(model *m, sequence *s, uint32_t capacity);
void sequence_close(model *m, sequence *s);

/* Appends count[i] tokens (tokens[i]) to sequence i for every i, all in one micro-batch.
 * logits: of all rows, [sum of count][vocab_size]; may be NULL. */
void model_run(model *m, uint32_t num_sequences, sequence *const *s, const uint32_t *const *tokens,
               const uint32_t *count, float *logits);

uint32_t argmax(const float *x, uint32_t n);
/* The whole of dir/name as JSON. */
json_t *read_json(const char *dir, const char *name);

#endif
