/* common/backbone/backbone.h: a model's layers over a batch of rows, without its routed experts: those are computed elsewhere and
 * come back as rows. One file a family implements it (readme_moe.c). Every row's bits depend on its own sequence alone. */
#ifndef FS_BACKBONE_BACKBONE_H
#define FS_BACKBONE_BACKBONE_H

#include "backbone/kv.h"
#include "compute/matmul.h"
#include "model/config.h"
#include "model/safetensors.h"

typedef struct fs_backbone fs_backbone; /* immutable after open; borrows config's copy and the tensors. Thread: any (const) */

/* FS_NOT_FOUND, FS_INVALID: a tensor is missing or of another shape; the detail names it. */
FS_MUST_USE fs_status fs_backbone_open(const fs_model_config *config, const fs_tensors *tensors, fs_backbone **out,
                                       fs_detail *detail);
void fs_backbone_close(fs_backbone *backbone);
const fs_model_config *fs_backbone_config(const fs_backbone *backbone);
fs_kv_shape fs_backbone_kv_shape(const fs_backbone *backbone);
size_t fs_backbone_weight_bytes(const fs_backbone *backbone);

/* The rows of one micro-batch. Rows of one sequence stand together, by rising position; all earlier positions are in its
 * pages already or in this batch before the row. Arrays have max_rows entries and are the batch's own. */
typedef struct {
    uint32_t num_rows, max_rows, hidden_size;
    uint32_t *token;         /* [max_rows] */
    uint32_t *position;      /* [max_rows] from 0 */
    const uint32_t **pages;  /* [max_rows] page numbers of the row's sequence, in order; borrowed for the step */
    float *x;                /* [max_rows][hidden_size] the residual stream */
    float *h;                /* [max_rows][hidden_size] what the MoE layer's experts get: norm(x) */
    int8_t *h_i8;            /* [max_rows][hidden_size] h quantised (fs_kernels.quantize_i8), for sub1 experts */
    float *h_scale;          /* [max_rows] its scales */
    void *scratch;           /* the backbone's */
} fs_batch;

FS_MUST_USE fs_status fs_batch_create(const fs_backbone *backbone, uint32_t max_rows, fs_batch **out);
void fs_batch_destroy(fs_batch *batch);

/* x = embedding of the rows' tokens. Tokens are < vocab_size (checked by the caller). Thread: worker, as all below. */
void fs_backbone_embed(const fs_backbone *backbone, fs_batch *batch, fs_pool *pool);
/* Layer `layer` up to its experts: x += attention(norm(x)), writing k and v into the rows' pages; then h = norm(x), and
 * h_i8/h_scale where experts are sub1. A dense layer (none in readme_moe) adds its MLP to x here. */
void fs_backbone_attention(const fs_backbone *backbone, uint32_t layer, fs_batch *batch, fs_kv_pool *kv, fs_pool *pool);
/* x[row] += sum over k in order of weight[row][k] * out[row][k], as fmaf(weight, out, acc) from acc = 0, then x + acc.
 *   weight [num_rows][top_k]; out [num_rows][top_k] pointers to [hidden_size] expert outputs, in the order of the route.
 * A row whose out[row][0] is NULL is left as it is (its sequence has failed). */
void fs_backbone_combine(const fs_backbone *backbone, fs_batch *batch, const float *weight, const float *const *out,
                         fs_pool *pool);
/* Logits of chosen rows: norm(x), then the LM head. rows [n] indices into the batch; logits [n][vocab_size]. */
void fs_backbone_logits(const fs_backbone *backbone, fs_batch *batch, const uint32_t *rows, uint32_t n, float *logits,
                        fs_pool *pool);

#endif
