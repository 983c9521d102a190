/* router/dispatch/dispatcher.h: a layer's rows to the expert nodes and back, in the order of the route.
 * Connections to every node of the placement, one message a node and layer, and the plan's decisions (plan.h)
 * turned into sends and timers. Thread: loop, everything here, callbacks included. */
#ifndef FS_DISPATCH_DISPATCHER_H
#define FS_DISPATCH_DISPATCHER_H

#include <uv.h>

#include "base/status.h"
#include "dispatch/placement.h"
#include "fabric/fabric.h"
#include "fabric/wire.h"

typedef struct fs_dispatcher fs_dispatcher;

typedef struct {
    const char *name, *rack; /* ours; copied */
    uint8_t key[FS_FABRIC_KEY_BYTES];
    uint64_t fingerprint; /* of the model */
    uint32_t hidden_size, num_experts, top_k, num_moe_layers;
    const uint16_t *moe_layer; /* [num_moe_layers] decoder layer numbers; copied */
    fs_row_format row_format;
    uint32_t max_rows;      /* of one call, at most FS_WIRE_MAX_ROWS */
    uint32_t max_calls;     /* fs_dispatch_call_create at most so often */
    int64_t answer_ns;      /* a node silent for this long on a dispatch is passed over */
    int64_t unavailable_ns; /* rows wait this long for a node that holds their expert, then fail */
    /* A node came or went, or the placement changed: what is_serving says may have. May be NULL. */
    void (*on_change)(void *arg);
    void *arg;
} fs_dispatcher_options;

/* FS_INVALID: max_rows is too large for the wire or the fabric's messages; FS_NO_MEMORY; and as
 * fs_fabric_create. */
FS_MUST_USE fs_status fs_dispatcher_create(uv_loop_t *loop, const fs_dispatcher_options *options,
                                           fs_dispatcher **out, fs_detail *detail);
/* Calls still waiting are forgotten (no done comes). Then done is called and the dispatcher is gone. */
void fs_dispatcher_close(fs_dispatcher *dispatcher, void (*done)(void *arg), void *arg);

/* From now on rows go where this says; nodes are connected to, those that left are let go. Copied.
 * FS_INVALID: another model's, or its shape does not fit; FS_NO_MEMORY. Either keeps the last one. */
FS_MUST_USE fs_status fs_dispatcher_set_placement(fs_dispatcher *dispatcher, const fs_placement *placement,
                                                  fs_detail *detail);
/* Whether every expert is on a connected node that may be used. why: what is missing, for a person; may be
 * NULL. */
bool fs_dispatcher_is_serving(const fs_dispatcher *dispatcher, fs_detail *why);

/* One micro-batch's way to the experts, used layer after layer. The dispatcher's: there is no destroy. */
typedef struct fs_dispatch_call fs_dispatch_call;
FS_MUST_USE fs_status fs_dispatch_call_create(fs_dispatcher *dispatcher, fs_dispatch_call **out);

/* All arrays are borrowed until done. */
typedef struct {
    uint32_t num_rows;
    const uint16_t *const
        *route; /* [num_rows] each row's [top_k] experts, or NULL: the row is passed over, its out is NULL */
    const int8_t *row_i8; /* [num_rows][hidden_size], FS_ROWS_I8 */
    const float *scale;   /* [num_rows], FS_ROWS_I8 */
    const float *row_f32; /* [num_rows][hidden_size], FS_ROWS_F32 */
    const float *
        *out;     /* [num_rows][top_k] receives each expert's output [hidden_size]; valid until release */
    bool *failed; /* [num_rows] set true where no node could be found in time: the row's out is NULL */
    void (*done)(void *arg); /* every row has its outputs or has failed. May come from inside send */
    void *arg;
} fs_dispatch_rows;
/* One at a time a call. */
void fs_dispatch_send(fs_dispatch_call *call, uint32_t moe_layer, const fs_dispatch_rows *rows);
/* The outputs of the last send are no longer read. */
void fs_dispatch_release(fs_dispatch_call *call);

/* Rows that will visit the experts of all MoE layers, one after the other: what nodes that keep a part of their experts in memory are
 * told, so that they can load the others ahead. */
typedef struct {
    uint32_t num_rows;
    const uint16_t *const *route; /* [num_rows] each row's experts [num_moe_layers][top_k]; borrowed for the call */
    uint32_t distance; /* visits of all micro-batches (fs_dispatch_send) until the first layer's */
    uint32_t stride;   /* and from each layer's to the next one's, >= 1 */
} fs_dispatch_hint;
/* Whether any node is to be told: else there is no need to make a hint. */
bool fs_dispatcher_wants_hints(const fs_dispatcher *dispatcher);
/* Only advice: a node that has no room for it, or has all its experts in memory, is told nothing. */
void fs_dispatcher_hint(fs_dispatcher *dispatcher, const fs_dispatch_hint *hint);

typedef struct {
    uint64_t epoch;
    uint32_t nodes_connected, in_flight; /* in_flight: messages not answered */
    uint64_t dispatches, redispatches;   /* messages sent; rows (of one expert each) sent again */
    uint64_t hints, hints_dropped;       /* messages; dropped: the fabric had no room */
    int64_t send_ns, experts_compute_ns; /* loop time for encoding and sending; as nodes report it */
} fs_dispatcher_stats;
void fs_dispatcher_get_stats(const fs_dispatcher *dispatcher, fs_dispatcher_stats *out);

#endif
