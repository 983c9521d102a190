/* router/api/api_int.h: what the files of the API share. */
#ifndef FS_API_INT_H
#define FS_API_INT_H

#include "api/api.h"
#include "base/buffer.h"
#include "rpc/message.h"

struct fs_api {
    fs_api_options options;
    int64_t started_ns;
    uint64_t client_seed; /* of the hash that stands for a client's key, so that nobody can choose whose it meets */
    fs_buffer text;  /* one response's, terminated */
    uint32_t active; /* calls of Generate and Tokenize with anything left of them */
    uint32_t tokenizing;
    uint64_t refused; /* Generate calls whose text found no room; the engine counts those that came as far */
    bool stopped;
    void (*on_idle)(void *arg);
    void *idle_arg;
};

/* Text to ids on the worker. The text is borrowed until done. */
typedef struct fs_tokenizing fs_tokenizing;
struct fs_tokenizing {
    fs_job job;
    fs_api *api;
    const char *text;
    bool add_bos;
    uint32_t *ids; /* heap, whoever reads the result frees it */
    size_t count;
    fs_status status;
    fs_detail detail;
    void (*done)(fs_tokenizing *t);
};
/* FS_EXHAUSTED: too many wait. */
fs_status fs_tokenizing_start(fs_api *api, fs_tokenizing *t);

/* A request's bytes as a message whose strings are whole; NULL: the detail says what is wrong (FS_INVALID).
 * Freed with fs_message_free. */
ProtobufCMessage *fs_api_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t size,
                                fs_detail *detail);

/* Handlers, one a method (fs_rpc_handler). */
void fs_api_generate(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size);
void fs_api_tokenize(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size);
void fs_api_get_model(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size);
void fs_api_get_stats(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size);

/* One active call less. */
void fs_api_leave(fs_api *api);
/* Ends a call with a status of ours. */
void fs_api_fail(fs_rpc_call *call, fs_status status, const char *text);

#endif
