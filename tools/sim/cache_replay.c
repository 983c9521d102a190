/* tools/sim/cache_replay.c: see cache_replay.h. */
#include "sim/cache_replay.h"

#include <stdlib.h>
#include <string.h>

/* The unit of time: any will do, but the cache takes a pause of a second for idleness. */
#define VISIT_NS FS_NS_PER_MS
/* A hint is believed for so many visits after its time. */
#define GRACE_VISITS 64

typedef struct {
    const fs_visits *v;
    fs_cache *cache;
    bool *done;          /* [num_experts] of the visit under way */
    size_t *following;   /* [num_visits] the next visit of the same step, or SIZE_MAX */
    size_t *first_visit; /* [num_steps] or SIZE_MAX */
    uint32_t num_lanes;
    uint64_t *key_bytes; /* [keys] */
} replay;

/* ---- what is announced ---- */

static void link_visits(replay *r)
{
    const fs_visits *v = r->v;
    size_t last[FS_TRACE_MAX_LANES];
    memset(last, 0xff, sizeof last);
    memset(r->first_visit, 0xff, v->num_steps * sizeof *r->first_visit);
    for (size_t i = 0; i < v->num_visits; i++) {
        const fs_visit *visit = &v->visit[i];
        r->following[i] = SIZE_MAX;
        if (r->first_visit[visit->step] == SIZE_MAX)
            r->first_visit[visit->step] = i;
        else
            r->following[last[visit->lane]] = i;
        last[visit->lane] = i;
        if (visit->lane >= r->num_lanes) r->num_lanes = visit->lane + 1;
    }
}

/* The router knows the order of its lanes' visits only roughly: they take turns. */
static void announce(replay *r, size_t step, int64_t now_ns)
{
    int64_t distance = 0;
    for (size_t i = r->first_visit[step]; i != SIZE_MAX; i = r->following[i], distance += r->num_lanes) {
        const fs_visit *visit = &r->v->visit[i];
        for (uint32_t k = 0; k < visit->num_keys; k++)
            (void)fs_cache_hint(r->cache, 0, r->v->key[visit->first + k], now_ns + distance * VISIT_NS,
                                now_ns);
    }
}

/* ---- what is used ---- */

static void obey(fs_cache *cache, int64_t now_ns)
{
    fs_cache_action action;
    while (fs_cache_next(cache, now_ns, &action))
        if (action.act == FS_CACHE_LOAD) fs_cache_loaded(cache, action.key, true);
}

/* What is there runs and is let go, which makes room for the rest: a visit may touch more than memory holds. */
static void run_visit(replay *r, const fs_visit *visit, int64_t now_ns)
{
    const uint32_t *key = r->v->key + visit->first;
    fs_cache_visit(r->cache, visit->layer, now_ns);
    memset(r->done, 0, visit->num_keys);
    for (uint32_t i = 0; i < visit->num_keys; i++) (void)fs_cache_claim(r->cache, 0, key[i], now_ns);
    for (uint32_t left = visit->num_keys; left > 0;) {
        uint32_t before = left;
        for (uint32_t i = 0; i < visit->num_keys; i++) {
            if (r->done[i] || !fs_cache_is_resident(r->cache, key[i])) continue;
            fs_cache_release(r->cache, key[i]);
            r->done[i] = true;
            left--;
        }
        bool moved = left < before;
        obey(r->cache, now_ns);
        for (uint32_t i = 0; !moved && i < visit->num_keys; i++)
            moved = !r->done[i] && fs_cache_is_resident(r->cache, key[i]);
        FS_ASSERT(moved); /* a cache that loads nothing of what is claimed would stand still */
    }
}

static void run_all(replay *r, const fs_cache_replay_options *o)
{
    size_t step = 0;
    for (size_t i = 0; i < r->v->num_visits; i++) {
        int64_t now_ns = FS_NS_PER_S + (int64_t)i * VISIT_NS;
        for (; step < r->v->num_steps && r->v->step[step].next_visit <= i; step++)
            if (o->hints) announce(r, step, now_ns);
        if (o->prefetch) obey(r->cache, now_ns);
        run_visit(r, &r->v->visit[i], now_ns);
    }
}

/* ---- frame ---- */

static uint64_t *unit_bytes(const fs_visits *v)
{
    uint32_t n = fs_visits_num_keys(v);
    uint64_t *bytes = malloc(n * sizeof *bytes);
    for (uint32_t i = 0; bytes && i < n; i++) bytes[i] = 1;
    return bytes;
}

static fs_status create_cache(replay *r, const fs_cache_replay_options *o)
{
    const fs_trace_model *m = &r->v->model;
    const fs_cache_options options = {.policy = o->policy,
                                      .prefetch = o->prefetch,
                                      .num_layers = m->num_moe_layers,
                                      .num_experts = m->num_experts,
                                      .key_bytes = r->key_bytes,
                                      .budget_bytes = o->room,
                                      .max_loads = 4,
                                      .hint_grace_ns = GRACE_VISITS * VISIT_NS};
    uint8_t *wanted = malloc(fs_visits_num_keys(r->v));
    fs_status st = wanted ? fs_cache_create(&options, &r->cache) : FS_NO_MEMORY;
    if (st == FS_OK) {
        memset(wanted, 1, fs_visits_num_keys(r->v));
        fs_cache_assign(r->cache, wanted);
    }
    free(wanted);
    return st;
}

fs_status fs_cache_replay_run(const fs_visits *v, const fs_cache_replay_options *options, fs_cache_stats *out,
                              fs_detail *detail)
{
    replay r = {.v = v, .num_lanes = 1};
    r.done = calloc(v->model.num_experts, sizeof *r.done);
    r.following = calloc(v->num_visits + 1, sizeof *r.following);
    r.first_visit = calloc(v->num_steps + 1, sizeof *r.first_visit);
    r.key_bytes = unit_bytes(v);
    fs_status st = r.done && r.following && r.first_visit && r.key_bytes ? create_cache(&r, options)
                                                                         : FS_NO_MEMORY;
    if (st == FS_OK) {
        link_visits(&r);
        run_all(&r, options);
        fs_cache_get_stats(r.cache, out);
    } else {
        st = fs_fail(detail, st, "no memory for a replay of %zu visits", v->num_visits);
    }
    fs_cache_destroy(r.cache);
    free(r.done);
    free(r.following);
    free(r.first_visit);
    free(r.key_bytes);
    return st;
}

fs_status fs_cache_replay_optimum(const fs_visits *v, uint32_t room, fs_cache_optimum *out, fs_detail *detail)
{
    uint64_t *bytes = unit_bytes(v);
    fs_status st = bytes ? fs_cache_optimum_run(v->key, v->num_keys, bytes, fs_visits_num_keys(v), room, out)
                         : FS_NO_MEMORY;
    free(bytes);
    return st == FS_OK ? st : fs_fail(detail, st, "no memory for the optimum of %zu visits", v->num_visits);
}
