/* A member beside a coordinator that the test plays, in one loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "rpc/member.h"
#include "rpc/message.h"

typedef struct {
    uv_loop_t loop;
    uv_timer_t timer;
    bool timed_out;
    fs_rpc *rpc, *member_rpc;
    fs_rpc_server *server;
    char address[128];

    /* the coordinator's part */
    fs_rpc_code register_code, heartbeat_code;
    uint64_t epoch;
    uint32_t registers, heartbeats, leaves, watches, watches_ended, heartbeat_ms;
    uint64_t last_ready_epoch;
    char last_problem[32];
    fs_rpc_call *watch;

    /* the member's */
    fs_member *member;
    uint32_t placements, states, registered, unregistered, destroyed;
    fs_rpc_code last_code;
    uint64_t shown_epoch, ready_epoch;
    bool destroy_in_callback;
} stage;

/* ---- the coordinator ---- */

static void answer(fs_rpc_call *call, fs_rpc_code code, const ProtobufCMessage *message)
{
    if (code == FS_RPC_OK) assert_int_equal(fs_rpc_send_message(call, message), FS_OK);
    fs_rpc_call_finish(call, code, code == FS_RPC_OK ? NULL : "no");
}

static void on_register(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    stage *s = arg;
    s->registers++;
    Foresight__V1__RegisterResponse r = FORESIGHT__V1__REGISTER_RESPONSE__INIT;
    r.member_id = 7;
    r.heartbeat_ms = s->heartbeat_ms;
    answer(call, s->register_code, &r.base);
}

static void on_heartbeat(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    stage *s = arg;
    Foresight__V1__HeartbeatRequest *h = (void *)fs_message_unpack(
        &foresight__v1__heartbeat_request__descriptor, request, size, NULL);
    assert_non_null(h);
    assert_true(h->instance != 0);
    assert_string_equal(h->name, "expert-1");
    s->heartbeats++;
    s->leaves += h->leaving;
    s->last_ready_epoch = h->ready_epoch;
    snprintf(s->last_problem, sizeof(s->last_problem), "%s", h->problem);
    fs_message_free(&h->base);
    Foresight__V1__HeartbeatResponse r = FORESIGHT__V1__HEARTBEAT_RESPONSE__INIT;
    r.epoch = s->epoch;
    answer(call, s->heartbeat_code, &r.base);
}

static void on_watch_end(void *arg, fs_rpc_call *call, bool cancelled)
{
    stage *s = arg;
    s->watches_ended++;
    if (s->watch == call) s->watch = NULL;
}

static void on_watch(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    stage *s = arg;
    s->watches++;
    s->watch = call;
    fs_rpc_call_on_end(call, on_watch_end, s);
}

/* Sends a placement of one layer; replicas: entries, each on node 0. */
static void send_placement(stage *s, uint64_t epoch, uint32_t replicas, uint32_t node)
{
    Foresight__V1__Placement p = FORESIGHT__V1__PLACEMENT__INIT;
    Foresight__V1__Placement__Node n = FORESIGHT__V1__PLACEMENT__NODE__INIT, *nodes[1] = {&n};
    uint32_t replica[4] = {node, node, node, node};
    p.epoch = epoch;
    p.num_moe_layers = 1;
    p.num_experts = 4;
    p.num_replicas = 1;
    p.nodes = nodes;
    p.n_nodes = 1;
    p.replica = replica;
    p.n_replica = replicas;
    assert_non_null(s->watch);
    assert_int_equal(fs_rpc_send_message(s->watch, &p.base), FS_OK);
}

/* ---- the member ---- */

static void on_destroyed(void *arg)
{
    ((stage *)arg)->destroyed++;
}

static void destroy(stage *s, int64_t leave_ns)
{
    fs_member *m = s->member;
    s->member = NULL;
    fs_member_destroy(m, leave_ns, on_destroyed, s);
}

static void on_placement(void *arg, const Foresight__V1__Placement *p)
{
    stage *s = arg;
    assert_ptr_equal(p, fs_member_placement(s->member));
    assert_true(p->epoch > s->shown_epoch);
    s->placements++;
    s->shown_epoch = p->epoch;
    if (s->destroy_in_callback) destroy(s, FS_NS_PER_S);
}

static void fill(void *arg, Foresight__V1__HeartbeatRequest *h)
{
    h->ready_epoch = ((stage *)arg)->ready_epoch;
    h->problem = "slow disk";
}

static void on_state(void *arg, bool registered, fs_rpc_code code, const char *text)
{
    stage *s = arg;
    s->states++;
    s->registered += registered;
    s->unregistered += !registered;
    s->last_code = code;
    assert_int_equal(registered, fs_member_is_registered(s->member));
}

/* ---- the stage ---- */

static void on_timer(uv_timer_t *timer)
{
    ((stage *)timer->data)->timed_out = true;
}

static void until(stage *s, const uint32_t *value, uint32_t at_least)
{
    uv_timer_start(&s->timer, on_timer, 30000, 0);
    while (*value < at_least && !s->timed_out) uv_run(&s->loop, UV_RUN_ONCE);
    uv_timer_stop(&s->timer);
    assert_false(s->timed_out);
}

static void serve(stage *s, const char *address)
{
    const fs_rpc_credentials insecure = {.insecure = true};
    const fs_rpc_method methods[] = {{"/foresight.v1.Control/Register", on_register, s},
                                     {"/foresight.v1.Control/Heartbeat", on_heartbeat, s},
                                     {"/foresight.v1.Control/WatchPlacement", on_watch, s}};
    fs_rpc_server_options options;
    fs_rpc_server_options_init(&options);
    fs_detail detail = {0};
    char copy[128];
    snprintf(copy, sizeof(copy), "%s", address);
    assert_int_equal(fs_rpc_create(&s->loop, &s->rpc), FS_OK);
    fs_status st = fs_rpc_serve(s->rpc, copy, &insecure, &options, methods, 3, s->address, &s->server,
                                &detail);
    if (st != FS_OK) fail_msg("%s", detail.text);
}

static void on_closed(void *arg)
{
    ++*(uint32_t *)arg;
}

static void close_rpc(stage *s, fs_rpc **rpc)
{
    uint32_t closed = 0;
    if (!*rpc) return;
    fs_rpc_close(*rpc, on_closed, &closed);
    until(s, &closed, 1);
    *rpc = NULL;
}

static Foresight__V1__RegisterRequest self(void)
{
    Foresight__V1__RegisterRequest r = FORESIGHT__V1__REGISTER_REQUEST__INIT;
    r.name = "expert-1";
    r.kind = FORESIGHT__V1__MEMBER_KIND__MEMBER_KIND_EXPERT_NODE;
    r.address = "127.0.0.1:1";
    return r;
}

static void start_member(stage *s)
{
    const Foresight__V1__RegisterRequest me = self();
    const fs_member_options options = {.rpc = s->member_rpc,
                                       .coordinator = s->address,
                                       .credentials = {.insecure = true},
                                       .self = &me,
                                       .on_placement = on_placement,
                                       .fill_heartbeat = fill,
                                       .on_state = on_state,
                                       .arg = s};
    fs_detail detail = {0};
    assert_int_equal(fs_member_create(&s->loop, &options, &s->member, &detail), FS_OK);
    assert_true(fs_member_instance(s->member) != 0);
}

static int setup(void **state)
{
    stage *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    assert_int_equal(uv_loop_init(&s->loop), 0);
    uv_timer_init(&s->loop, &s->timer);
    s->timer.data = s;
    s->heartbeat_ms = 20;
    assert_int_equal(fs_rpc_create(&s->loop, &s->member_rpc), FS_OK);
    serve(s, "127.0.0.1:0");
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    stage *s = *state;
    if (s->member) destroy(s, 0);
    close_rpc(s, &s->member_rpc);
    close_rpc(s, &s->rpc);
    uv_close((uv_handle_t *)&s->timer, NULL);
    while (uv_run(&s->loop, UV_RUN_DEFAULT)) continue;
    int rc = uv_loop_close(&s->loop);
    free(s);
    return rc;
}

/* ---- promises ---- */

static void registers_reports_and_watches(void **state)
{
    stage *s = *state;
    s->ready_epoch = 41;
    start_member(s);
    until(s, &s->registered, 1);
    assert_int_equal(fs_member_id(s->member), 7);
    until(s, &s->heartbeats, 3);
    assert_int_equal(s->registers, 1);
    assert_int_equal(s->last_ready_epoch, 41);
    assert_string_equal(s->last_problem, "slow disk");
    until(s, &s->watches, 1);
    send_placement(s, 5, 4, 0);
    until(s, &s->placements, 1);
    assert_int_equal(fs_member_placement(s->member)->n_replica, 4);
    assert_int_equal(s->states, 1);
}

static void unknown_instance_registers_again(void **state)
{
    stage *s = *state;
    start_member(s);
    until(s, &s->heartbeats, 1);
    s->heartbeat_code = FS_RPC_NOT_FOUND;
    until(s, &s->registers, 2);
    s->heartbeat_code = FS_RPC_OK;
    uint32_t seen = s->heartbeats;
    until(s, &s->heartbeats, seen + 3);
    assert_int_equal(s->unregistered, 0); /* nothing that anybody must know */
}

static void placement_is_news_or_not_shown(void **state)
{
    stage *s = *state;
    start_member(s);
    until(s, &s->watches, 1);
    send_placement(s, 5, 0, 0); /* no assignment yet */
    until(s, &s->placements, 1);
    send_placement(s, 6, 4, 0);
    send_placement(s, 6, 4, 0); /* the same again */
    send_placement(s, 4, 4, 0); /* older */
    send_placement(s, 7, 0, 0); /* one that has lost its memory */
    send_placement(s, 8, 3, 0); /* of a wrong size */
    send_placement(s, 9, 4, 1); /* names a node that is not there */
    send_placement(s, 10, 4, UINT32_MAX);
    until(s, &s->placements, 3);
    assert_int_equal(s->shown_epoch, 10);
}

static void ended_watch_is_opened_again_and_repeats_nothing(void **state)
{
    stage *s = *state;
    start_member(s);
    until(s, &s->watches, 1);
    send_placement(s, 5, 4, 0);
    until(s, &s->placements, 1);
    fs_rpc_call_finish(s->watch, FS_RPC_UNAVAILABLE, "restart");
    until(s, &s->watches, 2);
    send_placement(s, 5, 4, 0);
    send_placement(s, 6, 4, 0);
    until(s, &s->placements, 2);
}

static void silent_watch_that_falls_behind_is_opened_again(void **state)
{
    stage *s = *state;
    start_member(s);
    until(s, &s->watches, 1);
    s->epoch = 9; /* heartbeats say so, and the watch does not */
    until(s, &s->watches, 2);
    send_placement(s, 9, 4, 0);
    until(s, &s->placements, 1);
}

static void lost_coordinator_is_told_once_and_found_again(void **state)
{
    stage *s = *state;
    start_member(s);
    until(s, &s->watches, 1);
    send_placement(s, 5, 4, 0);
    until(s, &s->placements, 1);
    char address[128];
    strcpy(address, s->address);
    close_rpc(s, &s->rpc);
    until(s, &s->unregistered, 1);
    assert_int_equal(s->last_code, FS_RPC_UNAVAILABLE);
    assert_int_equal(fs_member_placement(s->member)->epoch, 5); /* kept */
    uint32_t watches = s->watches;
    serve(s, address);
    until(s, &s->registered, 2);
    until(s, &s->watches, watches + 1);
    send_placement(s, 6, 4, 0);
    until(s, &s->placements, 2);
    assert_int_equal(s->unregistered, 1);
}

static void refusal_is_told_once_and_tried_again(void **state)
{
    stage *s = *state;
    s->register_code = FS_RPC_FAILED_PRECONDITION;
    start_member(s);
    until(s, &s->registers, 3);
    assert_int_equal(s->unregistered, 1);
    assert_int_equal(s->last_code, FS_RPC_FAILED_PRECONDITION);
    assert_int_equal(s->heartbeats, 0);
    s->register_code = FS_RPC_OK;
    until(s, &s->registered, 1);
    until(s, &s->heartbeats, 1);
}

static void touch_reports_before_its_time(void **state)
{
    stage *s = *state;
    s->heartbeat_ms = 60000;
    start_member(s);
    until(s, &s->heartbeats, 1);
    s->ready_epoch = 77;
    fs_member_touch(s->member);
    until(s, &s->heartbeats, 2);
    assert_int_equal(s->last_ready_epoch, 77);
    fs_member_touch(s->member);
    uv_run(&s->loop, UV_RUN_ONCE); /* perhaps one is under way */
    fs_member_touch(s->member);
    until(s, &s->heartbeats, 3);
}

static void destroy_says_goodbye(void **state)
{
    stage *s = *state;
    start_member(s);
    until(s, &s->heartbeats, 2);
    destroy(s, 5 * FS_NS_PER_S);
    until(s, &s->destroyed, 1);
    assert_int_equal(s->leaves, 1);
    until(s, &s->watches_ended, s->watches);
}

static void destroy_does_not_wait_for_a_coordinator_that_is_away(void **state)
{
    stage *s = *state;
    start_member(s);
    until(s, &s->heartbeats, 1);
    close_rpc(s, &s->rpc);
    destroy(s, 100 * FS_NS_PER_MS);
    until(s, &s->destroyed, 1);
    assert_int_equal(s->leaves, 0);
}

static void destroy_at_once_and_from_a_callback_is_allowed(void **state)
{
    stage *s = *state;
    start_member(s);
    destroy(s, FS_NS_PER_S);
    until(s, &s->destroyed, 1);
    s->destroy_in_callback = true;
    start_member(s);
    until(s, &s->watches, 1);
    send_placement(s, 5, 4, 0);
    until(s, &s->destroyed, 2);
    fs_member_destroy(NULL, 0, on_destroyed, s);
    assert_int_equal(s->destroyed, 3);
}

static void bad_options_are_refused(void **state)
{
    stage *s = *state;
    Foresight__V1__RegisterRequest me[4] = {self(), self(), self(), self()};
    me[0].name = "";
    me[1].name = "Expert_1";
    me[2].kind = FORESIGHT__V1__MEMBER_KIND__MEMBER_KIND_UNSPECIFIED;
    me[3].address = "";
    fs_member_options options = {
        .rpc = s->member_rpc, .coordinator = s->address, .credentials = {.insecure = true}};
    fs_member *m;
    for (int i = 0; i < 4; i++) {
        fs_detail detail = {0};
        options.self = &me[i];
        assert_int_equal(fs_member_create(&s->loop, &options, &m, &detail), FS_INVALID);
        assert_true(detail.text[0] != 0);
    }
    const Foresight__V1__RegisterRequest good = self();
    options.self = &good;
    options.coordinator = "nowhere";
    assert_int_equal(fs_member_create(&s->loop, &options, &m, NULL), FS_INVALID);
    options.coordinator = s->address;
    options.credentials.insecure = false;
    assert_int_equal(fs_member_create(&s->loop, &options, &m, NULL), FS_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define PROMISE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        PROMISE(registers_reports_and_watches),
        PROMISE(unknown_instance_registers_again),
        PROMISE(placement_is_news_or_not_shown),
        PROMISE(ended_watch_is_opened_again_and_repeats_nothing),
        PROMISE(silent_watch_that_falls_behind_is_opened_again),
        PROMISE(lost_coordinator_is_told_once_and_found_again),
        PROMISE(refusal_is_told_once_and_tried_again),
        PROMISE(touch_reports_before_its_time),
        PROMISE(destroy_says_goodbye),
        PROMISE(destroy_does_not_wait_for_a_coordinator_that_is_away),
        PROMISE(destroy_at_once_and_from_a_callback_is_allowed),
        PROMISE(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
