/* Routes ahead of their tokens: the same whatever the chunks, in order of arrival, and pages that come back.
 * With the demo model. */
#include "pregate/lookahead.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"

enum { MAX_TOKENS = 64, ITEMS = 4 };

typedef struct {
    fs_lookahead_item item; /* first */
    fs_arena arena;
    fs_route_table table;
    uint32_t token[MAX_TOKENS], pages[MAX_TOKENS];
    int done;
    fs_status status;
} test_item;

typedef struct {
    uv_loop_t loop;
    fs_model_config config;
    fs_tensors *tensors;
    fs_pregate *pregate;
    fs_pool *pool;
    fs_worker *worker;
    fs_lookahead *lookahead;
    test_item items[ITEMS];
    int order;
} fixture;

static fixture f;

static int setup(void **state)
{
    fs_detail d = {0};
    memset(&f, 0, sizeof f);
    uv_loop_init(&f.loop);
    if (fs_model_config_load(FS_SOURCE_DIR "/models/demo", &f.config, &d) != FS_OK) return -1;
    if (fs_tensors_open(FS_SOURCE_DIR "/models/demo", &f.tensors, &d) != FS_OK) return -1;
    if (fs_pregate_open(&f.config, f.tensors, &f.pregate, &d) != FS_OK) return -1;
    if (fs_pool_create(1, &f.pool) != FS_OK) return -1;
    return fs_worker_create(&f.loop, "test", 1, &f.worker) == FS_OK ? 0 : -1;
}

static int teardown(void **state)
{
    fs_worker_destroy(f.worker);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    fs_lookahead_destroy(f.lookahead);
    fs_pool_destroy(f.pool);
    fs_pregate_close(f.pregate);
    fs_tensors_close(f.tensors);
    for (int i = 0; i < ITEMS; i++) fs_arena_fini(&f.items[i].arena);
    return uv_loop_close(&f.loop);
}

static void create_with(uint32_t pages, uint32_t chunk, bool share)
{
    fs_lookahead_options o = {.pregate = f.pregate,
                              .worker = f.worker,
                              .pool = f.pool,
                              .num_pages = pages,
                              .chunk_tokens = chunk,
                              .max_extend = ITEMS,
                              .num_moe_layers = f.config.num_moe_layers,
                              .top_k = f.config.top_k,
                              .share = share};
    assert_int_equal(fs_lookahead_create(&o, &f.lookahead), FS_OK);
}

static void create(uint32_t pages, uint32_t chunk)
{
    create_with(pages, chunk, false);
}

static void on_done(fs_lookahead_item *item, fs_status status)
{
    test_item *t = (test_item *)item;
    assert_int_equal(t->done, 0);
    t->done = ++f.order;
    t->status = status;
}

static fs_status begin(int i, uint32_t prompt, uint32_t total)
{
    test_item *t = &f.items[i];
    fs_arena_fini(&t->arena);
    t->done = 0;
    for (uint32_t k = 0; k < MAX_TOKENS; k++) t->token[k] = (k * 37 + 5) % f.config.vocab_size;
    assert_int_equal(fs_route_table_init(&t->table, &t->arena, f.config.num_moe_layers, f.config.num_experts,
                                         f.config.top_k, total),
                     FS_OK);
    t->item = (fs_lookahead_item){.token = t->token,
                                  .num_prompt = prompt,
                                  .total_tokens = total,
                                  .table = &t->table,
                                  .pages = t->pages,
                                  .done = on_done};
    return fs_lookahead_begin(f.lookahead, &t->item);
}

static void run_until_done(int i)
{
    int64_t end = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    while (!f.items[i].done) {
        if (fs_clock_now(fs_clock_system()) > end) fail_msg("waited for a minute");
        uv_run(&f.loop, UV_RUN_NOWAIT);
    }
}

static uint32_t pages_used(void)
{
    uint32_t used, total;
    fs_lookahead_get_pages(f.lookahead, &used, &total);
    return used;
}

static void extend_on_this_thread(int i)
{
    fs_lookahead_item *items[1] = {&f.items[i].item};
    fs_status status;
    fs_lookahead_extend(f.lookahead, items, 1, &status);
    assert_int_equal(status, FS_OK);
}

static void routes_do_not_depend_on_chunks(void **state)
{
    static const uint32_t chunks[] = {64, 1, 7};
    uint16_t want[MAX_TOKENS * 64];
    size_t bytes = 0;
    for (int c = 0; c < 3; c++) {
        create(8, chunks[c]);
        assert_int_equal(begin(0, c == 1 ? 20 : 40, 60), FS_OK);
        run_until_done(0);
        assert_int_equal(f.items[0].status, FS_OK);
        while (f.items[0].table.num_tokens < 50) extend_on_this_thread(0); /* as if sampled */
        const fs_route_table *t = &f.items[0].table;
        bytes = (size_t)t->num_tokens * t->num_moe_layers * t->top_k * sizeof *want;
        assert_true(bytes <= sizeof want);
        if (c == 0) memcpy(want, t->expert, bytes);
        assert_memory_equal(t->expert, want, bytes);
        assert_true(fs_lookahead_end(&f.items[0].item));
        assert_int_equal(pages_used(), 0);
        fs_lookahead_destroy(f.lookahead);
        f.lookahead = NULL;
    }
}

static void without_pages_the_next_waits_in_order_of_arrival(void **state)
{
    create(4, 16);
    assert_int_equal(begin(0, 16, 48), FS_OK); /* 3 pages */
    assert_int_equal(begin(1, 16, 64), FS_OK); /* 4: waits */
    assert_int_equal(begin(2, 8, 16), FS_OK);  /* 1 is free, but it came later */
    run_until_done(0);
    for (int i = 0; i < 50; i++) uv_run(&f.loop, UV_RUN_NOWAIT);
    assert_int_equal(f.items[1].done, 0);
    assert_int_equal(f.items[2].done, 0);
    assert_true(fs_lookahead_end(&f.items[0].item));
    run_until_done(1);
    assert_int_equal(f.items[2].done, 0);
    assert_true(fs_lookahead_end(&f.items[1].item));
    run_until_done(2);
    assert_true(fs_lookahead_end(&f.items[2].item));
    assert_int_equal(pages_used(), 0);
}

static void one_that_leaves_the_line_lets_those_behind_it_pass(void **state)
{
    create(4, 16);
    assert_int_equal(begin(0, 16, 48), FS_OK);
    assert_int_equal(begin(1, 16, 64), FS_OK);
    assert_int_equal(begin(2, 8, 16), FS_OK);
    run_until_done(0);
    assert_true(fs_lookahead_end(&f.items[1].item));
    run_until_done(2);
    assert_int_equal(f.items[1].done, 0);
    assert_true(fs_lookahead_end(&f.items[0].item));
    assert_true(fs_lookahead_end(&f.items[2].item));
    assert_int_equal(pages_used(), 0);
}

static void ended_while_its_job_runs_it_is_told_once_and_pages_come_back(void **state)
{
    create(4, 1);
    assert_int_equal(begin(0, 48, 64), FS_OK);
    assert_int_equal(begin(1, 8, 64), FS_OK);
    assert_false(fs_lookahead_end(&f.items[0].item));
    run_until_done(0);
    assert_int_equal(f.items[0].status, FS_CANCELLED);
    assert_true(f.items[0].table.num_tokens < 48);
    assert_true(fs_lookahead_end(&f.items[0].item));
    run_until_done(1);
    assert_int_equal(f.items[1].status, FS_OK);
    assert_true(fs_lookahead_end(&f.items[1].item));
    assert_int_equal(pages_used(), 0);
}

static void more_than_the_pool_is_refused(void **state)
{
    create(3, 16);
    assert_int_equal(begin(0, 16, 49), FS_INVALID);
    assert_int_equal(begin(1, 16, 48), FS_OK);
    run_until_done(1);
    assert_true(fs_lookahead_end(&f.items[1].item));
}

/* The same prompt again, beside the first and after one: the same routes, and for tokens said later, too. */
static void an_equal_beginning_gives_the_same_routes_without_being_run(void **state)
{
    create_with(12, 7, true);
    assert_int_equal(begin(0, 40, 60), FS_OK);
    run_until_done(0);
    assert_int_equal(fs_lookahead_tokens_found(f.lookahead), 0);
    while (f.items[0].table.num_tokens < 50) extend_on_this_thread(0);
    const fs_route_table *want = &f.items[0].table;
    size_t entries = (size_t)50 * want->num_moe_layers * want->top_k;
    for (int i = 1; i < 3; i++) {
        if (i == 2) assert_true(fs_lookahead_end(&f.items[1].item));
        assert_int_equal(begin(i, 40, 60), FS_OK);
        run_until_done(i);
        assert_int_equal(fs_lookahead_tokens_found(f.lookahead), 32 * i);
        while (f.items[i].table.num_tokens < 50) extend_on_this_thread(i);
        const fs_route_table *got = &f.items[i].table;
        assert_memory_equal(got->expert, want->expert, entries * sizeof *want->expert);
        assert_memory_equal(got->weight, want->weight, entries * sizeof *want->weight);
    }
    assert_true(fs_lookahead_end(&f.items[2].item));
    assert_true(fs_lookahead_end(&f.items[0].item));
    assert_int_equal(pages_used(), 0);
    /* What was said is found as well: three pages of 50 tokens, for a prompt that repeats them. */
    assert_int_equal(begin(3, 50, 60), FS_OK);
    run_until_done(3);
    assert_int_equal(fs_lookahead_tokens_found(f.lookahead), 64 + 48);
    assert_memory_equal(f.items[3].table.expert, want->expert, entries * sizeof(uint16_t));
    assert_true(fs_lookahead_end(&f.items[3].item));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(routes_do_not_depend_on_chunks),
        T(without_pages_the_next_waits_in_order_of_arrival),
        T(one_that_leaves_the_line_lets_those_behind_it_pass),
        T(ended_while_its_job_runs_it_is_told_once_and_pages_come_back),
        T(more_than_the_pool_is_refused),
        T(an_equal_beginning_gives_the_same_routes_without_being_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
