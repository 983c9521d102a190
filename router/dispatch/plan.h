/* router/dispatch/plan.h: where one layer's rows go, and where they go next when a node is lost, has moved
 * its experts or says nothing. A core without input and output: (state, event, now) -> actions. */
#ifndef FS_DISPATCH_PLAN_H
#define FS_DISPATCH_PLAN_H

#include "base/arena.h"
#include "dispatch/placement.h"

#define FS_PLAN_MAX_AVOID 8u
#define FS_PLAN_NONE      UINT32_MAX

/* What the plan knows of a node. Nodes have slots: numbers that stay the same when the placement changes. */
typedef struct {
    bool connected;
    bool near; /* in the router's own rack */
    fs_node_state state;
} fs_plan_node;

/* The cluster as it is now; borrowed for a call. */
typedef struct {
    uint32_t num_moe_layers, num_experts, num_replicas, num_nodes;
    const uint32_t *replica;  /* [num_moe_layers][num_experts][num_replicas] slots or FS_NO_REPLICA; NULL: no
                                 placement yet */
    const fs_plan_node *node; /* [num_nodes] by slot */
    /* [num_moe_layers][num_experts] since when an expert has been on no usable node, 0: it is on one. Rows do
     * not wait anew for what others have waited for already. NULL: not known. */
    const int64_t *missing_ns;
    uint32_t
        spread; /* which of equals a router begins with: routers differ, and one router is always the same */
} fs_plan_view;

typedef struct {
    int64_t answer_ns; /* a message unanswered for this long is taken for lost */
    int64_t
        unavailable_ns; /* rows fail when they can be sent nowhere and this much has passed since their first
                               trouble, or since their expert was last on a usable node */
} fs_plan_rule;

typedef enum { FS_GROUP_PENDING, FS_GROUP_SENT, FS_GROUP_DONE, FS_GROUP_FAILED } fs_group_state;

/* The rows of one expert; they travel together. */
typedef struct {
    uint32_t expert;
    uint32_t first_pair, num_pairs; /* in fs_plan.pair */
    fs_group_state state;
    uint32_t message;   /* SENT */
    int64_t trouble_ns; /* when it first failed or found no node; 0: never */
    uint32_t num_avoid; /* nodes that failed it, each until a time */
    struct {
        uint32_t node;
        int64_t until_ns;
    } avoid[FS_PLAN_MAX_AVOID];
} fs_plan_group;

/* One dispatch to one node. open: not yet answered, lost or given up. */
typedef struct {
    uint64_t id;
    uint32_t node, num_groups, num_pairs;
    int64_t deadline_ns;
    bool open;
    bool unsent; /* the driver's: the fabric had no room for it yet */
} fs_plan_message;

/* One layer's rows of one micro-batch. Sized once by init, used again and again by begin. Thread: loop. */
typedef struct {
    uint32_t max_rows, max_groups, max_messages, num_experts, top_k;
    uint32_t moe_layer, num_rows, num_groups, num_pairs, num_messages;
    uint32_t num_unfinished;  /* groups that are PENDING or SENT */
    fs_plan_group *group;     /* [num_groups] expert rises strictly */
    uint32_t *pair;           /* [num_pairs] row * top_k + place in the route; by group, then by row */
    fs_plan_message *message; /* [num_messages] */
    uint32_t *count;          /* [num_experts] scratch */
    uint32_t *row_index;      /* [max_rows] scratch: a row's number in the message */
} fs_plan;

/* FS_NO_MEMORY. Memory: the arena's. */
FS_MUST_USE fs_status fs_plan_init(fs_plan *plan, fs_arena *arena, uint32_t max_rows, uint32_t num_experts,
                                   uint32_t top_k);
/* A new layer. route [num_rows]: each row's [top_k] experts (< num_experts), NULL for a row that needs none
 * (its sequence has ended). */
void fs_plan_begin(fs_plan *plan, uint32_t moe_layer, const uint16_t *const *route, uint32_t num_rows);

/* Gives every pending group the best node there is: ready before draining before lost to the coordinator (but
 * connected), own rack before others, and among equals one that depends on layer and expert, so that the same
 * expert's rows meet on one node. Groups of one node go into one message. Groups that have waited too long
 * FAIL. sent [max_groups]: indices of the new messages. Returns how many. */
uint32_t fs_plan_assign(fs_plan *plan, const fs_plan_view *view, const fs_plan_rule *rule, int64_t now_ns,
                        uint64_t *next_id, uint32_t *sent);

/* The node that rows of this expert would go to now, had none of them failed before; FS_PLAN_NONE: there is none. */
uint32_t fs_plan_node_for(const fs_plan_view *view, uint32_t moe_layer, uint32_t expert);

/* The open message with this id, or FS_PLAN_NONE (answered already, given up, or never ours: such an answer
 * is dropped). */
uint32_t fs_plan_find(const fs_plan *plan, uint64_t id);
/* The n-th group of a message (they are in order of expert); FS_PLAN_NONE past the end. *cursor: 0 at first,
 * then as left. */
uint32_t fs_plan_next_group(const fs_plan *plan, uint32_t message, uint32_t *cursor);

/* What an answer says of one group. */
typedef enum {
    FS_ANSWER_OK,
    FS_ANSWER_MOVED,     /* another node holds it, or will soon */
    FS_ANSWER_CORRUPT,   /* the node's copy, or the answer, is broken */
    FS_ANSWER_EXHAUSTED, /* too busy: soon again */
    FS_ANSWER_REFUSED    /* it does not understand us: elsewhere, or never */
} fs_plan_answer_kind;
/* An open message was answered: kind [message.num_groups], in order of its groups. It is closed; what failed
 * is pending again, and avoids the node for a while. Returns the rows (pairs) to be sent again. */
uint32_t fs_plan_answer(fs_plan *plan, uint32_t message, const fs_plan_answer_kind *kind, int64_t now_ns);
/* The same kind for every group. */
uint32_t fs_plan_answer_all(fs_plan *plan, uint32_t message, fs_plan_answer_kind kind, int64_t now_ns);
/* The node's connection is gone: all its open messages are pending again. Returns pairs to be sent again. */
uint32_t fs_plan_node_lost(fs_plan *plan, uint32_t node, int64_t now_ns);
/* Messages past their deadline are given up, their node avoided. Returns pairs to be sent again. */
uint32_t fs_plan_tick(fs_plan *plan, const fs_plan_rule *rule, int64_t now_ns);
/* A newer placement: what a node failed before may be right now. */
void fs_plan_forgive(fs_plan *plan);
/* When tick and assign must be called again, events or not: later than now, if both were called now;
 * FS_NEVER. */
int64_t fs_plan_next_ns(const fs_plan *plan, const fs_plan_rule *rule, int64_t now_ns);

/* Rows of a message and how its pairs refer to them, for the encoder: row [<= num_pairs] batch rows, each
 * once, in order of first use; pair_row [num_pairs] indices into row; expert and count [num_groups]. Returns
 * the number of rows. */
uint32_t fs_plan_layout(fs_plan *plan, uint32_t message, uint32_t *row, uint32_t *pair_row, uint32_t *expert,
                        uint32_t *count);
/* Puts an answer's rows where the route wants them: out[row * top_k + k] for every pair of group g, whose
 * first row is at `at`. */
void fs_plan_place(const fs_plan *plan, uint32_t group, const float *at, uint32_t hidden_size,
                   const float **out);
/* Clears out[row * top_k ...] of every row that has a pair in a failed group. failed [num_rows] is set true
 * for them. */
void fs_plan_fail_rows(const fs_plan *plan, const float **out, bool *failed);

/* Asserts the invariants. For tests. */
void fs_plan_check(const fs_plan *plan);

#endif
