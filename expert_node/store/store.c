/* expert_node/store/store.c: what is held: the cache decides, the source brings, users are claims. */
#include "store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/store_int.h"

/* Loads at once from files; on the mapping as many as there are threads, and one that a demand finds free. */
enum { FILE_LOADS = 16 };
#define HINT_GRACE_NS (250 * FS_NS_PER_MS)

/* Bits of a key's state. */
enum { WANTED = 1, FAILED = 2, AWAITED = 4 /* claimed when it was not ready: on_key is owed */ };

static int64_t now(void)
{
    return fs_clock_now(fs_clock_system());
}

uint32_t fs_store_layer_of(const fs_store *store, uint32_t key)
{
    return store->config.moe_layer[key / store->config.num_experts];
}

uint32_t fs_store_expert_of(const fs_store *store, uint32_t key)
{
    return key % store->config.num_experts;
}

/* ---- what is told of it ---- */

static void set_problem(fs_store *store)
{
    fs_cache_stats s;
    fs_cache_get_stats(store->cache, &s);
    store->problem[0] = '\0';
    if (s.failed > 1)
        snprintf(store->problem, sizeof(store->problem), "%u experts cannot be used; the first: %s", s.failed,
                 store->first_failure);
    else if (s.failed == 1)
        snprintf(store->problem, sizeof(store->problem), "an expert cannot be used: %s",
                 store->first_failure);
    else if (s.too_large > 0)
        snprintf(store->problem, sizeof(store->problem),
                 "%u of %u assigned experts are larger than the memory of %" PRIu64 " bytes", s.too_large,
                 s.wanted, store->memory_bytes);
}

/* With memory for all, all of it is verified first; else what is asked for is verified then. */
static bool can_serve(const fs_store *store, const fs_cache_stats *s)
{
    if (store->epoch == 0 || s->too_large > 0) return false;
    return !fs_cache_all_fits(store->cache) || s->resident - s->leaving == s->wanted;
}

static void settle(fs_store *store)
{
    fs_cache_stats s;
    fs_cache_get_stats(store->cache, &s);
    if (can_serve(store, &s) && store->ready_epoch != store->epoch) {
        store->ready_epoch = store->epoch;
        fs_log_info("experts_ready",
                    "epoch=%" PRIu64 " experts=%u loaded=%u bytes=%" PRIu64 " memory=%" PRIu64
                    " cache=%s ms=%lld",
                    store->epoch, s.wanted, s.resident, s.resident_bytes, store->memory_bytes,
                    fs_cache_all_fits(store->cache) ? "none" : fs_cache_policy_name(store->policy),
                    (now() - store->assigned_at_ns) / FS_NS_PER_MS);
    }
    set_problem(store);
}

void fs_store_get_stats(const fs_store *store, fs_store_stats *out)
{
    fs_cache_stats s;
    fs_cache_get_stats(store->cache, &s);
    *out = (fs_store_stats){.epoch = store->epoch,
                            .ready_epoch = store->ready_epoch,
                            .assigned = s.wanted,
                            .loaded = s.resident - s.leaving,
                            .failed = s.failed,
                            .bytes_loaded = s.resident_bytes,
                            .problem = store->problem,
                            .cache = s};
}

/* ---- loads ---- */

static void tell_key(fs_store *store, uint32_t key)
{
    if (!(store->state[key] & AWAITED)) return;
    store->state[key] &= (uint8_t)~AWAITED;
    if (store->on_key) store->on_key(store->on_key_arg, key);
}

static void fail(fs_store *store, const fs_store_load *l)
{
    uint32_t key = l->held->key, layer = fs_store_layer_of(store, key),
             expert = fs_store_expert_of(store, key);
    fs_cache_stats s;
    fs_cache_get_stats(store->cache, &s);
    fs_log_error("expert_refused", "layer=%u expert=%u status=%s detail=\"%s\"", layer, expert,
                 fs_status_name(l->status), l->detail.text);
    if (!(store->state[key] & WANTED)) return;
    store->state[key] |= FAILED;
    if (s.failed <= 1)
        snprintf(store->first_failure, sizeof(store->first_failure), "layer %u expert %u: %.440s", layer,
                 expert, l->detail.text);
}

void fs_store_loaded(fs_store_load *l)
{
    fs_store *store = l->store;
    uint32_t key = l->held->key;
    fs_cache_loaded(store->cache, key, l->status == FS_OK);
    if (l->status == FS_OK) {
        store->held[key] = l->held;
    } else {
        fail(store, l);
        fs_held_free(l->held);
    }
    tell_key(store, key);
    settle(store);
    if (store->on_change) store->on_change(store->arg);
}

static void let_go(fs_store *store, uint32_t key)
{
    fs_held_free(store->held[key]);
    store->held[key] = NULL;
}

void fs_store_go(fs_store *store)
{
    fs_cache_action action;
    int64_t now_ns = now(); /* one for all: the cache compares its keys once a moment */
    while (fs_cache_next(store->cache, now_ns, &action)) {
        switch (action.act) {
        case FS_CACHE_EVICT: let_go(store, action.key); break;
        case FS_CACHE_LOAD: fs_store_begin(store, action.key, action.urgent); break;
        case FS_CACHE_HURRY: fs_store_hurry(store, action.key); break;
        }
    }
    fs_store_flush(store);
}

static void go_later(uv_idle_t *idle)
{
    uv_idle_stop(idle);
    fs_store_go(idle->data);
}

/* What was released makes room, for who waits. */
static void made_room(fs_store *store)
{
    fs_cache_stats s;
    fs_cache_get_stats(store->cache, &s);
    if (s.queued > 0 || s.leaving > 0) uv_idle_start(&store->later, go_later);
}

/* ---- assignment ---- */

static uint32_t mark_wanted(fs_store *store, const uint8_t *wanted)
{
    uint32_t dropped = 0;
    for (uint32_t key = 0; key < store->num_keys; key++) {
        uint8_t before = store->state[key];
        dropped += store->held[key] && (before & WANTED) && !wanted[key];
        /* A failed one is read again with every assignment: its file may have been mended. */
        store->state[key] = (uint8_t)((before & AWAITED) | (wanted[key] ? WANTED : 0));
    }
    return dropped;
}

void fs_store_assign(fs_store *store, uint64_t epoch, const uint8_t *wanted)
{
    store->epoch = epoch;
    store->assigned_at_ns = now();
    uint32_t dropped = mark_wanted(store, wanted);
    fs_cache_assign(store->cache, wanted);
    fs_cache_stats s;
    fs_cache_get_stats(store->cache, &s);
    fs_log_info("experts_assigned", "epoch=%" PRIu64 " experts=%u bytes=%" PRIu64 " held=%u dropped=%u",
                epoch, s.wanted, s.wanted_bytes, s.resident - s.leaving, dropped);
    fs_store_go(store);
    for (uint32_t key = 0; key < store->num_keys; key++)
        if (!(store->state[key] & WANTED)) tell_key(store, key);
    settle(store);
}

/* ---- rows that come ---- */

fs_status fs_store_key(const fs_store *store, uint32_t layer, uint32_t expert, uint32_t *key)
{
    if (layer >= FS_MAX_LAYERS || store->moe_index[layer] < 0 || expert >= store->config.num_experts)
        return FS_INVALID;
    *key = (uint32_t)store->moe_index[layer] * store->config.num_experts + expert;
    return FS_OK;
}

void fs_store_on_key(fs_store *store, void (*on_key)(void *arg, uint32_t key), void *arg)
{
    store->on_key = on_key;
    store->on_key_arg = arg;
}

void fs_store_visit(fs_store *store, uint32_t layer)
{
    if (layer < FS_MAX_LAYERS && store->moe_index[layer] >= 0)
        fs_cache_visit(store->cache, (uint32_t)store->moe_index[layer], now());
}

fs_status fs_store_claim(fs_store *store, uint32_t router, uint32_t key, bool *ready)
{
    FS_ASSERT(key < store->num_keys);
    switch (fs_cache_claim(store->cache, router, key, now())) {
    case FS_CACHE_HIT: *ready = true; return FS_OK;
    case FS_CACHE_WAIT:
        *ready = false;
        store->state[key] |= AWAITED;
        return FS_OK;
    case FS_CACHE_FAILED: return FS_CORRUPT;
    case FS_CACHE_TOO_LARGE: return FS_EXHAUSTED;
    default: return FS_MOVED;
    }
}

void fs_store_unclaim(fs_store *store, uint32_t key)
{
    fs_cache_release(store->cache, key);
    made_room(store);
}

void fs_store_hint(fs_store *store, uint32_t router, uint32_t key, int64_t at_ns)
{
    (void)fs_cache_hint(store->cache, router, key, at_ns, now()); /* what is not kept is only advice */
}

void fs_store_router_lost(fs_store *store, uint32_t router)
{
    fs_cache_router_lost(store->cache, router);
}

bool fs_store_wants_hints(const fs_store *store)
{
    return store->policy == FS_CACHE_LOOKAHEAD && store->epoch != 0 && !fs_cache_all_fits(store->cache);
}

/* ---- use ---- */

fs_status fs_store_acquire(fs_store *store, uint32_t key, fs_held **out)
{
    FS_ASSERT(key < store->num_keys);
    if (store->state[key] & FAILED) return FS_CORRUPT;
    if (!(store->state[key] & WANTED) || !store->held[key]) return FS_MOVED;
    fs_cache_hold(store->cache, key);
    *out = store->held[key];
    return FS_OK;
}

void fs_store_release(fs_held *held)
{
    fs_store_unclaim(held->store, held->key);
}

const fs_expert *fs_held_expert(const fs_held *held)
{
    return &held->expert;
}

/* ---- life ---- */

static void index_layers(fs_store *store)
{
    memset(store->moe_index, 0xff, sizeof(store->moe_index));
    for (uint32_t i = 0; i < store->config.num_moe_layers; i++)
        store->moe_index[store->config.moe_layer[i]] = (int16_t)i;
}

/* A model that lacks an expert is refused at start, not when a token needs it. */
static fs_status find_experts(fs_store *store, uint64_t *key_bytes, fs_detail *detail)
{
    for (uint32_t key = 0; key < store->num_keys; key++) {
        fs_expert_range range;
        fs_status st = fs_expert_find(&store->config, store->tensors, fs_store_layer_of(store, key),
                                      fs_store_expert_of(store, key), &range, detail);
        if (st != FS_OK) return st;
        key_bytes[key] = fs_store_bytes_of(store, &range);
        if (key_bytes[key] > store->expert_bytes) store->expert_bytes = key_bytes[key];
    }
    return FS_OK;
}

static fs_status try_expert(const fs_store *store, uint32_t key, fs_detail *detail)
{
    fs_expert_range range;
    fs_expert expert;
    void *widened = NULL;
    fs_status st = fs_expert_find(&store->config, store->tensors, fs_store_layer_of(store, key),
                                  fs_store_expert_of(store, key), &range, detail);
    if (st == FS_OK) st = fs_expert_open(&store->config, &range, &expert, &widened, detail);
    free(widened);
    return st;
}

/* One damaged expert is a problem that a node can live with; a config.json that fits no expert is not. */
static fs_status try_first_and_last(const fs_store *store, fs_detail *detail)
{
    fs_status st = try_expert(store, 0, detail);
    if (st != FS_OK && try_expert(store, store->num_keys - 1, NULL) == FS_OK) st = FS_OK;
    return st == FS_OK ? st : fs_fail_in(detail, st, "the experts do not fit config.json");
}

static fs_status open_cache(fs_store *store, const uint64_t *key_bytes, fs_detail *detail)
{
    bool limited = store->memory_bytes > 0;
    const fs_cache_options options = {.policy = store->policy,
                                      .prefetch = true,
                                      .num_layers = store->config.num_moe_layers,
                                      .num_experts = store->config.num_experts,
                                      .key_bytes = key_bytes,
                                      .budget_bytes = limited ? store->memory_bytes : FS_CACHE_NO_LIMIT,
                                      .max_loads = limited ? FILE_LOADS : store->load_threads + 1,
                                      .hint_grace_ns = HINT_GRACE_NS};
    store->held = calloc(store->num_keys, sizeof(*store->held));
    store->state = calloc(store->num_keys, sizeof(*store->state));
    fs_status st = store->held && store->state ? fs_cache_create(&options, &store->cache) : FS_NO_MEMORY;
    return st == FS_OK ? st : fs_fail(detail, st, "no memory for %u experts", store->num_keys);
}

static fs_status open_model(fs_store *store, const char *dir, fs_detail *detail)
{
    fs_status st = fs_model_config_load(dir, &store->config, detail);
    if (st == FS_OK) st = fs_tensors_open(dir, &store->tensors, detail);
    if (st == FS_OK) st = fs_model_fingerprint(dir, store->tensors, &store->fingerprint, detail);
    if (st != FS_OK) return st;
    index_layers(store);
    store->num_keys = store->config.num_moe_layers * store->config.num_experts;
    uint64_t *key_bytes = calloc(store->num_keys, sizeof(*key_bytes));
    if (!key_bytes) return fs_fail(detail, FS_NO_MEMORY, "no memory for %u experts", store->num_keys);
    st = find_experts(store, key_bytes, detail);
    if (st == FS_OK) st = try_first_and_last(store, detail);
    if (st == FS_OK) st = open_cache(store, key_bytes, detail);
    free(key_bytes);
    return st;
}

fs_status fs_store_create(uv_loop_t *loop, const fs_store_options *options, fs_store **out, fs_detail *detail)
{
    FS_ASSERT(options->load_threads >= 1);
    fs_store *store = calloc(1, sizeof(*store));
    if (!store) return fs_fail(detail, FS_NO_MEMORY, "no memory for the store");
    FS_ASSERT(uv_idle_init(loop, &store->later) == 0);
    store->later.data = store;
    store->memory_bytes = options->memory_bytes;
    store->load_threads = options->load_threads;
    store->policy = options->policy;
    store->on_change = options->on_change;
    store->arg = options->arg;
    fs_status st = open_model(store, options->dir, detail);
    uint32_t num_loads = store->memory_bytes ? FILE_LOADS : store->load_threads + 1;
    if (st == FS_OK) st = fs_store_open_source(store, loop, num_loads, detail);
    if (st != FS_OK) {
        fs_store_destroy(store);
        return st;
    }
    *out = store;
    return FS_OK;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void free_held(fs_store *store)
{
    for (uint32_t key = 0; store->held && key < store->num_keys; key++) fs_held_free(store->held[key]);
    free(store->held);
    free(store->state);
}

void fs_store_destroy(fs_store *store)
{
    if (!store) return;
    fs_store_close_source(store);
    free_held(store);
    fs_cache_destroy(store->cache);
    fs_tensors_close(store->tensors);
    uv_close((uv_handle_t *)&store->later, on_closed);
}

const fs_model_config *fs_store_config(const fs_store *store)
{
    return &store->config;
}

uint64_t fs_store_fingerprint(const fs_store *store)
{
    return store->fingerprint;
}

uint64_t fs_store_expert_bytes(const fs_store *store)
{
    return store->expert_bytes;
}

uint32_t fs_store_num_experts(const fs_store *store)
{
    return store->num_keys;
}
