/* expert_node/cache/cache_int.h: the state that the cache's parts share: cache.c has events and actions, hints.c the announced
 * uses and the line of prefetches, victim.c the policies. */
#ifndef FS_CACHE_CACHE_INT_H
#define FS_CACHE_CACHE_INT_H

#include "cache/cache.h"

#define FS_CACHE_NONE UINT32_MAX
enum { FS_CACHE_POWERS = 2048 };

typedef enum {
    FS_CACHE_ABSENT,
    FS_CACHE_QUEUED, /* claimed, and its load has not begun */
    FS_CACHE_LOADING,
    FS_CACHE_RESIDENT,
    FS_CACHE_BROKEN /* its load failed */
} fs_cache_state;

typedef struct {
    uint64_t bytes;
    uint64_t uses, resident_uses,
        last_use;                /* claims: of all time, since it came into memory; clock of the last */
    uint64_t rate_visit;         /* of its layer, when the rates were right */
    double slow_rate, fast_rate; /* see victim.c */
    uint64_t next_stamp;         /* next_ns is right while it is the cache's stamp */
    int64_t next_ns;             /* when it is thought to be used next */
    uint32_t claims;
    uint32_t hints;       /* its announced uses, earliest first; FS_CACHE_NONE */
    uint32_t next, prev;  /* the demand queue, in it exactly while QUEUED */
    uint32_t resident_at; /* in the array of residents */
    uint32_t heap_at;     /* in the heap of prefetches */
    uint8_t state;        /* fs_cache_state */
    bool wanted;
    bool unused;   /* came as a prefetch, or comes, and was not claimed since */
    bool needed;   /* LOADING: somebody waits, or did when it began */
    bool hurrying; /* LOADING as a prefetch and claimed: the owner is to be told */
} fs_cache_key;

typedef struct {
    int64_t at_ns;
    uint32_t router, next;
} fs_cache_use;

typedef struct {
    uint64_t visits;
    int64_t last_ns, period_ns; /* of its last visit; between visits, lately; 0: not known */
    int64_t hinted_ns;          /* earliest announced use of one of its keys; while victims are compared */
} fs_cache_layer;

struct fs_cache {
    fs_cache_options options; /* key_bytes NULL */
    uint32_t num_keys;
    fs_cache_key *keys;
    fs_cache_layer *layers;
    fs_cache_use *uses; /* a pool, free ones linked */
    uint32_t num_uses, free_use;
    uint32_t *resident; /* [num_resident] keys */
    uint32_t *loading;  /* [num_loading] keys */
    uint32_t *heap;     /* [heap_size] keys that may be prefetched, by their earliest announced use */
    uint32_t num_resident, num_loading, heap_size;
    uint32_t queue_head, queue_tail;
    uint32_t fill_next;   /* keys below it need no look when all is loaded */
    uint32_t num_leaving; /* resident and not wanted */
    uint32_t num_hurrying;
    uint32_t loads_begun;               /* LOADING and not needed: prefetches and fills under way */
    double fast_share;                  /* see victim.c */
    double slow_power[FS_CACHE_POWERS]; /* [n] a slow average's decay over n visits */
    uint64_t stamp;        /* another one whenever something changes when keys are thought to be used next */
    int64_t stamp_ns;      /* for which time it is */
    uint64_t looked_stamp; /* for which layers' hinted_ns are right */
    uint64_t clock;        /* claims */
    uint64_t
        most_bytes; /* resident and loading may be so many: the budget, or what it was before it shrank */
    fs_cache_stats stats;
};

/* ---- hints.c ---- */

FS_MUST_USE fs_status fs_cache_hints_create(fs_cache *cache);
/* The earliest announced use that is believed at now_ns, or FS_NEVER; what is too old is forgotten. */
int64_t fs_cache_next_use(fs_cache *cache, uint32_t key, int64_t now_ns);
/* The router uses the key now: takes its announcement of that off. */
void fs_cache_hint_came_true(fs_cache *cache, uint32_t router, uint32_t key, int64_t now_ns);
/* Puts the key into the heap of prefetches, or takes it out, as its state asks; after every change of that. */
void fs_cache_heap_update(fs_cache *cache, uint32_t key);
/* The key to prefetch first, and its use; FS_CACHE_NONE: none. */
uint32_t fs_cache_heap_first(fs_cache *cache, int64_t now_ns, int64_t *at_ns);
void fs_cache_hints_check(const fs_cache *cache);

/* ---- victim.c ---- */

void fs_cache_victims_init(fs_cache *cache);
void fs_cache_visited(fs_cache *cache, uint32_t layer, int64_t now_ns);
void fs_cache_used(fs_cache *cache, uint32_t key);
/* What to let go first so that so many more bytes fit; FS_CACHE_NONE: they cannot, or only without what is used at before_ns or
 * sooner. For demands before_ns is INT64_MIN. */
uint32_t fs_cache_victim(fs_cache *cache, uint64_t bytes, int64_t before_ns, int64_t now_ns);
/* What to let go first, whether that is enough or not; FS_CACHE_NONE: all is in use. */
uint32_t fs_cache_any_victim(fs_cache *cache, int64_t now_ns);

static inline uint32_t fs_cache_layer_of(const fs_cache *cache, uint32_t key)
{
    return key / cache->options.num_experts;
}

#endif
