/* What a served call promises, seen from both ends. */
#include <arpa/inet.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rig_helper.h"

static void unary_call_brings_message_status_trailer_and_metadata(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o = {0};
    rig_start(r, "/t.T/Echo", "hello", 5, in_ms(20000), &o, NULL);
    rig_until(r, &o.ends, 1);
    rig_until(r, &r->calls_ended, 1);
    assert_int_equal(o.code, FS_RPC_OK);
    assert_int_equal(o.messages, 1);
    assert_string_equal(o.last, "hello");
    assert_string_equal(o.trailer, "17");
    assert_int_equal(r->calls_cancelled, 0);
    assert_non_null(strstr(r->metadata, "grpc-c"));
    assert_true(r->deadline_ns > in_ms(0) && r->deadline_ns < in_ms(21000));
}

static void call_without_deadline_has_none_at_the_server(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o = {0};
    rig_start(r, "/t.T/Echo", "", 0, FS_NEVER, &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.messages, 1);
    assert_int_equal(o.bytes, 0);
    assert_true(r->deadline_ns == FS_NEVER);
}

static void refusal_carries_code_text_and_trailer(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o = {0};
    rig_start(r, "/t.T/Refuse", "x", 1, in_ms(20000), &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_RESOURCE_EXHAUSTED);
    assert_string_equal(o.text, "the queue is full: 100 %");
    assert_string_equal(o.trailer, "250");
    assert_int_equal(o.messages, 0);
}

static void stream_of_10000_messages_arrives_whole_and_before_its_end(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o = {0};
    rig_start(r, "/t.T/Count", "10000", 5, in_ms(60000), &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_OK);
    assert_int_equal(o.messages, 10000);
    assert_string_equal(o.last, "9999");
    assert_string_equal(o.text, "counted");
}

static void cancel_by_client_ends_the_call_at_both_ends(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o = {.cancel_after = 1};
    rig_start(r, "/t.T/Hold", "x", 1, FS_NEVER, &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_CANCELLED);
    assert_int_equal(o.messages, 1);
    rig_until(r, &r->calls_ended, 1);
    assert_int_equal(r->calls_cancelled, 1);
    assert_null(r->held);
}

static void client_that_destroys_its_channel_cancels_its_calls(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o[3] = {0};
    for (int i = 0; i < 3; i++) rig_start(r, "/t.T/Hold", "x", 1, FS_NEVER, &o[i], NULL);
    rig_until(r, &r->calls_begun, 3);
    fs_rpc_channel_destroy(r->channel);
    rig_until(r, &r->calls_ended, 3);
    for (int i = 0; i < 3; i++) rig_until(r, &o[i].ends, 1);
    assert_int_equal(o[2].code, FS_RPC_CANCELLED);
}

static void deadline_ends_the_call_at_both_ends(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o = {0};
    rig_start(r, "/t.T/Hold", "x", 1, in_ms(150), &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_DEADLINE_EXCEEDED);
    rig_until(r, &r->calls_ended, 1);
    assert_int_equal(r->calls_cancelled, 1);
}

static void oversize_request_is_refused_before_the_handler(void **state)
{
    rig *r = *state;
    fs_rpc_server_options options;
    fs_rpc_server_options_init(&options);
    options.max_message = 1000;
    rig_serve(r, &options);
    char big[1001];
    memset(big, 'a', sizeof(big));
    outcome o = {0}, fits = {0};
    rig_start(r, "/t.T/Echo", big, 1001, in_ms(20000), &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(r->calls_begun, 0);
    rig_start(r, "/t.T/Echo", big, 1000, in_ms(20000), &fits, NULL);
    rig_until(r, &fits.ends, 1);
    assert_int_equal(fits.code, FS_RPC_OK);
    assert_int_equal(fits.bytes, 1000);
}

static void hundred_megabytes_are_refused(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    size_t size = 100u << 20;
    char *big = calloc(1, size);
    assert_non_null(big);
    outcome o = {0};
    rig_start(r, "/t.T/Echo", big, size, in_ms(60000), &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(r->calls_begun, 0);
    free(big);
}

static void oversize_response_ends_the_clients_call(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL); /* the channel takes 1 MiB, the server 4 */
    size_t size = 2u << 20;
    char *big = calloc(1, size);
    assert_non_null(big);
    outcome o = {0};
    rig_start(r, "/t.T/Echo", big, size, in_ms(20000), &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(o.messages, 0);
    free(big);
}

static void unknown_method_is_unimplemented(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o = {0};
    rig_start(r, "/t.T/Nothing", "x", 1, in_ms(20000), &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_UNIMPLEMENTED);
    assert_string_equal(o.text, "no method /t.T/Nothing");
}

static void calls_over_max_calls_are_refused_and_room_comes_back(void **state)
{
    rig *r = *state;
    fs_rpc_server_options options;
    fs_rpc_server_options_init(&options);
    options.max_calls = 2;
    rig_serve(r, &options);
    outcome held[2] = {0}, refused = {0}, after = {0};
    fs_rpc_request *request[2];
    for (int i = 0; i < 2; i++) rig_start(r, "/t.T/Hold", "x", 1, FS_NEVER, &held[i], &request[i]);
    rig_until(r, &r->calls_begun, 2);
    rig_start(r, "/t.T/Echo", "x", 1, in_ms(20000), &refused, NULL);
    rig_until(r, &refused.ends, 1);
    assert_int_equal(refused.code, FS_RPC_RESOURCE_EXHAUSTED);
    fs_rpc_cancel(request[0]);
    rig_until(r, &r->calls_ended, 1);
    rig_until(r, &held[0].ends, 1);
    rig_start(r, "/t.T/Echo", "x", 1, in_ms(20000), &after, NULL);
    rig_until(r, &after.ends, 1);
    assert_int_equal(after.code, FS_RPC_OK);
    rig_close(r); /* the other held call ends here */
    assert_int_equal(held[1].ends, 1);
}

/* The client's loop is the server's: what is sent without a turn of the loop cannot have been read. */
static void slow_reader_is_cancelled_at_send_bytes(void **state)
{
    rig *r = *state;
    fs_rpc_server_options options;
    fs_rpc_server_options_init(&options);
    options.send_bytes = 100000;
    rig_serve(r, &options);
    outcome o = {0};
    rig_start(r, "/t.T/Hold", "x", 1, FS_NEVER, &o, NULL);
    rig_until(r, &o.messages, 1);
    assert_non_null(r->held);
    static const uint8_t block[10000];
    fs_status st = FS_OK;
    uint32_t sent = 0;
    while (st == FS_OK && sent < 100) {
        st = fs_rpc_call_send(r->held, block, sizeof(block));
        sent++;
    }
    assert_int_equal(st, FS_EXHAUSTED);
    assert_in_range(sent, 10, 12);
    rig_until(r, &r->calls_ended, 1);
    assert_int_equal(r->calls_cancelled, 1);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_RESOURCE_EXHAUSTED);
}

static void close_ends_streams_at_both_ends(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o[20] = {0}, late = {0};
    for (int i = 0; i < 20; i++) rig_start(r, "/t.T/Hold", "x", 1, FS_NEVER, &o[i], NULL);
    rig_until(r, &r->calls_begun, 20);
    rig_start(r, "/t.T/Hold", "x", 1, FS_NEVER, &late, NULL); /* perhaps taken in, perhaps not */
    rig_close(r);
    assert_int_equal(r->calls_ended, r->calls_begun);
    assert_int_equal(r->calls_cancelled, r->calls_begun);
    for (int i = 0; i < 20; i++) assert_int_equal(o[i].ends, 1);
    assert_int_equal(late.ends, 1);
}

static void server_finishes_a_call_long_after_its_handler(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    outcome o = {0};
    rig_start(r, "/t.T/Hold", "x", 1, FS_NEVER, &o, NULL);
    rig_until(r, &o.messages, 1);
    assert_int_equal(fs_rpc_call_send(r->held, (const uint8_t *)"more", 4), FS_OK);
    rig_until(r, &o.messages, 2);
    assert_string_equal(o.last, "more");
    fs_rpc_call_finish(r->held, FS_RPC_UNAVAILABLE, "experts are lost");
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_UNAVAILABLE);
    assert_string_equal(o.text, "experts are lost");
    rig_until(r, &r->calls_ended, 1);
    assert_int_equal(r->calls_cancelled, 0);
}

static void port_in_use_and_bad_addresses_are_errors_with_a_reason(void **state)
{
    rig *r = *state;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    char used[64];
    snprintf(used, sizeof(used), "127.0.0.1:%d", ntohs(at.sin_port));
    char long_host[300];
    memset(long_host, 'a', sizeof(long_host));
    strcpy(long_host + 200, ":1");
    const struct {
        const char *address, *text;
        fs_status st;
    } cases[] = {
        {used, "Address already in use", FS_UNAVAILABLE},
        {"127.0.0.1", "not HOST:PORT", FS_INVALID},
        {"", "not HOST:PORT", FS_INVALID},
        {":80", "not HOST:PORT", FS_INVALID},
        {"127.0.0.1:", "port", FS_INVALID},
        {"127.0.0.1:http", "port", FS_INVALID},
        {"127.0.0.1:70000", "port", FS_INVALID},
        {"::1:80", "brackets", FS_INVALID},
        {"192.0.2.1:0", "Cannot assign requested address", FS_INVALID},
        {long_host, "over 100 bytes", FS_INVALID},
    };
    fs_rpc_server_options options;
    fs_rpc_server_options_init(&options);
    const fs_rpc_credentials insecure = {.insecure = true}, tls = {.ca_file = "ca.pem"};
    char bound[128];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fs_detail detail = {0};
        assert_int_equal(
            fs_rpc_serve(r->rpc, cases[i].address, &insecure, &options, NULL, 0, bound, &r->server, &detail),
            cases[i].st);
        if (!strstr(detail.text, cases[i].text)) fail_msg("%s: %s", cases[i].address, detail.text);
    }
    close(fd);
    fs_detail detail = {0};
    assert_int_equal(fs_rpc_serve(r->rpc, "127.0.0.1:0", &tls, &options, NULL, 0, bound, &r->server, &detail),
                     FS_UNSUPPORTED);
    options.max_message = 0;
    assert_int_equal(
        fs_rpc_serve(r->rpc, "127.0.0.1:0", &insecure, &options, NULL, 0, bound, &r->server, &detail),
        FS_INVALID);
}

static void same_port_twice_in_one_process_is_an_error(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    fs_rpc_server_options options;
    fs_rpc_server_options_init(&options);
    const fs_rpc_credentials insecure = {.insecure = true};
    char bound[128];
    fs_rpc_server *second;
    fs_detail detail = {0};
    assert_int_equal(fs_rpc_serve(r->rpc, r->address, &insecure, &options, NULL, 0, bound, &second, &detail),
                     FS_UNAVAILABLE);
    assert_non_null(strstr(detail.text, r->address));
}

/* Bytes that are no HTTP/2, and a connection that says nothing, trouble nobody else. */
static void garbage_on_the_port_does_not_disturb_others(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons((uint16_t)atoi(strchr(r->address, ':') + 1));
    int fd[2];
    for (int i = 0; i < 2; i++) {
        fd[i] = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(fd[i], (struct sockaddr *)&at, sizeof(at)), 0);
    }
    assert_true(send(fd[0], "GET / HTTP/1.1\r\n\r\n\xff\xff\xff\xff", 22, 0) > 0);
    outcome o = {0};
    rig_start(r, "/t.T/Echo", "hello", 5, in_ms(20000), &o, NULL);
    rig_until(r, &o.ends, 1);
    assert_int_equal(o.code, FS_RPC_OK);
    close(fd[0]);
    close(fd[1]);
}

/* A client that opens a call and then says nothing, by gRPC itself: ours always sends the request along. */
typedef struct {
    grpc_completion_queue *cq;
    grpc_channel *channel;
    grpc_call *call;
    grpc_metadata_array initial, trailing;
    grpc_slice text;
    grpc_status_code code;
} silent_client;

static void silent_start(silent_client *c, const char *address)
{
    grpc_channel_credentials *insecure = grpc_insecure_credentials_create();
    c->cq = grpc_completion_queue_create_for_next(NULL);
    c->channel = grpc_channel_create(address, insecure, NULL);
    grpc_channel_credentials_release(insecure);
    c->call = grpc_channel_create_call(c->channel, NULL, 0, c->cq, grpc_slice_from_static_string("/t.T/Echo"),
                                       NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    grpc_metadata_array_init(&c->initial);
    grpc_metadata_array_init(&c->trailing);
    grpc_op ops[3] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_RECV_INITIAL_METADATA},
                      {.op = GRPC_OP_RECV_STATUS_ON_CLIENT}};
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &c->initial;
    ops[2].data.recv_status_on_client.trailing_metadata = &c->trailing;
    ops[2].data.recv_status_on_client.status = &c->code;
    ops[2].data.recv_status_on_client.status_details = &c->text;
    assert_int_equal(grpc_call_start_batch(c->call, ops, 3, c, NULL), GRPC_CALL_OK);
}

static void silent_end(silent_client *c)
{
    grpc_slice_unref(c->text);
    grpc_metadata_array_destroy(&c->initial);
    grpc_metadata_array_destroy(&c->trailing);
    grpc_call_unref(c->call);
    grpc_channel_destroy(c->channel);
    grpc_completion_queue_shutdown(c->cq);
    while (grpc_completion_queue_next(c->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
           GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(c->cq);
}

static void call_that_sends_no_request_ends_and_makes_room(void **state)
{
    rig *r = *state;
    fs_rpc_server_options options;
    fs_rpc_server_options_init(&options);
    options.max_calls = 1;
    options.request_ms = 100;
    rig_serve(r, &options);
    silent_client c = {.code = GRPC_STATUS_OK};
    silent_start(&c, r->address);
    bool over = false;
    for (int64_t until = in_ms(20000); !over && fs_clock_now(fs_clock_system()) < until;) {
        uv_run(&r->loop, UV_RUN_NOWAIT);
        gpr_timespec soon = gpr_time_add(gpr_now(GPR_CLOCK_REALTIME), gpr_time_from_millis(5, GPR_TIMESPAN));
        over = grpc_completion_queue_next(c.cq, soon, NULL).type == GRPC_OP_COMPLETE;
    }
    assert_true(over);
    assert_int_equal(c.code, GRPC_STATUS_DEADLINE_EXCEEDED);
    silent_end(&c);
    assert_int_equal(r->calls_begun, 0);
    outcome o = {0};
    do { /* the server's own end of it may be a moment later */
        o = (outcome){0};
        rig_start(r, "/t.T/Echo", "hello", 5, in_ms(20000), &o, NULL);
        rig_until(r, &o.ends, 1);
    } while (o.code == FS_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(o.code, FS_RPC_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define PROMISE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
        PROMISE(unary_call_brings_message_status_trailer_and_metadata),
        PROMISE(call_without_deadline_has_none_at_the_server),
        PROMISE(refusal_carries_code_text_and_trailer),
        PROMISE(stream_of_10000_messages_arrives_whole_and_before_its_end),
        PROMISE(cancel_by_client_ends_the_call_at_both_ends),
        PROMISE(client_that_destroys_its_channel_cancels_its_calls),
        PROMISE(deadline_ends_the_call_at_both_ends),
        PROMISE(oversize_request_is_refused_before_the_handler),
        PROMISE(hundred_megabytes_are_refused),
        PROMISE(oversize_response_ends_the_clients_call),
        PROMISE(unknown_method_is_unimplemented),
        PROMISE(calls_over_max_calls_are_refused_and_room_comes_back),
        PROMISE(slow_reader_is_cancelled_at_send_bytes),
        PROMISE(close_ends_streams_at_both_ends),
        PROMISE(server_finishes_a_call_long_after_its_handler),
        PROMISE(port_in_use_and_bad_addresses_are_errors_with_a_reason),
        PROMISE(same_port_twice_in_one_process_is_an_error),
        PROMISE(call_that_sends_no_request_ends_and_makes_room),
        PROMISE(garbage_on_the_port_does_not_disturb_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
