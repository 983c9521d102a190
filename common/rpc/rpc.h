/* common/rpc/rpc.h: gRPC over the C core, bridged to the process's libuv loop: a thread of its own pumps the completion queue and only
 * hands over. Messages are bytes; "rpc/message.h" packs and unpacks protobuf-c. Thread: loop, everything here, callbacks included. */
#ifndef FS_RPC_RPC_H
#define FS_RPC_RPC_H

#include <uv.h>

#include "base/status.h"

/* gRPC's status codes, by their numbers (grpc/status.h), so that callers need not include gRPC. */
typedef enum {
    FS_RPC_OK = 0, FS_RPC_CANCELLED = 1, FS_RPC_UNKNOWN = 2, FS_RPC_INVALID_ARGUMENT = 3, FS_RPC_DEADLINE_EXCEEDED = 4,
    FS_RPC_NOT_FOUND = 5, FS_RPC_ALREADY_EXISTS = 6, FS_RPC_PERMISSION_DENIED = 7, FS_RPC_RESOURCE_EXHAUSTED = 8,
    FS_RPC_FAILED_PRECONDITION = 9, FS_RPC_ABORTED = 10, FS_RPC_OUT_OF_RANGE = 11, FS_RPC_UNIMPLEMENTED = 12, FS_RPC_INTERNAL = 13,
    FS_RPC_UNAVAILABLE = 14, FS_RPC_DATA_LOSS = 15, FS_RPC_UNAUTHENTICATED = 16
} fs_rpc_code;
const char *fs_rpc_code_name(fs_rpc_code code);      /* "INVALID_ARGUMENT" */
fs_rpc_code fs_rpc_code_of(fs_status status);        /* the outer edge's mapping */

/* Who we are and whom we believe. Only insecure is accepted so far; the files are where TLS will take them. */
typedef struct {
    bool insecure; /* must be true until TLS is built */
    const char *ca_file, *cert_file, *key_file;
} fs_rpc_credentials;

typedef struct fs_rpc fs_rpc; /* the library for one process: completion queue and its thread; create after no more fork is needed */
FS_MUST_USE fs_status fs_rpc_create(uv_loop_t *loop, fs_rpc **out);
/* Cancels what is under way (its callbacks come), shuts servers and channels down, then calls done; bounded by 5 s. Channels end with it:
 * fs_rpc_channel_destroy is allowed until done, and not needed. */
void fs_rpc_close(fs_rpc *rpc, void (*done)(void *arg), void *arg);

/* ---- server ---- */
typedef struct fs_rpc_server fs_rpc_server;
typedef struct fs_rpc_call fs_rpc_call; /* one call being served; valid until its on_end returned */

/* A method begins with one request message (unary or server streaming: the same to a handler). request is borrowed for the call.
 * The handler answers now or later with send (any number of times; a unary method sends once) and then finish. */
typedef void (*fs_rpc_handler)(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size);

typedef struct {
    const char *path; /* "/foresight.v1.Inference/Generate"; static */
    fs_rpc_handler handler;
    void *arg;
} fs_rpc_method;

typedef struct {
    size_t max_message;     /* bytes a request may have; more ends the call with RESOURCE_EXHAUSTED before it reaches a handler. Default 4 MiB */
    uint32_t max_calls;     /* served at once; more are refused with RESOURCE_EXHAUSTED. Default 4096 */
    uint32_t request_ms;    /* a call whose request message has not come by then ends with DEADLINE_EXCEEDED, so that calls which say nothing
                             * cannot keep others out (max_calls). Default 10,000 */
    uint64_t send_bytes;    /* unsent bytes that one call may pile up (a client that does not read); more cancels it. A single message may be
                             * larger. Default 4 MiB */
} fs_rpc_server_options;
void fs_rpc_server_options_init(fs_rpc_server_options *options);

/* address "HOST:PORT", port 0: any; bound receives it. methods: copied; unknown paths get UNIMPLEMENTED. FS_UNAVAILABLE: in use; FS_INVALID. */
FS_MUST_USE fs_status fs_rpc_serve(fs_rpc *rpc, const char *address, const fs_rpc_credentials *credentials,
                                   const fs_rpc_server_options *options, const fs_rpc_method *methods, uint32_t num_methods,
                                   char bound[128], fs_rpc_server **out, fs_detail *detail);

/* Sends one message (copied). FS_CANCELLED: the call has ended; FS_EXHAUSTED: over send_bytes, the call is cancelled (on_end follows). */
FS_MUST_USE fs_status fs_rpc_call_send(fs_rpc_call *call, const uint8_t *message, size_t size);
/* Ends the call after what was sent. text: the status message, copied, may be NULL. Once only. */
void fs_rpc_call_finish(fs_rpc_call *call, fs_rpc_code code, const char *text);
/* Adds to the trailing metadata, before finish; copied. */
void fs_rpc_call_trailer(fs_rpc_call *call, const char *key, const char *value);
/* Called once, when the call is over: after finish (cancelled false), or because the client left, its deadline passed, or we close
 * (cancelled true; a finish afterwards is ignored, but allowed until on_end returned). The call pointer is dead afterwards. */
void fs_rpc_call_on_end(fs_rpc_call *call, void (*on_end)(void *arg, fs_rpc_call *call, bool cancelled), void *arg);
/* The client's deadline on our monotonic clock, FS_NEVER if none. */
int64_t fs_rpc_call_deadline_ns(const fs_rpc_call *call);
/* A request metadata value, or NULL; borrowed while the call lives. */
const char *fs_rpc_call_metadata(const fs_rpc_call *call, const char *key);
const char *fs_rpc_call_peer(const fs_rpc_call *call);

/* ---- client ---- */
typedef struct fs_rpc_channel fs_rpc_channel;
typedef struct fs_rpc_request fs_rpc_request; /* one call being made; valid until its on_end returned */

/* Connects lazily and again. max_message: of responses; 0: 64 MiB. */
FS_MUST_USE fs_status fs_rpc_channel_create(fs_rpc *rpc, const char *address, const fs_rpc_credentials *credentials,
                                            size_t max_message, fs_rpc_channel **out, fs_detail *detail);
void fs_rpc_channel_destroy(fs_rpc_channel *channel); /* its calls end CANCELLED */

typedef struct {
    void (*on_message)(void *arg, fs_rpc_request *request, const uint8_t *message, size_t size); /* borrowed; may be NULL */
    /* Always comes, once. text: the server's status message. */
    void (*on_end)(void *arg, fs_rpc_request *request, fs_rpc_code code, const char *text);
    void *arg;
} fs_rpc_client_handlers;
/* Unary and server streaming alike. deadline_ns: on fs_clock_system, FS_NEVER for none (streams that live on; a dead peer is found by
 * keepalive within 20 s). out may be NULL. FS_CANCELLED: the channel or library is closed; FS_INVALID: path; FS_NO_MEMORY. No callback comes
 * from within; after fs_rpc_cancel no message comes, but on_end does. */
FS_MUST_USE fs_status fs_rpc_start(fs_rpc_channel *channel, const char *path, const uint8_t *message, size_t size,
                                   int64_t deadline_ns, const fs_rpc_client_handlers *handlers, fs_rpc_request **out);
void fs_rpc_cancel(fs_rpc_request *request);
/* A trailing metadata value, inside on_end; or NULL. */
const char *fs_rpc_request_trailer(const fs_rpc_request *request, const char *key);

/* Blocking use, for command-line tools: runs the loop until this call has ended. response: the last message, heap, the caller's. */
FS_MUST_USE fs_status fs_rpc_call_wait(fs_rpc_channel *channel, uv_loop_t *loop, const char *path, const uint8_t *message,
                                       size_t size, int64_t timeout_ns, uint8_t **response, size_t *response_size,
                                       fs_rpc_code *code, fs_detail *detail);

#endif
