/* common/rpc/client.c: channels and the calls made on them. */
#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "rpc/rpc_int.h"

struct fs_rpc_channel {
    fs_rpc *rpc;
    fs_rpc_channel *next;
    grpc_channel *grpc; /* NULL once destroyed: it waits for its calls to come back */
    fs_rpc_request *requests;
};

struct fs_rpc_request {
    fs_rpc_channel *channel;
    fs_rpc_request *prev, *next;
    grpc_call *grpc;
    fs_rpc_client_handlers handlers;
    fs_rpc_tag start_tag, status_tag, message_tag;
    uint32_t tags_out;
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *message;
    grpc_status_code code;
    grpc_slice text;
    fs_rpc_string *strings;
    bool cancelled, has_status, has_all_messages, ended;
};

/* ---- channels ---- */

static grpc_channel *create_grpc_channel(const char *address, size_t max_message)
{
    grpc_arg args[] = {
        {GRPC_ARG_INTEGER, "grpc.max_receive_message_length", {.integer = (int)max_message}},
        {GRPC_ARG_INTEGER, "grpc.max_send_message_length", {.integer = -1}},
        {GRPC_ARG_INTEGER, "grpc.enable_retries", {.integer = 0}},
        /* A proxy of the environment is for the web, not for a cluster. */
        {GRPC_ARG_INTEGER, "grpc.enable_http_proxy", {.integer = 0}},
        {GRPC_ARG_INTEGER, "grpc.use_local_subchannel_pool", {.integer = 1}},
        {GRPC_ARG_INTEGER, "grpc.service_config_disable_resolution", {.integer = 1}},
        {GRPC_ARG_INTEGER, "grpc.keepalive_time_ms", {.integer = 8000}},
        {GRPC_ARG_INTEGER, "grpc.keepalive_timeout_ms", {.integer = 8000}},
        {GRPC_ARG_INTEGER, "grpc.http2.max_pings_without_data", {.integer = 0}},
        {GRPC_ARG_INTEGER, "grpc.initial_reconnect_backoff_ms", {.integer = 100}},
        {GRPC_ARG_INTEGER, "grpc.min_reconnect_backoff_ms", {.integer = 2000}},
        {GRPC_ARG_INTEGER, "grpc.max_reconnect_backoff_ms", {.integer = 2000}},
    };
    grpc_channel_args list = {sizeof(args) / sizeof(args[0]), args};
    grpc_channel_credentials *insecure = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, insecure, &list);
    grpc_channel_credentials_release(insecure);
    return channel;
}

fs_status fs_rpc_channel_create(fs_rpc *rpc, const char *address, const fs_rpc_credentials *credentials,
                                size_t max_message, fs_rpc_channel **out, fs_detail *detail)
{
    FS_ASSERT(!rpc->closing);
    if (!address || !strchr(address, ':'))
        return fs_fail(detail, FS_INVALID, "address '%s': not HOST:PORT", address ? address : "");
    if (!credentials->insecure)
        return fs_fail(detail, FS_UNSUPPORTED, "TLS is not built in yet: credentials must be insecure");
    if (max_message > INT32_MAX)
        return fs_fail(detail, FS_INVALID, "max_message %zu is over %d", max_message, INT32_MAX);
    fs_rpc_channel *channel = calloc(1, sizeof(*channel));
    if (!channel) return FS_NO_MEMORY;
    channel->rpc = rpc;
    channel->grpc = create_grpc_channel(address, max_message ? max_message : 64u << 20);
    channel->next = rpc->channels;
    rpc->channels = channel;
    *out = channel;
    return FS_OK;
}

static void free_channel(fs_rpc_channel *channel)
{
    fs_rpc_channel **link = &channel->rpc->channels;
    while (*link != channel) link = &(*link)->next;
    *link = channel->next;
    if (channel->grpc) grpc_channel_destroy(channel->grpc);
    free(channel);
}

/* While the library closes channels stay until its end: who owns one may still let go of it. */
static void free_channel_if_done(fs_rpc_channel *channel)
{
    if (!channel->grpc && !channel->requests && !channel->rpc->closing) free_channel(channel);
}

static void cancel_requests(fs_rpc_channel *channel)
{
    for (fs_rpc_request *r = channel->requests; r; r = r->next) fs_rpc_cancel(r);
}

void fs_rpc_channel_destroy(fs_rpc_channel *channel)
{
    if (!channel || !channel->grpc) return;
    cancel_requests(channel);
    grpc_channel_destroy(channel->grpc);
    channel->grpc = NULL;
    free_channel_if_done(channel);
}

void fs_rpc_channels_stop(fs_rpc *rpc)
{
    for (fs_rpc_channel *c = rpc->channels; c; c = c->next) cancel_requests(c);
}

void fs_rpc_channels_free(fs_rpc *rpc)
{
    while (rpc->channels) free_channel(rpc->channels);
}

/* ---- calls ---- */

static void free_request(fs_rpc_request *r)
{
    fs_rpc_channel *channel = r->channel;
    if (r->prev)
        r->prev->next = r->next;
    else
        channel->requests = r->next;
    if (r->next) r->next->prev = r->prev;
    grpc_call_unref(r->grpc);
    grpc_metadata_array_destroy(&r->initial);
    grpc_metadata_array_destroy(&r->trailing);
    grpc_slice_unref(r->text);
    fs_rpc_strings_free(&r->strings);
    free(r);
    free_channel_if_done(channel);
}

static void start_batch(fs_rpc_request *r, const grpc_op *ops, size_t num_ops, fs_rpc_tag *tag,
                        void (*done)(fs_rpc_tag *tag, bool ok))
{
    r->tags_out++;
    fs_rpc_batch(r->channel->rpc, r->grpc, ops, num_ops, tag, done);
}

/* The end is told after the last message, whatever the order in which gRPC hands them over. */
static void tag_came(fs_rpc_request *r)
{
    r->tags_out--;
    if (r->has_status && r->has_all_messages && !r->ended) {
        r->ended = true;
        const char *text = fs_rpc_strings_keep(&r->strings, r->text);
        if (r->handlers.on_end)
            r->handlers.on_end(r->handlers.arg, r, (fs_rpc_code)r->code, text ? text : "");
    }
    if (r->tags_out == 0) free_request(r);
}

static void on_started(fs_rpc_tag *tag, bool ok)
{
    tag_came(FS_RPC_OWNER(tag, fs_rpc_request, start_tag));
}

static void on_status(fs_rpc_tag *tag, bool ok)
{
    fs_rpc_request *r = FS_RPC_OWNER(tag, fs_rpc_request, status_tag);
    r->has_status = true;
    tag_came(r);
}

static void receive_next(fs_rpc_request *r);

static void on_message(fs_rpc_tag *tag, bool ok)
{
    fs_rpc_request *r = FS_RPC_OWNER(tag, fs_rpc_request, message_tag);
    grpc_byte_buffer *message = r->message;
    r->message = NULL;
    if (!ok || !message) {
        r->has_all_messages = true;
    } else {
        fs_rpc_bytes bytes;
        if (!r->cancelled && r->handlers.on_message && fs_rpc_bytes_init(&bytes, message)) {
            r->handlers.on_message(r->handlers.arg, r, bytes.data, bytes.size);
            fs_rpc_bytes_fini(&bytes);
        }
        receive_next(r);
    }
    if (message) grpc_byte_buffer_destroy(message);
    tag_came(r);
}

static void receive_next(fs_rpc_request *r)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &r->message};
    start_batch(r, &op, 1, &r->message_tag, on_message);
}

static void begin(fs_rpc_request *r, const uint8_t *message, size_t size)
{
    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)message, size);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_op start[4] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer},
                        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
                        {.op = GRPC_OP_RECV_INITIAL_METADATA,
                         .data.recv_initial_metadata.recv_initial_metadata = &r->initial}};
    start_batch(r, start, 4, &r->start_tag, on_started);
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                      .data.recv_status_on_client = {
                          .trailing_metadata = &r->trailing, .status = &r->code, .status_details = &r->text}};
    start_batch(r, &status, 1, &r->status_tag, on_status);
    receive_next(r);
    grpc_byte_buffer_destroy(buffer); /* gRPC has taken its slices */
    grpc_slice_unref(slice);
}

fs_status fs_rpc_start(fs_rpc_channel *channel, const char *path, const uint8_t *message, size_t size,
                       int64_t deadline_ns, const fs_rpc_client_handlers *handlers, fs_rpc_request **out)
{
    if (channel->rpc->closing || !channel->grpc) return FS_CANCELLED;
    if (!path || path[0] != '/') return FS_INVALID;
    fs_rpc_request *r = calloc(1, sizeof(*r));
    if (!r) return FS_NO_MEMORY;
    r->channel = channel;
    r->handlers = *handlers;
    r->text = grpc_empty_slice();
    grpc_metadata_array_init(&r->initial);
    grpc_metadata_array_init(&r->trailing);
    grpc_slice method = grpc_slice_from_copied_string(path);
    r->grpc = grpc_channel_create_call(channel->grpc, NULL, GRPC_PROPAGATE_DEFAULTS, channel->rpc->cq, method,
                                       NULL, fs_rpc_timespec_of(deadline_ns), NULL);
    grpc_slice_unref(method);
    r->next = channel->requests;
    if (r->next) r->next->prev = r;
    channel->requests = r;
    begin(r, message, size);
    if (out) *out = r;
    return FS_OK;
}

void fs_rpc_cancel(fs_rpc_request *r)
{
    if (!r || r->ended) return;
    r->cancelled = true;
    (void)grpc_call_cancel(r->grpc, NULL);
}

const char *fs_rpc_request_trailer(const fs_rpc_request *request, const char *key)
{
    /* The strings are a cache: the request seems the same to its user. */
    return fs_rpc_metadata_find(&request->trailing, key, &((fs_rpc_request *)request)->strings);
}
