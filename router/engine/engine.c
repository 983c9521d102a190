/* router/engine/engine.c: sequences come and go; lanes are started; time is accounted. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine_int.h"

enum {
    PREGATE_CHUNK = 128,
    ROUTE_AHEAD = 16, /* a client's waiting sequences whose routes are known */
    INPUT_WEIGHT = 1,
    OUTPUT_WEIGHT = 2, /* of tokens, for fairness: 2401.00588, section 5 */
    RETRY_MIN_MS = 20,
    RETRY_MAX_MS = 30000
};

int64_t fs_engine_now(void)
{
    return fs_clock_now(fs_clock_system());
}

/* ---- where time goes ---- */

void fs_engine_meter(fs_engine *e)
{
    int64_t now = fs_engine_now(), spent = now - e->meter_since_ns;
    if (e->meter_state == FS_METER_EXPERTS) e->stats.experts_wait_ns += spent;
    if (e->meter_state == FS_METER_IDLE) e->stats.idle_ns += spent;
    e->meter_since_ns = now;
    bool waits = false;
    for (uint32_t i = 0; i < e->num_lanes; i++) waits |= e->lane[i].state == FS_LANE_WAITING;
    e->meter_state = fs_worker_in_flight(e->worker) ? FS_METER_BUSY
                     : waits                        ? FS_METER_EXPERTS
                                                    : FS_METER_IDLE;
}

static void note_end(fs_engine *e)
{
    int64_t now = fs_engine_now();
    if (e->last_end_ns) {
        int64_t gap = now - e->last_end_ns;
        e->mean_end_ns = e->mean_end_ns ? e->mean_end_ns + (gap - e->mean_end_ns) / 8 : gap;
    }
    e->last_end_ns = now;
}

uint32_t fs_engine_retry_ms(const fs_engine *e)
{
    /* Places become free at the rate at which sequences end; the more wait, the more clients will ask at that
     * moment. */
    int64_t mean = e->mean_end_ns ? e->mean_end_ns : FS_NS_PER_S;
    int64_t ms = mean * (1 + fs_sched_get_counts(e->sched).waiting / 8) / FS_NS_PER_MS;
    if (ms < RETRY_MIN_MS) ms = RETRY_MIN_MS;
    return ms > RETRY_MAX_MS ? RETRY_MAX_MS : (uint32_t)ms;
}

/* ---- creation ---- */

static fs_lookahead_options lookahead_options(const fs_engine *e, uint32_t pages)
{
    return (fs_lookahead_options){.pregate = e->options.pregate,
                                  .worker = e->worker,
                                  .pool = e->pool,
                                  .num_pages = pages,
                                  .chunk_tokens = PREGATE_CHUNK,
                                  .max_extend = e->max_heads,
                                  .num_moe_layers = e->options.config->num_moe_layers,
                                  .top_k = e->options.config->top_k,
                                  .share = e->options.prefix_cache};
}

/* Pages of both caches from one budget: the pre-gating network's cache also holds what still waits, so it
 * gets twice as many. */
static fs_status split_pages(fs_engine *e, uint32_t *pages, fs_detail *detail)
{
    size_t backbone = fs_kv_page_bytes(fs_backbone_kv_shape(e->options.backbone));
    const fs_lookahead_options lookahead = lookahead_options(e, 0);
    size_t pregate = fs_lookahead_page_bytes(&lookahead);
    if (backbone == 0 || pregate == 0 || pregate > (SIZE_MAX - backbone) / 2)
        return fs_fail(detail, FS_INVALID, "kv-cache: a page of this model does not fit in memory");
    uint64_t n = e->options.kv_bytes / (backbone + 2 * pregate);
    if (n > UINT32_MAX / 2 / FS_KV_PAGE_TOKENS) n = UINT32_MAX / 2 / FS_KV_PAGE_TOKENS;
    if (n == 0)
        return fs_fail(detail, FS_INVALID, "kv-cache: %llu bytes do not hold a page of %zu bytes",
                       (unsigned long long)e->options.kv_bytes, backbone + 2 * pregate);
    *pages = (uint32_t)n;
    uint32_t context = e->options.config->max_positions;
    e->context = n * FS_KV_PAGE_TOKENS < context ? (uint32_t)n * FS_KV_PAGE_TOKENS : context;
    if (e->context < context)
        fs_log_warn("context_cut", "kv_cache_tokens=%u model_context=%u", e->context, context);
    return FS_OK;
}

static fs_status create_sched(fs_engine *e, uint32_t pages, fs_detail *detail)
{
    const fs_engine_options *o = &e->options;
    fs_sched_options so = {.max_waiting = o->max_waiting,
                           .max_running = o->max_running,
                           .num_pages = pages,
                           .page_tokens = FS_KV_PAGE_TOKENS,
                           .max_step_tokens = o->step_tokens,
                           .prefill_chunk = o->prefill_chunk,
                           .num_micro_batches = o->micro_batches,
                           .preemption = o->preemption,
                           .prefix_cache = o->prefix_cache,
                           .route_ahead = ROUTE_AHEAD,
                           .input_weight = INPUT_WEIGHT,
                           .output_weight = OUTPUT_WEIGHT,
                           .batching = o->batching,
                           .batch_wait = o->batch_wait,
                           .num_moe_layers = o->config->num_moe_layers,
                           .num_experts = o->config->num_experts,
                           .top_k = o->config->top_k};
    fs_status st = fs_sched_create(&so, &e->sched);
    if (st == FS_INVALID)
        return fs_fail(detail, st,
                       "prefill-chunk: %u is not in 1..step-tokens (%u), or micro-batches (%u) not in 1..4",
                       o->prefill_chunk, o->step_tokens, o->micro_batches);
    return st;
}

static fs_status alloc_tables(fs_engine *e)
{
    uint32_t slots = e->options.max_running + e->options.max_waiting;
    e->slot = fs_arena_calloc(&e->arena, slots, sizeof *e->slot);
    e->plan = fs_arena_calloc(&e->arena, e->options.max_running, sizeof *e->plan);
    e->expired = fs_arena_calloc(&e->arena, slots, sizeof *e->expired);
    e->trace_part = fs_arena_calloc(&e->arena, e->options.max_running, sizeof *e->trace_part);
    e->announced = fs_arena_calloc(&e->arena, e->options.step_tokens, sizeof *e->announced);
    if (!e->slot || !e->plan || !e->expired || !e->trace_part || !e->announced) return FS_NO_MEMORY;
    for (; e->num_lanes < e->options.micro_batches; e->num_lanes++) {
        fs_status st = fs_lane_init(&e->lane[e->num_lanes], e);
        if (st != FS_OK) {
            fs_lane_fini(&e->lane[e->num_lanes]);
            return st;
        }
    }
    return FS_OK;
}

/* The worker counts as the pool's first thread. */
static fs_status create_threads(fs_engine *e)
{
    fs_thread_hook hook = fs_numa_hook(e->options.numa);
    fs_status st = fs_pool_create_hooked(e->options.threads, hook, &e->pool);
    return st == FS_OK ? fs_worker_create_hooked(e->loop, "fs-compute", 1, hook, &e->worker) : st;
}

static fs_status create_kv(fs_engine *e, uint32_t pages)
{
    fs_kv_shape shape = fs_backbone_kv_shape(e->options.backbone);
    fs_status st = fs_kv_pool_create(shape, pages, &e->kv);
    if (st == FS_OK)
        fs_numa_interleave(e->options.numa, fs_kv_at(e->kv, 0, 0, 0), fs_kv_page_bytes(shape) * pages);
    return st;
}

static fs_status build(fs_engine *e, fs_detail *detail)
{
    uint32_t pages = 0;
    fs_status st = split_pages(e, &pages, detail);
    if (st == FS_OK) st = create_sched(e, pages, detail);
    if (st == FS_OK) st = create_kv(e, pages);
    if (st == FS_OK) st = create_threads(e);
    const fs_lookahead_options lookahead = lookahead_options(e, 2 * pages);
    if (st == FS_OK) st = fs_lookahead_create(&lookahead, &e->lookahead);
    if (st == FS_OK) st = alloc_tables(e);
    if (st != FS_OK && detail && !detail->text[0])
        return fs_fail(detail, st, "engine: %s (kv-cache %llu bytes)", fs_status_name(st),
                       (unsigned long long)e->options.kv_bytes);
    return st;
}

static void free_engine(fs_engine *e)
{
    for (uint32_t i = 0; i < e->num_lanes; i++) fs_lane_fini(&e->lane[i]);
    fs_lookahead_destroy(e->lookahead);
    fs_pool_destroy(e->pool);
    fs_kv_pool_destroy(e->kv);
    fs_sched_destroy(e->sched);
    fs_arena_fini(&e->arena);
    free(e);
}

fs_status fs_engine_create(uv_loop_t *loop, const fs_engine_options *options, fs_engine **out,
                           fs_detail *detail)
{
    fs_engine *e = calloc(1, sizeof *e);
    if (!e) return fs_fail(detail, FS_NO_MEMORY, "engine: no memory");
    FS_ASSERT(options->micro_batches >= 1 && options->micro_batches <= FS_ENGINE_MAX_LANES);
    e->loop = loop;
    e->options = *options;
    e->max_heads = options->max_running < options->step_tokens ? options->max_running : options->step_tokens;
    fs_status st = build(e, detail);
    if (st != FS_OK) {
        fs_worker_destroy(e->worker);
        free_engine(e);
        return st;
    }
    uv_timer_init(loop, &e->timer);
    e->timer.data = e;
    e->meter_state = FS_METER_IDLE;
    e->meter_since_ns = fs_engine_now();
    *out = e;
    return FS_OK;
}

uint32_t fs_engine_context(const fs_engine *e)
{
    return e->context;
}

/* ---- the end of sequences ---- */

void fs_engine_release(fs_sequence *seq)
{
    fs_engine *e = seq->engine;
    FS_ASSERT(seq->ended && !seq->in_flight);
    if (!fs_lookahead_end(&seq->gate)) return; /* its done comes back to us */
    if (seq->previous)
        seq->previous->next = seq->next;
    else
        e->first = seq->next;
    if (seq->next) seq->next->previous = seq->previous;
    e->stats.sequences--;
    fs_sequence_free(seq);
}

void fs_engine_end(fs_sequence *seq, fs_end_kind kind, fs_status status, const char *text)
{
    fs_engine *e = seq->engine;
    FS_ASSERT(!seq->ended);
    seq->ended = true;
    fs_record_end(seq);
    e->slot[seq->id] = NULL;
    fs_sched_remove(e->sched, seq->id);
    e->stats.finished += kind == FS_END_FINISHED;
    e->stats.cancelled += kind == FS_END_CANCELLED;
    e->stats.failed += kind == FS_END_FAILED;
    note_end(e);
    if (kind != FS_END_CANCELLED) seq->handlers.on_end(seq->handlers.arg, status, text);
    if (!seq->in_flight) fs_engine_release(seq);
}

void fs_engine_cancel(fs_sequence *seq)
{
    fs_engine *e = seq->engine;
    fs_engine_end(seq, FS_END_CANCELLED, FS_CANCELLED, "");
    fs_engine_kick(e); /* its pages may let another one in */
    fs_engine_meter(e);
}

void fs_engine_end_all(fs_engine *e, fs_status status, const char *text)
{
    for (fs_sequence *seq = e->first, *next; seq; seq = next) {
        next = seq->next;
        if (!seq->ended) fs_engine_end(seq, FS_END_FAILED, status, text);
    }
}

static void on_timer(uv_timer_t *timer)
{
    fs_engine *e = timer->data;
    int64_t now = fs_engine_now(), next;
    uint32_t n = fs_sched_expired(e->sched, now, e->expired, e->options.max_running + e->options.max_waiting,
                                  &next);
    for (uint32_t i = 0; i < n; i++)
        if (e->slot[e->expired[i]])
            fs_engine_end(e->slot[e->expired[i]], FS_END_FAILED, FS_DEADLINE, "the deadline has passed");
    if (next != FS_NEVER)
        uv_timer_start(timer, on_timer, next <= now ? 1 : (uint64_t)((next - now) / FS_NS_PER_MS) + 1, 0);
    if (n) fs_engine_kick(e);
}

/* Whose routes come next is the scheduler's to say, at the moment when there is room for them. */
static void compute_routes(fs_engine *e)
{
    while (!e->closing && !fs_lookahead_is_full(e->lookahead)) {
        uint32_t id = fs_sched_next_route(e->sched);
        if (id == FS_SCHED_NONE) return;
        fs_status st = fs_lookahead_begin(e->lookahead, &e->slot[id]->gate);
        FS_ASSERT(st == FS_OK); /* its pool has more pages than the scheduler's */
    }
}

void fs_engine_kick(fs_engine *e)
{
    compute_routes(e);
    for (uint32_t i = 0; i < e->num_lanes; i++) fs_lane_start(&e->lane[i]);
}

/* ---- the beginning of sequences ---- */

/* The prompt's routes are known, or will never be. */
static void on_routes(fs_lookahead_item *item, fs_status status)
{
    fs_sequence *seq = (fs_sequence *)((char *)item - offsetof(fs_sequence, gate));
    fs_engine *e = seq->engine;
    if (seq->ended) {
        fs_engine_release(seq);
    } else if (status != FS_OK) {
        fs_log_error("routes_failed", "cause=%s tokens=%u", fs_status_name(status), seq->num_prompt);
        fs_engine_end(seq, FS_END_FAILED, status, "the prompt's routes could not be computed");
    } else {
        fs_record_routes(seq);
        fs_announce_prompt(seq);
        fs_sched_ready(e->sched, seq->id);
    }
    fs_engine_kick(e);
    fs_engine_meter(e);
}

static void link_sequence(fs_engine *e, fs_sequence *seq)
{
    seq->next = e->first;
    if (e->first) e->first->previous = seq;
    e->first = seq;
    e->slot[seq->id] = seq;
    e->stats.sequences++;
    e->stats.accepted++;
    e->stats.prompt_tokens += seq->num_prompt;
}

static fs_status check_room(const fs_engine *e, const fs_engine_request *r, fs_detail *detail)
{
    FS_ASSERT(r->prompt_tokens >= 1 && r->max_tokens >= 1);
    uint64_t total = (uint64_t)r->prompt_tokens + r->max_tokens;
    if (total <= e->context) return FS_OK;
    return fs_fail(detail, FS_INVALID, "max_tokens: %u prompt tokens and %u more are over the context of %u",
                   r->prompt_tokens, r->max_tokens, e->context);
}

static fs_status enqueue(fs_engine *e, fs_sequence *seq, const fs_engine_request *request)
{
    const fs_sched_request r = {.prompt_tokens = seq->num_prompt,
                                .total_tokens = seq->total_tokens,
                                .client = request->client,
                                .priority = request->priority,
                                .deadline_ns = request->deadline_ns,
                                .token = seq->token,
                                .pages = seq->pages};
    seq->gate.done = on_routes;
    return fs_sched_add(e->sched, &r, &seq->id);
}

fs_status fs_engine_submit(fs_engine *e, const fs_engine_request *request, const fs_engine_handlers *handlers,
                           fs_sequence **out, fs_detail *detail)
{
    fs_sequence *seq = NULL;
    fs_status st = check_room(e, request, detail);
    if (st != FS_OK) return st;
    if (e->closing) return fs_fail(detail, FS_UNAVAILABLE, "shutting down");
    st = fs_sequence_create(e, request, handlers, &seq);
    if (st != FS_OK) return fs_fail(detail, st, "no memory for the request");
    st = enqueue(e, seq, request);
    if (st != FS_OK) {
        fs_sequence_free(seq);
        e->stats.refused++;
        return fs_fail(detail, st, "the queue is full: %u requests wait", e->options.max_waiting);
    }
    link_sequence(e, seq);
    fs_record_arrival(seq);
    compute_routes(e);
    if (request->deadline_ns != FS_NEVER) uv_timer_start(&e->timer, on_timer, 0, 0);
    fs_engine_meter(e);
    *out = seq;
    return FS_OK;
}

void fs_engine_get_stats(fs_engine *e, fs_engine_stats *out)
{
    fs_engine_meter(e);
    *out = e->stats;
    fs_sched_counts counts = fs_sched_get_counts(e->sched);
    out->waiting = counts.waiting;
    out->running = counts.running;
    out->kv_pages_total = fs_kv_pool_num_pages(e->kv);
    out->kv_pages_used = counts.pages_held;
    out->kv_pages_idle = counts.pages_idle;
    out->preemptions = counts.preemptions;
    out->tokens_again = counts.tokens_again;
    out->tokens_found = counts.tokens_found;
    out->routes_found = fs_lookahead_tokens_found(e->lookahead);
    fs_lookahead_get_pages(e->lookahead, &out->pregate_pages_used, &out->pregate_pages_total);
    out->pregate_ns = fs_lookahead_busy_ns(e->lookahead);
}

/* ---- the end of the engine ---- */

static void on_timer_closed(uv_handle_t *handle)
{
    free_engine(handle->data);
}

void fs_engine_destroy(fs_engine *e)
{
    if (!e) return;
    e->closing = true;
    fs_engine_end_all(e, FS_UNAVAILABLE, "shutting down");
    fs_worker_destroy(e->worker); /* no job runs from here on */
    e->worker = NULL;
    while (e->first) {
        fs_sequence *seq = e->first;
        e->first = seq->next;
        fs_sequence_free(seq);
    }
    uv_close((uv_handle_t *)&e->timer, on_timer_closed);
}
