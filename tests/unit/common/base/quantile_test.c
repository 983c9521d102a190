/* tests/unit/common/base/quantile_test.c: quantiles by the nearest rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/quantile.h"

static void the_nearest_rank_is_given_whatever_the_order(void **state)
{
    double values[] = {4, 1, 3, 2};
    assert_true(fs_quantile(values, 4, 0) == 1);
    assert_true(fs_quantile(values, 4, 0.5) == 3);
    assert_true(fs_quantile(values, 4, 0.95) == 4);
    assert_true(fs_quantile(values, 4, 1) == 4);
    double odd[] = {9, -7, 8};
    assert_true(fs_quantile(odd, 3, 0.5) == 8);
    assert_true(odd[0] == -7 && odd[2] == 9); /* they are sorted now */
}

static void one_value_is_every_quantile_and_none_is_zero(void **state)
{
    double one = 5;
    assert_true(fs_quantile(&one, 1, 0) == 5 && fs_quantile(&one, 1, 0.5) == 5 &&
                fs_quantile(&one, 1, 1) == 5);
    assert_true(fs_quantile(&one, 0, 0.5) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nearest_rank_is_given_whatever_the_order),
        cmocka_unit_test(one_value_is_every_quantile_and_none_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
