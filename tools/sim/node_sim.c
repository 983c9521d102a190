/* tools/sim/node_sim.c: see node_sim.h. */
#include "sim/node_sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/quantile.h"
#include "base/random.h"
#include "sim/unit_cache.h"

/* A hint is believed for so long after its time. */
#define GRACE_NS FS_NS_PER_S

typedef struct {
    uint32_t key;
    int64_t done_ns;
} load;

typedef struct {
    const fs_visits *v;
    const fs_node_sim_options *o;
    fs_cache *cache;
    fs_random random;
    int64_t now_ns, visit_ns; /* visit_ns: how long a visit took lately, for the times of hints */
    load loading[FS_NODE_SIM_MAX_LOADS];
    uint32_t num_loading;
    bool *done;        /* [num_experts] of the visit under way */
    int64_t *began_ns; /* [num_steps] */
    double *step_ns;   /* [num_steps] of those that are over */
    size_t num_over;
    fs_node_sim_result result;
} sim;

/* ---- loads ---- */

static int64_t load_time(sim *s)
{
    double off = s->o->jitter * (2.0 * (double)fs_random_unit(&s->random) - 1.0);
    return (int64_t)((double)s->o->load_ns * (1.0 + off));
}

static void obey(sim *s)
{
    fs_cache_action action;
    while (fs_cache_next(s->cache, s->now_ns, &action))
        if (action.act == FS_CACHE_LOAD)
            s->loading[s->num_loading++] = (load){action.key, s->now_ns + load_time(s)};
}

/* The one that ends first; num_loading: none is under way. */
static uint32_t first_to_end(const sim *s)
{
    uint32_t first = 0;
    for (uint32_t i = 1; i < s->num_loading; i++)
        if (s->loading[i].done_ns < s->loading[first].done_ns) first = i;
    return first;
}

/* Time passes, and loads that end meanwhile make others begin. */
static void pass(sim *s, int64_t until_ns)
{
    while (s->num_loading > 0) {
        uint32_t i = first_to_end(s);
        if (s->loading[i].done_ns > until_ns) break;
        s->now_ns = s->loading[i].done_ns > s->now_ns ? s->loading[i].done_ns : s->now_ns;
        fs_cache_loaded(s->cache, s->loading[i].key, true);
        s->loading[i] = s->loading[--s->num_loading];
        obey(s);
    }
    s->now_ns = until_ns;
}

/* ---- steps ---- */

static void begin_step(sim *s, size_t step)
{
    int64_t at_ns = s->now_ns;
    s->began_ns[step] = s->now_ns;
    for (size_t i = s->v->step[step].first_visit; s->o->hints && i != FS_NO_VISIT;
         i = s->v->visit[i].following, at_ns += s->visit_ns)
        for (uint32_t k = 0; k < s->v->visit[i].num_keys; k++)
            (void)fs_cache_hint(s->cache, 0, s->v->key[s->v->visit[i].first + k], at_ns, s->now_ns);
    obey(s);
}

/* What is there runs, one expert after the other; when nothing is, the next load is waited for. */
static void run_experts(sim *s, const fs_visit *visit)
{
    const uint32_t *key = s->v->key + visit->first;
    fs_cache_visit(s->cache, visit->layer, s->now_ns);
    memset(s->done, 0, visit->num_keys);
    for (uint32_t i = 0; i < visit->num_keys; i++) (void)fs_cache_claim(s->cache, 0, key[i], s->now_ns);
    obey(s);
    for (uint32_t left = visit->num_keys; left > 0;) {
        uint32_t i = 0;
        while (i < visit->num_keys && (s->done[i] || !fs_cache_is_resident(s->cache, key[i]))) i++;
        if (i < visit->num_keys) {
            pass(s, s->now_ns + s->o->expert_ns);
            fs_cache_release(s->cache, key[i]);
            s->done[i] = true;
            left--;
            obey(s);
            continue;
        }
        FS_ASSERT(s->num_loading > 0); /* a cache that loads nothing of what is claimed would stand still */
        int64_t until_ns = s->loading[first_to_end(s)].done_ns;
        if (until_ns < s->now_ns) until_ns = s->now_ns;
        s->result.waited_ns += until_ns - s->now_ns;
        pass(s, until_ns);
    }
}

static void run_visit(sim *s, size_t index)
{
    const fs_visit *visit = &s->v->visit[index];
    int64_t began_ns = s->now_ns;
    pass(s, s->now_ns + s->o->layer_ns + s->o->row_ns * (int64_t)visit->num_rows);
    run_experts(s, visit);
    int64_t took_ns = s->now_ns - began_ns;
    s->visit_ns = s->visit_ns ? (7 * s->visit_ns + took_ns) / 8 : took_ns;
    if (visit->following == FS_NO_VISIT)
        s->step_ns[s->num_over++] = (double)(s->now_ns - s->began_ns[visit->step]);
}

static void sum_up(sim *s)
{
    fs_node_sim_result *r = &s->result;
    for (size_t i = 0; i < s->num_over; i++) r->step_mean_ns += s->step_ns[i] / (double)s->num_over;
    r->step_p95_ns = fs_quantile(s->step_ns, s->num_over, 0.95);
    r->total_ns = s->now_ns - FS_NS_PER_S;
    fs_cache_get_stats(s->cache, &r->cache);
}

/* ---- frame ---- */

static fs_status allocate(sim *s)
{
    const fs_visits *v = s->v;
    s->done = calloc(v->model.num_experts, sizeof *s->done);
    s->began_ns = calloc(v->num_steps + 1, sizeof *s->began_ns);
    s->step_ns = calloc(v->num_steps + 1, sizeof *s->step_ns);
    const fs_unit_cache_options cache = {.policy = s->o->policy,
                                         .prefetch = s->o->prefetch,
                                         .room = s->o->room,
                                         .max_loads = s->o->max_loads,
                                         .hint_grace_ns = GRACE_NS};
    if (!s->done || !s->began_ns || !s->step_ns) return FS_NO_MEMORY;
    return fs_unit_cache_create(v, &cache, &s->cache);
}

static void release(sim *s)
{
    fs_cache_destroy(s->cache);
    free(s->done);
    free(s->began_ns);
    free(s->step_ns);
}

fs_status fs_node_sim_run(const fs_visits *v, const fs_node_sim_options *o, fs_node_sim_result *out,
                          fs_detail *detail)
{
    FS_ASSERT(o->max_loads >= 1 && o->max_loads <= FS_NODE_SIM_MAX_LOADS && o->room >= 1);
    sim s = {.v = v, .o = o, .random = {o->seed}, .now_ns = FS_NS_PER_S};
    fs_status st = allocate(&s);
    if (st == FS_OK) {
        size_t step = 0;
        for (size_t i = 0; i < v->num_visits; i++) {
            for (; step < v->num_steps && v->step[step].next_visit <= i; step++) begin_step(&s, step);
            run_visit(&s, i);
        }
        sum_up(&s);
        *out = s.result;
    } else {
        st = fs_fail(detail, st, "no memory for a simulation of %zu visits", v->num_visits);
    }
    release(&s);
    return st;
}
