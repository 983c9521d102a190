/* What the pace promises: a router's visits are measured, and its pauses are not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cache/pace.h"

#define MS(n) ((int64_t)(n)*FS_NS_PER_MS)

static void the_first_hint_counts_in_milliseconds(void **state)
{
    fs_cache_pace p = {0};
    fs_cache_pace_tell(&p, 1000, MS(50));
    assert_int_equal(fs_cache_pace_when(&p, 0), MS(50));
    assert_int_equal(fs_cache_pace_when(&p, 7), MS(57));
}

static void visits_are_measured_between_hints(void **state)
{
    fs_cache_pace p = {0};
    for (int i = 0; i <= 20; i++) fs_cache_pace_tell(&p, 1000 + 6 * (uint64_t)i, MS(50) + MS(3) * i);
    assert_int_equal(fs_cache_pace_when(&p, 2), MS(50 + 60 + 1));
    for (int i = 1; i <= 40; i++) fs_cache_pace_tell(&p, 1120 + 6 * (uint64_t)i, MS(110) + MS(12) * i);
    int64_t ten = fs_cache_pace_when(&p, 10) - MS(110 + 480);
    assert_in_range(ten, MS(20) - 1000, MS(20)); /* it is slower now */
}

static void a_pause_and_a_new_beginning_change_nothing(void **state)
{
    fs_cache_pace p = {0};
    fs_cache_pace_tell(&p, 10, MS(10));
    fs_cache_pace_tell(&p, 20, MS(30));
    assert_int_equal(p.visit_ns, MS(2));
    fs_cache_pace_tell(&p, 21, MS(5000));
    fs_cache_pace_tell(&p, 21, MS(5001));
    fs_cache_pace_tell(&p, 3, MS(5002));
    assert_int_equal(p.visit_ns, MS(2));
    assert_int_equal(fs_cache_pace_when(&p, 4), MS(5010));
    assert_true(fs_cache_pace_when(&p, UINT32_MAX) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_hint_counts_in_milliseconds),
        cmocka_unit_test(visits_are_measured_between_hints),
        cmocka_unit_test(a_pause_and_a_new_beginning_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
