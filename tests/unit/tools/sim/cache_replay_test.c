/* tests/unit/tools/sim/cache_replay_test.c: caches over a small trace whose best is known by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sim/cache_replay.h"

enum { LAYERS = 2, EXPERTS = 4, STEPS = 50 };
static const fs_trace_model model = {.num_moe_layers = LAYERS, .num_experts = EXPERTS, .top_k = 1};

/* One request, a token a step, which visits experts (step mod 2) and 3: layer 1 always the same one. */
static fs_visits alternating(void)
{
    fs_buffer b = {0};
    fs_visits v;
    fs_trace_append_header(&b, &model);
    fs_trace_append(&b, &model, &(fs_trace_event){.kind = FS_TRACE_ARRIVE, .first = 1, .count = STEPS}, 0);
    for (uint32_t s = 0; s < STEPS; s++) {
        const uint16_t route[LAYERS] = {(uint16_t)(s % 2), 3};
        const fs_trace_part part = {0, s, 1};
        fs_trace_append(&b, &model,
                        &(fs_trace_event){.kind = FS_TRACE_ROUTES, .first = s, .count = 1, .expert = route},
                        0);
        fs_trace_append(&b, &model, &(fs_trace_event){.kind = FS_TRACE_STEP, .num_parts = 1, .part = &part},
                        0);
        for (uint32_t l = 0; l < LAYERS; l++)
            fs_trace_append(&b, &model, &(fs_trace_event){.kind = FS_TRACE_EXPERTS, .layer = l}, 0);
        fs_trace_append(&b, &model, &(fs_trace_event){.kind = FS_TRACE_DONE}, 0);
    }
    assert_int_equal(fs_visits_read(b.data, b.size, "t", &v, NULL), FS_OK);
    fs_buffer_free(&b);
    return v;
}

static fs_cache_stats run(const fs_visits *v, fs_cache_policy policy, bool hints, bool prefetch,
                          uint32_t room)
{
    fs_cache_stats stats;
    const fs_cache_replay_options o = {policy, hints, prefetch, room};
    assert_int_equal(fs_cache_replay_run(v, &o, &stats, NULL), FS_OK);
    assert_int_equal(stats.hits + stats.misses + stats.late + stats.joined, LAYERS * STEPS);
    return stats;
}

static void claims_are_counted_once_and_the_optimum_is_the_most(void **state)
{
    fs_visits v = alternating();
    fs_cache_optimum best;
    assert_int_equal(fs_cache_replay_optimum(&v, 2, &best, NULL), FS_OK);
    /* Layer 1's expert stays; those of layer 0 take turns in the room that is left. */
    assert_int_equal(best.hits + best.misses, LAYERS * STEPS);
    assert_int_equal(best.hits, STEPS - 1);
    assert_int_equal(run(&v, FS_CACHE_LRU, false, false, 2).hits,
                     STEPS - 1);
    assert_int_equal(run(&v, FS_CACHE_LOOKAHEAD, true, false, 2).hits, STEPS - 1);
    fs_visits_free(&v);
}

static void memory_for_all_misses_each_once(void **state)
{
    fs_visits v = alternating();
    for (int p = 0; p < FS_CACHE_NUM_POLICIES; p++)
        assert_in_range(run(&v, (fs_cache_policy)p, false, false, 3).misses, 3, 3);
    fs_visits_free(&v);
}

static void what_is_announced_is_there_when_it_is_used(void **state)
{
    fs_visits v = alternating();
    fs_cache_stats stats = run(&v, FS_CACHE_LOOKAHEAD, true, true, 2);
    assert_int_equal(stats.hits, LAYERS * STEPS);
    assert_int_equal(stats.wasted_bytes, 0);
    stats = run(&v, FS_CACHE_LOOKAHEAD, true, true, 1); /* room for one visit alone */
    assert_int_equal(stats.hits, LAYERS * STEPS);
    fs_visits_free(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(claims_are_counted_once_and_the_optimum_is_the_most),
        cmocka_unit_test(memory_for_all_misses_each_once),
        cmocka_unit_test(what_is_announced_is_there_when_it_is_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
