/* common/backbone/readme_moe.c: the Read-ME family (arXiv 2410.19123): a decoder whose every layer is attention and a mixture
 * of experts; its gates are the pre-gating network (pregate.c), none sits in a layer. */
#include <stdio.h>

#include "backbone/backbone_int.h"

typedef struct {
    fs_attention_weights attention;
    const float *moe_norm; /* [hidden_size] before the experts */
} layer_weights;

static void load_layers(fs_backbone *b)
{
    layer_weights *layers = fs_weights_calloc(&b->weights, b->config.num_layers, sizeof *layers);
    for (uint32_t l = 0; layers != NULL && l < b->config.num_layers; l++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%u", l);
        fs_attention_weights_load(&b->weights, &b->block, prefix, &layers[l].attention);
        fs_weights_vector(&b->weights, b->config.hidden_size, &layers[l].moe_norm,
                          "%s.post_attention_layernorm.weight", prefix);
    }
    b->layers = layers;
}

static void quantize_rows(const fs_backbone *b, fs_batch *batch)
{
    const size_t hidden = batch->hidden_size;
    for (uint32_t r = 0; r < batch->num_rows; r++)
        batch->h_scale[r] = b->kernels->quantize_i8(batch->h + r * hidden, batch->h_i8 + r * hidden, hidden);
}

static void attention(const fs_backbone *b, uint32_t layer, fs_batch *batch, fs_kv_pool *kv, fs_pool *pool)
{
    const layer_weights *w = (const layer_weights *)b->layers + layer;
    fs_batch_scratch *scratch = batch->scratch;
    fs_attention_rows rows = {batch->position, batch->pages, batch->num_rows, batch->x};
    fs_attention_block_run(pool, b->kernels, &b->block, &w->attention, &scratch->attention, layer, &rows, kv);
    fs_rows_norm(pool, b->kernels, batch->x, w->moe_norm, b->config.rms_norm_eps, batch->h, batch->num_rows,
                 batch->hidden_size);
    if (b->config.expert_storage == FS_EXPERTS_SUB1) quantize_rows(b, batch);
}

const fs_backbone_family fs_backbone_readme_moe = {load_layers, attention};
