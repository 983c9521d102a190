/* tools/cli/session.c: the loop, its signals, and the cluster or connection that a subcommand works with. */
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum { TICK_MS = 50, CALL_NS_MS = 5000, POLL_MS = 1000, CLOSE_MS = 8000 };

static void on_signal(uv_signal_t *handle, int number)
{
    fs_cli *cli = handle->data;
    cli->signals++;
}

static void on_tick(uv_timer_t *timer)
{
}

void fs_cli_open(fs_cli *cli)
{
    memset(cli, 0, sizeof(*cli));
    signal(SIGPIPE, SIG_IGN); /* a reader that leaves shows as a failed write */
    FS_ASSERT(uv_loop_init(&cli->loop) == 0);
    FS_ASSERT(uv_signal_init(&cli->loop, &cli->interrupt) == 0 &&
              uv_signal_init(&cli->loop, &cli->terminate) == 0);
    FS_ASSERT(uv_timer_init(&cli->loop, &cli->tick) == 0);
    cli->interrupt.data = cli->terminate.data = cli->tick.data = cli;
    FS_ASSERT(uv_signal_start(&cli->interrupt, on_signal, SIGINT) == 0);
    FS_ASSERT(uv_signal_start(&cli->terminate, on_signal, SIGTERM) == 0);
    uv_timer_start(&cli->tick, on_tick, TICK_MS, TICK_MS);
}

static void on_rpc_closed(void *arg)
{
    fs_cli *cli = arg;
    cli->rpc_closed = true;
}

static void close_rpc(fs_cli *cli)
{
    if (!cli->rpc) return;
    for (uint32_t i = 0; i < cli->num_routers; i++) fs_rpc_channel_destroy(cli->channel[i]);
    int64_t deadline_ns = fs_clock_now(fs_clock_system()) + CLOSE_MS * FS_NS_PER_MS;
    fs_rpc_close(cli->rpc, on_rpc_closed, cli);
    while (!cli->rpc_closed && fs_clock_now(fs_clock_system()) < deadline_ns) uv_run(&cli->loop, UV_RUN_ONCE);
}

void fs_cli_close(fs_cli *cli)
{
    close_rpc(cli);
    fs_cluster_stop(cli->cluster);
    uv_close((uv_handle_t *)&cli->interrupt, NULL);
    uv_close((uv_handle_t *)&cli->terminate, NULL);
    uv_close((uv_handle_t *)&cli->tick, NULL);
    for (int i = 0; i < 100 && uv_run(&cli->loop, UV_RUN_NOWAIT) != 0; i++) {
    }
    (void)uv_loop_close(&cli->loop);
}

int fs_cli_main(const fs_conf_spec *spec, int argc, char **argv, void *options,
                int (*run)(fs_cli *cli, const void *options))
{
    fs_conf *conf = NULL;
    fs_cli cli;
    int code = fs_cli_parse(spec, argc, argv, options, NULL, &conf);
    if (code != FS_CLI_GO_ON) return code;
    fs_cli_open(&cli);
    code = run(&cli, options);
    fs_cli_close(&cli);
    fs_conf_destroy(conf);
    return code;
}

void fs_cli_wait(fs_cli *cli)
{
    uv_run(&cli->loop, UV_RUN_ONCE);
}

void fs_cli_complain(const char *name, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "foresight %s: ", name);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
}

void fs_cli_print_json(json_t *object)
{
    if (!object || json_dumpf(object, stdout, JSON_REAL_PRECISION(9)) != 0)
        fprintf(stderr, "foresight: no memory for JSON\n");
    putchar('\n');
    fflush(stdout);
    json_decref(object);
}

/* ---- calls ---- */

static fs_status need_rpc(fs_cli *cli, fs_detail *detail)
{
    if (cli->rpc) return FS_OK;
    fs_status st = fs_rpc_create(&cli->loop, &cli->rpc);
    return st == FS_OK ? st : fs_fail(detail, st, "cannot start gRPC");
}

static fs_status open_channel(fs_cli *cli, const char *address, fs_rpc_channel **out, fs_detail *detail)
{
    const fs_rpc_credentials credentials = {.insecure = true};
    fs_status st = need_rpc(cli, detail);
    return st == FS_OK ? fs_rpc_channel_create(cli->rpc, address, &credentials, 0, out, detail) : st;
}

fs_status fs_cli_call(fs_cli *cli, fs_rpc_channel *channel, const char *path, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *type, int64_t timeout_ns, ProtobufCMessage **response,
                      fs_detail *detail)
{
    uint8_t *packed = NULL, *answer = NULL;
    size_t packed_size, answer_size = 0;
    fs_rpc_code code = FS_RPC_UNKNOWN;
    fs_detail text = {0};
    fs_status st = fs_message_pack(request, &packed, &packed_size);
    if (st != FS_OK) return fs_fail(detail, st, "%s: no memory", path);
    st = fs_rpc_call_wait(channel, &cli->loop, path, packed, packed_size, timeout_ns, &answer, &answer_size,
                          &code, &text);
    free(packed);
    if (st != FS_OK) {
        free(answer);
        return fs_fail(detail, st, "%s", text.text);
    }
    *response = fs_message_unpack(type, answer, answer_size, &text);
    free(answer);
    return *response ? FS_OK
                     : fs_fail(detail, FS_CORRUPT, "%s: the answer cannot be read: %.300s", path, text.text);
}

fs_status fs_cli_call_address(fs_cli *cli, const char *address, const char *path,
                              const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
                              ProtobufCMessage **response, fs_detail *detail)
{
    fs_rpc_channel *channel = NULL;
    fs_status st = open_channel(cli, address, &channel, detail);
    if (st != FS_OK) return fs_fail_in(detail, st, "%s", address);
    st = fs_cli_call(cli, channel, path, request, type, CALL_NS_MS * FS_NS_PER_MS, response, detail);
    fs_rpc_channel_destroy(channel);
    return st == FS_OK ? st : fs_fail_in(detail, st, "%s", address);
}

/* ---- reaching a cluster ---- */

static fs_status add_router(fs_cli *cli, const char *address, size_t len, fs_detail *detail)
{
    uint32_t i = cli->num_routers;
    if (i == FS_CLUSTER_MAX_ROUTERS) return fs_fail(detail, FS_INVALID, "more than %u routers", i);
    if (len == 0 || len >= sizeof(cli->router[i]))
        return fs_fail(detail, FS_INVALID, "'%.100s' is not a list of addresses HOST:PORT", address);
    snprintf(cli->router[i], sizeof(cli->router[i]), "%.*s", (int)len, address);
    fs_status st = open_channel(cli, cli->router[i], &cli->channel[i], detail);
    if (st != FS_OK) return fs_fail_in(detail, st, "%s", cli->router[i]);
    cli->num_routers++;
    return FS_OK;
}

fs_status fs_cli_connect(fs_cli *cli, const char *addresses, fs_detail *detail)
{
    for (const char *at = addresses;;) {
        size_t len = strcspn(at, ",");
        fs_status st = add_router(cli, at, len, detail);
        if (st != FS_OK || at[len] == '\0') return st;
        at += len + 1;
    }
}

/* Whether the router has all experts within reach. Not reached yet: no. */
static bool router_serves(fs_cli *cli, uint32_t i)
{
    Foresight__V1__GetStatsRequest request = FORESIGHT__V1__GET_STATS_REQUEST__INIT;
    ProtobufCMessage *response = NULL;
    if (fs_cli_call(cli, cli->channel[i], "/foresight.v1.Inference/GetStats", &request.base,
                    &foresight__v1__router_stats__descriptor, POLL_MS * FS_NS_PER_MS, &response,
                    NULL) != FS_OK)
        return false;
    bool serving = ((const Foresight__V1__RouterStats *)response)->serving;
    fs_message_free(response);
    return serving;
}

/* Why it does not serve, as the coordinator sees it. */
static void add_problem(fs_cli *cli, fs_detail *detail)
{
    Foresight__V1__StatusRequest request = FORESIGHT__V1__STATUS_REQUEST__INIT;
    ProtobufCMessage *response = NULL;
    if (fs_cli_call_address(cli, cli->coordinator, "/foresight.v1.Control/Status", &request.base,
                            &foresight__v1__cluster_status__descriptor, &response, NULL) != FS_OK)
        return;
    const Foresight__V1__ClusterStatus *status = (const Foresight__V1__ClusterStatus *)response;
    size_t len = strlen(detail->text);
    for (size_t i = 0; i < status->n_problems && len < sizeof(detail->text); i++)
        len += (size_t)snprintf(detail->text + len, sizeof(detail->text) - len, "; %s", status->problems[i]);
    fs_message_free(response);
}

static fs_status wait_serving(fs_cli *cli, int64_t deadline_ns, double seconds, fs_detail *detail)
{
    for (uint32_t i = 0; i < cli->num_routers;) {
        const char *death = fs_cluster_next_death(cli->cluster);
        if (death) return fs_fail(detail, FS_UNAVAILABLE, "%s before the cluster could serve", death);
        if (cli->signals) return fs_fail(detail, FS_CANCELLED, "interrupted while the cluster was starting");
        if (router_serves(cli, i)) {
            i++;
            continue;
        }
        if (fs_clock_now(fs_clock_system()) >= deadline_ns) {
            fs_fail(detail, FS_DEADLINE, "the cluster could not serve within %.0f s", seconds);
            add_problem(cli, detail);
            return FS_DEADLINE;
        }
        fs_cli_wait(cli);
    }
    return FS_OK;
}

fs_status fs_cli_start_cluster(fs_cli *cli, const fs_cluster_options *options, fs_detail *detail)
{
    FS_ASSERT(!cli->rpc); /* children are forked before gRPC has threads */
    int64_t deadline_ns = fs_clock_now(fs_clock_system()) + options->start_ns;
    fs_status st = fs_cluster_start(&cli->loop, options, &cli->signals, &cli->cluster, detail);
    if (cli->cluster)
        snprintf(cli->coordinator, sizeof(cli->coordinator), "%s", fs_cluster_coordinator(cli->cluster));
    if (st == FS_DEADLINE && cli->coordinator[0] != '\0') add_problem(cli, detail);
    if (st != FS_OK) return st;
    for (uint32_t i = 0; st == FS_OK && i < fs_cluster_size(cli->cluster); i++) {
        const fs_child *child = fs_cluster_child(cli->cluster, i);
        if (child->kind == FS_CHILD_ROUTER)
            st = add_router(cli, child->address, strlen(child->address), detail);
    }
    return st == FS_OK ? wait_serving(cli, deadline_ns, (double)options->start_ns / FS_NS_PER_S, detail) : st;
}

fs_status fs_cli_reach(fs_cli *cli, const char *connect, const fs_cluster_options *options, fs_detail *detail)
{
    if (connect && options->model)
        return fs_fail(detail, FS_INVALID, "--connect and --model are both given; give one");
    if (!connect && !options->model)
        return fs_fail(detail, FS_INVALID,
                       "give --connect ADDR (a cluster that runs) or --model DIR (one for this command)");
    return connect ? fs_cli_connect(cli, connect, detail) : fs_cli_start_cluster(cli, options, detail);
}
