/* router/engine/lane.c: a micro-batch's way through the layers: plan, embed, then per layer attention here
 * and experts elsewhere, then logits, sampling and the new tokens' routes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine_int.h"

static fs_lane *lane_of(fs_job *job)
{
    return (fs_lane *)((char *)job - offsetof(fs_lane, job));
}

/* ---- memory ---- */

fs_status fs_lane_init(fs_lane *lane, fs_engine *engine)
{
    const fs_engine_options *o = &engine->options;
    fs_arena *arena = &engine->arena;
    size_t rows = o->step_tokens, heads = engine->max_heads, logits;
    lane->engine = engine;
    lane->state = FS_LANE_IDLE;
    lane->part = fs_arena_calloc(arena, o->max_running, sizeof *lane->part);
    lane->route = fs_arena_calloc(arena, rows, sizeof *lane->route);
    lane->weight = fs_arena_calloc(arena, rows * o->config->top_k, sizeof *lane->weight);
    lane->out = fs_arena_calloc(arena, rows * o->config->top_k, sizeof *lane->out);
    lane->failed = fs_arena_calloc(arena, rows, sizeof *lane->failed);
    lane->head_row = fs_arena_calloc(arena, heads, sizeof *lane->head_row);
    lane->head_seq = fs_arena_calloc(arena, heads, sizeof *lane->head_seq);
    lane->extend = fs_arena_calloc(arena, heads, sizeof *lane->extend);
    lane->extend_status = fs_arena_calloc(arena, heads, sizeof *lane->extend_status);
    if (!fs_mul_size(heads, o->config->vocab_size, &logits)) return FS_NO_MEMORY;
    lane->logits = fs_arena_calloc(arena, logits, sizeof *lane->logits);
    lane->scratch = fs_arena_calloc(arena, (size_t)o->threads * 2 * o->config->vocab_size,
                                    sizeof *lane->scratch);
    if (!lane->part || !lane->route || !lane->weight || !lane->out || !lane->failed || !lane->head_row ||
        !lane->head_seq || !lane->extend || !lane->extend_status || !lane->logits || !lane->scratch)
        return FS_NO_MEMORY;
    fs_status st = fs_batch_create(o->backbone, o->step_tokens, &lane->batch);
    return st == FS_OK ? fs_dispatch_call_create(o->dispatcher, &lane->call) : st;
}

void fs_lane_fini(fs_lane *lane)
{
    fs_batch_destroy(lane->batch);
    lane->batch = NULL;
}

/* ---- worker ---- */

static bool is_moe(const fs_model_config *config, uint32_t layer, uint32_t moe_layer)
{
    return moe_layer < config->num_moe_layers && config->moe_layer[moe_layer] == layer;
}

/* From where the lane stands to the next layer that has experts (true), or to the end (false). */
static bool run_layers(fs_lane *lane)
{
    fs_engine *e = lane->engine;
    const fs_engine_options *o = &e->options;
    if (lane->layer == 0) fs_backbone_embed(o->backbone, lane->batch, e->pool);
    if (lane->combine) fs_backbone_combine(o->backbone, lane->batch, lane->weight, lane->out, e->pool);
    lane->combine = false;
    while (lane->layer < o->config->num_layers) {
        uint32_t layer = lane->layer++;
        fs_backbone_attention(o->backbone, layer, lane->batch, e->kv, e->pool);
        if (is_moe(o->config, layer, lane->moe_layer)) return true;
    }
    return false;
}

static void choose_heads(fs_lane *lane)
{
    lane->num_heads = 0;
    for (uint32_t p = 0; p < lane->num_parts; p++) {
        const fs_lane_part *part = &lane->part[p];
        if (part->dead || !part->last) continue;
        lane->head_row[lane->num_heads] = part->row + part->count - 1;
        lane->head_seq[lane->num_heads++] = part->seq;
    }
}

/* One of the pool's tasks: every threads-th head, with a scratch of its own. */
static void sample_some(void *arg, uint32_t task)
{
    fs_lane *lane = arg;
    const fs_engine_options *o = &lane->engine->options;
    size_t vocab = o->config->vocab_size;
    for (uint32_t i = task; i < lane->num_heads; i += o->threads) {
        fs_sequence *seq = lane->head_seq[i];
        seq->status = fs_sampler_next(&seq->sampler, lane->logits + i * vocab,
                                      lane->scratch + task * 2 * vocab, seq->want_logprob, seq->num_top,
                                      &seq->sample);
        if (seq->status == FS_OK) seq->status = fs_sequence_accept(seq, o->config, o->tokenizer);
    }
}

/* The new tokens' routes, so that they are known before the next plan. */
static void extend_routes(fs_lane *lane)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < lane->num_heads; i++) {
        fs_sequence *seq = lane->head_seq[i];
        if (seq->status == FS_OK && seq->finish == FS_FINISH_NONE) lane->extend[n++] = &seq->gate;
    }
    fs_lookahead_extend(lane->engine->lookahead, lane->extend, n, lane->extend_status);
    for (uint32_t i = 0; i < n; i++) {
        fs_sequence *seq = (fs_sequence *)((char *)lane->extend[i] - offsetof(fs_sequence, gate));
        seq->status = lane->extend_status[i];
    }
}

static void run(fs_job *job)
{
    fs_lane *lane = lane_of(job);
    fs_engine *e = lane->engine;
    int64_t t0 = fs_engine_now();
    lane->head_ns = lane->sample_ns = 0;
    lane->at_experts = run_layers(lane);
    int64_t t1 = fs_engine_now();
    lane->attention_ns = t1 - t0;
    if (lane->at_experts) return;
    choose_heads(lane);
    if (lane->num_heads == 0) return;
    fs_backbone_logits(e->options.backbone, lane->batch, lane->head_row, lane->num_heads, lane->logits,
                       e->pool);
    int64_t t2 = fs_engine_now();
    lane->head_ns = t2 - t1;
    fs_pool_run(e->pool, sample_some, lane,
                lane->num_heads < e->options.threads ? lane->num_heads : e->options.threads);
    lane->sample_ns = fs_engine_now() - t2;
    extend_routes(lane);
}

/* ---- loop: the end of a step ---- */

static void emit(fs_sequence *seq, int64_t now)
{
    fs_engine *e = seq->engine;
    seq->timing.generated_tokens++;
    seq->timing.last_token_ns = now;
    if (seq->timing.first_token_ns == 0) seq->timing.first_token_ns = now;
    e->stats.generated_tokens++;
    fs_engine_output output = {.sample = &seq->sample,
                               .text = seq->text.size ? (const char *)seq->text.data : "",
                               .text_size = seq->text.size,
                               .finish = seq->finish,
                               .stop_matched = seq->stop.matched};
    seq->handlers.on_output(seq->handlers.arg, &output, &seq->timing);
    seq->text.size = 0;
}

static void fail_step(fs_sequence *seq)
{
    fs_log_error("sequence_failed", "cause=%s tokens=%u", fs_status_name(seq->status), seq->num_tokens);
    fs_engine_end(seq, FS_END_FAILED, seq->status,
                  seq->status == FS_NO_MEMORY ? "no memory" : "the model's numbers are not finite");
}

/* The scheduler learns what has run. A sequence that has ended by now left it before: nobody is to find what it left in its pages. */
static void tell_sched(fs_sequence *seq, bool sampled)
{
    fs_sched *sched = seq->engine->sched;
    bool goes_on = sampled && !seq->ended && seq->finish == FS_FINISH_NONE;
    fs_sched_done(sched, seq->id, goes_on);
    if (goes_on) fs_sched_set_experts(sched, seq->id, fs_route_experts(&seq->routes, seq->num_tokens - 1, 0));
}

/* The step's effect on one sequence. in_flight holds its memory while callbacks run: they may cancel it. */
static void settle(const fs_lane_part *part, int64_t now)
{
    fs_sequence *seq = part->seq;
    bool sampled = part->last && !part->dead;
    if (!seq->ended && sampled && seq->status != FS_OK) fail_step(seq);
    if (!seq->ended) fs_record_routes(seq);
    if (!seq->ended && sampled) emit(seq, now);
    tell_sched(seq, sampled);
    if (!seq->ended && seq->finish != FS_FINISH_NONE) fs_engine_end(seq, FS_END_FINISHED, FS_OK, "");
    seq->in_flight = false;
    if (seq->ended) fs_engine_release(seq);
}

static void complete(fs_lane *lane)
{
    fs_engine *e = lane->engine;
    int64_t now = fs_engine_now();
    e->stats.steps++;
    fs_record_lane(lane, FS_TRACE_DONE);
    for (uint32_t p = 0; p < lane->num_parts; p++) settle(&lane->part[p], now);
    lane->num_parts = 0;
    lane->state = FS_LANE_IDLE; /* only now: what the callbacks do must not start it half settled */
    fs_engine_kick(e);
}

/* ---- loop: experts ---- */

static bool mark_dead(fs_lane *lane)
{
    bool any_live = false;
    for (uint32_t p = 0; p < lane->num_parts; p++) {
        lane->part[p].dead = lane->part[p].seq->ended;
        any_live |= !lane->part[p].dead;
    }
    return any_live;
}

/* A row that is not finite cannot be sent (a dispatch's scales are finite), and must not take its neighbours along. */
static void end_broken(fs_lane *lane)
{
    if (lane->engine->options.config->expert_storage != FS_EXPERTS_SUB1) return;
    for (uint32_t p = 0; p < lane->num_parts; p++) {
        const fs_lane_part *part = &lane->part[p];
        bool finite = true;
        for (uint32_t i = 0; i < part->count; i++)
            finite &= isfinite(lane->batch->h_scale[part->row + i]) != 0;
        if (finite || part->seq->ended) continue;
        part->seq->status = FS_INTERNAL;
        fail_step(part->seq);
    }
}

static void post(fs_lane *lane)
{
    lane->state = FS_LANE_COMPUTING;
    fs_worker_post(lane->engine->worker, &lane->job);
    fs_engine_meter(lane->engine);
}

/* Rows without experts (no node had them in time) end their sequences; the others go on. */
static void on_experts(void *arg)
{
    fs_lane *lane = arg;
    for (uint32_t p = 0; p < lane->num_parts; p++) {
        fs_lane_part *part = &lane->part[p];
        bool failed = false;
        for (uint32_t i = 0; i < part->count; i++) failed |= lane->failed[part->row + i];
        if (!failed || part->seq->ended) continue;
        fs_engine_end(part->seq, FS_END_FAILED, FS_UNAVAILABLE,
                      "experts that the text needs are on no living node");
    }
    fs_record_lane(lane, FS_TRACE_RESULTS);
    lane->combine = true;
    lane->moe_layer++;
    if (mark_dead(lane)) {
        post(lane);
        return;
    }
    fs_dispatch_release(lane->call); /* nobody wants the rest of this step */
    complete(lane);
}

static void fill_routes(fs_lane *lane)
{
    uint32_t top_k = lane->engine->options.config->top_k;
    memset(lane->failed, 0, lane->batch->num_rows * sizeof *lane->failed);
    for (uint32_t p = 0; p < lane->num_parts; p++) {
        const fs_lane_part *part = &lane->part[p];
        for (uint32_t i = 0; i < part->count; i++) {
            const fs_route_table *table = &part->seq->routes;
            uint32_t row = part->row + i, token = part->first + i;
            lane->route[row] = part->dead ? NULL : fs_route_experts(table, token, lane->moe_layer);
            memcpy(lane->weight + (size_t)row * top_k, fs_route_weights(table, token, lane->moe_layer),
                   top_k * sizeof *lane->weight);
        }
    }
}

static void ask_experts(fs_lane *lane)
{
    fill_routes(lane);
    fs_record_lane(lane, FS_TRACE_EXPERTS);
    lane->state = FS_LANE_WAITING;
    fs_dispatch_rows rows = {.num_rows = lane->batch->num_rows,
                             .route = lane->route,
                             .row_i8 = lane->batch->h_i8,
                             .scale = lane->batch->h_scale,
                             .row_f32 = lane->batch->h,
                             .out = lane->out,
                             .failed = lane->failed,
                             .done = on_experts,
                             .arg = lane};
    fs_dispatch_send(lane->call, lane->moe_layer, &rows);
}

static void done(fs_job *job)
{
    fs_lane *lane = lane_of(job);
    fs_engine *e = lane->engine;
    e->stats.attention_ns += lane->attention_ns;
    e->stats.head_ns += lane->head_ns;
    e->stats.sample_ns += lane->sample_ns;
    fs_dispatch_release(lane->call); /* what it pointed to is in the residual stream now */
    if (lane->at_experts) end_broken(lane);
    if (!lane->at_experts) {
        complete(lane);
    } else if (mark_dead(lane)) {
        ask_experts(lane);
    } else {
        complete(lane);
    }
    fs_engine_meter(e);
}

/* ---- loop: the beginning of a step ---- */

static void add_part(fs_lane *lane, const fs_sched_part *planned, int64_t now)
{
    fs_batch *batch = lane->batch;
    fs_sequence *seq = lane->engine->slot[planned->id];
    FS_ASSERT(seq && !seq->ended && !seq->in_flight);
    FS_ASSERT(planned->first + planned->count <= seq->routes.num_tokens);
    if (planned->admitted) seq->timing.first_step_ns = now;
    seq->in_flight = true;
    lane->part[lane->num_parts++] = (fs_lane_part){.seq = seq,
                                                   .first = planned->first,
                                                   .count = planned->count,
                                                   .row = batch->num_rows,
                                                   .last = planned->last};
    for (uint32_t i = 0; i < planned->count; i++) {
        uint32_t row = batch->num_rows++;
        batch->token[row] = seq->token[planned->first + i];
        batch->position[row] = planned->first + i;
        batch->pages[row] = seq->pages;
    }
}

void fs_lane_start(fs_lane *lane)
{
    fs_engine *e = lane->engine;
    if (lane->state != FS_LANE_IDLE || e->closing) return;
    int64_t now = fs_engine_now();
    uint32_t n = fs_sched_plan(e->sched, e->plan, e->options.max_running);
    if (n == 0) return;
    lane->num_parts = lane->layer = lane->moe_layer = 0;
    lane->combine = false;
    lane->batch->num_rows = 0;
    for (uint32_t i = 0; i < n; i++) add_part(lane, &e->plan[i], now);
    fs_record_step(lane);
    fs_announce_step(lane);
    lane->job = (fs_job){.run = run, .done = done};
    post(lane);
}
