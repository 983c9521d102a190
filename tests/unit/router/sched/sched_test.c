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
    .route_ahead = 8,
    .input_weight = 1,
    .output_weight = 2,
};

static fs_sched *sched;
static fs_sched_part parts[MAX_PARTS];
static uint32_t pages[64][128], num_added; /* of each sequence that a test adds */

static void create(fs_sched_options options)
{
    num_added = 0;
    assert_int_equal(fs_sched_create(&options, &sched), FS_OK);
}

static int destroy(void **state)
{
    fs_sched_destroy(sched);
    sched = NULL;
    return 0;
}

static fs_sched_request a_request(uint32_t prompt, uint32_t total)
{
    assert_in_range(num_added, 0, 63);
    return (fs_sched_request){
        .prompt_tokens = prompt, .total_tokens = total, .deadline_ns = FS_NEVER, .pages = pages[num_added++]};
}

static fs_status try_add(uint32_t prompt, uint32_t total, uint32_t *id)
{
    fs_sched_request r = a_request(prompt, total);
    return fs_sched_add(sched, &r, id);
}

static uint32_t add_request(fs_sched_request r)
{
    uint32_t id;
    assert_int_equal(fs_sched_add(sched, &r, &id), FS_OK);
    return id;
}

static uint32_t add(uint32_t prompt, uint32_t total)
{
    return add_request(a_request(prompt, total));
}

static uint32_t add_ready(uint32_t prompt, uint32_t total)
{
    uint32_t id = add(prompt, total);
    fs_sched_ready(sched, id);
    return id;
}

static uint32_t plan(void)
{
    uint32_t n = fs_sched_plan(sched, parts, MAX_PARTS);
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
    fs_sched_options o[15];
    for (int i = 0; i < 15; i++) o[i] = usual;
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
    o[10].route_ahead = 0;
    o[11].input_weight = 0;
    o[12].output_weight = 1001;
    o[13].batching = o[14].batching = FS_BATCHING_EXPERT_AWARE; /* of no experts */
    o[14].num_moe_layers = 1;
    o[14].num_experts = 4;
    o[14].top_k = 5;
    for (int i = 0; i < 15; i++) assert_int_equal(fs_sched_create(&o[i], &sched), FS_INVALID);
    assert_null(sched);
}

static void a_request_that_can_never_fit_is_invalid(void **state)
{
    uint32_t id = 77;
    create(usual);
    assert_int_equal(try_add(0, 5, &id), FS_INVALID);
    assert_int_equal(try_add(6, 5, &id), FS_INVALID);
    assert_int_equal(try_add(1, 1601, &id), FS_INVALID);
    assert_int_equal(try_add(1, UINT32_MAX, &id), FS_INVALID);
    assert_int_equal(id, 77);
    assert_int_equal(try_add(1600, 1600, &id), FS_OK);
}

static void a_full_queue_says_so_and_takes_more_when_one_leaves(void **state)
{
    uint32_t id, ids[8];
    create(usual);
    for (int i = 0; i < 8; i++) ids[i] = add(1, 2);
    assert_int_equal(try_add(1, 2, &id), FS_EXHAUSTED);
    assert_int_equal(try_add(0, 2, &id), FS_INVALID); /* never comes before later */
    fs_sched_remove(sched, ids[3]);
    assert_int_equal(try_add(1, 2, &id), FS_OK);
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
    assert_int_equal(c.running + c.waiting + c.in_flight + c.pages_held, 0);
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

static void nobody_is_admitted_before_it_is_ready_nor_holds_up_others(void **state)
{
    create(usual);
    uint32_t first = add(5, 10), second = add_ready(5, 10);
    assert_int_equal(plan(), 1);
    expect_part(0, second, 0, 5, true, true);
    fs_sched_ready(sched, first);
    assert_int_equal(plan(), 1);
    expect_part(0, first, 0, 5, true, true);
}

static void without_preemption_pages_are_promised_for_the_whole_length(void **state)
{
    create(usual);
    uint32_t first = add_ready(10, 16 * 60), second = add_ready(10, 16 * 40 + 1), third = add_ready(1, 1);
    assert_int_equal(plan(), 1); /* 60 of 100 pages; 41 do not fit, and nobody overtakes */
    assert_int_equal(fs_sched_get_counts(sched).pages_held, 1);
    finish_plan(1);
    fs_sched_remove(sched, first);
    assert_int_equal(plan(), 2);
    expect_part(0, second, 0, 10, true, true);
    expect_part(1, third, 0, 1, true, true);
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
    assert_int_equal(fs_sched_plan(sched, parts, 3), 3);
    assert_int_equal(fs_sched_plan(sched, parts, 0), 0);
    assert_int_equal(fs_sched_plan(sched, parts, 3), 1);
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
    assert_int_equal(fs_sched_get_counts(sched).pages_held, 1);
    assert_int_equal(plan(), 0);
    fs_sched_done(sched, first, 1); /* whatever it sampled */
    assert_int_equal(fs_sched_get_counts(sched).pages_held, 0);
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
        fs_sched_request r = a_request(1, 2);
        r.deadline_ns = deadline[i];
        ids[i] = add_request(r);
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

static void decodes_that_fill_a_plan_leave_a_fourth_to_prompts(void **state)
{
    fs_sched_options o = usual;
    o.max_step_tokens = o.prefill_chunk = 4;
    create(o);
    for (int i = 0; i < 4; i++) add_ready(1, 50);
    finish_plan(plan());
    uint32_t prompt = add_ready(9, 20);
    assert_int_equal(plan(), 4);
    expect_part(3, prompt, 0, 1, true, false);
    finish_plan(4);
    fs_sched_remove(sched, prompt);
    assert_int_equal(plan(), 4);
    assert_true(parts[3].first > 0); /* without prompts it is theirs */
}

/* ---- preemption ---- */

static fs_sched_options growing(uint32_t num_pages)
{
    fs_sched_options o = usual;
    o.preemption = true;
    o.num_pages = num_pages;
    o.page_tokens = 2;
    return o;
}

static void the_last_in_standing_gives_up_its_pages_and_comes_back(void **state)
{
    create(growing(3));
    uint32_t old = add_ready(2, 6), young = add_ready(1, 4);
    assert_int_equal(plan(), 2);
    finish_plan(2); /* 1 + 1 pages */
    assert_int_equal(plan(), 2);
    expect_part(0, old, 2, 1, false, true); /* a page more: all are taken */
    expect_part(1, young, 1, 1, false, true);
    finish_plan(2);
    assert_int_equal(plan(),
                     1); /* the young one has no room: its own pages are full, nobody stands behind it */
    expect_part(0, old, 3, 1, false, true);
    finish_plan(1);
    assert_int_equal(plan(), 1);
    expect_part(0, old, 4, 1, false, true); /* a page of the young one's */
    fs_sched_counts c = fs_sched_get_counts(sched);
    assert_int_equal(c.preemptions, 1);
    assert_int_equal(c.waiting, 1);
    finish_plan(1);
    fs_sched_remove(sched, old);
    assert_int_equal(plan(), 1);
    expect_part(0, young, 0, 3, false, true); /* prompt and text, again */
    assert_int_equal(fs_sched_get_counts(sched).tokens_again, 2);
}

static void priority_counts_as_so_many_places_and_no_more(void **state)
{
    enum { NUM = FS_SCHED_BOOST + 2 };
    fs_sched_options o = usual;
    uint32_t ids[NUM], low;
    o.max_waiting = 2 * NUM;
    o.max_step_tokens = o.prefill_chunk = 1; /* one is admitted a plan */
    o.max_running = 2 * NUM;
    o.num_pages = 1000;
    create(o);
    low = add_ready(1, 1);
    for (int i = 0; i < NUM; i++) {
        fs_sched_request r = a_request(1, 1);
        r.priority = 1;
        ids[i] = add_request(r);
        fs_sched_ready(sched, ids[i]);
    }
    for (int i = 0; i < NUM; i++) {
        assert_int_equal(plan(), 1);
        if (i == FS_SCHED_BOOST - 1) {
            expect_part(0, low, 0, 1, true, true);
            break;
        }
        expect_part(0, ids[i], 0, 1, true, true);
        fs_sched_done(sched, ids[i], 0);
        fs_sched_remove(sched, ids[i]);
    }
}

/* ---- prefix cache ---- */

static const uint32_t alike[] = {7, 7, 8, 8, 9, 9, 9, 9};

static uint32_t add_alike(uint32_t prompt, uint32_t total)
{
    fs_sched_request r = a_request(prompt, total);
    r.token = alike;
    uint32_t id = add_request(r);
    fs_sched_ready(sched, id);
    return id;
}

static void full_pages_of_an_equal_beginning_are_not_run_again(void **state)
{
    fs_sched_options o = growing(20);
    o.prefix_cache = true;
    create(o);
    uint32_t first = add_alike(5, 8);
    assert_int_equal(plan(), 1);
    finish_plan(1);
    uint32_t second = add_alike(5, 8), third = add_alike(4, 8); /* beside the first, which lives */
    assert_int_equal(plan(), 3);
    expect_part(1, second, 4, 1, true, true);
    expect_part(2, third, 2, 2, true, true); /* its last page is full, but its last token must run */
    assert_memory_equal(pages[1], pages[0], 2 * sizeof **pages);
    assert_int_not_equal(pages[2][1], pages[0][1]);
    finish_plan(3);
    assert_int_equal(pages[2][1], pages[0][1]); /* equal pages become one */
    assert_int_equal(fs_sched_get_counts(sched).tokens_found, 6);
    fs_sched_remove(sched, first);
    fs_sched_remove(sched, second);
    fs_sched_remove(sched, third);
    fs_sched_counts c = fs_sched_get_counts(sched);
    assert_int_equal(c.pages_held, 0);
    assert_int_equal(c.pages_idle, 3); /* the first's third page was full too */
    fs_sched_check(sched);
}

static void what_failed_leaves_nothing_to_be_found(void **state)
{
    fs_sched_options o = growing(20);
    o.prefix_cache = true;
    create(o);
    uint32_t first = add_alike(5, 8);
    assert_int_equal(plan(), 1);
    fs_sched_remove(sched, first);
    fs_sched_done(sched, first, 0);
    assert_int_equal(fs_sched_get_counts(sched).pages_idle, 0);
}

/* ---- clients ---- */

static uint32_t add_of(uint64_t client, uint32_t prompt, uint32_t total)
{
    fs_sched_request r = a_request(prompt, total);
    r.client = client;
    return add_request(r);
}

static void the_least_served_client_is_next_and_routes_are_asked_for_in_that_order(void **state)
{
    fs_sched_options o = usual;
    o.route_ahead = 2;
    o.max_step_tokens = o.prefill_chunk = 10;
    create(o);
    uint32_t a[3], b;
    for (int i = 0; i < 3; i++) a[i] = add_of(1, 10, 11);
    assert_int_equal(fs_sched_next_route(sched), a[0]);
    assert_int_equal(fs_sched_next_route(sched), a[1]);
    assert_int_equal(fs_sched_next_route(sched), FS_SCHED_NONE); /* far enough ahead */
    b = add_of(2, 10, 11);
    assert_int_equal(fs_sched_next_route(sched), b);
    fs_sched_ready(sched, a[0]);
    fs_sched_ready(sched, a[1]);
    fs_sched_ready(sched, b);
    assert_int_equal(plan(), 1);
    expect_part(0, a[0], 0, 10, true, true);
    assert_int_equal(fs_sched_client_counter(sched, 1), 12); /* ten tokens, and a row that gives one */
    assert_int_equal(fs_sched_next_route(sched), a[2]);
    assert_int_equal(plan(), 1);
    expect_part(0, b, 0, 10, true, true); /* before the first one's second */
}

static void a_client_that_comes_back_has_no_credit(void **state)
{
    create(usual);
    uint32_t first = add_of(1, 30, 40);
    fs_sched_ready(sched, first);
    (void)plan();
    finish_plan(1);
    add_of(2, 5, 6);
    assert_int_equal(fs_sched_client_counter(sched, 2),
                     0); /* where the last one stood when it was admitted */
    add_of(1, 5, 6);
    assert_int_equal(fs_sched_client_counter(sched, 1), 32);
    fs_sched_remove(sched, first);
    assert_int_equal(fs_sched_client_counter(sched, 1), 32);
    assert_int_equal(fs_sched_client_counter(sched, 3), 0);
    fs_sched_check(sched);
}

static void the_end_of_the_queue_is_for_clients_without_a_place_in_it(void **state)
{
    fs_sched_options o = usual;
    uint32_t id;
    o.max_waiting = 32;
    create(o);
    for (int i = 0; i < 30; i++) add(1, 2);
    assert_int_equal(try_add(1, 2, &id), FS_EXHAUSTED);
    add_of(2, 1, 2);
    add_of(3, 1, 2);
    fs_sched_request r = a_request(1, 2);
    r.client = 4;
    assert_int_equal(fs_sched_add(sched, &r, &id), FS_EXHAUSTED);
}

/* ---- expert-aware ---- */

/* Of four decodes, two a plan: those that visit the same experts. */
static void rows_of_the_same_experts_run_together_and_nobody_waits_too_long(void **state)
{
    static const uint16_t one[] = {0, 1, 0, 1}, other[] = {2, 3, 2, 3};
    fs_sched_options o = usual;
    uint32_t ids[4], alike_plans = 0;
    o.max_step_tokens = o.prefill_chunk = 4;
    o.num_micro_batches = 2;
    o.batching = FS_BATCHING_EXPERT_AWARE;
    o.num_moe_layers = 2;
    o.num_experts = 4;
    o.top_k = 2;
    o.batch_wait = 3;
    create(o);
    for (int i = 0; i < 4; i++) ids[i] = add_ready(1, 100);
    finish_plan(plan());
    for (int turn = 0; turn < 20; turn++) {
        for (int i = 0; i < 4; i++) fs_sched_set_experts(sched, ids[i], i % 2 ? other : one);
        assert_int_equal(plan(), 2);
        alike_plans += parts[1].id - parts[0].id == 2;
        finish_plan(2);
    }
    assert_int_equal(alike_plans, 20);
    assert_in_range(fs_sched_get_counts(sched).longest_wait, 1, 3 * 2 + 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(options_out_of_range_are_refused, destroy),
        cmocka_unit_test_teardown(a_request_that_can_never_fit_is_invalid, destroy),
        cmocka_unit_test_teardown(a_full_queue_says_so_and_takes_more_when_one_leaves, destroy),
        cmocka_unit_test_teardown(a_prompt_runs_in_chunks_and_only_the_last_row_speaks, destroy),
        cmocka_unit_test_teardown(decodes_come_before_prompts_and_older_before_younger, destroy),
        cmocka_unit_test_teardown(nobody_is_admitted_before_it_is_ready_nor_holds_up_others, destroy),
        cmocka_unit_test_teardown(without_preemption_pages_are_promised_for_the_whole_length, destroy),
        cmocka_unit_test_teardown(no_more_than_max_running_are_admitted, destroy),
        cmocka_unit_test_teardown(rows_of_a_plan_are_bounded, destroy),
        cmocka_unit_test_teardown(parts_of_a_plan_are_bounded, destroy),
        cmocka_unit_test_teardown(decodes_are_shared_out_over_the_micro_batches, destroy),
        cmocka_unit_test_teardown(a_sequence_removed_in_flight_keeps_its_pages_until_done, destroy),
        cmocka_unit_test_teardown(a_sequence_that_stops_runs_no_more, destroy),
        cmocka_unit_test_teardown(deadlines_are_told_oldest_first_until_removed, destroy),
        cmocka_unit_test_teardown(decodes_that_fill_a_plan_leave_a_fourth_to_prompts, destroy),
        cmocka_unit_test_teardown(the_last_in_standing_gives_up_its_pages_and_comes_back, destroy),
        cmocka_unit_test_teardown(priority_counts_as_so_many_places_and_no_more, destroy),
        cmocka_unit_test_teardown(full_pages_of_an_equal_beginning_are_not_run_again, destroy),
        cmocka_unit_test_teardown(what_failed_leaves_nothing_to_be_found, destroy),
        cmocka_unit_test_teardown(the_least_served_client_is_next_and_routes_are_asked_for_in_that_order,
                                  destroy),
        cmocka_unit_test_teardown(a_client_that_comes_back_has_no_credit, destroy),
        cmocka_unit_test_teardown(the_end_of_the_queue_is_for_clients_without_a_place_in_it, destroy),
        cmocka_unit_test_teardown(rows_of_the_same_experts_run_together_and_nobody_waits_too_long, destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
