/* expert_node/store/store_int.h: what the halves of the store share: store.c knows which experts are held, source.c how one is brought. */
#ifndef FS_STORE_STORE_INT_H
#define FS_STORE_STORE_INT_H

#include "base/worker.h"
#include "loader/loader.h"
#include "model/safetensors.h"
#include "store/store.h"
#include "sub1/files.h"

/* In memory from its load until it is evicted; each user is a claim in the cache. */
struct fs_held {
    fs_store *store;
    uint32_t key;
    fs_expert expert;
    void *widened;  /* memory of float16 parts */
    uint8_t *bytes; /* what was read; NULL: the files' mapping is used */
};

/* A load under way. Its memory, and after the load its result, are in held. */
typedef struct fs_store_load {
    fs_load load; /* first: through the loader */
    fs_job job;   /* or on the mapping */
    fs_store *store;
    struct fs_store_load *next_free;
    fs_expert_range range;
    fs_held *held; /* NULL: the load is free */
    fs_status status;
    fs_detail detail;
} fs_store_load;

struct fs_store {
    fs_model_config config;
    fs_tensors *tensors;
    uint64_t fingerprint, expert_bytes, memory_bytes;
    uint32_t num_keys, load_threads;
    int16_t moe_index[FS_MAX_LAYERS]; /* decoder layer -> MoE layer, or -1 */
    fs_cache_policy policy;
    fs_cache *cache;
    fs_held **held;                   /* [num_keys] NULL: not in memory */
    uint8_t *state;                   /* [num_keys] bits of store.c */
    fs_loader *loader;                /* with a limit of memory */
    fs_worker *worker;                /* without */
    fs_store_load *loads, *free_load; /* [num_loads] */
    uint32_t num_loads;
    uv_idle_t later; /* runs fs_store_go once */
    uint64_t epoch, ready_epoch;
    int64_t assigned_at_ns;
    char first_failure[512];
    char problem[640];
    void (*on_change)(void *arg);
    void *arg;
    void (*on_key)(void *arg, uint32_t key);
    void *on_key_arg;
};

/* store.c: a load has ended; load->held is the store's or, after a failure, to be freed. */
void fs_store_loaded(fs_store_load *load);
uint32_t fs_store_layer_of(const fs_store *store, uint32_t key);
uint32_t fs_store_expert_of(const fs_store *store, uint32_t key);

/* source.c */
/* num_loads at once. Opens the files that experts lie in. */
FS_MUST_USE fs_status fs_store_open_source(fs_store *store, uv_loop_t *loop, uint32_t num_loads,
                                           fs_detail *detail);
void fs_store_close_source(fs_store *store);
/* Memory that the expert takes. */
uint64_t fs_store_bytes_of(const fs_store *store, const fs_expert_range *range);
void fs_store_begin(fs_store *store, uint32_t key, bool urgent);
void fs_store_hurry(fs_store *store, uint32_t key);
/* What was begun is on its way. */
void fs_store_flush(fs_store *store);
void fs_held_free(fs_held *held);

#endif
