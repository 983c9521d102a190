/* The pages of the KV cache and their accounting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backbone/kv.h"
#include "base/random.h"

static void pages_are_given_out_all_or_none(void **state)
{
    fs_kv_pool *pool = NULL;
    uint32_t pages[8] = {0};
    assert_int_equal(fs_kv_pool_create((fs_kv_shape){1, 1, 2}, 5, &pool), FS_OK);
    assert_int_equal(fs_kv_acquire(pool, 3, pages), FS_OK);
    pages[3] = 77;
    assert_int_equal(fs_kv_acquire(pool, 3, pages + 3), FS_EXHAUSTED);
    assert_int_equal(pages[3], 77);
    assert_int_equal(fs_kv_pool_num_free(pool), 2);
    assert_int_equal(fs_kv_acquire(pool, 2, pages + 3), FS_OK);
    assert_int_equal(fs_kv_acquire(pool, 0, pages), FS_OK);
    fs_kv_release(pool, pages, 5);
    assert_int_equal(fs_kv_pool_num_free(pool), fs_kv_pool_num_pages(pool));
    fs_kv_pool_destroy(pool);
}

static void no_page_has_two_owners(void **state)
{
    enum { PAGES = 64, OWNERS = 10 };
    fs_kv_pool *pool = NULL;
    uint32_t pages[OWNERS][PAGES], count[OWNERS] = {0};
    assert_int_equal(fs_kv_pool_create((fs_kv_shape){1, 1, 2}, PAGES, &pool), FS_OK);
    fs_random r = {4};
    for (int i = 0; i < 5000; i++) {
        uint32_t owner = fs_random_below(&r, OWNERS), n = 1 + fs_random_below(&r, 6);
        if (fs_random_below(&r, 3) == 0) {
            fs_kv_release(pool, pages[owner], count[owner]);
            count[owner] = 0;
        } else if (fs_kv_acquire(pool, n, pages[owner] + count[owner]) == FS_OK) {
            count[owner] += n;
        }
        bool seen[PAGES] = {0};
        uint32_t held = 0;
        for (uint32_t o = 0; o < OWNERS; o++)
            for (uint32_t p = 0; p < count[o]; p++, held++) {
                assert_true(pages[o][p] < PAGES && !seen[pages[o][p]]);
                seen[pages[o][p]] = true;
            }
        assert_int_equal(held + fs_kv_pool_num_free(pool), PAGES);
    }
    fs_kv_pool_destroy(pool);
}

static void planes_do_not_overlap(void **state)
{
    const fs_kv_shape shape = {3, 2, 5};
    fs_kv_pool *pool = NULL;
    assert_int_equal(fs_kv_pool_create(shape, 4, &pool), FS_OK);
    const size_t plane = (size_t)shape.num_kv_heads * FS_KV_PAGE_TOKENS * shape.head_dim;
    assert_int_equal(fs_kv_page_bytes(shape), 3 * 2 * plane * sizeof(float));
    float mark = 1;
    for (uint32_t p = 0; p < 4; p++)
        for (uint32_t i = 0; i < 6; i++, mark++)
            for (size_t k = 0; k < plane; k++) fs_kv_at(pool, p, i / 2, i % 2)[k] = mark;
    mark = 1;
    for (uint32_t p = 0; p < 4; p++)
        for (uint32_t i = 0; i < 6; i++, mark++)
            for (size_t k = 0; k < plane; k++) assert_true(fs_kv_at(pool, p, i / 2, i % 2)[k] == mark);
    fs_kv_pool_destroy(pool);
}

static void impossible_shapes_are_refused(void **state)
{
    fs_kv_pool *pool = NULL;
    assert_int_equal(fs_kv_page_bytes((fs_kv_shape){UINT32_MAX, UINT32_MAX, UINT32_MAX}), 0);
    assert_int_equal(fs_kv_pool_create((fs_kv_shape){UINT32_MAX, UINT32_MAX, 64}, 1, &pool), FS_INVALID);
    assert_int_equal(fs_kv_pool_create((fs_kv_shape){0, 1, 1}, 1, &pool), FS_INVALID);
    assert_int_equal(fs_kv_pool_create((fs_kv_shape){1, 1, 1}, 0, &pool), FS_INVALID);
    assert_int_equal(fs_kv_pool_create((fs_kv_shape){512, 1024, 1024}, UINT32_MAX, &pool), FS_INVALID);
    assert_null(pool);
    fs_kv_pool_destroy(NULL);
}

static void pages_for_rounds_up(void **state)
{
    assert_int_equal(fs_kv_pages_for(0), 0);
    assert_int_equal(fs_kv_pages_for(1), 1);
    assert_int_equal(fs_kv_pages_for(FS_KV_PAGE_TOKENS), 1);
    assert_int_equal(fs_kv_pages_for(FS_KV_PAGE_TOKENS + 1), 2);
    assert_int_equal(fs_kv_pages_for(UINT32_MAX), UINT32_MAX / FS_KV_PAGE_TOKENS + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_given_out_all_or_none),
        cmocka_unit_test(no_page_has_two_owners),
        cmocka_unit_test(planes_do_not_overlap),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(pages_for_rounds_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
