/* The pool: each task once, whoever calls, however many threads. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/random.h"
#include "compute/pool.h"

#define MAX_TASKS 300u

/* Plain counters, not atomic: the thread sanitizer then shows that the end of a run is a proper hand-over. */
typedef struct {
    uint32_t count[MAX_TASKS];
    uint32_t sleep_every; /* 0: never */
} record;

static void mark(void *arg, uint32_t index)
{
    record *r = arg;
    r->count[index]++;
    if (r->sleep_every != 0 && index % r->sleep_every == 0)
        nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
}

static void check_runs(fs_pool *pool, uint64_t seed, int num_runs, uint32_t sleep_every)
{
    fs_random random = {seed};
    record r = {.sleep_every = sleep_every};
    for (int i = 0; i < num_runs; i++) {
        uint32_t n = fs_random_below(&random, i % 3 == 0 ? 4 : MAX_TASKS);
        for (uint32_t t = 0; t < MAX_TASKS; t++) r.count[t] = 0;
        fs_pool_run(pool, mark, &r, n);
        for (uint32_t t = 0; t < MAX_TASKS; t++) assert_int_equal(r.count[t], t < n);
    }
}

static void every_task_runs_once(void **state)
{
    for (uint32_t threads = 1; threads < 6; threads++) {
        fs_pool *pool = NULL;
        assert_int_equal(fs_pool_create(threads, &pool), FS_OK);
        assert_int_equal(fs_pool_num_threads(pool), threads);
        check_runs(pool, threads, 2000, 0);
        fs_pool_destroy(pool);
    }
}

static void sleeping_threads_and_a_sleeping_caller_are_woken(void **state)
{
    fs_pool *pool = NULL;
    assert_int_equal(fs_pool_create(3, &pool), FS_OK);
    check_runs(pool, 7, 40, 50); /* tasks that outlast the spinning of whoever waits */
    for (int i = 0; i < 20; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); /* everybody is asleep */
        check_runs(pool, 8, 1, 0);
    }
    fs_pool_destroy(pool);
}

static void *caller_main(void *pool)
{
    check_runs(pool, 3, 500, 0);
    return NULL;
}

static void callers_take_turns(void **state)
{
    fs_pool *pool = NULL;
    pthread_t caller[3];
    assert_int_equal(fs_pool_create(3, &pool), FS_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&caller[i], NULL, caller_main, pool), 0);
    for (int i = 0; i < 3; i++) pthread_join(caller[i], NULL);
    fs_pool_destroy(pool);
}

static void without_a_pool_the_caller_does_it_all(void **state)
{
    check_runs(NULL, 1, 20, 0);
}

static void an_unused_pool_ends(void **state)
{
    for (int i = 0; i < 50; i++) {
        fs_pool *pool = NULL;
        assert_int_equal(fs_pool_create(4, &pool), FS_OK);
        fs_pool_destroy(pool);
    }
    fs_pool_destroy(NULL);
}

static void count_hook(void *arg, uint32_t index)
{
    atomic_fetch_add(&((atomic_uint *)arg)[index], 1);
}

static void each_thread_but_the_caller_runs_the_hook_once(void **state)
{
    atomic_uint num_hooks[4] = {0};
    fs_pool *pool = NULL;
    assert_int_equal(fs_pool_create_hooked(4, (fs_thread_hook){count_hook, num_hooks}, &pool), FS_OK);
    check_runs(pool, 9, 10, 0);
    fs_pool_destroy(pool);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(num_hooks[i], i > 0);
}

static void no_threads_are_refused(void **state)
{
    fs_pool *pool = NULL;
    assert_int_equal(fs_pool_create(0, &pool), FS_INVALID);
    assert_int_equal(fs_pool_create(UINT32_MAX, &pool), FS_INVALID);
    assert_null(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(sleeping_threads_and_a_sleeping_caller_are_woken),
        cmocka_unit_test(callers_take_turns),
        cmocka_unit_test(without_a_pool_the_caller_does_it_all),
        cmocka_unit_test(an_unused_pool_ends),
        cmocka_unit_test(each_thread_but_the_caller_runs_the_hook_once),
        cmocka_unit_test(no_threads_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
