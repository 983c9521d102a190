/* tools/cli/eval.c: `foresight eval --model DIR --text FILE`: how well a model foretells a text. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/worker.h"
#include "cli/cli.h"
#include "compute/kernels.h"
#include "eval/eval.h"

typedef struct {
    const char *model, *text;
    uint64_t tokens;
    uint32_t window, threads;
    bool json;
} eval_options;
#define AT(field) offsetof(eval_options, field)

static const fs_conf_option table[] = {
    {.name = "model",
     .type = FS_CONF_STRING,
     .offset = AT(model),
     .required = true,
     .value_name = "DIR",
     .help = "The model directory, compressed or not."},
    {.name = "text",
     .type = FS_CONF_STRING,
     .offset = AT(text),
     .required = true,
     .value_name = "FILE",
     .help = "Text that the model has not seen."},
    {.name = "tokens",
     .type = FS_CONF_BYTES,
     .offset = AT(tokens),
     .default_text = "0",
     .value_name = "N",
     .help = "Only the text's first N tokens; 0: all of it."},
    {.name = "window",
     .type = FS_CONF_U32,
     .offset = AT(window),
     .default_text = "0",
     .max = 1 << 24,
     .help = "Tokens in a window, each begun cold; 0: 256, or the model's context if that is shorter."},
    {.name = "threads",
     .type = FS_CONF_U32,
     .offset = AT(threads),
     .default_text = "0",
     .max = 1024,
     .help = "Threads; 0: as many as there are CPUs. The result does not depend on it."},
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight eval",
    .summary = "Tells a model's perplexity on a text, computed by the code that serves.",
    .options = table};

typedef struct {
    bool terminal;
    int64_t begun_ns, drawn_ns;
} meter;

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    meter *m = arg;
    const int64_t now = fs_clock_now(fs_clock_system());
    if (!m->terminal || now - m->drawn_ns < 200 * FS_NS_PER_MS) return;
    m->drawn_ns = now;
    const double seconds = (double)(now - m->begun_ns) / 1e9, share = (double)done / (double)total;
    fprintf(stderr, "\r%u %%  %.0f s left\x1b[K", (unsigned)(100 * share), seconds / share - seconds);
    fflush(stderr);
}

/* 0 where the foretold tokens stand for no bytes. */
static double bits_per_byte(const fs_eval_result *r)
{
    return r->num_bytes ? r->nats * (double)r->num_predictions / log(2) / (double)r->num_bytes : 0;
}

static json_t *result_json(const eval_options *o, const fs_eval_result *r, double seconds)
{
    json_t *root = json_pack("{s:s, s:s, s:s, s:I, s:i, s:i}", "model", o->model, "text", o->text,
                             "expert_storage", r->config.expert_storage == FS_EXPERTS_SUB1 ? "sub1" : "dense",
                             "tokens", (json_int_t)r->num_tokens, "window", (int)r->window, "windows",
                             (int)r->num_windows);
    json_t *more = json_pack(
        "{s:I, s:I, s:f, s:f, s:f, s:I, s:I}", "predictions", (json_int_t)r->num_predictions, "bytes",
        (json_int_t)r->num_bytes, "nats_per_token", r->nats, "perplexity", exp(r->nats), "bits_per_byte",
        bits_per_byte(r), "experts_used", (json_int_t)r->experts_used, "experts", (json_int_t)r->num_experts);
    json_t *speed = json_pack("{s:f, s:f}", "seconds", seconds, "tokens_per_second",
                              seconds > 0 ? (double)r->num_windows * r->window / seconds : 0.0);
    json_object_update_new(root, more);
    json_object_update_new(root, speed);
    return root;
}

static void print_result(const eval_options *o, const fs_eval_result *r, double seconds)
{
    const double tokens = (double)r->num_windows * r->window;
    printf("perplexity     %.4f\n", exp(r->nats));
    printf("nats a token   %.5f\n", r->nats);
    if (r->num_bytes) printf("bits a byte    %.4f\n", bits_per_byte(r));
    printf("tokens         %.0f of the text's %" PRIu64 ", in %u windows of %u; %" PRIu64 " foretold\n",
           tokens, r->num_tokens, r->num_windows, r->window, r->num_predictions);
    printf("experts used   %" PRIu64 " of %" PRIu64 "\n", r->experts_used, r->num_experts);
    printf("speed          %.0f tokens/s, %.1f s\n", seconds > 0 ? tokens / seconds : 0.0, seconds);
}

static fs_status check_window(const eval_options *o, fs_eval_options *out, fs_detail *detail)
{
    fs_model_config config;
    fs_status st = fs_model_config_load(o->model, &config, detail);
    if (st != FS_OK) return st;
    if (o->window == 1) return fs_fail(detail, FS_INVALID, "--window: a window of 1 token foretells nothing");
    out->window = o->window ? o->window : config.max_positions < 256 ? config.max_positions : 256;
    return FS_OK;
}

static fs_status eval(const eval_options *o, fs_detail *detail)
{
    fs_eval_options options = {.dir = o->model, .text = o->text, .max_tokens = o->tokens};
    fs_pool *pool = NULL;
    static fs_eval_result result;
    const uint32_t threads = o->threads ? o->threads : fs_num_cpus();
    fs_status st = fs_isa_check(detail);
    if (st == FS_OK && o->tokens == 1)
        st = fs_fail(detail, FS_INVALID, "--tokens: 1 token foretells nothing");
    if (st == FS_OK) st = check_window(o, &options, detail);
    if (st != FS_OK) return st;
    st = fs_pool_create(threads, &pool);
    if (st != FS_OK) return fs_fail(detail, st, "--threads: %u threads cannot be started", threads);
    meter m = {.terminal = isatty(STDERR_FILENO) == 1, .begun_ns = fs_clock_now(fs_clock_system())};
    const fs_eval_hooks hooks = {.stopped = fs_cli_interrupted, .progress = show_progress, .arg = &m};
    st = fs_eval_run(&options, pool, &hooks, &result, detail);
    const double seconds = (double)(fs_clock_now(fs_clock_system()) - m.begun_ns) / 1e9;
    if (m.drawn_ns) fprintf(stderr, "\r\x1b[K");
    fs_pool_destroy(pool);
    if (st != FS_OK) return st;
    if (o->json)
        fs_cli_print_json(result_json(o, &result, seconds));
    else
        print_result(o, &result, seconds);
    return FS_OK;
}

int fs_cli_eval(int argc, char **argv)
{
    eval_options o = {0};
    fs_conf *conf = NULL;
    fs_detail detail = {0};
    int code = fs_cli_parse(&spec, argc, argv, &o, NULL, &conf);
    if (code != FS_CLI_GO_ON) return code;
    fs_cli_watch_interrupts();
    fs_status st = eval(&o, &detail);
    if (st != FS_OK) fs_cli_complain("eval", "%s: %s", fs_status_name(st), detail.text);
    fs_conf_destroy(conf);
    return st == FS_OK ? FS_EXIT_OK : st == FS_CANCELLED ? FS_EXIT_INTERRUPTED : FS_EXIT_FAILED;
}
