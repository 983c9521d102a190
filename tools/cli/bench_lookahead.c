/* tools/cli/bench_lookahead.c: `foresight bench lookahead`: what knowing routes ahead gains: cache hits over a trace that is recorded here, and
 * time a token where expert nodes read what memory does not hold from their disks. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/quantile.h"
#include "cli/cache_rows.h"
#include "cli/cli.h"
#include "cli/load.h"

enum { MAX_ROUNDS = 64, MAX_WORDS = 512 };

typedef struct {
    fs_cluster_options cluster;
    fs_load_options load;
    uint32_t rounds, memory;
    bool json;
} look_options;
#define AT(field) offsetof(look_options, field)

static const fs_conf_option table[] = {
    FS_CLI_CLUSTER_OPTIONS(look_options, cluster, "error"),
    FS_LOAD_OPTIONS(look_options, load, "4", "16", "48", 2),
    {.name = "rounds",
     .type = FS_CONF_U32,
     .offset = AT(rounds),
     .default_text = "5",
     .min = 1,
     .max = MAX_ROUNDS,
     .help = "Runs of each mode; they take turns, and medians are told."},
    {.name = "memory",
     .type = FS_CONF_U32,
     .offset = AT(memory),
     .default_text = "33",
     .min = 1,
     .max = 100,
     .help = "Share of the experts that the nodes' memory holds, in percent."},
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight bench lookahead",
    .summary = "Measures caches that know what is needed next beside caches that do not.",
    .options = table};

static const struct {
    const char *name, *router, *expert;
} modes[] = {
    {"lru", "--lookahead off", "--cache lru"},
    {"off", "--lookahead off", "--cache lookahead"},
    {"hints", "--lookahead hints", "--cache lookahead"},
    {"full", "--lookahead full", "--cache lookahead"},
};
enum { NUM_MODES = sizeof(modes) / sizeof(*modes), MODE_OFF = 1, MODE_FULL = NUM_MODES - 1 };

static const uint32_t shares[] = {10, 25, 50, 75};
enum { NUM_SHARES = sizeof(shares) / sizeof(*shares), TRACE_STREAMS = 16, TRACE_REQUESTS = 64 };

typedef struct {
    double mean_ms[MAX_ROUNDS], p95_ms[MAX_ROUNDS], first_ms[MAX_ROUNDS], rate[MAX_ROUNDS];
} mode_times;

typedef struct {
    fs_visits visits;
    fs_cache_row rows[NUM_SHARES];
    uint64_t expert_bytes, node_bytes; /* of all experts; memory of each node */
    mode_times mode[NUM_MODES];
    uint32_t rounds;
} look_results;

static double median(const double *values, uint32_t count)
{
    double sorted[MAX_ROUNDS];
    memcpy(sorted, values, count * sizeof *sorted);
    return fs_quantile(sorted, count, 0.5);
}

/* ---- runs ---- */

/* A cluster of its own: children are started before gRPC is used in this process. */
static fs_status run_cluster(const fs_cluster_options *cluster, const fs_load_options *load,
                             fs_load_result *out, bool *interrupted, fs_detail *detail)
{
    fs_cli cli;
    fs_cli_open(&cli);
    fs_status st = fs_cli_start_cluster(&cli, cluster, detail);
    if (st == FS_OK) st = fs_load_warm_up(&cli, load, detail);
    if (st == FS_OK) st = fs_load_run(&cli, load, out, detail);
    if (st == FS_OK && out->failed) st = fs_fail(detail, FS_UNAVAILABLE, "%s", out->error);
    *interrupted |= cli.signals > 0;
    fs_cli_close(&cli);
    return st;
}

static fs_status record(const look_options *o, look_results *r, bool *interrupted, fs_detail *detail)
{
    char path[] = "/tmp/foresight-bench-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return fs_fail(detail, FS_IO, "%s: cannot be made", path);
    close(fd);
    fs_cluster_options cluster = o->cluster;
    fs_load_options load = o->load;
    fs_load_result result;
    cluster.router_trace = path;
    load.streams = TRACE_STREAMS;
    load.requests = TRACE_REQUESTS;
    load.sampled = true;
    fs_status st = run_cluster(&cluster, &load, &result, interrupted, detail);
    if (st == FS_OK) st = fs_visits_load(path, &r->visits, detail);
    for (int i = 0; st == FS_OK && i < NUM_SHARES; i++) {
        r->rows[i].percent = shares[i];
        st = fs_cache_row_run(&r->visits, &r->rows[i], detail);
    }
    unlink(path);
    return st;
}

static fs_status measure(const look_options *o, look_results *r, uint32_t mode, bool *interrupted,
                         fs_detail *detail)
{
    char router[MAX_WORDS], expert[MAX_WORDS];
    fs_cluster_options cluster = o->cluster;
    fs_load_result result;
    snprintf(router, sizeof router, "%s %s", cluster.router_args ? cluster.router_args : "",
             modes[mode].router);
    snprintf(expert, sizeof expert, "%s %s --memory %" PRIu64, cluster.expert_args ? cluster.expert_args : "",
             modes[mode].expert, r->node_bytes);
    cluster.router_args = router;
    cluster.expert_args = expert;
    fs_status st = run_cluster(&cluster, &o->load, &result, interrupted, detail);
    if (st != FS_OK) return st;
    mode_times *t = &r->mode[mode];
    t->mean_ms[r->rounds] = result.gap_ms[0];
    t->p95_ms[r->rounds] = result.gap_ms[1];
    t->first_ms[r->rounds] = result.ttft_ms[0];
    t->rate[r->rounds] = result.seconds > 0 ? (double)result.tokens / result.seconds : 0;
    return FS_OK;
}

static fs_status size_memory(const look_options *o, look_results *r, fs_detail *detail)
{
    static fs_summary summary;
    fs_status st = fs_summary_load(o->cluster.model, false, &summary, detail);
    if (st != FS_OK) return st;
    r->expert_bytes = summary.part[0].bytes;
    r->node_bytes = r->expert_bytes * o->cluster.replicas / o->cluster.expert_nodes * o->memory / 100;
    return FS_OK;
}

/* ---- output ---- */

static json_t *mode_json(const look_results *r, uint32_t m)
{
    const mode_times *t = &r->mode[m];
    return json_pack("{s:s, s:f, s:f, s:f, s:f}", "mode", modes[m].name, "token_ms_mean",
                     median(t->mean_ms, r->rounds), "token_ms_p95", median(t->p95_ms, r->rounds),
                     "first_token_ms_p50", median(t->first_ms, r->rounds), "tokens_per_s",
                     median(t->rate, r->rounds));
}

/* The medians over rounds of full / off in the same round. */
static double gain(const look_results *r, const double *full, const double *off)
{
    double ratio[MAX_ROUNDS];
    for (uint32_t i = 0; i < r->rounds; i++) ratio[i] = off[i] > 0 ? full[i] / off[i] : 0;
    return median(ratio, r->rounds);
}

static void print_json(const look_options *o, const look_results *r)
{
    json_t *cache = json_array(), *times = json_array();
    const mode_times *off = &r->mode[MODE_OFF], *full = &r->mode[MODE_FULL];
    for (int i = 0; i < NUM_SHARES; i++)
        json_array_append_new(cache, fs_cache_row_json(&r->visits, &r->rows[i]));
    for (uint32_t m = 0; m < NUM_MODES; m++) json_array_append_new(times, mode_json(r, m));
    fs_cli_print_json(json_pack("{s:i, s:i, s:i, s:I, s:I, s:f, s:f, s:o, s:o}", "streams",
                                (int)o->load.streams, "rounds", (int)r->rounds, "memory_percent",
                                (int)o->memory, "expert_bytes", (json_int_t)r->expert_bytes,
                                "node_memory_bytes", (json_int_t)r->node_bytes, "mean_full_over_off",
                                gain(r, full->mean_ms, off->mean_ms), "p95_full_over_off",
                                gain(r, full->p95_ms, off->p95_ms), "times", times, "cache", cache));
}

static void print_text(const look_options *o, const look_results *r)
{
    const mode_times *off = &r->mode[MODE_OFF], *full = &r->mode[MODE_FULL];
    printf("a trace of %d streams: %.1f rows a step visit %.1f of %u experts in each of %u layers\n",
           TRACE_STREAMS,
           r->visits.num_steps ? (double)r->visits.num_tokens / (double)r->visits.num_steps : 0,
           r->visits.num_visits ? (double)r->visits.num_keys / (double)r->visits.num_visits : 0,
           r->visits.model.num_experts, r->visits.model.num_moe_layers);
    fs_cache_rows_print(&r->visits, r->rows, NUM_SHARES);
    printf("\ntime a token with memory for %u %% of the experts (%" PRIu64 " of %" PRIu64
           " bytes on each of %u nodes), %u "
           "streams:\n%-8s %10s %10s %16s %10s\n",
           o->memory, r->node_bytes, r->expert_bytes, o->cluster.expert_nodes, o->load.streams, "mode",
           "mean ms", "p95 ms", "first token ms", "tokens/s");
    for (uint32_t m = 0; m < NUM_MODES; m++) {
        const mode_times *t = &r->mode[m];
        printf("%-8s %10.2f %10.2f %16.1f %10.1f\n", modes[m].name, median(t->mean_ms, r->rounds),
               median(t->p95_ms, r->rounds), median(t->first_ms, r->rounds), median(t->rate, r->rounds));
    }
    printf("full against off: mean %+.0f %%, p95 %+.0f %% (medians of %u rounds)\n",
           100 * (gain(r, full->mean_ms, off->mean_ms) - 1), 100 * (gain(r, full->p95_ms, off->p95_ms) - 1),
           r->rounds);
}

static int run(const look_options *o)
{
    static look_results r;
    bool interrupted = false;
    fs_detail detail = {0};
    fs_status st = o->cluster.model ? size_memory(o, &r, &detail)
                                    : fs_fail(&detail, FS_INVALID, "--model is needed");
    if (st == FS_OK) st = record(o, &r, &interrupted, &detail);
    for (; st == FS_OK && r.rounds < o->rounds; r.rounds++)
        for (uint32_t m = 0; st == FS_OK && m < NUM_MODES; m++) st = measure(o, &r, m, &interrupted, &detail);
    if (st == FS_OK && o->json) print_json(o, &r);
    if (st == FS_OK && !o->json) print_text(o, &r);
    fs_visits_free(&r.visits);
    if (st == FS_OK) return FS_EXIT_OK;
    fs_cli_complain("bench lookahead", "%s", detail.text);
    return interrupted ? FS_EXIT_INTERRUPTED : st == FS_INVALID ? FS_EXIT_USAGE : FS_EXIT_FAILED;
}

int fs_cli_bench_lookahead(int argc, char **argv)
{
    look_options o = {0};
    fs_conf *conf = NULL;
    int code = fs_cli_parse(&spec, argc, argv, &o, NULL, &conf);
    if (code != FS_CLI_GO_ON) return code;
    code = run(&o);
    fs_conf_destroy(conf);
    return code;
}
