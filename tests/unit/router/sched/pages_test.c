/* tests/unit/router/sched/pages_test.c: pages that are shared, found again, and given out when there is nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "sched/pages.h"

enum { NUM = 4, TOKENS = 2 };

static fs_pages *pages;
static uint32_t holders[NUM];

/* Tokens of pages that follow each other: a, b, c; and another beginning. */
static const uint32_t abc[] = {1, 2, 3, 4, 5, 6}, xbc[] = {9, 2, 3, 4, 5, 6};

static int create(void **state)
{
    return fs_pages_create(NUM, TOKENS, true, &pages) == FS_OK ? 0 : -1;
}

static int destroy(void **state)
{
    fs_pages_destroy(pages);
    return 0;
}

static void expect_holders(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    const uint32_t want[NUM] = {a, b, c, d};
    memcpy(holders, want, sizeof want);
    fs_pages_check(pages, holders);
}

/* Pages 0.. hold n pages of these tokens, and are published. */
static void make_chain(const uint32_t *token, uint32_t n, uint32_t *out)
{
    fs_pages_take(pages, n, out);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(fs_pages_publish(pages, out[i], i ? out[i - 1] : FS_PAGES_NONE, token + i * TOKENS),
                         out[i]);
}

static void what_was_published_is_found_by_the_tokens_from_the_beginning(void **state)
{
    uint32_t chain[3], found[3];
    make_chain(abc, 3, chain);
    assert_int_equal(fs_pages_match(pages, abc, 3, found), 3);
    assert_memory_equal(found, chain, sizeof chain);
    assert_int_equal(fs_pages_match(pages, abc, 2, found), 2);
    assert_int_equal(fs_pages_match(pages, xbc, 3, found),
                     0); /* b and c after another beginning are others */
    assert_int_equal(fs_pages_match(pages, abc + TOKENS, 2, found), 0);
    expect_holders(3, 3, 2, 0);
    fs_pages_release(pages, chain, 3);
    fs_pages_release(pages, chain, 3);
    fs_pages_release(pages, chain, 2);
    expect_holders(0, 0, 0, 0);
    assert_int_equal(fs_pages_num_free(pages), NUM);
    assert_int_equal(fs_pages_num_idle(pages), 3);
}

static void equal_pages_become_one(void **state)
{
    uint32_t chain[2], mine[2];
    make_chain(abc, 2, chain);
    fs_pages_take(pages, 2, mine);
    mine[0] = fs_pages_publish(pages, mine[0], FS_PAGES_NONE, abc);
    mine[1] = fs_pages_publish(pages, mine[1], mine[0], abc + TOKENS);
    assert_memory_equal(mine, chain, sizeof chain);
    expect_holders(2, 2, 0, 0);
    assert_int_equal(fs_pages_num_free(pages), 2);
}

static void idle_pages_are_given_out_after_blank_ones_and_the_ends_of_chains_first(void **state)
{
    uint32_t chain[3], taken[2], found[3];
    make_chain(abc, 3, chain);
    fs_pages_release(pages, chain, 3);
    fs_pages_take(pages, 2, taken);
    assert_int_equal(taken[0], 3); /* the blank one */
    assert_int_equal(taken[1], chain[2]);
    assert_int_equal(fs_pages_match(pages, abc, 3, found), 2);
    expect_holders(1, 1, 1, 1);
}

static void the_longest_idle_goes_first(void **state)
{
    uint32_t first[1], second[1], taken[3];
    make_chain(abc, 1, first);
    make_chain(xbc, 1, second);
    fs_pages_release(pages, first, 1);
    fs_pages_release(pages, second, 1);
    assert_int_equal(fs_pages_match(pages, abc, 1, taken), 1); /* used again: the newer now */
    fs_pages_release(pages, first, 1);
    fs_pages_take(pages, 3, taken);
    assert_int_equal(taken[2], second[0]);
    assert_int_equal(fs_pages_match(pages, xbc, 1, taken), 0);
    assert_int_equal(fs_pages_match(pages, abc, 1, taken), 1);
}

/* A page whose predecessor was given out is not found, not even when the predecessor's tokens come back. */
static void a_chain_without_its_beginning_is_not_found(void **state)
{
    uint32_t chain[2], again[1], taken[3], found[2];
    make_chain(abc, 2, chain);
    fs_pages_release(pages, &chain[0], 1); /* out of order, so that the beginning goes first */
    fs_pages_release(pages, &chain[1], 1);
    fs_pages_take(pages, 3, taken);
    assert_int_equal(taken[2], chain[0]);
    again[0] = fs_pages_publish(pages, taken[0], FS_PAGES_NONE, abc);
    assert_int_equal(fs_pages_match(pages, abc, 2, found), 1);
    assert_int_equal(found[0], again[0]);
}

static void without_sharing_nothing_is_found(void **state)
{
    uint32_t chain[2], found[2];
    fs_pages_destroy(pages);
    assert_int_equal(fs_pages_create(NUM, TOKENS, false, &pages), FS_OK);
    make_chain(abc, 2, chain);
    assert_int_equal(fs_pages_match(pages, abc, 2, found), 0);
    fs_pages_release(pages, chain, 2);
    assert_int_equal(fs_pages_num_idle(pages), 0);
    expect_holders(0, 0, 0, 0);
}

static void zero_of_anything_is_invalid(void **state)
{
    fs_pages *none = NULL;
    assert_int_equal(fs_pages_create(0, 1, true, &none), FS_INVALID);
    assert_int_equal(fs_pages_create(1, 0, true, &none), FS_INVALID);
    assert_null(none);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, create, destroy)
    const struct CMUnitTest tests[] = {
        T(what_was_published_is_found_by_the_tokens_from_the_beginning),
        T(equal_pages_become_one),
        T(idle_pages_are_given_out_after_blank_ones_and_the_ends_of_chains_first),
        T(the_longest_idle_goes_first),
        T(a_chain_without_its_beginning_is_not_found),
        T(without_sharing_nothing_is_found),
        T(zero_of_anything_is_invalid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
