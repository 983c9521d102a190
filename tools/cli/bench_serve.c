/* tools/cli/bench_serve.c: `foresight bench serve`: closed-loop streams against a cluster: throughput, latencies, and where the
 * routers' time went. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/worker.h"
#include "cli/cli.h"

enum { MAX_ROWS = 16, MAX_STREAMS = 1024, MAX_PARTS = 16, MAX_REQUESTS = 1000000 };

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
     .max = MAX_REQUESTS,
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

/* What the text follows; requests take turns, so that sequences differ and visit different experts. */
static const char *const prompts[] = {
    "Once upon a time, in a small house by the sea, there lived",
    "The old king had three sons, and the youngest of them",
    "It was a dark and stormy night when the stranger came to",
    "There was once a poor woodcutter who had",
    "\"I do not believe you,\" said the fox, and",
    "In the middle of the forest stood a castle where",
    "When the snow had melted, the children ran out to",
    "The captain looked at the map for a long time before he",
};
enum { NUM_PROMPTS = sizeof(prompts) / sizeof(*prompts) };

/* ---- where time goes: the difference of the routers' counters ---- */

typedef struct {
    uint32_t num_parts;
    struct {
        char name[32];
        double seconds;
    } part[MAX_PARTS];
    uint64_t steps, dispatches, redispatches;
} counters;

static double *part_of(counters *c, const char *name)
{
    for (uint32_t i = 0; i < c->num_parts; i++)
        if (strcmp(c->part[i].name, name) == 0) return &c->part[i].seconds;
    if (c->num_parts == MAX_PARTS) return NULL;
    snprintf(c->part[c->num_parts].name, sizeof(c->part[0].name), "%s", name);
    c->part[c->num_parts].seconds = 0;
    return &c->part[c->num_parts++].seconds;
}

static void add_counters(counters *sum, const counters *c, double sign)
{
    for (uint32_t i = 0; i < c->num_parts; i++) {
        double *seconds = part_of(sum, c->part[i].name);
        if (seconds) *seconds += sign * c->part[i].seconds;
    }
    sum->steps += (uint64_t)(int64_t)sign * c->steps;
    sum->dispatches += (uint64_t)(int64_t)sign * c->dispatches;
    sum->redispatches += (uint64_t)(int64_t)sign * c->redispatches;
}

static fs_status read_counters(fs_cli *cli, counters *sum, fs_detail *detail)
{
    *sum = (counters){0};
    for (uint32_t r = 0; r < cli->num_routers; r++) {
        Foresight__V1__GetStatsRequest request = FORESIGHT__V1__GET_STATS_REQUEST__INIT;
        ProtobufCMessage *response = NULL;
        fs_status st = fs_cli_call(cli, cli->channel[r], "/foresight.v1.Inference/GetStats", &request.base,
                                   &foresight__v1__router_stats__descriptor, 10 * FS_NS_PER_S, &response,
                                   detail);
        if (st != FS_OK) return fs_fail_in(detail, st, "%s", cli->router[r]);
        const Foresight__V1__RouterStats *s = (const Foresight__V1__RouterStats *)response;
        counters c = {.steps = s->steps, .dispatches = s->dispatches, .redispatches = s->redispatches};
        for (size_t i = 0; i < s->n_time; i++) {
            double *seconds = part_of(&c, s->time[i]->part);
            if (seconds) *seconds += s->time[i]->seconds;
        }
        add_counters(sum, &c, 1);
        fs_message_free(response);
    }
    return FS_OK;
}

/* ---- one row ---- */

typedef struct {
    uint32_t streams, requests, failed;
    uint64_t tokens;
    double seconds, ttft_ms[2], per_token_ms[2]; /* p50, p95 */
    counters counters;
    char error[256]; /* of the first that failed */
} row;

typedef struct {
    fs_cli *cli;
    const bench_options *options;
    fs_generation *stream;    /* [streams]; one that is not running has done set */
    double *ttft, *per_token; /* [requests] ms, of those that finished */
    uint32_t started, ended, finished, num_per_token;
    row *row;
} bench;

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The nearest rank. */
static double quantile(double *values, uint32_t count, double q)
{
    if (count == 0) return 0;
    qsort(values, count, sizeof(*values), compare);
    uint32_t rank = (uint32_t)(q * count);
    return values[rank < count ? rank : count - 1];
}

static fs_status start_one(bench *b, fs_generation *g, fs_detail *detail)
{
    *g = (fs_generation){0};
    const fs_generation_request request = {.prompt = prompts[b->started % NUM_PROMPTS],
                                           .has_max_tokens = true,
                                           .max_tokens = b->options->max_tokens,
                                           .has_temperature = true, /* greedy */
                                           .ignore_eos = true,
                                           .timeout_ns = b->options->timeout_ns};
    fs_status st = fs_generation_start(g, b->cli->channel[b->started % b->cli->num_routers], &request,
                                       detail);
    if (st != FS_OK) g->done = true;
    b->started++;
    return st;
}

static void end_one(bench *b, fs_generation *g)
{
    b->ended++;
    b->row->tokens += g->num_ids;
    if (!g->finished) {
        if (b->row->failed++ == 0)
            snprintf(b->row->error, sizeof(b->row->error), "%s: %.200s", fs_rpc_code_name(g->code),
                     g->message);
    } else {
        if (g->first_ns) b->ttft[b->finished++] = (double)(g->first_ns - g->started_ns) / FS_NS_PER_MS;
        if (g->num_ids > 1)
            b->per_token[b->num_per_token++] = (double)(g->last_ns - g->first_ns) / FS_NS_PER_MS /
                                               (g->num_ids - 1);
    }
    fs_generation_free(g);
}

static fs_status run_streams(bench *b, fs_detail *detail)
{
    uint32_t streams = b->row->streams, running = 0;
    fs_status st = FS_OK;
    for (; running < streams && b->started < b->row->requests && st == FS_OK; running++)
        st = start_one(b, &b->stream[running], detail);
    bool cancelled = false;
    while (b->ended < b->started) {
        bool stop = st != FS_OK || b->cli->signals > 0;
        for (uint32_t i = 0; i < running; i++) {
            fs_generation *g = &b->stream[i];
            if (stop && !cancelled) fs_generation_cancel(g);
            if (!g->done || !g->started_ns) continue;
            end_one(b, g);
            *g = (fs_generation){.done = true};
            if (!stop && b->started < b->row->requests) st = start_one(b, g, detail);
        }
        cancelled |= stop;
        if (b->ended < b->started) fs_cli_wait(b->cli);
    }
    if (st == FS_OK && b->cli->signals) st = fs_fail(detail, FS_CANCELLED, "interrupted");
    return st;
}

static fs_status run_row(fs_cli *cli, const bench_options *o, row *r, fs_detail *detail)
{
    counters before, after;
    bench b = {.cli = cli, .options = o, .row = r};
    b.stream = calloc(r->streams, sizeof(*b.stream));
    b.ttft = calloc(r->requests, sizeof(double));
    b.per_token = calloc(r->requests, sizeof(double));
    fs_status st = b.stream && b.ttft && b.per_token
                       ? read_counters(cli, &before, detail)
                       : fs_fail(detail, FS_NO_MEMORY, "no memory for the results");
    if (st == FS_OK) {
        int64_t start_ns = fs_clock_now(fs_clock_system());
        st = run_streams(&b, detail);
        r->seconds = (double)(fs_clock_now(fs_clock_system()) - start_ns) / FS_NS_PER_S;
    }
    if (st == FS_OK) st = read_counters(cli, &after, detail);
    if (st == FS_OK) {
        r->counters = after;
        add_counters(&r->counters, &before, -1);
        for (int i = 0; i < 2; i++) {
            r->ttft_ms[i] = quantile(b.ttft, b.finished, i ? 0.95 : 0.5);
            r->per_token_ms[i] = quantile(b.per_token, b.num_per_token, i ? 0.95 : 0.5);
        }
    }
    free(b.stream);
    free(b.ttft);
    free(b.per_token);
    return st;
}

/* ---- results ---- */

static double rate(const row *r)
{
    return r->seconds > 0 ? (double)r->tokens / r->seconds : 0;
}

static json_t *parts_json(const counters *c)
{
    json_t *object = json_object();
    for (uint32_t i = 0; i < c->num_parts; i++)
        json_object_set_new(object, c->part[i].name, json_real(c->part[i].seconds));
    return object;
}

static json_t *row_json(const row *r)
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

static void print_results(const bench_options *o, const row *rows, uint32_t num_rows, bool json)
{
    counters all = {0};
    json_t *list = json_array();
    for (uint32_t i = 0; i < num_rows; i++) {
        add_counters(&all, &rows[i].counters, 1);
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

static void print_row(const row *r, bool first)
{
    if (first)
        printf("%8s %9s %7s %11s %13s %13s %15s %15s\n", "streams", "requests", "failed", "tokens/s",
               "first p50 ms", "first p95 ms", "per token p50", "per token p95");
    printf("%8u %9u %7u %11.1f %13.1f %13.1f %15.2f %15.2f\n", r->streams, r->requests, r->failed, rate(r),
           r->ttft_ms[0], r->ttft_ms[1], r->per_token_ms[0], r->per_token_ms[1]);
    fflush(stdout);
}

static fs_status warm_up(fs_cli *cli, const bench_options *o, fs_detail *detail)
{
    bench_options short_one = *o;
    row r = {.streams = 1, .requests = 2 * cli->num_routers};
    short_one.max_tokens = o->max_tokens < 8 ? o->max_tokens : 8;
    fs_status st = run_row(cli, &short_one, &r, detail);
    if (st == FS_OK && r.failed) st = fs_fail(detail, FS_UNAVAILABLE, "%s", r.error);
    return st;
}

static int run(fs_cli *cli, const bench_options *o, const uint32_t *streams, uint32_t num_rows)
{
    static row rows[MAX_ROWS];
    uint32_t failed = 0;
    const char *first_error = "";
    fs_detail detail = {0};
    fs_status st = fs_cli_reach(cli, o->connect, &o->cluster, &detail);
    if (st == FS_OK) st = warm_up(cli, o, &detail);
    for (uint32_t i = 0; st == FS_OK && i < num_rows; i++) {
        uint32_t twice = 2 * streams[i] < 8 ? 8 : 2 * streams[i];
        rows[i] = (row){.streams = streams[i], .requests = o->requests ? o->requests : twice};
        st = run_row(cli, o, &rows[i], &detail);
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
    if (fs_cli_parse_list("streams", o.streams, 1, MAX_STREAMS, streams, MAX_ROWS, &num_rows, &detail) !=
        FS_OK) {
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
