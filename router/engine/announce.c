/* router/engine/announce.c: what the route table knows of coming visits, told to the nodes ahead of them (--lookahead). */
#include "engine/engine_int.h"

/* Micro-batches that will take turns with one that begins now. */
static uint32_t lanes_at_work(const fs_engine *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->num_lanes; i++) n += e->lane[i].state != FS_LANE_IDLE;
    return n ? n : 1;
}

void fs_announce_step(fs_lane *lane)
{
    fs_engine *e = lane->engine;
    if (e->options.lookahead == FS_LOOKAHEAD_OFF || !fs_dispatcher_wants_hints(e->options.dispatcher)) return;
    uint32_t lanes = lanes_at_work(e);
    for (uint32_t p = 0; p < lane->num_parts; p++) {
        const fs_lane_part *part = &lane->part[p];
        for (uint32_t i = 0; i < part->count; i++)
            e->announced[part->row + i] = fs_route_experts(&part->seq->routes, part->first + i, 0);
    }
    const fs_dispatch_hint hint = {
        .num_rows = lane->batch->num_rows, .route = e->announced, .distance = lanes - 1, .stride = lanes};
    fs_dispatcher_hint(e->options.dispatcher, &hint);
}

/* The first chunk runs at the next plan at the earliest: behind the steps that are under way, and behind those who wait longer. */
void fs_announce_prompt(fs_sequence *seq)
{
    fs_engine *e = seq->engine;
    if (e->options.lookahead != FS_LOOKAHEAD_FULL || !fs_dispatcher_wants_hints(e->options.dispatcher))
        return;
    /* Where routes were found, keys and values most probably are, too: those tokens do not run. */
    uint32_t first = seq->gate.tokens_found, rows = seq->num_prompt - first;
    if (rows > e->options.prefill_chunk) rows = e->options.prefill_chunk;
    uint32_t lanes = lanes_at_work(e), layers = e->options.config->num_moe_layers;
    for (uint32_t i = 0; i < rows; i++) e->announced[i] = fs_route_experts(&seq->routes, first + i, 0);
    const fs_dispatch_hint hint = {
        .num_rows = rows, .route = e->announced, .distance = layers * lanes, .stride = lanes};
    fs_dispatcher_hint(e->options.dispatcher, &hint);
}
