/* tools/compress/layer_rows.c: which rows go to which expert of a layer. */
#include <stdlib.h>

#include "expert_job.h"

static uint16_t expert_of(const fs_layer_rows *r, uint64_t slot)
{
    const fs_model_config *c = &r->stream->in->config;
    uint64_t row = slot / c->top_k, k = slot % c->top_k;
    return r->stream->expert[(row * c->num_moe_layers + r->moe) * c->top_k + k];
}

/* A counting sort, so that each expert's slots rise. */
fs_status fs_layer_rows_find(fs_stream *stream, uint32_t layer, uint32_t moe, fs_layer_rows *out,
                             fs_detail *detail)
{
    const fs_model_config *c = &stream->in->config;
    const uint64_t slots = fs_windows_rows(stream->windows) * c->top_k;
    fs_layer_rows r = {.stream = stream, .layer = layer, .moe = moe};
    r.num_calibration_rows = (uint64_t)stream->windows->num_calibration * stream->windows->length;
    r.slot = malloc(slots * sizeof(*r.slot));
    r.start = calloc(c->num_experts + 1, sizeof(*r.start));
    r.held = calloc(c->num_experts, sizeof(*r.held));
    if (!r.slot || !r.start || !r.held) {
        fs_layer_rows_free(&r);
        return fs_fail(detail, FS_NO_MEMORY, "no memory for the routes of layer %u", layer);
    }
    for (uint64_t s = 0; s < slots; s++) r.start[expert_of(&r, s) + 1]++;
    for (uint32_t e = 0; e < c->num_experts; e++) r.start[e + 1] += r.start[e];
    for (uint32_t e = 0; e < c->num_experts; e++) r.held[e] = r.start[e];
    for (uint64_t s = 0; s < r.num_calibration_rows * c->top_k; s++) r.slot[r.held[expert_of(&r, s)]++] = s;
    uint64_t *next = malloc(c->num_experts * sizeof(*next));
    for (uint32_t e = 0; next && e < c->num_experts; e++) next[e] = r.held[e];
    for (uint64_t s = r.num_calibration_rows * c->top_k; next && s < slots; s++)
        r.slot[next[expert_of(&r, s)]++] = s;
    if (!next) {
        fs_layer_rows_free(&r);
        return fs_fail(detail, FS_NO_MEMORY, "no memory for the routes of layer %u", layer);
    }
    free(next);
    *out = r;
    return FS_OK;
}

void fs_layer_rows_free(fs_layer_rows *r)
{
    free(r->slot);
    free(r->start);
    free(r->held);
    *r = (fs_layer_rows){0};
}
