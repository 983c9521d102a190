#include "rig_helper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t in_ms(int64_t ms)
{
    return fs_clock_now(fs_clock_system()) + ms * FS_NS_PER_MS;
}

static void on_end(void *arg, fs_rpc_call *call, bool cancelled)
{
    rig *r = arg;
    r->calls_ended++;
    r->calls_cancelled += cancelled;
    if (r->held == call) r->held = NULL;
}

static void echo(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    rig *r = arg;
    r->calls_begun++;
    r->deadline_ns = fs_rpc_call_deadline_ns(call);
    const char *agent = fs_rpc_call_metadata(call, "user-agent");
    snprintf(r->metadata, sizeof(r->metadata), "%s", agent ? agent : "");
    fs_rpc_call_on_end(call, on_end, r);
    fs_rpc_call_trailer(call, "retry-after-ms", "17");
    fs_rpc_call_trailer(call, "Not Legal", "x");
    r->last_send = fs_rpc_call_send(call, request, size);
    fs_rpc_call_finish(call, FS_RPC_OK, NULL);
    assert_int_equal(fs_rpc_call_send(call, request, size), FS_CANCELLED);
    fs_rpc_call_finish(call, FS_RPC_INTERNAL, "a second finish is ignored");
}

static void refuse(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    fs_rpc_call_trailer(call, "retry-after-ms", "250");
    fs_rpc_call_finish(call, FS_RPC_RESOURCE_EXHAUSTED, "the queue is full: 100 %");
}

static void count(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    rig *r = arg;
    r->calls_begun++;
    fs_rpc_call_on_end(call, on_end, r);
    char text[32];
    snprintf(text, sizeof(text), "%.*s", (int)(size < 20 ? size : 20), (const char *)request);
    for (int i = 0, n = atoi(text); i < n; i++) {
        int len = snprintf(text, sizeof(text), "%d", i);
        if (fs_rpc_call_send(call, (const uint8_t *)text, (size_t)len) != FS_OK) return;
    }
    fs_rpc_call_finish(call, FS_RPC_OK, "counted");
}

/* Answers never by itself: the test does. */
static void hold(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    rig *r = arg;
    r->calls_begun++;
    r->held = call;
    fs_rpc_call_on_end(call, on_end, r);
    assert_int_equal(fs_rpc_call_send(call, (const uint8_t *)"held", 4), FS_OK);
}

int rig_setup(void **state)
{
    rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    assert_int_equal(uv_loop_init(&r->loop), 0);
    uv_timer_init(&r->loop, &r->timer);
    r->timer.data = r;
    assert_int_equal(fs_rpc_create(&r->loop, &r->rpc), FS_OK);
    *state = r;
    return 0;
}

void rig_serve(rig *r, const fs_rpc_server_options *options)
{
    fs_rpc_server_options defaults;
    fs_rpc_server_options_init(&defaults);
    const fs_rpc_credentials insecure = {.insecure = true};
    const fs_rpc_method methods[] = {
        {"/t.T/Echo", echo, r}, {"/t.T/Refuse", refuse, r}, {"/t.T/Count", count, r}, {"/t.T/Hold", hold, r}};
    fs_detail detail = {0};
    fs_status st = fs_rpc_serve(r->rpc, "127.0.0.1:0", &insecure, options ? options : &defaults, methods, 4,
                                r->address, &r->server, &detail);
    assert_string_equal(detail.text, "");
    assert_int_equal(st, FS_OK);
    st = fs_rpc_channel_create(r->rpc, r->address, &insecure, 1u << 20, &r->channel, &detail);
    assert_int_equal(st, FS_OK);
}

static void client_message(void *arg, fs_rpc_request *request, const uint8_t *message, size_t size)
{
    outcome *o = arg;
    o->messages++;
    o->bytes += size;
    o->last_size = size;
    snprintf(o->last, sizeof(o->last), "%.*s", (int)(size < 60 ? size : 60), (const char *)message);
    if (o->messages == o->cancel_after) fs_rpc_cancel(request);
}

static void client_end(void *arg, fs_rpc_request *request, fs_rpc_code code, const char *text)
{
    outcome *o = arg;
    o->ends++;
    o->code = code;
    snprintf(o->text, sizeof(o->text), "%s", text);
    const char *trailer = fs_rpc_request_trailer(request, "retry-after-ms");
    snprintf(o->trailer, sizeof(o->trailer), "%s", trailer ? trailer : "");
}

void rig_start(rig *r, const char *path, const char *message, size_t size, int64_t deadline_ns, outcome *o,
               fs_rpc_request **out)
{
    const fs_rpc_client_handlers handlers = {client_message, client_end, o};
    assert_int_equal(
        fs_rpc_start(r->channel, path, (const uint8_t *)message, size, deadline_ns, &handlers, out), FS_OK);
}

static void on_timer(uv_timer_t *timer)
{
    ((rig *)timer->data)->timed_out = true;
}

void rig_until(rig *r, const uint32_t *value, uint32_t at_least)
{
    uv_timer_start(&r->timer, on_timer, 20000, 0);
    while (*value < at_least && !r->timed_out) uv_run(&r->loop, UV_RUN_ONCE);
    uv_timer_stop(&r->timer);
    assert_false(r->timed_out);
}

static void on_closed(void *arg)
{
    ++*(uint32_t *)arg;
}

void rig_close(rig *r)
{
    uint32_t closed = 0;
    fs_rpc_close(r->rpc, on_closed, &closed);
    rig_until(r, &closed, 1);
    r->rpc = NULL;
}

int rig_teardown(void **state)
{
    rig *r = *state;
    if (r->rpc) rig_close(r);
    uv_close((uv_handle_t *)&r->timer, NULL);
    while (uv_run(&r->loop, UV_RUN_DEFAULT)) continue;
    int rc = uv_loop_close(&r->loop);
    free(r);
    return rc;
}
