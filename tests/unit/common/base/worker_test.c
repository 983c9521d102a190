/* tests/unit/common/base/worker_test.c: the promises of worker.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>

#include "base/worker.h"

typedef struct {
    fs_job job; /* first */
    fs_worker *worker;
    uint32_t index, posts_left;
    pthread_t ran_on;
    bool done;
} test_job;

static uint32_t start_order[64 * 51], num_started;
static pthread_t loop_thread;
static uv_sem_t gate;

static void run_note(fs_job *job)
{
    test_job *t = (test_job *)job;
    t->ran_on = pthread_self();
    start_order[__atomic_fetch_add(&num_started, 1, __ATOMIC_RELAXED)] = t->index;
}

static void done_note(fs_job *job)
{
    test_job *t = (test_job *)job;
    assert_true(pthread_equal(pthread_self(), loop_thread));
    assert_false(pthread_equal(t->ran_on, loop_thread));
    t->done = true;
    if (t->posts_left > 0) {
        t->posts_left--;
        fs_worker_post(t->worker, job);
    } else if (fs_worker_in_flight(t->worker) == 0) {
        fs_worker_destroy(t->worker);
    }
}

static void run_blocked(fs_job *job)
{
    run_note(job);
    uv_sem_wait(&gate);
}

static void done_never(fs_job *job)
{
    fail_msg("done was called after destroy");
}

static int setup(void **state)
{
    static uv_loop_t loop;
    num_started = 0;
    loop_thread = pthread_self();
    *state = &loop;
    return uv_loop_init(&loop);
}

static int teardown(void **state)
{
    return uv_loop_close(*state); /* fails if a handle is left */
}

static void run_jobs(uv_loop_t *loop, uint32_t num_threads, uint32_t num_jobs, uint32_t posts_left)
{
    static test_job jobs[64];
    fs_worker *worker;
    assert_int_equal(fs_worker_create(loop, "test", num_threads, &worker), FS_OK);
    for (uint32_t i = 0; i < num_jobs; i++) {
        jobs[i] = (test_job){{run_note, done_note, NULL}, worker, i, posts_left, 0, false};
        fs_worker_post(worker, &jobs[i].job);
    }
    assert_int_equal(fs_worker_in_flight(worker), num_jobs);
    uv_run(loop, UV_RUN_DEFAULT); /* until the last done has destroyed the worker */
    for (uint32_t i = 0; i < num_jobs; i++) assert_true(jobs[i].done);
    assert_int_equal(num_started, num_jobs * (posts_left + 1));
}

static void jobs_start_in_the_order_of_posting(void **state)
{
    run_jobs(*state, 1, 64, 0);
    for (uint32_t i = 0; i < 64; i++) assert_int_equal(start_order[i], i);
}

static void every_job_comes_back_to_the_loop_and_may_post_again(void **state)
{
    run_jobs(*state, 4, 64, 50);
}

static void destroy_waits_for_running_jobs_and_drops_the_rest(void **state)
{
    uv_loop_t *loop = *state;
    fs_worker *worker;
    test_job running = {.job = {run_blocked, done_never, NULL}},
             waiting = {.job = {run_note, done_never, NULL}};
    uv_sem_init(&gate, 0);
    assert_int_equal(fs_worker_create(loop, "a-name-longer-than-15-bytes", 1, &worker), FS_OK);
    fs_worker_post(worker, &running.job);
    fs_worker_post(worker, &waiting.job);
    while (__atomic_load_n(&num_started, __ATOMIC_RELAXED) == 0) sched_yield();
    uv_sem_post(&gate); /* the job may end before or after destroy begins: done runs in neither case */
    fs_worker_destroy(worker);
    fs_worker_destroy(NULL);
    assert_true(num_started <= 2);
    uv_run(loop, UV_RUN_DEFAULT);
    uv_sem_destroy(&gate);
}

static uint32_t num_hooks[4];

static void count_hook(void *arg, uint32_t index)
{
    assert_ptr_equal(arg, num_hooks);
    __atomic_fetch_add(&num_hooks[index], 1, __ATOMIC_RELAXED);
}

static void each_thread_runs_the_hook_once_with_an_index_of_its_own(void **state)
{
    uv_loop_t *loop = *state;
    fs_worker *worker;
    memset(num_hooks, 0, sizeof num_hooks);
    assert_int_equal(
        fs_worker_create_hooked(loop, "test", 4, (fs_thread_hook){count_hook, num_hooks}, &worker), FS_OK);
    fs_worker_destroy(worker); /* at once: threads that have not begun run it all the same */
    uv_run(loop, UV_RUN_DEFAULT);
    for (int i = 0; i < 4; i++) assert_int_equal(num_hooks[i], 1);
}

static void a_worker_without_threads_is_refused(void **state)
{
    fs_worker *worker = NULL;
    assert_int_equal(fs_worker_create(*state, "none", 0, &worker), FS_INVALID);
    assert_null(worker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(jobs_start_in_the_order_of_posting, setup, teardown),
        cmocka_unit_test_setup_teardown(every_job_comes_back_to_the_loop_and_may_post_again, setup, teardown),
        cmocka_unit_test_setup_teardown(destroy_waits_for_running_jobs_and_drops_the_rest, setup, teardown),
        cmocka_unit_test_setup_teardown(each_thread_runs_the_hook_once_with_an_index_of_its_own, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_worker_without_threads_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
