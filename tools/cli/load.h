/* tools/cli/load.h: closed-loop streams against a cluster: so many generations at once, each followed by the next, until all are done. */
#ifndef FS_CLI_LOAD_H
#define FS_CLI_LOAD_H

#include "cli/cli.h"

enum { FS_LOAD_MAX_STREAMS = 1024, FS_LOAD_MAX_PARTS = 16, FS_LOAD_MAX_REQUESTS = 1000000 };

/* What the routers count; a difference of two readings. */
typedef struct {
    uint32_t num_parts;
    struct {
        char name[32];
        double seconds;
    } part[FS_LOAD_MAX_PARTS];
    uint64_t steps, dispatches, redispatches;
} fs_load_counters;
/* sum += sign * c */
void fs_load_add(fs_load_counters *sum, const fs_load_counters *c, double sign);

typedef struct {
    uint32_t streams, requests; /* generations at once, and in all */
    uint32_t max_tokens;        /* of each; the end of the text does not end it */
    bool sampled; /* at temperature 0.8, seeded by its number, so that equal prompts part; else greedy */
    int64_t timeout_ns; /* each generation's deadline */
} fs_load_options;

/* The options of one load, for the commands that make one. */
#define FS_LOAD_OPTIONS(options_type, member, streams_text, requests_text, tokens_text, tokens_min)          \
    {.name = "streams",                                                                                      \
     .type = FS_CONF_U32,                                                                                    \
     .offset = offsetof(options_type, member.streams),                                                       \
     .default_text = streams_text,                                                                           \
     .min = 1,                                                                                               \
     .max = FS_LOAD_MAX_STREAMS,                                                                             \
     .help = "Generations that run at once."},                                                               \
        {.name = "requests",                                                                                 \
         .type = FS_CONF_U32,                                                                                \
         .offset = offsetof(options_type, member.requests),                                                  \
         .default_text = requests_text,                                                                      \
         .min = 1,                                                                                           \
         .max = FS_LOAD_MAX_REQUESTS,                                                                        \
         .help = "Generations of a run in all."},                                                            \
        {.name = "max-tokens",                                                                               \
         .type = FS_CONF_U32,                                                                                \
         .offset = offsetof(options_type, member.max_tokens),                                                \
         .default_text = tokens_text,                                                                        \
         .min = tokens_min,                                                                                  \
         .max = 1u << 20,                                                                                    \
         .help = "Tokens of each generation."},                                                              \
    {                                                                                                        \
        .name = "timeout", .type = FS_CONF_DURATION, .offset = offsetof(options_type, member.timeout_ns),    \
        .default_text = "2m", .min = 1, .max = 24 * 3600 * (uint64_t)FS_NS_PER_S,                            \
        .help = "Each generation's deadline."                                                                \
    }

typedef struct {
    uint32_t streams, requests, failed;
    uint64_t tokens;
    double seconds, ttft_ms[2], per_token_ms[2]; /* p50, p95 */
    double per_token_mean_ms;
    double gap_ms[2]; /* between a generation's pieces of text, as they came: mean, p95 */
    fs_load_counters counters;
    char error[256]; /* of the first that failed */
} fs_load_result;

/* Generations after prompts that differ. FS_CANCELLED: a signal came; a generation that fails is counted, not a status. */
FS_MUST_USE fs_status fs_load_run(fs_cli *cli, const fs_load_options *options, fs_load_result *out,
                                  fs_detail *detail);
/* A few short ones, so that connections are made and pages touched. Any that fails is FS_UNAVAILABLE. */
FS_MUST_USE fs_status fs_load_warm_up(fs_cli *cli, const fs_load_options *options, fs_detail *detail);

#endif
