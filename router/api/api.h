/* router/api/api.h: what clients say to a router (foresight/v1/inference.proto) over gRPC: requests are
 * checked, tokenised beside the loop, given to the engine, and streamed back. Thread: loop. */
#ifndef FS_API_API_H
#define FS_API_API_H

#include "api/request.h"
#include "base/worker.h"
#include "engine/engine.h"
#include "rpc/rpc.h"

typedef struct fs_api fs_api;

typedef struct {
    fs_api_model model; /* what it points to is borrowed */
    const char *router_name;
    uint64_t fingerprint;
    const fs_tokenizer *tokenizer;
    fs_engine *engine;
    fs_dispatcher *dispatcher;
    fs_worker *worker;    /* for tokenising; borrowed */
    uint32_t max_waiting; /* texts that wait for tokenising at once; more are refused */
    /* Whether requests may be taken; why not, for a person. May be NULL: always. */
    bool (*is_ready)(void *arg, fs_detail *why);
    void *arg;
} fs_api_options;

FS_MUST_USE fs_status fs_api_create(const fs_api_options *options, fs_api **out);
/* After fs_rpc_close has called done (no call lives) and the engine is gone. */
void fs_api_destroy(fs_api *api);

#define FS_API_NUM_METHODS 4u
/* For fs_rpc_serve. */
void fs_api_methods(fs_api *api, fs_rpc_method methods[FS_API_NUM_METHODS]);

/* From now on Generate answers UNAVAILABLE "shutting down". on_idle is called once, when nothing of any
 * Generate or Tokenize call is left: at once, from inside, if there is none now. A second call replaces
 * on_idle. */
void fs_api_stop(fs_api *api, void (*on_idle)(void *arg), void *arg);

#endif
