/* expert_node/cache/cache.h: which experts a node keeps in a memory that does not hold them all: what is loaded next, and what makes
 * room. A core without input and output: no thread, clock, file, or memory after create. Thread: one.
 * Next uses are known from the routers' hints (Read-ME, arXiv 2410.19123, section 4: with routes known in advance the cache comes
 * near Belady's optimum, IBM Systems Journal 5(2), 1966: let go what is used furthest in the future). */
#ifndef FS_CACHE_CACHE_H
#define FS_CACHE_CACHE_H

#include "base/clock.h"
#include "base/status.h"

/* What is let go first, of what is neither in use nor being loaded:
 *   LRU        what was used longest ago
 *   LFU        what was used least often since the start; then as LRU
 *   LFRU       the smallest uses / age: uses since it came into memory, age in uses of anything (as proposed for vLLM, its pull
 *              request 37190)
 *   LOOKAHEAD  what is used furthest in the future: by the routers' hints, or, of what has none, by an estimate: when its layer comes
 *              round next, and how often the layer's visits used it lately. The only one that prefetches. */
typedef enum {
    FS_CACHE_LRU,
    FS_CACHE_LFU,
    FS_CACHE_LFRU,
    FS_CACHE_LOOKAHEAD,
    FS_CACHE_NUM_POLICIES
} fs_cache_policy;
/* "lru", "lfu", "lfru", "lookahead". */
const char *fs_cache_policy_name(fs_cache_policy policy);
/* FS_NOT_FOUND: no policy has that name. */
FS_MUST_USE fs_status fs_cache_policy_find(const char *name, fs_cache_policy *out);

#define FS_CACHE_NO_LIMIT UINT64_MAX
/* A router, as the owner numbers those that it has; FS_CACHE_NO_ROUTER: one whose hints are not kept. */
#define FS_CACHE_NO_ROUTER UINT32_MAX
/* Uses of one key that are kept of one router; more are refused. */
#define FS_CACHE_KEY_USES 4u

typedef struct {
    fs_cache_policy policy;
    bool prefetch;             /* LOOKAHEAD: hinted keys are loaded before they are asked for */
    uint32_t num_layers;       /* MoE layers */
    uint32_t num_experts;      /* of each; key = layer * num_experts + expert */
    const uint64_t *key_bytes; /* [num_layers * num_experts], each at least 1; copied */
    uint64_t budget_bytes;     /* FS_CACHE_NO_LIMIT: none */
    uint32_t
        max_loads; /* under way at once, at least 1; prefetches leave one of them free where there are two */
    int64_t
        hint_grace_ns; /* a hint that did not come true is believed for so long after its time at most, and for two
                              periods of its layer's visits where that is known */
} fs_cache_options;

typedef struct fs_cache fs_cache;
FS_MUST_USE fs_status fs_cache_create(const fs_cache_options *options, fs_cache **out);
void fs_cache_destroy(fs_cache *cache);

/* ---- events; after each (or several) the owner carries out what fs_cache_next says ---- */

/* Which keys may be in memory: wanted [keys], nonzero where so. What is there and not wanted is let go, once it is not in use; a
 * key that could not be loaded may be tried again. If all that is wanted fits in the budget, all of it is loaded unasked. */
void fs_cache_assign(fs_cache *cache, const uint8_t *wanted);
/* Less than before: what is not in use is let go; nothing is loaded until the rest is within it. */
void fs_cache_set_budget(fs_cache *cache, uint64_t budget_bytes);

typedef enum {
    FS_CACHE_HIT, /* in memory */
    FS_CACHE_WAIT, /* it is being loaded, or is in the queue for that: the owner's load will end, well or not */
    FS_CACHE_FAILED,    /* its load failed; not claimed */
    FS_CACHE_FOREIGN,   /* not wanted; not claimed */
    FS_CACHE_TOO_LARGE, /* larger than the whole budget; not claimed */
} fs_cache_answer;
/* A router's rows come for a layer; then a claim for each of their experts. A claimed key stays in memory, or comes there, until
 * each claim is released. The use that the router announced for this time is taken off its hints. */
void fs_cache_visit(fs_cache *cache, uint32_t layer, int64_t now_ns);
fs_cache_answer fs_cache_claim(fs_cache *cache, uint32_t router, uint32_t key, int64_t now_ns);
void fs_cache_release(fs_cache *cache, uint32_t key);
/* One more claim on a key that is in memory, or was when it was claimed; counted nowhere. */
void fs_cache_hold(fs_cache *cache, uint32_t key);
bool fs_cache_is_resident(const fs_cache *cache, uint32_t key);

/* The router will use the key at a time (of the owner's clock), beside what it announced before; FS_NEVER: all it announced for the
 * key is void. false: not kept, for it is too late, or too many. */
bool fs_cache_hint(fs_cache *cache, uint32_t router, uint32_t key, int64_t at_ns, int64_t now_ns);
void fs_cache_router_lost(fs_cache *cache, uint32_t router);

/* The load of a key has ended. ok: its bytes are in memory, verified. */
void fs_cache_loaded(fs_cache *cache, uint32_t key, bool ok);

/* ---- actions ---- */

typedef enum {
    FS_CACHE_EVICT, /* its memory is free from now on; nobody uses it */
    FS_CACHE_LOAD,  /* begins; fs_cache_loaded ends it */
    FS_CACHE_HURRY, /* a load that was begun without need is needed now */
} fs_cache_act;
typedef struct {
    fs_cache_act act;
    uint32_t key;
    bool urgent; /* LOAD: rows wait for it */
} fs_cache_action;
/* The next thing to do; false: nothing. Asked until then. Demanded keys come first, in the order in which they were first claimed;
 * then prefetches by their next use, which push out only what is used later than they are; then what else is wanted, if all of it fits. */
bool fs_cache_next(fs_cache *cache, int64_t now_ns, fs_cache_action *out);

/* ---- what is known of it ---- */

typedef struct {
    uint64_t hits, misses; /* claims of keys that were in memory, or were nowhere */
    uint64_t late;         /* claims of keys whose prefetch was under way */
    uint64_t joined;       /* claims of keys that others wait for */
    uint64_t loads, failed_loads, evictions;
    uint64_t prefetches;
    uint64_t loaded_bytes;     /* of all loads that ended well */
    uint64_t prefetched_bytes; /* of those that were begun as prefetches */
    uint64_t wasted_bytes;     /* of those that were let go before they were used */
    uint64_t hints, refused_hints;
    uint64_t resident_bytes, loading_bytes, budget_bytes, wanted_bytes; /* now */
    uint32_t resident, loading, queued, wanted, failed; /* keys, now; failed of those that are wanted */
    uint32_t leaving;                                   /* of resident: no longer wanted, still in use */
    uint32_t too_large;                                 /* wanted keys that are larger than the budget */
} fs_cache_stats;
void fs_cache_get_stats(const fs_cache *cache, fs_cache_stats *out);
/* Whether all that is wanted fits, so that it is loaded unasked. */
bool fs_cache_all_fits(const fs_cache *cache);

/* Asserts what always holds; for tests and the simulator. */
void fs_cache_check(const fs_cache *cache);

#endif
