/* tests/unit/common/numa/plan_test.c: threads are divided over nodes; on topologies that hwloc makes from a description. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "numa/numa_int.h"

static hwloc_topology_t topology_of(const char *description)
{
    hwloc_topology_t topology;
    assert_int_equal(hwloc_topology_init(&topology), 0);
    assert_int_equal(hwloc_topology_set_synthetic(topology, description), 0);
    assert_int_equal(hwloc_topology_load(topology), 0);
    return topology;
}

/* Leaves CPUs first .. last only. */
static void restrict_to(hwloc_topology_t topology, unsigned first, int last)
{
    hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
    assert_int_equal(hwloc_bitmap_set_range(cpus, first, last), 0);
    assert_int_equal(hwloc_topology_restrict(topology, cpus, 0), 0);
    hwloc_bitmap_free(cpus);
}

/* threads: of each node. Takes the topology. */
static void check(hwloc_topology_t topology, uint32_t num_threads, uint32_t num_nodes,
                  const uint32_t *threads)
{
    fs_numa_plan plan;
    assert_int_equal(fs_numa_plan_init(&plan, topology, num_threads), FS_OK);
    assert_int_equal(plan.num_nodes, num_nodes);
    for (uint32_t n = 0, index = 0; n < num_nodes; n++) {
        assert_int_equal(plan.node[n].num_threads, threads[n]);
        for (uint32_t i = 0; i < threads[n]; i++)
            assert_ptr_equal(fs_numa_plan_node(&plan, index++), &plan.node[n]);
    }
    fs_numa_plan_fini(&plan);
    hwloc_topology_destroy(topology);
}

static void equal_nodes_get_equal_shares(void **state)
{
    check(topology_of("node:2 core:4 pu:2"), 16, 2, (uint32_t[]){8, 8});
    check(topology_of("node:2 core:4 pu:2"), 4, 2, (uint32_t[]){2, 2});
    check(topology_of("package:2 node:2 core:8 pu:1"), 12, 4, (uint32_t[]){3, 3, 3, 3});
}

static void what_does_not_divide_goes_to_the_first_nodes(void **state)
{
    check(topology_of("node:2 core:4 pu:2"), 5, 2, (uint32_t[]){3, 2});
    check(topology_of("node:4 pu:4"), 6, 4, (uint32_t[]){2, 2, 1, 1});
    check(topology_of("node:4 pu:4"), 1, 4, (uint32_t[]){1, 0, 0, 0});
    check(topology_of("node:4 pu:4"), 0, 4, (uint32_t[]){0, 0, 0, 0});
}

static void more_threads_than_cpus_keep_the_proportion(void **state)
{
    check(topology_of("node:2 pu:2"), 100, 2, (uint32_t[]){50, 50});
    hwloc_topology_t topology = topology_of("node:2 pu:4");
    restrict_to(topology, 0, 4); /* 4 and 1 */
    check(topology, 100, 2, (uint32_t[]){80, 20});
}

static void nodes_get_threads_by_the_cpus_that_are_left_of_them(void **state)
{
    hwloc_topology_t topology = topology_of("node:2 core:4 pu:2");
    restrict_to(topology, 2, 9); /* 6 and 2 */
    check(topology, 8, 2, (uint32_t[]){6, 2});
    topology = topology_of("node:3 pu:4");
    restrict_to(topology, 3, 10); /* 1, 4 and 3: shares of 0.625, 2.5 and 1.875 */
    check(topology, 5, 3, (uint32_t[]){1, 2, 2});
}

static void a_node_without_usable_cpus_has_no_part(void **state)
{
    hwloc_topology_t topology = topology_of("node:3 pu:4");
    restrict_to(topology, 4, 11);
    fs_numa_plan plan;
    assert_int_equal(fs_numa_plan_init(&plan, topology, 4), FS_OK);
    assert_int_equal(plan.num_nodes, 2);
    assert_int_equal(plan.node[0].os_index, 1);
    assert_int_equal(plan.node[1].os_index, 2);
    assert_int_equal(hwloc_bitmap_first(fs_numa_plan_node(&plan, 0)->cpus), 4);
    assert_int_equal(hwloc_bitmap_last(fs_numa_plan_node(&plan, 0)->cpus), 7);
    assert_int_equal(hwloc_bitmap_first(fs_numa_plan_node(&plan, 3)->cpus), 8);
    assert_int_equal(hwloc_bitmap_last(fs_numa_plan_node(&plan, 3)->cpus), 11);
    fs_numa_plan_fini(&plan);
    hwloc_topology_destroy(topology);
}

static void memory_beside_a_node_does_not_count_its_cpus_twice(void **state)
{
    check(topology_of("package:2 [numa] [numa] core:4 pu:1"), 8, 2, (uint32_t[]){4, 4});
}

static void one_node_has_all(void **state)
{
    check(topology_of("node:1 core:4 pu:2"), 7, 1, (uint32_t[]){7});
}

static void any_division_is_complete_and_within_one_of_its_share(void **state)
{
    for (int last = 1; last < 24; last++)
        for (uint32_t threads = 0; threads < 70; threads += 3) {
            hwloc_topology_t topology = topology_of("node:3 pu:8");
            restrict_to(topology, 0, last);
            fs_numa_plan plan;
            assert_int_equal(fs_numa_plan_init(&plan, topology, threads), FS_OK);
            uint32_t sum = 0;
            for (uint32_t n = 0; n < plan.num_nodes; n++) {
                int64_t share = (int64_t)threads * plan.node[n].num_cpus; /* times the number of CPUs */
                int64_t off = (int64_t)plan.node[n].num_threads * (last + 1) - share;
                assert_true(off < last + 1 && off > -(last + 1));
                sum += plan.node[n].num_threads;
            }
            assert_int_equal(sum, threads);
            fs_numa_plan_fini(&plan);
            hwloc_topology_destroy(topology);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_nodes_get_equal_shares),
        cmocka_unit_test(what_does_not_divide_goes_to_the_first_nodes),
        cmocka_unit_test(more_threads_than_cpus_keep_the_proportion),
        cmocka_unit_test(nodes_get_threads_by_the_cpus_that_are_left_of_them),
        cmocka_unit_test(a_node_without_usable_cpus_has_no_part),
        cmocka_unit_test(memory_beside_a_node_does_not_count_its_cpus_twice),
        cmocka_unit_test(one_node_has_all),
        cmocka_unit_test(any_division_is_complete_and_within_one_of_its_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
