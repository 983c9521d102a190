/* common/backbone/backbone.c: what all families share: embedding, combination of expert outputs, LM head, micro-batches. */
#include "backbone/backbone.h"

#include <stdlib.h>
#include <string.h>

#include "backbone/backbone_int.h"

static const fs_backbone_family *family_of(fs_model_family family)
{
    switch (family) {
    case FS_FAMILY_README_MOE: return &fs_backbone_readme_moe;
    }
    return NULL;
}

static void load(fs_backbone *b)
{
    const fs_model_config *c = &b->config;
    b->block = (fs_attention_block){.shape = {c->num_heads, c->num_kv_heads, c->head_dim},
                                    .hidden_size = c->hidden_size,
                                    .norm_eps = c->rms_norm_eps};
    fs_rope_create(&b->weights, c->rope_theta, c->head_dim, c->max_positions, &b->block.rope);
    fs_weights_matrix(&b->weights, c->vocab_size, c->hidden_size, &b->embed, "model.embed_tokens.weight");
    fs_weights_vector(&b->weights, c->hidden_size, &b->final_norm, "model.norm.weight");
    b->head = b->embed;
    if (!c->tie_word_embeddings)
        fs_weights_matrix(&b->weights, c->vocab_size, c->hidden_size, &b->head, "lm_head.weight");
    b->family->load_layers(b);
}

fs_status fs_backbone_open(const fs_model_config *config, const fs_tensors *tensors, fs_backbone **out,
                           fs_detail *detail)
{
    const fs_backbone_family *family = family_of(config->family);
    if (family == NULL)
        return fs_fail(detail, FS_UNSUPPORTED, "model family %d has no backbone", (int)config->family);
    fs_backbone *b = calloc(1, sizeof *b);
    if (b == NULL) return fs_fail(detail, FS_NO_MEMORY, "no memory for the backbone");
    b->family = family;
    b->kernels = fs_kernels_best();
    b->config = *config;
    b->weights = (fs_weights){.tensors = tensors, .detail = detail};
    load(b);
    b->weights.detail = NULL; /* the caller's, for the call */
    fs_status st = b->weights.status;
    if (st == FS_OK)
        *out = b;
    else
        fs_backbone_close(b);
    return st;
}

void fs_backbone_close(fs_backbone *backbone)
{
    if (backbone == NULL) return;
    fs_arena_fini(&backbone->weights.arena);
    free(backbone);
}

const fs_model_config *fs_backbone_config(const fs_backbone *backbone)
{
    return &backbone->config;
}

fs_kv_shape fs_backbone_kv_shape(const fs_backbone *backbone)
{
    const fs_model_config *c = &backbone->config;
    return (fs_kv_shape){c->num_layers, c->num_kv_heads, c->head_dim};
}

size_t fs_backbone_weight_bytes(const fs_backbone *backbone)
{
    return backbone->weights.bytes;
}

void fs_backbone_embed(const fs_backbone *backbone, fs_batch *batch, fs_pool *pool)
{
    for (uint32_t r = 0; r < batch->num_rows; r++) {
        FS_ASSERT(batch->token[r] < backbone->config.vocab_size);
        fs_matrix_row(&backbone->embed, batch->token[r], batch->x + (size_t)r * batch->hidden_size);
    }
}

void fs_backbone_attention(const fs_backbone *backbone, uint32_t layer, fs_batch *batch, fs_kv_pool *kv,
                           fs_pool *pool)
{
    if (batch->num_rows != 0) backbone->family->attention(backbone, layer, batch, kv, pool);
}

void fs_backbone_combine(const fs_backbone *backbone, fs_batch *batch, const float *weight,
                         const float *const *out, fs_pool *pool)
{
    const uint32_t top_k = backbone->config.top_k, hidden = batch->hidden_size;
    float *acc = ((fs_batch_scratch *)batch->scratch)->attention.proj;
    for (uint32_t r = 0; r < batch->num_rows; r++) {
        const float *const *row_out = out + (size_t)r * top_k;
        if (row_out[0] == NULL) continue;
        memset(acc, 0, hidden * sizeof *acc);
        for (uint32_t k = 0; k < top_k; k++)
            backbone->kernels->axpy(weight[(size_t)r * top_k + k], row_out[k], acc, hidden);
        fs_add(backbone->kernels, batch->x + (size_t)r * hidden, acc, hidden);
    }
}

/* Rows first..first+n of the list: n <= max_rows. */
static void logits_block(const fs_backbone *backbone, fs_batch *batch, const uint32_t *rows, uint32_t n,
                         float *logits, fs_pool *pool)
{
    const size_t hidden = batch->hidden_size;
    float *norm = ((fs_batch_scratch *)batch->scratch)->attention.norm;
    for (uint32_t i = 0; i < n; i++) {
        FS_ASSERT(rows[i] < batch->num_rows);
        backbone->kernels->rms_norm(batch->x + rows[i] * hidden, backbone->final_norm,
                                    backbone->config.rms_norm_eps, norm + i * hidden, hidden);
    }
    fs_matmul(pool, backbone->kernels, &backbone->head, norm, hidden, logits, backbone->config.vocab_size, n);
}

void fs_backbone_logits(const fs_backbone *backbone, fs_batch *batch, const uint32_t *rows, uint32_t n,
                        float *logits, fs_pool *pool)
{
    for (uint32_t i = 0; i < n; i += batch->max_rows)
        logits_block(backbone, batch, rows + i, n - i < batch->max_rows ? n - i : batch->max_rows,
                     logits + (size_t)i * backbone->config.vocab_size, pool);
}

/* false: no memory. All of it is the arena's. */
static bool fill_batch(const fs_backbone *backbone, fs_batch *batch, fs_batch_scratch *scratch)
{
    fs_arena *arena = &scratch->arena;
    size_t rows = batch->max_rows, elements = rows * batch->hidden_size;
    batch->token = fs_arena_calloc(arena, rows, sizeof *batch->token);
    batch->position = fs_arena_calloc(arena, rows, sizeof *batch->position);
    batch->pages = fs_arena_calloc(arena, rows, sizeof *batch->pages);
    batch->x = fs_arena_calloc(arena, elements, sizeof *batch->x);
    batch->h = fs_arena_calloc(arena, elements, sizeof *batch->h);
    batch->h_i8 = fs_arena_calloc(arena, elements, sizeof *batch->h_i8);
    batch->h_scale = fs_arena_calloc(arena, rows, sizeof *batch->h_scale);
    return batch->token && batch->position && batch->pages && batch->x && batch->h && batch->h_i8 &&
           batch->h_scale &&
           fs_attention_scratch_init(&backbone->block, batch->max_rows, arena, &scratch->attention);
}

fs_status fs_batch_create(const fs_backbone *backbone, uint32_t max_rows, fs_batch **out)
{
    if (max_rows == 0) return FS_INVALID;
    fs_batch *batch = calloc(1, sizeof *batch);
    fs_batch_scratch *scratch = calloc(1, sizeof *scratch);
    if (batch == NULL || scratch == NULL) {
        free(batch);
        free(scratch);
        return FS_NO_MEMORY;
    }
    *batch = (fs_batch){
        .max_rows = max_rows, .hidden_size = backbone->config.hidden_size, .scratch = scratch};
    if (!fill_batch(backbone, batch, scratch)) {
        fs_batch_destroy(batch);
        return FS_NO_MEMORY;
    }
    *out = batch;
    return FS_OK;
}

void fs_batch_destroy(fs_batch *batch)
{
    if (batch == NULL) return;
    fs_arena_fini(&((fs_batch_scratch *)batch->scratch)->arena);
    free(batch->scratch);
    free(batch);
}
