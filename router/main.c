/* router/main.c: the router process: model, engine, dispatcher, API and the life with the coordinator on one
 * loop. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "base/worker.h"
#include "compute/kernels.h"
#include "dispatch/dispatcher.h"
#include "engine/engine.h"
#include "model.h"
#include "numa/numa.h"
#include "options.h"
#include "rpc/member.h"

#define LEAVE_NS     (1 * FS_NS_PER_S)
#define FLUSH_NS     (1 * FS_NS_PER_S)  /* for the last messages to reach their clients */
#define STOP_GRACE   (10 * FS_NS_PER_S) /* beside the drain: after it the process ends as it is */
#define TEXT_THREADS 1u

typedef struct {
    fs_router_options options;
    fs_router_model model;
    uv_loop_t loop;
    fs_numa *numa;
    uv_signal_t term, interrupt;
    uv_timer_t stop_timer, watchdog;
    fs_worker *text_worker;
    fs_dispatcher *dispatcher;
    fs_engine *engine;
    fs_trace_writer *trace;
    fs_api *api;
    fs_rpc *rpc;
    fs_rpc_server *server;
    fs_member *member;
    char bound[128];
    char refusal[256]; /* why the coordinator does not know us, as last heard */
    bool registered, ready, stopping;
    int exit_code;
} router;

/* ---- ready ---- */

/* Once it could serve it goes on trying: requests wait for experts, not for us. */
static bool is_ready(void *arg, fs_detail *why)
{
    const router *r = arg;
    if (r->ready) return true;
    if (!r->registered)
        (void)fs_fail(why, FS_UNAVAILABLE, "%s", r->refusal);
    else
        (void)fs_dispatcher_is_serving(r->dispatcher, why);
    return false;
}

static void look_if_ready(void *arg)
{
    router *r = arg;
    if (r->ready || r->stopping || !r->registered || !fs_dispatcher_is_serving(r->dispatcher, NULL)) return;
    r->ready = true;
    fs_log_info("serving", "grpc=%s model=%s", r->bound, r->model.name);
    fs_process_ready("grpc", r->bound);
}

/* ---- coordinator ---- */

static bool placement_fits(const Foresight__V1__Placement *p)
{
    uint64_t cells = (uint64_t)p->num_moe_layers * p->num_experts;
    return p->num_replicas > 0 && cells > 0 && p->n_replica / p->num_replicas == cells &&
           p->n_replica % p->num_replicas == 0 && p->n_nodes < UINT32_MAX;
}

static void use_placement(router *r, const Foresight__V1__Placement *p, fs_placement_node *node)
{
    fs_detail detail = {0};
    for (size_t i = 0; i < p->n_nodes; i++)
        node[i] = (fs_placement_node){.name = p->nodes[i]->name,
                                      .address = p->nodes[i]->address,
                                      .rack = p->nodes[i]->rack,
                                      .instance = p->nodes[i]->instance,
                                      .state = (fs_node_state)p->nodes[i]->state};
    const fs_placement placement = {.epoch = p->epoch,
                                    .assignment_epoch = p->assignment_epoch,
                                    .fingerprint = p->model_fingerprint,
                                    .num_moe_layers = p->num_moe_layers,
                                    .num_experts = p->num_experts,
                                    .num_replicas = p->num_replicas,
                                    .num_nodes = (uint32_t)p->n_nodes,
                                    .node = node,
                                    .replica = p->replica};
    if (fs_dispatcher_set_placement(r->dispatcher, &placement, &detail) != FS_OK)
        fs_log_error("placement_refused", "epoch=%" PRIu64 " text=\"%s\"", p->epoch, detail.text);
}

static void on_placement(void *arg, const Foresight__V1__Placement *p)
{
    router *r = arg;
    if (p->n_replica == 0) return; /* not enough nodes yet */
    fs_placement_node *node = placement_fits(p) ? calloc(p->n_nodes + 1, sizeof *node) : NULL;
    if (node)
        use_placement(r, p, node);
    else
        fs_log_error("placement_refused", "epoch=%" PRIu64 " layers=%u experts=%u entries=%zu", p->epoch,
                     p->num_moe_layers, p->num_experts, p->n_replica);
    free(node);
}

static void stop(router *r, int exit_code);

static void on_refused(uv_timer_t *timer)
{
    stop(timer->data, 1);
}

/* The member has logged it. */
static void on_state(void *arg, bool registered, fs_rpc_code code, const char *text)
{
    router *r = arg;
    if (registered) {
        r->registered = true;
        look_if_ready(r);
        return;
    }
    snprintf(r->refusal, sizeof r->refusal, "not registered with the coordinator: %s", text);
    /* The same again would be refused again. From the loop: this is the member's own callback. */
    if (code == FS_RPC_INVALID_ARGUMENT && !r->stopping) uv_timer_start(&r->stop_timer, on_refused, 0, 0);
}

/* ---- stopping: requests end, then we leave, then gRPC, engine and fabric close; each step bounded ---- */

static void close_handles(router *r)
{
    fs_worker_destroy(r->text_worker);
    fs_api_destroy(r->api);
    uv_close((uv_handle_t *)&r->watchdog, NULL);
    uv_close((uv_handle_t *)&r->stop_timer, NULL);
    uv_close((uv_handle_t *)&r->term, NULL);
    uv_close((uv_handle_t *)&r->interrupt, NULL);
}

static void on_api_gone(void *arg)
{
    close_handles(arg);
}

static void on_dispatcher_closed(void *arg)
{
    router *r = arg;
    r->dispatcher = NULL;
    if (r->api)
        fs_api_stop(r->api, on_api_gone, r); /* a text may still be with the worker */
    else
        close_handles(r);
}

static void on_rpc_closed(void *arg)
{
    router *r = arg;
    r->rpc = NULL;
    fs_engine_destroy(r->engine);
    r->engine = NULL;
    if (r->dispatcher)
        fs_dispatcher_close(r->dispatcher, on_dispatcher_closed, r);
    else
        on_dispatcher_closed(r);
}

static void on_left(void *arg)
{
    router *r = arg;
    if (r->rpc)
        fs_rpc_close(r->rpc, on_rpc_closed, r);
    else
        on_rpc_closed(r);
}

static void leave(uv_timer_t *timer)
{
    router *r = timer->data;
    fs_member *member = r->member;
    r->member = NULL;
    fs_member_destroy(member, LEAVE_NS, on_left, r);
}

static void on_drain_over(uv_timer_t *timer)
{
    router *r = timer->data;
    uv_timer_start(timer, leave, FLUSH_NS / FS_NS_PER_MS, 0); /* sooner, if all is idle */
    if (r->engine) fs_engine_end_all(r->engine, FS_UNAVAILABLE, "shutting down");
}

/* May come from inside the engine: the rest waits for the loop. */
static void on_api_idle(void *arg)
{
    router *r = arg;
    if (r->member || r->rpc || r->dispatcher) uv_timer_start(&r->stop_timer, leave, 0, 0);
}

static void on_stuck(uv_timer_t *timer)
{
    fs_log_error("stop_timed_out", "text=\"a part did not close in time; the process ends as it is\"");
    _exit(1);
}

static void stop(router *r, int exit_code)
{
    if (r->stopping) return;
    r->stopping = true;
    r->exit_code = exit_code;
    uv_timer_start(&r->watchdog, on_stuck, (uint64_t)((r->options.drain_ns + STOP_GRACE) / FS_NS_PER_MS), 0);
    uv_timer_start(&r->stop_timer, on_drain_over, (uint64_t)(r->options.drain_ns / FS_NS_PER_MS), 0);
    if (r->api)
        fs_api_stop(r->api, on_api_idle, r);
    else
        uv_timer_start(&r->stop_timer, leave, 0, 0);
}

static void on_signal(uv_signal_t *handle, int number)
{
    router *r = handle->data;
    fs_log_info("stopping", "signal=%d", number);
    stop(r, 0);
}

/* ---- starting ---- */

static fs_status start_dispatcher(router *r, const uint8_t key[FS_CLUSTER_KEY_BYTES], fs_detail *detail)
{
    const fs_model_config *config = &r->model.config;
    fs_dispatcher_options options = {.name = r->options.member.name,
                                     .rack = r->options.member.rack,
                                     .fingerprint = r->model.fingerprint,
                                     .hidden_size = config->hidden_size,
                                     .num_experts = config->num_experts,
                                     .top_k = config->top_k,
                                     .num_moe_layers = config->num_moe_layers,
                                     .moe_layer = config->moe_layer,
                                     .row_format = config->expert_storage == FS_EXPERTS_SUB1 ? FS_ROWS_I8
                                                                                             : FS_ROWS_F32,
                                     .max_rows = r->options.step_tokens,
                                     .max_calls = r->options.micro_batches,
                                     .answer_ns = r->options.dispatch_timeout_ns,
                                     .unavailable_ns = r->options.unavailable_after_ns,
                                     .on_change = look_if_ready,
                                     .arg = r};
    memcpy(options.key, key, FS_CLUSTER_KEY_BYTES);
    return fs_dispatcher_create(&r->loop, &options, &r->dispatcher, detail);
}

static fs_status start_trace(router *r, fs_detail *detail)
{
    const fs_model_config *config = &r->model.config;
    const fs_trace_model model = {.num_moe_layers = config->num_moe_layers,
                                  .num_experts = config->num_experts,
                                  .top_k = config->top_k,
                                  .fingerprint = r->model.fingerprint};
    if (!r->options.trace) return FS_OK;
    fs_status st = fs_trace_create(r->options.trace, &model, &r->trace, detail);
    return st == FS_OK ? st : fs_fail_in(detail, st, "--trace");
}

static void end_trace(router *r)
{
    fs_detail detail = {0};
    if (fs_trace_close(r->trace, &detail) != FS_OK)
        fs_log_error("trace_failed", "file=\"%s\" text=\"%s\"", r->options.trace, detail.text);
    r->trace = NULL;
}

static fs_status start_engine(router *r, fs_detail *detail)
{
    const fs_router_options *o = &r->options;
    fs_engine_options options = {.config = &r->model.config,
                                 .backbone = r->model.backbone,
                                 .pregate = r->model.pregate,
                                 .tokenizer = r->model.tokenizer,
                                 .dispatcher = r->dispatcher,
                                 .threads = o->member.threads,
                                 .numa = r->numa,
                                 .kv_bytes = o->kv_cache_bytes,
                                 .max_running = o->max_running,
                                 .max_waiting = o->max_waiting,
                                 .step_tokens = o->step_tokens,
                                 .prefill_chunk = o->prefill_chunk,
                                 .micro_batches = o->micro_batches,
                                 .lookahead = (fs_lookahead_mode)o->lookahead,
                                 .batching = (fs_batching)o->batching,
                                 .batch_wait = o->batch_wait,
                                 .preemption = o->preemption != 0,
                                 .prefix_cache = o->prefix_cache != 0,
                                 .trace = r->trace};
    return fs_engine_create(&r->loop, &options, &r->engine, detail);
}

static fs_status start_api(router *r, fs_detail *detail)
{
    fs_api_options options = {.model = {.name = r->model.name,
                                        .config = &r->model.config,
                                        .context = fs_engine_context(r->engine),
                                        .max_prompt_bytes = r->options.max_prompt_bytes},
                              .router_name = r->options.member.name,
                              .fingerprint = r->model.fingerprint,
                              .tokenizer = r->model.tokenizer,
                              .engine = r->engine,
                              .dispatcher = r->dispatcher,
                              .worker = r->text_worker,
                              .max_waiting = r->options.max_waiting,
                              .is_ready = is_ready,
                              .arg = r};
    fs_status st = fs_api_create(&options, &r->api);
    return st == FS_OK ? st : fs_fail(detail, st, "no memory for the API");
}

static fs_status start_rpc(router *r, fs_detail *detail)
{
    fs_rpc_server_options options;
    fs_rpc_method methods[FS_API_NUM_METHODS];
    const fs_rpc_credentials credentials = {.insecure = true};
    fs_status st = fs_rpc_create(&r->loop, &r->rpc);
    if (st != FS_OK) return fs_fail(detail, st, "cannot start gRPC");
    fs_rpc_server_options_init(&options);
    if (options.max_message < r->options.max_prompt_bytes + 65536)
        options.max_message = r->options.max_prompt_bytes + 65536;
    fs_api_methods(r->api, methods);
    st = fs_rpc_serve(r->rpc, r->options.member.listen, &credentials, &options, methods, FS_API_NUM_METHODS,
                      r->bound, &r->server, detail);
    return st == FS_OK ? st : fs_fail_in(detail, st, "--listen");
}

static fs_status start_member(router *r, fs_detail *detail)
{
    Foresight__V1__RegisterRequest self = FORESIGHT__V1__REGISTER_REQUEST__INIT;
    self.name = (char *)r->options.member.name;
    self.kind = FORESIGHT__V1__MEMBER_KIND__MEMBER_KIND_ROUTER;
    self.address = r->options.member.advertise ? (char *)r->options.member.advertise : r->bound;
    self.rack = (char *)r->options.member.rack;
    self.model_fingerprint = r->model.fingerprint;
    self.model_name = r->model.name;
    self.num_moe_layers = r->model.config.num_moe_layers;
    self.num_experts = r->model.config.num_experts;
    fs_member_options options = {.rpc = r->rpc,
                                 .coordinator = r->options.member.coordinator,
                                 .credentials = {.insecure = true},
                                 .self = &self,
                                 .on_placement = on_placement,
                                 .on_state = on_state,
                                 .arg = r};
    fs_status st = fs_member_create(&r->loop, &options, &r->member, detail);
    return st == FS_OK ? st : fs_fail_in(detail, st, "--coordinator or --name");
}

static void start_handles(router *r)
{
    FS_ASSERT(uv_loop_init(&r->loop) == 0);
    FS_ASSERT(uv_timer_init(&r->loop, &r->stop_timer) == 0);
    FS_ASSERT(uv_timer_init(&r->loop, &r->watchdog) == 0);
    FS_ASSERT(uv_signal_init(&r->loop, &r->term) == 0);
    FS_ASSERT(uv_signal_init(&r->loop, &r->interrupt) == 0);
    r->stop_timer.data = r->watchdog.data = r->term.data = r->interrupt.data = r;
    FS_ASSERT(uv_signal_start(&r->term, on_signal, SIGTERM) == 0);
    FS_ASSERT(uv_signal_start(&r->interrupt, on_signal, SIGINT) == 0);
}

static fs_status start(router *r, const uint8_t key[FS_CLUSTER_KEY_BYTES], fs_detail *detail)
{
    fs_status st = fs_worker_create(&r->loop, "fs-text", TEXT_THREADS, &r->text_worker);
    if (st != FS_OK) return fs_fail(detail, st, "cannot start a thread");
    st = start_dispatcher(r, key, detail);
    if (st == FS_OK) st = start_trace(r, detail);
    if (st == FS_OK) st = start_engine(r, detail);
    if (st == FS_OK) st = start_api(r, detail);
    if (st == FS_OK) st = start_rpc(r, detail);
    if (st == FS_OK) st = start_member(r, detail);
    if (st != FS_OK) return st;
    fs_log_info("started", "model=%s grpc=%s threads=%u isa=%s backbone_bytes=%zu fingerprint=%016" PRIx64,
                r->model.name, r->bound, r->options.member.threads, fs_isa_name(fs_isa_best()),
                fs_backbone_weight_bytes(r->model.backbone), r->model.fingerprint);
    return FS_OK;
}

static int run(router *r, const uint8_t key[FS_CLUSTER_KEY_BYTES])
{
    fs_detail detail = {0};
    signal(SIGPIPE, SIG_IGN);
    snprintf(r->refusal, sizeof r->refusal, "the coordinator has not been reached");
    start_handles(r);
    if (r->options.numa == FS_NUMA_AUTO) r->numa = fs_numa_create(r->options.member.threads);
    /* The backbone's weights are read here, and used by all. */
    fs_numa_interleave_thread(r->numa);
    fs_status st = fs_router_model_open(r->options.member.model, &r->model, &detail);
    if (st == FS_OK) st = start(r, key, &detail);
    if (st != FS_OK) {
        fs_log_error("start_failed", "status=%s detail=\"%s\"", fs_status_name(st), detail.text);
        stop(r, 1);
    }
    uv_run(&r->loop, UV_RUN_DEFAULT);
    FS_ASSERT(uv_loop_close(&r->loop) == 0);
    end_trace(r);
    fs_router_model_close(&r->model);
    fs_numa_destroy(r->numa);
    fs_log_info("stopped", "code=%d", r->exit_code);
    return r->exit_code;
}

int main(int argc, char **argv)
{
    static router r;
    fs_conf *conf = NULL;
    uint8_t key[FS_CLUSTER_KEY_BYTES];
    int code = fs_member_begin(&fs_router_spec, argc, argv, &r.options, &r.options.member, "router",
                               fs_isa_check, key, &conf);
    if (code != FS_MEMBER_GO_ON) return code;
    code = run(&r, key);
    fs_conf_destroy(conf);
    return code;
}
