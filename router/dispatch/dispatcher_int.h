/* router/dispatch/dispatcher_int.h: what the dispatcher's files share. */
#ifndef FS_DISPATCH_INT_H
#define FS_DISPATCH_INT_H

#include "base/arena.h"
#include "dispatch/dispatcher.h"
#include "dispatch/plan.h"

#define FS_DISPATCH_TEXT 128u

/* A node of the placement, in a slot that it keeps. */
typedef struct {
    fs_dispatcher *dispatcher;
    uint32_t slot;
    char name[FS_DISPATCH_TEXT], address[FS_DISPATCH_TEXT];
    uint64_t instance;
    bool wanted;          /* the placement names it */
    fs_peer *peer;        /* connecting or connected; NULL: reconnect_ns counts */
    int64_t reconnect_ns; /* when to try again */
    int64_t backoff_ns;
    bool wants_hints;                  /* it does not hold all its experts, its last result said */
    fs_buffer hint_visit, hint_expert; /* fs_hint_visit, uint16_t: of the hint that is being made */
    bool complained; /* its loss was logged: further failed connects are not */
} fs_dispatch_node;

/* A call's plan and the messages that its outputs point into. */
struct fs_dispatch_call {
    fs_dispatcher *dispatcher;
    fs_plan plan;
    fs_dispatch_rows rows;
    bool active;
    fs_kept **kept; /* [plan.max_groups]: each kept message has a finished group */
    uint32_t num_kept;
    int64_t started_ns;
};

struct fs_dispatcher {
    uv_loop_t *loop;
    uv_timer_t timer;
    fs_dispatcher_options options; /* its strings and moe_layer are ours */
    fs_arena arena;
    fs_fabric *fabric;
    fs_plan_rule rule;
    /* the placement in slots */
    fs_plan_view view;
    uint32_t *replica;       /* view.replica; heap, changes with the placement */
    fs_plan_node *plan_node; /* view.node */
    fs_dispatch_node **node; /* [view.num_nodes] */
    uint32_t max_nodes;
    uint64_t epoch, assignment_epoch;
    uint32_t num_missing; /* experts without a usable node */
    int64_t *missing_ns;  /* view.missing_ns */
    /* calls */
    fs_dispatch_call **call;
    uint32_t num_calls;
    uint64_t next_id, num_visits; /* num_visits: sends, as hints count time */
    /* one encode's scratch */
    uint32_t *row, *pair_row, *expert, *count, *sent;
    float *scale;
    const int8_t **row_i8;
    const float **row_f32;
    fs_plan_answer_kind *kind;
    bool *visited; /* [num_experts] */
    fs_dispatcher_stats stats;
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* nodes.c */
fs_status fs_nodes_update(fs_dispatcher *d, const fs_placement *placement,
                          uint32_t *slot_of); /* slot_of [num_nodes] */
void fs_nodes_connect_due(fs_dispatcher *d, int64_t now_ns);
int64_t fs_nodes_next_ns(const fs_dispatcher *d);
void fs_nodes_on_up(void *arg, fs_peer *peer);
void fs_nodes_on_down(void *arg, fs_peer *peer, fs_status why, const char *text);
/* The node is not to be used from now on; its rows go elsewhere. */
void fs_node_lost(fs_dispatch_node *node);

/* call.c */
void fs_calls_on_message(void *arg, fs_peer *peer, uint16_t type, const uint8_t *data, size_t size);
void fs_calls_on_writable(void *arg, fs_peer *peer);
void fs_calls_node_lost(fs_dispatcher *d, uint32_t slot);
void fs_calls_tick(fs_dispatcher *d, int64_t now_ns);
void fs_calls_advance(fs_dispatcher *d); /* pending rows may have somewhere to go */
int64_t fs_calls_next_ns(const fs_dispatcher *d, int64_t now_ns);
uint32_t fs_calls_in_flight(const fs_dispatcher *d);
void fs_calls_forget(fs_dispatcher *d);

/* hint.c */
void fs_node_free_hints(fs_dispatch_node *node);

/* dispatcher.c */
int64_t fs_dispatcher_now(void);
void fs_dispatcher_schedule(fs_dispatcher *d); /* sets the timer for what comes next */
void fs_dispatcher_changed(
    fs_dispatcher *d); /* nodes or placement: counts what is missing, moves waiting rows, tells the owner */

#endif
