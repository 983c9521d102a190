/* tests/unit/tools/sim/node_sim_test.c: times on a simulated node that can be told by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "sim/node_sim.h"

enum { LAYERS = 4, EXPERTS = 4, STEPS = 100 };
static const fs_trace_model model = {.num_moe_layers = LAYERS, .num_experts = EXPERTS, .top_k = 1};

/* One request, a token a step, whose experts move on by one each step. */
static fs_visits walking(void)
{
    fs_buffer b = {0};
    fs_visits v;
    fs_trace_append_header(&b, &model);
    fs_trace_append(&b, &model, &(fs_trace_event){.kind = FS_TRACE_ARRIVE, .first = 1, .count = STEPS}, 0);
    for (uint32_t s = 0; s < STEPS; s++) {
        uint16_t route[LAYERS];
        const fs_trace_part part = {0, s, 1};
        for (uint32_t l = 0; l < LAYERS; l++) route[l] = (uint16_t)((s + l) % EXPERTS);
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

static const fs_node_sim_options base = {.policy = FS_CACHE_LOOKAHEAD,
                                         .room = 4,
                                         .layer_ns = 100,
                                         .row_ns = 10,
                                         .expert_ns = 5,
                                         .load_ns = 100,
                                         .max_loads = 2};

static fs_node_sim_result run(const fs_visits *v, fs_node_sim_options o)
{
    fs_node_sim_result r;
    assert_int_equal(fs_node_sim_run(v, &o, &r, NULL), FS_OK);
    return r;
}

static void time_is_the_sum_of_what_is_done_and_waited_for(void **state)
{
    fs_visits v = walking();
    fs_node_sim_result r = run(&v, base);
    int64_t work = (int64_t)STEPS * LAYERS * (100 + 10 + 5);
    assert_int_equal(r.total_ns, work + r.waited_ns);
    assert_true(r.waited_ns > 0 && r.waited_ns <= 100 * (int64_t)(r.cache.misses + r.cache.late));
    fs_node_sim_options instant = base;
    instant.load_ns = 0;
    assert_int_equal(run(&v, instant).total_ns, work);
    fs_visits_free(&v);
}

/* A load takes less than the router's part of a layer. */
static void announced_loads_are_not_waited_for_but_at_the_first_layer(void **state)
{
    fs_visits v = walking();
    fs_node_sim_options o = base;
    o.hints = o.prefetch = true;
    fs_node_sim_result told = run(&v, o), untold = run(&v, base);
    assert_int_equal(told.waited_ns, 0);
    assert_true(untold.step_mean_ns > told.step_mean_ns && untold.step_p95_ns > told.step_p95_ns);
    assert_int_equal(told.cache.wasted_bytes, 0);
    fs_visits_free(&v);
}

static void the_same_seed_gives_the_same_result(void **state)
{
    fs_visits v = walking();
    fs_node_sim_options o = base;
    o.jitter = 0.5;
    o.seed = 7;
    fs_node_sim_result a = run(&v, o), b = run(&v, o);
    assert_memory_equal(&a, &b, sizeof a);
    o.seed = 8;
    assert_true(run(&v, o).total_ns != a.total_ns);
    fs_visits_free(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_is_the_sum_of_what_is_done_and_waited_for),
        cmocka_unit_test(announced_loads_are_not_waited_for_but_at_the_first_layer),
        cmocka_unit_test(the_same_seed_gives_the_same_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
