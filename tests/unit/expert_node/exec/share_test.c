/* How many threads a batch gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "exec/share.h"

typedef struct {
    fs_exec_load load; /* rows, row_ns, split_ns, waiting, idle */
    uint32_t threads;
} expectation;

static void check(const expectation *e, size_t count)
{
    for (size_t i = 0; i < count; i++) assert_int_equal(fs_exec_threads_for(e[i].load), e[i].threads);
}

static void a_large_batch_alone_gets_all_idle_threads(void **state)
{
    static const expectation e[] = {
        {{1, 800000, 50000, 0, 8}, 8}, {{16, 50000, 50000, 0, 8}, 8}, {{1, 800000, 50000, 0, 1}, 1}};
    check(e, 3);
}

static void each_thread_has_work_that_is_worth_waking_it(void **state)
{
    static const expectation e[] = {
        {{1, 99999, 50000, 0, 8}, 1}, {{1, 100000, 50000, 0, 8}, 2}, {{3, 70000, 50000, 0, 8}, 4}};
    check(e, 3);
}

static void batches_that_wait_have_a_thread_each_before_one_is_divided(void **state)
{
    static const expectation e[] = {{{1, 800000, 50000, 1, 8}, 4},
                                    {{1, 800000, 50000, 3, 8}, 2},
                                    {{1, 800000, 50000, 4, 8}, 1},
                                    {{1, 800000, 50000, 7, 8}, 1},
                                    {{1, 800000, 50000, 100, 8}, 1}};
    check(e, 5);
}

static void what_is_not_known_or_not_wanted_is_not_divided(void **state)
{
    static const expectation e[] = {{{256, 0, 50000, 0, 8}, 1}, {{256, 800000, 0, 0, 8}, 1}};
    check(e, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_large_batch_alone_gets_all_idle_threads),
        cmocka_unit_test(each_thread_has_work_that_is_worth_waking_it),
        cmocka_unit_test(batches_that_wait_have_a_thread_each_before_one_is_divided),
        cmocka_unit_test(what_is_not_known_or_not_wanted_is_not_divided),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
