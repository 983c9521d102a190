/* router/pregate/predictor.h: which experts a row will probably visit in layers to come, from those that it has just visited: for models whose gates sit
 * inside the layers, so that nothing names their experts ahead. A core without input and output. */
#ifndef FS_PREGATE_PREDICTOR_H
#define FS_PREGATE_PREDICTOR_H

#include "base/status.h"

/* How often rows that visited expert a of layer l visited expert b of layer l + d, for d from 1 to `ahead`; learnt while serving, the recent counting
 * more (counts of a row of the table are halved when one is full). A wrong prediction costs a load that was not needed, never a wrong result. */
typedef struct fs_predictor fs_predictor; /* Thread: one */

typedef struct {
    uint32_t num_moe_layers, num_experts, top_k;
    uint32_t ahead; /* distances that are learnt, 1..num_moe_layers - 1 */
} fs_predictor_options;

/* Takes 2 bytes * num_moe_layers * ahead * num_experts^2 or less. FS_INVALID: an option; FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_predictor_create(const fs_predictor_options *options, fs_predictor **out);
void fs_predictor_destroy(fs_predictor *predictor); /* NULL is allowed */

/* One token's experts of all layers: route [num_moe_layers][top_k], each below num_experts. */
void fs_predictor_learn(fs_predictor *predictor, const uint16_t *route);
/* The n (<= num_experts) most probable experts of layer + distance for a row that visited these top_k of layer, the most probable first, ties to the lower
 * number. What was never seen together is ranked by how often the layer's experts are visited at all. layer + distance < num_moe_layers. */
void fs_predictor_rank(fs_predictor *predictor, uint32_t layer, const uint16_t *visited, uint32_t distance,
                       uint32_t n, uint16_t *out);

/* Predictions beside what happened. */
typedef struct {
    uint64_t predicted, visited, hits; /* experts; hits: both */
} fs_prediction_score;
/* predicted [n], visited [top_k]. */
void fs_prediction_add(fs_prediction_score *score, const uint16_t *predicted, uint32_t n,
                       const uint16_t *visited, uint32_t top_k);
static inline double fs_prediction_recall(const fs_prediction_score *s)
{
    return s->visited ? (double)s->hits / (double)s->visited : 0;
}
static inline double fs_prediction_precision(const fs_prediction_score *s)
{
    return s->predicted ? (double)s->hits / (double)s->predicted : 0;
}

#endif
