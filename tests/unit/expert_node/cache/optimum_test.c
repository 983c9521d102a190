/* What the optimum promises: no policy that loads on demand has more hits; and how the policies stand beside it on traces with
 * the shape of ours: layers that take turns, favourite experts, texts that stay with theirs for a while. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "cache/cache.h"
#include "cache/optimum.h"

/* ---- beside an exhaustive search ---- */

enum { SMALL_KEYS = 5, SMALL_ACCESSES = 11 };

/* The fewest misses from access i on, with the keys of set `in` in memory. */
static uint32_t fewest(const uint32_t *access, int i, uint32_t in, int room)
{
    if (i == SMALL_ACCESSES) return 0;
    uint32_t key = 1u << access[i], best = UINT32_MAX;
    if (in & key) return fewest(access, i + 1, in, room);
    if (__builtin_popcount(in) < room) return 1 + fewest(access, i + 1, in | key, room);
    for (uint32_t victim = 1; victim < 1u << SMALL_KEYS; victim *= 2) {
        if (!(in & victim)) continue;
        uint32_t misses = 1 + fewest(access, i + 1, (in & ~victim) | key, room);
        if (misses < best) best = misses;
    }
    return best;
}

static void no_choice_of_victims_has_fewer_misses(void **state)
{
    const uint64_t bytes[SMALL_KEYS] = {3, 3, 3, 3, 3};
    fs_random random = {11};
    for (int round = 0; round < 300; round++) {
        uint32_t access[SMALL_ACCESSES];
        int room = 1 + (int)fs_random_below(&random, 3);
        for (int i = 0; i < SMALL_ACCESSES; i++) access[i] = fs_random_below(&random, SMALL_KEYS);
        fs_cache_optimum best;
        assert_int_equal(
            fs_cache_optimum_run(access, SMALL_ACCESSES, bytes, SMALL_KEYS, 3 * (uint64_t)room, &best),
            FS_OK);
        assert_int_equal(best.misses, fewest(access, 0, 0, room));
        assert_int_equal(best.hits, SMALL_ACCESSES - best.misses);
        assert_int_equal(best.loaded_bytes, 3 * best.misses);
    }
}

static void what_can_never_be_held_is_refused(void **state)
{
    const uint64_t bytes[2] = {3, 30};
    const uint32_t access[] = {0, 1}, outside[] = {2};
    fs_cache_optimum out;
    assert_int_equal(fs_cache_optimum_run(access, 2, bytes, 2, 10, &out), FS_INVALID);
    assert_int_equal(fs_cache_optimum_run(outside, 1, bytes, 2, 10, &out), FS_INVALID);
    assert_int_equal(fs_cache_optimum_run(access, 1, bytes, 2, 10, &out), FS_OK);
    assert_int_equal(fs_cache_optimum_run(NULL, 0, bytes, 2, 10, &out), FS_OK);
    assert_int_equal(out.hits + out.misses, 0);
}

/* ---- the policies ---- */

enum { LAYERS = 8, EXPERTS = 32, KEYS = LAYERS * EXPERTS, PASSES = 500, TOP_K = 2, MOST_STREAMS = 16 };
#define VISIT_NS FS_NS_PER_MS

typedef struct {
    uint32_t num[PASSES * LAYERS];
    uint32_t key[PASSES * LAYERS][EXPERTS];
    uint32_t access[PASSES * LAYERS * EXPERTS];
    size_t num_accesses;
} trace;

/* Half of the draws are the layer's favourites, a third the stream's own experts of the token before. */
static uint32_t draw(fs_random *random, uint32_t before, uint32_t layer)
{
    uint32_t what = fs_random_below(random, 6);
    if (what < 2) return before;
    if (what < 5) return (layer * 7 + fs_random_below(random, EXPERTS / 4)) % EXPERTS;
    return fs_random_below(random, EXPERTS);
}

static trace *make_trace(uint64_t seed, uint32_t streams)
{
    trace *t = calloc(1, sizeof(*t));
    fs_random random = {seed};
    uint32_t last[MOST_STREAMS][LAYERS][TOP_K] = {0};
    for (uint32_t v = 0; v < PASSES * LAYERS; v++) {
        bool seen[EXPERTS] = {false};
        uint32_t layer = v % LAYERS;
        for (uint32_t i = 0; i < streams * TOP_K; i++) {
            uint32_t *e = &last[i / TOP_K][layer][i % TOP_K];
            *e = draw(&random, *e, layer);
            if (seen[*e]) continue;
            seen[*e] = true;
            t->key[v][t->num[v]++] = t->access[t->num_accesses++] = layer * EXPERTS + *e;
        }
    }
    return t;
}

static void announce_pass(fs_cache *c, const trace *t, uint32_t first, int64_t now)
{
    for (uint32_t v = first; v < first + LAYERS; v++)
        for (uint32_t i = 0; i < t->num[v]; i++)
            fs_cache_hint(c, 0, t->key[v][i], now + (int64_t)(v - first) * VISIT_NS, now);
}

/* Loads take no time. */
static void obey(fs_cache *c, int64_t now)
{
    fs_cache_action action;
    while (fs_cache_next(c, now, &action))
        if (action.act == FS_CACHE_LOAD) fs_cache_loaded(c, action.key, true);
}

/* Runs what is in memory until nothing is left, as an executor does: a visit may touch more than memory holds. */
static void run_visit(fs_cache *c, const uint32_t *key, uint32_t num, int64_t now)
{
    bool done[EXPERTS] = {false};
    for (uint32_t i = 0; i < num; i++)
        assert_in_range(fs_cache_claim(c, 0, key[i], now), FS_CACHE_HIT, FS_CACHE_WAIT);
    for (uint32_t left = num, before = num + 1; left > 0 && left < before;) {
        before = left;
        obey(c, now);
        for (uint32_t i = 0; i < num; i++) {
            if (done[i] || !fs_cache_is_resident(c, key[i])) continue;
            fs_cache_release(c, key[i]);
            done[i] = true;
            left--;
        }
        assert_true(left < before);
    }
}

typedef struct {
    fs_cache_policy policy;
    bool hints, prefetch;
} how;

static fs_cache_stats replay(const trace *t, how h, uint32_t room)
{
    uint64_t bytes[KEYS];
    uint8_t wanted[KEYS];
    for (int i = 0; i < KEYS; i++) bytes[i] = 1;
    memset(wanted, 1, sizeof(wanted));
    fs_cache_options options = {h.policy, h.prefetch, LAYERS, EXPERTS, bytes, room, 4, 50 * FS_NS_PER_MS};
    fs_cache *c;
    fs_cache_stats stats;
    assert_int_equal(fs_cache_create(&options, &c), FS_OK);
    fs_cache_assign(c, wanted);
    for (uint32_t v = 0; v < PASSES * LAYERS; v++) {
        int64_t now = FS_NS_PER_S + v * VISIT_NS;
        if (h.hints && v % LAYERS == 0) announce_pass(c, t, v, now);
        if (h.prefetch) obey(c, now);
        fs_cache_visit(c, v % LAYERS, now);
        run_visit(c, t->key[v], t->num[v], now);
    }
    fs_cache_get_stats(c, &stats);
    fs_cache_destroy(c);
    return stats;
}

static void lookahead_is_not_below_lru_or_lfu_and_none_is_above_the_optimum(void **state)
{
    static const uint32_t streams[] = {1, 4, 16}, percent[] = {10, 25, 50, 75};
    uint64_t bytes[KEYS];
    for (int i = 0; i < KEYS; i++) bytes[i] = 1;
    for (int s = 0; s < 3; s++) {
        trace *t = make_trace(5, streams[s]);
        for (int p = 0; p < 4; p++) {
            uint32_t room = KEYS * percent[p] / 100;
            fs_cache_optimum best;
            assert_int_equal(fs_cache_optimum_run(t->access, t->num_accesses, bytes, KEYS, room, &best),
                             FS_OK);
            uint64_t lru = replay(t, (how){FS_CACHE_LRU, false, false}, room).hits;
            uint64_t lfu = replay(t, (how){FS_CACHE_LFU, false, false}, room).hits;
            uint64_t lfru = replay(t, (how){FS_CACHE_LFRU, false, false}, room).hits;
            uint64_t alone = replay(t, (how){FS_CACHE_LOOKAHEAD, false, false}, room).hits;
            uint64_t told = replay(t, (how){FS_CACHE_LOOKAHEAD, true, false}, room).hits;
            print_message(
                "%2u streams, %u %% in memory: hits of %zu: lru %.1f lfu %.1f lfru %.1f lookahead %.1f, with "
                "hints %.1f, "
                "optimum %.1f %%\n",
                streams[s], percent[p], t->num_accesses, 100.0 * (double)lru / (double)t->num_accesses,
                100.0 * (double)lfu / (double)t->num_accesses, 100.0 * (double)lfru / (double)t->num_accesses,
                100.0 * (double)alone / (double)t->num_accesses,
                100.0 * (double)told / (double)t->num_accesses,
                100.0 * (double)best.hits / (double)t->num_accesses);
            uint64_t noise = t->num_accesses / 300; /* a third of a point */
            assert_true(alone + noise >= lru && alone + noise >= lfu && told + noise >= alone);
            assert_true(told <= best.hits && lfru <= best.hits);
        }
        free(t);
    }
}

/* With exact hints and time to load, next to nothing waits and nothing is read in vain. */
static void exact_hints_leave_few_waits_and_no_waste(void **state)
{
    trace *t = make_trace(9, 4);
    fs_cache_stats stats = replay(t, (how){FS_CACHE_LOOKAHEAD, true, true}, KEYS / 3);
    assert_true(stats.hits * 100 >= 97 * t->num_accesses);
    assert_true(stats.wasted_bytes * 1000 <= stats.prefetched_bytes);
    free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_choice_of_victims_has_fewer_misses),
        cmocka_unit_test(what_can_never_be_held_is_refused),
        cmocka_unit_test(lookahead_is_not_below_lru_or_lfu_and_none_is_above_the_optimum),
        cmocka_unit_test(exact_hints_leave_few_waits_and_no_waste),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
