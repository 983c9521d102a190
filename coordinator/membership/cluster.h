/* coordinator/membership/cluster.h: who belongs to the cluster, in which state, and which experts are whose. A core without input and
 * output: events with the time come in, and what is to be done is fetched after each (fs_cluster_take_changes). Thread: one. */
#ifndef FS_MEMBERSHIP_CLUSTER_H
#define FS_MEMBERSHIP_CLUSTER_H

#include "base/buffer.h"
#include "base/status.h"

enum {
    FS_CLUSTER_MAX_MEMBERS = 4096,
    FS_CLUSTER_NO_NODE = -1, /* as an index into the placement's nodes */
};

/* By the numbers of control.proto. */
typedef enum { FS_KIND_ROUTER = 1, FS_KIND_EXPERT_NODE = 2 } fs_member_kind;
typedef enum { FS_NODE_LOADING = 1, FS_NODE_READY = 2, FS_NODE_DRAINING = 3, FS_NODE_LOST = 4 } fs_node_state;

/* What a node with a limit of memory tells of its cache, sums since its start. memory_bytes 0: it has none. */
typedef struct {
    uint64_t memory_bytes, hits, misses, loaded_bytes, prefetched_bytes, wasted_bytes;
} fs_cluster_cache;

typedef struct {
    char name[64], address[256], rack[64], version[64];
    uint64_t instance;
    fs_member_kind kind;
    uint32_t id;                           /* from 1; stays with the name */
    uint64_t capacity_bytes, expert_bytes; /* capacity 0: no limit */
    fs_node_state state;                   /* routers: READY or LOST */
    bool draining, left;                   /* left: said goodbye, rather than fell silent */
    int32_t node; /* index into the placement's first num_placed nodes, or FS_CLUSTER_NO_NODE */
    int64_t heard_ns;
    /* of the last heartbeat */
    uint64_t ready_epoch, bytes_loaded, rows_computed;
    uint32_t experts_loaded;
    fs_cluster_cache cache;
    char problem[256];
} fs_cluster_member;

typedef struct {
    bool is_set; /* by the first member that joined */
    uint64_t fingerprint;
    uint32_t num_moe_layers, num_experts;
    char name[256];
} fs_cluster_model;

typedef struct {
    uint32_t nodes_expected, num_replicas; /* replicas <= nodes */
    int64_t expire_ns;                     /* silent for so long: lost */
    int64_t forget_ns;                     /* lost for so long, and without experts: no longer a member */
    uint64_t
        first_epoch; /* of a new cluster: later than any that members may remember, such as the wall clock in seconds */
} fs_cluster_options;

/* Readable by everybody in the process; written by the functions below alone. */
typedef struct {
    fs_cluster_options options;
    fs_cluster_member **members; /* by name */
    uint32_t num_members, capacity;
    fs_cluster_model model;
    uint64_t epoch, assignment_epoch;
    uint32_t next_id;
    /* The placement, once enough nodes were there; then it stays. */
    fs_cluster_member **placed; /* [num_placed] by index; never removed */
    uint32_t num_placed;
    uint32_t *replica; /* [num_moe_layers][num_experts][num_replicas] indices into placed; NULL: none yet */
    char placement_problem[512]; /* why there is none although enough nodes are there */
    int64_t last_tick_ns;
    unsigned changes;
    struct fs_cluster_note *notes;
    uint32_t num_notes;
} fs_cluster;

/* expire_ns > 0. FS_INVALID: replicas over nodes, or 0. now_ns: of the same clock as every event's. */
FS_MUST_USE fs_status fs_cluster_init(fs_cluster *cluster, const fs_cluster_options *options, int64_t now_ns,
                                      fs_detail *detail);
void fs_cluster_fini(fs_cluster *cluster);

/* ---- events ---- */

/* What a member says of itself; borrowed for the call. */
typedef struct {
    const char *name, *address, *rack, *version, *model_name;
    uint64_t instance, model_fingerprint, capacity_bytes, expert_bytes;
    uint32_t kind, num_moe_layers, num_experts;
} fs_cluster_joining;

/* Joins, joins again or takes the place of a lost one of the same name. FS_INVALID: a field. FS_DENIED: another instance of that name is
 * alive, or another model is served (the detail names both). FS_EXHAUSTED: too many members. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_cluster_register(fs_cluster *cluster, const fs_cluster_joining *who, int64_t now_ns,
                                          uint32_t *id_out, fs_detail *detail);

typedef struct {
    const char *name, *problem;
    uint64_t instance, ready_epoch, bytes_loaded, rows_computed;
    uint32_t experts_loaded;
    fs_cluster_cache cache;
    bool leaving;
} fs_cluster_heartbeat;

/* FS_NOT_FOUND: no such instance, or it is lost: it registers again. FS_INVALID: ready_epoch is out of this world. */
FS_MUST_USE fs_status fs_cluster_beat(fs_cluster *cluster, const fs_cluster_heartbeat *heartbeat,
                                      int64_t now_ns, fs_detail *detail);
/* FS_NOT_FOUND: no expert node of that name. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_cluster_drain(fs_cluster *cluster, const char *name, bool undo, fs_detail *detail);
/* Finds who fell silent. Called at least every expire_ns / 4: a longer gap means that this process stood still, and is not counted
 * against the members. */
void fs_cluster_tick(fs_cluster *cluster, int64_t now_ns);

/* ---- what is to be done ---- */

enum {
    FS_CLUSTER_PUBLISH = 1,          /* the placement has a new epoch: store, then tell the watchers */
    FS_CLUSTER_STORE = 2,            /* members changed */
    FS_CLUSTER_STORE_ASSIGNMENT = 4, /* replica changed */
};
/* The FS_CLUSTER_ bits since the last call. */
unsigned fs_cluster_take_changes(fs_cluster *cluster);

/* What happened, for the log. */
typedef enum {
    FS_NOTE_JOINED,
    FS_NOTE_REPLACED,
    FS_NOTE_READY,
    FS_NOTE_NOT_READY,
    FS_NOTE_LOST,
    FS_NOTE_LEFT,
    FS_NOTE_FORGOTTEN,
    FS_NOTE_DRAINING,
    FS_NOTE_UNDRAINED,
    FS_NOTE_PLACED,
    FS_NOTE_EPOCH_RAISED
} fs_note_kind;
typedef struct fs_cluster_note {
    fs_note_kind kind;
    char name[64]; /* the member's; "" for PLACED */
} fs_cluster_note;
const char *fs_note_name(fs_note_kind kind); /* "member_joined": an event of the log */
/* Moves the notes since the last call to out, at most FS_CLUSTER_MAX_NOTES; later ones are dropped. */
enum { FS_CLUSTER_MAX_NOTES = 64 };
uint32_t fs_cluster_take_notes(fs_cluster *cluster, fs_cluster_note out[FS_CLUSTER_MAX_NOTES]);

/* ---- what there is to see ---- */

/* NULL: none of that name, or it has left and has no experts. */
const fs_cluster_member *fs_cluster_find(const fs_cluster *cluster, const char *name);
/* A member that is shown: not one that has left and has no experts. */
bool fs_cluster_is_shown(const fs_cluster_member *member);
uint32_t fs_cluster_num_experts(const fs_cluster *cluster); /* layers x experts, 0 before the first member */
/* Experts without a replica that is ready (or draining, which still answers); all of them before the placement. */
uint32_t fs_cluster_unavailable(const fs_cluster *cluster);
/* What a placed node has. */
typedef struct {
    uint32_t assigned; /* experts that the placement gives it */
    uint32_t alone;    /* those of them that no other node answers */
} fs_cluster_share;
void fs_cluster_shares(const fs_cluster *cluster, fs_cluster_share *out); /* [num_placed] */
/* For a person: terminated lines, one behind the other: "expert node expert-1 is lost: 96 experts have no ready
 * replica". shares: as they are now. */
void fs_cluster_problems(const fs_cluster *cluster, const fs_cluster_share *shares, fs_buffer *lines);
/* FS_ASSERTs what always holds; for tests and the simulator. */
void fs_cluster_check(const fs_cluster *cluster);

/* ---- keeping it ---- */

/* Members, model and epochs; and, apart because it is large and seldom changes, the placement. */
void fs_cluster_save(const fs_cluster *cluster, fs_buffer *out);
void fs_cluster_save_assignment(const fs_cluster *cluster, fs_buffer *out);
/* Into a cluster that is new. assignment_size 0: none was saved. Living members count as heard of now. The epoch rises above the saved one.
 * FS_CORRUPT: the bytes; FS_INVALID: they are of a cluster with other options (replicas). Either leaves the cluster unusable but for fini. */
FS_MUST_USE fs_status fs_cluster_load(fs_cluster *cluster, const uint8_t *data, size_t size,
                                      const uint8_t *assignment, size_t assignment_size, int64_t now_ns,
                                      fs_detail *detail);

#endif
