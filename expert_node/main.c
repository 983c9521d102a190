/* expert_node/main.c: the expert node process: store, executor, fabric and the life with the coordinator on one loop. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "base/worker.h"
#include "compute/kernels.h"
#include "exec/exec.h"
#include "fabric/fabric.h"
#include "numa/numa.h"
#include "options.h"
#include "rpc/member.h"
#include "store/store.h"

#define LEAVE_NS   (1 * FS_NS_PER_S)
#define STOP_GRACE (8 * FS_NS_PER_S) /* beside the drain: after it the process ends as it is */

typedef struct {
    fs_node_options options;
    uv_loop_t loop;
    fs_numa *numa;
    uv_signal_t term, interrupt;
    uv_timer_t drain_timer, watchdog;
    fs_store *store;
    fs_exec *exec;
    fs_offload *device;
    fs_fabric *fabric;
    fs_rpc *rpc;
    fs_member *member;
    char bound[128];
    char problem[640];               /* as last told to the coordinator */
    Foresight__V1__CacheStats cache; /* of the heartbeat that is being made */
    uint64_t told_epoch;
    bool announced, stopping;
    int exit_code;
} node;

/* ---- fabric ---- */

/* The fabric has logged what came or went, and why. */
static void on_up(void *arg, fs_peer *peer)
{
}

static void on_down(void *arg, fs_peer *peer, fs_status why, const char *text)
{
    node *n = arg;
    if (n->exec) fs_exec_on_down(n->exec, peer);
}

static void on_message(void *arg, fs_peer *peer, uint16_t type, const uint8_t *data, size_t size)
{
    node *n = arg;
    if (n->exec) fs_exec_on_message(n->exec, peer, type, data, size);
}

static void on_writable(void *arg, fs_peer *peer)
{
    node *n = arg;
    if (n->exec) fs_exec_on_writable(n->exec, peer);
}

/* ---- placement ---- */

/* The place of this node in placement->nodes, or UINT32_MAX. By name: the id is not known before the first registration ends. */
static uint32_t own_index(const node *n, const Foresight__V1__Placement *placement)
{
    for (size_t i = 0; i < placement->n_nodes; i++)
        if (strcmp(placement->nodes[i]->name, n->options.member.name) == 0) return (uint32_t)i;
    return UINT32_MAX;
}

static bool placement_fits(const node *n, const Foresight__V1__Placement *p)
{
    const fs_model_config *config = fs_store_config(n->store);
    uint64_t entries = (uint64_t)config->num_moe_layers * config->num_experts * p->num_replicas;
    return p->model_fingerprint == fs_store_fingerprint(n->store) &&
           p->num_moe_layers == config->num_moe_layers && p->num_experts == config->num_experts &&
           p->n_replica == entries;
}

static void on_placement(void *arg, const Foresight__V1__Placement *placement)
{
    node *n = arg;
    fs_store_stats stats;
    fs_store_get_stats(n->store, &stats);
    if (n->stopping || placement->n_replica == 0 || placement->assignment_epoch == stats.epoch) return;
    if (!placement_fits(n, placement)) {
        fs_log_error("placement_refused", "epoch=%" PRIu64 " layers=%u experts=%u entries=%zu",
                     placement->epoch, placement->num_moe_layers, placement->num_experts,
                     placement->n_replica);
        return;
    }
    uint32_t self = own_index(n, placement);
    uint8_t *wanted = calloc(fs_store_num_experts(n->store), 1);
    if (!wanted) {
        fs_log_error("placement_refused", "epoch=%" PRIu64 " text=\"no memory\"", placement->epoch);
        return;
    }
    for (size_t i = 0; self != UINT32_MAX && i < placement->n_replica; i++)
        if (placement->replica[i] == self) wanted[i / placement->num_replicas] = 1;
    fs_store_assign(n->store, placement->assignment_epoch, wanted);
    free(wanted);
    fs_member_touch(n->member);
}

/* A heartbeat goes at once when the node became ready or has a new problem; not with each of many experts loaded. */
static void on_store_change(void *arg)
{
    node *n = arg;
    fs_store_stats stats;
    fs_store_get_stats(n->store, &stats);
    if (stats.ready_epoch == n->told_epoch && strcmp(stats.problem, n->problem) == 0) return;
    if (n->member) fs_member_touch(n->member);
}

static void fill_cache(node *n, const fs_cache_stats *cache, Foresight__V1__HeartbeatRequest *heartbeat)
{
    if (n->options.memory_bytes == 0) return;
    foresight__v1__cache_stats__init(&n->cache);
    n->cache.memory_bytes = n->options.memory_bytes;
    n->cache.hits = cache->hits;
    n->cache.misses = cache->misses + cache->late + cache->joined;
    n->cache.loaded_bytes = cache->loaded_bytes;
    n->cache.prefetched_bytes = cache->prefetched_bytes;
    n->cache.wasted_bytes = cache->wasted_bytes;
    heartbeat->cache = &n->cache;
}

static void fill_heartbeat(void *arg, Foresight__V1__HeartbeatRequest *heartbeat)
{
    node *n = arg;
    fs_store_stats stats;
    fs_exec_stats exec = {0};
    fs_store_get_stats(n->store, &stats);
    if (n->exec) fs_exec_get_stats(n->exec, &exec);
    n->told_epoch = stats.ready_epoch;
    snprintf(n->problem, sizeof(n->problem), "%s", stats.problem);
    heartbeat->ready_epoch = stats.ready_epoch;
    heartbeat->experts_loaded = stats.loaded;
    heartbeat->bytes_loaded = stats.bytes_loaded;
    heartbeat->rows_computed = exec.rows_computed;
    heartbeat->problem = n->problem;
    fill_cache(n, &stats.cache, heartbeat);
}

/* ---- stopping: leave, finish what is queued, close the fabric, then gRPC, then the rest; each step bounded ---- */

static void on_rpc_closed(void *arg)
{
    node *n = arg;
    n->rpc = NULL;
    uv_close((uv_handle_t *)&n->watchdog, NULL);
    uv_close((uv_handle_t *)&n->drain_timer, NULL);
    uv_close((uv_handle_t *)&n->term, NULL);
    uv_close((uv_handle_t *)&n->interrupt, NULL);
}

static void on_fabric_closed(void *arg)
{
    node *n = arg;
    n->fabric = NULL;
    fs_store_destroy(n->store);
    n->store = NULL;
    if (n->rpc)
        fs_rpc_close(n->rpc, on_rpc_closed, n);
    else
        on_rpc_closed(n);
}

static void close_fabric(node *n)
{
    fs_exec *exec = n->exec;
    n->exec = NULL;
    fs_exec_destroy(exec); /* gives the fabric's messages back, so before it */
    if (n->fabric)
        fs_fabric_close(n->fabric, on_fabric_closed, n);
    else
        on_fabric_closed(n);
}

static void on_drained(uv_timer_t *timer)
{
    node *n = timer->data;
    if (n->exec) {
        fs_exec_stats stats;
        fs_exec_get_stats(n->exec, &stats);
        if (stats.pending > 0) fs_log_warn("drain_cut_short", "dispatches=%u", stats.pending);
    }
    close_fabric(n);
}

/* Closing waits for the loop: idle is told from inside the executor. */
static void on_idle(void *arg)
{
    node *n = arg;
    uv_timer_start(&n->drain_timer, on_drained, 0, 0);
}

static void on_left(void *arg)
{
    node *n = arg;
    uv_timer_start(&n->drain_timer, on_drained, (uint64_t)(n->options.drain_ns / FS_NS_PER_MS), 0);
    if (n->exec)
        fs_exec_when_idle(n->exec, on_idle, n);
    else
        on_idle(n);
}

static void on_stuck(uv_timer_t *timer)
{
    fs_log_error("stop_timed_out", "text=\"a part did not close in time; the process ends as it is\"");
    _exit(1);
}

static void stop(node *n, int exit_code)
{
    if (n->stopping) return;
    n->stopping = true;
    n->exit_code = exit_code;
    uv_timer_start(&n->watchdog, on_stuck, (uint64_t)((n->options.drain_ns + STOP_GRACE) / FS_NS_PER_MS), 0);
    fs_member *member = n->member;
    n->member = NULL;
    fs_member_destroy(member, LEAVE_NS, on_left, n);
}

static void on_signal(uv_signal_t *handle, int number)
{
    node *n = handle->data;
    fs_log_info("stopping", "signal=%d", number);
    stop(n, 0);
}

/* ---- starting ---- */

static void on_refused(uv_timer_t *timer)
{
    stop(timer->data, 1);
}

/* The member has logged it. */
static void on_state(void *arg, bool registered, fs_rpc_code code, const char *text)
{
    node *n = arg;
    if (registered && !n->announced) fs_process_ready("fabric", n->bound);
    n->announced |= registered;
    /* The same again would be refused again. From the loop: this is the member's own callback. */
    if (code == FS_RPC_INVALID_ARGUMENT && !registered) uv_timer_start(&n->drain_timer, on_refused, 0, 0);
}

static fs_status start_store(node *n, fs_detail *detail)
{
    fs_store_options options = {.dir = n->options.member.model,
                                .memory_bytes = n->options.memory_bytes,
                                .policy = (fs_cache_policy)n->options.cache,
                                .load_threads = n->options.load_threads,
                                .on_change = on_store_change,
                                .arg = n};
    return fs_store_create(&n->loop, &options, &n->store, detail);
}

/* "cuda" or "cuda:N". false: neither. */
static bool parse_cuda(const char *text, uint32_t *index)
{
    char *end = NULL;
    *index = 0;
    if (strcmp(text, "cuda") == 0) return true;
    if (strncmp(text, "cuda:", 5) != 0 || text[5] < '0' || text[5] > '9') return false;
    unsigned long n = strtoul(text + 5, &end, 10);
    *index = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
    return *end == 0;
}

/* *out stays NULL where the CPU is to compute. */
static fs_status open_driver(const char *device, fs_gpu_driver **out, fs_detail *detail)
{
    uint32_t index = 0;
    fs_detail why = {0};
    if (strcmp(device, "cpu") == 0) return FS_OK;
    if (strcmp(device, "emulated") == 0) return fs_gpu_open_emulated(&(fs_gpu_emulation){0}, out, detail);
    if (parse_cuda(device, &index)) {
        fs_status st = fs_gpu_open_cuda(index, NULL, out, detail);
        return st == FS_OK ? st : fs_fail_in(detail, st, "--device %s", device);
    }
    if (strcmp(device, "auto") != 0)
        return fs_fail(detail, FS_INVALID, "--device: '%s' is none of auto, cpu, cuda, cuda:N, emulated",
                       device);
    if (fs_gpu_open_cuda(0, NULL, out, &why) != FS_OK) fs_log_debug("no_device", "text=\"%s\"", why.text);
    return FS_OK;
}

static fs_status start_device(node *n, fs_detail *detail)
{
    fs_gpu_driver *driver = NULL;
    const fs_offload_options options = {.num_keys = fs_store_num_experts(n->store),
                                        .memory_bytes = n->options.device_memory_bytes};
    fs_status st = open_driver(n->options.device, &driver, detail);
    if (st == FS_OK && driver) st = fs_offload_create(driver, &options, &n->device, detail);
    if (st != FS_OK || !n->device) return st;
    const fs_gpu_driver *d = fs_offload_driver(n->device);
    fs_log_info("device", "name=\"%s\" multiprocessors=%u memory_bytes=%" PRIu64, d->name, d->num_sms,
                d->memory_bytes);
    return FS_OK;
}

static fs_status start_fabric(node *n, const uint8_t key[FS_CLUSTER_KEY_BYTES], fs_detail *detail)
{
    fs_fabric_options options;
    fs_fabric_options_init(&options);
    options.name = n->options.member.name;
    memcpy(options.key, key, FS_FABRIC_KEY_BYTES);
    options.handlers = (fs_fabric_handlers){on_up, on_down, on_message, on_writable, n};
    fs_exec_options exec = {.port = &fs_exec_fabric,
                            .store = n->store,
                            .threads = n->options.member.threads,
                            .numa = n->numa,
                            .inline_ns = (uint64_t)n->options.inline_ns,
                            .split_ns = (uint64_t)n->options.split_ns,
                            .device = n->device,
                            .queue_rows = n->options.queue_rows,
                            .queue_dispatches = n->options.queue_dispatches,
                            .max_message = options.max_message};
    fs_status st = fs_exec_create(&n->loop, &exec, &n->exec);
    if (st != FS_OK) return fs_fail(detail, st, "cannot start %u compute threads", n->options.member.threads);
    st = fs_fabric_create(&n->loop, &options, &n->fabric, detail);
    if (st == FS_OK) st = fs_fabric_listen(n->fabric, n->options.member.listen, n->bound, detail);
    return st;
}

static fs_status start_member(node *n, fs_detail *detail)
{
    fs_status st = fs_rpc_create(&n->loop, &n->rpc);
    if (st != FS_OK) return fs_fail(detail, st, "cannot start gRPC");
    const fs_model_config *config = fs_store_config(n->store);
    char name[FS_MODEL_NAME_BYTES];
    fs_model_name(n->options.member.model, name);
    Foresight__V1__RegisterRequest self = FORESIGHT__V1__REGISTER_REQUEST__INIT;
    self.name = (char *)n->options.member.name;
    self.kind = FORESIGHT__V1__MEMBER_KIND__MEMBER_KIND_EXPERT_NODE;
    self.address = n->options.member.advertise ? (char *)n->options.member.advertise : n->bound;
    self.rack = (char *)n->options.member.rack;
    self.model_fingerprint = fs_store_fingerprint(n->store);
    self.model_name = name;
    self.num_moe_layers = config->num_moe_layers;
    self.num_experts = config->num_experts;
    self.capacity_bytes = n->options.memory_bytes;
    self.expert_bytes = fs_store_expert_bytes(n->store);
    fs_member_options options = {.rpc = n->rpc,
                                 .coordinator = n->options.member.coordinator,
                                 .credentials = {.insecure = true},
                                 .self = &self,
                                 .on_placement = on_placement,
                                 .fill_heartbeat = fill_heartbeat,
                                 .on_state = on_state,
                                 .arg = n};
    return fs_member_create(&n->loop, &options, &n->member, detail);
}

static void start_handles(node *n)
{
    FS_ASSERT(uv_loop_init(&n->loop) == 0);
    FS_ASSERT(uv_timer_init(&n->loop, &n->drain_timer) == 0 && uv_timer_init(&n->loop, &n->watchdog) == 0);
    FS_ASSERT(uv_signal_init(&n->loop, &n->term) == 0 && uv_signal_init(&n->loop, &n->interrupt) == 0);
    n->drain_timer.data = n->watchdog.data = n->term.data = n->interrupt.data = n;
    FS_ASSERT(uv_signal_start(&n->term, on_signal, SIGTERM) == 0);
    FS_ASSERT(uv_signal_start(&n->interrupt, on_signal, SIGINT) == 0);
}

static fs_status start(node *n, const uint8_t key[FS_CLUSTER_KEY_BYTES], fs_detail *detail)
{
    fs_status st = start_store(n, detail);
    if (st == FS_OK) st = start_device(n, detail);
    if (st == FS_OK) st = start_fabric(n, key, detail);
    if (st == FS_OK) st = start_member(n, detail);
    if (st != FS_OK) return st;
    fs_log_info("started", "model=%s fabric=%s threads=%u isa=%s experts=%u fingerprint=%016" PRIx64,
                n->options.member.model, n->bound, n->options.member.threads, fs_isa_name(fs_isa_best()),
                fs_store_num_experts(n->store), fs_store_fingerprint(n->store));
    return FS_OK;
}

static int run(node *n, const uint8_t key[FS_CLUSTER_KEY_BYTES])
{
    fs_detail detail = {0};
    signal(SIGPIPE, SIG_IGN);
    start_handles(n);
    if (n->options.numa == FS_NUMA_AUTO) n->numa = fs_numa_create(n->options.member.threads);
    /* The threads that load experts inherit it; those that compute are bound. */
    fs_numa_interleave_thread(n->numa);
    fs_status st = start(n, key, &detail);
    if (st != FS_OK) {
        fs_log_error("start_failed", "status=%s detail=\"%s\"", fs_status_name(st), detail.text);
        stop(n, 1);
    }
    uv_run(&n->loop, UV_RUN_DEFAULT);
    FS_ASSERT(uv_loop_close(&n->loop) == 0);
    fs_offload_destroy(n->device);
    fs_numa_destroy(n->numa);
    fs_log_info("stopped", "code=%d", n->exit_code);
    return n->exit_code;
}

int main(int argc, char **argv)
{
    static node n;
    fs_conf *conf = NULL;
    uint8_t key[FS_CLUSTER_KEY_BYTES];
    int code = fs_member_begin(&fs_node_spec, argc, argv, &n.options, &n.options.member, "expert",
                               fs_isa_check, key, &conf);
    if (code != FS_MEMBER_GO_ON) return code;
    code = run(&n, key);
    fs_conf_destroy(conf);
    return code;
}
