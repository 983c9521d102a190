/* router/pregate/route_table.h: which experts a token will visit, known before its data moves. Filled by the
 * pre-gating network (Read-ME, arXiv 2410.19123: the router decoupled from the backbone). */
#ifndef FS_PREGATE_ROUTE_TABLE_H
#define FS_PREGATE_ROUTE_TABLE_H

#include "base/arena.h"
#include "base/status.h"

/* The routes of one sequence. Row (token, layer): top_k entries by falling weight, ties to the lower expert.
 *   expert  [num_tokens][num_moe_layers][top_k]  uint16, < num_experts
 *   weight  [num_tokens][num_moe_layers][top_k]  float32, as the model's gate scales the expert's output
 * Plain data; its arrays lie in the sequence's arena and die with it: there is no destroy. Thread: whoever
 * owns the sequence. */
typedef struct {
    uint32_t num_moe_layers, num_experts, top_k;
    uint32_t num_tokens, max_tokens;
    uint16_t *expert;
    float *weight;
} fs_route_table;

/* An empty table for max_tokens tokens. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_route_table_init(fs_route_table *table, fs_arena *arena, uint32_t num_moe_layers,
                                          uint32_t num_experts, uint32_t top_k, uint32_t max_tokens);
/* Adds the routes of the sequence's next tokens: expert and weight [num_tokens][num_moe_layers][top_k],
 * copied. FS_INTERNAL: an expert that there is not, or a weight that is not finite (a broken network must not
 * choose addresses); FS_EXHAUSTED: more than max_tokens. Either leaves the table as it was. */
FS_MUST_USE fs_status fs_route_table_append(fs_route_table *table, const uint16_t *expert,
                                            const float *weight, uint32_t num_tokens);

/* [top_k] of one token and MoE layer (its index among the MoE layers). Borrowed while the table lives. */
static inline size_t fs_route_table_at(const fs_route_table *table, uint32_t token, uint32_t moe_layer)
{
    FS_ASSERT(token < table->num_tokens);
    FS_ASSERT(moe_layer < table->num_moe_layers);
    return ((size_t)token * table->num_moe_layers + moe_layer) * table->top_k;
}
static inline const uint16_t *fs_route_experts(const fs_route_table *table, uint32_t token,
                                               uint32_t moe_layer)
{
    return table->expert + fs_route_table_at(table, token, moe_layer);
}
static inline const float *fs_route_weights(const fs_route_table *table, uint32_t token, uint32_t moe_layer)
{
    return table->weight + fs_route_table_at(table, token, moe_layer);
}

#endif
