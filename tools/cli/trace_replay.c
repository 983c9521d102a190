/* tools/cli/trace_replay.c: `foresight trace replay`: what a trace says of schedulers, caches and predictions, without a cluster. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "sim/recall.h"
#include "sim/visits.h"

enum { MAX_TRACE_BYTES = 1 << 30 };

typedef struct {
    bool json;
} replay_options;
#define AT(field) offsetof(replay_options, field)

static const fs_conf_option table[] = {
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
    .summary = "Replays a router's trace: experts a step, and how well visits can be foretold.",
    .options = table};

static json_t *recall_json(const fs_recall *r)
{
    return json_pack("{s:i, s:f, s:f, s:f}", "distance", (int)r->distance, "recall_top_k",
                     fs_prediction_recall(&r->top_k), "recall_twice", fs_prediction_recall(&r->twice),
                     "precision_top_k", fs_prediction_precision(&r->top_k));
}

static void print_json(const char *file, const fs_visits *v, const fs_recall *recall, uint32_t num_recall)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < num_recall; i++) json_array_append_new(list, recall_json(&recall[i]));
    fs_cli_print_json(json_pack("{s:s, s:b, s:i, s:I, s:I, s:I, s:I, s:f, s:o}", "trace", file, "cut", v->cut,
                                "requests", (int)v->num_arrivals, "tokens", (json_int_t)v->num_tokens,
                                "steps", (json_int_t)v->num_steps, "visits", (json_int_t)v->num_visits,
                                "expert_visits", (json_int_t)v->num_keys, "seconds",
                                (double)v->duration_ns / FS_NS_PER_S, "predictor", list));
}

static void print_text(const char *file, const fs_visits *v, const fs_recall *recall, uint32_t num_recall)
{
    printf("%s: %u requests, %llu tokens in %zu steps, %.3f s%s\n", file, v->num_arrivals,
           (unsigned long long)v->num_tokens, v->num_steps, (double)v->duration_ns / FS_NS_PER_S,
           v->cut ? " (the file is cut off)" : "");
    if (v->num_visits)
        printf("%.1f rows a step, which visit %.1f of %u experts in each of %u layers\n",
               v->num_steps ? (double)v->num_tokens / (double)v->num_steps : 0,
               (double)v->num_keys / (double)v->num_visits, v->model.num_experts, v->model.num_moe_layers);
    if (num_recall)
        printf("\nvisits foretold by a table of transitions, were the routes not known:\n%8s %14s %14s\n",
               "layers", "in the top k", "in twice that");
    for (uint32_t i = 0; i < num_recall; i++)
        printf("%8u %12.1f %% %12.1f %%\n", recall[i].distance, 100 * fs_prediction_recall(&recall[i].top_k),
               100 * fs_prediction_recall(&recall[i].twice));
}

static fs_status replay(const char *file, const replay_options *o, fs_detail *detail)
{
    fs_buffer bytes = {0};
    fs_visits visits = {0};
    fs_recall recall[FS_RECALL_MAX_DISTANCE];
    uint32_t num_recall = 0;
    fs_status st = fs_file_read(file, MAX_TRACE_BYTES, &bytes, detail);
    if (st == FS_OK) st = fs_visits_read(bytes.data, bytes.size, file, &visits, detail);
    if (st == FS_OK) st = fs_recall_run(&visits, recall, &num_recall, detail);
    if (st == FS_OK && o->json) print_json(file, &visits, recall, num_recall);
    if (st == FS_OK && !o->json) print_text(file, &visits, recall, num_recall);
    fs_visits_free(&visits);
    fs_buffer_free(&bytes);
    return st;
}

int fs_cli_trace_replay(int argc, char **argv)
{
    replay_options o = {0};
    const char *file = NULL;
    fs_conf *conf = NULL;
    fs_detail detail = {0};
    int code = fs_cli_parse(&spec, argc, argv, &o, &file, &conf);
    if (code != FS_CLI_GO_ON) return code;
    fs_status st = replay(file, &o, &detail);
    if (st != FS_OK) fs_cli_complain("trace replay", "%s", detail.text);
    fs_conf_destroy(conf);
    return st == FS_OK ? FS_EXIT_OK : FS_EXIT_FAILED;
}
