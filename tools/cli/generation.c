/* tools/cli/generation.c: one Generate call: built, streamed, collected. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* ---- the answer ---- */

static bool keep_ids(fs_generation *g, const uint32_t *ids, size_t count)
{
    if (count > g->ids_capacity - g->num_ids) {
        size_t capacity = 2 * ((size_t)g->num_ids + count) + 64;
        uint32_t *grown = capacity <= UINT32_MAX ? realloc(g->ids, capacity * sizeof(*grown)) : NULL;
        if (!grown) return false;
        g->ids = grown;
        g->ids_capacity = (uint32_t)capacity;
    }
    memcpy(g->ids + g->num_ids, ids, count * sizeof(*ids));
    g->num_ids += (uint32_t)count;
    return true;
}

static void read_end(fs_generation *g, const Foresight__V1__GenerateResponse *r)
{
    if (r->finish_reason == FORESIGHT__V1__FINISH_REASON__FINISH_REASON_STOP) g->finish_reason = "stop";
    if (r->finish_reason == FORESIGHT__V1__FINISH_REASON__FINISH_REASON_LENGTH) g->finish_reason = "length";
    snprintf(g->stop_matched, sizeof(g->stop_matched), "%s", r->stop_matched ? r->stop_matched : "");
    if (r->usage) {
        g->prompt_tokens = r->usage->prompt_tokens;
        g->completion_tokens = r->usage->completion_tokens;
    }
    if (r->timing) {
        g->queue_ms = r->timing->queue_ms;
        g->first_token_ms = r->timing->first_token_ms;
        g->total_ms = r->timing->total_ms;
        g->per_token_ms = r->timing->per_token_ms;
    }
}

static void on_message(void *arg, fs_rpc_request *request, const uint8_t *message, size_t size)
{
    fs_generation *g = arg;
    ProtobufCMessage *m = fs_message_unpack(&foresight__v1__generate_response__descriptor, message, size,
                                            NULL);
    if (!m) {
        fs_rpc_cancel(request);
        return;
    }
    const Foresight__V1__GenerateResponse *r = (const Foresight__V1__GenerateResponse *)m;
    if (r->n_token_ids > 0) {
        g->last_ns = fs_clock_now(fs_clock_system());
        if (!g->first_ns) g->first_ns = g->last_ns;
    }
    size_t len = r->text ? strlen(r->text) : 0;
    bool kept = keep_ids(g, r->token_ids, r->n_token_ids);
    fs_buffer_append(&g->text, r->text, len);
    if (len > 0 && g->on_text) g->on_text(g, r->text, len);
    read_end(g, r);
    fs_message_free(m);
    if (!kept || g->text.failed) fs_rpc_cancel(request);
}

static void on_end(void *arg, fs_rpc_request *request, fs_rpc_code code, const char *text)
{
    fs_generation *g = arg;
    g->call = NULL;
    g->done = true;
    g->code = code;
    snprintf(g->message, sizeof(g->message), "%s", text ? text : "");
    g->finished = code == FS_RPC_OK && g->finish_reason;
    if (code == FS_RPC_OK && !g->finish_reason) {
        g->code = FS_RPC_UNKNOWN;
        snprintf(g->message, sizeof(g->message), "the stream ended without a finish reason");
    }
    if (g->on_done) g->on_done(g);
}

/* ---- the request ---- */

static void fill_sampling(const fs_generation_request *request, Foresight__V1__Sampling *s)
{
    if (request->has_temperature) {
        s->opt_temperature_case = FORESIGHT__V1__SAMPLING__OPT_TEMPERATURE_TEMPERATURE;
        s->temperature = request->temperature;
    }
    if (request->has_top_k) {
        s->opt_top_k_case = FORESIGHT__V1__SAMPLING__OPT_TOP_K_TOP_K;
        s->top_k = request->top_k;
    }
    if (request->has_top_p) {
        s->opt_top_p_case = FORESIGHT__V1__SAMPLING__OPT_TOP_P_TOP_P;
        s->top_p = request->top_p;
    }
    if (request->has_min_p) {
        s->opt_min_p_case = FORESIGHT__V1__SAMPLING__OPT_MIN_P_MIN_P;
        s->min_p = request->min_p;
    }
    if (request->has_seed) {
        s->opt_seed_case = FORESIGHT__V1__SAMPLING__OPT_SEED_SEED;
        s->seed = request->seed;
    }
}

static fs_status pack(const fs_generation_request *request, uint8_t **out, size_t *size)
{
    Foresight__V1__GenerateRequest r = FORESIGHT__V1__GENERATE_REQUEST__INIT;
    Foresight__V1__TokenIds ids = FORESIGHT__V1__TOKEN_IDS__INIT;
    Foresight__V1__Sampling sampling = FORESIGHT__V1__SAMPLING__INIT;
    if (request->prompt) {
        r.prompt_case = FORESIGHT__V1__GENERATE_REQUEST__PROMPT_TEXT;
        r.text = (char *)request->prompt;
    } else {
        ids.n_ids = request->num_prompt_ids;
        ids.ids = (uint32_t *)request->prompt_ids;
        r.prompt_case = FORESIGHT__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
        r.token_ids = &ids;
    }
    if (request->has_max_tokens) {
        r.opt_max_tokens_case = FORESIGHT__V1__GENERATE_REQUEST__OPT_MAX_TOKENS_MAX_TOKENS;
        r.max_tokens = request->max_tokens;
    }
    fill_sampling(request, &sampling);
    r.sampling = &sampling;
    r.stop = (char **)request->stop;
    r.n_stop = request->num_stop;
    r.ignore_eos = request->ignore_eos;
    return fs_message_pack(&r.base, out, size);
}

fs_status fs_generation_start(fs_generation *g, fs_rpc_channel *channel, const fs_generation_request *request,
                              fs_detail *detail)
{
    uint8_t *packed = NULL;
    size_t size = 0;
    fs_status st = pack(request, &packed, &size);
    if (st != FS_OK) return fs_fail(detail, st, "no memory for the request");
    g->started_ns = fs_clock_now(fs_clock_system());
    const fs_rpc_client_handlers handlers = {on_message, on_end, g};
    st = fs_rpc_start(channel, "/foresight.v1.Inference/Generate", packed, size,
                      g->started_ns + request->timeout_ns, &handlers, &g->call);
    free(packed);
    return st == FS_OK ? st : fs_fail(detail, st, "the call cannot be started");
}

void fs_generation_cancel(fs_generation *g)
{
    if (!g->done && g->call) fs_rpc_cancel(g->call);
}

void fs_generation_wait(fs_cli *cli, fs_generation *g)
{
    bool cancelled = false;
    while (!g->done) {
        if (cli->signals && !cancelled) {
            cancelled = true;
            fs_generation_cancel(g);
        }
        fs_cli_wait(cli);
    }
}

void fs_generation_free(fs_generation *g)
{
    fs_buffer_free(&g->text);
    free(g->ids);
    g->ids = NULL;
}

static json_t *text_and_ids(const fs_generation *g)
{
    json_t *ids = json_array(), *object = json_object();
    for (uint32_t i = 0; i < g->num_ids; i++) json_array_append_new(ids, json_integer(g->ids[i]));
    json_object_set_new(object, "text",
                        json_stringn(g->text.data ? (const char *)g->text.data : "", g->text.size));
    json_object_set_new(object, "token_ids", ids);
    return object;
}

json_t *fs_generation_json(const fs_generation *g)
{
    json_t *object = text_and_ids(g);
    if (!g->finished) {
        json_object_set_new(
            object, "error",
            json_pack("{s:s, s:s}", "code", fs_rpc_code_name(g->code), "message", g->message));
        return object;
    }
    json_object_set_new(object, "finish_reason", json_string(g->finish_reason));
    if (g->stop_matched[0]) json_object_set_new(object, "stop_matched", json_string(g->stop_matched));
    json_object_set_new(object, "usage",
                        json_pack("{s:I, s:I}", "prompt_tokens", (json_int_t)g->prompt_tokens,
                                  "completion_tokens", (json_int_t)g->completion_tokens));
    json_object_set_new(object, "timing",
                        json_pack("{s:f, s:f, s:f, s:f}", "queue_ms", g->queue_ms, "first_token_ms",
                                  g->first_token_ms, "total_ms", g->total_ms, "per_token_ms",
                                  g->per_token_ms));
    return object;
}
