/* router/api/api.c: the methods that answer at once or after tokenising; generate.c has the long one. */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "api/api_int.h"
#include "base/clock.h"
#include "base/process.h"

fs_status fs_api_create(const fs_api_options *options, fs_api **out)
{
    fs_api *api = calloc(1, sizeof *api);
    if (!api) return FS_NO_MEMORY;
    api->options = *options;
    api->started_ns = fs_clock_now(fs_clock_system());
    api->client_seed = fs_process_random();
    *out = api;
    return FS_OK;
}

void fs_api_destroy(fs_api *api)
{
    if (!api) return;
    FS_ASSERT(api->active == 0);
    fs_buffer_free(&api->text);
    free(api);
}

void fs_api_methods(fs_api *api, fs_rpc_method methods[FS_API_NUM_METHODS])
{
    methods[0] = (fs_rpc_method){"/foresight.v1.Inference/Generate", fs_api_generate, api};
    methods[1] = (fs_rpc_method){"/foresight.v1.Inference/Tokenize", fs_api_tokenize, api};
    methods[2] = (fs_rpc_method){"/foresight.v1.Inference/GetModel", fs_api_get_model, api};
    methods[3] = (fs_rpc_method){"/foresight.v1.Inference/GetStats", fs_api_get_stats, api};
}

void fs_api_stop(fs_api *api, void (*on_idle)(void *arg), void *arg)
{
    api->stopped = true;
    if (api->active == 0) {
        on_idle(arg);
        return;
    }
    api->on_idle = on_idle;
    api->idle_arg = arg;
}

void fs_api_leave(fs_api *api)
{
    api->active--;
    if (api->active || !api->on_idle) return;
    void (*on_idle)(void *) = api->on_idle;
    api->on_idle = NULL;
    on_idle(api->idle_arg);
}

void fs_api_fail(fs_rpc_call *call, fs_status status, const char *text)
{
    fs_rpc_call_finish(call, fs_rpc_code_of(status), text);
}

ProtobufCMessage *fs_api_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t size,
                                fs_detail *detail)
{
    if (fs_request_check_bytes(type, data, size, detail) != FS_OK) return NULL;
    return fs_message_unpack(type, data, size, detail);
}

/* ---- tokenising ---- */

static void run_tokenizing(fs_job *job)
{
    fs_tokenizing *t = (fs_tokenizing *)job;
    const fs_api_options *o = &t->api->options;
    size_t count = 0;
    uint32_t *ids = NULL;
    t->status = fs_tokenizer_encode(o->tokenizer, t->text, strlen(t->text), false, &ids, &count, &t->detail);
    if (t->status != FS_OK) return;
    bool bos = t->add_bos && o->model.config->bos_token_id >= 0;
    uint32_t *all = malloc((count + 1) * sizeof *all);
    if (all) {
        if (bos) all[0] = (uint32_t)o->model.config->bos_token_id;
        if (count) memcpy(all + bos, ids, count * sizeof *ids);
        t->ids = all;
        t->count = count + bos;
    } else {
        t->status = fs_fail(&t->detail, FS_NO_MEMORY, "text: no memory for %zu tokens", count);
    }
    free(ids);
}

static void done_tokenizing(fs_job *job)
{
    fs_tokenizing *t = (fs_tokenizing *)job;
    t->api->tokenizing--;
    t->done(t);
}

fs_status fs_tokenizing_start(fs_api *api, fs_tokenizing *t)
{
    if (api->tokenizing >= api->options.max_waiting) return FS_EXHAUSTED;
    api->tokenizing++;
    t->api = api;
    t->job = (fs_job){.run = run_tokenizing, .done = done_tokenizing};
    fs_worker_post(api->options.worker, &t->job);
    return FS_OK;
}

/* One Tokenize call. The client may leave while the worker has it. */
typedef struct {
    fs_tokenizing t; /* first */
    fs_rpc_call *call;
    Foresight__V1__TokenizeRequest *request;
} tokenize_call;

static void tokenize_end(void *arg, fs_rpc_call *call, bool cancelled)
{
    ((tokenize_call *)arg)->call = NULL;
}

static void tokenize_done(fs_tokenizing *t)
{
    tokenize_call *tc = (tokenize_call *)t;
    Foresight__V1__TokenizeResponse response = FORESIGHT__V1__TOKENIZE_RESPONSE__INIT;
    response.token_ids = t->ids;
    response.n_token_ids = t->count;
    if (tc->call) {
        fs_rpc_call_on_end(tc->call, NULL, NULL);
        if (t->status != FS_OK)
            fs_api_fail(tc->call, t->status, t->detail.text);
        else if (fs_rpc_send_message(tc->call, &response.base) == FS_OK)
            fs_rpc_call_finish(tc->call, FS_RPC_OK, NULL);
    }
    fs_message_free(&tc->request->base);
    fs_api *api = t->api;
    free(t->ids);
    free(tc);
    fs_api_leave(api);
}

static fs_status check_tokenize(const fs_api *api, const Foresight__V1__TokenizeRequest *m, fs_detail *detail)
{
    fs_status st = fs_request_check_model(m->model, &api->options.model, detail);
    if (st != FS_OK) return st;
    size_t size = strlen(m->text);
    if (size <= api->options.model.max_prompt_bytes) return FS_OK;
    return fs_fail(detail, FS_INVALID, "text: %zu bytes are over the limit of %llu", size,
                   (unsigned long long)api->options.model.max_prompt_bytes);
}

void fs_api_tokenize(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    fs_api *api = arg;
    fs_detail detail = {0};
    fs_status st = FS_INVALID;
    tokenize_call *tc = calloc(1, sizeof *tc);
    Foresight__V1__TokenizeRequest *m = (Foresight__V1__TokenizeRequest *)fs_api_unpack(
        &foresight__v1__tokenize_request__descriptor, request, size, &detail);
    if (!tc) st = fs_fail(&detail, FS_NO_MEMORY, "no memory for the request");
    if (tc && m) st = check_tokenize(api, m, &detail);
    if (st == FS_OK) {
        *tc = (tokenize_call){
            .t = {.text = m->text, .add_bos = m->add_bos, .done = tokenize_done}, .call = call, .request = m};
        st = fs_tokenizing_start(api, &tc->t);
        if (st != FS_OK) fs_fail(&detail, st, "too many texts wait to be tokenised");
    }
    if (st == FS_OK) {
        api->active++;
        fs_rpc_call_on_end(call, tokenize_end, tc);
        return;
    }
    fs_api_fail(call, st, detail.text);
    if (m) fs_message_free(&m->base);
    free(tc);
}

/* ---- at once ---- */

static void answer(fs_rpc_call *call, const ProtobufCMessage *message)
{
    if (fs_rpc_send_message(call, message) == FS_OK) fs_rpc_call_finish(call, FS_RPC_OK, NULL);
}

static void fill_model(const fs_api *api, Foresight__V1__Model *out, uint32_t eos[FS_MAX_EOS])
{
    const fs_model_config *c = api->options.model.config;
    for (uint32_t i = 0; i < c->num_eos; i++)
        if (c->eos_token_id[i] >= 0) eos[out->n_eos_token_ids++] = (uint32_t)c->eos_token_id[i];
    out->eos_token_ids = eos;
    out->name = (char *)api->options.model.name;
    out->family = (char *)fs_model_family_name(c->family);
    out->vocab_size = c->vocab_size;
    out->hidden_size = c->hidden_size;
    out->num_layers = c->num_layers;
    out->num_experts = c->num_experts;
    out->experts_per_token = c->top_k;
    out->max_positions = api->options.model.context;
    out->expert_storage = c->expert_storage == FS_EXPERTS_SUB1 ? "sub1" : "dense";
    out->fingerprint = api->options.fingerprint;
}

void fs_api_get_model(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    fs_api *api = arg;
    fs_detail detail = {0};
    fs_status st = FS_INVALID;
    Foresight__V1__GetModelRequest *m = (Foresight__V1__GetModelRequest *)fs_api_unpack(
        &foresight__v1__get_model_request__descriptor, request, size, &detail);
    if (m) {
        st = fs_request_check_model(m->model, &api->options.model, &detail);
        fs_message_free(&m->base);
    }
    if (st != FS_OK) {
        fs_api_fail(call, st, detail.text);
        return;
    }
    Foresight__V1__Model model = FORESIGHT__V1__MODEL__INIT;
    uint32_t eos[FS_MAX_EOS];
    fill_model(api, &model, eos);
    answer(call, &model.base);
}

enum { NUM_PARTS = 8 };

static void fill_parts(const fs_engine_stats *e, const fs_dispatcher_stats *d,
                       Foresight__V1__PartTime part[NUM_PARTS], Foresight__V1__PartTime *list[NUM_PARTS])
{
    const struct {
        const char *name;
        int64_t ns;
    } parts[NUM_PARTS] = {
        {"pregate", e->pregate_ns},
        {"attention", e->attention_ns},
        {"head", e->head_ns},
        {"sample", e->sample_ns},
        {"dispatch", d->send_ns},
        {"experts_wait", e->experts_wait_ns},
        {"experts_compute", d->experts_compute_ns},
        {"idle", e->idle_ns},
    };
    for (int i = 0; i < NUM_PARTS; i++) {
        part[i] = (Foresight__V1__PartTime)FORESIGHT__V1__PART_TIME__INIT;
        part[i].part = (char *)parts[i].name;
        part[i].seconds = (double)parts[i].ns / 1e9;
        list[i] = &part[i];
    }
}

static void fill_counts(const fs_engine_stats *e, const fs_dispatcher_stats *d,
                        Foresight__V1__RouterStats *out)
{
    out->sequences_waiting = e->waiting;
    out->sequences_running = e->running;
    out->kv_pages_used = e->kv_pages_used + e->pregate_pages_used;
    out->kv_pages_total = e->kv_pages_total + e->pregate_pages_total;
    out->dispatches_in_flight = d->in_flight;
    out->nodes_connected = d->nodes_connected;
    out->placement_epoch = d->epoch;
    out->requests_accepted = e->accepted;
    out->requests_refused = e->refused;
    out->requests_finished = e->finished;
    out->requests_cancelled = e->cancelled;
    out->requests_failed = e->failed;
    out->prompt_tokens = e->prompt_tokens;
    out->generated_tokens = e->generated_tokens;
    out->steps = e->steps;
    out->dispatches = d->dispatches;
    out->redispatches = d->redispatches;
    out->kv_pages_cached = e->kv_pages_idle;
    out->preemptions = e->preemptions;
    out->tokens_recomputed = e->tokens_again;
    out->prompt_tokens_cached = e->tokens_found;
    out->routes_cached = e->routes_found;
}

void fs_api_get_stats(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    fs_api *api = arg;
    fs_engine_stats engine;
    fs_dispatcher_stats dispatcher;
    fs_engine_get_stats(api->options.engine, &engine);
    fs_dispatcher_get_stats(api->options.dispatcher, &dispatcher);
    Foresight__V1__RouterStats stats = FORESIGHT__V1__ROUTER_STATS__INIT;
    Foresight__V1__PartTime part[NUM_PARTS], *list[NUM_PARTS];
    fill_counts(&engine, &dispatcher, &stats);
    fill_parts(&engine, &dispatcher, part, list);
    stats.requests_refused += api->refused;
    stats.name = (char *)api->options.router_name;
    stats.version = FS_VERSION;
    stats.uptime_s = (double)(fs_clock_now(fs_clock_system()) - api->started_ns) / 1e9;
    stats.serving = fs_dispatcher_is_serving(api->options.dispatcher, NULL);
    stats.time = list;
    stats.n_time = NUM_PARTS;
    answer(call, &stats.base);
}
