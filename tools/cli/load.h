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
