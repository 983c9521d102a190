/* expert_node/store/store.h: the experts that this node holds: what the placement assigns, opened and verified on a thread of
 * the store's own, dropped when it is assigned no more. Thread: loop, everything here, callbacks included. */
#ifndef FS_STORE_STORE_H
#define FS_STORE_STORE_H

#include <uv.h>

#include "model/config.h"
#include "sub1/expert.h"

typedef struct fs_store fs_store;
typedef struct fs_held fs_held; /* an expert in memory, verified */

typedef struct {
    const char *dir;       /* the model directory; borrowed for the call */
    uint64_t memory_bytes; /* experts beyond it are not loaded and become a problem; 0: no limit */
    uint32_t load_threads; /* at least 1 */
    void (*on_change)(
        void *
            arg); /* what fs_store_stats tells has changed; never from inside a call of this header. May be NULL */
    void *arg;
} fs_store_options;

/* Opens the model's files and finds every expert in them; reads the first one's bytes, and the last one's if that fails: a model
 * of which neither opens is refused (FS_CORRUPT, FS_UNSUPPORTED). Blocks: before the loop runs.
 * Every status of fs_model_config_load, fs_tensors_open and fs_expert_find; the detail names file and tensor. */
FS_MUST_USE fs_status fs_store_create(uv_loop_t *loop, const fs_store_options *options, fs_store **out,
                                      fs_detail *detail);
/* No expert may be in use. Waits for the load under way; the loop must run once more. NULL is allowed. */
void fs_store_destroy(fs_store *store);

const fs_model_config *fs_store_config(const fs_store *store);
uint64_t fs_store_fingerprint(const fs_store *store);
uint64_t fs_store_expert_bytes(const fs_store *store); /* of the largest expert */
uint32_t fs_store_num_experts(const fs_store *store);  /* of all MoE layers together */

/* A number below fs_store_num_experts for an expert. layer: decoder layer number. FS_INVALID: no such layer or expert. */
FS_MUST_USE fs_status fs_store_key(const fs_store *store, uint32_t layer, uint32_t expert, uint32_t *key);

/* What the placement gives to this node: wanted [num_moe_layers][num_experts], nonzero where it does. What is held and not
 * wanted is dropped at once (memory follows when its last user has released it); what is wanted and not held begins to
 * load, lower layers first. epoch: of the assignment. */
void fs_store_assign(fs_store *store, uint64_t epoch, const uint8_t *wanted);

/* The expert, to be given back with fs_store_release. FS_MOVED: not assigned, or not loaded yet; FS_CORRUPT: its bytes failed
 * the check, or its file could not be read as what it should be. */
FS_MUST_USE fs_status fs_store_acquire(fs_store *store, uint32_t key, fs_held **out);
void fs_store_release(fs_held *held);
const fs_expert *fs_held_expert(const fs_held *held);

typedef struct {
    uint64_t epoch;       /* of the last assignment; 0: none yet */
    uint64_t ready_epoch; /* of the last assignment that was loaded and verified wholly */
    uint32_t assigned, loaded, failed;
    uint64_t bytes_loaded;
    const char *
        problem; /* what stands in the way of ready, for a person; "": nothing. Borrowed until the loop goes on */
} fs_store_stats;
void fs_store_get_stats(const fs_store *store, fs_store_stats *out);

#endif
