/* tests/unit/common/base/arena_test.c: the promises of arena.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/arena.h"
#include "base/random.h"

static void every_allocation_is_aligned_and_apart(void **state)
{
    enum { COUNT = 2000 };
    static uint8_t *block[COUNT];
    static size_t size[COUNT];
    fs_arena arena = {.block_bytes = 1000};
    fs_random random = {1};
    for (int i = 0; i < COUNT; i++) {
        size[i] = fs_random_below(&random, 3000);
        block[i] = fs_arena_alloc(&arena, size[i]);
        assert_non_null(block[i]);
        assert_int_equal((uintptr_t)block[i] % 64, 0);
        memset(block[i], i & 0xff, size[i]);
    }
    for (int i = 0; i < COUNT; i++)
        for (size_t j = 0; j < size[i]; j++) assert_int_equal(block[i][j], i & 0xff);
    fs_arena_fini(&arena);
    assert_int_equal(arena.total_bytes, 0);
}

static void a_second_round_takes_nothing_from_the_heap(void **state)
{
    fs_arena arena = {0};
    fs_random random = {2};
    for (int round = 0; round < 5; round++) {
        size_t before = arena.total_bytes;
        random.state = 2;
        for (int i = 0; i < 500; i++)
            assert_non_null(fs_arena_alloc(&arena, fs_random_below(&random, 100000)));
        if (round > 0) assert_int_equal(arena.total_bytes, before);
        fs_arena_reset(&arena);
    }
    fs_arena_fini(&arena);
}

static void mixed_rounds_do_not_grow_without_end(void **state)
{
    fs_arena arena = {.block_bytes = 4096};
    fs_random random = {3};
    for (int round = 0; round < 3000; round++) {
        for (int i = 0; i < 20; i++) assert_non_null(fs_arena_alloc(&arena, fs_random_below(&random, 20000)));
        fs_arena_reset(&arena);
    }
    assert_true(arena.total_bytes < 20 * 5 * 24576); /* for each size class at most a block a request */
    fs_arena_fini(&arena);
}

static void the_limit_is_kept(void **state)
{
    fs_arena arena = {.block_bytes = 4096, .limit_bytes = 10000};
    assert_non_null(fs_arena_alloc(&arena, 4096));
    assert_null(fs_arena_alloc(&arena, 8192));
    assert_non_null(fs_arena_alloc(&arena, 4096));
    assert_null(fs_arena_alloc(&arena, 1));
    assert_true(arena.total_bytes <= 10000);
    fs_arena_reset(&arena);
    assert_non_null(fs_arena_alloc(&arena, 4096));
    fs_arena_fini(&arena);
}

static void sizes_that_overflow_give_null(void **state)
{
    fs_arena arena = {0};
    assert_null(fs_arena_alloc(&arena, SIZE_MAX));
    assert_null(fs_arena_alloc(&arena, SIZE_MAX - 100));
    assert_null(fs_arena_calloc(&arena, SIZE_MAX / 2, 3));
    assert_null(fs_arena_strndup(&arena, "", SIZE_MAX));
    assert_null(fs_alloc_aligned(SIZE_MAX));
    assert_int_equal(arena.total_bytes, 0);
    fs_arena_fini(&arena);
}

static void empty_requests_give_valid_pointers(void **state)
{
    fs_arena arena = {0};
    assert_non_null(fs_arena_alloc(&arena, 0));
    assert_non_null(fs_arena_calloc(&arena, 0, 8));
    assert_string_equal(fs_arena_strndup(&arena, NULL, 0), "");
    void *p = fs_alloc_aligned(0);
    assert_non_null(p);
    free(p);
    fs_arena_fini(&arena);
}

static void calloc_is_zero_after_a_reset_too(void **state)
{
    fs_arena arena = {0};
    memset(fs_arena_alloc(&arena, 5000), 0xff, 5000);
    fs_arena_reset(&arena);
    const uint8_t *p = fs_arena_calloc(&arena, 50, 100);
    for (int i = 0; i < 5000; i++) assert_int_equal(p[i], 0);
    fs_arena_fini(&arena);
}

static void strndup_terminates(void **state)
{
    fs_arena arena = {0};
    assert_string_equal(fs_arena_strndup(&arena, "abcdef", 3), "abc");
    fs_arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_is_aligned_and_apart),
        cmocka_unit_test(a_second_round_takes_nothing_from_the_heap),
        cmocka_unit_test(mixed_rounds_do_not_grow_without_end),
        cmocka_unit_test(the_limit_is_kept),
        cmocka_unit_test(sizes_that_overflow_give_null),
        cmocka_unit_test(empty_requests_give_valid_pointers),
        cmocka_unit_test(calloc_is_zero_after_a_reset_too),
        cmocka_unit_test(strndup_terminates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
