/* common/backbone/pregate.h: the pre-gating network (Read-ME, arXiv 2410.19123, section 3): from token ids alone, every layer's
 * experts. A small causal transformer with a KV cache of its own. */
#ifndef FS_BACKBONE_PREGATE_H
#define FS_BACKBONE_PREGATE_H

#include "backbone/backbone.h"

typedef struct fs_pregate fs_pregate; /* immutable after open. Thread: any (const) */

/* FS_NOT_FOUND: a tensor is missing; FS_INVALID: a shape; FS_UNSUPPORTED: the model has no pre-gating network. */
FS_MUST_USE fs_status fs_pregate_open(const fs_model_config *config, const fs_tensors *tensors, fs_pregate **out,
                                      fs_detail *detail);
void fs_pregate_close(fs_pregate *pregate);
fs_kv_shape fs_pregate_kv_shape(const fs_pregate *pregate);

/* Routes of rows. Row r: token[r] at position[r] of the sequence with pages[r] (page numbers in kv, the pre-gating network's own
 * pool); the same order rules as fs_batch. Outputs, by falling weight, ties to the lower expert:
 *   expert [num_rows][num_moe_layers][top_k] uint16
 *   weight [num_rows][num_moe_layers][top_k] float32: softmax over the layer's experts, top_k, divided by their sum if
 *          norm_topk_prob
 * Any number of rows; works in blocks inside. FS_NO_MEMORY for scratch. Thread: worker. */
FS_MUST_USE fs_status fs_pregate_run(const fs_pregate *pregate, const uint32_t *token, const uint32_t *position,
                                     const uint32_t *const *pages, uint32_t num_rows, fs_kv_pool *kv, fs_pool *pool,
                                     uint16_t *expert, float *weight);

#endif
