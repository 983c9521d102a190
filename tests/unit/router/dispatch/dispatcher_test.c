/* The dispatcher with real connections: nodes that answer, refuse, keep silent, talk nonsense or go away. */
#include "dispatch/dispatcher.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"

enum { HIDDEN = 8, EXPERTS = 4, LAYERS = 2, TOP_K = 2, ROWS = 3, NODES = 2, FINGERPRINT = 77 };

typedef enum { ANSWER, MOVED, SILENT, MISFIT, GARBAGE, OTHER_TYPE } node_mode;

typedef struct {
    fs_fabric *fabric;
    char name[16], address[128];
    node_mode mode;
    uint32_t asked;
    uint64_t last_epoch;
    uint32_t last_layer;
    bool wants_hints;
    uint32_t num_hints;
    char hint[128]; /* the last one: position, then distance/layer:experts of each visit */
} test_node;

typedef struct {
    uv_loop_t loop;
    uv_timer_t tick; /* the loop turns while a condition is waited for */
    fs_dispatcher *dispatcher;
    fs_dispatch_call *call;
    test_node node[NODES];
    fs_placement_node place[NODES];
    uint32_t replica[LAYERS * EXPERTS * 2];
    fs_placement placement;
    uint16_t route[ROWS][TOP_K];
    const uint16_t *routes[ROWS];
    int8_t row[ROWS][HIDDEN];
    float scale[ROWS];
    const float *out[ROWS * TOP_K];
    bool failed[ROWS];
    uint32_t done, closed;
} fixture;

/* ---- nodes ---- */

/* What an "expert" makes of a row: easily told apart by row, expert and element. */
static float output(int8_t x, float scale, uint32_t expert)
{
    return (float)x * scale + (float)(expert + 1) * 1000;
}

static void answer(test_node *n, fs_peer *peer, const fs_dispatch *d)
{
    size_t size;
    float *rows;
    uint8_t *block = fs_result_create(d, d->epoch, &size, &rows);
    assert_non_null(block);
    uint32_t pair = 0;
    for (uint32_t g = 0; g < d->num_groups; g++) {
        uint32_t expert, count;
        fs_dispatch_group(d, g, &expert, &count);
        if (n->mode == MOVED) fs_result_set_group(block, g, FS_WIRE_MOVED);
        for (uint32_t i = 0; i < count; i++, pair++) {
            uint32_t r = fs_dispatch_pair(d, pair);
            for (uint32_t h = 0; n->mode == ANSWER && h < HIDDEN; h++)
                rows[pair * HIDDEN + h] = output(d->row_i8[r * d->row_stride + h], d->scale[r], expert);
        }
    }
    if (n->wants_hints) fs_result_set_flags(block, FS_WIRE_WANTS_HINTS);
    if (n->mode == MISFIT) block[4] ^= 1; /* an answer for another layer */
    fs_slice slice = {block, size};
    uint16_t type = n->mode == OTHER_TYPE ? 99 : FS_WIRE_RESULT;
    if (n->mode == GARBAGE) slice.size = size - 4;
    assert_int_equal(fs_fabric_send(peer, type, &slice, 1, block), FS_OK);
}

static void take_hint(test_node *n, const uint8_t *data, size_t size)
{
    fs_hint h;
    fs_buffer text = {0};
    assert_int_equal(fs_hint_decode(data, size, &h, NULL), FS_OK);
    assert_int_equal(h.fingerprint, FINGERPRINT);
    fs_buffer_printf(&text, "%llu", (unsigned long long)h.position);
    for (uint32_t v = 0, use = 0; v < h.num_visits; v++) {
        fs_hint_visit visit = fs_hint_get_visit(&h, v);
        fs_buffer_printf(&text, " %u/%u:", visit.distance, visit.layer);
        for (uint32_t i = 0; i < visit.count; i++)
            fs_buffer_printf(&text, "%s%u", i ? "," : "", fs_hint_get_expert(&h, use++));
    }
    snprintf(n->hint, sizeof n->hint, "%.*s", (int)text.size, (const char *)text.data);
    fs_buffer_free(&text);
    n->num_hints++;
}

static void on_dispatch(void *arg, fs_peer *peer, uint16_t type, const uint8_t *data, size_t size)
{
    test_node *n = arg;
    fs_dispatch d;
    if (type == FS_WIRE_HINT) {
        take_hint(n, data, size);
        return;
    }
    assert_int_equal(type, FS_WIRE_DISPATCH);
    assert_int_equal(fs_dispatch_decode(data, size, &d, NULL), FS_OK);
    assert_int_equal(d.fingerprint, FINGERPRINT);
    n->asked++;
    n->last_epoch = d.epoch;
    n->last_layer = d.layer;
    if (n->mode != SILENT) answer(n, peer, &d);
}

static void nothing(void *arg, fs_peer *peer)
{
}

static void nothing_down(void *arg, fs_peer *peer, fs_status why, const char *text)
{
}

static void start_node(fixture *f, uint32_t i)
{
    test_node *n = &f->node[i];
    fs_fabric_options o;
    fs_detail detail = {0};
    fs_fabric_options_init(&o);
    snprintf(n->name, sizeof n->name, "node-%u", i);
    o.name = n->name;
    memset(o.key, 7, sizeof o.key);
    o.handlers = (fs_fabric_handlers){nothing, nothing_down, on_dispatch, NULL, n};
    assert_int_equal(fs_fabric_create(&f->loop, &o, &n->fabric, &detail), FS_OK);
    assert_int_equal(fs_fabric_listen(n->fabric, "127.0.0.1:0", n->address, &detail), FS_OK);
    f->place[i].name = n->name;
    f->place[i].address = n->address;
    f->place[i].rack = "";
    f->place[i].state = FS_NODE_READY;
    f->place[i].instance++;
}

/* ---- loop ---- */

static void on_tick(uv_timer_t *timer)
{
}

static void on_done(void *arg)
{
    ((fixture *)arg)->done++;
}

static void on_closed(void *arg)
{
    ((fixture *)arg)->closed++;
}

static bool is_done(fixture *f)
{
    return f->done > 0;
}

static bool is_serving(fixture *f)
{
    return fs_dispatcher_is_serving(f->dispatcher, NULL);
}

static bool all_connected(fixture *f)
{
    fs_dispatcher_stats stats;
    fs_dispatcher_get_stats(f->dispatcher, &stats);
    return stats.nodes_connected == NODES;
}

static bool is_not_serving(fixture *f)
{
    return !is_serving(f);
}

/* Bounded, so that a promise not kept fails rather than hangs. */
static void wait_for(fixture *f, bool (*condition)(fixture *f))
{
    int64_t end = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    while (!condition(f)) {
        if (fs_clock_now(fs_clock_system()) > end) fail_msg("waited for a minute");
        uv_run(&f->loop, UV_RUN_ONCE);
    }
}

static bool node0_closed(fixture *f)
{
    return f->closed >= 1;
}

/* ---- fixture ---- */

static void set_placement(fixture *f, bool replicas)
{
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
        f->replica[i * 2] = i % 2;
        f->replica[i * 2 + 1] = replicas ? 1 - i % 2 : FS_NO_REPLICA;
    }
    f->placement.epoch++;
    f->placement.assignment_epoch = f->placement.epoch;
    assert_int_equal(fs_dispatcher_set_placement(f->dispatcher, &f->placement, NULL), FS_OK);
}

static int setup(void **state)
{
    fixture *f = test_calloc(1, sizeof *f);
    static const uint16_t layers[LAYERS] = {1, 3};
    fs_detail detail = {0};
    uv_loop_init(&f->loop);
    uv_timer_init(&f->loop, &f->tick);
    uv_timer_start(&f->tick, on_tick, 5, 5);
    fs_dispatcher_options o = {.name = "router-1",
                               .rack = "near",
                               .fingerprint = FINGERPRINT,
                               .hidden_size = HIDDEN,
                               .num_experts = EXPERTS,
                               .top_k = TOP_K,
                               .num_moe_layers = LAYERS,
                               .moe_layer = layers,
                               .row_format = FS_ROWS_I8,
                               .max_rows = ROWS,
                               .max_calls = 1,
                               .answer_ns = 300 * FS_NS_PER_MS,
                               .unavailable_ns = 400 * FS_NS_PER_MS};
    memset(o.key, 7, sizeof o.key);
    if (fs_dispatcher_create(&f->loop, &o, &f->dispatcher, &detail) != FS_OK) return -1;
    if (fs_dispatch_call_create(f->dispatcher, &f->call) != FS_OK) return -1;
    for (uint32_t i = 0; i < NODES; i++) start_node(f, i);
    f->placement = (fs_placement){.fingerprint = FINGERPRINT,
                                  .num_moe_layers = LAYERS,
                                  .num_experts = EXPERTS,
                                  .num_replicas = 2,
                                  .num_nodes = NODES,
                                  .node = f->place,
                                  .replica = f->replica};
    *state = f;
    return 0;
}

static bool all_closed(fixture *f)
{
    return f->closed == NODES + 1;
}

static int teardown(void **state)
{
    fixture *f = *state;
    fs_dispatcher_close(f->dispatcher, on_closed, f);
    for (uint32_t i = 0; i < NODES; i++)
        if (f->node[i].fabric) fs_fabric_close(f->node[i].fabric, on_closed, f);
    wait_for(f, all_closed);
    uv_close((uv_handle_t *)&f->tick, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&f->loop);
    test_free(f);
    return rc;
}

/* Rows 0 and 2 visit two experts each; row 1 needs none. */
static void ask(fixture *f, uint32_t moe_layer)
{
    static const uint16_t route[ROWS][TOP_K] = {{3, 0}, {0, 0}, {0, 2}};
    memcpy(f->route, route, sizeof route);
    for (uint32_t r = 0; r < ROWS; r++) {
        f->routes[r] = r == 1 ? NULL : f->route[r];
        f->scale[r] = 0.5f + (float)r;
        f->failed[r] = false;
        for (uint32_t h = 0; h < HIDDEN; h++) f->row[r][h] = (int8_t)(r * 10 + h);
    }
    fs_dispatch_rows rows = {.num_rows = ROWS,
                             .route = f->routes,
                             .row_i8 = &f->row[0][0],
                             .scale = f->scale,
                             .out = f->out,
                             .failed = f->failed,
                             .done = on_done,
                             .arg = f};
    f->done = 0;
    fs_dispatch_send(f->call, moe_layer, &rows);
}

static void check_outputs(fixture *f)
{
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t k = 0; k < TOP_K; k++) {
            const float *out = f->out[r * TOP_K + k];
            assert_false(f->failed[r]);
            if (!f->routes[r]) {
                assert_null(out);
                continue;
            }
            assert_non_null(out);
            for (uint32_t h = 0; h < HIDDEN; h++)
                assert_true(out[h] == output(f->row[r][h], f->scale[r], f->route[r][k]));
        }
    fs_dispatch_release(f->call);
}

/* ---- promises ---- */

static void outputs_come_back_in_the_order_of_the_route(void **state)
{
    fixture *f = *state;
    fs_dispatcher_stats stats;
    assert_false(fs_dispatcher_is_serving(f->dispatcher, NULL));
    set_placement(f, false);
    wait_for(f, is_serving);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        ask(f, layer);
        wait_for(f, is_done);
        check_outputs(f);
        assert_int_equal(f->node[0].last_layer, layer == 0 ? 1 : 3);
        assert_int_equal(f->node[0].last_epoch, f->placement.assignment_epoch);
    }
    fs_dispatcher_get_stats(f->dispatcher, &stats);
    assert_int_equal(stats.dispatches, 2 * NODES); /* one message a node and layer */
    assert_int_equal(stats.redispatches, 0);
    assert_int_equal(stats.in_flight, 0);
    assert_int_equal(stats.nodes_connected, NODES);
}

static bool node0_was_told(fixture *f)
{
    return f->node[0].num_hints > 0;
}

/* Nodes hold the experts of even and of odd number. */
static void nodes_that_want_hints_are_told_of_their_experts_alone(void **state)
{
    static const uint16_t first[LAYERS * TOP_K] = {3, 0, 1, 2}, second[LAYERS * TOP_K] = {0, 2, 2, 1};
    static const uint16_t *const routes[] = {first, second};
    const fs_dispatch_hint hint = {.num_rows = 2, .route = routes, .distance = 5, .stride = 2};
    fixture *f = *state;
    fs_dispatcher_stats stats;
    set_placement(f, false);
    wait_for(f, is_serving);
    f->node[0].wants_hints = true;
    fs_dispatcher_hint(f->dispatcher, &hint); /* nobody has asked for any yet */
    ask(f, 0);
    wait_for(f, is_done);
    check_outputs(f);
    fs_dispatcher_hint(f->dispatcher, &hint);
    wait_for(f, node0_was_told);
    assert_string_equal(f->node[0].hint, "1 5/1:0,2 7/3:2");
    f->node[0].wants_hints = false;
    ask(f, 0);
    wait_for(f, is_done);
    check_outputs(f);
    fs_dispatcher_hint(f->dispatcher, &hint);
    ask(f, 1);
    wait_for(f, is_done);
    check_outputs(f);
    fs_dispatcher_get_stats(f->dispatcher, &stats);
    assert_true(stats.hints == 1 && stats.hints_dropped == 0);
    assert_true(f->node[0].num_hints == 1 && f->node[1].num_hints == 0);
}

static void a_bad_answer_is_asked_of_the_other_replica(void **state)
{
    fixture *f = *state;
    static const node_mode modes[] = {MOVED, SILENT, MISFIT, GARBAGE, OTHER_TYPE};
    f->place[0].rack = "near"; /* so it is asked first */
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        fs_dispatcher_stats before, after;
        f->node[0].mode = modes[i];
        set_placement(f, true);
        wait_for(f, all_connected);
        fs_dispatcher_get_stats(f->dispatcher, &before);
        ask(f, 0);
        wait_for(f, is_done);
        check_outputs(f);
        fs_dispatcher_get_stats(f->dispatcher, &after);
        assert_int_equal(after.redispatches - before.redispatches, 4); /* two rows of two experts each */
        assert_int_equal(after.dispatches - before.dispatches, 2);
        f->node[0].mode = ANSWER;
    }
}

static void rows_of_a_lost_node_go_to_the_other(void **state)
{
    fixture *f = *state;
    set_placement(f, true);
    wait_for(f, is_serving);
    f->node[0].mode = SILENT;
    ask(f, 0);
    fs_fabric_close(f->node[0].fabric, on_closed, f);
    f->node[0].fabric = NULL;
    wait_for(f, is_done);
    check_outputs(f);
    wait_for(f, node0_closed);
}

static void without_a_replica_only_its_rows_fail_and_in_bounded_time(void **state)
{
    fixture *f = *state;
    set_placement(f, false);
    wait_for(f, is_serving);
    fs_fabric_close(f->node[1].fabric, on_closed, f);
    f->node[1].fabric = NULL;
    wait_for(f, is_not_serving);
    ask(f, 0);
    wait_for(f, is_done);
    assert_true(f->failed[0]); /* expert 3 was on node 1 */
    assert_null(f->out[0]);
    assert_null(f->out[1]);
    assert_false(f->failed[2]); /* experts 0 and 2 are on node 0 */
    assert_true(f->out[4][1] == output(f->row[2][1], f->scale[2], 0));
    fs_dispatch_release(f->call);
    wait_for(f, node0_closed);
}

static void waiting_rows_go_to_a_node_that_comes_in_time(void **state)
{
    fixture *f = *state;
    set_placement(f, false);
    wait_for(f, is_serving);
    fs_fabric_close(f->node[1].fabric, on_closed, f);
    wait_for(f, is_not_serving);
    wait_for(f, node0_closed);
    start_node(f, 1); /* another process of the same name */
    ask(f, 0);
    set_placement(f, false);
    f->closed = 0;
    wait_for(f, is_done);
    check_outputs(f);
}

static void a_placement_that_does_not_fit_is_refused_and_the_last_one_stays(void **state)
{
    fixture *f = *state;
    set_placement(f, true);
    wait_for(f, is_serving);
    fs_placement good = f->placement;
    for (int i = 0; i < 5; i++) {
        fs_placement bad = good;
        uint32_t saved = f->replica[3];
        fs_detail detail = {0};
        if (i == 0) bad.fingerprint++;
        if (i == 1) bad.num_moe_layers++;
        if (i == 2) bad.num_experts--;
        if (i == 3) bad.num_replicas = 0;
        if (i == 4) f->replica[3] = NODES;
        assert_int_equal(fs_dispatcher_set_placement(f->dispatcher, &bad, &detail), FS_INVALID);
        assert_true(strncmp(detail.text, "placement: ", 11) == 0);
        f->replica[3] = saved;
    }
    ask(f, 1);
    wait_for(f, is_done);
    check_outputs(f);
}

static void a_call_that_waits_is_forgotten_at_closing(void **state)
{
    fixture *f = *state;
    f->node[0].mode = f->node[1].mode = SILENT;
    set_placement(f, true);
    wait_for(f, is_serving);
    ask(f, 0);
    assert_int_equal(f->done, 0);
}

static void options_that_no_message_can_hold_are_refused(void **state)
{
    fixture *f = *state;
    static const uint16_t layers[1] = {0};
    const struct {
        uint32_t rows, top_k, hidden;
    } bad[] = {{0, 2, 8}, {FS_WIRE_MAX_ROWS + 1, 2, 8}, {4096, 64, 8}, {4096, 8, 8192}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fs_dispatcher_options o = {.name = "router-2",
                                   .hidden_size = bad[i].hidden,
                                   .num_experts = 64,
                                   .top_k = bad[i].top_k,
                                   .num_moe_layers = 1,
                                   .moe_layer = layers,
                                   .row_format = FS_ROWS_I8,
                                   .max_rows = bad[i].rows,
                                   .max_calls = 1};
        fs_dispatcher *d = NULL;
        fs_detail detail = {0};
        assert_int_equal(fs_dispatcher_create(&f->loop, &o, &d, &detail), FS_INVALID);
        assert_true(strncmp(detail.text, "step-tokens: ", 13) == 0);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(outputs_come_back_in_the_order_of_the_route),
        T(nodes_that_want_hints_are_told_of_their_experts_alone),
        T(a_bad_answer_is_asked_of_the_other_replica),
        T(rows_of_a_lost_node_go_to_the_other),
        T(without_a_replica_only_its_rows_fail_and_in_bounded_time),
        T(waiting_rows_go_to_a_node_that_comes_in_time),
        T(a_placement_that_does_not_fit_is_refused_and_the_last_one_stays),
        T(a_call_that_waits_is_forgotten_at_closing),
        T(options_that_no_message_can_hold_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
