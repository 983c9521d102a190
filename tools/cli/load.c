/* tools/cli/load.c: see load.h. */
#include "cli/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/quantile.h"

/* What the text follows; requests take turns, so that sequences differ and visit different experts. */
static const char *const prompts[] = {
    "Once upon a time, in a small house by the sea, there lived",
    "The old king had three sons, and the youngest of them",
    "It was a dark and stormy night when the stranger came to",
    "There was once a poor woodcutter who had",
    "\"I do not believe you,\" said the fox, and",
    "In the middle of the forest stood a castle where",
    "When the snow had melted, the children ran out to",
    "The captain looked at the map for a long time before he",
};
enum { NUM_PROMPTS = sizeof(prompts) / sizeof(*prompts) };

/* ---- where time goes: the difference of the routers' counters ---- */

static double *part_of(fs_load_counters *c, const char *name)
{
    for (uint32_t i = 0; i < c->num_parts; i++)
        if (strcmp(c->part[i].name, name) == 0) return &c->part[i].seconds;
    if (c->num_parts == FS_LOAD_MAX_PARTS) return NULL;
    snprintf(c->part[c->num_parts].name, sizeof(c->part[0].name), "%s", name);
    c->part[c->num_parts].seconds = 0;
    return &c->part[c->num_parts++].seconds;
}

void fs_load_add(fs_load_counters *sum, const fs_load_counters *c, double sign)
{
    for (uint32_t i = 0; i < c->num_parts; i++) {
        double *seconds = part_of(sum, c->part[i].name);
        if (seconds) *seconds += sign * c->part[i].seconds;
    }
    sum->steps += (uint64_t)(int64_t)sign * c->steps;
    sum->dispatches += (uint64_t)(int64_t)sign * c->dispatches;
    sum->redispatches += (uint64_t)(int64_t)sign * c->redispatches;
}

static fs_status read_counters(fs_cli *cli, fs_load_counters *sum, fs_detail *detail)
{
    *sum = (fs_load_counters){0};
    for (uint32_t r = 0; r < cli->num_routers; r++) {
        Foresight__V1__GetStatsRequest request = FORESIGHT__V1__GET_STATS_REQUEST__INIT;
        ProtobufCMessage *response = NULL;
        fs_status st = fs_cli_call(cli, cli->channel[r], "/foresight.v1.Inference/GetStats", &request.base,
                                   &foresight__v1__router_stats__descriptor, 10 * FS_NS_PER_S, &response,
                                   detail);
        if (st != FS_OK) return fs_fail_in(detail, st, "%s", cli->router[r]);
        const Foresight__V1__RouterStats *s = (const Foresight__V1__RouterStats *)response;
        fs_load_counters c = {
            .steps = s->steps, .dispatches = s->dispatches, .redispatches = s->redispatches};
        for (size_t i = 0; i < s->n_time; i++) {
            double *seconds = part_of(&c, s->time[i]->part);
            if (seconds) *seconds += s->time[i]->seconds;
        }
        fs_load_add(sum, &c, 1);
        fs_message_free(response);
    }
    return FS_OK;
}

/* ---- one row ---- */

typedef struct {
    fs_cli *cli;
    const fs_load_options *options;
    fs_generation *stream;    /* [streams]; one that is not running has done set */
    double *ttft, *per_token; /* [requests] ms, of those that finished */
    double *gap;              /* [max_gaps] ms */
    int64_t *piece_ns;        /* [streams] when each stream's last piece came; 0: none yet */
    size_t num_gaps, max_gaps;
    uint32_t started, ended, finished, num_per_token;
    fs_load_result *row;
} bench;

static void on_piece(fs_generation *g, const char *text, size_t size)
{
    bench *b = g->arg;
    int64_t now_ns = fs_clock_now(fs_clock_system()), *last_ns = &b->piece_ns[g - b->stream];
    if (*last_ns && b->num_gaps < b->max_gaps)
        b->gap[b->num_gaps++] = (double)(now_ns - *last_ns) / FS_NS_PER_MS;
    *last_ns = now_ns;
}

static fs_status start_one(bench *b, fs_generation *g, fs_detail *detail)
{
    *g = (fs_generation){.on_text = on_piece, .arg = b};
    b->piece_ns[g - b->stream] = 0;
    const fs_generation_request request = {.prompt = prompts[b->started % NUM_PROMPTS],
                                           .has_max_tokens = true,
                                           .max_tokens = b->options->max_tokens,
                                           .has_temperature = true,
                                           .temperature = b->options->sampled ? 0.8f : 0,
                                           .has_seed = b->options->sampled,
                                           .seed = b->started,
                                           .ignore_eos = true,
                                           .timeout_ns = b->options->timeout_ns};
    fs_status st = fs_generation_start(g, b->cli->channel[b->started % b->cli->num_routers], &request,
                                       detail);
    if (st != FS_OK) g->done = true;
    b->started++;
    return st;
}

static void end_one(bench *b, fs_generation *g)
{
    b->ended++;
    b->row->tokens += g->num_ids;
    if (!g->finished) {
        if (b->row->failed++ == 0)
            snprintf(b->row->error, sizeof(b->row->error), "%s: %.200s", fs_rpc_code_name(g->code),
                     g->message);
    } else {
        if (g->first_ns) b->ttft[b->finished++] = (double)(g->first_ns - g->started_ns) / FS_NS_PER_MS;
        if (g->num_ids > 1)
            b->per_token[b->num_per_token++] = (double)(g->last_ns - g->first_ns) / FS_NS_PER_MS /
                                               (g->num_ids - 1);
    }
    fs_generation_free(g);
}

static fs_status run_streams(bench *b, fs_detail *detail)
{
    uint32_t streams = b->row->streams, running = 0;
    fs_status st = FS_OK;
    for (; running < streams && b->started < b->row->requests && st == FS_OK; running++)
        st = start_one(b, &b->stream[running], detail);
    bool cancelled = false;
    while (b->ended < b->started) {
        bool stop = st != FS_OK || b->cli->signals > 0;
        for (uint32_t i = 0; i < running; i++) {
            fs_generation *g = &b->stream[i];
            if (stop && !cancelled) fs_generation_cancel(g);
            if (!g->done || !g->started_ns) continue;
            end_one(b, g);
            *g = (fs_generation){.done = true};
            if (!stop && b->started < b->row->requests) st = start_one(b, g, detail);
        }
        cancelled |= stop;
        if (b->ended < b->started) fs_cli_wait(b->cli);
    }
    if (st == FS_OK && b->cli->signals) st = fs_fail(detail, FS_CANCELLED, "interrupted");
    return st;
}

fs_status fs_load_run(fs_cli *cli, const fs_load_options *o, fs_load_result *r, fs_detail *detail)
{
    *r = (fs_load_result){.streams = o->streams, .requests = o->requests};
    fs_load_counters before, after;
    bench b = {.cli = cli, .options = o, .row = r};
    b.stream = calloc(r->streams, sizeof(*b.stream));
    b.ttft = calloc(r->requests, sizeof(double));
    b.per_token = calloc(r->requests, sizeof(double));
    b.piece_ns = calloc(r->streams, sizeof(*b.piece_ns));
    b.max_gaps = (size_t)r->requests * o->max_tokens;
    b.gap = calloc(b.max_gaps, sizeof(double));
    fs_status st = b.stream && b.ttft && b.per_token && b.piece_ns && b.gap
                       ? read_counters(cli, &before, detail)
                       : fs_fail(detail, FS_NO_MEMORY, "no memory for the results");
    if (st == FS_OK) {
        int64_t start_ns = fs_clock_now(fs_clock_system());
        st = run_streams(&b, detail);
        r->seconds = (double)(fs_clock_now(fs_clock_system()) - start_ns) / FS_NS_PER_S;
    }
    if (st == FS_OK) st = read_counters(cli, &after, detail);
    if (st == FS_OK) {
        r->counters = after;
        fs_load_add(&r->counters, &before, -1);
        for (uint32_t i = 0; i < b.num_per_token; i++)
            r->per_token_mean_ms += b.per_token[i] / b.num_per_token;
        for (size_t i = 0; i < b.num_gaps; i++) r->gap_ms[0] += b.gap[i] / (double)b.num_gaps;
        r->gap_ms[1] = fs_quantile(b.gap, b.num_gaps, 0.95);
        for (int i = 0; i < 2; i++) {
            r->ttft_ms[i] = fs_quantile(b.ttft, b.finished, i ? 0.95 : 0.5);
            r->per_token_ms[i] = fs_quantile(b.per_token, b.num_per_token, i ? 0.95 : 0.5);
        }
    }
    free(b.stream);
    free(b.ttft);
    free(b.per_token);
    free(b.piece_ns);
    free(b.gap);
    return st;
}

fs_status fs_load_warm_up(fs_cli *cli, const fs_load_options *options, fs_detail *detail)
{
    fs_load_options few = *options;
    fs_load_result r;
    few.streams = 1;
    few.requests = 2 * cli->num_routers;
    few.max_tokens = options->max_tokens < 8 ? options->max_tokens : 8;
    fs_status st = fs_load_run(cli, &few, &r, detail);
    if (st == FS_OK && r.failed) st = fs_fail(detail, FS_UNAVAILABLE, "%s", r.error);
    return st;
}
