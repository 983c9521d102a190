/* What the cache core promises: who is let go under each policy, what is loaded when, and that its rules hold over a million
 * random events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "cache/cache.h"

enum { LAYERS = 4, EXPERTS = 6, KEYS = LAYERS * EXPERTS };
#define MS(n) ((int64_t)(n)*FS_NS_PER_MS)

typedef struct {
    fs_cache *cache;
    int64_t now;
    uint8_t wanted[KEYS];
} fixture;

static void open_cache(fixture *f, fs_cache_policy policy, uint64_t budget, uint32_t max_loads)
{
    uint64_t bytes[KEYS];
    for (int i = 0; i < KEYS; i++) bytes[i] = 10;
    fs_cache_options options = {.policy = policy,
                                .prefetch = true,
                                .num_layers = LAYERS,
                                .num_experts = EXPERTS,
                                .key_bytes = bytes,
                                .budget_bytes = budget,
                                .max_loads = max_loads,
                                .hint_grace_ns = MS(50)};
    *f = (fixture){.now = MS(1000)};
    assert_int_equal(fs_cache_create(&options, &f->cache), FS_OK);
    memset(f->wanted, 1, sizeof(f->wanted));
    fs_cache_assign(f->cache, f->wanted);
}

static void expect(fixture *f, fs_cache_act act, uint32_t key)
{
    fs_cache_action action;
    assert_true(fs_cache_next(f->cache, f->now, &action));
    assert_int_equal(action.act, act);
    assert_int_equal(action.key, key);
    fs_cache_check(f->cache);
}

static void expect_nothing(fixture *f)
{
    fs_cache_action action;
    assert_false(fs_cache_next(f->cache, f->now, &action));
    fs_cache_check(f->cache);
}

static fs_cache_answer claim(fixture *f, uint32_t key)
{
    fs_cache_visit(f->cache, key / EXPERTS, f->now);
    fs_cache_answer answer = fs_cache_claim(f->cache, 0, key, f->now);
    fs_cache_check(f->cache);
    return answer;
}

static fs_cache_stats stats_of(const fixture *f)
{
    fs_cache_stats stats;
    fs_cache_get_stats(f->cache, &stats);
    return stats;
}

/* Uses a key once, loading it if need be; a victim is expected where one is named. */
static void use(fixture *f, uint32_t key, uint32_t victim)
{
    f->now += MS(1);
    if (claim(f, key) == FS_CACHE_WAIT) {
        if (victim != UINT32_MAX) expect(f, FS_CACHE_EVICT, victim);
        expect(f, FS_CACHE_LOAD, key);
        fs_cache_loaded(f->cache, key, true);
    }
    expect_nothing(f);
    fs_cache_release(f->cache, key);
}
#define NOBODY UINT32_MAX

static void lru_lets_go_what_was_used_longest_ago(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LRU, 30, 2);
    use(&f, 0, NOBODY);
    use(&f, 1, NOBODY);
    use(&f, 2, NOBODY);
    use(&f, 0, NOBODY);
    use(&f, 3, 1);
    use(&f, 4, 2);
    assert_int_equal(stats_of(&f).hits, 1);
    assert_int_equal(stats_of(&f).misses, 5);
    fs_cache_destroy(f.cache);
}

static void lfu_lets_go_what_was_used_least(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LFU, 30, 2);
    use(&f, 0, NOBODY);
    use(&f, 0, NOBODY);
    use(&f, 1, NOBODY);
    use(&f, 2, NOBODY);
    use(&f, 2, NOBODY);
    use(&f, 3, 1);
    use(&f, 1, 3); /* its earlier use still counts */
    use(&f, 4, 0); /* of the three with two uses the oldest */
    fs_cache_destroy(f.cache);
}

static void lfru_weighs_uses_against_age(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LFRU, 30, 2);
    for (int i = 0; i < 4; i++) use(&f, 0, NOBODY); /* 4 uses */
    use(&f, 1, NOBODY);
    use(&f, 2, NOBODY);
    use(&f, 3, 1); /* 0: 4/4, 1: 1/3, 2: 1/2 */
    for (int i = 0; i < 12; i++) use(&f, i % 2 ? 2 : 3, NOBODY);
    use(&f, 4, 0); /* 4/17 by now */
    fs_cache_destroy(f.cache);
}

static void lookahead_lets_go_what_is_used_furthest_in_the_future(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 30, 2);
    for (uint32_t key = 0; key < 3; key++) use(&f, key, NOBODY);
    for (uint32_t key = 0; key < 3; key++)
        assert_true(fs_cache_hint(f.cache, 7, key, f.now + MS(10 * (3 - key)), f.now)); /* 0 comes last */
    use(&f, 3, 0);
    fs_cache_destroy(f.cache);
}

/* Layers come round in order: when layer 0 has been, layers 1, 2 and 3 come before it comes again. LRU would let go 1's. */
static void without_hints_the_layer_that_has_just_been_is_furthest_away(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 40, 2);
    for (int pass = 0; pass < 20; pass++)
        for (uint32_t layer = 0; layer < LAYERS; layer++) use(&f, layer * EXPERTS, NOBODY);
    use(&f, 1, 0);
    fs_cache_destroy(f.cache);
}

static void among_the_unhinted_the_rarely_used_go_first(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 30, 2);
    use(&f, 1, NOBODY);
    for (int i = 0; i < 30; i++) use(&f, i % 2 ? 0 : 2, NOBODY);
    use(&f, 1, NOBODY); /* the latest, and the rarest */
    use(&f, 3, 1);
    fs_cache_destroy(f.cache);
}

static void hinted_keys_are_prefetched_in_order_of_their_use(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 30, 3);
    fs_cache_hint(f.cache, 0, 9, f.now + MS(30), f.now);
    fs_cache_hint(f.cache, 1, 8, f.now + MS(10), f.now);
    fs_cache_hint(f.cache, 0, 7, f.now + MS(20), f.now);
    expect(&f, FS_CACHE_LOAD, 8);
    expect(&f, FS_CACHE_LOAD, 7);
    expect_nothing(&f); /* one load stays free for a demand */
    assert_int_equal(claim(&f, 0), FS_CACHE_WAIT);
    expect(&f, FS_CACHE_LOAD, 0);
    fs_cache_loaded(f.cache, 8, true);
    fs_cache_loaded(f.cache, 7, true);
    expect_nothing(&f); /* 9 would push out what is used sooner */
    assert_int_equal(stats_of(&f).prefetches, 2);
    fs_cache_destroy(f.cache);
}

static void a_prefetch_pushes_out_only_what_is_used_later(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 20, 2);
    use(&f, 0, NOBODY);
    use(&f, 1, NOBODY);
    fs_cache_hint(f.cache, 0, 0, f.now + MS(10), f.now);
    fs_cache_hint(f.cache, 0, 1, f.now + MS(40), f.now);
    fs_cache_hint(f.cache, 0, 2, f.now + MS(50), f.now);
    expect_nothing(&f);
    fs_cache_hint(f.cache, 0, 3, f.now + MS(20), f.now);
    expect(&f, FS_CACHE_EVICT, 1);
    expect(&f, FS_CACHE_LOAD, 3);
    fs_cache_loaded(f.cache, 3, true);
    expect_nothing(&f);
    fs_cache_destroy(f.cache);
}

static void a_demand_for_what_is_being_prefetched_hurries_it(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 20, 2);
    fs_cache_hint(f.cache, 0, 5, f.now + MS(10), f.now);
    expect(&f, FS_CACHE_LOAD, 5);
    assert_int_equal(claim(&f, 5), FS_CACHE_WAIT);
    expect(&f, FS_CACHE_HURRY, 5);
    assert_int_equal(claim(&f, 5), FS_CACHE_WAIT);
    expect_nothing(&f);
    fs_cache_loaded(f.cache, 5, true);
    assert_int_equal(stats_of(&f).late, 1);
    assert_int_equal(stats_of(&f).joined, 1);
    assert_int_equal(stats_of(&f).wasted_bytes, 0);
    fs_cache_destroy(f.cache);
}

static void what_was_prefetched_and_never_used_is_counted(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 10, 2);
    fs_cache_hint(f.cache, 0, 5, f.now + MS(10), f.now);
    expect(&f, FS_CACHE_LOAD, 5);
    fs_cache_loaded(f.cache, 5, true);
    use(&f, 2, 5); /* a demand takes what room there is */
    assert_int_equal(stats_of(&f).wasted_bytes, 10);
    assert_int_equal(stats_of(&f).prefetched_bytes, 10);
    fs_cache_destroy(f.cache);
}

static void a_use_takes_off_its_own_announcement_and_no_other(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 20, 2);
    use(&f, 0, NOBODY);
    use(&f, 1, NOBODY);
    fs_cache_hint(f.cache, 0, 0, f.now + MS(1), f.now);
    fs_cache_hint(f.cache, 0, 0, f.now + MS(30), f.now);
    fs_cache_hint(f.cache, 0, 1, f.now + MS(20), f.now);
    use(&f, 0, NOBODY); /* the first of its two */
    use(&f, 2, 0);      /* at 30 ms, 1 is at 20 */
    fs_cache_destroy(f.cache);
}

static void a_hint_that_does_not_come_true_is_forgotten(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 20, 2);
    use(&f, 0, NOBODY);
    use(&f, 1, NOBODY);
    fs_cache_hint(f.cache, 0, 0, f.now + MS(5), f.now);
    fs_cache_hint(f.cache, 0, 3, f.now - MS(51), f.now); /* too late from the beginning */
    assert_int_equal(stats_of(&f).refused_hints, 1);
    for (int i = 0; i < 10; i++) use(&f, 1, NOBODY);
    f.now += MS(100);
    use(&f, 2, 0);
    fs_cache_destroy(f.cache);
}

static void a_lost_routers_hints_are_void(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 20, 2);
    fs_cache_hint(f.cache, 3, 4, f.now + MS(5), f.now);
    fs_cache_hint(f.cache, 4, 5, f.now + MS(5), f.now);
    fs_cache_router_lost(f.cache, 3);
    expect(&f, FS_CACHE_LOAD, 5);
    fs_cache_hint(f.cache, 4, 6, f.now + MS(6), f.now);
    fs_cache_hint(f.cache, 4, 6, FS_NEVER, f.now);
    fs_cache_loaded(f.cache, 5, true);
    expect_nothing(&f);
    fs_cache_destroy(f.cache);
}

static void a_router_has_few_announcements_of_a_key(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 20, 2);
    for (uint32_t i = 0; i < FS_CACHE_KEY_USES; i++)
        assert_true(fs_cache_hint(f.cache, 0, 4, f.now + MS(i), f.now));
    assert_false(fs_cache_hint(f.cache, 0, 4, f.now + MS(9), f.now));
    assert_true(fs_cache_hint(f.cache, 1, 4, f.now + MS(9), f.now));
    assert_false(fs_cache_hint(f.cache, FS_CACHE_NO_ROUTER, 5, f.now + MS(9), f.now));
    fs_cache_check(f.cache);
    fs_cache_destroy(f.cache);
}

static void what_is_in_use_or_awaited_is_never_let_go(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LRU, 20, 2);
    assert_int_equal(claim(&f, 0), FS_CACHE_WAIT);
    assert_int_equal(claim(&f, 1), FS_CACHE_WAIT);
    assert_int_equal(claim(&f, 2), FS_CACHE_WAIT);
    expect(&f, FS_CACHE_LOAD, 0);
    expect(&f, FS_CACHE_LOAD, 1);
    fs_cache_loaded(f.cache, 0, true);
    fs_cache_loaded(f.cache, 1, true);
    expect_nothing(&f); /* both are claimed: 2 waits */
    fs_cache_hold(f.cache, 1);
    fs_cache_release(f.cache, 1);
    expect_nothing(&f);
    fs_cache_release(f.cache, 0);
    expect(&f, FS_CACHE_EVICT, 0);
    expect(&f, FS_CACHE_LOAD, 2);
    fs_cache_destroy(f.cache);
}

static void who_gives_up_waiting_is_not_loaded_for(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LRU, 10, 1);
    assert_int_equal(claim(&f, 0), FS_CACHE_WAIT);
    assert_int_equal(claim(&f, 1), FS_CACHE_WAIT);
    assert_int_equal(claim(&f, 2), FS_CACHE_WAIT);
    fs_cache_release(f.cache, 1);
    fs_cache_check(f.cache);
    expect(&f, FS_CACHE_LOAD, 0);
    fs_cache_loaded(f.cache, 0, true);
    fs_cache_release(f.cache, 0);
    expect(&f, FS_CACHE_EVICT, 0);
    expect(&f, FS_CACHE_LOAD, 2);
    fs_cache_destroy(f.cache);
}

static void all_that_is_wanted_is_loaded_if_it_fits(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LOOKAHEAD, 30, 2);
    memset(f.wanted, 0, sizeof(f.wanted));
    f.wanted[3] = f.wanted[9] = f.wanted[20] = 1;
    fs_cache_assign(f.cache, f.wanted);
    assert_true(fs_cache_all_fits(f.cache));
    expect(&f, FS_CACHE_LOAD, 3);
    expect_nothing(&f);
    assert_int_equal(claim(&f, 20), FS_CACHE_WAIT);
    expect(&f, FS_CACHE_LOAD, 20);
    fs_cache_loaded(f.cache, 3, true);
    expect(&f, FS_CACHE_LOAD, 9);
    fs_cache_loaded(f.cache, 20, true);
    fs_cache_loaded(f.cache, 9, true);
    expect_nothing(&f);
    assert_int_equal(stats_of(&f).resident, 3);
    fs_cache_destroy(f.cache);
}

static void what_is_no_longer_wanted_goes_when_it_is_out_of_use(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LRU, 30, 2);
    use(&f, 0, NOBODY);
    use(&f, 1, NOBODY);
    assert_int_equal(claim(&f, 1), FS_CACHE_HIT);
    assert_int_equal(claim(&f, 2), FS_CACHE_WAIT);
    expect(&f, FS_CACHE_LOAD, 2);
    assert_int_equal(claim(&f, 4), FS_CACHE_WAIT);
    memset(f.wanted, 0, 6);
    fs_cache_assign(f.cache, f.wanted);
    assert_int_equal(claim(&f, 0), FS_CACHE_FOREIGN);
    expect(&f, FS_CACHE_EVICT, 0);
    expect_nothing(&f); /* 4 is not loaded for those who wait for it */
    fs_cache_loaded(f.cache, 2, true);
    expect_nothing(&f);
    fs_cache_release(f.cache, 2);
    expect(&f, FS_CACHE_EVICT, 2);
    fs_cache_release(f.cache, 1);
    expect(&f, FS_CACHE_EVICT, 1);
    fs_cache_release(f.cache, 4);
    expect_nothing(&f);
    fs_cache_destroy(f.cache);
}

static void a_failed_load_is_told_until_the_next_assignment(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LRU, 30, 2);
    assert_int_equal(claim(&f, 3), FS_CACHE_WAIT);
    expect(&f, FS_CACHE_LOAD, 3);
    fs_cache_loaded(f.cache, 3, false);
    fs_cache_release(f.cache, 3);
    assert_int_equal(claim(&f, 3), FS_CACHE_FAILED);
    assert_int_equal(stats_of(&f).failed, 1);
    expect_nothing(&f);
    fs_cache_assign(f.cache, f.wanted);
    assert_int_equal(stats_of(&f).failed, 0);
    assert_int_equal(claim(&f, 3), FS_CACHE_WAIT);
    fs_cache_destroy(f.cache);
}

static void a_smaller_budget_lets_go_until_all_is_within_it(void **state)
{
    fixture f;
    open_cache(&f, FS_CACHE_LRU, 30, 2);
    use(&f, 0, NOBODY);
    use(&f, 1, NOBODY);
    use(&f, 2, NOBODY);
    assert_int_equal(claim(&f, 0), FS_CACHE_HIT);
    assert_int_equal(claim(&f, 5), FS_CACHE_WAIT);
    fs_cache_set_budget(f.cache, 10);
    expect(&f, FS_CACHE_EVICT, 1);
    expect(&f, FS_CACHE_EVICT, 2);
    expect_nothing(&f);
    fs_cache_release(f.cache, 0);
    expect(&f, FS_CACHE_EVICT, 0);
    expect(&f, FS_CACHE_LOAD, 5);
    fs_cache_loaded(f.cache, 5, true);
    fs_cache_set_budget(f.cache, 5);
    assert_int_equal(claim(&f, 4), FS_CACHE_TOO_LARGE);
    assert_int_equal(stats_of(&f).too_large, KEYS);
    fs_cache_destroy(f.cache);
}

static void policies_have_names(void **state)
{
    fs_cache_policy policy;
    for (int i = 0; i < FS_CACHE_NUM_POLICIES; i++) {
        assert_int_equal(fs_cache_policy_find(fs_cache_policy_name((fs_cache_policy)i), &policy), FS_OK);
        assert_int_equal(policy, i);
    }
    assert_int_equal(fs_cache_policy_find("fifo", &policy), FS_NOT_FOUND);
}

/* ---- random events: an owner that knows what it was told, and believes nothing else ---- */

enum { IN_NOWHERE, IN_LOADING, IN_MEMORY };
typedef struct {
    fixture f;
    fs_random random;
    uint64_t bytes[KEYS], budget, held;
    uint8_t place[KEYS];
    uint32_t claims[KEYS];
    uint64_t read_bytes;
} owner;

static void obey(owner *o, const fs_cache_action *a)
{
    switch (a->act) {
    case FS_CACHE_LOAD:
        assert_int_equal(o->place[a->key], IN_NOWHERE); /* no double read */
        assert_int_equal(o->f.wanted[a->key], 1);
        o->place[a->key] = IN_LOADING;
        o->held += o->bytes[a->key];
        o->read_bytes += o->bytes[a->key];
        assert_true(o->held <= o->budget);
        break;
    case FS_CACHE_EVICT:
        assert_int_equal(o->place[a->key], IN_MEMORY);
        assert_int_equal(o->claims[a->key], 0);
        o->place[a->key] = IN_NOWHERE;
        o->held -= o->bytes[a->key];
        break;
    case FS_CACHE_HURRY: assert_int_equal(o->place[a->key], IN_LOADING); break;
    }
}

static void obey_all(owner *o)
{
    fs_cache_action action;
    while (fs_cache_next(o->f.cache, o->f.now, &action)) obey(o, &action);
}

static void finish_load(owner *o, uint32_t key)
{
    if (o->place[key] != IN_LOADING) return;
    bool ok = fs_random_below(&o->random, 50) > 0;
    o->place[key] = ok ? IN_MEMORY : IN_NOWHERE;
    o->held -= ok ? 0 : o->bytes[key];
    fs_cache_loaded(o->f.cache, key, ok);
}

static void random_claim(owner *o, uint32_t key)
{
    bool wanted = o->f.wanted[key], there = o->place[key] == IN_MEMORY;
    fs_cache_visit(o->f.cache, key / EXPERTS, o->f.now);
    fs_cache_answer answer = fs_cache_claim(o->f.cache, fs_random_below(&o->random, 3), key, o->f.now);
    assert_int_equal(answer == FS_CACHE_FOREIGN, !wanted);
    assert_int_equal(answer == FS_CACHE_HIT, wanted && there);
    o->claims[key] += answer == FS_CACHE_HIT || answer == FS_CACHE_WAIT;
}

static void random_release(owner *o, uint32_t key)
{
    if (o->claims[key] == 0) return;
    o->claims[key]--;
    fs_cache_release(o->f.cache, key);
}

static void random_assignment(owner *o)
{
    for (int i = 0; i < KEYS; i++) o->f.wanted[i] = fs_random_below(&o->random, 5) > 0;
    fs_cache_assign(o->f.cache, o->f.wanted);
}

static void random_hint(owner *o, uint32_t key)
{
    int64_t at = o->f.now + MS(fs_random_below(&o->random, 100)) - MS(20);
    if (fs_random_below(&o->random, 20) == 0) at = FS_NEVER;
    fs_cache_hint(o->f.cache, fs_random_below(&o->random, 3), key, at, o->f.now);
}

static void random_event(owner *o)
{
    uint32_t what = fs_random_below(&o->random, 1000), key = fs_random_below(&o->random, KEYS);
    o->f.now += fs_random_below(&o->random, 2 * (uint32_t)FS_NS_PER_MS);
    if (what < 250)
        random_claim(o, key);
    else if (what < 550)
        random_release(o, key);
    else if (what < 750)
        random_hint(o, key);
    else if (what < 990)
        finish_load(o, key);
    else if (what < 994)
        random_assignment(o);
    else if (what < 997)
        fs_cache_router_lost(o->f.cache, fs_random_below(&o->random, 3));
    else
        fs_cache_set_budget(o->f.cache, o->budget = 5 + fs_random_below(&o->random, 150));
}

/* Nobody waits for ever: with all claims but the waiting ones gone, each load is begun and ends. */
static void settle(owner *o)
{
    for (int round = 0; round < 4 * KEYS; round++) {
        obey_all(o);
        for (uint32_t key = 0; key < KEYS; key++) {
            finish_load(o, key);
            bool waits = o->place[key] == IN_NOWHERE;
            while (!waits && o->place[key] == IN_MEMORY && o->claims[key] > 0) random_release(o, key);
        }
    }
    fs_cache_stats stats = stats_of(&o->f);
    assert_int_equal(stats.queued, 0);
    assert_int_equal(stats.loading, 0);
}

static void play(fs_cache_policy policy, uint64_t seed, uint32_t num_events)
{
    owner o = {.random = {seed}, .budget = 60};
    for (int i = 0; i < KEYS; i++) o.bytes[i] = 5 + fs_random_below(&o.random, 10);
    fs_cache_options options = {policy, true, LAYERS, EXPERTS, o.bytes, o.budget, 1 + (uint32_t)(seed % 4),
                                MS(30)};
    assert_int_equal(fs_cache_create(&options, &o.f.cache), FS_OK);
    random_assignment(&o);
    for (uint32_t i = 0; i < num_events; i++) {
        random_event(&o);
        if (fs_random_below(&o.random, 4) > 0) obey_all(&o);
        fs_cache_check(o.f.cache);
        if (i % 10000 == 9999) settle(&o);
    }
    fs_cache_stats stats = stats_of(&o.f);
    assert_true(stats.hits > 0 && stats.misses > 0 && stats.evictions > 0 && stats.failed_loads > 0);
    assert_true(stats.loaded_bytes <= o.read_bytes);
    if (policy == FS_CACHE_LOOKAHEAD)
        assert_true(stats.prefetches > 0 && stats.late > 0 && stats.wasted_bytes > 0);
    fs_cache_destroy(o.f.cache);
}

static void a_million_random_events_keep_the_invariants(void **state)
{
    for (uint64_t seed = 1; seed <= 6; seed++) play(FS_CACHE_LOOKAHEAD, seed, 100000);
    for (uint64_t seed = 1; seed <= 4; seed++) play((fs_cache_policy)(seed % 3), seed, 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lru_lets_go_what_was_used_longest_ago),
        cmocka_unit_test(lfu_lets_go_what_was_used_least),
        cmocka_unit_test(lfru_weighs_uses_against_age),
        cmocka_unit_test(lookahead_lets_go_what_is_used_furthest_in_the_future),
        cmocka_unit_test(without_hints_the_layer_that_has_just_been_is_furthest_away),
        cmocka_unit_test(among_the_unhinted_the_rarely_used_go_first),
        cmocka_unit_test(hinted_keys_are_prefetched_in_order_of_their_use),
        cmocka_unit_test(a_prefetch_pushes_out_only_what_is_used_later),
        cmocka_unit_test(a_demand_for_what_is_being_prefetched_hurries_it),
        cmocka_unit_test(what_was_prefetched_and_never_used_is_counted),
        cmocka_unit_test(a_use_takes_off_its_own_announcement_and_no_other),
        cmocka_unit_test(a_hint_that_does_not_come_true_is_forgotten),
        cmocka_unit_test(a_lost_routers_hints_are_void),
        cmocka_unit_test(a_router_has_few_announcements_of_a_key),
        cmocka_unit_test(what_is_in_use_or_awaited_is_never_let_go),
        cmocka_unit_test(who_gives_up_waiting_is_not_loaded_for),
        cmocka_unit_test(all_that_is_wanted_is_loaded_if_it_fits),
        cmocka_unit_test(what_is_no_longer_wanted_goes_when_it_is_out_of_use),
        cmocka_unit_test(a_failed_load_is_told_until_the_next_assignment),
        cmocka_unit_test(a_smaller_budget_lets_go_until_all_is_within_it),
        cmocka_unit_test(policies_have_names),
        cmocka_unit_test(a_million_random_events_keep_the_invariants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
