/* expert_node/cache/cache.c: events and actions of the cache. */
#include "cache/cache.h"

#include <stdlib.h>
#include <string.h>

#include "cache/cache_int.h"

static const char *const names[FS_CACHE_NUM_POLICIES] = {"lru", "lfu", "lfru", "lookahead"};

const char *fs_cache_policy_name(fs_cache_policy policy)
{
    return policy < FS_CACHE_NUM_POLICIES ? names[policy] : "unknown";
}

fs_status fs_cache_policy_find(const char *name, fs_cache_policy *out)
{
    for (int i = 0; i < FS_CACHE_NUM_POLICIES; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (fs_cache_policy)i;
        return FS_OK;
    }
    return FS_NOT_FOUND;
}

/* ---- life ---- */

static fs_status create_parts(fs_cache *c, const uint64_t *key_bytes)
{
    c->keys = calloc(c->num_keys, sizeof(*c->keys));
    c->layers = calloc(c->options.num_layers, sizeof(*c->layers));
    c->resident = calloc(c->num_keys, sizeof(*c->resident));
    c->loading = calloc(c->options.max_loads, sizeof(*c->loading));
    if (!c->keys || !c->layers || !c->resident || !c->loading) return FS_NO_MEMORY;
    for (uint32_t key = 0; key < c->num_keys; key++) {
        FS_ASSERT(key_bytes[key] > 0);
        c->keys[key] = (fs_cache_key){.bytes = key_bytes[key],
                                      .hints = FS_CACHE_NONE,
                                      .next = FS_CACHE_NONE,
                                      .prev = FS_CACHE_NONE,
                                      .heap_at = FS_CACHE_NONE};
    }
    return fs_cache_hints_create(c);
}

fs_status fs_cache_create(const fs_cache_options *options, fs_cache **out)
{
    FS_ASSERT(options->num_layers > 0 && options->num_experts > 0 && options->max_loads > 0);
    FS_ASSERT(options->policy < FS_CACHE_NUM_POLICIES && options->hint_grace_ns >= 0);
    fs_cache *c = calloc(1, sizeof(*c));
    if (!c) return FS_NO_MEMORY;
    c->options = *options;
    c->options.key_bytes = NULL;
    c->options.prefetch = options->prefetch && options->policy == FS_CACHE_LOOKAHEAD;
    c->num_keys = options->num_layers * options->num_experts;
    c->queue_head = c->queue_tail = FS_CACHE_NONE;
    c->most_bytes = options->budget_bytes;
    fs_cache_victims_init(c);
    if (create_parts(c, options->key_bytes) != FS_OK) {
        fs_cache_destroy(c);
        return FS_NO_MEMORY;
    }
    *out = c;
    return FS_OK;
}

void fs_cache_destroy(fs_cache *c)
{
    if (!c) return;
    free(c->keys);
    free(c->layers);
    free(c->uses);
    free(c->resident);
    free(c->loading);
    free(c->heap);
    free(c);
}

/* ---- the demand queue ---- */

static void enqueue(fs_cache *c, uint32_t key)
{
    fs_cache_key *k = &c->keys[key];
    k->state = FS_CACHE_QUEUED;
    k->next = FS_CACHE_NONE;
    k->prev = c->queue_tail;
    if (c->queue_tail != FS_CACHE_NONE)
        c->keys[c->queue_tail].next = key;
    else
        c->queue_head = key;
    c->queue_tail = key;
    c->stats.queued++;
    fs_cache_heap_update(c, key);
}

/* It is ABSENT then. */
static void dequeue(fs_cache *c, uint32_t key)
{
    fs_cache_key *k = &c->keys[key];
    if (k->prev != FS_CACHE_NONE)
        c->keys[k->prev].next = k->next;
    else
        c->queue_head = k->next;
    if (k->next != FS_CACHE_NONE)
        c->keys[k->next].prev = k->prev;
    else
        c->queue_tail = k->prev;
    k->state = FS_CACHE_ABSENT;
    c->stats.queued--;
    if (key < c->fill_next) c->fill_next = key;
    fs_cache_heap_update(c, key);
}

/* ---- what is wanted ---- */

static uint64_t held_bytes(const fs_cache *c)
{
    return c->stats.resident_bytes + c->stats.loading_bytes;
}

static void want(fs_cache *c, uint32_t key, bool wanted)
{
    fs_cache_key *k = &c->keys[key];
    if (k->state == FS_CACHE_RESIDENT) c->num_leaving += (uint32_t)k->wanted - (uint32_t)wanted;
    if (k->state == FS_CACHE_BROKEN) {
        k->state = FS_CACHE_ABSENT;
        c->stats.failed -= k->wanted;
    }
    k->wanted = wanted;
    if (k->state == FS_CACHE_QUEUED && !wanted)
        dequeue(c, key); /* its claims' owner is told by whoever assigned */
    fs_cache_heap_update(c, key);
}

/* A sum of sizes that does not fit in 64 bits is as good as the largest. */
static void count_wanted(fs_cache *c)
{
    c->stats.wanted = c->stats.too_large = 0;
    c->stats.wanted_bytes = 0;
    for (uint32_t key = 0; key < c->num_keys; key++) {
        const fs_cache_key *k = &c->keys[key];
        if (!k->wanted) continue;
        c->stats.wanted++;
        c->stats.too_large += k->bytes > c->options.budget_bytes;
        if (__builtin_add_overflow(c->stats.wanted_bytes, k->bytes, &c->stats.wanted_bytes))
            c->stats.wanted_bytes = UINT64_MAX;
    }
}

void fs_cache_assign(fs_cache *c, const uint8_t *wanted)
{
    for (uint32_t key = 0; key < c->num_keys; key++) want(c, key, wanted[key] != 0);
    c->fill_next = 0;
    count_wanted(c);
}

void fs_cache_set_budget(fs_cache *c, uint64_t budget_bytes)
{
    c->options.budget_bytes = budget_bytes;
    c->most_bytes = held_bytes(c) > budget_bytes ? held_bytes(c) : budget_bytes;
    for (uint32_t key = 0; key < c->num_keys; key++) {
        const fs_cache_key *k = &c->keys[key];
        if (k->state == FS_CACHE_QUEUED && k->bytes > budget_bytes) dequeue(c, key);
        fs_cache_heap_update(c, key);
    }
    c->fill_next = 0;
    count_wanted(c);
}

bool fs_cache_all_fits(const fs_cache *c)
{
    return c->stats.wanted_bytes <= c->options.budget_bytes;
}

/* ---- use ---- */

void fs_cache_visit(fs_cache *c, uint32_t layer, int64_t now_ns)
{
    FS_ASSERT(layer < c->options.num_layers);
    fs_cache_visited(c, layer, now_ns);
}

static fs_cache_answer demand(fs_cache *c, uint32_t key)
{
    fs_cache_key *k = &c->keys[key];
    switch (k->state) {
    case FS_CACHE_RESIDENT: c->stats.hits++; return FS_CACHE_HIT;
    case FS_CACHE_QUEUED: c->stats.joined++; return FS_CACHE_WAIT;
    case FS_CACHE_LOADING:
        c->stats.joined += k->needed;
        c->stats.late += !k->needed;
        if (k->needed) return FS_CACHE_WAIT;
        k->needed = k->hurrying = true;
        c->num_hurrying++;
        c->loads_begun--;
        return FS_CACHE_WAIT;
    default:
        c->stats.misses++;
        enqueue(c, key);
        return FS_CACHE_WAIT;
    }
}

fs_cache_answer fs_cache_claim(fs_cache *c, uint32_t router, uint32_t key, int64_t now_ns)
{
    FS_ASSERT(key < c->num_keys);
    fs_cache_key *k = &c->keys[key];
    fs_cache_used(c, key);
    fs_cache_hint_came_true(c, router, key, now_ns);
    if (!k->wanted) return FS_CACHE_FOREIGN;
    if (k->state == FS_CACHE_BROKEN) return FS_CACHE_FAILED;
    if (k->state == FS_CACHE_ABSENT && k->bytes > c->options.budget_bytes) return FS_CACHE_TOO_LARGE;
    fs_cache_answer answer = demand(c, key);
    k->claims++;
    k->unused = false;
    return answer;
}

void fs_cache_hold(fs_cache *c, uint32_t key)
{
    FS_ASSERT(c->keys[key].claims > 0 || c->keys[key].state == FS_CACHE_RESIDENT);
    c->keys[key].claims++;
}

void fs_cache_release(fs_cache *c, uint32_t key)
{
    fs_cache_key *k = &c->keys[key];
    FS_ASSERT(k->claims > 0);
    k->claims--;
    if (k->claims == 0 && k->state == FS_CACHE_QUEUED) dequeue(c, key); /* nobody waits any more */
}

bool fs_cache_is_resident(const fs_cache *c, uint32_t key)
{
    return c->keys[key].state == FS_CACHE_RESIDENT;
}

/* ---- loads ---- */

static void end_loading(fs_cache *c, uint32_t key)
{
    fs_cache_key *k = &c->keys[key];
    uint32_t i = 0;
    while (c->loading[i] != key) i++;
    c->loading[i] = c->loading[--c->num_loading];
    c->stats.loading_bytes -= k->bytes;
    c->loads_begun -= !k->needed;
    c->num_hurrying -= k->hurrying;
    k->hurrying = false;
}

/* Of one that came unasked and goes unused. */
static void count_waste(fs_cache *c, fs_cache_key *k)
{
    if (k->unused) c->stats.wasted_bytes += k->bytes;
    k->unused = false;
}

void fs_cache_loaded(fs_cache *c, uint32_t key, bool ok)
{
    fs_cache_key *k = &c->keys[key];
    FS_ASSERT(key < c->num_keys && k->state == FS_CACHE_LOADING);
    end_loading(c, key);
    if (!ok) {
        k->state = FS_CACHE_BROKEN;
        k->unused = false;
        c->stats.failed_loads++;
        c->stats.failed += k->wanted;
        return;
    }
    k->state = FS_CACHE_RESIDENT;
    k->resident_at = c->num_resident;
    c->resident[c->num_resident++] = key;
    c->num_leaving += !k->wanted;
    c->stats.resident_bytes += k->bytes;
    c->stats.loaded_bytes += k->bytes;
}

/* ---- actions ---- */

static fs_cache_action evict(fs_cache *c, uint32_t key)
{
    fs_cache_key *k = &c->keys[key];
    FS_ASSERT(k->state == FS_CACHE_RESIDENT && k->claims == 0);
    uint32_t last = c->resident[--c->num_resident];
    c->resident[k->resident_at] = last;
    c->keys[last].resident_at = k->resident_at;
    c->num_leaving -= !k->wanted;
    c->stats.resident_bytes -= k->bytes;
    c->stats.evictions++;
    count_waste(c, k);
    k->state = FS_CACHE_ABSENT;
    k->resident_uses = 0;
    if (key < c->fill_next) c->fill_next = key;
    fs_cache_heap_update(c, key);
    return (fs_cache_action){FS_CACHE_EVICT, key, false};
}

static fs_cache_action load(fs_cache *c, uint32_t key, bool urgent)
{
    fs_cache_key *k = &c->keys[key];
    FS_ASSERT(k->state == FS_CACHE_ABSENT && k->wanted && c->num_loading < c->options.max_loads);
    k->state = FS_CACHE_LOADING;
    k->needed = urgent;
    c->loading[c->num_loading++] = key;
    c->loads_begun += !urgent;
    c->stats.loads++;
    c->stats.loading_bytes += k->bytes;
    FS_ASSERT(held_bytes(c) <= c->options.budget_bytes);
    c->most_bytes = c->options.budget_bytes;
    fs_cache_heap_update(c, key);
    return (fs_cache_action){FS_CACHE_LOAD, key, urgent};
}

static bool fits(const fs_cache *c, uint64_t bytes)
{
    return held_bytes(c) <= c->options.budget_bytes && bytes <= c->options.budget_bytes - held_bytes(c);
}

/* What is no longer wanted, or is over a budget that shrank. */
static bool let_go(fs_cache *c, int64_t now_ns, fs_cache_action *out)
{
    for (uint32_t i = 0; c->num_leaving > 0 && i < c->num_resident; i++) {
        const fs_cache_key *k = &c->keys[c->resident[i]];
        if (k->wanted || k->claims > 0) continue;
        *out = evict(c, c->resident[i]);
        return true;
    }
    if (fits(c, 0)) return false;
    uint32_t victim = fs_cache_any_victim(c, now_ns);
    if (victim == FS_CACHE_NONE) return false;
    *out = evict(c, victim);
    return true;
}

static bool hurry(fs_cache *c, fs_cache_action *out)
{
    for (uint32_t i = 0; c->num_hurrying > 0 && i < c->num_loading; i++) {
        fs_cache_key *k = &c->keys[c->loading[i]];
        if (!k->hurrying) continue;
        k->hurrying = false;
        c->num_hurrying--;
        *out = (fs_cache_action){FS_CACHE_HURRY, c->loading[i], true};
        return true;
    }
    return false;
}

/* Loads the key, or makes room for it by letting go what is used after before_ns; false: neither can be done now. */
static bool make_room_or_load(fs_cache *c, uint32_t key, bool urgent, int64_t before_ns, int64_t now_ns,
                              fs_cache_action *out)
{
    uint64_t bytes = c->keys[key].bytes;
    if (!fits(c, bytes)) {
        uint32_t victim = fs_cache_victim(c, bytes, before_ns, now_ns);
        if (victim == FS_CACHE_NONE) return false;
        *out = evict(c, victim);
        return true;
    }
    if (c->keys[key].state == FS_CACHE_QUEUED) dequeue(c, key);
    *out = load(c, key, urgent);
    return true;
}

/* Not more than the loads that leave one for a demand. */
static bool may_begin_unasked(const fs_cache *c)
{
    uint32_t most = c->options.max_loads > 1 ? c->options.max_loads - 1 : 1;
    return c->loads_begun < most;
}

static bool prefetch(fs_cache *c, int64_t now_ns, fs_cache_action *out)
{
    int64_t at_ns;
    uint32_t key = fs_cache_heap_first(c, now_ns, &at_ns);
    if (key == FS_CACHE_NONE || !make_room_or_load(c, key, false, at_ns, now_ns, out)) return false;
    if (out->act != FS_CACHE_LOAD) return true;
    c->keys[key].unused = c->keys[key].claims == 0;
    c->stats.prefetches++;
    c->stats.prefetched_bytes += c->keys[key].bytes;
    return true;
}

static bool fill(fs_cache *c, fs_cache_action *out)
{
    if (!fs_cache_all_fits(c)) return false;
    for (; c->fill_next < c->num_keys; c->fill_next++) {
        const fs_cache_key *k = &c->keys[c->fill_next];
        if (!k->wanted || k->state != FS_CACHE_ABSENT) continue;
        if (!fits(c, k->bytes)) return false; /* until what leaves is out of use */
        *out = load(c, c->fill_next, false);
        return true;
    }
    return false;
}

bool fs_cache_next(fs_cache *c, int64_t now_ns, fs_cache_action *out)
{
    if (let_go(c, now_ns, out) || hurry(c, out)) return true;
    if (c->num_loading == c->options.max_loads) return false;
    /* What a demand waits for may not be taken by a prefetch. */
    if (c->queue_head != FS_CACHE_NONE)
        return make_room_or_load(c, c->queue_head, true, INT64_MIN, now_ns, out);
    return may_begin_unasked(c) && (prefetch(c, now_ns, out) || fill(c, out));
}

/* ---- what is known of it ---- */

void fs_cache_get_stats(const fs_cache *c, fs_cache_stats *out)
{
    *out = c->stats;
    out->budget_bytes = c->options.budget_bytes;
    out->resident = c->num_resident;
    out->leaving = c->num_leaving;
    out->loading = c->num_loading;
}

static void check_key(const fs_cache *c, uint32_t key)
{
    const fs_cache_key *k = &c->keys[key];
    if (k->state == FS_CACHE_RESIDENT)
        FS_ASSERT(k->resident_at < c->num_resident && c->resident[k->resident_at] == key);
    if (k->state == FS_CACHE_QUEUED) FS_ASSERT(k->claims > 0 && k->wanted);
    FS_ASSERT(!k->unused ||
              (k->claims == 0 && (k->state == FS_CACHE_RESIDENT || k->state == FS_CACHE_LOADING)));
    FS_ASSERT(!k->hurrying || (k->state == FS_CACHE_LOADING && k->needed));
}

void fs_cache_check(const fs_cache *c)
{
    uint64_t bytes[FS_CACHE_BROKEN + 1] = {0}, unused = 0;
    uint32_t count[FS_CACHE_BROKEN + 1] = {0}, leaving = 0, begun = 0, hurrying = 0, failed = 0, in_queue = 0;
    for (uint32_t key = 0; key < c->num_keys; key++) {
        const fs_cache_key *k = &c->keys[key];
        check_key(c, key);
        count[k->state]++;
        bytes[k->state] += k->bytes;
        leaving += k->state == FS_CACHE_RESIDENT && !k->wanted;
        begun += k->state == FS_CACHE_LOADING && !k->needed;
        failed += k->state == FS_CACHE_BROKEN && k->wanted;
        hurrying += k->hurrying;
        unused += k->unused ? k->bytes : 0;
    }
    for (uint32_t i = c->queue_head; i != FS_CACHE_NONE; i = c->keys[i].next, in_queue++)
        FS_ASSERT(c->keys[i].state == FS_CACHE_QUEUED);
    for (uint32_t i = 0; i < c->num_loading; i++) FS_ASSERT(c->keys[c->loading[i]].state == FS_CACHE_LOADING);
    FS_ASSERT(count[FS_CACHE_RESIDENT] == c->num_resident && count[FS_CACHE_LOADING] == c->num_loading);
    FS_ASSERT(count[FS_CACHE_QUEUED] == c->stats.queued && in_queue == c->stats.queued);
    FS_ASSERT(bytes[FS_CACHE_RESIDENT] == c->stats.resident_bytes &&
              bytes[FS_CACHE_LOADING] == c->stats.loading_bytes);
    FS_ASSERT(held_bytes(c) <= c->most_bytes && c->num_loading <= c->options.max_loads);
    FS_ASSERT(leaving == c->num_leaving && begun == c->loads_begun && hurrying == c->num_hurrying);
    FS_ASSERT(failed == c->stats.failed && c->stats.wasted_bytes + unused <= c->stats.prefetched_bytes);
    fs_cache_hints_check(c);
}
