/* router/api/generate.c: one Generate call from its request to its last message. It has up to three parts
 * with lives of their own: the call (the client may leave at any moment), the tokenising job, and the
 * sequence; what is left of it is freed when the last part has ended. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "api/api_int.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"

typedef struct {
    fs_tokenizing t; /* first */
    fs_api *api;
    fs_rpc_call *call; /* NULL: it has ended */
    fs_sequence *seq;  /* NULL: none yet, or it has ended */
    bool tokenizing;
    Foresight__V1__GenerateRequest *message; /* request points into it */
    fs_arena arena;
    fs_request request;
    int64_t arrival_ns;
    uint32_t *echo; /* the prompt's ids for the first message; NULL: not asked for, or sent */
    uint32_t num_echo;
    char id[24]; /* made up, if the client gave none */
} generation;

static const char *id_of(const generation *g)
{
    return g->message->request_id && g->message->request_id[0] ? g->message->request_id : g->id;
}

static void release(generation *g)
{
    fs_api *api = g->api;
    if (g->call || g->seq || g->tokenizing) return;
    free(g->echo);
    free(g->t.ids);
    fs_message_free(&g->message->base);
    fs_arena_fini(&g->arena);
    free(g);
    fs_api_leave(api);
}

/* ---- responses ---- */

static double ms_between(int64_t from, int64_t to)
{
    return from && to > from ? (double)(to - from) / 1e6 : 0;
}

static void fill_end(const fs_engine_timing *t, Foresight__V1__Usage *usage, Foresight__V1__Timing *timing)
{
    usage->prompt_tokens = t->prompt_tokens;
    usage->completion_tokens = t->generated_tokens;
    timing->queue_ms = ms_between(t->arrival_ns, t->first_step_ns);
    timing->first_token_ms = ms_between(t->arrival_ns, t->first_token_ns);
    timing->total_ms = ms_between(t->arrival_ns, t->last_token_ns);
    if (t->generated_tokens > 1)
        timing->per_token_ms = ms_between(t->first_token_ns, t->last_token_ns) / (t->generated_tokens - 1);
}

/* protobuf-c's strings end at a zero byte; a model may well speak one: it becomes U+FFFD rather than cutting
 * the rest off. */
static char *terminated(fs_api *api, const char *text, size_t size)
{
    api->text.size = 0;
    for (size_t i = 0; i < size;) {
        const char *zero = memchr(text + i, 0, size - i);
        size_t n = zero ? (size_t)(zero - text) - i : size - i;
        fs_buffer_append(&api->text, text + i, n);
        if (zero) fs_buffer_append(&api->text, "\xef\xbf\xbd", 3);
        i += n + (zero != NULL);
    }
    fs_buffer_append_u8(&api->text, 0);
    if (!api->text.failed) return (char *)api->text.data;
    api->text.failed = false;
    return (char *)protobuf_c_empty_string;
}

static void fill_logprobs(const fs_sample *sample, Foresight__V1__TokenLogprobs *out)
{
    out->logprob = sample->logprob;
    out->n_top_ids = out->n_top_logprobs = sample->num_top;
    out->top_ids = (uint32_t *)sample->top_token;
    out->top_logprobs = (float *)sample->top_logprob;
}

static void on_output(void *arg, const fs_engine_output *output, const fs_engine_timing *t)
{
    generation *g = arg;
    Foresight__V1__GenerateResponse r = FORESIGHT__V1__GENERATE_RESPONSE__INIT;
    Foresight__V1__TokenLogprobs logprobs = FORESIGHT__V1__TOKEN_LOGPROBS__INIT, *logprobs_list = &logprobs;
    Foresight__V1__Usage usage = FORESIGHT__V1__USAGE__INIT;
    Foresight__V1__Timing timing = FORESIGHT__V1__TIMING__INIT;
    uint32_t token = output->sample->token;
    r.token_ids = &token;
    r.n_token_ids = 1;
    r.text = terminated(g->api, output->text, output->text_size);
    if (g->request.want_logprob) {
        fill_logprobs(output->sample, &logprobs);
        r.logprobs = &logprobs_list;
        r.n_logprobs = 1;
    }
    if (output->finish != FS_FINISH_NONE) {
        fill_end(t, &usage, &timing);
        r.usage = &usage;
        r.timing = &timing;
        r.finish_reason = output->finish == FS_FINISH_STOP
                              ? FORESIGHT__V1__FINISH_REASON__FINISH_REASON_STOP
                              : FORESIGHT__V1__FINISH_REASON__FINISH_REASON_LENGTH;
        if (output->stop_matched >= 0) r.stop_matched = g->message->stop[output->stop_matched];
    }
    r.prompt_token_ids = g->echo;
    r.n_prompt_token_ids = g->echo ? g->num_echo : 0;
    if (!g->call) return;
    fs_status st = fs_rpc_send_message(g->call, &r.base);
    if (st != FS_OK) /* the call's on_end follows */
        fs_log_debug("send_failed", "request=%s cause=%s", id_of(g), fs_status_name(st));
    free(g->echo);
    g->echo = NULL;
}

/* ---- ends ---- */

static void finish(generation *g, fs_status status, const char *text)
{
    if (status != FS_OK)
        fs_log_debug("request_ended", "request=%s status=%s text=\"%s\"", id_of(g), fs_status_name(status),
                     text);
    if (g->call) fs_api_fail(g->call, status, text);
}

static void on_sequence_end(void *arg, fs_status status, const char *text)
{
    generation *g = arg;
    g->seq = NULL;
    finish(g, status, status == FS_OK ? NULL : text);
    release(g); /* if the call has ended before */
}

static void on_call_end(void *arg, fs_rpc_call *call, bool cancelled)
{
    generation *g = arg;
    g->call = NULL;
    fs_sequence *seq = g->seq;
    g->seq = NULL;
    if (seq) fs_engine_cancel(seq);
    release(g);
}

static void refuse_full(generation *g, const char *text)
{
    char ms[16];
    snprintf(ms, sizeof ms, "%u", fs_engine_retry_ms(g->api->options.engine));
    fs_rpc_call_trailer(g->call, "retry-after-ms", ms);
    finish(g, FS_EXHAUSTED, text);
}

/* ---- the beginning ---- */

/* Requests with the same key are one client's; those without are another's. */
static uint64_t client_of(const generation *g)
{
    const char *key = fs_rpc_call_metadata(g->call, "authorization");
    return key && key[0] ? XXH3_64bits_withSeed(key, strlen(key), g->api->client_seed) : 0;
}

static fs_status submit(generation *g, const uint32_t *prompt, size_t num_prompt, fs_detail *detail)
{
    fs_api *api = g->api;
    const Foresight__V1__GenerateRequest *m = g->message;
    uint32_t max_tokens = 0;
    fs_status st = fs_request_max_tokens(&g->request, num_prompt, &api->options.model, &max_tokens, detail);
    if (st != FS_OK) return st;
    fs_engine_request request = {.prompt = prompt,
                                 .prompt_tokens = (uint32_t)num_prompt,
                                 .max_tokens = max_tokens,
                                 .sampling = g->request.sampling,
                                 .num_stops = (uint32_t)m->n_stop,
                                 .stop = (const char *const *)m->stop,
                                 .stop_ids = m->stop_token_ids,
                                 .num_stop_ids = (uint32_t)m->n_stop_token_ids,
                                 .ignore_eos = m->ignore_eos,
                                 .want_logprob = g->request.want_logprob,
                                 .num_top = g->request.num_top,
                                 .arrival_ns = g->arrival_ns,
                                 .deadline_ns = fs_rpc_call_deadline_ns(g->call),
                                 .client = client_of(g),
                                 .priority = g->request.priority};
    const fs_engine_handlers handlers = {on_output, on_sequence_end, g};
    if (m->echo_prompt_ids) {
        g->echo = malloc(num_prompt * sizeof *g->echo);
        if (!g->echo) return fs_fail(detail, FS_NO_MEMORY, "no memory for the request");
        memcpy(g->echo, prompt, num_prompt * sizeof *g->echo);
        g->num_echo = (uint32_t)num_prompt;
    }
    return fs_engine_submit(api->options.engine, &request, &handlers, &g->seq, detail);
}

static void begin(generation *g, const uint32_t *prompt, size_t num_prompt)
{
    fs_detail detail = {0};
    fs_status st = submit(g, prompt, num_prompt, &detail);
    if (st == FS_EXHAUSTED)
        refuse_full(g, detail.text);
    else if (st != FS_OK)
        finish(g, st, detail.text);
}

static void on_tokenized(fs_tokenizing *t)
{
    generation *g = (generation *)t;
    g->tokenizing = false;
    if (g->call && g->api->stopped)
        finish(g, FS_UNAVAILABLE, "shutting down");
    else if (g->call && t->status != FS_OK)
        finish(g, t->status, t->detail.text);
    else if (g->call)
        begin(g, t->ids, t->count);
    release(g);
}

/* The request as a generation. Its call's on_end is set: from here on release frees it. */
static fs_status open_generation(fs_api *api, fs_rpc_call *call, Foresight__V1__GenerateRequest *m,
                                 generation **out, fs_detail *detail)
{
    generation *g = calloc(1, sizeof *g);
    if (!g) return fs_fail(detail, FS_NO_MEMORY, "no memory for the request");
    g->arena.block_bytes = 16384;
    fs_status st = fs_request_check(m, &api->options.model, &g->arena, &g->request, detail);
    if (st != FS_OK) {
        fs_arena_fini(&g->arena);
        free(g);
        return st;
    }
    g->api = api;
    g->call = call;
    g->message = m;
    g->arrival_ns = fs_clock_now(fs_clock_system());
    snprintf(g->id, sizeof g->id, "%016llx", (unsigned long long)fs_process_random());
    if (g->request.needs_seed) g->request.sampling.seed = fs_process_random();
    api->active++;
    fs_rpc_call_on_end(call, on_call_end, g);
    *out = g;
    return FS_OK;
}

static fs_status check_ready(const fs_api *api, fs_detail *detail)
{
    fs_detail why = {0};
    if (api->stopped) return fs_fail(detail, FS_UNAVAILABLE, "shutting down");
    if (!api->options.is_ready || api->options.is_ready(api->options.arg, &why)) return FS_OK;
    return fs_fail(detail, FS_UNAVAILABLE, "not serving yet: %.400s", why.text);
}

void fs_api_generate(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    fs_api *api = arg;
    fs_detail detail = {0};
    generation *g = NULL;
    Foresight__V1__GenerateRequest *m = (Foresight__V1__GenerateRequest *)fs_api_unpack(
        &foresight__v1__generate_request__descriptor, request, size, &detail);
    fs_status st = m ? check_ready(api, &detail) : FS_INVALID;
    if (st == FS_OK) st = open_generation(api, call, m, &g, &detail);
    if (st != FS_OK) {
        fs_api_fail(call, st, detail.text);
        if (m) fs_message_free(&m->base);
        return;
    }
    if (!g->request.text) {
        begin(g, g->request.prompt, g->request.prompt_tokens);
        return;
    }
    g->t.text = g->request.text;
    g->t.add_bos = true;
    g->t.done = on_tokenized;
    g->tokenizing = fs_tokenizing_start(api, &g->t) == FS_OK;
    if (g->tokenizing) return;
    api->refused++;
    refuse_full(g, "too many texts wait to be tokenised");
}
