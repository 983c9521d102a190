/* router/pregate/route_table.c: see route_table.h. */
#include "pregate/route_table.h"

#include <math.h>
#include <string.h>

static size_t entries_a_token(const fs_route_table *table)
{
    return (size_t)table->num_moe_layers * table->top_k;
}

fs_status fs_route_table_init(fs_route_table *table, fs_arena *arena, uint32_t num_moe_layers,
                              uint32_t num_experts, uint32_t top_k, uint32_t max_tokens)
{
    FS_ASSERT(num_experts <= UINT16_MAX + 1u);
    fs_route_table t = {.num_moe_layers = num_moe_layers,
                        .num_experts = num_experts,
                        .top_k = top_k,
                        .max_tokens = max_tokens};
    size_t entries = entries_a_token(&t);
    if (!fs_mul_size(entries, max_tokens, &entries)) return FS_NO_MEMORY;
    t.expert = fs_arena_calloc(arena, entries, sizeof *t.expert);
    t.weight = fs_arena_calloc(arena, entries, sizeof *t.weight);
    if (!t.expert || !t.weight) return FS_NO_MEMORY;
    *table = t;
    return FS_OK;
}

static bool all_valid(const fs_route_table *table, const uint16_t *expert, const float *weight, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (expert[i] >= table->num_experts || !isfinite(weight[i])) return false;
    return true;
}

fs_status fs_route_table_append(fs_route_table *table, const uint16_t *expert, const float *weight,
                                uint32_t num_tokens)
{
    if (num_tokens > table->max_tokens - table->num_tokens) return FS_EXHAUSTED;
    size_t n = entries_a_token(table) * num_tokens, at = entries_a_token(table) * table->num_tokens;
    if (!all_valid(table, expert, weight, n)) return FS_INTERNAL;
    memcpy(table->expert + at, expert, n * sizeof *expert);
    memcpy(table->weight + at, weight, n * sizeof *weight);
    table->num_tokens += num_tokens;
    return FS_OK;
}
