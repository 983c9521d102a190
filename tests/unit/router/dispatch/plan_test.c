/* The dispatch plan: where rows go first, and where next when a node is lost, has moved its experts or says
 * nothing. */
#include "dispatch/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/random.h"

enum { LAYERS = 2, EXPERTS = 8, REPLICAS = 2, TOP_K = 2, MAX_ROWS = 16, MAX_NODES = 4, MS = 1000000 };

static const fs_plan_rule RULE = {.answer_ns = 1000 * (int64_t)MS, .unavailable_ns = 500 * (int64_t)MS};

/* Expert e is on nodes e % 2 and 2 + e % 2, unless a test says otherwise. */
typedef struct {
    fs_arena arena;
    fs_plan plan;
    fs_plan_node node[MAX_NODES];
    uint32_t replica[LAYERS * EXPERTS * REPLICAS];
    fs_plan_view view;
    uint64_t next_id;
    uint32_t sent[EXPERTS];
} fixture;

static int setup(void **state)
{
    fixture *f = test_calloc(1, sizeof *f);
    if (fs_plan_init(&f->plan, &f->arena, MAX_ROWS, EXPERTS, TOP_K) != FS_OK) return -1;
    for (uint32_t n = 0; n < MAX_NODES; n++) f->node[n] = (fs_plan_node){true, false, FS_NODE_READY};
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
        f->replica[i * 2] = i % 2;
        f->replica[i * 2 + 1] = 2 + i % 2;
    }
    f->view = (fs_plan_view){LAYERS, EXPERTS, REPLICAS, MAX_NODES, f->replica, f->node, NULL, 0};
    f->next_id = 100;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    fs_arena_fini(&f->arena);
    test_free(f);
    return 0;
}

static void begin(fixture *f, const uint16_t (*route)[TOP_K], uint32_t num_rows)
{
    const uint16_t *rows[MAX_ROWS];
    for (uint32_t r = 0; r < num_rows; r++) rows[r] = route[r][0] == UINT16_MAX ? NULL : route[r];
    fs_plan_begin(&f->plan, 1, rows, num_rows);
    fs_plan_check(&f->plan);
}

static uint32_t assign(fixture *f, int64_t now)
{
    uint32_t n = fs_plan_assign(&f->plan, &f->view, &RULE, now, &f->next_id, f->sent);
    fs_plan_check(&f->plan);
    return n;
}

/* The node that the only group goes to, or FS_PLAN_NONE. */
static uint32_t assign_one(fixture *f, int64_t now)
{
    uint32_t n = assign(f, now);
    assert_true(n <= 1);
    return n ? f->plan.message[f->sent[0]].node : FS_PLAN_NONE;
}

static void near_and_ready_nodes_come_first(void **state)
{
    fixture *f = *state;
    static const uint16_t route[1][TOP_K] = {{3, 3}};
    enum { R = FS_NODE_READY, D = FS_NODE_DRAINING, L = FS_NODE_LOST, G = FS_NODE_LOADING, NONE = -1 };
    /* expert 3 of layer 1 is on nodes 1 and 3 */
    static const struct {
        bool connected1, near1;
        int state1;
        bool connected3, near3;
        int state3, want; /* -2: either, but always the same */
    } rows[] = {
        {1, 0, R, 1, 0, R, -2},   {1, 1, R, 1, 0, R, 1},    {1, 0, R, 1, 1, R, 3}, {1, 1, R, 1, 1, R, -2},
        {0, 1, R, 1, 0, R, 3},    {1, 0, R, 0, 1, R, 1},    {1, 1, D, 1, 0, R, 3}, {1, 0, R, 1, 1, D, 1},
        {1, 1, D, 0, 0, R, 1},    {1, 0, D, 1, 1, D, 3},    {1, 0, L, 1, 0, D, 3}, {1, 0, L, 0, 0, R, 1},
        {1, 0, G, 0, 0, R, NONE}, {0, 0, R, 0, 0, R, NONE}, {1, 1, G, 1, 0, L, 3}, {1, 0, 0, 1, 0, 99, NONE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        f->node[1] = (fs_plan_node){rows[i].connected1, rows[i].near1, (fs_node_state)rows[i].state1};
        f->node[3] = (fs_plan_node){rows[i].connected3, rows[i].near3, (fs_node_state)rows[i].state3};
        begin(f, route, 1);
        uint32_t node = assign_one(f, 1);
        if (rows[i].want == -2) {
            begin(f, route, 1);
            assert_int_equal(assign_one(f, 1), node);
            assert_true(node == 1 || node == 3);
        } else {
            assert_int_equal(node, rows[i].want == NONE ? FS_PLAN_NONE : (uint32_t)rows[i].want);
        }
    }
}

static void equal_replicas_share_the_experts(void **state)
{
    fixture *f = *state;
    uint32_t first = 0, second = 0;
    for (uint32_t spread = 0; spread < 64; spread++) {
        static const uint16_t route[4][TOP_K] = {{0, 2}, {4, 6}, {1, 3}, {5, 7}};
        f->view.spread = spread * 2654435761u;
        begin(f, route, 4);
        uint32_t n = assign(f, 1);
        for (uint32_t i = 0; i < n; i++)
            *(f->plan.message[f->sent[i]].node < 2 ? &first
                                                   : &second) += f->plan.message[f->sent[i]].num_groups;
    }
    assert_int_equal(first + second, 64 * EXPERTS);
    assert_in_range(first, 64 * EXPERTS / 3, 64 * EXPERTS * 2 / 3);
}

static void a_node_gets_one_message_with_each_row_once(void **state)
{
    fixture *f = *state;
    static const uint16_t route[4][TOP_K] = {{4, 0}, {UINT16_MAX, 0}, {0, 1}, {1, 4}};
    for (uint32_t i = 0; i < LAYERS * EXPERTS * REPLICAS; i++) f->replica[i] = i % 2 ? FS_NO_REPLICA : 2;
    begin(f, route, 4);
    assert_int_equal(assign(f, 1), 1);
    const fs_plan_message *m = &f->plan.message[f->sent[0]];
    assert_int_equal(m->node, 2);
    assert_int_equal(m->num_groups, 3);
    assert_int_equal(m->num_pairs, 6);
    uint32_t row[6], pair[6], expert[3], count[3];
    assert_int_equal(fs_plan_layout(&f->plan, f->sent[0], row, pair, expert, count), 3);
    static const uint32_t want_row[] = {0, 2, 3}, want_pair[] = {0, 1, 1, 2, 0, 2};
    static const uint32_t want_expert[] = {0, 1, 4}, want_count[] = {2, 2, 2};
    assert_memory_equal(row, want_row, sizeof want_row);
    assert_memory_equal(pair, want_pair, sizeof want_pair);
    assert_memory_equal(expert, want_expert, sizeof want_expert);
    assert_memory_equal(count, want_count, sizeof want_count);
}

static void answers_go_to_their_places_in_the_route(void **state)
{
    fixture *f = *state;
    static const uint16_t route[3][TOP_K] = {{4, 0}, {UINT16_MAX, 0}, {0, 4}};
    enum { HIDDEN = 3 };
    float rows[4][HIDDEN];
    const float *out[3 * TOP_K] = {0};
    begin(f, route, 3);
    fs_plan_place(&f->plan, 0, rows[0], HIDDEN, out); /* expert 0: rows 0 and 2 */
    fs_plan_place(&f->plan, 1, rows[2], HIDDEN, out); /* expert 4: rows 0 and 2 */
    const float *want[3 * TOP_K] = {rows[2], rows[0], NULL, NULL, rows[1], rows[3]};
    assert_memory_equal(out, want, sizeof want);
}

static void rows_without_any_route_need_no_message(void **state)
{
    fixture *f = *state;
    static const uint16_t route[2][TOP_K] = {{UINT16_MAX, 0}, {UINT16_MAX, 0}};
    begin(f, route, 2);
    assert_int_equal(f->plan.num_unfinished, 0);
    assert_int_equal(assign(f, 1), 0);
    assert_int_equal(fs_plan_next_ns(&f->plan, &RULE, 1), FS_NEVER);
}

/* One group of expert 3, on nodes 1 and 3 of which 1 is near: what follows each kind of trouble. */
static void trouble_sends_rows_to_the_other_replica(void **state)
{
    fixture *f = *state;
    static const uint16_t route[1][TOP_K] = {{3, 3}};
    enum { LOST, TIMEOUT, ANSWER };
    static const struct {
        int event;
        fs_plan_answer_kind kind;
        int64_t back_ms; /* when node 1 may be asked again, if node 3 cannot; from the trouble */
    } rows[] = {{LOST, 0, 0},
                {TIMEOUT, 0, 1000},
                {ANSWER, FS_ANSWER_MOVED, 100},
                {ANSWER, FS_ANSWER_EXHAUSTED, 5},
                {ANSWER, FS_ANSWER_CORRUPT, 1000},
                {ANSWER, FS_ANSWER_REFUSED, 2000}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        f->node[1] = (fs_plan_node){true, true, FS_NODE_READY};
        f->node[3].connected = true;
        begin(f, route, 1);
        assert_int_equal(assign_one(f, MS), 1);
        uint64_t id = f->plan.message[f->sent[0]].id;
        int64_t now = rows[i].event == TIMEOUT ? MS + RULE.answer_ns : 2 * MS;
        uint32_t again = 0;
        if (rows[i].event == LOST) {
            again = fs_plan_node_lost(&f->plan, 1, now);
            f->node[1].connected = false;
        } else if (rows[i].event == TIMEOUT) {
            assert_int_equal(fs_plan_tick(&f->plan, &RULE, now - 1), 0);
            assert_int_equal(fs_plan_next_ns(&f->plan, &RULE, now - 1), now);
            again = fs_plan_tick(&f->plan, &RULE, now);
        } else {
            again = fs_plan_answer_all(&f->plan, f->sent[0], rows[i].kind, now);
        }
        assert_int_equal(again, 2);
        assert_int_equal(fs_plan_find(&f->plan, id), FS_PLAN_NONE); /* a late answer finds nothing */
        fs_plan_check(&f->plan);
        assert_int_equal(assign_one(f, now), 3);
        assert_true(f->plan.message[f->sent[0]].id != id);

        /* node 3 is lost too: back to node 1, when it may be asked again */
        fs_plan_node_lost(&f->plan, 3, now);
        f->node[3].connected = false;
        f->node[1].connected = true;
        if (rows[i].back_ms) assert_int_equal(assign_one(f, now + rows[i].back_ms * MS - 1), FS_PLAN_NONE);
        if (rows[i].back_ms * MS < RULE.unavailable_ns) {
            assert_int_equal(assign_one(f, now + rows[i].back_ms * MS), 1);
        } else {
            assert_int_equal(assign_one(f, now + RULE.unavailable_ns), FS_PLAN_NONE);
            assert_int_equal(f->plan.group[0].state, FS_GROUP_FAILED);
        }
    }
}

static void without_a_node_rows_wait_so_long_and_then_only_they_fail(void **state)
{
    fixture *f = *state;
    static const uint16_t route[3][TOP_K] = {{3, 2}, {4, 2}, {2, 3}};
    begin(f, route, 3);
    f->node[1].connected = f->node[3].connected = false; /* odd experts are nowhere */
    assert_true(assign(f, MS) >= 1);
    assert_int_equal(fs_plan_next_ns(&f->plan, &RULE, MS), MS + RULE.unavailable_ns);
    float rows[3][1];
    const float *out[3 * TOP_K] = {0};
    bool failed[3] = {0};
    uint32_t sent[EXPERTS], num_sent = 0;
    for (uint32_t m = 0; m < f->plan.num_messages; m++) sent[num_sent++] = m;
    for (uint32_t i = 0; i < num_sent; i++) fs_plan_answer_all(&f->plan, sent[i], FS_ANSWER_OK, MS);
    fs_plan_place(&f->plan, 0, rows[0], 1, out);
    assert_int_equal(f->plan.num_unfinished, 1);
    assert_int_equal(assign(f, MS + RULE.unavailable_ns - 1), 0);
    assert_int_equal(f->plan.num_unfinished, 1);
    assert_int_equal(assign(f, MS + RULE.unavailable_ns), 0);
    assert_int_equal(f->plan.num_unfinished, 0);
    fs_plan_fail_rows(&f->plan, out, failed);
    assert_true(failed[0] && !failed[1] && failed[2]);
    assert_null(out[0]);
    assert_null(out[1]);
    assert_ptr_equal(out[3], rows[1]);
    assert_null(out[4]);
}

static void rows_do_not_wait_anew_for_an_expert_that_is_long_gone(void **state)
{
    fixture *f = *state;
    static const uint16_t route[1][TOP_K] = {{3, 3}};
    int64_t missing[LAYERS * EXPERTS] = {0};
    f->view.missing_ns = missing;
    f->node[1].connected = f->node[3].connected = false;
    missing[EXPERTS + 3] = MS;
    begin(f, route, 1);
    assert_int_equal(assign_one(f, RULE.unavailable_ns), FS_PLAN_NONE);
    assert_int_equal(f->plan.group[0].state, FS_GROUP_PENDING);
    assert_int_equal(fs_plan_next_ns(&f->plan, &RULE, RULE.unavailable_ns), MS + RULE.unavailable_ns);
    begin(f, route, 1);
    assert_int_equal(assign_one(f, MS + RULE.unavailable_ns), FS_PLAN_NONE);
    assert_int_equal(f->plan.group[0].state, FS_GROUP_FAILED);
    f->node[3].connected = true; /* even so, a node that is there is asked */
    begin(f, route, 1);
    assert_int_equal(assign_one(f, MS + RULE.unavailable_ns), 3);
}

static void a_new_node_in_time_saves_them(void **state)
{
    fixture *f = *state;
    static const uint16_t route[1][TOP_K] = {{3, 3}};
    begin(f, route, 1);
    f->node[1].connected = f->node[3].connected = false;
    assert_int_equal(assign_one(f, MS), FS_PLAN_NONE);
    f->node[3].connected = true;
    assert_int_equal(assign_one(f, MS + RULE.unavailable_ns - 1), 3);
}

static void a_new_placement_forgives(void **state)
{
    fixture *f = *state;
    static const uint16_t route[1][TOP_K] = {{3, 3}};
    begin(f, route, 1);
    f->node[3].connected = false;
    assert_int_equal(assign_one(f, MS), 1);
    fs_plan_answer_all(&f->plan, f->sent[0], FS_ANSWER_MOVED, MS);
    assert_int_equal(assign_one(f, MS), FS_PLAN_NONE);
    fs_plan_forgive(&f->plan);
    assert_int_equal(assign_one(f, MS), 1);
}

static void a_half_answered_message_sends_only_the_other_half_again(void **state)
{
    fixture *f = *state;
    static const uint16_t route[1][TOP_K] = {{1, 3}};
    begin(f, route, 1);
    f->node[3].connected = false;
    assert_int_equal(assign_one(f, MS), 1);
    const fs_plan_answer_kind kind[] = {FS_ANSWER_OK, FS_ANSWER_MOVED};
    f->node[3].connected = true;
    assert_int_equal(fs_plan_answer(&f->plan, f->sent[0], kind, MS), 1);
    assert_int_equal(assign_one(f, MS), 3);
    assert_int_equal(f->plan.message[f->sent[0]].num_pairs, 1);
    assert_int_equal(f->plan.group[0].state, FS_GROUP_DONE);
}

static void a_placement_of_another_shape_or_none_is_no_node(void **state)
{
    fixture *f = *state;
    static const uint16_t route[1][TOP_K] = {{7, 7}};
    fs_plan_view good = f->view;
    for (int i = 0; i < 5; i++) {
        f->view = good;
        if (i == 0) f->view.replica = NULL;
        if (i == 1) f->view.num_moe_layers = 1;
        if (i == 2) f->view.num_experts = 7;
        if (i == 3) f->view.num_replicas = 0;
        if (i == 4) f->view.num_nodes = 0;
        begin(f, route, 1);
        assert_int_equal(assign_one(f, MS), FS_PLAN_NONE);
    }
}

/* Whatever happens, in whatever order: invariants hold and every row ends. */
static void random_troubles_always_end(void **state)
{
    fixture *f = *state;
    for (uint64_t seed = 0; seed < 2000; seed++) {
        fs_random random = {seed};
        uint16_t route[MAX_ROWS][TOP_K];
        uint32_t num_rows = 1 + fs_random_below(&random, MAX_ROWS);
        int64_t now = MS;
        for (uint32_t r = 0; r < num_rows; r++) {
            route[r][0] = (uint16_t)fs_random_below(&random, EXPERTS);
            route[r][1] = (uint16_t)((route[r][0] + 1 + fs_random_below(&random, EXPERTS - 1)) % EXPERTS);
        }
        begin(f, (const uint16_t(*)[TOP_K])route, num_rows);
        for (int step = 0; f->plan.num_unfinished; step++) {
            assert_true(step < 10000);
            assign(f, now);
            uint32_t n = fs_random_below(&random, MAX_NODES);
            uint32_t m = f->plan.num_messages ? fs_random_below(&random, f->plan.num_messages) : 0;
            bool open = f->plan.num_messages && f->plan.message[m].open;
            fs_plan_answer_kind kind = (fs_plan_answer_kind)fs_random_below(&random, FS_ANSWER_REFUSED + 1);
            switch (fs_random_below(&random, 6)) {
            case 0:
                f->node[n].connected = false;
                fs_plan_node_lost(&f->plan, n, now);
                break;
            case 1: f->node[n].connected = true; break;
            case 2: f->node[n].state = (fs_node_state)fs_random_below(&random, 5); break;
            case 3:
            case 4:
                if (open) fs_plan_answer_all(&f->plan, m, kind, now);
                break;
            default: {
                int64_t next = fs_plan_next_ns(&f->plan, &RULE, now);
                if (next != FS_NEVER && next > now) now = next;
                fs_plan_tick(&f->plan, &RULE, now);
            }
            }
            fs_plan_check(&f->plan);
        }
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(near_and_ready_nodes_come_first),
        T(equal_replicas_share_the_experts),
        T(a_node_gets_one_message_with_each_row_once),
        T(answers_go_to_their_places_in_the_route),
        T(rows_without_any_route_need_no_message),
        T(trouble_sends_rows_to_the_other_replica),
        T(without_a_node_rows_wait_so_long_and_then_only_they_fail),
        T(rows_do_not_wait_anew_for_an_expert_that_is_long_gone),
        T(a_new_node_in_time_saves_them),
        T(a_new_placement_forgives),
        T(a_half_answered_message_sends_only_the_other_half_again),
        T(a_placement_of_another_shape_or_none_is_no_node),
        T(random_troubles_always_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
