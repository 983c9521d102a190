/* tools/cli/main.c: the `foresight` command: a table of subcommands. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

typedef struct {
    const char *name, *second; /* second: a word more, "bench serve" */
    int (*run)(int argc, char **argv);
    const char *summary;
} subcommand;

static const subcommand table[] = {
    {"serve", NULL, fs_cli_serve, "run a whole cluster on this machine until it is stopped"},
    {"generate", NULL, fs_cli_generate, "generate text after a prompt"},
    {"status", NULL, fs_cli_status, "show a cluster's members, their states and what is wrong"},
    {"inspect", NULL, fs_cli_inspect, "show a model directory's shapes, sizes and bits a weight"},
    {"eval", NULL, fs_cli_eval, "tell a model's perplexity on a text"},
    {"synth", NULL, fs_cli_synth, "write a model directory of random weights, of any real shape"},
    {"bench", "serve", fs_cli_bench_serve, "measure a cluster: tokens a second, latencies, where time goes"},
    {"bench", "sub1", fs_cli_bench_sub1, "measure compressed products beside bf16, ggml and a memory read"},
    {"bench", "lookahead", fs_cli_bench_lookahead,
     "what knowing routes ahead gains: cache hits, time a token"},
    {"trace", "record", fs_cli_trace_record,
     "write what a cluster does under load, and which experts it visits, to a file"},
    {"trace", "replay", fs_cli_trace_replay, "what a trace says of caches, schedules and predictions"},
    {"sim", NULL, fs_cli_sim, "run a trace on a simulated node"},
    {"demo", NULL, fs_cli_demo, "show a cluster at work, with its figures"},
};
enum { NUM_COMMANDS = sizeof(table) / sizeof(*table) };

static void print_help(FILE *out)
{
    fprintf(
        out,
        "usage: foresight COMMAND [OPTIONS]\n\nServes mixture-of-experts language models on a cluster.\n\n");
    for (int i = 0; i < NUM_COMMANDS; i++) {
        char name[32];
        snprintf(name, sizeof(name), "%s%s%s", table[i].name, table[i].second ? " " : "",
                 table[i].second ? table[i].second : "");
        fprintf(out, "  %-15s %s\n", name, table[i].summary);
    }
    fprintf(out, "\n`foresight COMMAND --help` lists a command's options. Exit status: 0 done, 1 failed, 2 "
                 "wrong options, 130 interrupted.\n");
}

/* What was promised on standard output has to have arrived there. */
static int check_output(const char *name, int code)
{
    bool failed = fflush(stdout) != 0 || ferror(stdout);
    if (!failed || code != FS_EXIT_OK) return code;
    fs_cli_complain(name, "standard output cannot be written");
    return FS_EXIT_FAILED;
}

static int say_which(const char *name)
{
    fprintf(stderr, "foresight %s: say what:", name);
    const char *comma = "";
    for (int i = 0; i < NUM_COMMANDS; i++) {
        if (strcmp(table[i].name, name) != 0) continue;
        fprintf(stderr, "%s foresight %s %s", comma, name, table[i].second);
        comma = ",";
    }
    fprintf(stderr, "\n");
    return FS_EXIT_USAGE;
}

static int run_command(int argc, char **argv)
{
    bool named = false;
    for (int i = 0; i < NUM_COMMANDS; i++) {
        int words = table[i].second ? 2 : 1;
        if (strcmp(argv[1], table[i].name) != 0) continue;
        named = true;
        if (words == 2 && (argc < 3 || strcmp(argv[2], table[i].second) != 0)) continue;
        return check_output(table[i].name, table[i].run(argc - words, argv + words));
    }
    if (named) return say_which(argv[1]);
    fprintf(stderr, "foresight: no command '%s'; foresight --help lists them\n", argv[1]);
    return FS_EXIT_USAGE;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return FS_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return FS_EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("foresight %s\n", FS_VERSION);
        return FS_EXIT_OK;
    }
    return run_command(argc, argv);
}
