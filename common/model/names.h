/* common/model/names.h: where a family's checkpoint keeps an expert. */
#ifndef FS_MODEL_NAMES_H
#define FS_MODEL_NAMES_H

#include "model/config.h"

typedef enum { FS_PART_GATE, FS_PART_UP, FS_PART_DOWN, FS_NUM_EXPERT_PARTS } fs_expert_part;

/* The tensor's name: "model.layers.3.mlp.experts.17.gate_proj.weight", or ".sub1" for compressed storage. layer: decoder layer
 * number. Returns the length; out is always terminated. */
size_t fs_expert_tensor_name(const fs_model_config *config, fs_expert_storage storage, uint32_t layer, uint32_t expert,
                             fs_expert_part part, char out[128]);
/* [rows, cols] of a part: gate and up [moe_intermediate_size, hidden_size], down [hidden_size, moe_intermediate_size]. */
void fs_expert_part_shape(const fs_model_config *config, fs_expert_part part, uint32_t *rows, uint32_t *cols);

#endif
