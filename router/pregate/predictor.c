/* router/pregate/predictor.c: see predictor.h. */
#include "pregate/predictor.h"

#include <stdlib.h>
#include <string.h>

struct fs_predictor {
    fs_predictor_options options;
    uint16_t *count; /* [num_moe_layers][ahead][num_experts of layer][num_experts of layer + d] */
    uint16_t *use;   /* [num_moe_layers][num_experts] */
    float *score;    /* [num_experts] scratch */
};

static uint16_t *row_of(const fs_predictor *p, uint32_t layer, uint32_t distance, uint32_t expert)
{
    size_t e = p->options.num_experts;
    return p->count + ((layer * (size_t)p->options.ahead + distance - 1) * e + expert) * e;
}

fs_status fs_predictor_create(const fs_predictor_options *o, fs_predictor **out)
{
    if (o->num_moe_layers < 2 || o->ahead < 1 || o->ahead >= o->num_moe_layers || o->num_experts < 1 ||
        o->num_experts > UINT16_MAX || o->top_k < 1 || o->top_k > o->num_experts)
        return FS_INVALID;
    fs_predictor *p = calloc(1, sizeof *p);
    size_t squares;
    if (!p) return FS_NO_MEMORY;
    p->options = *o;
    if (fs_mul_size((size_t)o->num_experts * o->num_experts, (size_t)o->num_moe_layers * o->ahead, &squares))
        p->count = calloc(squares, sizeof *p->count);
    p->use = calloc((size_t)o->num_moe_layers * o->num_experts, sizeof *p->use);
    p->score = calloc(o->num_experts, sizeof *p->score);
    if (!p->count || !p->use || !p->score) {
        fs_predictor_destroy(p);
        return FS_NO_MEMORY;
    }
    *out = p;
    return FS_OK;
}

void fs_predictor_destroy(fs_predictor *p)
{
    if (!p) return;
    free(p->count);
    free(p->use);
    free(p->score);
    free(p);
}

static void count_up(uint16_t *row, uint32_t n, uint32_t at)
{
    if (row[at] == UINT16_MAX)
        for (uint32_t i = 0; i < n; i++) row[i] /= 2;
    row[at]++;
}

void fs_predictor_learn(fs_predictor *p, const uint16_t *route)
{
    const fs_predictor_options *o = &p->options;
    for (uint32_t layer = 0; layer < o->num_moe_layers; layer++) {
        const uint16_t *here = route + (size_t)layer * o->top_k;
        for (uint32_t i = 0; i < o->top_k; i++)
            count_up(p->use + (size_t)layer * o->num_experts, o->num_experts, here[i]);
        for (uint32_t d = 1; d <= o->ahead && layer + d < o->num_moe_layers; d++) {
            const uint16_t *there = here + (size_t)d * o->top_k;
            for (uint32_t i = 0; i < o->top_k; i++)
                for (uint32_t j = 0; j < o->top_k; j++)
                    count_up(row_of(p, layer, d, here[i]), o->num_experts, there[j]);
        }
    }
}

/* The share of each row that visited an expert, added over the experts visited; the layer's own shares weigh next to nothing. */
static void fill_scores(fs_predictor *p, uint32_t layer, const uint16_t *visited, uint32_t distance)
{
    const fs_predictor_options *o = &p->options;
    const uint16_t *use = p->use + (size_t)(layer + distance) * o->num_experts;
    for (uint32_t b = 0; b < o->num_experts; b++) p->score[b] = (float)use[b] * 1e-9f;
    for (uint32_t i = 0; i < o->top_k; i++) {
        const uint16_t *row = row_of(p, layer, distance, visited[i]);
        float total = 0;
        for (uint32_t b = 0; b < o->num_experts; b++) total += (float)row[b];
        if (total == 0) continue;
        for (uint32_t b = 0; b < o->num_experts; b++) p->score[b] += (float)row[b] / total;
    }
}

void fs_predictor_rank(fs_predictor *p, uint32_t layer, const uint16_t *visited, uint32_t distance,
                       uint32_t n, uint16_t *out)
{
    const fs_predictor_options *o = &p->options;
    FS_ASSERT(distance >= 1 && distance <= o->ahead && layer + distance < o->num_moe_layers);
    FS_ASSERT(n <= o->num_experts);
    fill_scores(p, layer, visited, distance);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t best = 0;
        for (uint32_t b = 1; b < o->num_experts; b++)
            if (p->score[b] > p->score[best]) best = b;
        out[i] = (uint16_t)best;
        p->score[best] = -1;
    }
}

void fs_prediction_add(fs_prediction_score *score, const uint16_t *predicted, uint32_t n,
                       const uint16_t *visited, uint32_t top_k)
{
    score->predicted += n;
    score->visited += top_k;
    for (uint32_t i = 0; i < top_k; i++)
        for (uint32_t j = 0; j < n; j++) score->hits += visited[i] == predicted[j];
}
