/* tools/cli/synth.c: `foresight synth --shape NAME OUT`: a model directory of random weights, of any real shape. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "base/worker.h"
#include "cli/cli.h"
#include "synth/synth.h"

typedef struct {
    const char *shape;
    uint32_t format, layers, threads;
    uint64_t seed;
    double skew;
    bool dry_run, json;
} synth_options;
#define AT(field) offsetof(synth_options, field)

static const fs_conf_option table[] = {
    {.name = "shape",
     .type = FS_CONF_STRING,
     .offset = AT(shape),
     .required = true,
     .value_name = "NAME|FILE",
     .help = "mixtral-8x7b, mixtral-8x22b, qwen3-30b-a3b, olmoe-1b-7b, deepseek-v3, gpt-oss-120b or "
             "switch-c2048; or a "
             "config.json (or the directory of one). Whatever the shape is of, the model is written as "
             "readme_moe: each "
             "layer attention and routed experts, and a pre-gating network; --dry-run tells what differs."},
    {.name = "format",
     .type = FS_CONF_ENUM,
     .offset = AT(format),
     .default_text = "blocked:2:16",
     .words = FS_SYNTH_FORMATS,
     .help = "How experts are stored; bf16: a plain checkpoint, as foresight-compress takes it."},
    {.name = "layers",
     .type = FS_CONF_U32,
     .offset = AT(layers),
     .default_text = "0",
     .help = "Only the first N layers; 0: all."},
    {.name = "seed",
     .type = FS_CONF_BYTES,
     .offset = AT(seed),
     .default_text = "0",
     .value_name = "N",
     .help = "The same bytes for the same seed."},
    {.name = "skew",
     .type = FS_CONF_FLOAT,
     .offset = AT(skew),
     .default_text = "0",
     .fmin = 0,
     .fmax = 4,
     .value_name = "Z",
     .help = "How unevenly experts are used: the i-th most popular one of a layer about as often as i^-Z; 0: "
             "evenly."},
    {.name = "threads",
     .type = FS_CONF_U32,
     .offset = AT(threads),
     .default_text = "0",
     .max = 1024,
     .help = "Threads; 0: as many as there are CPUs. The output does not depend on it."},
    {.name = "dry-run",
     .type = FS_CONF_BOOL,
     .offset = AT(dry_run),
     .default_text = "false",
     .help = "Tell shape and sizes, and write nothing."},
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object."},
    {0},
};
static const fs_conf_spec spec = {.program = "foresight synth",
                                  .summary = "Writes the model directory OUT, which must not exist, with "
                                             "random weights of a real model's shape: for load tests "
                                             "and planning.",
                                  .positional = "OUT",
                                  .options = table};

static double gb(uint64_t bytes)
{
    return (double)bytes / 1e9;
}

static double bits(uint64_t bytes, uint64_t weights)
{
    return weights ? 8.0 * (double)bytes / (double)weights : 0;
}

static const char *format_name(uint32_t format)
{
    static const char *const names[] = {"blocked:1:16", "blocked:2:16", "blocked:3:16", "free", "bf16"};
    return names[format];
}

/* ---- what is told ---- */

typedef struct {
    const fs_synth_plan *plan;
    bool terminal;
    int64_t begun_ns, drawn_ns;
} meter;

static double seconds_since(int64_t begun_ns)
{
    return (double)(fs_clock_now(fs_clock_system()) - begun_ns) / 1e9;
}

static void show_progress(void *arg, uint64_t written, uint64_t total)
{
    meter *m = arg;
    const int64_t now = fs_clock_now(fs_clock_system());
    if (!m->terminal || now - m->drawn_ns < 200 * FS_NS_PER_MS) return;
    m->drawn_ns = now;
    const double seconds = seconds_since(m->begun_ns), rate = seconds > 0 ? gb(written) / seconds : 0;
    fprintf(stderr, "\r%.1f of %.1f GB  %u %%  %.2f GB/s  %.0f s left\x1b[K", gb(written), gb(total),
            (unsigned)(total ? 100.0 * (double)written / (double)total : 100), rate,
            rate > 0 ? gb(total - written) / rate : 0.0);
    fflush(stderr);
}

static void end_progress(const meter *m)
{
    if (m->drawn_ns) fprintf(stderr, "\r\x1b[K");
}

static void print_plan(const fs_synth_plan *p)
{
    const fs_synth_shape *s = &p->shape;
    printf("%s%s%s\n", s->name, s->source ? ", " : "", s->source ? s->source : "");
    printf("  layers %u, hidden %u, heads %u (%u key/value) of %u, vocabulary %u, context %u\n",
           s->num_layers, s->hidden_size, s->num_heads, s->num_kv_heads, s->head_dim, s->vocab_size,
           s->max_positions);
    printf("  experts %u a layer, %u a token, %u -> %u -> %u, as %s, %.0f bytes each\n", s->num_experts,
           s->top_k, s->hidden_size, s->moe_intermediate_size, s->hidden_size, format_name(p->options.format),
           (double)p->expert_bytes / ((double)s->num_layers * s->num_experts));
    printf("  pre-gate: %u layer%s, hidden %u\n", s->pregate_num_layers,
           s->pregate_num_layers == 1 ? "" : "s", s->pregate_hidden_size);
    if (s->differs) printf("  the model of that name has: %s\n", s->differs);
    printf("  experts  %10.3f GB  %14" PRIu64 " weights  %7.3f bits each\n", gb(p->expert_bytes),
           p->expert_weights, bits(p->expert_bytes, p->expert_weights));
    printf("  backbone %10.3f GB  %14" PRIu64 " weights  %7.3f bits each\n", gb(p->backbone_bytes),
           p->backbone_weights, bits(p->backbone_bytes, p->backbone_weights));
    printf("  in all   %10.3f GB  %u files\n", gb(p->expert_bytes + p->backbone_bytes), p->num_files);
}

static json_t *plan_json(const fs_synth_plan *p)
{
    const fs_synth_shape *s = &p->shape;
    json_t *root = json_pack("{s:s, s:s, s:s?, s:i, s:I, s:f}", "shape", s->name, "format",
                             format_name(p->options.format), "source", s->source, "num_layers",
                             (int)s->num_layers, "seed", (json_int_t)p->options.seed, "skew",
                             p->options.skew);
    json_t *sizes = json_pack("{s:I, s:I, s:I, s:I, s:f, s:i}", "expert_bytes", (json_int_t)p->expert_bytes,
                              "expert_weights", (json_int_t)p->expert_weights, "backbone_bytes",
                              (json_int_t)p->backbone_bytes, "backbone_weights",
                              (json_int_t)p->backbone_weights, "expert_bits_per_weight",
                              bits(p->expert_bytes, p->expert_weights), "files", (int)p->num_files);
    json_object_update_new(root, sizes);
    return root;
}

static void print_written(const fs_synth_plan *p, const char *out, double seconds, bool json)
{
    const uint64_t bytes = p->expert_bytes + p->backbone_bytes;
    const double rate = seconds > 0 ? gb(bytes) / seconds : 0;
    if (json) {
        json_t *root = plan_json(p);
        json_object_set_new(root, "out", json_string(out));
        json_object_set_new(root, "seconds", json_real(seconds));
        fs_cli_print_json(root);
        return;
    }
    printf("%s: %s, %u layers, %.3f GB of tensors in %u files, %.1f s, %.2f GB/s\n", out, p->shape.name,
           p->shape.num_layers, gb(bytes), p->num_files, seconds, rate);
}

/* ---- the command ---- */

static fs_status write_model(const fs_synth_plan *plan, const synth_options *o, const char *out,
                             fs_detail *detail)
{
    fs_pool *pool = NULL;
    const uint32_t threads = o->threads ? o->threads : fs_num_cpus();
    fs_status st = fs_pool_create(threads, &pool);
    if (st != FS_OK) return fs_fail(detail, st, "--threads: %u threads cannot be started", threads);
    meter m = {
        .plan = plan, .terminal = isatty(STDERR_FILENO) == 1, .begun_ns = fs_clock_now(fs_clock_system())};
    const fs_synth_hooks hooks = {.stopped = fs_cli_interrupted, .progress = show_progress, .arg = &m};
    fs_cli_watch_interrupts();
    st = fs_synth_write(plan, out, pool, &hooks, detail);
    end_progress(&m);
    if (st == FS_OK) print_written(plan, out, seconds_since(m.begun_ns), o->json);
    fs_pool_destroy(pool);
    return st;
}

static fs_status synth(const synth_options *o, const char *out, fs_detail *detail)
{
    fs_synth_shape shape;
    fs_synth_plan plan = {0};
    const fs_synth_options options = {
        .format = (fs_synth_format)o->format, .num_layers = o->layers, .seed = o->seed, .skew = o->skew};
    fs_status st = fs_synth_shape_find(o->shape, &shape, detail);
    if (st != FS_OK) return st;
    st = fs_synth_plan_make(&shape, &options, &plan, detail);
    if (st == FS_OK && !o->dry_run) st = write_model(&plan, o, out, detail);
    if (st == FS_OK && o->dry_run) {
        if (o->json)
            fs_cli_print_json(plan_json(&plan));
        else
            print_plan(&plan);
    }
    fs_synth_plan_fini(&plan);
    return st;
}

int fs_cli_synth(int argc, char **argv)
{
    synth_options o = {0};
    const char *out = NULL;
    fs_conf *conf = NULL;
    fs_detail detail = {0};
    int code = fs_cli_parse(&spec, argc, argv, &o, &out, &conf);
    if (code != FS_CLI_GO_ON) return code;
    fs_status st = synth(&o, out, &detail);
    if (st != FS_OK) fs_cli_complain("synth", "%s: %s", fs_status_name(st), detail.text);
    fs_conf_destroy(conf);
    return st == FS_OK ? FS_EXIT_OK : st == FS_CANCELLED ? FS_EXIT_INTERRUPTED : FS_EXIT_FAILED;
}
