/* tools/sim/cache_replay.c: see cache_replay.h. */
#include "sim/cache_replay.h"

#include <stdlib.h>
#include <string.h>

#include "sim/unit_cache.h"

/* The unit of time: any will do, but the cache takes a pause of a second for idleness. */
#define VISIT_NS FS_NS_PER_MS
/* A hint is believed for so many visits after its time. */
#define GRACE_VISITS 64

typedef struct {
    const fs_visits *v;
    fs_cache *cache;
    bool *done; /* [num_experts] of the visit under way */
} replay;

/* ---- what is announced ---- */

/* The router knows the order of its lanes' visits only roughly: they take turns. */
static void announce(replay *r, size_t step, int64_t now_ns)
{
    int64_t distance = 0;
    for (size_t i = r->v->step[step].first_visit; i != FS_NO_VISIT;
         i = r->v->visit[i].following, distance += r->v->num_lanes) {
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

fs_status fs_cache_replay_run(const fs_visits *v, const fs_cache_replay_options *options, fs_cache_stats *out,
                              fs_detail *detail)
{
    replay r = {.v = v, .done = calloc(v->model.num_experts, sizeof(bool))};
    const fs_unit_cache_options cache = {.policy = options->policy,
                                         .prefetch = options->prefetch,
                                         .room = options->room,
                                         .max_loads = 4,
                                         .hint_grace_ns = GRACE_VISITS * VISIT_NS};
    fs_status st = r.done ? fs_unit_cache_create(v, &cache, &r.cache) : FS_NO_MEMORY;
    if (st == FS_OK) {
        run_all(&r, options);
        fs_cache_get_stats(r.cache, out);
    } else {
        st = fs_fail(detail, st, "no memory for a replay of %zu visits", v->num_visits);
    }
    fs_cache_destroy(r.cache);
    free(r.done);
    return st;
}

fs_status fs_cache_replay_optimum(const fs_visits *v, uint32_t room, fs_cache_optimum *out, fs_detail *detail)
{
    uint64_t *bytes = fs_unit_bytes(v);
    fs_status st = bytes ? fs_cache_optimum_run(v->key, v->num_keys, bytes, fs_visits_num_keys(v), room, out)
                         : FS_NO_MEMORY;
    free(bytes);
    return st == FS_OK ? st : fs_fail(detail, st, "no memory for the optimum of %zu visits", v->num_visits);
}
