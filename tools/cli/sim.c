/* tools/cli/sim.c: `foresight sim`: a trace's steps on simulated nodes, with times that were measured elsewhere. */
#include <stdio.h>

#include "cli/cli.h"
#include "sim/node_sim.h"

typedef struct {
    fs_node_sim_options node; /* policy, hints, prefetch and room are set by the modes */
    uint32_t memory, jitter, seed;
    bool json;
} sim_options;
#define AT(field) offsetof(sim_options, field)
#define TIME(option_name, member, text, what)                                                                \
    {                                                                                                        \
        .name = option_name, .type = FS_CONF_DURATION, .offset = AT(node.member), .default_text = text,      \
        .max = 3600 * (uint64_t)FS_NS_PER_S, .help = what                                                    \
    }

static const fs_conf_option table[] = {
    {.name = "memory",
     .type = FS_CONF_U32,
     .offset = AT(memory),
     .default_text = "33",
     .min = 1,
     .max = 100,
     .help = "Share of the experts that memory holds, in percent."},
    TIME("layer-time", layer_ns, "50us",
         "Of the router between two visits of a step: attention, and the way to the node and back."),
    TIME("row-time", row_ns, "5us", "The same, for each row more."),
    TIME("expert-time", expert_ns, "5us",
         "Of the node, for each expert that a visit uses (`foresight bench sub1`)."),
    TIME("load-time", load_ns, "100us", "Of an expert's way from disk to memory."),
    {.name = "loads",
     .type = FS_CONF_U32,
     .offset = AT(node.max_loads),
     .default_text = "4",
     .min = 1,
     .max = FS_NODE_SIM_MAX_LOADS,
     .help = "Loads that go on at once without slowing each other."},
    {.name = "jitter",
     .type = FS_CONF_U32,
     .offset = AT(jitter),
     .default_text = "20",
     .max = 100,
     .help = "A load's time varies by so many percent, up and down."},
    {.name = "seed",
     .type = FS_CONF_U32,
     .offset = AT(seed),
     .default_text = "1",
     .help = "Of what varies; the same seed gives the same result."},
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight sim",
    .positional = "TRACE",
    .summary = "Runs a trace on a simulated node with each cache, on disks and models that are not at hand.",
    .options = table};

static const struct {
    const char *name;
    fs_cache_policy policy;
    bool hints;
} modes[] = {
    {"lru", FS_CACHE_LRU, false},
    {"lfu", FS_CACHE_LFU, false},
    {"lfru", FS_CACHE_LFRU, false},
    {"no hints", FS_CACHE_LOOKAHEAD, false},
    {"lookahead", FS_CACHE_LOOKAHEAD, true},
};
enum { NUM_MODES = sizeof(modes) / sizeof(*modes) };

static json_t *mode_json(const char *name, const fs_node_sim_result *r)
{
    return json_pack("{s:s, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I}", "mode", name, "step_us_mean",
                     r->step_mean_ns / 1e3, "step_us_p95", r->step_p95_ns / 1e3, "seconds",
                     (double)r->total_ns / FS_NS_PER_S, "waited_seconds", (double)r->waited_ns / FS_NS_PER_S,
                     "hits", (json_int_t)r->cache.hits, "loads", (json_int_t)r->cache.loads, "prefetched",
                     (json_int_t)r->cache.prefetched_bytes, "wasted", (json_int_t)r->cache.wasted_bytes);
}

static void print_text(const fs_visits *v, const fs_node_sim_result *results)
{
    printf("%-10s %12s %12s %10s %8s %10s %8s\n", "cache", "step mean us", "step p95 us", "waiting", "hits",
           "loads", "wasted");
    for (int i = 0; i < NUM_MODES; i++) {
        const fs_node_sim_result *r = &results[i];
        printf("%-10s %12.1f %12.1f %8.1f %% %6.1f %% %10llu %6.2f %%\n", modes[i].name,
               r->step_mean_ns / 1e3, r->step_p95_ns / 1e3,
               r->total_ns ? 100.0 * (double)r->waited_ns / (double)r->total_ns : 0,
               v->num_keys ? 100.0 * (double)r->cache.hits / (double)v->num_keys : 0,
               (unsigned long long)r->cache.loads,
               r->cache.prefetched_bytes
                   ? 100.0 * (double)r->cache.wasted_bytes / (double)r->cache.prefetched_bytes
                   : 0);
    }
}

static fs_status simulate(const sim_options *o, const char *file, fs_detail *detail)
{
    fs_visits v = {0};
    fs_node_sim_result results[NUM_MODES];
    fs_node_sim_options node = o->node;
    fs_status st = fs_visits_load(file, &v, detail);
    node.room = fs_visits_room(&v, o->memory);
    node.jitter = o->jitter / 100.0;
    node.seed = o->seed;
    for (int i = 0; st == FS_OK && i < NUM_MODES; i++) {
        node.policy = modes[i].policy;
        node.hints = node.prefetch = modes[i].hints;
        st = fs_node_sim_run(&v, &node, &results[i], detail);
    }
    if (st == FS_OK && o->json) {
        json_t *list = json_array();
        for (int i = 0; i < NUM_MODES; i++)
            json_array_append_new(list, mode_json(modes[i].name, &results[i]));
        fs_cli_print_json(json_pack("{s:s, s:i, s:i, s:I, s:o}", "trace", file, "memory_percent",
                                    (int)o->memory, "experts", (int)node.room, "steps",
                                    (json_int_t)v.num_steps, "modes", list));
    } else if (st == FS_OK) {
        print_text(&v, results);
    }
    fs_visits_free(&v);
    return st;
}

int fs_cli_sim(int argc, char **argv)
{
    sim_options o = {0};
    const char *file = NULL;
    fs_conf *conf = NULL;
    fs_detail detail = {0};
    int code = fs_cli_parse(&spec, argc, argv, &o, &file, &conf);
    if (code != FS_CLI_GO_ON) return code;
    fs_status st = simulate(&o, file, &detail);
    if (st != FS_OK) fs_cli_complain("sim", "%s", detail.text);
    fs_conf_destroy(conf);
    return st == FS_OK ? FS_EXIT_OK : FS_EXIT_FAILED;
}
