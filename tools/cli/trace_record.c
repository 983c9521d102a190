/* tools/cli/trace_record.c: `foresight trace record`: a cluster under load, whose router writes what it does to a file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/load.h"

typedef struct {
    fs_cluster_options cluster;
    fs_load_options load;
    bool greedy;
} record_options;
#define AT(field) offsetof(record_options, field)

static const fs_conf_option table[] = {
    FS_CLI_CLUSTER_OPTIONS(record_options, cluster, "warn"),
    FS_LOAD_OPTIONS(record_options, load, "16", "64", "64", 1),
    {.name = "greedy",
     .type = FS_CONF_BOOL,
     .offset = AT(greedy),
     .default_text = "false",
     .help = "The most probable tokens; left out: at temperature 0.8, seeded by the request's number."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight trace record",
    .positional = "FILE",
    .summary = "Serves a model under load and writes its router's trace to FILE.",
    .options = table};

static int run(fs_cli *cli, const record_options *o, const char *file)
{
    fs_load_result r;
    fs_detail detail = {0};
    fs_status st = fs_cli_start_cluster(cli, &o->cluster, &detail);
    if (st == FS_OK) st = fs_load_run(cli, &o->load, &r, &detail);
    if (st != FS_OK) {
        fs_cli_complain("trace record", "%s", detail.text);
        return cli->signals ? FS_EXIT_INTERRUPTED : st == FS_INVALID ? FS_EXIT_USAGE : FS_EXIT_FAILED;
    }
    if (r.failed) {
        fs_cli_complain("trace record", "%u generations failed; the first: %s", r.failed, r.error);
        return FS_EXIT_FAILED;
    }
    printf("%s: %u generations, %llu tokens, %llu steps, %.1f tokens/s\n", file, r.requests,
           (unsigned long long)r.tokens, (unsigned long long)r.counters.steps,
           r.seconds > 0 ? (double)r.tokens / r.seconds : 0);
    return FS_EXIT_OK;
}

int fs_cli_trace_record(int argc, char **argv)
{
    record_options o = {0};
    const char *file = NULL;
    fs_conf *conf = NULL;
    fs_cli cli;
    int code = fs_cli_parse(&spec, argc, argv, &o, &file, &conf);
    if (code != FS_CLI_GO_ON) return code;
    if (!file || !o.cluster.model || o.cluster.routers != 1) {
        fs_cli_complain("trace record", "%s",
                        !file              ? "say which FILE to write"
                        : !o.cluster.model ? "--model is needed"
                                           : "--routers: a trace is of one router");
        code = FS_EXIT_USAGE;
    } else {
        o.cluster.router_trace = file;
        o.load.sampled = !o.greedy;
        fs_cli_open(&cli);
        code = run(&cli, &o, file);
        fs_cli_close(&cli);
    }
    fs_conf_destroy(conf);
    return code;
}
