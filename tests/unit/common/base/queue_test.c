/* tests/unit/common/base/queue_test.c: the promises of queue.h, alone and between threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>

#include "base/queue.h"

static void first_in_first_out_and_bounded(void **state)
{
    int items[5];
    fs_queue *q;
    assert_int_equal(fs_queue_create(3, &q), FS_OK);
    for (int round = 0; round < 10; round++) { /* the ring goes round */
        assert_null(fs_queue_try_pop(q));
        for (int i = 0; i < 3; i++) assert_int_equal(fs_queue_push(q, &items[i]), FS_OK);
        assert_int_equal(fs_queue_push(q, &items[3]), FS_EXHAUSTED);
        assert_int_equal(fs_queue_length(q), 3);
        assert_ptr_equal(fs_queue_try_pop(q), &items[0]);
        assert_int_equal(fs_queue_push(q, &items[4]), FS_OK);
        assert_ptr_equal(fs_queue_pop(q), &items[1]);
        assert_ptr_equal(fs_queue_pop(q), &items[2]);
        assert_ptr_equal(fs_queue_pop(q), &items[4]);
    }
    fs_queue_destroy(q);
    fs_queue_destroy(NULL);
}

static void a_closed_queue_is_drained_and_takes_no_more(void **state)
{
    int item;
    fs_queue *q;
    assert_int_equal(fs_queue_create(2, &q), FS_OK);
    assert_int_equal(fs_queue_push(q, &item), FS_OK);
    fs_queue_close(q);
    assert_int_equal(fs_queue_push(q, &item), FS_CANCELLED);
    assert_ptr_equal(fs_queue_pop(q), &item);
    assert_null(fs_queue_pop(q));
    assert_null(fs_queue_try_pop(q));
    fs_queue_destroy(q);
}

static void a_queue_for_nothing_is_refused(void **state)
{
    fs_queue *q = NULL;
    assert_int_equal(fs_queue_create(0, &q), FS_INVALID);
    assert_null(q);
}

enum { PRODUCERS = 3, CONSUMERS = 3, EACH = 5000 };
static fs_queue *shared;
static uint32_t numbers[PRODUCERS * EACH], times_seen[PRODUCERS * EACH];

static void *produce(void *arg)
{
    uint32_t *first = arg;
    for (uint32_t i = 0; i < EACH;) i += fs_queue_push(shared, &first[i]) == FS_OK;
    return NULL;
}

static void *consume(void *arg)
{
    for (uint32_t *n = fs_queue_pop(shared); n; n = fs_queue_pop(shared))
        __atomic_add_fetch(&times_seen[*n], 1, __ATOMIC_RELAXED);
    return NULL;
}

static void every_item_arrives_once_between_threads(void **state)
{
    pthread_t producer[PRODUCERS], consumer[CONSUMERS];
    assert_int_equal(fs_queue_create(16, &shared), FS_OK);
    for (uint32_t i = 0; i < PRODUCERS * EACH; i++) numbers[i] = i;
    for (int i = 0; i < CONSUMERS; i++) pthread_create(&consumer[i], NULL, consume, NULL);
    for (int i = 0; i < PRODUCERS; i++) pthread_create(&producer[i], NULL, produce, numbers + i * EACH);
    for (int i = 0; i < PRODUCERS; i++) pthread_join(producer[i], NULL);
    fs_queue_close(shared);
    for (int i = 0; i < CONSUMERS; i++) pthread_join(consumer[i], NULL);
    for (int i = 0; i < PRODUCERS * EACH; i++) assert_int_equal(times_seen[i], 1);
    fs_queue_destroy(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_in_first_out_and_bounded),
        cmocka_unit_test(a_closed_queue_is_drained_and_takes_no_more),
        cmocka_unit_test(a_queue_for_nothing_is_refused),
        cmocka_unit_test(every_item_arrives_once_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
