/* coordinator/coordinator.h: the process: the membership core with a clock, a store and gRPC around it. Thread: loop, but for the save job. */
#ifndef FS_COORDINATOR_COORDINATOR_H
#define FS_COORDINATOR_COORDINATOR_H

#include <uv.h>

#include "base/worker.h"
#include "foresight/v1/control.pb-c.h"
#include "kv/kv.h"
#include "membership/cluster.h"
#include "options.h"
#include "rpc/rpc.h"

typedef struct fs_reply fs_reply;
typedef struct fs_watcher fs_watcher;
typedef struct fs_save fs_save;

typedef struct {
    fs_coordinator_options options;
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    uv_timer_t tick, watchdog;
    fs_rpc *rpc;
    fs_rpc_server *server;
    char bound[128];
    int64_t started_ns;
    int exit_code;
    bool stopping;

    fs_cluster cluster;

    /* store.c */
    fs_kv *kv;
    fs_worker *saver;
    fs_save *save;           /* under way; NULL: none */
    fs_reply *replies;       /* wait for the next save */
    unsigned unsaved;        /* FS_CLUSTER_ bits */
    fs_detail store_problem; /* of the last save; empty: it was written */

    /* watch.c */
    fs_watcher *watchers;
    uint8_t *published; /* the packed placement that watchers have */
    size_t published_size;
    uint64_t published_epoch;
} fs_coordinator;

/* After every event: logs what happened and begins to save it; the placement is published, and replies are sent, when it is saved. */
void fs_coordinator_changed(fs_coordinator *co);

/* ---- store.c ---- */
/* Opens the store, loads the cluster if there is one, and saves it once with its new epoch. */
FS_MUST_USE fs_status fs_store_open(fs_coordinator *co, fs_detail *detail);
void fs_store_begin(fs_coordinator *co); /* if there is something to save and no save under way */
void fs_store_close(fs_coordinator *co); /* after gRPC: writes what is unsaved, and waits for it */
/* Answers the call once all that happened until now is saved. */
void fs_store_reply(fs_coordinator *co, fs_rpc_call *call, const ProtobufCMessage *message);

/* ---- watch.c ---- */
/* Packs the placement as it is now; the caller's. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_watch_pack(const fs_cluster *cluster, uint8_t **out, size_t *size);
/* packed: taken. */
void fs_watch_publish(fs_coordinator *co, uint8_t *packed, size_t size, uint64_t epoch);
void fs_watch_add(fs_coordinator *co, fs_rpc_call *call);

/* ---- status.c ---- */
void fs_status_answer(fs_coordinator *co, fs_rpc_call *call);

/* ---- service.c ---- */
enum { FS_CONTROL_METHODS = 5 };
void fs_control_methods(fs_coordinator *co, fs_rpc_method methods[FS_CONTROL_METHODS]);

#endif
