/* expert_node/store/store.c: a slot for every expert of the model, and the loads that fill those that are wanted. */
#include "store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/worker.h"
#include "model/safetensors.h"
#include "sub1/files.h"

/* Lives as long as somebody uses it or its slot holds it; users and dropped belong to the loop. */
struct fs_held {
    fs_expert expert;
    void *widened; /* memory of float16 parts */
    uint64_t bytes;
    uint32_t users;
    bool dropped;
};

typedef enum { SLOT_ABSENT, SLOT_LOADING, SLOT_HELD, SLOT_FAILED } slot_state;
typedef struct {
    fs_held *held;
    uint8_t state; /* slot_state */
    bool wanted;
} slot;

/* One load under way: the worker's from post until done. */
typedef struct {
    fs_job job; /* first */
    fs_store *store;
    uint32_t key;
    bool busy;
    fs_held *held; /* the result, or NULL */
    fs_status status;
    fs_detail detail;
} load;

struct fs_store {
    fs_model_config config;
    fs_tensors *tensors;
    uint64_t fingerprint, expert_bytes, memory_bytes;
    uint32_t num_keys;
    int16_t moe_index[FS_MAX_LAYERS]; /* decoder layer -> MoE layer, or -1 */
    slot *slots;                      /* [num_keys] */
    fs_worker *worker;
    load *loads; /* [num_loads] */
    uint32_t num_loads;
    uint32_t next; /* slots below it need no look: a load begins at the first wanted one from here */
    uint64_t epoch, ready_epoch;
    uint32_t assigned, loaded, failed;
    uint64_t bytes_loaded, bytes_loading;
    int64_t assigned_at_ns;
    bool over_memory;
    char first_failure[512];
    char problem[640];
    void (*on_change)(void *arg);
    void *arg;
};

static void held_free(fs_held *held)
{
    if (!held) return;
    free(held->widened);
    free(held);
}

static uint32_t layer_of(const fs_store *store, uint32_t key)
{
    return store->config.moe_layer[key / store->config.num_experts];
}

static uint32_t expert_of(const fs_store *store, uint32_t key)
{
    return key % store->config.num_experts;
}

/* ---- loading ---- */

static void run_load(fs_job *job)
{
    load *l = (load *)job;
    const fs_store *store = l->store; /* config and tensors alone: they do not change */
    fs_held *held = calloc(1, sizeof(*held));
    l->status = FS_NO_MEMORY;
    if (!held) {
        fs_fail(&l->detail, FS_NO_MEMORY, "no memory for an expert");
        return;
    }
    fs_expert_range range;
    l->status = fs_expert_find(&store->config, store->tensors, layer_of(store, l->key),
                               expert_of(store, l->key), &range, &l->detail);
    if (l->status == FS_OK)
        l->status = fs_expert_open(&store->config, &range, &held->expert, &held->widened, &l->detail);
    if (l->status != FS_OK) {
        held_free(held);
        return;
    }
    held->bytes = range.bytes;
    l->held = held;
}

static void set_problem(fs_store *store)
{
    store->problem[0] = '\0';
    if (store->failed > 1)
        snprintf(store->problem, sizeof(store->problem), "%u experts cannot be used; the first: %s",
                 store->failed, store->first_failure);
    else if (store->failed == 1)
        snprintf(store->problem, sizeof(store->problem), "an expert cannot be used: %s",
                 store->first_failure);
    else if (store->over_memory)
        snprintf(store->problem, sizeof(store->problem),
                 "memory is full: %u of %u assigned experts fit in %" PRIu64 " bytes", store->loaded,
                 store->assigned, store->memory_bytes);
}

static void settle(fs_store *store)
{
    bool ready = store->epoch != 0 && store->loaded == store->assigned;
    if (ready && store->ready_epoch != store->epoch) {
        store->ready_epoch = store->epoch;
        fs_log_info("experts_ready", "epoch=%" PRIu64 " experts=%u bytes=%" PRIu64 " ms=%lld", store->epoch,
                    store->loaded, store->bytes_loaded,
                    (fs_clock_now(fs_clock_system()) - store->assigned_at_ns) / FS_NS_PER_MS);
    }
    set_problem(store);
}

static void keep(fs_store *store, slot *s, fs_held *held)
{
    s->held = held;
    s->state = SLOT_HELD;
    store->loaded++;
    store->bytes_loaded += held->bytes;
}

static void fail(fs_store *store, slot *s, const load *l)
{
    s->state = SLOT_FAILED;
    uint32_t layer = layer_of(store, l->key), expert = expert_of(store, l->key);
    fs_log_error("expert_refused", "layer=%u expert=%u status=%s detail=\"%s\"", layer, expert,
                 fs_status_name(l->status), l->detail.text);
    if (store->failed++ == 0)
        snprintf(store->first_failure, sizeof(store->first_failure), "layer %u expert %u: %.440s", layer,
                 expert, l->detail.text);
}

static void start_loads(fs_store *store);

static void load_done(fs_job *job)
{
    load *l = (load *)job;
    fs_store *store = l->store;
    slot *s = &store->slots[l->key];
    l->busy = false;
    store->bytes_loading -= store->expert_bytes;
    fs_held *held = l->held;
    l->held = NULL;
    s->state = SLOT_ABSENT;
    if (!s->wanted)
        held_free(held); /* dropped while it was loading */
    else if (held)
        keep(store, s, held);
    else
        fail(store, s, l);
    start_loads(store);
    settle(store);
    if (store->on_change) store->on_change(store->arg);
}

static bool fits(const fs_store *store)
{
    if (store->memory_bytes == 0) return true;
    return store->bytes_loaded + store->bytes_loading + store->expert_bytes <= store->memory_bytes;
}

/* The next wanted slot that nobody has begun; false: there is none, or no memory for it. */
static bool next_to_load(fs_store *store, uint32_t *key)
{
    while (store->next < store->num_keys &&
           !(store->slots[store->next].wanted && store->slots[store->next].state == SLOT_ABSENT))
        store->next++;
    if (store->next == store->num_keys) return false;
    store->over_memory = !fits(store);
    if (store->over_memory) return false;
    *key = store->next++;
    return true;
}

static void start_loads(fs_store *store)
{
    for (uint32_t i = 0; i < store->num_loads; i++) {
        load *l = &store->loads[i];
        if (l->busy) continue;
        if (!next_to_load(store, &l->key)) return;
        l->busy = true;
        l->detail = (fs_detail){0};
        store->slots[l->key].state = SLOT_LOADING;
        store->bytes_loading += store->expert_bytes;
        fs_worker_post(store->worker, &l->job);
    }
}

/* ---- assignment ---- */

static void let_go(fs_store *store, slot *s)
{
    fs_held *held = s->held;
    s->held = NULL;
    store->loaded--;
    store->bytes_loaded -= held->bytes;
    held->dropped = true;
    if (held->users == 0) held_free(held);
}

void fs_store_assign(fs_store *store, uint64_t epoch, const uint8_t *wanted)
{
    store->epoch = epoch;
    store->assigned = 0;
    store->assigned_at_ns = fs_clock_now(fs_clock_system());
    store->over_memory = false;
    uint32_t dropped = 0;
    for (uint32_t key = 0; key < store->num_keys; key++) {
        slot *s = &store->slots[key];
        s->wanted = wanted[key] != 0;
        store->assigned += s->wanted;
        if (s->state == SLOT_HELD && !s->wanted) {
            let_go(store, s);
            dropped++;
        }
        /* A failed one is read again with every assignment: its file may have been mended. */
        if (s->state == SLOT_FAILED) store->failed--;
        if ((s->state == SLOT_HELD && !s->wanted) || s->state == SLOT_FAILED) s->state = SLOT_ABSENT;
    }
    store->next = 0;
    fs_log_info("experts_assigned", "epoch=%" PRIu64 " experts=%u held=%u dropped=%u", epoch, store->assigned,
                store->loaded, dropped);
    start_loads(store);
    settle(store);
}

/* ---- use ---- */

fs_status fs_store_key(const fs_store *store, uint32_t layer, uint32_t expert, uint32_t *key)
{
    if (layer >= FS_MAX_LAYERS || store->moe_index[layer] < 0 || expert >= store->config.num_experts)
        return FS_INVALID;
    *key = (uint32_t)store->moe_index[layer] * store->config.num_experts + expert;
    return FS_OK;
}

fs_status fs_store_acquire(fs_store *store, uint32_t key, fs_held **out)
{
    FS_ASSERT(key < store->num_keys);
    slot *s = &store->slots[key];
    if (s->state == SLOT_FAILED) return FS_CORRUPT;
    if (s->state != SLOT_HELD) return FS_MOVED;
    s->held->users++;
    *out = s->held;
    return FS_OK;
}

void fs_store_release(fs_held *held)
{
    FS_ASSERT(held->users > 0);
    if (--held->users == 0 && held->dropped) held_free(held);
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
static fs_status find_experts(fs_store *store, fs_detail *detail)
{
    for (uint32_t key = 0; key < store->num_keys; key++) {
        fs_expert_range range;
        fs_status st = fs_expert_find(&store->config, store->tensors, layer_of(store, key),
                                      expert_of(store, key), &range, detail);
        if (st != FS_OK) return st;
        if (range.bytes > store->expert_bytes) store->expert_bytes = range.bytes;
    }
    return FS_OK;
}

static fs_status try_expert(const fs_store *store, uint32_t key, fs_detail *detail)
{
    fs_expert_range range;
    fs_expert expert;
    void *widened = NULL;
    fs_status st = fs_expert_find(&store->config, store->tensors, layer_of(store, key), expert_of(store, key),
                                  &range, detail);
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

static fs_status open_model(fs_store *store, const char *dir, fs_detail *detail)
{
    fs_status st = fs_model_config_load(dir, &store->config, detail);
    if (st == FS_OK) st = fs_tensors_open(dir, &store->tensors, detail);
    if (st == FS_OK) st = fs_model_fingerprint(dir, store->tensors, &store->fingerprint, detail);
    if (st != FS_OK) return st;
    index_layers(store);
    store->num_keys = store->config.num_moe_layers * store->config.num_experts;
    st = find_experts(store, detail);
    return st == FS_OK ? try_first_and_last(store, detail) : st;
}

static fs_status start_worker(fs_store *store, uv_loop_t *loop, uint32_t threads, fs_detail *detail)
{
    store->slots = calloc(store->num_keys, sizeof(*store->slots));
    store->loads = calloc(threads, sizeof(*store->loads));
    if (!store->slots || !store->loads)
        return fs_fail(detail, FS_NO_MEMORY, "no memory for %u experts", store->num_keys);
    store->num_loads = threads;
    for (uint32_t i = 0; i < threads; i++)
        store->loads[i] = (load){.job = {.run = run_load, .done = load_done}, .store = store};
    fs_status st = fs_worker_create(loop, "load", threads, &store->worker);
    return st == FS_OK ? st : fs_fail(detail, st, "no thread for loading experts");
}

fs_status fs_store_create(uv_loop_t *loop, const fs_store_options *options, fs_store **out, fs_detail *detail)
{
    FS_ASSERT(options->load_threads >= 1);
    fs_store *store = calloc(1, sizeof(*store));
    if (!store) return fs_fail(detail, FS_NO_MEMORY, "no memory for the store");
    store->memory_bytes = options->memory_bytes;
    store->on_change = options->on_change;
    store->arg = options->arg;
    fs_status st = open_model(store, options->dir, detail);
    if (st == FS_OK) st = start_worker(store, loop, options->load_threads, detail);
    if (st != FS_OK) {
        fs_store_destroy(store);
        return st;
    }
    *out = store;
    return FS_OK;
}

void fs_store_destroy(fs_store *store)
{
    if (!store) return;
    fs_worker_destroy(store->worker); /* joins its threads: what a load left is ours from here */
    for (uint32_t i = 0; i < store->num_loads; i++) held_free(store->loads[i].held);
    for (uint32_t key = 0; store->slots && key < store->num_keys; key++) {
        FS_ASSERT(!store->slots[key].held || store->slots[key].held->users == 0);
        held_free(store->slots[key].held);
    }
    fs_tensors_close(store->tensors);
    free(store->slots);
    free(store->loads);
    free(store);
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

void fs_store_get_stats(const fs_store *store, fs_store_stats *out)
{
    *out = (fs_store_stats){.epoch = store->epoch,
                            .ready_epoch = store->ready_epoch,
                            .assigned = store->assigned,
                            .loaded = store->loaded,
                            .failed = store->failed,
                            .bytes_loaded = store->bytes_loaded,
                            .problem = store->problem};
}
