/* coordinator/main.c: the coordinator process: it starts, ticks, and stops in order. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "coordinator.h"

enum { STUCK_MS = 10000 };

static const int64_t FORGET_NS = 300 *
                                 FS_NS_PER_S; /* routers and spares that fell silent are shown for so long */

void fs_coordinator_changed(fs_coordinator *co)
{
    fs_cluster_note notes[FS_CLUSTER_MAX_NOTES];
    uint32_t n = fs_cluster_take_notes(&co->cluster, notes);
    for (uint32_t i = 0; i < n; i++) {
        bool bad = notes[i].kind == FS_NOTE_LOST || notes[i].kind == FS_NOTE_EPOCH_RAISED;
        fs_log_at(bad ? FS_LOG_WARN : FS_LOG_INFO, fs_note_name(notes[i].kind), "name=\"%s\" epoch=%llu",
                  notes[i].name, (unsigned long long)co->cluster.epoch);
    }
    co->unsaved |= fs_cluster_take_changes(&co->cluster);
    fs_store_begin(co);
}

static void on_tick(uv_timer_t *timer)
{
    fs_coordinator *co = timer->data;
    fs_cluster_tick(&co->cluster, fs_clock_now(fs_clock_system()));
    fs_coordinator_changed(co);
}

/* ---- stopping: calls end, what is unsaved is written, handles close ---- */

static void on_rpc_closed(void *arg)
{
    fs_coordinator *co = arg;
    fs_store_close(co);
    uv_close((uv_handle_t *)&co->tick, NULL);
    uv_close((uv_handle_t *)&co->watchdog, NULL);
    uv_close((uv_handle_t *)&co->term, NULL);
    uv_close((uv_handle_t *)&co->interrupt, NULL);
}

static void on_stuck(uv_timer_t *timer)
{
    fs_log_error("stop_timed_out", "waited_ms=%d", STUCK_MS);
    _exit(1);
}

static void stop(fs_coordinator *co, int exit_code)
{
    if (co->stopping) return;
    co->stopping = true;
    co->exit_code = exit_code;
    uv_timer_stop(&co->tick);
    uv_timer_start(&co->watchdog, on_stuck, STUCK_MS, 0);
    if (co->rpc)
        fs_rpc_close(co->rpc, on_rpc_closed, co);
    else
        on_rpc_closed(co);
}

static void on_signal(uv_signal_t *handle, int number)
{
    fs_log_info("stopping", "signal=%d", number);
    stop(handle->data, 0);
}

/* ---- starting ---- */

static void start_handles(fs_coordinator *co)
{
    FS_ASSERT(uv_loop_init(&co->loop) == 0);
    FS_ASSERT(uv_timer_init(&co->loop, &co->tick) == 0);
    FS_ASSERT(uv_timer_init(&co->loop, &co->watchdog) == 0);
    FS_ASSERT(uv_signal_init(&co->loop, &co->term) == 0);
    FS_ASSERT(uv_signal_init(&co->loop, &co->interrupt) == 0);
    co->tick.data = co->watchdog.data = co->term.data = co->interrupt.data = co;
    FS_ASSERT(uv_signal_start(&co->term, on_signal, SIGTERM) == 0);
    FS_ASSERT(uv_signal_start(&co->interrupt, on_signal, SIGINT) == 0);
}

static fs_status start_cluster(fs_coordinator *co, fs_detail *detail)
{
    const fs_cluster_options options = {.nodes_expected = co->options.expert_nodes,
                                        .num_replicas = co->options.replicas,
                                        .expire_ns = co->options.expire_ns,
                                        .forget_ns = FORGET_NS,
                                        .first_epoch = (uint64_t)(fs_wall_time_ns() / FS_NS_PER_S)};
    fs_status st = fs_cluster_init(&co->cluster, &options, co->started_ns, detail);
    return st == FS_OK ? fs_store_open(co, detail) : st;
}

static fs_status start_rpc(fs_coordinator *co, fs_detail *detail)
{
    fs_rpc_server_options options;
    fs_rpc_server_options_init(&options);
    options.max_calls = 4 * FS_CLUSTER_MAX_MEMBERS; /* each member's watch and heartbeat, and then some */
    options.send_bytes = 64u << 20;                 /* a few of the largest placements */
    options.max_message = 64u << 10;
    const fs_rpc_credentials credentials = {.insecure = true};
    fs_rpc_method methods[FS_CONTROL_METHODS];
    fs_control_methods(co, methods);
    fs_status st = fs_rpc_create(&co->loop, &co->rpc);
    if (st != FS_OK) return fs_fail(detail, st, "cannot start gRPC");
    st = fs_rpc_serve(co->rpc, co->options.listen, &credentials, &options, methods, FS_CONTROL_METHODS,
                      co->bound, &co->server, detail);
    return st == FS_OK ? st : fs_fail_in(detail, st, "--listen");
}

static fs_status start(fs_coordinator *co, fs_detail *detail)
{
    fs_status st = start_cluster(co, detail);
    if (st == FS_OK) st = start_rpc(co, detail);
    if (st != FS_OK) return st;
    uint64_t tick_ms = (uint64_t)(co->options.expire_ns / 8 / FS_NS_PER_MS);
    uv_timer_start(&co->tick, on_tick, tick_ms ? tick_ms : 1, tick_ms ? tick_ms : 1);
    fs_log_info("serving", "grpc=%s expert_nodes=%u replicas=%u data=\"%s\"", co->bound,
                co->options.expert_nodes, co->options.replicas, co->options.data);
    fs_process_ready("grpc", co->bound);
    return FS_OK;
}

static int run(fs_coordinator *co)
{
    fs_detail detail = {0};
    signal(SIGPIPE, SIG_IGN);
    co->started_ns = fs_clock_now(fs_clock_system());
    start_handles(co);
    fs_status st = start(co, &detail);
    if (st != FS_OK) {
        fs_log_error("start_failed", "status=%s detail=\"%s\"", fs_status_name(st), detail.text);
        stop(co, 1);
    }
    uv_run(&co->loop, UV_RUN_DEFAULT);
    FS_ASSERT(uv_loop_close(&co->loop) == 0);
    fs_cluster_fini(&co->cluster);
    return co->exit_code;
}

int main(int argc, char **argv)
{
    static fs_coordinator co;
    fs_detail detail = {0};
    fs_conf *conf = NULL;
    fs_conf_outcome outcome = FS_CONF_RUN;
    fs_status st = fs_conf_load(&fs_coordinator_spec, argc, argv, environ, &co.options, NULL, &conf, &outcome,
                                stdout, &detail);
    if (st == FS_OK && outcome == FS_CONF_EXIT) {
        fs_conf_destroy(conf);
        return 0;
    }
    if (st == FS_OK) st = fs_coordinator_options_check(&co.options, &detail);
    if (st != FS_OK) {
        fprintf(stderr, "foresight-coordinator: %s\n", detail.text);
        fs_conf_destroy(conf);
        return 2;
    }
    if (co.options.die_with_parent) fs_process_die_with_parent();
    fs_log_init((fs_log_level)co.options.common.log_level, (fs_log_format)co.options.common.log_format,
                "coordinator", "");
    int code = run(&co);
    fs_conf_destroy(conf);
    return code;
}
