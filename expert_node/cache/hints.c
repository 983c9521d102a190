/* expert_node/cache/hints.c: the uses that routers announced: for each key a list in order of time, from one pool; and a heap of the
 * keys that are announced and not in memory. */
#include <stdlib.h>

#include "cache/cache_int.h"

/* A pool for so many uses a key on average: one router, which may have FS_CACHE_KEY_USES of each, takes half of it at most. */
enum { POOL_PER_KEY = 2 * FS_CACHE_KEY_USES };

fs_status fs_cache_hints_create(fs_cache *c)
{
    c->num_uses = c->num_keys * POOL_PER_KEY;
    c->uses = calloc(c->num_uses, sizeof(*c->uses));
    c->heap = calloc(c->num_keys, sizeof(*c->heap));
    if (!c->uses || !c->heap) return FS_NO_MEMORY;
    c->free_use = FS_CACHE_NONE;
    for (uint32_t i = c->num_uses; i-- > 0;) {
        c->uses[i].next = c->free_use;
        c->free_use = i;
    }
    return FS_OK;
}

/* ---- the heap: the earliest first, of equals the lower key ---- */

static bool before(const fs_cache *c, uint32_t a, uint32_t b)
{
    int64_t at_a = c->uses[c->keys[a].hints].at_ns, at_b = c->uses[c->keys[b].hints].at_ns;
    return at_a != at_b ? at_a < at_b : a < b;
}

static void put(fs_cache *c, uint32_t at, uint32_t key)
{
    c->heap[at] = key;
    c->keys[key].heap_at = at;
}

static void sift_up(fs_cache *c, uint32_t at)
{
    uint32_t key = c->heap[at];
    for (; at > 0 && before(c, key, c->heap[(at - 1) / 2]); at = (at - 1) / 2)
        put(c, at, c->heap[(at - 1) / 2]);
    put(c, at, key);
}

static void sift_down(fs_cache *c, uint32_t at)
{
    uint32_t key = c->heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= c->heap_size) break;
        if (child + 1 < c->heap_size && before(c, c->heap[child + 1], c->heap[child])) child++;
        if (!before(c, c->heap[child], key)) break;
        put(c, at, c->heap[child]);
        at = child;
    }
    put(c, at, key);
}

static bool may_prefetch(const fs_cache *c, const fs_cache_key *k)
{
    return c->options.prefetch && k->state == FS_CACHE_ABSENT && k->wanted && k->hints != FS_CACHE_NONE &&
           k->bytes <= c->options.budget_bytes;
}

/* Its last key takes the place of the one that goes; the heap no longer looks at that one's time. */
static void heap_remove(fs_cache *c, uint32_t key)
{
    uint32_t at = c->keys[key].heap_at, last = c->heap[--c->heap_size];
    c->keys[key].heap_at = FS_CACHE_NONE;
    if (last == key) return;
    put(c, at, last);
    sift_up(c, at);
    sift_down(c, c->keys[last].heap_at);
}

void fs_cache_heap_update(fs_cache *c, uint32_t key)
{
    fs_cache_key *k = &c->keys[key];
    if (!may_prefetch(c, k)) {
        if (k->heap_at != FS_CACHE_NONE) heap_remove(c, key);
        return;
    }
    if (k->heap_at == FS_CACHE_NONE) put(c, c->heap_size++, key);
    sift_up(c, k->heap_at);
    sift_down(c, k->heap_at);
}

uint32_t fs_cache_heap_first(fs_cache *c, int64_t now_ns, int64_t *at_ns)
{
    while (c->heap_size > 0) {
        uint32_t key = c->heap[0];
        *at_ns = fs_cache_next_use(c, key, now_ns);
        if (*at_ns != FS_NEVER && c->heap[0] == key) return key;
    }
    return FS_CACHE_NONE;
}

/* ---- the lists ---- */

/* Takes the use that *link leads to out of its key's list. */
static void drop(fs_cache *c, uint32_t *link)
{
    uint32_t i = *link;
    c->stamp++;
    *link = c->uses[i].next;
    c->uses[i].next = c->free_use;
    c->free_use = i;
}

static bool too_old(const fs_cache *c, uint32_t key, int64_t at_ns, int64_t now_ns)
{
    int64_t grace = c->options.hint_grace_ns, period = c->layers[fs_cache_layer_of(c, key)].period_ns;
    if (period > 0 && 2 * period < grace) grace = 2 * period;
    return at_ns < now_ns && now_ns - at_ns > grace;
}

int64_t fs_cache_next_use(fs_cache *c, uint32_t key, int64_t now_ns)
{
    fs_cache_key *k = &c->keys[key];
    if (k->hints == FS_CACHE_NONE) return FS_NEVER;
    if (too_old(c, key, c->uses[k->hints].at_ns, now_ns)) {
        do drop(c, &k->hints);
        while (k->hints != FS_CACHE_NONE && too_old(c, key, c->uses[k->hints].at_ns, now_ns));
        fs_cache_heap_update(c, key);
    }
    return k->hints == FS_CACHE_NONE ? FS_NEVER : c->uses[k->hints].at_ns;
}

static void drop_router(fs_cache *c, uint32_t router, uint32_t key)
{
    fs_cache_key *k = &c->keys[key];
    uint32_t first = k->hints;
    for (uint32_t *link = &k->hints; *link != FS_CACHE_NONE;) {
        if (c->uses[*link].router == router)
            drop(c, link);
        else
            link = &c->uses[*link].next;
    }
    if (k->hints != first) fs_cache_heap_update(c, key);
}

void fs_cache_router_lost(fs_cache *c, uint32_t router)
{
    for (uint32_t key = 0; key < c->num_keys; key++) drop_router(c, router, key);
}

/* The visit after this one comes a period later: an announcement for a time before that is for this one, though it was dated a
 * little too late. */
void fs_cache_hint_came_true(fs_cache *c, uint32_t router, uint32_t key, int64_t now_ns)
{
    fs_cache_key *k = &c->keys[key];
    int64_t slack = c->layers[fs_cache_layer_of(c, key)].period_ns / 4 * 3;
    for (uint32_t *link = &k->hints; *link != FS_CACHE_NONE; link = &c->uses[*link].next) {
        const fs_cache_use *use = &c->uses[*link];
        if (use->router != router) continue;
        if (use->at_ns > now_ns && use->at_ns - now_ns > slack) return;
        bool first = link == &k->hints;
        drop(c, link);
        if (first) fs_cache_heap_update(c, key);
        return;
    }
}

/* Where a use at that time belongs in the list; NULL: the router has as many as it may. */
static uint32_t *place_of(fs_cache *c, uint32_t router, fs_cache_key *k, int64_t at_ns)
{
    uint32_t *place = NULL, of_router = 0, *link = &k->hints;
    for (; *link != FS_CACHE_NONE; link = &c->uses[*link].next) {
        if (!place && c->uses[*link].at_ns > at_ns) place = link;
        of_router += c->uses[*link].router == router;
    }
    if (of_router >= FS_CACHE_KEY_USES) return NULL;
    return place ? place : link;
}

static bool add(fs_cache *c, uint32_t router, uint32_t key, int64_t at_ns, int64_t now_ns)
{
    fs_cache_key *k = &c->keys[key];
    fs_cache_next_use(c, key, now_ns); /* makes room */
    if (too_old(c, key, at_ns, now_ns)) return false;
    if (c->free_use == FS_CACHE_NONE) return false;
    uint32_t *place = place_of(c, router, k, at_ns);
    if (!place) return false;
    uint32_t i = c->free_use;
    c->free_use = c->uses[i].next;
    c->uses[i] = (fs_cache_use){at_ns, router, *place};
    *place = i;
    c->stamp++;
    if (k->hints == i) fs_cache_heap_update(c, key);
    return true;
}

bool fs_cache_hint(fs_cache *c, uint32_t router, uint32_t key, int64_t at_ns, int64_t now_ns)
{
    FS_ASSERT(key < c->num_keys);
    bool kept = router != FS_CACHE_NO_ROUTER;
    if (kept && at_ns == FS_NEVER)
        drop_router(c, router, key);
    else if (kept)
        kept = add(c, router, key, at_ns, now_ns);
    c->stats.hints += kept;
    c->stats.refused_hints += !kept;
    return kept;
}

void fs_cache_hints_check(const fs_cache *c)
{
    uint32_t kept = 0, candidates = 0, unused = 0;
    for (uint32_t key = 0; key < c->num_keys; key++) {
        const fs_cache_key *k = &c->keys[key];
        for (uint32_t i = k->hints; i != FS_CACHE_NONE; i = c->uses[i].next, kept++)
            FS_ASSERT(c->uses[i].next == FS_CACHE_NONE || c->uses[i].at_ns <= c->uses[c->uses[i].next].at_ns);
        FS_ASSERT((k->heap_at != FS_CACHE_NONE) == may_prefetch(c, k));
        candidates += k->heap_at != FS_CACHE_NONE;
    }
    FS_ASSERT(candidates == c->heap_size);
    for (uint32_t i = 0; i < c->heap_size; i++) {
        FS_ASSERT(c->keys[c->heap[i]].heap_at == i);
        FS_ASSERT(i == 0 || !before(c, c->heap[i], c->heap[(i - 1) / 2]));
    }
    for (uint32_t i = c->free_use; i != FS_CACHE_NONE; i = c->uses[i].next) unused++;
    FS_ASSERT(kept + unused == c->num_uses);
}
