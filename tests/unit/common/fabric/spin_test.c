/* tests/unit/common/fabric/spin_test.c: when a wait is polled through, as tables of (event, now, answer). */
#include "node_helper.h"

#include "fabric/spin.h"

enum { ACTIVE, IDLE };

typedef struct {
    int event;
    int64_t now_ns;
    bool again; /* of IDLE */
} step;

/* Returns the index of the first step that went another way, or -1. */
static int play(fs_spin *s, const step *steps, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (steps[i].event == ACTIVE)
            fs_spin_active(s, steps[i].now_ns);
        else if (fs_spin_idle(s, steps[i].now_ns) != steps[i].again)
            return (int)i;
    }
    return -1;
}

#define PLAY(spin, steps) assert_int_equal(play(spin, steps, sizeof(steps) / sizeof(steps[0])), -1)

static void a_wait_is_polled_for_so_long_and_then_slept_through(void **state)
{
    static const step steps[] = {{ACTIVE, 1000, 0},   {IDLE, 1000, true},  {IDLE, 1099, true},
                                 {IDLE, 1100, false}, {IDLE, 1101, false}, {IDLE, 9000, false}};
    fs_spin s;
    fs_spin_init(&s, 100);
    PLAY(&s, steps);
}

static void polling_that_pays_goes_on(void **state)
{
    fs_spin s;
    fs_spin_init(&s, 100);
    for (int64_t now = 0; now < 10000; now += 50) {
        fs_spin_active(&s, now);
        assert_true(fs_spin_idle(&s, now + 20));
        assert_true(fs_spin_idle(&s, now + 40));
    }
}

/* Returns how many waits were slept through before the next was polled; every wait lasts 200. */
static uint32_t sleeps(fs_spin *s, int64_t *now_ns)
{
    for (uint32_t n = 0; n < 1000; n++) {
        *now_ns += 200;
        fs_spin_active(s, *now_ns);
        if (!fs_spin_idle(s, *now_ns + 1)) continue;
        assert_false(fs_spin_idle(s, *now_ns + 150)); /* in vain */
        return n;
    }
    return UINT32_MAX;
}

static void polling_in_vain_gets_rare(void **state)
{
    static const uint32_t want[] = {0, 1, 2, 4, 8, 16, FS_SPIN_MAX_SKIP, FS_SPIN_MAX_SKIP};
    fs_spin s;
    int64_t now = 0;
    fs_spin_init(&s, 100);
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) assert_int_equal(sleeps(&s, &now), want[i]);
}

static void one_success_makes_it_usual_again(void **state)
{
    fs_spin s;
    int64_t now = 0;
    fs_spin_init(&s, 100);
    for (int i = 0; i < 4; i++) sleeps(&s, &now);
    for (fs_spin_active(&s, ++now); !fs_spin_idle(&s, now); fs_spin_active(&s, ++now)) {
    }
    fs_spin_active(&s, ++now); /* the answer came while it polled */
    assert_true(fs_spin_idle(&s, now));
    fs_spin_active(&s, ++now);
    assert_true(fs_spin_idle(&s, now));
}

static void zero_never_polls(void **state)
{
    fs_spin s;
    fs_spin_init(&s, 0);
    for (int64_t now = 0; now < 100; now++) {
        assert_false(fs_spin_idle(&s, now));
        fs_spin_active(&s, now);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wait_is_polled_for_so_long_and_then_slept_through),
        cmocka_unit_test(polling_that_pays_goes_on),
        cmocka_unit_test(polling_in_vain_gets_rare),
        cmocka_unit_test(one_success_makes_it_usual_again),
        cmocka_unit_test(zero_never_polls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
