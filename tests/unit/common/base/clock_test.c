/* tests/unit/common/base/clock_test.c: the promises of clock.h and random.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/random.h"

static void the_system_clock_never_goes_back(void **state)
{
    int64_t last = fs_clock_now(fs_clock_system());
    for (int i = 0; i < 1000; i++) {
        int64_t now = fs_clock_now(fs_clock_system());
        assert_true(now >= last);
        last = now;
    }
    assert_true(fs_wall_time_ns() > 1600000000 * FS_NS_PER_S);
}

static void a_manual_clock_stands_until_it_is_moved(void **state)
{
    fs_clock_manual manual;
    fs_clock_manual_init(&manual, 5);
    assert_int_equal(fs_clock_now(&manual.clock), 5);
    manual.at_ns += 7;
    assert_int_equal(fs_clock_now(&manual.clock), 12);
}

/* From the reference implementation of splitmix64, seed 1234567. */
static void the_generator_gives_the_published_numbers(void **state)
{
    fs_random r = {1234567};
    assert_true(fs_random_next(&r) == 6457827717110365317ull);
    assert_true(fs_random_next(&r) == 3203168211198807973ull);
    assert_true(fs_random_next(&r) == 9817491932198370423ull);
}

static void random_numbers_stay_in_their_range(void **state)
{
    fs_random r = {0};
    uint32_t seen = 0;
    for (int i = 0; i < 10000; i++) {
        uint32_t n = fs_random_below(&r, 7);
        float unit = fs_random_unit(&r);
        assert_true(n < 7);
        assert_true(unit >= 0 && unit < 1);
        seen |= 1u << n;
    }
    assert_int_equal(seen, 0x7f);
    assert_int_equal(fs_random_below(&r, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_system_clock_never_goes_back),
        cmocka_unit_test(a_manual_clock_stands_until_it_is_moved),
        cmocka_unit_test(the_generator_gives_the_published_numbers),
        cmocka_unit_test(random_numbers_stay_in_their_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
