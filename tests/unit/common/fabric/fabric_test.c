/* tests/unit/common/fabric/fabric_test.c: two fabrics on one loop, over shared memory and over TCP. */
#include "node_helper.h"

typedef struct {
    uv_loop_t loop;
    node a, b; /* a listens, b connects */
} pair;

static void pair_init(pair *p)
{
    memset(p, 0, sizeof(*p));
    uv_loop_init(&p->loop);
    node_init(&p->a, "expert-1");
    node_init(&p->b, "router-1");
}

static void pair_meet(pair *p, const char *address)
{
    node_start(&p->a, &p->loop);
    node_start(&p->b, &p->loop);
    node_listen(&p->a, address);
    node_connect(&p->b, p->a.address);
}

static void pair_up(pair *p)
{
    pair_init(p);
    pair_meet(p, "127.0.0.1:0");
    RUN_UNTIL(&p->loop, p->a.ups == 1 && p->b.ups == 1);
}

static void pair_fini(pair *p)
{
    if (p->b.fabric) node_stop(&p->b, &p->loop);
    if (p->a.fabric) node_stop(&p->a, &p->loop);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&p->loop), 0);
}

static void both_sides_learn_each_others_name(void **state)
{
    pair p;
    pair_up(&p);
    assert_string_equal(p.a.peer_name, "router-1");
    assert_string_equal(p.b.peer_name, "expert-1");
    assert_string_equal(fs_peer_address(p.b.peer), p.a.address);
    pair_fini(&p);
    assert_int_equal(p.a.downs, 1);
    assert_int_equal(p.b.downs, 1);
    assert_int_equal(p.b.why, FS_CANCELLED);
}

static void ipv6_works(void **state)
{
    pair p;
    pair_init(&p);
    pair_meet(&p, "[::1]:0");
    RUN_UNTIL(&p.loop, p.a.ups == 1 && p.b.ups == 1);
    assert_memory_equal(p.a.address, "[::1]:", 6);
    pair_fini(&p);
}

static void echo_all_sizes_in_order(void **state)
{
    static const size_t sizes[] = {8,      1000, 20u << 20, 16,   5000, 1u << 20, 9,
                                   100000, 64,   8192,      8191, 12,   3u << 20};
    const uint32_t count = sizeof(sizes) / sizeof(sizes[0]);
    pair p;
    pair_init(&p);
    p.a.echo = true;
    pair_meet(&p, "127.0.0.1:0");
    RUN_UNTIL(&p.loop, p.a.ups == 1 && p.b.ups == 1);
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(i % 2 ? node_send_owned(&p.b, i, sizes[i]) : node_send(&p.b, i, sizes[i]), FS_OK);
        total += sizes[i];
    }
    RUN_UNTIL(&p.loop, p.b.messages == count);
    assert_true(p.a.in_order && p.b.in_order);
    assert_int_equal(p.b.bytes, total);
    pair_fini(&p);
}

static int run(const char *name, const char *tls)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_sides_learn_each_others_name),
        cmocka_unit_test(echo_all_sizes_in_order),
        cmocka_unit_test(ipv6_works),
    };
    if (tls)
        setenv("UCX_TLS", tls, 1);
    else
        unsetenv("UCX_TLS");
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void)
{
    return run("default transports", NULL) + run("tcp", "tcp");
}
