/* tests/unit/tools/compress/budget_test.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compress/budget.h"

static fs_budget_matrix matrix(double weight, double e0, double e1, double e2)
{
    return (fs_budget_matrix){.error = {e0, e1, e2}, .weight = weight, .bytes = {10, 20, 30}};
}

static void bits_go_where_they_save_most(void **state)
{
    const fs_budget_matrix m[] = {matrix(1, 0.4, 0.2, 0.1), matrix(10, 0.4, 0.2, 0.1),
                                  matrix(1, 0.4, 0.39, 0.38)};
    uint8_t choice[3];
    assert_int_equal(fs_budget_spend(m, 3, 50, choice), FS_OK);
    assert_int_equal(choice[0], 0);
    assert_int_equal(choice[1], 2);
    assert_int_equal(choice[2], 0);
    assert_int_equal(fs_budget_spend(m, 3, 60, choice), FS_OK);
    assert_int_equal(choice[0], 1);
}

static void a_budget_is_never_exceeded_and_too_small_ones_are_refused(void **state)
{
    const fs_budget_matrix m[] = {matrix(1, 0.4, 0.2, 0.1), matrix(2, 0.5, 0.2, 0.1)};
    uint8_t choice[2];
    assert_int_equal(fs_budget_spend(m, 2, 19, choice), FS_INVALID);
    for (uint64_t budget = 20; budget < 80; budget++) {
        assert_int_equal(fs_budget_spend(m, 2, budget, choice), FS_OK);
        assert_true(m[0].bytes[choice[0]] + m[1].bytes[choice[1]] <= budget);
    }
    assert_int_equal(choice[0] + choice[1], 4);
}

static void a_first_step_that_saves_nothing_does_not_hide_the_second(void **state)
{
    const fs_budget_matrix m[] = {matrix(1, 0.4, 0.4, 0.1)};
    uint8_t choice[1];
    assert_int_equal(fs_budget_spend(m, 1, 30, choice), FS_OK);
    assert_int_equal(choice[0], 2);
}

static void what_saves_nothing_is_not_bought(void **state)
{
    const fs_budget_matrix m[] = {matrix(0, 0.4, 0.2, 0.1), matrix(1, 0.4, 0.5, 0.6)};
    uint8_t choice[2];
    assert_int_equal(fs_budget_spend(m, 2, 1000, choice), FS_OK);
    assert_int_equal(choice[0] + choice[1], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_go_where_they_save_most),
        cmocka_unit_test(a_budget_is_never_exceeded_and_too_small_ones_are_refused),
        cmocka_unit_test(a_first_step_that_saves_nothing_does_not_hide_the_second),
        cmocka_unit_test(what_saves_nothing_is_not_bought),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
