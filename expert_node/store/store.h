/* expert_node/store/store.h: the experts that this node holds: what the placement assigns, read and verified off the loop. Without a limit
 * of memory all of it is opened where it lies in the mapped files; with one it is read into memory, all of it if it fits, else what the
 * cache chooses. Thread: loop, everything here, callbacks included. */
#ifndef FS_STORE_STORE_H
#define FS_STORE_STORE_H

#include <uv.h>

#include "cache/cache.h"
#include "model/config.h"
#include "sub1/expert.h"

typedef struct fs_store fs_store;
typedef struct fs_held fs_held; /* an expert in memory, verified */

typedef struct {
    const char *dir;        /* the model directory; borrowed for the call */
    uint64_t memory_bytes;  /* for experts, never exceeded; 0: no limit, and files are mapped */
    fs_cache_policy policy; /* of what stays, where not all fits */
    uint32_t load_threads;  /* that verify, at least 1 */
    /* What fs_store_stats tells has changed; never from inside a call of this header. May be NULL. */
    void (*on_change)(void *arg);
    void *arg;
} fs_store_options;

/* Opens the model's files and finds every expert in them; reads the first one's bytes, and the last one's if that fails: a model
 * of which neither opens is refused (FS_CORRUPT, FS_UNSUPPORTED). Blocks: before the loop runs.
 * Every status of fs_model_config_load, fs_tensors_open and fs_expert_find; the detail names file and tensor. */
FS_MUST_USE fs_status fs_store_create(uv_loop_t *loop, const fs_store_options *options, fs_store **out,
                                      fs_detail *detail);
/* No expert may be in use. Waits for the loads under way; the loop must run once more. NULL is allowed. */
void fs_store_destroy(fs_store *store);

const fs_model_config *fs_store_config(const fs_store *store);
uint64_t fs_store_fingerprint(const fs_store *store);
uint64_t fs_store_expert_bytes(const fs_store *store); /* of the largest expert */
uint32_t fs_store_num_experts(const fs_store *store);  /* of all MoE layers together */

/* A number below fs_store_num_experts for an expert. layer: decoder layer number. FS_INVALID: no such layer or expert. */
FS_MUST_USE fs_status fs_store_key(const fs_store *store, uint32_t layer, uint32_t expert, uint32_t *key);

/* What the placement gives to this node: wanted [num_moe_layers][num_experts], nonzero where it does. What is held and not
 * wanted is dropped at once (memory follows when its last user has released it); what is wanted and not held begins to
 * load, lower layers first, if all of it fits. epoch: of the assignment. */
void fs_store_assign(fs_store *store, uint64_t epoch, const uint8_t *wanted);

/* ---- rows that come ---- */

/* Who is told when a claimed expert that was not ready is: it is in memory, or never will be (fs_store_acquire tells). From the loop, never from
 * inside a call of this header but fs_store_assign. */
void fs_store_on_key(fs_store *store, void (*on_key)(void *arg, uint32_t key), void *arg);
/* A router's rows have come for a layer; claims for their experts follow, then fs_store_go. */
void fs_store_visit(fs_store *store, uint32_t layer);
/* The expert stays in memory, or comes there before what nobody waits for, until fs_store_unclaim. *ready: it is there. router: as in
 * fs_cache_claim. FS_MOVED: not assigned; FS_CORRUPT: its bytes failed the check, or its file could not be read as what it should be;
 * FS_EXHAUSTED: it is larger than the memory. Nothing is claimed then. */
FS_MUST_USE fs_status fs_store_claim(fs_store *store, uint32_t router, uint32_t key, bool *ready);
void fs_store_unclaim(fs_store *store, uint32_t key);
/* The router will use the expert at a time of the system's clock; FS_NEVER: what it announced is void. See fs_cache_hint. */
void fs_store_hint(fs_store *store, uint32_t router, uint32_t key, int64_t at_ns);
void fs_store_router_lost(fs_store *store, uint32_t router);
/* Begins the loads that follow from all that was told since. */
void fs_store_go(fs_store *store);
/* Whether hints are of any use: not everything that is assigned fits in memory, and the policy looks at them. */
bool fs_store_wants_hints(const fs_store *store);

/* ---- use ---- */

/* The expert, to be given back with fs_store_release. FS_MOVED: not assigned, or not in memory (yet, or any more unless it is
 * claimed); FS_CORRUPT: as above. */
FS_MUST_USE fs_status fs_store_acquire(fs_store *store, uint32_t key, fs_held **out);
void fs_store_release(fs_held *held);
const fs_expert *fs_held_expert(const fs_held *held);

typedef struct {
    uint64_t epoch; /* of the last assignment; 0: none yet */
    /* Of the last assignment that can be served: all of it was loaded and verified, or, where it does not fit, each expert is loaded and
     * verified when it is asked for. */
    uint64_t ready_epoch;
    uint32_t assigned, loaded, failed;
    uint64_t bytes_loaded; /* in memory now */
    const char *
        problem; /* what stands in the way of ready, for a person; "": nothing. Borrowed until the loop goes on */
    fs_cache_stats cache;
} fs_store_stats;
void fs_store_get_stats(const fs_store *store, fs_store_stats *out);

#endif
