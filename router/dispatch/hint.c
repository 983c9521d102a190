/* router/dispatch/hint.c: what the next visits will need, told to the nodes that can load it ahead. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "dispatch/dispatcher_int.h"

void fs_node_free_hints(fs_dispatch_node *node)
{
    fs_buffer_free(&node->hint_visit);
    fs_buffer_free(&node->hint_expert);
}

static void mark_visited(fs_dispatcher *d, const fs_dispatch_hint *hint, uint32_t moe_layer)
{
    memset(d->visited, 0, d->options.num_experts * sizeof *d->visited);
    for (uint32_t r = 0; r < hint->num_rows; r++)
        for (uint32_t k = 0; k < d->options.top_k; k++)
            d->visited[hint->route[r][(size_t)moe_layer * d->options.top_k + k]] = true;
}

/* One expert more of the visit, for the node that it will be asked of. */
static void add_use(fs_dispatcher *d, uint32_t moe_layer, uint32_t expert, uint32_t distance)
{
    uint32_t slot = fs_plan_node_for(&d->view, moe_layer, expert);
    fs_dispatch_node *node = slot == FS_PLAN_NONE ? NULL : d->node[slot];
    if (!node || !node->wants_hints) return;
    fs_buffer *visits = &node->hint_visit;
    fs_hint_visit *last = visits->size ? (fs_hint_visit *)(visits->data + visits->size) - 1 : NULL;
    if (!last || last->distance != distance) {
        const fs_hint_visit first = {
            .distance = distance, .layer = d->options.moe_layer[moe_layer], .count = 1};
        fs_buffer_append(visits, &first, sizeof first);
    } else {
        last->count++;
    }
    const uint16_t use = (uint16_t)expert;
    fs_buffer_append(&node->hint_expert, &use, sizeof use);
}

static void send_hint(fs_dispatch_node *node)
{
    fs_dispatcher *d = node->dispatcher;
    fs_buffer block = {0};
    const fs_hint_source source = {.position = d->num_visits,
                                   .fingerprint = d->options.fingerprint,
                                   .num_visits = (uint32_t)(node->hint_visit.size / sizeof(fs_hint_visit)),
                                   .visit = (const fs_hint_visit *)node->hint_visit.data,
                                   .expert = (const uint16_t *)node->hint_expert.data};
    fs_status st = node->hint_visit.failed || node->hint_expert.failed ? FS_NO_MEMORY
                                                                       : fs_hint_encode(&source, &block);
    if (st == FS_OK) {
        fs_slice slice = {block.data, block.size};
        st = fs_fabric_send(node->peer, FS_WIRE_HINT, &slice, 1, block.data);
    }
    if (st == FS_OK) {
        d->stats.hints++; /* the block is the fabric's */
        return;
    }
    fs_buffer_free(&block);
    d->stats.hints_dropped++;
}

static bool is_told(const fs_dispatcher *d, uint32_t slot)
{
    return d->node[slot]->wants_hints && d->plan_node[slot].connected && d->node[slot]->peer;
}

bool fs_dispatcher_wants_hints(const fs_dispatcher *d)
{
    for (uint32_t i = 0; i < d->view.num_nodes; i++)
        if (is_told(d, i)) return true;
    return false;
}

void fs_dispatcher_hint(fs_dispatcher *d, const fs_dispatch_hint *hint)
{
    if (!fs_dispatcher_wants_hints(d)) return;
    for (uint32_t i = 0; i < d->view.num_nodes; i++) {
        fs_dispatch_node *node = d->node[i];
        node->hint_visit.size = node->hint_expert.size = 0;
        node->hint_visit.failed = node->hint_expert.failed = false;
    }
    for (uint32_t l = 0; l < d->options.num_moe_layers; l++) {
        uint64_t distance = hint->distance + (uint64_t)l * hint->stride;
        if (distance > FS_WIRE_HINT_MAX_DISTANCE) break;
        mark_visited(d, hint, l);
        for (uint32_t e = 0; e < d->options.num_experts; e++)
            if (d->visited[e]) add_use(d, l, e, (uint32_t)distance);
    }
    for (uint32_t i = 0; i < d->view.num_nodes; i++)
        if (d->node[i]->hint_visit.size > 0 && is_told(d, i)) send_hint(d->node[i]);
}
