/* tools/cli/demo.c: `foresight demo`: what `make demo` shows: a real cluster, a story from it, and the figures. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

typedef struct {
    fs_cluster_options cluster;
    const char *prompt;
    uint32_t max_tokens, seed;
    double temperature;
} demo_options;
#define AT(field) offsetof(demo_options, field)

static const fs_conf_option table[] = {
    FS_CLI_CLUSTER_OPTIONS(demo_options, cluster, "error"),
    {.name = "prompt",
     .type = FS_CONF_STRING,
     .offset = AT(prompt),
     .value_name = "TEXT",
     .default_text = "Once upon a time there was a little girl who",
     .help = "How the story begins."},
    {.name = "max-tokens",
     .type = FS_CONF_U32,
     .offset = AT(max_tokens),
     .default_text = "160",
     .min = 1,
     .max = 1u << 20,
     .help = "Its length."},
    {.name = "temperature",
     .type = FS_CONF_FLOAT,
     .offset = AT(temperature),
     .default_text = "0.7",
     .fmin = 0,
     .fmax = 100,
     .help = "0 is greedy."},
    {.name = "seed",
     .type = FS_CONF_U32,
     .offset = AT(seed),
     .default_text = "1",
     .help = "The same seed, the same story."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight demo",
    .summary = "Starts a cluster on this machine, lets it tell a story, and shows the figures.",
    .options = table};

static void introduce(const demo_options *o, const fs_summary *s)
{
    const char *storage = s->config.expert_storage == FS_EXPERTS_SUB1 ? "less than one bit a weight"
                                                                      : "their own precision";
    printf("foresight serves mixture-of-experts language models whose experts are spread over machines. This "
           "is a real\n"
           "cluster: a coordinator, %u expert node%s and %u router%s, each a process of its own, talking "
           "gRPC and UCX.\n"
           "The model in %s has %u experts in each of %u layers, stored in %s.\n"
           "A token visits %u of them a layer; a pre-gating network names them all before the first layer "
           "runs.\n\n",
           o->cluster.expert_nodes, o->cluster.expert_nodes == 1 ? "" : "s", o->cluster.routers,
           o->cluster.routers == 1 ? "" : "s", o->cluster.model, s->config.num_experts,
           s->config.num_moe_layers, storage, s->config.top_k);
    fflush(stdout);
}

static const Foresight__V1__ClusterStatus__Member *find_member(const Foresight__V1__ClusterStatus *status,
                                                               const char *name)
{
    for (size_t i = 0; status && i < status->n_members; i++)
        if (strcmp(status->members[i]->name, name) == 0) return status->members[i];
    return NULL;
}

static void print_processes(const fs_cli *cli, const Foresight__V1__ClusterStatus *status)
{
    printf("  %-12s %8s  %-22s %s\n", "PROCESS", "PID", "ADDRESS", "HOLDS");
    for (uint32_t i = 0; i < fs_cluster_size(cli->cluster); i++) {
        const fs_child *child = fs_cluster_child(cli->cluster, i);
        const Foresight__V1__ClusterStatus__Member *m = find_member(status, child->name);
        printf("  %-12s %8d  %-22s ", child->name, child->pid, child->address);
        if (child->kind == FS_CHILD_EXPERT && m)
            printf("%u experts, %.2f MB\n", m->experts_loaded, (double)m->bytes_loaded / 1e6);
        else
            printf("%s\n",
                   child->kind == FS_CHILD_ROUTER ? "the backbone and the requests" : "the placement");
    }
    printf("\n");
}

static fs_status show_processes(fs_cli *cli, fs_detail *detail)
{
    Foresight__V1__StatusRequest request = FORESIGHT__V1__STATUS_REQUEST__INIT;
    ProtobufCMessage *response = NULL;
    fs_status st = fs_cli_call_address(cli, cli->coordinator, "/foresight.v1.Control/Status", &request.base,
                                       &foresight__v1__cluster_status__descriptor, &response, detail);
    if (st == FS_OK) print_processes(cli, (const Foresight__V1__ClusterStatus *)response);
    fs_message_free(response);
    return st;
}

static void print_piece(fs_generation *g, const char *text, size_t size)
{
    if (fwrite(text, 1, size, stdout) != size || fflush(stdout) != 0) fs_generation_cancel(g);
}

static void print_figures(const fs_generation *g, const fs_summary *s)
{
    const fs_summary_part *experts = &s->part[0];
    fs_summary_part all = {.weights = s->weights, .bytes = s->bytes};
    double seconds = (g->total_ms - g->first_token_ms) / 1e3;
    printf("\n\n  %u tokens after a prompt of %u: first after %.1f ms, then %.0f tokens/s\n",
           g->completion_tokens, g->prompt_tokens, g->first_token_ms,
           seconds > 0 ? (g->completion_tokens - 1) / seconds : 0);
    printf("  experts: %.3f bits a weight; %" PRIu64
           " weights in %.2f MB, %.2f MB as bf16: %.1f times smaller\n",
           fs_bits_per_weight(experts), experts->weights, (double)experts->bytes / 1e6,
           2 * (double)experts->weights / 1e6,
           experts->bytes ? 2 * (double)experts->weights / (double)experts->bytes : 0);
    printf("  the whole model: %.2f bits a weight, %.2f MB\n", fs_bits_per_weight(&all),
           (double)s->bytes / 1e6);
}

static fs_status tell(fs_cli *cli, const demo_options *o, const fs_summary *s, fs_detail *detail)
{
    fs_generation g = {.on_text = print_piece};
    const fs_generation_request request = {.prompt = o->prompt,
                                           .has_max_tokens = true,
                                           .max_tokens = o->max_tokens,
                                           .has_temperature = true,
                                           .temperature = (float)o->temperature,
                                           .has_seed = true,
                                           .seed = o->seed,
                                           .timeout_ns = 120 * FS_NS_PER_S};
    printf("%s", o->prompt);
    fflush(stdout);
    fs_status st = fs_generation_start(&g, cli->channel[0], &request, detail);
    if (st != FS_OK) return st;
    fs_generation_wait(cli, &g);
    if (g.finished)
        print_figures(&g, s);
    else
        st = fs_fail(detail, FS_UNAVAILABLE, "%s: %s", fs_rpc_code_name(g.code), g.message);
    fs_generation_free(&g);
    return st;
}

static int run(fs_cli *cli, const demo_options *o)
{
    static fs_summary summary;
    fs_detail detail = {0};
    fs_status st = o->cluster.model ? fs_summary_load(o->cluster.model, false, &summary, &detail)
                                    : fs_fail(&detail, FS_INVALID, "--model: no model directory given");
    if (st == FS_OK) {
        introduce(o, &summary);
        st = fs_cli_start_cluster(cli, &o->cluster, &detail);
    }
    if (st == FS_OK) st = show_processes(cli, &detail);
    if (st == FS_OK) st = tell(cli, o, &summary, &detail);
    if (st == FS_OK) return FS_EXIT_OK;
    printf("\n");
    fflush(stdout);
    fs_cli_complain("demo", "%s", detail.text);
    return cli->signals ? FS_EXIT_INTERRUPTED : st == FS_INVALID ? FS_EXIT_USAGE : FS_EXIT_FAILED;
}

int fs_cli_demo(int argc, char **argv)
{
    demo_options o = {0};
    fs_conf *conf = NULL;
    fs_cli cli;
    int code = fs_cli_parse(&spec, argc, argv, &o, NULL, &conf);
    if (code != FS_CLI_GO_ON) return code;
    fs_cli_open(&cli);
    code = run(&cli, &o);
    fs_cli_close(&cli);
    if (code == FS_EXIT_OK) printf("  (the cluster has been stopped)\n");
    fs_conf_destroy(conf);
    return code;
}
