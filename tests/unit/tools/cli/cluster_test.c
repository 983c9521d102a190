/* What a cluster of child processes promises before there is one: options that cannot work are refused, threads are divided. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cli/cluster.h"

static void every_process_has_a_thread_and_cores_are_not_given_twice(void **state)
{
    static const struct {
        uint32_t total, routers, nodes, router_threads, node_threads;
    } rows[] = {{1, 1, 2, 1, 1},  {2, 1, 2, 1, 1},  {4, 1, 2, 2, 1},
                {16, 1, 2, 8, 4}, {16, 4, 8, 2, 1}, {3, 1, 1, 1, 1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        uint32_t router, node;
        fs_cluster_divide(rows[i].total, rows[i].routers, rows[i].nodes, &router, &node);
        assert_int_equal(router, rows[i].router_threads);
        assert_int_equal(node, rows[i].node_threads);
    }
}

static void only_a_ready_line_is_one(void **state)
{
    char value[128] = "before";
    static const char *const others[] = {
        "", "ready", "ready ", "ready grpc", "ready grpc=", "already grpc=x", " ready grpc=x"};
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        assert_false(fs_cluster_parse_ready(others[i], value));
    assert_string_equal(value, "before");
    assert_true(fs_cluster_parse_ready("ready fabric=127.0.0.1:4711", value));
    assert_string_equal(value, "127.0.0.1:4711");
    char longer[256] = "ready grpc=";
    memset(longer + 11, 'x', 200);
    assert_false(fs_cluster_parse_ready(longer, value));
}

static fs_status start(const fs_cluster_options *options, fs_detail *detail)
{
    uv_loop_t loop;
    fs_cluster *cluster = NULL;
    uint32_t interrupted = 0;
    uv_loop_init(&loop);
    fs_status st = fs_cluster_start(&loop, options, &interrupted, &cluster, detail);
    assert_null(cluster);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0); /* nothing is left behind */
    return st;
}

static void what_cannot_work_is_refused_by_name(void **state)
{
    const fs_cluster_options good = {.model = FS_SOURCE_DIR "/models/demo",
                                     .expert_nodes = 2,
                                     .replicas = 1,
                                     .routers = 1,
                                     .start_ns = 5 * FS_NS_PER_S,
                                     .log_level = 0};
    fs_detail detail = {0};
    fs_cluster_options o = good;
    o.model = NULL;
    assert_int_equal(start(&o, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "--model"));
    o.model = "/nonexistent";
    assert_int_equal(start(&o, &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "/nonexistent/config.json"));
    o = good;
    o.replicas = 3;
    assert_int_equal(start(&o, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "--replicas"));
    o = good; /* the test has no programs beside it */
    assert_int_equal(start(&o, &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "foresight-expert"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_process_has_a_thread_and_cores_are_not_given_twice),
        cmocka_unit_test(only_a_ready_line_is_one),
        cmocka_unit_test(what_cannot_work_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
