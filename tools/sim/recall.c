/* tools/sim/recall.c: see recall.h. */
#include "sim/recall.h"

#include <stdlib.h>

static void score(fs_predictor *predictor, const fs_visits *v, const uint16_t *route, fs_recall *out,
                  uint16_t *ranked)
{
    const fs_trace_model *m = &v->model;
    uint32_t twice = 2 * m->top_k < m->num_experts ? 2 * m->top_k : m->num_experts;
    for (uint32_t layer = 0; layer + out->distance < m->num_moe_layers; layer++) {
        const uint16_t *visited = route + (size_t)(layer + out->distance) * m->top_k;
        fs_predictor_rank(predictor, layer, route + (size_t)layer * m->top_k, out->distance, twice, ranked);
        fs_prediction_add(&out->top_k, ranked, m->top_k, visited, m->top_k);
        fs_prediction_add(&out->twice, ranked, twice, visited, m->top_k);
    }
}

fs_status fs_recall_run(const fs_visits *v, fs_recall out[FS_RECALL_MAX_DISTANCE], uint32_t *num,
                        fs_detail *detail)
{
    const fs_trace_model *m = &v->model;
    *num = m->num_moe_layers - 1 < FS_RECALL_MAX_DISTANCE ? m->num_moe_layers - 1 : FS_RECALL_MAX_DISTANCE;
    if (*num == 0) return FS_OK;
    const fs_predictor_options options = {
        .num_moe_layers = m->num_moe_layers, .num_experts = m->num_experts, .top_k = m->top_k, .ahead = *num};
    fs_predictor *predictor = NULL;
    uint16_t *ranked = calloc(2 * (size_t)m->top_k, sizeof *ranked);
    fs_status st = ranked ? fs_predictor_create(&options, &predictor) : FS_NO_MEMORY;
    for (uint32_t d = 0; d < *num; d++) out[d] = (fs_recall){.distance = d + 1};
    for (uint64_t t = 0; st == FS_OK && t < v->num_tokens; t++) {
        const uint16_t *route = v->route + t * m->num_moe_layers * m->top_k;
        for (uint32_t d = 0; d < *num; d++) score(predictor, v, route, &out[d], ranked);
        fs_predictor_learn(predictor, route);
    }
    fs_predictor_destroy(predictor);
    free(ranked);
    return st == FS_OK ? st : fs_fail(detail, st, "no memory for a predictor of %u experts", m->num_experts);
}
