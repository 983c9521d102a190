/* common/rpc/call_int.h: a server and the calls that it serves, as server.c and call.c share them. */
#ifndef FS_RPC_CALL_INT_H
#define FS_RPC_CALL_INT_H

#include "rpc/rpc_int.h"

struct fs_rpc_server {
    fs_rpc *rpc;
    fs_rpc_server *next;
    grpc_server *grpc;
    fs_rpc_server_options options;
    fs_rpc_method *methods;
    uint32_t num_methods;
    uint32_t num_calls;     /* begun and not freed, those that are being refused included */
    fs_rpc_call *accepting; /* what the next call is put into */
    fs_rpc_call *first_asked, *last_asked; /* whose requests have not come, oldest first */
    fs_rpc_tag accept_tag, stop_tag;
};

typedef struct fs_rpc_outgoing fs_rpc_outgoing;
struct fs_rpc_outgoing {
    fs_rpc_outgoing *next;
    grpc_byte_buffer *buffer;
    size_t size;
};

/* Lives until gRPC has given back every tag; `ended` is the moment when its user has let go of it. */
struct fs_rpc_call {
    fs_rpc_server *server;
    const fs_rpc_method *method;
    grpc_call *grpc;
    grpc_call_details details;
    grpc_metadata_array metadata;
    int64_t deadline_ns;
    char *peer;             /* gRPC's memory */
    fs_rpc_string *strings; /* metadata values that were asked for */

    fs_rpc_tag close_tag, request_tag, send_tag;
    uint32_t tags_out;
    int cancelled; /* gRPC's word, with close_tag */
    grpc_byte_buffer *request;
    int64_t request_due_ns;
    fs_rpc_call *next_asked, *previous_asked;
    fs_rpc_outgoing *first, *last; /* the first is at gRPC while sending */
    uint64_t queued_bytes;
    bool sending, began_sending, finishing, sent_status, ended;

    fs_rpc_code code;
    grpc_slice text;
    grpc_metadata *trailers;
    size_t num_trailers;
    void (*on_end)(void *arg, fs_rpc_call *call, bool cancelled);
    void *on_end_arg;
};

fs_rpc_call *fs_rpc_call_create(fs_rpc_server *server);
/* A call that gRPC has put something into; method NULL: unknown. */
void fs_rpc_call_begin(fs_rpc_call *call, const fs_rpc_method *method);
void fs_rpc_call_free(fs_rpc_call *call);
/* Ends the calls whose requests are overdue; whether there are more to look at later. */
bool fs_rpc_calls_look(fs_rpc_server *server);

#endif
