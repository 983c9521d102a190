/* common/rpc/rpc_int.h: what the files of this folder share: the process's completion queue, its tags, bytes and metadata. */
#ifndef FS_RPC_INT_H
#define FS_RPC_INT_H

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>

#include "base/clock.h"
#include "rpc/rpc.h"

/* What gRPC hands back when an operation is over; part of the object that began it, which lives until then. */
typedef struct fs_rpc_tag fs_rpc_tag;
struct fs_rpc_tag {
    void (*done)(fs_rpc_tag *tag, bool ok); /* on the loop */
    fs_rpc_tag *next;                       /* rpc.c's, as ok */
    bool ok;
};
#define FS_RPC_OWNER(tag, type, member) ((type *)(void *)((char *)(tag)-offsetof(type, member)))

struct fs_rpc {
    uv_loop_t *loop;
    grpc_completion_queue *cq;
    uv_thread_t pump;
    uv_async_t wake;
    uv_timer_t close_timer;
    uv_timer_t request_timer; /* runs while servers wait for requests of calls */
    uv_mutex_t lock;
    fs_rpc_tag *first, *last; /* came back, under lock */
    bool pump_ended;          /* under lock */
    uint32_t in_flight;       /* tags that gRPC has, or that wait in the list; loop */
    fs_rpc_server *servers;
    fs_rpc_channel *channels;
    bool closing, queue_shut;
    uint32_t handles_open;
    void (*close_done)(void *arg);
    void *close_arg;
};

/* Makes the tag ready to be handed to gRPC, which will give it back once. */
fs_rpc_tag *fs_rpc_arm(fs_rpc *rpc, fs_rpc_tag *tag, void (*done)(fs_rpc_tag *tag, bool ok));
/* Begins operations of a call, as grpc_call_start_batch; the batches that this folder makes are always well-formed. */
void fs_rpc_batch(fs_rpc *rpc, grpc_call *call, const grpc_op *ops, size_t num_ops, fs_rpc_tag *tag,
                  void (*done)(fs_rpc_tag *tag, bool ok));

/* When the library closes. */
void fs_rpc_servers_stop(fs_rpc *rpc);
/* A call waits for its request. */
void fs_rpc_watch_requests(fs_rpc *rpc);
bool fs_rpc_servers_look(fs_rpc *rpc); /* whether calls wait for their requests still */
void fs_rpc_servers_free(fs_rpc *rpc);
void fs_rpc_channels_stop(fs_rpc *rpc);
void fs_rpc_channels_free(fs_rpc *rpc);

/* One contiguous view of a received message. */
typedef struct {
    grpc_slice slice;
    const uint8_t *data;
    size_t size;
} fs_rpc_bytes;
/* False: it cannot be read (damaged compression). */
bool fs_rpc_bytes_init(fs_rpc_bytes *bytes, grpc_byte_buffer *buffer);
void fs_rpc_bytes_fini(fs_rpc_bytes *bytes);

/* Sends a message whose bytes are in a slice, taken; otherwise as fs_rpc_call_send. */
FS_MUST_USE fs_status fs_rpc_call_send_slice(fs_rpc_call *call, grpc_slice slice);

/* Metadata values as terminated strings, which gRPC's are not; they live until fs_rpc_strings_free. */
typedef struct fs_rpc_string fs_rpc_string;
struct fs_rpc_string {
    fs_rpc_string *next;
    char text[];
};
const char *fs_rpc_strings_keep(fs_rpc_string **strings, grpc_slice slice);
const char *fs_rpc_metadata_find(const grpc_metadata_array *array, const char *key, fs_rpc_string **strings);
void fs_rpc_strings_free(fs_rpc_string **strings);

gpr_timespec fs_rpc_timespec_of(int64_t deadline_ns);
int64_t fs_rpc_ns_of(gpr_timespec deadline);

#endif
