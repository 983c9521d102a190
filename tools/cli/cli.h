/* tools/cli/cli.h: what the subcommands share: their options, the loop with its signals, a cluster of child processes or a
 * connection to one that runs, calls to it. Everything blocks, on one thread, and every wait has a bound. */
#ifndef FS_CLI_CLI_H
#define FS_CLI_CLI_H

#include <jansson.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/conf.h"
#include "cli/cluster.h"
#include "foresight/v1/control.pb-c.h"
#include "foresight/v1/inference.pb-c.h"
#include "model/config.h"
#include "rpc/message.h"
#include "rpc/rpc.h"

/* The subcommands: argv[0] is their name; the result is the process's exit status. 0: done; 1: it failed; 2: wrong options; 130: interrupted. */
enum { FS_EXIT_OK = 0, FS_EXIT_FAILED = 1, FS_EXIT_USAGE = 2, FS_EXIT_INTERRUPTED = 130 };
int fs_cli_serve(int argc, char **argv);
int fs_cli_generate(int argc, char **argv);
int fs_cli_status(int argc, char **argv);
int fs_cli_inspect(int argc, char **argv);
int fs_cli_eval(int argc, char **argv);
int fs_cli_synth(int argc, char **argv);
int fs_cli_bench_serve(int argc, char **argv);
int fs_cli_bench_sub1(int argc, char **argv);
int fs_cli_demo(int argc, char **argv);
int fs_cli_bench_lookahead(int argc, char **argv);
int fs_cli_sim(int argc, char **argv);
int fs_cli_trace_record(int argc, char **argv);
int fs_cli_trace_replay(int argc, char **argv);


/* ---- options (args.c) ---- */

/* FS_CLI_GO_ON: run; else the exit status (help was printed, or an error was, to standard error). */
enum { FS_CLI_GO_ON = -1 };
int fs_cli_parse(const fs_conf_spec *spec, int argc, char **argv, void *target, const char **positional,
                 fs_conf **conf);

/* Takes every "--NAME VALUE" and "--NAME=VALUE" out of argv (which is edited) into values, in order; what an option table
 * cannot hold. Stops at "--". FS_INVALID: a value is missing, or there are more than max. */
FS_MUST_USE fs_status fs_cli_take_repeated(const char *name, int *argc, char **argv, const char **values,
                                           uint32_t max, uint32_t *count, fs_detail *detail);
/* "1,8,32": numbers from 1 to max_value. FS_INVALID. */
FS_MUST_USE fs_status fs_cli_parse_list(const char *name, const char *text, uint32_t min_value,
                                        uint32_t max_value, uint32_t *values, uint32_t max, uint32_t *count,
                                        fs_detail *detail);
/* An option that may be left out (text NULL: *set stays false). FS_INVALID names --NAME. */
FS_MUST_USE fs_status fs_cli_optional_float(const char *name, const char *text, float *value, bool *set,
                                            fs_detail *detail);
FS_MUST_USE fs_status fs_cli_optional_u64(const char *name, const char *text, uint64_t max, uint64_t *value,
                                          bool *set, fs_detail *detail);

/* The options of a cluster on this machine, for every subcommand that can start one. level: what is logged
 * by default. */
#define FS_CLI_CLUSTER_OPTIONS(options_type, member, level)                                                  \
    {.name = "model",                                                                                        \
     .type = FS_CONF_STRING,                                                                                 \
     .offset = offsetof(options_type, member.model),                                                         \
     .value_name = "DIR",                                                                                    \
     .help = "The model directory to serve."},                                                               \
        {.name = "expert-nodes",                                                                             \
         .type = FS_CONF_U32,                                                                                \
         .offset = offsetof(options_type, member.expert_nodes),                                              \
         .default_text = "2",                                                                                \
         .min = 1,                                                                                           \
         .max = FS_CLUSTER_MAX_NODES,                                                                        \
         .help = "Expert node processes."},                                                                  \
        {.name = "replicas",                                                                                 \
         .type = FS_CONF_U32,                                                                                \
         .offset = offsetof(options_type, member.replicas),                                                  \
         .default_text = "1",                                                                                \
         .min = 1,                                                                                           \
         .max = 16,                                                                                          \
         .help = "Nodes that hold each expert; 2 survive the loss of a node."},                              \
        {.name = "routers",                                                                                  \
         .type = FS_CONF_U32,                                                                                \
         .offset = offsetof(options_type, member.routers),                                                   \
         .default_text = "1",                                                                                \
         .min = 1,                                                                                           \
         .max = FS_CLUSTER_MAX_ROUTERS,                                                                      \
         .help = "Router processes."},                                                                       \
        {.name = "threads",                                                                                  \
         .type = FS_CONF_U32,                                                                                \
         .offset = offsetof(options_type, member.threads),                                                   \
         .default_text = "0",                                                                                \
         .max = 4096,                                                                                        \
         .help = "Threads of all processes together; 0: the CPUs that there are."},                          \
        {.name = "router-args",                                                                              \
         .type = FS_CONF_STRING,                                                                             \
         .offset = offsetof(options_type, member.router_args),                                               \
         .value_name = "WORDS",                                                                              \
         .help = "More options of each router, parted by spaces (foresight-router --help)."},                \
        {.name = "expert-args",                                                                              \
         .type = FS_CONF_STRING,                                                                             \
         .offset = offsetof(options_type, member.expert_args),                                               \
         .value_name = "WORDS",                                                                              \
         .help = "More options of each expert node, parted by spaces (foresight-expert --help)."},           \
        {.name = "runtime-dir",                                                                              \
         .type = FS_CONF_STRING,                                                                             \
         .offset = offsetof(options_type, member.runtime_dir),                                               \
         .value_name = "DIR",                                                                                \
         .help = "Where the coordinator keeps its state; left out: in memory."},                             \
        {.name = "log-level",                                                                                \
         .type = FS_CONF_ENUM,                                                                               \
         .offset = offsetof(options_type, member.log_level),                                                 \
         .default_text = level,                                                                              \
         .words = "error|warn|info|debug",                                                                   \
         .help = "How much the processes log to standard error."},                                           \
        {.name = "log-format",                                                                               \
         .type = FS_CONF_ENUM,                                                                               \
         .offset = offsetof(options_type, member.log_format),                                                \
         .default_text = "logfmt",                                                                           \
         .words = "logfmt|json",                                                                             \
         .help = "How a log line is written."},                                                              \
    {                                                                                                        \
        .name = "start-timeout", .type = FS_CONF_DURATION,                                                   \
        .offset = offsetof(options_type, member.start_ns), .default_text = "60s", .min = 1,                  \
        .max = 3600 * (uint64_t)FS_NS_PER_S, .help = "How long the cluster may take until it can serve."     \
    }

/* ---- commands without a loop (interrupt.c) ---- */

/* From here on SIGINT and SIGTERM are only noted, and a write past a limit of the process is an error like a full disk. */
void fs_cli_watch_interrupts(void);
/* Whether one was. Thread: any. */
bool fs_cli_interrupted(void *unused);

/* ---- session (session.c) ---- */

typedef struct {
    uv_loop_t loop;
    uv_signal_t interrupt, terminate;
    uv_timer_t tick;  /* wakes the loop, so that waits can look at the clock */
    uint32_t signals; /* SIGINT and SIGTERM received */
    fs_rpc *rpc;
    fs_cluster *cluster;
    uint32_t num_routers;
    char router[FS_CLUSTER_MAX_ROUTERS][128]; /* gRPC addresses */
    fs_rpc_channel *channel[FS_CLUSTER_MAX_ROUTERS];
    char coordinator[128]; /* "": not known */
    bool rpc_closed;
} fs_cli;

void fs_cli_open(fs_cli *cli);
/* Ends everything that was started, cluster included. Bounded by about ten seconds. */
void fs_cli_close(fs_cli *cli);
/* A whole subcommand: parses into options (the table's zeroed struct, no positional words), then run between open and close. Returns
 * the exit status. */
int fs_cli_main(const fs_conf_spec *spec, int argc, char **argv, void *options,
                int (*run)(fs_cli *cli, const void *options));
/* Starts a cluster and waits until it can serve. FS_CANCELLED: a signal came. */
FS_MUST_USE fs_status fs_cli_start_cluster(fs_cli *cli, const fs_cluster_options *options, fs_detail *detail);
/* A cluster that runs already: addresses, separated by commas. */
FS_MUST_USE fs_status fs_cli_connect(fs_cli *cli, const char *addresses, fs_detail *detail);
/* One or the other: exactly one of connect and options->model must be given. */
FS_MUST_USE fs_status fs_cli_reach(fs_cli *cli, const char *connect, const fs_cluster_options *options,
                                   fs_detail *detail);
/* Runs the loop until something happened, at most about 100 ms. */
void fs_cli_wait(fs_cli *cli);

/* One unary call. The result is freed with fs_message_free. Not OK: detail has code and message. */
FS_MUST_USE fs_status fs_cli_call(fs_cli *cli, fs_rpc_channel *channel, const char *path,
                                  const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
                                  int64_t timeout_ns, ProtobufCMessage **response, fs_detail *detail);
/* The same, with a channel for this call alone. */
FS_MUST_USE fs_status fs_cli_call_address(fs_cli *cli, const char *address, const char *path,
                                          const ProtobufCMessage *request,
                                          const ProtobufCMessageDescriptor *type, ProtobufCMessage **response,
                                          fs_detail *detail);

/* "foresight NAME: text" to standard error. */
void fs_cli_complain(const char *name, const char *fmt, ...) FS_PRINTF(2, 3);
/* Prints and frees a JSON document, one line. Numbers have at most 9 digits. */
void fs_cli_print_json(json_t *object);

/* ---- one generation (generation.c) ---- */

typedef struct {
    const char *prompt;         /* text, or NULL: */
    const uint32_t *prompt_ids; /* [num_prompt_ids] */
    uint32_t num_prompt_ids;
    bool has_max_tokens, has_temperature, has_top_k, has_top_p, has_min_p, has_seed, ignore_eos;
    uint32_t max_tokens, top_k;
    float temperature, top_p, min_p;
    uint64_t seed;
    const char *const *stop; /* [num_stop] */
    uint32_t num_stop;
    int64_t timeout_ns;
} fs_generation_request;

/* Lives from start until done is true and, then, until fs_generation_free. */
typedef struct fs_generation fs_generation;
struct fs_generation {
    /* on_text: a piece, as it comes; may be NULL. on_done: the call has ended; may be NULL. Set before start. */
    void (*on_text)(fs_generation *g, const char *text, size_t size);
    void (*on_done)(fs_generation *g);
    void *arg;
    bool done, finished; /* finished: with a finish reason and status OK */
    fs_rpc_code code;    /* when done */
    char message[512];
    fs_buffer text; /* what was generated */
    uint32_t *ids, num_ids, ids_capacity;
    const char *finish_reason; /* "stop", "length"; NULL until the end */
    char stop_matched[257];
    uint32_t prompt_tokens, completion_tokens;
    double queue_ms, first_token_ms, total_ms, per_token_ms; /* as the router measured */
    int64_t started_ns, first_ns, last_ns;                   /* as this process saw it; 0: not yet */
    fs_rpc_request *call;
};
FS_MUST_USE fs_status fs_generation_start(fs_generation *g, fs_rpc_channel *channel,
                                          const fs_generation_request *request, fs_detail *detail);
void fs_generation_cancel(fs_generation *g);
/* Runs the loop until it is done; a signal cancels it. */
void fs_generation_wait(fs_cli *cli, fs_generation *g);
void fs_generation_free(fs_generation *g);
/* As `foresight generate --json` prints it. */
json_t *fs_generation_json(const fs_generation *g);

/* ---- what a model directory holds (summary.c) ---- */

enum { FS_SUMMARY_PARTS = 8 };
typedef struct {
    const char *part; /* "experts", "embedding", ... */
    uint32_t tensors;
    uint64_t weights, bytes;
} fs_summary_part;
typedef struct {
    fs_model_config config;
    uint64_t fingerprint;
    uint32_t num_parts, num_files;
    fs_summary_part part[FS_SUMMARY_PARTS]; /* experts first */
    uint64_t weights, bytes, file_bytes;
} fs_summary;
/* verify: every expert is opened and its checksums compared; the first that fails is the status. */
FS_MUST_USE fs_status fs_summary_load(const char *dir, bool verify, fs_summary *out, fs_detail *detail);
double fs_bits_per_weight(const fs_summary_part *part);

#endif
