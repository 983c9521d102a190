/* common/rpc/member.h: a router's or expert node's life with the coordinator: it registers, says every heartbeat that it lives, watches
 * the placement, and begins again, with growing pauses, whenever the coordinator was away. The last placement is kept meanwhile: a
 * cluster serves on without its coordinator. Thread: loop, everything here, callbacks included. */
#ifndef FS_RPC_MEMBER_H
#define FS_RPC_MEMBER_H

#include "foresight/v1/control.pb-c.h"
#include "rpc/rpc.h"

typedef struct fs_member fs_member;

typedef struct {
    fs_rpc *rpc;             /* borrowed; must outlive the member */
    const char *coordinator; /* "HOST:PORT"; copied */
    fs_rpc_credentials credentials;
    /* Who joins, copied: name, kind, address, rack, model..., capacity. instance 0: a random one is made. version NULL or "": ours. */
    const Foresight__V1__RegisterRequest *self;

    /* A newer placement than the last; borrowed until the next one comes or the member is destroyed (as fs_member_placement). Not called
     * for one without an assignment (`replica` empty) after one that had one: a coordinator that lost its memory takes nothing away.
     * Placements that were skipped over are never shown; epochs rise. May be NULL. */
    void (*on_placement)(void *arg, const Foresight__V1__Placement *placement);
    /* Fills ready_epoch, experts_loaded, bytes_loaded, rows_computed, problem, cache; name, instance and leaving are set. What it points to is
     * borrowed until it is called again. Nodes: ready_epoch is the assignment_epoch that is loaded and verified. May be NULL. */
    void (*fill_heartbeat)(void *arg, Foresight__V1__HeartbeatRequest *heartbeat);
    /* registered: the coordinator has accepted us (first, or again). Not registered: text says why, code is the answer's (UNAVAILABLE: not
     * reached, it goes on trying; FAILED_PRECONDITION, INVALID_ARGUMENT: refused, as for another model or a name in use; it goes on trying,
     * since the reason may pass: a process that would rather end does so). Called when this changes only. May be NULL. */
    void (*on_state)(void *arg, bool registered, fs_rpc_code code, const char *text);
    void *arg;
} fs_member_options;

/* Begins at once; the callbacks come from the loop later, never from within create. FS_INVALID: a missing or malformed field, FS_UNSUPPORTED:
 * the credentials, FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_member_create(uv_loop_t *loop, const fs_member_options *options, fs_member **out, fs_detail *detail);

/* Tells the coordinator that we leave (at most leave_ns, 0: not at all), then frees the member and calls done (which may be NULL). No other
 * callback comes once this was called. Before fs_rpc_close. NULL: done is called at once. */
void fs_member_destroy(fs_member *member, int64_t leave_ns, void (*done)(void *arg), void *arg);

/* Sends a heartbeat now rather than at its time: what it says has changed (a node became ready). */
void fs_member_touch(fs_member *member);

/* The last placement, or NULL before the first. Borrowed until the next on_placement. */
const Foresight__V1__Placement *fs_member_placement(const fs_member *member);
bool fs_member_is_registered(const fs_member *member);
uint32_t fs_member_id(const fs_member *member);       /* 0 until registered for the first time */
uint64_t fs_member_instance(const fs_member *member);

#endif
