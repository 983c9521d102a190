/* common/rpc/rpc.c: the library as one process uses it: the completion queue, the thread that pumps it, and the way back to the loop. */
#include "rpc/rpc.h"

#include <grpc/support/log.h>
#include <stdlib.h>

#include "base/log.h"
#include "rpc/rpc_int.h"

enum {
    REQUEST_LOOK_MS = 250,
    MAX_A_WAKE = 256, /* events handled before the loop may look at other things */
    CLOSE_WAIT_MS = 5000
};

/* gRPC writes to standard error by itself otherwise, errors that we report in our own words. */
static void log_grpc(gpr_log_func_args *args)
{
    fs_log_debug("grpc", "file=\"%s\" line=%d text=\"%s\"", args->file, args->line, args->message);
}

static void pump(void *arg)
{
    fs_rpc *rpc = arg;
    for (;;) {
        grpc_event event = grpc_completion_queue_next(rpc->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_TIMEOUT) continue;
        uv_mutex_lock(&rpc->lock);
        bool end = event.type == GRPC_QUEUE_SHUTDOWN;
        if (end) {
            rpc->pump_ended = true;
        } else {
            fs_rpc_tag *tag = event.tag;
            tag->ok = event.success != 0;
            tag->next = NULL;
            if (rpc->last)
                rpc->last->next = tag;
            else
                rpc->first = tag;
            rpc->last = tag;
        }
        /* Under the lock: the loop closes the handle only after it saw pump_ended. */
        uv_async_send(&rpc->wake);
        uv_mutex_unlock(&rpc->lock);
        if (end) return;
    }
}

static fs_rpc_tag *take_event(fs_rpc *rpc, bool *ended)
{
    uv_mutex_lock(&rpc->lock);
    fs_rpc_tag *tag = rpc->first;
    if (tag) rpc->first = tag->next;
    if (!rpc->first) rpc->last = NULL;
    *ended = !tag && rpc->pump_ended;
    uv_mutex_unlock(&rpc->lock);
    return tag;
}

static void on_handle_closed(uv_handle_t *handle)
{
    fs_rpc *rpc = handle->data;
    if (--rpc->handles_open > 0) return;
    void (*done)(void *) = rpc->close_done;
    void *arg = rpc->close_arg;
    uv_mutex_destroy(&rpc->lock);
    free(rpc);
    if (done) done(arg);
}

/* Nothing of gRPC's is under way any more and the thread has left its loop. */
static void finish_close(fs_rpc *rpc)
{
    uv_thread_join(&rpc->pump);
    fs_rpc_servers_free(rpc);
    fs_rpc_channels_free(rpc);
    grpc_completion_queue_destroy(rpc->cq);
    grpc_shutdown_blocking();
    rpc->handles_open = 3;
    uv_close((uv_handle_t *)&rpc->request_timer, on_handle_closed);
    uv_close((uv_handle_t *)&rpc->wake, on_handle_closed);
    uv_close((uv_handle_t *)&rpc->close_timer, on_handle_closed);
}

static void shut_queue_if_idle(fs_rpc *rpc)
{
    if (!rpc->closing || rpc->queue_shut || rpc->in_flight > 0) return;
    rpc->queue_shut = true;
    grpc_completion_queue_shutdown(rpc->cq);
}

static void on_wake(uv_async_t *wake)
{
    fs_rpc *rpc = wake->data;
    bool ended = false;
    for (uint32_t n = 0; n < MAX_A_WAKE; n++) {
        fs_rpc_tag *tag = take_event(rpc, &ended);
        if (!tag) break;
        bool ok = tag->ok;
        rpc->in_flight--;
        tag->done(tag, ok);
        if (n + 1 == MAX_A_WAKE) uv_async_send(&rpc->wake);
    }
    shut_queue_if_idle(rpc);
    if (ended) finish_close(rpc);
}

/* gRPC keeps operations that we cancelled: its memory cannot be taken back, but the process can go on to its end. */
static void on_close_timer(uv_timer_t *timer)
{
    fs_rpc *rpc = timer->data;
    fs_log_error("rpc_close_stuck", "in_flight=%u waited_ms=%d", rpc->in_flight, CLOSE_WAIT_MS);
    void (*done)(void *) = rpc->close_done;
    rpc->close_done = NULL;
    if (done) done(rpc->close_arg);
}

static void on_request_timer(uv_timer_t *timer)
{
    if (!fs_rpc_servers_look(timer->data)) uv_timer_stop(timer);
}

/* A look now and then is cheaper than a timer a call: nearly every request comes with its call. */
void fs_rpc_watch_requests(fs_rpc *rpc)
{
    if (!uv_is_active((uv_handle_t *)&rpc->request_timer))
        uv_timer_start(&rpc->request_timer, on_request_timer, REQUEST_LOOK_MS, REQUEST_LOOK_MS);
}

fs_status fs_rpc_create(uv_loop_t *loop, fs_rpc **out)
{
    fs_rpc *rpc = calloc(1, sizeof(*rpc));
    if (!rpc) return FS_NO_MEMORY;
    rpc->loop = loop;
    if (uv_mutex_init(&rpc->lock) != 0) goto no_mutex;
    if (uv_async_init(loop, &rpc->wake, on_wake) != 0) goto no_async;
    FS_ASSERT(uv_timer_init(loop, &rpc->close_timer) == 0);
    FS_ASSERT(uv_timer_init(loop, &rpc->request_timer) == 0);
    rpc->wake.data = rpc->close_timer.data = rpc->request_timer.data = rpc;
    gpr_set_log_function(log_grpc);
    grpc_init();
    rpc->cq = grpc_completion_queue_create_for_next(NULL);
    /* Threads are refused only where the process may not have one more; nothing could be served then. */
    FS_ASSERT(uv_thread_create(&rpc->pump, pump, rpc) == 0);
    *out = rpc;
    return FS_OK;
no_async:
    uv_mutex_destroy(&rpc->lock);
no_mutex:
    free(rpc);
    return FS_NO_MEMORY;
}

void fs_rpc_close(fs_rpc *rpc, void (*done)(void *arg), void *arg)
{
    FS_ASSERT(!rpc->closing);
    rpc->closing = true;
    rpc->close_done = done;
    rpc->close_arg = arg;
    uv_timer_start(&rpc->close_timer, on_close_timer, CLOSE_WAIT_MS, 0);
    fs_rpc_servers_stop(rpc);
    fs_rpc_channels_stop(rpc);
    shut_queue_if_idle(rpc);
}

fs_rpc_tag *fs_rpc_arm(fs_rpc *rpc, fs_rpc_tag *tag, void (*done)(fs_rpc_tag *tag, bool ok))
{
    /* The pump's next lock comes after this one, so that it sees the tag as it is here. */
    uv_mutex_lock(&rpc->lock);
    tag->done = done;
    tag->next = NULL;
    uv_mutex_unlock(&rpc->lock);
    rpc->in_flight++;
    return tag;
}

void fs_rpc_batch(fs_rpc *rpc, grpc_call *call, const grpc_op *ops, size_t num_ops, fs_rpc_tag *tag,
                  void (*done)(fs_rpc_tag *tag, bool ok))
{
    grpc_call_error error = grpc_call_start_batch(call, ops, num_ops, fs_rpc_arm(rpc, tag, done), NULL);
    if (error != GRPC_CALL_OK) fs_log_error("grpc_batch", "error=\"%s\"", grpc_call_error_to_string(error));
    FS_ASSERT(error == GRPC_CALL_OK);
}

/* ---- codes ---- */

const char *fs_rpc_code_name(fs_rpc_code code)
{
    static const char *const names[] = {
        "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
        "DATA_LOSS", "UNAUTHENTICATED"};
    return (unsigned)code < sizeof(names) / sizeof(names[0]) ? names[code] : "UNKNOWN";
}

fs_rpc_code fs_rpc_code_of(fs_status status)
{
    switch (status) {
    case FS_OK: return FS_RPC_OK;
    case FS_UNAVAILABLE:
    case FS_MOVED: return FS_RPC_UNAVAILABLE;
    case FS_EXHAUSTED:
    case FS_NO_MEMORY: return FS_RPC_RESOURCE_EXHAUSTED;
    case FS_INVALID: return FS_RPC_INVALID_ARGUMENT;
    case FS_CORRUPT: return FS_RPC_DATA_LOSS;
    case FS_NOT_FOUND: return FS_RPC_NOT_FOUND;
    case FS_DENIED: return FS_RPC_PERMISSION_DENIED;
    case FS_UNSUPPORTED: return FS_RPC_UNIMPLEMENTED;
    case FS_DEADLINE: return FS_RPC_DEADLINE_EXCEEDED;
    case FS_CANCELLED: return FS_RPC_CANCELLED;
    default: return FS_RPC_INTERNAL;
    }
}
