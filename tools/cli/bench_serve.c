/* tools/cli/bench_serve.c: `foresight bench serve`: closed-loop streams against a cluster: throughput, latencies, and where the
 * routers' time went. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/worker.h"
#include "cli/load.h"

enum { MAX_ROWS = 16 };

typedef struct {
    fs_cluster_options cluster;
    const char *connect, *streams;
    uint32_t max_tokens, requests;
    int64_t timeout_ns;
    bool json;
} bench_options;
#define AT(field) offsetof(bench_options, field)

static const fs_conf_option table[] = {
    {.name = "connect",
     .type = FS_CONF_STRING,
     .offset = AT(connect),
     .value_name = "ADDR[,ADDR]",
     .help = "The gRPC addresses of the routers of a cluster that runs; streams take turns."},
    FS_CLI_CLUSTER_OPTIONS(bench_options, cluster, "warn"),
    {.name = "streams",
     .type = FS_CONF_STRING,
     .offset = AT(streams),
     .default_text = "1,8,32",
     .value_name = "N[,N]",
     .help = "How many generations run at once; a row of results for each number."},
    {.name = "max-tokens",
     .type = FS_CONF_U32,
     .offset = AT(max_tokens),
     .default_text = "64",
     .min = 1,
     .max = 1u << 20,
     .help = "Tokens of each generation."},
    {.name = "requests",
     .type = FS_CONF_U32,
     .offset = AT(requests),
     .default_text = "0",
     .max = FS_LOAD_MAX_REQUESTS,
     .help = "Generations a row; 0: twice the streams, at least 8."},
    {.name = "timeout",
     .type = FS_CONF_DURATION,
     .offset = AT(timeout_ns),
     .default_text = "2m",
     .min = 1,
     .max = 24 * 3600 * (uint64_t)FS_NS_PER_S,
     .help = "Each generation's deadline."},
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object."},
    {0},
};
static const fs_conf_spec spec = {.program = "foresight bench serve",
                                  .summary = "Measures a cluster under 1, 8, 32 ... concurrent streams.",
                                  .options = table};

/* ---- results ---- */

static double rate(const fs_load_result *r)
{
    return r->seconds > 0 ? (double)r->tokens / r->seconds : 0;
}

static json_t *parts_json(const fs_load_counters *c)
{
    json_t *object = json_object();
    for (uint32_t i = 0; i < c->num_parts; i++)
        json_object_set_new(object, c->part[i].name, json_real(c->part[i].seconds));
    return object;
}

static json_t *row_json(const fs_load_result *r)
{
    json_t *object = json_pack(
        "{s:i, s:i, s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:o}", "streams", (int)r->streams,
        "requests", (int)r->requests, "failed", (int)r->failed, "tokens", (json_int_t)r->tokens, "seconds",
        r->seconds, "tokens_per_s", rate(r), "ttft_ms_p50", r->ttft_ms[0], "ttft_ms_p95", r->ttft_ms[1],
        "per_token_ms_p50", r->per_token_ms[0], "per_token_ms_p95", r->per_token_ms[1], "steps",
        (json_int_t)r->counters.steps, "dispatches", (json_int_t)r->counters.dispatches, "redispatches",
        (json_int_t)r->counters.redispatches, "parts", parts_json(&r->counters));
    if (r->failed) json_object_set_new(object, "error", json_string(r->error));
    return object;
}

static void print_results(const bench_options *o, const fs_load_result *rows, uint32_t num_rows, bool json)
{
    fs_load_counters all = {0};
    json_t *list = json_array();
    for (uint32_t i = 0; i < num_rows; i++) {
        fs_load_add(&all, &rows[i].counters, 1);
        json_array_append_new(list, row_json(&rows[i]));
    }
    if (json) {
        fs_cli_print_json(json_pack("{s:o, s:o, s:i, s:i}", "rows", list, "parts", parts_json(&all),
                                    "max_tokens", (int)o->max_tokens, "cpus", (int)fs_num_cpus()));
        return;
    }
    json_decref(list);
    double total = 0;
    for (uint32_t i = 0; i < all.num_parts; i++) total += all.part[i].seconds;
    printf("\nrouters' time: ");
    for (uint32_t i = 0; i < all.num_parts; i++)
        printf("%s%s %.2f s (%.0f %%)", i ? ", " : "", all.part[i].name, all.part[i].seconds,
               total > 0 ? 100 * all.part[i].seconds / total : 0);
    printf("\n");
}

static void print_row(const fs_load_result *r, bool first)
{
    if (first)
        printf("%8s %9s %7s %11s %13s %13s %15s %15s\n", "streams", "requests", "failed", "tokens/s",
               "first p50 ms", "first p95 ms", "per token p50", "per token p95");
    printf("%8u %9u %7u %11.1f %13.1f %13.1f %15.2f %15.2f\n", r->streams, r->requests, r->failed, rate(r),
           r->ttft_ms[0], r->ttft_ms[1], r->per_token_ms[0], r->per_token_ms[1]);
    fflush(stdout);
}

static int run(fs_cli *cli, const bench_options *o, const uint32_t *streams, uint32_t num_rows)
{
    static fs_load_result rows[MAX_ROWS];
    uint32_t failed = 0;
    const char *first_error = "";
    fs_detail detail = {0};
    fs_status st = fs_cli_reach(cli, o->connect, &o->cluster, &detail);
    fs_load_options load = {.streams = 1, .max_tokens = o->max_tokens, .timeout_ns = o->timeout_ns};
    if (st == FS_OK) st = fs_load_warm_up(cli, &load, &detail);
    for (uint32_t i = 0; st == FS_OK && i < num_rows; i++) {
        uint32_t twice = 2 * streams[i] < 8 ? 8 : 2 * streams[i];
        load.streams = streams[i];
        load.requests = o->requests ? o->requests : twice;
        st = fs_load_run(cli, &load, &rows[i], &detail);
        if (st == FS_OK && !o->json) print_row(&rows[i], i == 0);
        if (failed == 0 && rows[i].failed > 0) first_error = rows[i].error;
        failed += rows[i].failed;
    }
    if (st != FS_OK) {
        fs_cli_complain("bench serve", "%s", detail.text);
        return cli->signals ? FS_EXIT_INTERRUPTED : st == FS_INVALID ? FS_EXIT_USAGE : FS_EXIT_FAILED;
    }
    print_results(o, rows, num_rows, o->json);
    if (failed) fs_cli_complain("bench serve", "%u generations failed; the first: %s", failed, first_error);
    return failed ? FS_EXIT_FAILED : FS_EXIT_OK;
}

int fs_cli_bench_serve(int argc, char **argv)
{
    bench_options o = {0};
    uint32_t streams[MAX_ROWS], num_rows = 0;
    fs_conf *conf = NULL;
    fs_detail detail = {0};
    fs_cli cli;
    int code = fs_cli_parse(&spec, argc, argv, &o, NULL, &conf);
    if (code != FS_CLI_GO_ON) return code;
    if (fs_cli_parse_list("streams", o.streams, 1, FS_LOAD_MAX_STREAMS, streams, MAX_ROWS, &num_rows,
                          &detail) != FS_OK) {
        fs_cli_complain("bench serve", "%s", detail.text);
        code = FS_EXIT_USAGE;
    } else {
        fs_cli_open(&cli);
        code = run(&cli, &o, streams, num_rows);
        fs_cli_close(&cli);
    }
    fs_conf_destroy(conf);
    return code;
}
