/* tests/unit/tools/sim/visits_test.c: what a trace says of visits, and traces of what cannot have happened. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "sim/visits.h"

static const fs_trace_model model = {.num_moe_layers = 2, .num_experts = 8, .top_k = 2};

static void add(fs_buffer *b, fs_trace_event e)
{
    fs_trace_append(b, &model, &e, 0);
}
#define ADD(...) add(&bytes, (fs_trace_event){__VA_ARGS__})

/* Two requests, of three tokens and of one, whose routes are known. */
static fs_buffer two_requests(void)
{
    static const uint16_t first[] = {0, 1, 2, 3, 1, 0, 3, 4, 5, 6, 7, 2}, second[] = {7, 1, 4, 3};
    fs_buffer bytes = {0};
    fs_trace_append_header(&bytes, &model);
    ADD(.kind = FS_TRACE_ARRIVE, .sequence = 0, .first = 3, .count = 5);
    ADD(.kind = FS_TRACE_ARRIVE, .sequence = 1, .first = 1, .count = 2);
    ADD(.kind = FS_TRACE_ROUTES, .sequence = 0, .count = 3, .expert = first);
    ADD(.kind = FS_TRACE_ROUTES, .sequence = 1, .count = 1, .expert = second);
    return bytes;
}

static void visits_name_each_expert_of_a_layer_once(void **state)
{
    fs_buffer bytes = two_requests();
    const fs_trace_part parts[] = {{0, 0, 2}, {1, 0, 1}};
    ADD(.kind = FS_TRACE_STEP, .lane = 1, .num_parts = 2, .part = parts);
    for (uint32_t l = 0; l < 2; l++) {
        ADD(.kind = FS_TRACE_EXPERTS, .lane = 1, .layer = l, .time_ns = 5);
        ADD(.kind = FS_TRACE_RESULTS, .lane = 1, .layer = l);
    }
    ADD(.kind = FS_TRACE_DONE, .lane = 1);
    ADD(.kind = FS_TRACE_END, .sequence = 1);
    fs_visits v;
    assert_int_equal(fs_visits_read(bytes.data, bytes.size, "t", &v, NULL), FS_OK);
    assert_true(v.num_arrivals == 2 && v.num_ended == 1 && v.num_steps == 1 && v.num_visits == 2 &&
                v.num_tokens == 3);
    assert_int_equal(v.step[0].num_rows, 3);
    static const uint32_t want[2][4] = {{0, 1, 7, 0}, {8 + 2, 8 + 3, 8 + 4, 0}};
    for (uint32_t l = 0; l < 2; l++) {
        assert_int_equal(v.visit[l].layer, l);
        assert_int_equal(v.visit[l].num_keys, 3);
        assert_memory_equal(v.key + v.visit[l].first, want[l], 3 * sizeof(uint32_t));
    }
    fs_visits_free(&v);
    fs_buffer_free(&bytes);
}

static void expect_wrong(fs_buffer *bytes, const char *word)
{
    fs_visits v;
    fs_detail detail = {0};
    assert_int_equal(fs_visits_read(bytes->data, bytes->size, "t", &v, &detail), FS_CORRUPT);
    assert_non_null(strstr(detail.text, word));
    fs_buffer_free(bytes);
}

static void what_cannot_have_happened_is_refused(void **state)
{
    const fs_trace_part beyond = {0, 2, 2}, stranger = {2, 0, 1}, fine = {1, 0, 1};
    static const uint16_t route[4] = {0};
    fs_buffer bytes = two_requests();
    ADD(.kind = FS_TRACE_STEP, .num_parts = 1, .part = &beyond);
    expect_wrong(&bytes, "without routes");
    bytes = two_requests();
    ADD(.kind = FS_TRACE_STEP, .num_parts = 1, .part = &stranger);
    expect_wrong(&bytes, "without routes");
    bytes = two_requests();
    ADD(.kind = FS_TRACE_EXPERTS, .layer = 0);
    expect_wrong(&bytes, "no step");
    bytes = two_requests();
    ADD(.kind = FS_TRACE_STEP, .num_parts = 1, .part = &fine);
    ADD(.kind = FS_TRACE_EXPERTS, .layer = 1);
    expect_wrong(&bytes, "no step");
    bytes = two_requests();
    ADD(.kind = FS_TRACE_STEP, .num_parts = 1, .part = &fine);
    ADD(.kind = FS_TRACE_STEP, .num_parts = 1, .part = &fine);
    expect_wrong(&bytes, "before the last");
    bytes = two_requests();
    ADD(.kind = FS_TRACE_ROUTES, .sequence = 0, .first = 4, .count = 1, .expert = route);
    expect_wrong(&bytes, "order");
    bytes = two_requests();
    ADD(.kind = FS_TRACE_ARRIVE, .sequence = 7);
    expect_wrong(&bytes, "numbered");
    bytes = two_requests();
    ADD(.kind = FS_TRACE_END, .sequence = 1);
    ADD(.kind = FS_TRACE_END, .sequence = 1);
    expect_wrong(&bytes, "not there");
}

static void a_cut_trace_gives_what_came_before_the_cut(void **state)
{
    fs_buffer bytes = two_requests();
    for (size_t size = 32; size < bytes.size; size++) {
        fs_visits v;
        assert_int_equal(fs_visits_read(bytes.data, size, "t", &v, NULL), FS_OK);
        assert_true(v.num_arrivals <= 2 && v.num_visits == 0);
        fs_visits_free(&v);
    }
    fs_buffer_free(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(visits_name_each_expert_of_a_layer_once),
        cmocka_unit_test(what_cannot_have_happened_is_refused),
        cmocka_unit_test(a_cut_trace_gives_what_came_before_the_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
