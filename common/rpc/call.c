/* common/rpc/call.c: one call being served: its request, what is sent back, how it ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <grpc/support/alloc.h>

#include "base/log.h"
#include "rpc/call_int.h"

fs_rpc_call *fs_rpc_call_create(fs_rpc_server *server)
{
    fs_rpc_call *call = calloc(1, sizeof(*call));
    if (!call) return NULL;
    call->server = server;
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    call->text = grpc_empty_slice();
    return call;
}

static void drop_outgoing(fs_rpc_call *call)
{
    /* What gRPC has is freed when its tag comes back. */
    fs_rpc_outgoing **link = call->sending && call->first ? &call->first->next : &call->first;
    while (*link) {
        fs_rpc_outgoing *o = *link;
        *link = o->next;
        call->queued_bytes -= o->size;
        grpc_byte_buffer_destroy(o->buffer);
        free(o);
    }
    call->last = call->first;
}

void fs_rpc_call_free(fs_rpc_call *call)
{
    drop_outgoing(call);
    for (size_t i = 0; i < call->num_trailers; i++) {
        grpc_slice_unref(call->trailers[i].key);
        grpc_slice_unref(call->trailers[i].value);
    }
    free(call->trailers);
    grpc_slice_unref(call->text);
    gpr_free(call->peer);
    if (call->grpc) grpc_call_unref(call->grpc);
    grpc_metadata_array_destroy(&call->metadata);
    grpc_call_details_destroy(&call->details);
    fs_rpc_strings_free(&call->strings);
    free(call);
}

/* ---- what comes back from gRPC ---- */

static void start_batch(fs_rpc_call *call, const grpc_op *ops, size_t num_ops, fs_rpc_tag *tag,
                        void (*done)(fs_rpc_tag *tag, bool ok))
{
    call->tags_out++;
    fs_rpc_batch(call->server->rpc, call->grpc, ops, num_ops, tag, done);
}

static void end_call(fs_rpc_call *call, bool cancelled)
{
    if (call->ended) return;
    call->ended = true;
    drop_outgoing(call);
    if (call->on_end) call->on_end(call->on_end_arg, call, cancelled);
}

static void tag_came(fs_rpc_call *call)
{
    if (--call->tags_out > 0) return;
    call->server->num_calls--;
    fs_rpc_call_free(call);
}

/* The call is over for both sides. */
static void on_closed(fs_rpc_tag *tag, bool ok)
{
    fs_rpc_call *call = FS_RPC_OWNER(tag, fs_rpc_call, close_tag);
    end_call(call, call->cancelled || !call->sent_status);
    tag_came(call);
}

/* ---- the request ---- */

static void ask_request(fs_rpc_call *call)
{
    fs_rpc_server *server = call->server;
    call->request_due_ns = fs_clock_now(fs_clock_system()) + server->options.request_ms * FS_NS_PER_MS;
    call->previous_asked = server->last_asked;
    *(server->last_asked ? &server->last_asked->next_asked : &server->first_asked) = call;
    server->last_asked = call;
    fs_rpc_watch_requests(server->rpc);
}

static void asked_no_more(fs_rpc_call *call)
{
    fs_rpc_server *server = call->server;
    *(call->previous_asked ? &call->previous_asked->next_asked : &server->first_asked) = call->next_asked;
    *(call->next_asked ? &call->next_asked->previous_asked : &server->last_asked) = call->previous_asked;
    call->next_asked = call->previous_asked = NULL;
}

bool fs_rpc_calls_look(fs_rpc_server *server)
{
    int64_t now_ns = fs_clock_now(fs_clock_system());
    for (fs_rpc_call *c = server->first_asked; c && c->request_due_ns <= now_ns; c = c->next_asked)
        grpc_call_cancel_with_status(c->grpc, GRPC_STATUS_DEADLINE_EXCEEDED,
                                     "the call's request message did not come in time", NULL);
    return server->first_asked != NULL; /* the cancelled ones go when their tags come */
}

static void on_request(fs_rpc_tag *tag, bool ok)
{
    fs_rpc_call *call = FS_RPC_OWNER(tag, fs_rpc_call, request_tag);
    asked_no_more(call);
    grpc_byte_buffer *request = call->request;
    call->request = NULL;
    fs_rpc_bytes bytes;
    if (call->ended || call->finishing) {
        /* Left, or refused: nobody waits for it. */
    } else if (!ok || !request) {
        fs_rpc_call_finish(call, FS_RPC_INVALID_ARGUMENT, "the call has no request message");
    } else if (!fs_rpc_bytes_init(&bytes, request)) {
        fs_rpc_call_finish(call, FS_RPC_INVALID_ARGUMENT, "the request message cannot be decompressed");
    } else {
        call->method->handler(call->method->arg, call, bytes.data, bytes.size);
        fs_rpc_bytes_fini(&bytes);
    }
    if (request) grpc_byte_buffer_destroy(request);
    tag_came(call);
}

void fs_rpc_call_begin(fs_rpc_call *call, const fs_rpc_method *method)
{
    fs_rpc_server *server = call->server;
    call->method = method;
    call->deadline_ns = fs_rpc_ns_of(call->details.deadline);
    bool full = server->num_calls >= server->options.max_calls;
    server->num_calls++;
    grpc_op close_op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
                        .data.recv_close_on_server.cancelled = &call->cancelled};
    start_batch(call, &close_op, 1, &call->close_tag, on_closed);
    if (server->rpc->closing) {
        grpc_call_cancel_with_status(call->grpc, GRPC_STATUS_UNAVAILABLE, "the server is shutting down",
                                     NULL);
    } else if (!method) {
        char text[256];
        const grpc_slice path = call->details.method;
        size_t size = GRPC_SLICE_LENGTH(path) < 200 ? GRPC_SLICE_LENGTH(path) : 200;
        snprintf(text, sizeof(text), "no method %.*s", (int)size, (const char *)GRPC_SLICE_START_PTR(path));
        fs_rpc_call_finish(call, FS_RPC_UNIMPLEMENTED, text);
    } else if (full) {
        fs_rpc_call_finish(call, FS_RPC_RESOURCE_EXHAUSTED,
                           "as many calls are being served as may be (max_calls)");
    } else {
        grpc_op request_op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->request};
        ask_request(call);
        start_batch(call, &request_op, 1, &call->request_tag, on_request);
    }
}

/* ---- sending ---- */

static void send_more(fs_rpc_call *call);

static void on_sent(fs_rpc_tag *tag, bool ok)
{
    fs_rpc_call *call = FS_RPC_OWNER(tag, fs_rpc_call, send_tag);
    fs_rpc_outgoing *o = call->first;
    call->sending = false;
    if (o) {
        call->first = o->next;
        if (!call->first) call->last = NULL;
        call->queued_bytes -= o->size;
        grpc_byte_buffer_destroy(o->buffer);
        free(o);
    }
    if (ok && !call->ended)
        send_more(call);
    else
        drop_outgoing(call); /* the call broke: its close tag is on the way */
    tag_came(call);
}

/* One batch at a time, as gRPC wants it: the next message, and the status once it is the last. */
static void send_more(fs_rpc_call *call)
{
    if (call->sending || call->sent_status || call->ended) return;
    grpc_op ops[3] = {0};
    size_t n = 0;
    fs_rpc_outgoing *o = call->first;
    bool status = call->finishing && (!o || !o->next);
    if (!o && !status) return;
    if (!call->began_sending) ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
    call->began_sending = true;
    if (o) {
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n++].data.send_message.send_message = o->buffer;
    }
    if (status) {
        ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        ops[n].data.send_status_from_server.status = (grpc_status_code)call->code;
        ops[n].data.send_status_from_server.status_details = &call->text;
        ops[n].data.send_status_from_server.trailing_metadata = call->trailers;
        ops[n++].data.send_status_from_server.trailing_metadata_count = call->num_trailers;
    }
    call->sent_status = status;
    call->sending = true;
    start_batch(call, ops, n, &call->send_tag, on_sent);
}

fs_status fs_rpc_call_send_slice(fs_rpc_call *call, grpc_slice slice)
{
    fs_status st = FS_CANCELLED;
    size_t size = GRPC_SLICE_LENGTH(slice);
    if (call->ended || call->finishing) goto out;
    /* A single message may be larger: the bound is on what piles up. */
    if (call->first && call->queued_bytes + size > call->server->options.send_bytes) {
        fs_log_warn("rpc_slow_reader", "method=\"%s\" peer=\"%s\" queued_bytes=%llu", call->method->path,
                    fs_rpc_call_peer(call), (unsigned long long)call->queued_bytes);
        grpc_call_cancel_with_status(call->grpc, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                     "the client does not read what it asked for", NULL);
        st = FS_EXHAUSTED;
        goto out;
    }
    fs_rpc_outgoing *o = calloc(1, sizeof(*o));
    if (!o) {
        st = FS_NO_MEMORY;
        goto out;
    }
    o->buffer = grpc_raw_byte_buffer_create(&slice, 1);
    o->size = size;
    call->queued_bytes += size;
    if (call->last)
        call->last->next = o;
    else
        call->first = o;
    call->last = o;
    send_more(call);
    st = FS_OK;
out:
    grpc_slice_unref(slice);
    return st;
}

fs_status fs_rpc_call_send(fs_rpc_call *call, const uint8_t *message, size_t size)
{
    if (call->ended || call->finishing) return FS_CANCELLED;
    return fs_rpc_call_send_slice(call, grpc_slice_from_copied_buffer((const char *)message, size));
}

void fs_rpc_call_finish(fs_rpc_call *call, fs_rpc_code code, const char *text)
{
    if (call->ended || call->finishing) return;
    call->finishing = true;
    call->code = code;
    if (text) call->text = grpc_slice_from_copied_string(text);
    send_more(call);
}

void fs_rpc_call_trailer(fs_rpc_call *call, const char *key, const char *value)
{
    if (call->ended || call->finishing) return;
    grpc_slice k = grpc_slice_from_copied_string(key), v = grpc_slice_from_copied_string(value);
    grpc_metadata *more = NULL;
    bool legal = grpc_header_key_is_legal(k) && !grpc_is_binary_header(k) &&
                 grpc_header_nonbin_value_is_legal(v);
    if (legal) more = realloc(call->trailers, (call->num_trailers + 1) * sizeof(*more));
    if (!more) {
        fs_log_warn("rpc_trailer_dropped", "key=\"%s\" value=\"%s\"", key, value);
        grpc_slice_unref(k);
        grpc_slice_unref(v);
        return;
    }
    call->trailers = more;
    memset(&more[call->num_trailers], 0, sizeof(*more));
    more[call->num_trailers].key = k;
    more[call->num_trailers++].value = v;
}

void fs_rpc_call_on_end(fs_rpc_call *call, void (*on_end)(void *arg, fs_rpc_call *call, bool cancelled),
                        void *arg)
{
    call->on_end = on_end;
    call->on_end_arg = arg;
}

/* ---- what the client said of itself ---- */

int64_t fs_rpc_call_deadline_ns(const fs_rpc_call *call)
{
    return call->deadline_ns;
}

const char *fs_rpc_call_metadata(const fs_rpc_call *call, const char *key)
{
    /* The strings are a cache: the call seems the same to its user. */
    return fs_rpc_metadata_find(&call->metadata, key, &((fs_rpc_call *)call)->strings);
}

const char *fs_rpc_call_peer(const fs_rpc_call *call)
{
    fs_rpc_call *c = (fs_rpc_call *)call;
    if (!c->peer) c->peer = grpc_call_get_peer(c->grpc);
    return c->peer ? c->peer : "";
}
