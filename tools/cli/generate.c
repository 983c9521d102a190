/* tools/cli/generate.c: `foresight generate`: text after a prompt, from a cluster that runs or one for this command alone. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

enum { MAX_STOP = 16, MAX_PROMPT_IDS = 65536 };

typedef struct {
    fs_cluster_options cluster;
    const char *connect, *prompt, *prompt_ids, *max_tokens, *temperature, *top_k, *top_p, *min_p, *seed,
        *stop;
    int64_t timeout_ns;
    bool json, ignore_eos;
} generate_options;
#define AT(field) offsetof(generate_options, field)
/* Left out means the model's own default, which a number could not say. */
#define LEFT_OUT(opt, field, value, text)                                                                    \
    {                                                                                                        \
        .name = (opt), .type = FS_CONF_STRING, .offset = AT(field), .value_name = (value), .help = (text)    \
    }

static const fs_conf_option table[] = {
    {.name = "connect",
     .type = FS_CONF_STRING,
     .offset = AT(connect),
     .value_name = "ADDR",
     .help = "The gRPC address of a router that runs."},
    FS_CLI_CLUSTER_OPTIONS(generate_options, cluster, "error"),
    LEFT_OUT("prompt", prompt, "TEXT", "What the text follows."),
    LEFT_OUT("prompt-ids", prompt_ids, "IDS", "Token ids instead of --prompt: 0,17,4; taken as they are."),
    LEFT_OUT("max-tokens", max_tokens, "N", "At most so many tokens."),
    LEFT_OUT("temperature", temperature, "T", "0 is greedy."),
    LEFT_OUT("top-k", top_k, "K", "Sample among the K most probable; 0: all."),
    LEFT_OUT("top-p", top_p, "P", "Sample among the most probable that sum to P."),
    LEFT_OUT("min-p", min_p, "P", "Sample among those with P times the probability of the best."),
    LEFT_OUT("seed", seed, "S", "The same seed gives the same text."),
    LEFT_OUT("stop", stop, "TEXT", "The text ends before TEXT; may be given up to 16 times."),
    {.name = "ignore-eos",
     .type = FS_CONF_BOOL,
     .offset = AT(ignore_eos),
     .default_text = "false",
     .help = "Go on after an end-of-text token."},
    {.name = "timeout",
     .type = FS_CONF_DURATION,
     .offset = AT(timeout_ns),
     .default_text = "2m",
     .min = 1,
     .max = 24 * 3600 * (uint64_t)FS_NS_PER_S,
     .help = "The request's deadline."},
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object at the end instead of the text as it comes."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight generate",
    .summary = "Generates text after a prompt and streams it to standard output.",
    .options = table};

static fs_status read_prompt(const generate_options *o, fs_generation_request *r, uint32_t *ids,
                             fs_detail *detail)
{
    if ((o->prompt != NULL) == (o->prompt_ids != NULL))
        return fs_fail(detail, FS_INVALID, "give --prompt TEXT or --prompt-ids IDS, one of them");
    r->prompt = o->prompt;
    r->prompt_ids = ids;
    if (!o->prompt_ids) return FS_OK;
    return fs_cli_parse_list("prompt-ids", o->prompt_ids, 0, INT32_MAX, ids, MAX_PROMPT_IDS,
                             &r->num_prompt_ids, detail);
}

static fs_status read_request(const generate_options *o, fs_generation_request *r, uint32_t *ids,
                              const char **stop, fs_detail *detail)
{
    uint64_t max_tokens = 0, top_k = 0;
    if (o->stop && r->num_stop == 0) stop[r->num_stop++] = o->stop; /* from the file or the environment */
    r->timeout_ns = o->timeout_ns;
    r->ignore_eos = o->ignore_eos;
    fs_status st = read_prompt(o, r, ids, detail);
    if (st == FS_OK)
        st = fs_cli_optional_u64("max-tokens", o->max_tokens, UINT32_MAX, &max_tokens, &r->has_max_tokens,
                                 detail);
    if (st == FS_OK) st = fs_cli_optional_u64("top-k", o->top_k, UINT32_MAX, &top_k, &r->has_top_k, detail);
    if (st == FS_OK) st = fs_cli_optional_u64("seed", o->seed, UINT64_MAX, &r->seed, &r->has_seed, detail);
    if (st == FS_OK)
        st = fs_cli_optional_float("temperature", o->temperature, &r->temperature, &r->has_temperature,
                                   detail);
    if (st == FS_OK) st = fs_cli_optional_float("top-p", o->top_p, &r->top_p, &r->has_top_p, detail);
    if (st == FS_OK) st = fs_cli_optional_float("min-p", o->min_p, &r->min_p, &r->has_min_p, detail);
    r->max_tokens = (uint32_t)max_tokens;
    r->top_k = (uint32_t)top_k;
    return st;
}

/* arg: errno of the first write that failed: nobody reads any more, so the rest need not be made. */
static void print_piece(fs_generation *g, const char *text, size_t size)
{
    int *write_error = g->arg;
    if (*write_error || (fwrite(text, 1, size, stdout) == size && fflush(stdout) == 0)) return;
    *write_error = errno;
    fs_generation_cancel(g);
}

/* Why it did not finish, for a person. */
static void complain_of(const fs_cli *cli, const fs_generation *g, int write_error)
{
    if (write_error)
        fs_cli_complain("generate", "standard output: %s", strerror(write_error));
    else if (cli->signals && g->code == FS_RPC_CANCELLED)
        fs_cli_complain("generate", "interrupted");
    else
        fs_cli_complain("generate", "%s: %s", fs_rpc_code_name(g->code), g->message);
}

static void print_error(bool json, fs_rpc_code code, const char *message)
{
    fs_cli_complain("generate", "%s: %s", fs_rpc_code_name(code), message);
    if (json)
        fs_cli_print_json(json_pack("{s:{s:s, s:s}, s:s, s:[]}", "error", "code", fs_rpc_code_name(code),
                                    "message", message, "text", "", "token_ids"));
}

static int run(fs_cli *cli, const generate_options *o, const fs_generation_request *request)
{
    fs_detail detail = {0};
    int write_error = 0;
    fs_generation g = {.on_text = o->json ? NULL : print_piece, .arg = &write_error};
    fs_status st = fs_cli_reach(cli, o->connect, &o->cluster, &detail);
    if (st == FS_OK) st = fs_generation_start(&g, cli->channel[0], request, &detail);
    if (st != FS_OK) {
        print_error(o->json, fs_rpc_code_of(st), detail.text);
        if (cli->signals) return FS_EXIT_INTERRUPTED;
        return st == FS_INVALID ? FS_EXIT_USAGE : FS_EXIT_FAILED;
    }
    fs_generation_wait(cli, &g);
    if (o->json)
        fs_cli_print_json(fs_generation_json(&g));
    else if (g.text.size > 0)
        putchar('\n');
    fflush(stdout);
    if (!g.finished || write_error) complain_of(cli, &g, write_error);
    int code = g.finished && !write_error ? FS_EXIT_OK : cli->signals ? FS_EXIT_INTERRUPTED : FS_EXIT_FAILED;
    fs_generation_free(&g);
    return code;
}

int fs_cli_generate(int argc, char **argv)
{
    static uint32_t ids[MAX_PROMPT_IDS];
    const char *stop[MAX_STOP];
    generate_options o = {0};
    fs_generation_request request = {.stop = stop};
    fs_conf *conf = NULL;
    fs_detail detail = {0};
    fs_cli cli;
    fs_status st = fs_cli_take_repeated("stop", &argc, argv, stop, MAX_STOP, &request.num_stop, &detail);
    int code = st == FS_OK ? fs_cli_parse(&spec, argc, argv, &o, NULL, &conf) : FS_EXIT_USAGE;
    if (code == FS_CLI_GO_ON) st = read_request(&o, &request, ids, stop, &detail);
    if (st != FS_OK) {
        fs_cli_complain("generate", "%s", detail.text);
        code = FS_EXIT_USAGE;
    }
    if (code == FS_CLI_GO_ON) {
        fs_cli_open(&cli);
        code = run(&cli, &o, &request);
        fs_cli_close(&cli);
    }
    fs_conf_destroy(conf);
    return code;
}
