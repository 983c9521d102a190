/* common/rpc/server.c: a listening server: its address, its methods, and the calls that it takes in. call.c serves them. */
#include <errno.h>
#include <grpc/grpc_security.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "rpc/call_int.h"

void fs_rpc_server_options_init(fs_rpc_server_options *options)
{
    *options = (fs_rpc_server_options){
        .max_message = 4u << 20, .max_calls = 4096, .request_ms = 10000, .send_bytes = 4u << 20};
}

/* ---- taking calls in ---- */

static void on_accepted(fs_rpc_tag *tag, bool ok);

/* One call is asked for at a time; gRPC keeps those that come meanwhile. */
static void accept_next(fs_rpc_server *server)
{
    fs_rpc *rpc = server->rpc;
    if (rpc->closing) return;
    fs_rpc_call *call = fs_rpc_call_create(server);
    if (!call) {
        /* gRPC itself ends the process where the heap has nothing left, so that this is no more than a way to say why. */
        fs_log_error("rpc_accept", "cause=\"no memory\"");
        return;
    }
    server->accepting = call;
    grpc_call_error error = grpc_server_request_call(server->grpc, &call->grpc, &call->details,
                                                     &call->metadata, rpc->cq, rpc->cq,
                                                     fs_rpc_arm(rpc, &server->accept_tag, on_accepted));
    FS_ASSERT(error == GRPC_CALL_OK);
}

static const fs_rpc_method *find_method(const fs_rpc_server *server, grpc_slice path)
{
    for (uint32_t i = 0; i < server->num_methods; i++)
        if (grpc_slice_str_cmp(path, server->methods[i].path) == 0) return &server->methods[i];
    return NULL;
}

static void on_accepted(fs_rpc_tag *tag, bool ok)
{
    fs_rpc_server *server = FS_RPC_OWNER(tag, fs_rpc_server, accept_tag);
    fs_rpc_call *call = server->accepting;
    server->accepting = NULL;
    if (!ok) { /* the server stops */
        fs_rpc_call_free(call);
        return;
    }
    accept_next(server);
    fs_rpc_call_begin(call, find_method(server, call->details.method));
}

/* ---- listening ---- */

/* Splits "HOST:PORT" and "[V6]:PORT": the length of the host part, or FS_INVALID. */
static fs_status split_address(const char *address, size_t *host_size, fs_detail *detail)
{
    const char *colon = address ? strrchr(address, ':') : NULL;
    if (!colon || colon == address)
        return fs_fail(detail, FS_INVALID, "address '%s': not HOST:PORT", address ? address : "");
    char *end = NULL;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || port > 65535)
        return fs_fail(detail, FS_INVALID, "address '%s': the port is not 0..65535", address);
    if (address[0] != '[' && memchr(address, ':', (size_t)(colon - address)))
        return fs_fail(detail, FS_INVALID, "address '%s': an IPv6 host stands in [brackets]", address);
    /* gRPC would take it, but nobody can connect to what we would say that we listen on. */
    if (address[0] == '*')
        return fs_fail(detail, FS_INVALID, "address '%s': all addresses are 0.0.0.0 or [::]", address);
    *host_size = (size_t)(colon - address);
    return FS_OK;
}

static fs_status refused(const char *address, int error, fs_detail *detail)
{
    fs_status st = error == EADDRINUSE ? FS_UNAVAILABLE : error == EACCES ? FS_DENIED : FS_INVALID;
    return fs_fail(detail, st, "cannot listen on %s: %s", address, strerror(error));
}

/* gRPC says only that it could not listen: tries once more by hand, for the reason. */
static fs_status why_not(const char *address, size_t host_size, fs_detail *detail)
{
    char host[256];
    bool v6 = address[0] == '[' && host_size >= 2;
    int len = (int)(v6 ? host_size - 2 : host_size);
    snprintf(host, sizeof(host), "%.*s", len, v6 ? address + 1 : address);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    int rc = getaddrinfo(host, address + host_size + 1, &hints, &list);
    if (rc != 0) return fs_fail(detail, FS_INVALID, "cannot listen on %s: %s", address, gai_strerror(rc));
    int error = EADDRINUSE; /* it was, when gRPC tried */
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0) continue;
        int one = 1;
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 1) != 0) error = errno;
        close(fd);
    }
    freeaddrinfo(list);
    return refused(address, error, detail);
}

static grpc_server *create_grpc_server(const fs_rpc_server_options *options)
{
    grpc_arg args[] = {
        {GRPC_ARG_INTEGER, "grpc.max_receive_message_length", {.integer = (int)options->max_message}},
        {GRPC_ARG_INTEGER, "grpc.max_send_message_length", {.integer = -1}},
        {GRPC_ARG_INTEGER, "grpc.so_reuseport", {.integer = 0}},
        /* Compressed requests are refused: their true size would be known only after it was taken. */
        {GRPC_ARG_INTEGER, "grpc.compression_enabled_algorithms_bitset", {.integer = 1}},
        {GRPC_ARG_INTEGER, "grpc.keepalive_time_ms", {.integer = 10000}},
        {GRPC_ARG_INTEGER, "grpc.keepalive_timeout_ms", {.integer = 10000}},
        {GRPC_ARG_INTEGER, "grpc.http2.max_pings_without_data", {.integer = 0}},
        {GRPC_ARG_INTEGER, "grpc.keepalive_permit_without_calls", {.integer = 1}},
        {GRPC_ARG_INTEGER, "grpc.http2.min_ping_interval_without_data_ms", {.integer = 4000}},
    };
    grpc_channel_args list = {sizeof(args) / sizeof(args[0]), args};
    return grpc_server_create(&list, NULL);
}

static fs_status check_options(const fs_rpc_credentials *credentials, const fs_rpc_server_options *options,
                               fs_detail *detail)
{
    if (!credentials->insecure)
        return fs_fail(detail, FS_UNSUPPORTED, "TLS is not built in yet: credentials must be insecure");
    if (options->max_message == 0 || options->max_message > INT32_MAX)
        return fs_fail(detail, FS_INVALID, "max_message %zu is not 1..%d", options->max_message, INT32_MAX);
    if (options->max_calls == 0 || options->request_ms == 0 || options->send_bytes == 0)
        return fs_fail(detail, FS_INVALID, "max_calls, request_ms and send_bytes must not be 0");
    return FS_OK;
}

/* After grpc_server_register_completion_queue a server must be started and shut down in order, so that it can be destroyed: the
 * port comes first. */
static fs_status listen_on(grpc_server *grpc, const char *address, char bound[128], fs_detail *detail)
{
    size_t host_size = 0;
    fs_status st = split_address(address, &host_size, detail);
    if (st != FS_OK) return st;
    if (host_size > 100)
        return fs_fail(detail, FS_INVALID, "address '%.100s...': the host is over 100 bytes", address);
    grpc_server_credentials *insecure = grpc_insecure_server_credentials_create();
    int port = grpc_server_add_http2_port(grpc, address, insecure);
    grpc_server_credentials_release(insecure);
    if (port == 0) return why_not(address, host_size, detail);
    snprintf(bound, 128, "%.*s:%d", (int)host_size, address, port);
    return FS_OK;
}

fs_status fs_rpc_serve(fs_rpc *rpc, const char *address, const fs_rpc_credentials *credentials,
                       const fs_rpc_server_options *options, const fs_rpc_method *methods,
                       uint32_t num_methods, char bound[128], fs_rpc_server **out, fs_detail *detail)
{
    FS_ASSERT(!rpc->closing);
    fs_status st = check_options(credentials, options, detail);
    if (st != FS_OK) return st;
    fs_rpc_server *server = calloc(1, sizeof(*server));
    fs_rpc_method *copy = calloc(num_methods ? num_methods : 1, sizeof(*copy));
    if (!server || !copy) {
        st = FS_NO_MEMORY;
        goto fail;
    }
    if (num_methods) memcpy(copy, methods, num_methods * sizeof(*copy));
    server->rpc = rpc;
    server->options = *options;
    server->methods = copy;
    server->num_methods = num_methods;
    server->grpc = create_grpc_server(options);
    st = listen_on(server->grpc, address, bound, detail);
    if (st != FS_OK) goto fail;
    grpc_server_register_completion_queue(server->grpc, rpc->cq, NULL);
    grpc_server_start(server->grpc);
    server->next = rpc->servers;
    rpc->servers = server;
    accept_next(server);
    *out = server;
    return FS_OK;
fail:
    if (server && server->grpc) grpc_server_destroy(server->grpc);
    free(copy);
    free(server);
    return st;
}

/* ---- the end ---- */

static void on_stopped(fs_rpc_tag *tag, bool ok)
{
}

bool fs_rpc_servers_look(fs_rpc *rpc)
{
    bool any = false;
    for (fs_rpc_server *s = rpc->servers; s; s = s->next) any |= fs_rpc_calls_look(s);
    return any;
}

void fs_rpc_servers_stop(fs_rpc *rpc)
{
    for (fs_rpc_server *s = rpc->servers; s; s = s->next) {
        grpc_server_shutdown_and_notify(s->grpc, rpc->cq, fs_rpc_arm(rpc, &s->stop_tag, on_stopped));
        grpc_server_cancel_all_calls(s->grpc);
    }
}

void fs_rpc_servers_free(fs_rpc *rpc)
{
    while (rpc->servers) {
        fs_rpc_server *s = rpc->servers;
        rpc->servers = s->next;
        grpc_server_destroy(s->grpc);
        free(s->methods);
        free(s);
    }
}
