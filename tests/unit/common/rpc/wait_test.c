/* A call that a tool waits for. */
#include <stdlib.h>
#include <string.h>

#include "rig_helper.h"

static fs_status call(rig *r, const char *path, int64_t timeout_ns, fs_rpc_code *code, fs_detail *detail)
{
    uint8_t *response = NULL;
    size_t size = 0;
    fs_status st = fs_rpc_call_wait(r->channel, &r->loop, path, (const uint8_t *)"hello", 5, timeout_ns,
                                    &response, &size, code, detail);
    if (st == FS_OK) {
        assert_int_equal(size, 5);
        assert_memory_equal(response, "hello", 5);
    }
    free(response);
    return st;
}

static void response_error_deadline_and_absence_are_told_apart(void **state)
{
    rig *r = *state;
    rig_serve(r, NULL);
    fs_detail detail = {0};
    fs_rpc_code code;
    assert_int_equal(call(r, "/t.T/Echo", 20 * FS_NS_PER_S, &code, &detail), FS_OK);
    assert_int_equal(code, FS_RPC_OK);
    assert_int_equal(call(r, "/t.T/Refuse", FS_NEVER, &code, &detail), FS_EXHAUSTED);
    assert_string_equal(detail.text, "RESOURCE_EXHAUSTED: the queue is full: 100 %");
    assert_int_equal(call(r, "/t.T/Hold", 100 * FS_NS_PER_MS, &code, &detail), FS_DEADLINE);
    assert_int_equal(code, FS_RPC_DEADLINE_EXCEEDED);
    assert_int_equal(call(r, "/t.T/None", 20 * FS_NS_PER_S, &code, &detail), FS_UNSUPPORTED);
    assert_int_equal(call(r, "no path", 20 * FS_NS_PER_S, &code, &detail), FS_INVALID);
    const fs_rpc_credentials insecure = {.insecure = true};
    fs_rpc_channel_destroy(r->channel);
    assert_int_equal(fs_rpc_channel_create(r->rpc, "127.0.0.1:1", &insecure, 0, &r->channel, &detail), FS_OK);
    assert_int_equal(call(r, "/t.T/Echo", 20 * FS_NS_PER_S, &code, &detail), FS_UNAVAILABLE);
    assert_int_equal(code, FS_RPC_UNAVAILABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(response_error_deadline_and_absence_are_told_apart, rig_setup,
                                        rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
