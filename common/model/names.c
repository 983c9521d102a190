#include "model/names.h"

#include <stdio.h>

size_t fs_expert_tensor_name(const fs_model_config *config, fs_expert_storage storage, uint32_t layer,
                             uint32_t expert, fs_expert_part part, char out[128])
{
    static const char *const parts[FS_NUM_EXPERT_PARTS] = {"gate_proj", "up_proj", "down_proj"};
    FS_ASSERT(config->family == FS_FAMILY_README_MOE && part < FS_NUM_EXPERT_PARTS);
    return (size_t)snprintf(out, 128, "model.layers.%u.mlp.experts.%u.%s.%s", layer, expert, parts[part],
                            storage == FS_EXPERTS_SUB1 ? "sub1" : "weight");
}

void fs_expert_part_shape(const fs_model_config *config, fs_expert_part part, uint32_t *rows, uint32_t *cols)
{
    bool down = part == FS_PART_DOWN;
    *rows = down ? config->hidden_size : config->moe_intermediate_size;
    *cols = down ? config->moe_intermediate_size : config->hidden_size;
}
