/* tools/cli/serve.c: `foresight serve`: a whole cluster on this machine, in the foreground. */
#include <stdio.h>

#include "cli/cli.h"

typedef struct {
    fs_cluster_options cluster;
} serve_options;

static const fs_conf_option table[] = {
    FS_CLI_CLUSTER_OPTIONS(serve_options, cluster, "info"),
    {.name = "listen",
     .type = FS_CONF_STRING,
     .offset = offsetof(serve_options, cluster.listen),
     .default_text = "127.0.0.1:0",
     .value_name = "ADDR",
     .help = "Where the first router's gRPC API listens; port 0 takes a free one. Further routers take free "
             "ports."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight serve",
    .summary = "Runs a coordinator, expert nodes and routers as child processes until SIGINT or SIGTERM.",
    .options = table};

static void print_ready(const fs_cli *cli)
{
    printf("ready grpc=");
    for (uint32_t i = 0; i < cli->num_routers; i++) printf("%s%s", i ? "," : "", cli->router[i]);
    printf(" coordinator=%s\n", cli->coordinator);
    fflush(stdout);
}

/* Nothing is restarted: whoever runs this decides. Without a router nothing can be asked any more. */
static int watch(fs_cli *cli)
{
    while (!cli->signals) {
        const char *death = fs_cluster_next_death(cli->cluster);
        if (death) fs_cli_complain("serve", "%s", death);
        if (fs_cluster_alive(cli->cluster, FS_CHILD_ROUTER) == 0) {
            fs_cli_complain("serve", "no router is left; stopping the rest");
            return FS_EXIT_FAILED;
        }
        if (!death) fs_cli_wait(cli);
    }
    return FS_EXIT_OK;
}

static int run(fs_cli *cli, const void *options)
{
    const serve_options *o = options;
    fs_detail detail = {0};
    fs_status st = fs_cli_start_cluster(cli, &o->cluster, &detail);
    if (st == FS_OK) {
        print_ready(cli);
        return watch(cli);
    }
    fs_cli_complain("serve", "%s", detail.text);
    if (st == FS_CANCELLED && cli->signals) return FS_EXIT_OK; /* stopped as asked, only early */
    return st == FS_INVALID ? FS_EXIT_USAGE : FS_EXIT_FAILED;
}

int fs_cli_serve(int argc, char **argv)
{
    serve_options o = {0};
    return fs_cli_main(&spec, argc, argv, &o, run);
}
