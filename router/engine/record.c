/* router/engine/record.c: what the engine does and knows, into a trace (--trace). Without one each call is a look at a pointer. */
#include "engine/engine_int.h"

void fs_record(fs_engine *e, const fs_trace_event *event)
{
    if (e->options.trace) fs_trace_write(e->options.trace, event);
}

void fs_record_arrival(fs_sequence *seq)
{
    fs_engine *e = seq->engine;
    seq->trace_number = e->num_traced++;
    fs_record(e, &(fs_trace_event){.kind = FS_TRACE_ARRIVE,
                                   .sequence = seq->trace_number,
                                   .first = seq->num_prompt,
                                   .count = seq->total_tokens});
}

void fs_record_routes(fs_sequence *seq)
{
    fs_engine *e = seq->engine;
    const fs_route_table *table = &seq->routes;
    while (e->options.trace && seq->traced_routes < table->num_tokens) {
        uint32_t first = seq->traced_routes, count = table->num_tokens - first;
        if (count > FS_TRACE_MAX_TOKENS) count = FS_TRACE_MAX_TOKENS;
        fs_record(e, &(fs_trace_event){.kind = FS_TRACE_ROUTES,
                                       .sequence = seq->trace_number,
                                       .first = first,
                                       .count = count,
                                       .expert = fs_route_experts(table, first, 0)});
        seq->traced_routes += count;
    }
}

void fs_record_step(fs_lane *lane)
{
    fs_engine *e = lane->engine;
    if (!e->options.trace) return;
    for (uint32_t i = 0; i < lane->num_parts; i++)
        e->trace_part[i] = (fs_trace_part){.sequence = lane->part[i].seq->trace_number,
                                           .first = lane->part[i].first,
                                           .count = lane->part[i].count};
    fs_record(e, &(fs_trace_event){.kind = FS_TRACE_STEP,
                                   .lane = (uint32_t)(lane - e->lane),
                                   .num_parts = lane->num_parts,
                                   .part = e->trace_part});
}

void fs_record_lane(fs_lane *lane, fs_trace_kind kind)
{
    uint32_t layer = kind == FS_TRACE_DONE ? 0 : lane->moe_layer;
    fs_record(lane->engine,
              &(fs_trace_event){.kind = kind, .lane = (uint32_t)(lane - lane->engine->lane), .layer = layer});
}

void fs_record_end(fs_sequence *seq)
{
    fs_record(seq->engine, &(fs_trace_event){.kind = FS_TRACE_END, .sequence = seq->trace_number});
}
