/* tests/unit/router/sched/sched_test.c: the promises of sched.h, one by one. property_test.c drives all of them at random. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "sched/sched.h"

enum { MAX_PARTS = 16 };

static const fs_sched_options usual = {
    .max_waiting = 8,
    .max_running = 8,
    .num_pages = 100,
    .page_tokens = 16,
    .max_step_tokens = 64,
    .prefill_chunk = 32,
    .num_micro_batches = 1,
};

static fs_sched *sched;
static fs_sched_part parts[MAX_PARTS];

static void create(fs_sched_options options)
{
    assert_int_equal(fs_sched_create(&options, &sched), FS_OK);
}

static int destroy(void **state)
{
    fs_sched_destroy(sched);
    sched = NULL;
    return 0;
}

static uint32_t add(uint32_t prompt, uint32_t total)
{
    uint32_t id;
    assert_int_equal(fs_sched_add(sched, prompt, total, FS_NEVER, 0, &id), FS_OK);
    return id;
}

static uint32_t add_ready(uint32_t prompt, uint32_t total)
{
    uint32_t id = add(prompt, total);
    fs_sched_ready(sched, id);
    return id;
}

static uint32_t plan(void)
{
    uint32_t n = fs_sched_plan(sched, 0, parts, MAX_PARTS);
    fs_sched_check(sched);
    return n;
}

static void expect_part(uint32_t at, uint32_t id, uint32_t first, uint32_t count, bool admitted, bool last)
{
    assert_int_equal(parts[at].id, id);
    assert_int_equal(parts[at].first, first);
    assert_int_equal(parts[at].count, count);
    assert_int_equal(parts[at].admitted, admitted);
    assert_int_equal(parts[at].last, last);
}

/* The whole plan has run; each last part gave a token. */
static void finish_plan(uint32_t num_parts)
{
    fs_sched_part done[MAX_PARTS];
    memcpy(done, parts, sizeof done);
    for (uint32_t i = 0; i < num_parts; i++) fs_sched_done(sched, done[i].id, done[i].last ? 1 : 0);
    fs_sched_check(sched);
}

/* A sequence whose prompt of one token has run: it decodes from now on. */
static uint32_t add_decoding(uint32_t total)
{
    uint32_t id = add_ready(1, total);
    assert_int_equal(plan(), 1);
    expect_part(0, id, 0, 1, true, true);
    finish_plan(1);
    return id;
}

static void options_out_of_range_are_refused(void **state)
{
    fs_sched_options o[10];
    for (int i = 0; i < 10; i++) o[i] = usual;
    o[0].max_waiting = 0;
    o[1].max_running = 0;
    o[2].num_pages = 0;
    o[3].page_tokens = 0;
    o[4].max_step_tokens = 0;
    o[5].prefill_chunk = 0;
    o[6].prefill_chunk = 65;
    o[7].num_micro_batches = 0;
    o[8].num_micro_batches = 5;
    o[9].max_waiting = UINT32_MAX - 3;
    for (int i = 0; i < 10; i++) assert_int_equal(fs_sched_create(&o[i], &sched), FS_INVALID);
    assert_null(sched);
}

static void a_request_that_can_never_fit_is_invalid(void **state)
{
    uint32_t id = 77;
    create(usual);
    assert_int_equal(fs_sched_add(sched, 0, 5, FS_NEVER, 0, &id), FS_INVALID);
    assert_int_equal(fs_sched_add(sched, 6, 5, FS_NEVER, 0, &id), FS_INVALID);
    assert_int_equal(fs_sched_add(sched, 1, 1601, FS_NEVER, 0, &id), FS_INVALID);
    assert_int_equal(fs_sched_add(sched, 1, UINT32_MAX, FS_NEVER, 0, &id), FS_INVALID);
    assert_int_equal(id, 77);
    assert_int_equal(fs_sched_add(sched, 1600, 1600, FS_NEVER, 0, &id), FS_OK);
}

static void a_full_queue_says_so_and_takes_more_when_one_leaves(void **state)
{
    uint32_t id, ids[8];
    create(usual);
    for (int i = 0; i < 8; i++) ids[i] = add(1, 2);
    assert_int_equal(fs_sched_add(sched, 1, 2, FS_NEVER, 0, &id), FS_EXHAUSTED);
    assert_int_equal(fs_sched_add(sched, 0, 2, FS_NEVER, 0, &id), FS_INVALID); /* never comes before later */
    fs_sched_remove(sched, ids[3]);
    assert_int_equal(fs_sched_add(sched, 1, 2, FS_NEVER, 0, &id), FS_OK);
    fs_sched_check(sched);
}

static void a_prompt_runs_in_chunks_and_only_the_last_row_speaks(void **state)
{
    create(usual);
    uint32_t id = add_ready(70, 80);
    assert_int_equal(plan(), 1);
    expect_part(0, id, 0, 32, true, false);
    assert_int_equal(plan(), 0); /* it is in flight */
    finish_plan(1);
    (void)plan();
    expect_part(0, id, 32, 32, false, false);
    finish_plan(1);
    (void)plan();
    expect_part(0, id, 64, 6, false, true);
    finish_plan(1);
    for (uint32_t n = 70; n < 80; n++) {
        assert_int_equal(plan(), 1);
        expect_part(0, id, n, 1, false, true);
        fs_sched_done(sched, id, n < 79);
    }
    assert_int_equal(plan(), 0); /* nothing is left to run: it waits to be removed */
    fs_sched_remove(sched, id);
    fs_sched_counts c = fs_sched_get_counts(sched);
    assert_int_equal(c.running + c.waiting + c.in_flight + c.pages_promised, 0);
}

static void decodes_come_before_prompts_and_older_before_younger(void **state)
{
    create(usual);
    uint32_t old = add_decoding(50), young = add_ready(1, 50);
    assert_int_equal(plan(), 2); /* the old one's row, the young one's prompt */
    finish_plan(2);
    uint32_t prompt = add_ready(50, 60), next = add_ready(50, 60);
    assert_int_equal(plan(), 4);
    expect_part(0, old, 2, 1, false, true);
    expect_part(1, young, 1, 1, false, true);
    expect_part(2, prompt, 0, 32, true, false);
    expect_part(3, next, 0, 30, true, false);
    finish_plan(4);
    assert_int_equal(plan(), 4); /* the same order again, though all are admitted now */
    expect_part(2, prompt, 32, 18, false, true);
    expect_part(3, next, 30, 20, false, true);
}

static void nobody_is_admitted_before_it_is_ready(void **state)
{
    create(usual);
    uint32_t first = add(5, 10), second = add_ready(5, 10);
    assert_int_equal(plan(), 0); /* strictly in order of arrival */
    fs_sched_ready(sched, first);
    assert_int_equal(plan(), 2);
    expect_part(0, first, 0, 5, true, true);
    expect_part(1, second, 0, 5, true, true);
}

static void one_that_is_not_ready_no_longer_holds_up_others_when_it_is_removed(void **state)
{
    create(usual);
    uint32_t first = add(5, 10), second = add_ready(5, 10);
    fs_sched_remove(sched, first);
    assert_int_equal(plan(), 1);
    expect_part(0, second, 0, 5, true, true);
}

static void pages_are_promised_for_the_whole_length(void **state)
{
    create(usual);
    uint32_t first = add_ready(10, 16 * 60), second = add_ready(10, 16 * 40 + 1), third = add_ready(1, 1);
    assert_int_equal(plan(), 1); /* 60 of 100 pages; 41 do not fit, and nobody overtakes */
    assert_int_equal(fs_sched_get_counts(sched).pages_promised, 60);
    finish_plan(1);
    fs_sched_remove(sched, first);
    assert_int_equal(fs_sched_get_counts(sched).pages_promised, 0);
    assert_int_equal(plan(), 2);
    expect_part(0, second, 0, 10, true, true);
    expect_part(1, third, 0, 1, true, true);
    assert_int_equal(fs_sched_get_counts(sched).pages_promised, 42);
}

static void no_more_than_max_running_are_admitted(void **state)
{
    fs_sched_options o = usual;
    o.max_running = 2;
    create(o);
    for (int i = 0; i < 3; i++) add_ready(1, 4);
    assert_int_equal(plan(), 2);
    fs_sched_counts c = fs_sched_get_counts(sched);
    assert_int_equal(c.running, 2);
    assert_int_equal(c.waiting, 1);
    assert_int_equal(c.in_flight, 2);
}

static void rows_of_a_plan_are_bounded(void **state)
{
    create(usual);
    for (int i = 0; i < 4; i++) add_ready(30, 40);
    assert_int_equal(plan(), 3);
    expect_part(2, parts[2].id, 0, 4, true, false);          /* 30 + 30 + 4 = 64 */
    assert_int_equal(fs_sched_get_counts(sched).waiting, 1); /* admitted with its first rows, not before */
}

static void parts_of_a_plan_are_bounded(void **state)
{
    create(usual);
    for (int i = 0; i < 4; i++) add_ready(1, 4);
    assert_int_equal(fs_sched_plan(sched, 0, parts, 3), 3);
    assert_int_equal(fs_sched_plan(sched, 0, parts, 0), 0);
    assert_int_equal(fs_sched_plan(sched, 0, parts, 3), 1);
    fs_sched_check(sched);
}

static void decodes_are_shared_out_over_the_micro_batches(void **state)
{
    fs_sched_options o = usual;
    o.num_micro_batches = 2;
    create(o);
    for (int i = 0; i < 5; i++) add_ready(1, 20);
    uint32_t n = plan();
    assert_int_equal(n, 5); /* prompts are not decodes */
    finish_plan(n);
    assert_int_equal(plan(), 3);
    assert_int_equal(plan(), 2);
    assert_int_equal(plan(), 0);
}

static void a_sequence_removed_in_flight_keeps_its_pages_until_done(void **state)
{
    fs_sched_options o = usual;
    o.max_running = 1;
    create(o);
    uint32_t first = add_ready(5, 160), second = add_ready(5, 10);
    (void)plan();
    fs_sched_remove(sched, first);
    fs_sched_check(sched);
    assert_int_equal(fs_sched_get_counts(sched).pages_promised, 10);
    assert_int_equal(plan(), 0);
    fs_sched_done(sched, first, 1); /* whatever it sampled */
    assert_int_equal(fs_sched_get_counts(sched).pages_promised, 0);
    assert_int_equal(plan(), 1);
    expect_part(0, second, 0, 5, true, true);
}

static void a_sequence_that_stops_runs_no_more(void **state)
{
    create(usual);
    uint32_t id = add_decoding(100);
    (void)plan();
    fs_sched_done(sched, id, 0);
    assert_int_equal(plan(), 0);
    fs_sched_remove(sched, id);
}

static void deadlines_are_told_oldest_first_until_removed(void **state)
{
    uint32_t ids[4], out[4];
    int64_t next;
    static const int64_t deadline[4] = {300, 100, FS_NEVER, 200};
    create(usual);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(fs_sched_add(sched, 1, 2, deadline[i], 0, &ids[i]), FS_OK);
        fs_sched_ready(sched, ids[i]);
    }
    assert_int_equal(fs_sched_expired(sched, 99, out, 4, &next), 0);
    assert_int_equal(next, 100);
    assert_int_equal(fs_sched_expired(sched, 100, out, 4, &next), 1);
    assert_int_equal(out[0], ids[1]);
    assert_int_equal(next, 200);
    assert_int_equal(plan(), 4); /* running ones expire as well */
    assert_int_equal(fs_sched_expired(sched, 1000, out, 2, &next), 2);
    assert_int_equal(out[0], ids[0]);
    assert_int_equal(out[1], ids[1]);
    assert_int_equal(next, 1000); /* there is one more now */
    fs_sched_remove(sched, ids[0]);
    fs_sched_remove(sched, ids[1]);
    assert_int_equal(fs_sched_expired(sched, 1000, out, 2, &next), 1); /* removed in flight: no longer told */
    assert_int_equal(out[0], ids[3]);
    assert_true(next == FS_NEVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(options_out_of_range_are_refused, destroy),
        cmocka_unit_test_teardown(a_request_that_can_never_fit_is_invalid, destroy),
        cmocka_unit_test_teardown(a_full_queue_says_so_and_takes_more_when_one_leaves, destroy),
        cmocka_unit_test_teardown(a_prompt_runs_in_chunks_and_only_the_last_row_speaks, destroy),
        cmocka_unit_test_teardown(decodes_come_before_prompts_and_older_before_younger, destroy),
        cmocka_unit_test_teardown(nobody_is_admitted_before_it_is_ready, destroy),
        cmocka_unit_test_teardown(one_that_is_not_ready_no_longer_holds_up_others_when_it_is_removed,
                                  destroy),
        cmocka_unit_test_teardown(pages_are_promised_for_the_whole_length, destroy),
        cmocka_unit_test_teardown(no_more_than_max_running_are_admitted, destroy),
        cmocka_unit_test_teardown(rows_of_a_plan_are_bounded, destroy),
        cmocka_unit_test_teardown(parts_of_a_plan_are_bounded, destroy),
        cmocka_unit_test_teardown(decodes_are_shared_out_over_the_micro_batches, destroy),
        cmocka_unit_test_teardown(a_sequence_removed_in_flight_keeps_its_pages_until_done, destroy),
        cmocka_unit_test_teardown(a_sequence_that_stops_runs_no_more, destroy),
        cmocka_unit_test_teardown(deadlines_are_told_oldest_first_until_removed, destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
