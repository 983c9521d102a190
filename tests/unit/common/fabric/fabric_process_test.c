/* tests/unit/common/fabric/fabric_process_test.c: a peer in another process, which echoes until it is killed or stopped. The child is
 * this program again (no fork after UCX was initialised). */
#include "node_helper.h"

#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fabric/fabric_int.h"

extern char **environ;

static void child_times(node *n)
{
    n->options.ping_ns = 100000000;
    n->options.silent_ns = 1000000000;
}

enum { SAW_GOODBYE = 10, SAW_LOSS = 11 };

/* Echoes until its peer is down; tells what it saw. */
static int child_main(const char *address)
{
    uv_loop_t loop;
    node n;
    uv_loop_init(&loop);
    node_init(&n, "child");
    child_times(&n);
    n.echo = true;
    node_start(&n, &loop);
    node_connect(&n, address);
    RUN_UNTIL(&loop, n.downs == 1);
    node_stop(&n, &loop);
    uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) != 0) return 1;
    bool goodbye = n.why == FS_CANCELLED && strcmp(n.text, FS_FABRIC_GOODBYE) == 0;
    return goodbye ? SAW_GOODBYE : n.why == FS_UNAVAILABLE ? SAW_LOSS : 1;
}

typedef struct {
    uv_loop_t loop;
    node n;
    pid_t child;
} parent;

static void parent_up(parent *p)
{
    uv_loop_init(&p->loop);
    node_init(&p->n, "parent");
    child_times(&p->n);
    node_start(&p->n, &p->loop);
    node_listen(&p->n, "127.0.0.1:0");
    char *argv[] = {"fabric_process_test", "--child", p->n.address, NULL};
    assert_int_equal(posix_spawn(&p->child, "/proc/self/exe", NULL, NULL, argv, environ), 0);
    RUN_UNTIL(&p->loop, p->n.ups == 1);
    assert_string_equal(p->n.peer_name, "child");
}

/* Returns the child's status. */
static int parent_down(parent *p)
{
    /* Of a lost peer nothing is left, before the fabric is closed. */
    if (p->n.downs > 0) RUN_UNTIL(&p->loop, p->n.fabric->num_peers == 0 && p->n.fabric->messages == NULL);
    node_stop(&p->n, &p->loop);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&p->loop), 0);
    int status = -1;
    assert_int_equal(waitpid(p->child, &status, 0), p->child);
    return status;
}

static void messages_cross_processes_in_order(void **state)
{
    static const size_t sizes[] = {8, 20u << 20, 300, 1u << 20, 16384, 20u << 20, 50};
    parent p;
    parent_up(&p);
    for (uint32_t i = 0; i < 7; i++) assert_int_equal(node_send_owned(&p.n, i, sizes[i]), FS_OK);
    RUN_UNTIL(&p.loop, p.n.messages == 7);
    assert_true(p.n.in_order);
    assert_int_equal(WEXITSTATUS(parent_down(&p)), SAW_GOODBYE);
}

static void a_killed_peer_is_lost(void **state)
{
    parent p;
    parent_up(&p);
    assert_int_equal(node_send(&p.n, 0, 100), FS_OK);
    RUN_UNTIL(&p.loop, p.n.messages == 1);
    kill(p.child, SIGKILL);
    RUN_UNTIL(&p.loop, p.n.downs == 1);
    assert_int_equal(p.n.why, FS_UNAVAILABLE);
    assert_int_equal(node_send(&p.n, 1, 100), FS_UNAVAILABLE);
    assert_true(WIFSIGNALED(parent_down(&p)));
}

/* Messages large and small are under way in both directions when the peer dies. */
static void a_peer_killed_under_load_is_lost(void **state)
{
    parent p;
    parent_up(&p);
    uint32_t sent = 0;
    for (; sent < 40; sent++)
        if (node_send_owned(&p.n, sent, sent % 2 ? 4u << 20 : 500) != FS_OK) break;
    RUN_UNTIL(&p.loop, p.n.messages >= 3);
    kill(p.child, SIGKILL);
    RUN_UNTIL(&p.loop, p.n.downs == 1);
    assert_true(p.n.in_order);
    assert_true(WIFSIGNALED(parent_down(&p)));
}

static void a_stopped_peer_is_lost_by_its_silence(void **state)
{
    parent p;
    parent_up(&p);
    kill(p.child, SIGSTOP);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(node_send_owned(&p.n, i, i % 2 ? 1u << 20 : 5000), FS_OK);
    RUN_UNTIL(&p.loop, p.n.downs == 1);
    assert_int_equal(p.n.why, FS_UNAVAILABLE);
    assert_non_null(strstr(p.n.text, "silent"));
    kill(p.child, SIGCONT);
    /* It finds that we are gone without a word, and ends by itself. */
    assert_int_equal(WEXITSTATUS(parent_down(&p)), SAW_LOSS);
}

static void idle_peers_stay_up(void **state)
{
    parent p;
    parent_up(&p);
    node_run_for(&p.loop, 3 * p.n.options.silent_ns);
    assert_int_equal(p.n.downs, 0);
    assert_int_equal(WEXITSTATUS(parent_down(&p)), SAW_GOODBYE);
}

/* What carries active messages to the peer, in UCX's words. The lanes of a connection are settled once messages went both ways. */
static void describe_endpoint(parent *p, char *out, size_t size)
{
    assert_int_equal(node_send(&p->n, 0, 20000), FS_OK);
    RUN_UNTIL(&p->loop, p->n.messages == 1);
    memset(out, 0, size);
    FILE *stream = fmemopen(out, size - 1, "w");
    ucp_ep_print_info(p->n.peer->ep, stream);
    fclose(stream);
    print_message("%s", out);
}

static const char *am_lane(const char *text)
{
    static char line[256];
    for (const char *at = strstr(text, "lane["); at; at = strstr(at + 1, "lane[")) {
        snprintf(line, sizeof(line), "%.*s", (int)strcspn(at, "\n"), at);
        if (strstr(line, " am ")) return line;
    }
    return "";
}

static void one_machine_speaks_through_shared_memory_by_default(void **state)
{
    parent p;
    char text[8192];
    unsetenv("UCX_TLS");
    parent_up(&p);
    describe_endpoint(&p, text, sizeof(text));
    assert_true(strstr(am_lane(text), "sysv/memory") || strstr(am_lane(text), "posix/memory"));
    parent_down(&p);
}

static void ucx_tls_is_the_operators(void **state)
{
    parent p;
    char text[8192];
    setenv("UCX_TLS", "tcp", 1);
    parent_up(&p);
    describe_endpoint(&p, text, sizeof(text));
    assert_non_null(strstr(am_lane(text), "tcp/"));
    assert_null(strstr(text, "/memory"));
    parent_down(&p);
}

static int run(const char *name, const char *tls)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_cross_processes_in_order),
        cmocka_unit_test(a_killed_peer_is_lost),
        cmocka_unit_test(a_peer_killed_under_load_is_lost),
        cmocka_unit_test(a_stopped_peer_is_lost_by_its_silence),
        cmocka_unit_test(idle_peers_stay_up),
    };
    setenv("UCX_TLS", tls, 1);
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--child") == 0) return child_main(argv[2]);
    const struct CMUnitTest transports[] = {
        cmocka_unit_test(one_machine_speaks_through_shared_memory_by_default),
        cmocka_unit_test(ucx_tls_is_the_operators),
    };
    return run("every transport", "all") + run("tcp", "tcp") +
           cmocka_run_group_tests_name("transports", transports, NULL, NULL);
}
