/* Work in phases: each task once, none before the phase before it is over, whoever comes to help. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/random.h"
#include "compute/pool.h"

enum { MAX_TASKS = 40 };

/* Plain counters, not atomic: the thread sanitizer then shows that the end of a phase is a proper hand-over. */
typedef struct {
    fs_phase phase[FS_MAX_PHASES];
    uint32_t num_phases;
    uint32_t count[FS_MAX_PHASES][MAX_TASKS];
    uint32_t early[FS_MAX_PHASES][MAX_TASKS]; /* tasks of the phase before that a task found not done */
    bool slow;                                /* the first task of each phase outlasts the others' spinning */
} record;

static void run_task(record *r, uint32_t phase, uint32_t index)
{
    for (uint32_t i = 0; phase > 0 && i < r->phase[phase - 1].num_tasks; i++)
        r->early[phase][index] += r->count[phase - 1][i] != 1;
    if (r->slow && index == 0) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    r->count[phase][index]++;
}

#define PHASE(n)                                                                                             \
    static void phase_##n(void *arg, uint32_t index)                                                         \
    {                                                                                                        \
        run_task(arg, n, index);                                                                             \
    }
PHASE(0)
PHASE(1) PHASE(2) PHASE(3) PHASE(4) PHASE(5) PHASE(6)
    PHASE(7) static void (*const all[FS_MAX_PHASES])(void *, uint32_t) = {phase_0, phase_1, phase_2, phase_3,
                                                                          phase_4, phase_5, phase_6, phase_7};

static void make(record *r, fs_random *random, bool slow)
{
    *r = (record){.num_phases = 1 + fs_random_below(random, FS_MAX_PHASES), .slow = slow};
    for (uint32_t p = 0; p < r->num_phases; p++)
        r->phase[p] = (fs_phase){all[p],
                                 fs_random_below(random, 3) ? 1 + fs_random_below(random, MAX_TASKS) : 1};
}

static void check(const record *r)
{
    for (uint32_t p = 0; p < FS_MAX_PHASES; p++)
        for (uint32_t i = 0; i < MAX_TASKS; i++) {
            assert_int_equal(r->count[p][i], p < r->num_phases && i < r->phase[p].num_tasks);
            assert_int_equal(r->early[p][i], 0);
        }
}

static void a_pool_runs_each_phase_after_the_one_before(void **state)
{
    for (uint32_t threads = 1; threads < 6; threads++) {
        fs_random random = {threads};
        fs_pool *pool = NULL;
        record r;
        assert_int_equal(fs_pool_create(threads, &pool), FS_OK);
        for (int i = 0; i < 600; i++) {
            make(&r, &random, i % 60 == 59);
            fs_pool_run_phases(i % 10 == 9 ? NULL : pool, r.phase, r.num_phases, &r);
            check(&r);
        }
        fs_pool_destroy(pool);
    }
}

static void *work(void *phases)
{
    fs_phases_work(phases);
    return NULL;
}

static void threads_that_are_no_pool_share_them(void **state)
{
    fs_random random = {9};
    fs_phases phases;
    record r;
    fs_phases_init(&phases);
    for (int i = 0; i < 60; i++) {
        pthread_t thread[3];
        make(&r, &random, i % 6 == 5);
        fs_phases_set(&phases, r.phase, r.num_phases, &r);
        for (int t = 0; t < 3; t++) assert_int_equal(pthread_create(&thread[t], NULL, work, &phases), 0);
        for (int t = 0; t < 3; t++) pthread_join(thread[t], NULL);
        check(&r);
    }
    fs_phases_fini(&phases);
}

static void one_thread_ends_what_was_meant_for_many_and_who_comes_late_finds_nothing(void **state)
{
    fs_random random = {4};
    fs_phases phases;
    record r;
    fs_phases_init(&phases);
    for (int i = 0; i < 100; i++) {
        make(&r, &random, false);
        fs_phases_set(&phases, r.phase, r.num_phases, &r);
        fs_phases_work(&phases);
        check(&r);
        fs_phases_work(&phases);
        check(&r);
    }
    fs_phases_fini(&phases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_runs_each_phase_after_the_one_before),
        cmocka_unit_test(threads_that_are_no_pool_share_them),
        cmocka_unit_test(one_thread_ends_what_was_meant_for_many_and_who_comes_late_finds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
