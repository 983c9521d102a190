/* tools/cli/trace_replay.c: `foresight trace replay`: what a trace says of caches and predictions, without a cluster. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cache_rows.h"
#include "cli/cli.h"
#include "sim/recall.h"
#include "sim/visits.h"

typedef struct {
    const char *memory;
    bool json;
} replay_options;
#define AT(field) offsetof(replay_options, field)

static const fs_conf_option table[] = {
    {.name = "memory",
     .type = FS_CONF_STRING,
     .offset = AT(memory),
     .default_text = "10,25,50,75",
     .value_name = "N[,N]",
     .help = "Shares of the experts that memory holds, in percent; a row of cache hits for each."},
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight trace replay",
    .positional = "FILE",
    .summary = "Replays a router's trace: cache hits of every policy, and how well visits can be foretold.",
    .options = table};

typedef struct {
    const char *file;
    fs_visits visits;
    fs_recall recall[FS_RECALL_MAX_DISTANCE];
    uint32_t num_recall, num_rows;
    fs_cache_row rows[FS_CACHE_ROWS];
} results;

static json_t *recall_json(const fs_recall *r)
{
    return json_pack("{s:i, s:f, s:f, s:f}", "distance", (int)r->distance, "recall_top_k",
                     fs_prediction_recall(&r->top_k), "recall_twice", fs_prediction_recall(&r->twice),
                     "precision_top_k", fs_prediction_precision(&r->top_k));
}

static void print_json(const results *r)
{
    const fs_visits *v = &r->visits;
    json_t *recall = json_array(), *cache = json_array();
    for (uint32_t i = 0; i < r->num_recall; i++) json_array_append_new(recall, recall_json(&r->recall[i]));
    for (uint32_t i = 0; i < r->num_rows; i++)
        json_array_append_new(cache, fs_cache_row_json(v, &r->rows[i]));
    fs_cli_print_json(json_pack("{s:s, s:b, s:i, s:I, s:I, s:I, s:I, s:f, s:o, s:o}", "trace", r->file, "cut",
                                v->cut, "requests", (int)v->num_arrivals, "tokens", (json_int_t)v->num_tokens,
                                "steps", (json_int_t)v->num_steps, "visits", (json_int_t)v->num_visits,
                                "expert_visits", (json_int_t)v->num_keys, "seconds",
                                (double)v->duration_ns / FS_NS_PER_S, "predictor", recall, "cache", cache));
}

static void print_recall(const fs_recall *recall, uint32_t num)
{
    printf("\nvisits foretold by a table of transitions, were the routes not known:\n%8s %14s %14s\n",
           "layers", "in the top k", "in twice that");
    for (uint32_t i = 0; i < num; i++)
        printf("%8u %12.1f %% %12.1f %%\n", recall[i].distance, 100 * fs_prediction_recall(&recall[i].top_k),
               100 * fs_prediction_recall(&recall[i].twice));
}

static void print_text(const results *r)
{
    const fs_visits *v = &r->visits;
    printf("%s: %u requests, %llu tokens in %zu steps, %.3f s%s\n", r->file, v->num_arrivals,
           (unsigned long long)v->num_tokens, v->num_steps, (double)v->duration_ns / FS_NS_PER_S,
           v->cut ? " (the file is cut off)" : "");
    if (v->num_visits == 0) return;
    printf("%.1f rows a step, which visit %.1f of %u experts in each of %u layers\n",
           v->num_steps ? (double)v->num_tokens / (double)v->num_steps : 0,
           (double)v->num_keys / (double)v->num_visits, v->model.num_experts, v->model.num_moe_layers);
    fs_cache_rows_print(v, r->rows, r->num_rows);
    if (r->num_recall) print_recall(r->recall, r->num_recall);
}

/* ---- frame ---- */

static fs_status replay(results *r, fs_detail *detail)
{
    fs_status st = fs_visits_load(r->file, &r->visits, detail);
    if (st == FS_OK) st = fs_recall_run(&r->visits, r->recall, &r->num_recall, detail);
    for (uint32_t i = 0; st == FS_OK && i < r->num_rows; i++)
        st = fs_cache_row_run(&r->visits, &r->rows[i], detail);
    return st;
}

static int run(const replay_options *o, results *r)
{
    uint32_t percent[FS_CACHE_ROWS];
    fs_detail detail = {0};
    fs_status st = fs_cli_parse_list("memory", o->memory, 1, 100, percent, FS_CACHE_ROWS, &r->num_rows,
                                     &detail);
    if (st != FS_OK) {
        fs_cli_complain("trace replay", "%s", detail.text);
        return FS_EXIT_USAGE;
    }
    for (uint32_t i = 0; i < r->num_rows; i++) r->rows[i].percent = percent[i];
    st = replay(r, &detail);
    if (st != FS_OK)
        fs_cli_complain("trace replay", "%s", detail.text);
    else if (o->json)
        print_json(r);
    else
        print_text(r);
    fs_visits_free(&r->visits);
    return st == FS_OK ? FS_EXIT_OK : FS_EXIT_FAILED;
}

int fs_cli_trace_replay(int argc, char **argv)
{
    static results r;
    replay_options o = {0};
    fs_conf *conf = NULL;
    int code = fs_cli_parse(&spec, argc, argv, &o, &r.file, &conf);
    if (code != FS_CLI_GO_ON) return code;
    code = run(&o, &r);
    fs_conf_destroy(conf);
    return code;
}
