/* tests/unit/common/fabric/fabric_test.c: two fabrics on one loop, over shared memory and over TCP. */
#include "node_helper.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

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

/* The last of the credits goes, send says so, and a release lets the sender go on. */
static void credits_run_out_and_come_back(void **state)
{
    pair p;
    pair_init(&p);
    p.a.options.credits = 4;
    p.a.keep = true;
    pair_meet(&p, "127.0.0.1:0");
    RUN_UNTIL(&p.loop, p.a.ups == 1 && p.b.ups == 1);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(node_send(&p.b, i, 100), FS_OK);
    assert_int_equal(node_send(&p.b, 4, 100), FS_EXHAUSTED);
    RUN_UNTIL(&p.loop, p.a.messages == 4);
    node_run_for(&p.loop, 50000000);
    assert_int_equal(p.b.writable, 0);
    assert_int_equal(node_send(&p.b, 4, 100), FS_EXHAUSTED);
    fs_fabric_stats stats;
    fs_fabric_get_stats(p.a.fabric, &stats);
    assert_int_equal(stats.kept, 4);
    for (uint32_t i = 0; i < 4; i++) fs_fabric_release(p.a.kept[3 - i]);
    p.a.num_kept = 0;
    RUN_UNTIL(&p.loop, p.b.writable == 1);
    for (uint32_t i = 4; i < 8; i++) assert_int_equal(node_send(&p.b, i, 100), FS_OK);
    RUN_UNTIL(&p.loop, p.a.messages == 8);
    assert_true(p.a.in_order);
    fs_fabric_get_stats(p.a.fabric, &stats);
    assert_int_equal(stats.kept, 4);
    assert_int_equal(stats.received, 8);
    pair_fini(&p);
}

/* More than any queue holds, driven by on_writable alone: nothing is lost, doubled or out of order. */
static void a_full_queue_drains_in_order(void **state)
{
    pair p;
    pair_init(&p);
    p.a.options.credits = 16;
    p.b.options.queue_bytes = 300000;
    pair_meet(&p, "127.0.0.1:0");
    RUN_UNTIL(&p.loop, p.a.ups == 1 && p.b.ups == 1);
    uint32_t next = 0, refused = 0, writable = 0;
    while (next < 500) {
        fs_status st = node_send_owned(&p.b, next, 8 + next * 997 % 200000);
        if (st == FS_OK) {
            next++;
            continue;
        }
        assert_int_equal(st, FS_EXHAUSTED);
        refused++;
        RUN_UNTIL(&p.loop, p.b.writable > writable);
        writable = p.b.writable;
    }
    RUN_UNTIL(&p.loop, p.a.messages == 500);
    assert_true(p.a.in_order);
    assert_true(refused > 0);
    fs_fabric_stats stats;
    RUN_UNTIL(&p.loop, (fs_fabric_get_stats(p.b.fabric, &stats), stats.queued_bytes == 0));
    pair_fini(&p);
}

static void wrong_key_is_denied_on_both_sides(void **state)
{
    pair p;
    pair_init(&p);
    p.b.options.key[31] ^= 1;
    pair_meet(&p, "127.0.0.1:0");
    RUN_UNTIL(&p.loop, p.a.downs == 1 && p.b.downs == 1);
    assert_int_equal(p.a.why, FS_DENIED);
    assert_int_equal(p.b.why, FS_DENIED);
    assert_int_equal(p.a.ups + p.b.ups, 0);
    pair_fini(&p);
}

static void nobody_listens(void **state)
{
    pair p;
    pair_init(&p);
    p.b.options.connect_ns = 2000000000;
    node_start(&p.a, &p.loop);
    node_listen(&p.a, "127.0.0.1:0");
    char address[128];
    strcpy(address, p.a.address);
    node_stop(&p.a, &p.loop);
    node_start(&p.b, &p.loop);
    node_connect(&p.b, address);
    assert_int_equal(p.b.downs, 0); /* never from inside the call */
    RUN_UNTIL(&p.loop, p.b.downs == 1);
    assert_int_equal(p.b.why, FS_UNAVAILABLE);
    pair_fini(&p);
}

static void bad_addresses_are_invalid(void **state)
{
    static const char *const bad[] = {
        "",       "127.0.0.1",   "localhost:80",  "127.0.0.1:",    "127.0.0.1:65536",
        ":80",    "127.0.0.1:x", "[::1]",         "[::1:80",       "127.0.0.1:-1",
        "[x]:80", "1.2.3:80",    "127.0.0.1:80 ", "[127.0.0.1]:80"};
    pair p;
    pair_init(&p);
    node_start(&p.a, &p.loop);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char bound[128];
        fs_detail detail = {0};
        fs_peer *peer;
        assert_int_equal(fs_fabric_listen(p.a.fabric, bad[i], bound, &detail), FS_INVALID);
        assert_true(detail.text[0]);
        assert_int_equal(fs_fabric_connect(p.a.fabric, bad[i], NULL, &peer, &detail), FS_INVALID);
    }
    pair_fini(&p);
}

static void a_port_in_use_is_unavailable(void **state)
{
    pair p;
    pair_init(&p);
    node_start(&p.a, &p.loop);
    node_start(&p.b, &p.loop);
    node_listen(&p.a, "127.0.0.1:0");
    char bound[128];
    fs_detail detail = {0};
    assert_int_equal(fs_fabric_listen(p.b.fabric, p.a.address, bound, &detail), FS_UNAVAILABLE);
    assert_non_null(strstr(detail.text, p.a.address));
    pair_fini(&p);
}

static void messages_over_the_limit_are_refused(void **state)
{
    pair p;
    pair_init(&p);
    p.a.options.max_message = 1000;
    pair_meet(&p, "127.0.0.1:0");
    RUN_UNTIL(&p.loop, p.a.ups == 1 && p.b.ups == 1);
    assert_int_equal(node_send(&p.b, 0, 1001), FS_INVALID); /* the peer's limit */
    assert_int_equal(node_send(&p.a, 0, 1001), FS_INVALID); /* our own */
    fs_slice empty = {NULL, 0};
    assert_int_equal(fs_fabric_send(p.b.peer, 15, &empty, 1, NULL), FS_INVALID); /* the fabric's types */
    assert_int_equal(node_send(&p.b, 0, 1000), FS_OK);
    RUN_UNTIL(&p.loop, p.a.messages == 1);
    pair_fini(&p);
}

static void closing_a_peer_tells_both(void **state)
{
    pair p;
    pair_up(&p);
    fs_peer *peer = p.b.peer;
    fs_peer_close(peer);
    assert_int_equal(p.b.downs, 0);
    assert_int_equal(node_send(&p.b, 0, 8), FS_UNAVAILABLE);
    RUN_UNTIL(&p.loop, p.a.downs == 1 && p.b.downs == 1);
    assert_int_equal(p.b.why, FS_CANCELLED);
    assert_int_equal(p.a.why, FS_CANCELLED);
    assert_string_equal(p.a.text, FS_FABRIC_GOODBYE);
    node_connect(&p.b, p.a.address);
    RUN_UNTIL(&p.loop, p.a.ups == 2 && p.b.ups == 2);
    pair_fini(&p); /* closes b first, as a whole */
    assert_int_equal(p.a.downs, 2);
    assert_int_equal(p.a.why, FS_CANCELLED);
    assert_string_equal(p.a.text, FS_FABRIC_GOODBYE);
}

static void what_was_sent_before_the_goodbye_is_delivered(void **state)
{
    pair p;
    pair_up(&p);
    for (uint32_t i = 0; i < 20; i++) assert_int_equal(node_send(&p.b, i, 4000), FS_OK);
    fs_peer_close(p.b.peer);
    RUN_UNTIL(&p.loop, p.a.downs == 1);
    assert_int_equal(p.a.messages, 20);
    assert_true(p.a.in_order);
    assert_int_equal(p.a.why, FS_CANCELLED);
    pair_fini(&p);
}

static bool is_ours(unsigned long inode)
{
    char want[64];
    snprintf(want, sizeof(want), "socket:[%lu]", inode);
    for (int fd = 0; fd < 1024; fd++) {
        char path[64], link[64] = "";
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (readlink(path, link, sizeof(link) - 1) > 0 && strcmp(link, want) == 0) return true;
    }
    return false;
}

/* Of this process; the local address as /proc/net/tcp has it. */
static void count_listening(uint32_t *loopback, uint32_t *others)
{
    char line[512];
    FILE *file = fopen("/proc/self/net/tcp", "r");
    assert_non_null(file);
    *loopback = *others = 0;
    while (fgets(line, sizeof(line), file)) {
        unsigned address, port, state;
        unsigned long inode;
        if (sscanf(line, " %*d: %x:%x %*x:%*x %x %*s %*s %*s %*s %*s %lu", &address, &port, &state, &inode) !=
            4)
            continue;
        if (state != TCP_LISTEN || !is_ours(inode)) continue;
        ++*((ntohl(address) >> 24 == 127) ? loopback : others);
    }
    fclose(file);
}

static void nothing_listens_beyond_loopback(void **state)
{
    pair p;
    pair_up(&p);
    uint32_t loopback, others;
    count_listening(&loopback, &others);
    assert_true(loopback >= 1); /* ours, and UCX's own */
    assert_int_equal(others, 0);
    fs_detail detail = {0};
    fs_peer *peer;
    assert_int_equal(fs_fabric_connect(p.b.fabric, "192.0.2.1:9", NULL, &peer, &detail), FS_UNSUPPORTED);
    assert_non_null(strstr(detail.text, "UCX_NET_DEVICES"));
    char bound[128];
    assert_int_equal(fs_fabric_listen(p.b.fabric, "0.0.0.0:0", bound, &detail), FS_UNSUPPORTED);
    pair_fini(&p);
}

static void a_fabric_without_an_address_closes(void **state)
{
    pair p;
    pair_init(&p);
    node_start(&p.a, &p.loop);
    pair_fini(&p);
    assert_true(p.a.closed);
}

static void a_kept_message_outlives_peer_and_fabric(void **state)
{
    pair p;
    pair_init(&p);
    p.a.keep = true;
    pair_meet(&p, "127.0.0.1:0");
    RUN_UNTIL(&p.loop, p.a.ups == 1 && p.b.ups == 1);
    for (uint32_t i = 0; i < 3; i++) assert_int_equal(node_send(&p.b, i, 70000), FS_OK);
    RUN_UNTIL(&p.loop, p.a.messages == 3);
    fs_peer_close(p.a.peer);
    RUN_UNTIL(&p.loop, p.a.downs == 1);
    fs_fabric_release(p.a.kept[1]);
    fs_kept *last[] = {p.a.kept[0], p.a.kept[2]};
    p.a.num_kept = 0;
    node_stop(&p.a, &p.loop);
    fs_fabric_release(last[0]);
    fs_fabric_release(last[1]);
    pair_fini(&p);
}

/* Closing in the middle of large messages both ways leaves nothing behind (ASan) and ends. */
static void closing_in_the_middle_of_messages(void **state)
{
    pair p;
    pair_up(&p);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(node_send_owned(&p.b, i, 10u << 20), FS_OK);
        assert_int_equal(node_send_owned(&p.a, i, 10u << 20), FS_OK);
        node_step(&p.loop);
    }
    pair_fini(&p);
}

static int run(const char *name, const char *tls)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_sides_learn_each_others_name),
        cmocka_unit_test(echo_all_sizes_in_order),
        cmocka_unit_test(credits_run_out_and_come_back),
        cmocka_unit_test(a_full_queue_drains_in_order),
        cmocka_unit_test(wrong_key_is_denied_on_both_sides),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(bad_addresses_are_invalid),
        cmocka_unit_test(a_port_in_use_is_unavailable),
        cmocka_unit_test(messages_over_the_limit_are_refused),
        cmocka_unit_test(closing_a_peer_tells_both),
        cmocka_unit_test(what_was_sent_before_the_goodbye_is_delivered),
        cmocka_unit_test(nothing_listens_beyond_loopback),
        cmocka_unit_test(a_fabric_without_an_address_closes),
        cmocka_unit_test(a_kept_message_outlives_peer_and_fabric),
        cmocka_unit_test(closing_in_the_middle_of_messages),
    };
    setenv("UCX_TLS", tls, 1);
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void)
{
    return run("every transport", "all") + run("tcp", "tcp");
}
