/* The promises of a plan, on tables and on 2000 random clusters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "placement/placement.h"

enum { MAX_NODES = 16, NO_LIMIT = -1 };

typedef struct {
    fs_placement_shape shape;
    fs_placement_node nodes[MAX_NODES];
    uint32_t num_nodes;
    uint32_t *replica;
    uint32_t load[MAX_NODES], min_layer[MAX_NODES], max_layer[MAX_NODES];
} planned;

static uint32_t entries(const fs_placement_shape *s)
{
    return s->num_moe_layers * s->num_experts * s->num_replicas;
}

static fs_status plan_it(planned *p, fs_detail *detail)
{
    free(p->replica);
    p->replica = malloc(entries(&p->shape) * sizeof(*p->replica));
    assert_non_null(p->replica);
    memset(p->replica, 0xff, entries(&p->shape) * sizeof(*p->replica));
    return fs_placement_plan(&p->shape, p->nodes, p->num_nodes, p->replica, detail);
}

/* Counts, and asserts what holds for every plan: nodes exist, the replicas of an expert are on different ones, room is respected. */
static void check(planned *p)
{
    const fs_placement_shape *s = &p->shape;
    memset(p->load, 0, sizeof(p->load));
    memset(p->min_layer, 0xff, sizeof(p->min_layer));
    memset(p->max_layer, 0, sizeof(p->max_layer));
    for (uint32_t l = 0; l < s->num_moe_layers; l++) {
        uint32_t in_layer[MAX_NODES] = {0};
        for (uint32_t e = 0; e < s->num_experts; e++) {
            const uint32_t *r = &p->replica[(l * s->num_experts + e) * s->num_replicas];
            for (uint32_t i = 0; i < s->num_replicas; i++) {
                assert_true(r[i] < p->num_nodes);
                for (uint32_t j = 0; j < i; j++) assert_int_not_equal(r[i], r[j]);
                in_layer[r[i]]++;
            }
        }
        for (uint32_t n = 0; n < p->num_nodes; n++) {
            p->load[n] += in_layer[n];
            if (in_layer[n] < p->min_layer[n]) p->min_layer[n] = in_layer[n];
            if (in_layer[n] > p->max_layer[n]) p->max_layer[n] = in_layer[n];
        }
    }
    for (uint32_t n = 0; n < p->num_nodes; n++) assert_true(p->load[n] <= p->nodes[n].max_experts);
}

static void set_nodes(planned *p, uint32_t n, const char *const *racks, const int *room)
{
    static const char *const names[MAX_NODES] = {"a", "b", "c", "d", "e", "f", "g", "h",
                                                 "i", "j", "k", "l", "m", "n", "o", "p"};
    p->num_nodes = n;
    for (uint32_t i = 0; i < n; i++)
        p->nodes[i] = (fs_placement_node){names[i], racks ? racks[i] : "",
                                          !room || room[i] < 0 ? UINT64_MAX : (uint64_t)room[i]};
}

static void demo_model_on_two_nodes_is_halved_in_every_layer(void **state)
{
    planned p = {.shape = {6, 32, 1}};
    set_nodes(&p, 2, NULL, NULL);
    assert_int_equal(plan_it(&p, NULL), FS_OK);
    check(&p);
    for (int n = 0; n < 2; n++) {
        assert_int_equal(p.load[n], 96);
        assert_int_equal(p.min_layer[n], 16);
        assert_int_equal(p.max_layer[n], 16);
    }
    free(p.replica);
}

static void as_many_replicas_as_nodes_is_everything_everywhere(void **state)
{
    planned p = {.shape = {3, 5, 3}};
    set_nodes(&p, 3, NULL, NULL);
    assert_int_equal(plan_it(&p, NULL), FS_OK);
    check(&p);
    for (int n = 0; n < 3; n++) assert_int_equal(p.load[n], 15);
    free(p.replica);
}

static void one_node_holds_all(void **state)
{
    planned p = {.shape = {2, 7, 1}};
    set_nodes(&p, 1, NULL, NULL);
    assert_int_equal(plan_it(&p, NULL), FS_OK);
    check(&p);
    assert_int_equal(p.load[0], 14);
    free(p.replica);
}

static void replicas_go_to_different_racks(void **state)
{
    const char *const racks[] = {"r1", "r1", "r2", "r2", "r3", "r3"};
    planned p = {.shape = {4, 32, 3}};
    set_nodes(&p, 6, racks, NULL);
    assert_int_equal(plan_it(&p, NULL), FS_OK);
    check(&p);
    for (uint32_t e = 0; e < 4 * 32; e++) {
        const uint32_t *r = &p.replica[e * 3];
        assert_true(r[0] / 2 != r[1] / 2 && r[1] / 2 != r[2] / 2 && r[0] / 2 != r[2] / 2);
    }
    for (int n = 0; n < 6; n++) assert_int_equal(p.load[n], 64);
    free(p.replica);
}

/* Rack r3 has half of all places, so that each expert must have one there for the rest to work out. */
static void racks_of_unlike_size_are_spread_too(void **state)
{
    const char *const racks[] = {"r1", "r2", "r3", "r3"};
    planned p = {.shape = {2, 32, 2}};
    set_nodes(&p, 4, racks, NULL);
    assert_int_equal(plan_it(&p, NULL), FS_OK);
    check(&p);
    for (uint32_t e = 0; e < 64; e++)
        assert_string_not_equal(racks[p.replica[e * 2]], racks[p.replica[e * 2 + 1]]);
    free(p.replica);
}

static void small_nodes_are_filled_and_others_share_the_rest(void **state)
{
    const int room[] = {10, NO_LIMIT, NO_LIMIT};
    planned p = {.shape = {4, 20, 1}};
    set_nodes(&p, 3, NULL, room);
    assert_int_equal(plan_it(&p, NULL), FS_OK);
    check(&p);
    assert_int_equal(p.load[0], 10);
    assert_int_equal(p.load[1], 35);
    assert_int_equal(p.load[2], 35);
    assert_true(p.max_layer[0] - p.min_layer[0] <= 1);
    free(p.replica);
}

static void exactly_fitting_memory_is_used_to_the_last_place(void **state)
{
    const int room[] = {8, 4, 4};
    planned p = {.shape = {2, 4, 2}};
    set_nodes(&p, 3, NULL, room);
    assert_int_equal(plan_it(&p, NULL), FS_OK);
    check(&p);
    assert_int_equal(p.load[0], 8);
    free(p.replica);
}

static void experts_that_do_not_fit_are_said_so_with_numbers(void **state)
{
    const int room[] = {100, 3};
    planned p = {.shape = {2, 4, 2}}; /* node a cannot hold an expert twice: 8 + 3 places for 16 */
    set_nodes(&p, 2, NULL, room);
    fs_detail detail = {0};
    assert_int_equal(plan_it(&p, &detail), FS_EXHAUSTED);
    assert_string_equal(
        detail.text,
        "the experts do not fit: 8 experts with 2 replicas need 16 places and the memory of 2 nodes has 11");
    free(p.replica);
}

static void impossible_shapes_are_refused(void **state)
{
    const fs_placement_shape shapes[] = {
        {0, 4, 1},       {4, 0, 1}, {4, 4, 0}, {1u << 16, 1u << 16, 1}, {UINT32_MAX, UINT32_MAX, UINT32_MAX},
        {1024, 1024, 2}, {1, 1, 3}};
    planned p = {0};
    set_nodes(&p, 2, NULL, NULL);
    uint32_t none;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        fs_detail detail = {0};
        assert_int_equal(fs_placement_plan(&shapes[i], p.nodes, 2, &none, &detail), FS_INVALID);
        assert_true(detail.text[0] != 0);
    }
}

static void random_clusters_keep_every_promise(void **state)
{
    static const char *const racks[] = {"", "r1", "r2", "r3"};
    fs_random random = {20250101};
    uint32_t planned_ones = 0;
    for (int round = 0; round < 2000; round++) {
        planned p = {0};
        p.num_nodes = 1 + fs_random_below(&random, MAX_NODES);
        p.shape.num_replicas = 1 + fs_random_below(&random, p.num_nodes < 4 ? p.num_nodes : 4);
        p.shape.num_moe_layers = 1 + fs_random_below(&random, 6);
        p.shape.num_experts = 1 + fs_random_below(&random, 40);
        uint64_t experts = p.shape.num_moe_layers * p.shape.num_experts, sum = 0;
        bool limited = fs_random_below(&random, 2);
        for (uint32_t i = 0; i < p.num_nodes; i++) {
            uint64_t room = limited ? fs_random_below(&random, (uint32_t)experts * 2) : UINT64_MAX;
            p.nodes[i] = (fs_placement_node){"n", racks[fs_random_below(&random, 4)], room};
            sum += room < experts ? room : experts;
        }
        fs_status st = plan_it(&p, NULL);
        assert_int_equal(st, sum >= experts * p.shape.num_replicas ? FS_OK : FS_EXHAUSTED);
        if (st == FS_OK) {
            planned_ones++;
            check(&p);
            uint32_t low = UINT32_MAX, high = 0;
            for (uint32_t n = 0; n < p.num_nodes; n++) {
                assert_true(p.max_layer[n] - p.min_layer[n] <= 1);
                if (p.load[n] < low && p.load[n] < p.nodes[n].max_experts) low = p.load[n];
                if (p.load[n] > high) high = p.load[n];
            }
            assert_true(low == UINT32_MAX || high <= low + 1); /* even, but for the full ones */
            uint32_t *first = p.replica;
            p.replica = NULL;
            assert_int_equal(plan_it(&p, NULL), FS_OK);
            assert_memory_equal(first, p.replica, entries(&p.shape) * sizeof(*first));
            free(first);
        }
        free(p.replica);
    }
    assert_true(planned_ones > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_model_on_two_nodes_is_halved_in_every_layer),
        cmocka_unit_test(as_many_replicas_as_nodes_is_everything_everywhere),
        cmocka_unit_test(one_node_holds_all),
        cmocka_unit_test(replicas_go_to_different_racks),
        cmocka_unit_test(racks_of_unlike_size_are_spread_too),
        cmocka_unit_test(small_nodes_are_filled_and_others_share_the_rest),
        cmocka_unit_test(exactly_fitting_memory_is_used_to_the_last_place),
        cmocka_unit_test(experts_that_do_not_fit_are_said_so_with_numbers),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(random_clusters_keep_every_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
