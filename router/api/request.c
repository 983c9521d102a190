/* router/api/request.c: see request.h. */
#include "api/request.h"

#include <string.h>

#include "base/buffer.h"
#include "engine/stop.h"
#include "sched/sched.h"

typedef Foresight__V1__GenerateRequest generate_request;
typedef Foresight__V1__Sampling sampling_message;

/* ---- bytes ---- */

static uint64_t read_varint(fs_reader *in)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = fs_read_u8(in);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return value;
    }
    in->short_read = true;
    return 0;
}

/* The bytes of the next field if it is length-delimited; NULL for others, and at the end. */
static const uint8_t *next_field(fs_reader *in, uint64_t *number, uint64_t *size)
{
    uint64_t key = read_varint(in);
    *number = key >> 3;
    *size = 0;
    switch (key & 7) {
    case 0: read_varint(in); return NULL;
    case 1: fs_read_bytes(in, 8); return NULL;
    case 5: fs_read_bytes(in, 4); return NULL;
    case 2: *size = read_varint(in); return *size <= fs_reader_left(in) ? fs_read_bytes(in, *size) : NULL;
    default: in->short_read = true; return NULL;
    }
}

/* Adds the strings and messages in data to *count. depth: of messages that are gone into; ours have two. */
static void count_fields(const ProtobufCMessageDescriptor *type, const uint8_t *data, uint64_t size,
                         uint32_t depth, uint32_t *count)
{
    fs_reader in = fs_reader_of(data, size);
    while (fs_reader_left(&in) > 0 && !in.short_read && *count <= FS_API_MAX_FIELDS) {
        uint64_t number, length;
        const uint8_t *bytes = next_field(&in, &number, &length);
        if (in.short_read || number > UINT32_MAX) continue;
        const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(type,
                                                                                        (unsigned)number);
        bool is_message = field && field->type == PROTOBUF_C_TYPE_MESSAGE;
        if (!field || is_message || field->type == PROTOBUF_C_TYPE_STRING)
            ++*count; /* unknown ones are kept too */
        if (bytes && is_message && depth > 0)
            count_fields(field->descriptor, bytes, length, depth - 1, count);
    }
}

static fs_status check_strings(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t size,
                               fs_detail *detail)
{
    fs_reader in = fs_reader_of(data, size);
    while (fs_reader_left(&in) > 0 && !in.short_read) {
        uint64_t number, length;
        const uint8_t *bytes = next_field(&in, &number, &length);
        if (!bytes || in.short_read || number > UINT32_MAX) continue;
        const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(type,
                                                                                        (unsigned)number);
        if (!field || field->type != PROTOBUF_C_TYPE_STRING) continue;
        const uint8_t *zero = memchr(bytes, 0, length);
        if (zero)
            return fs_fail(detail, FS_INVALID, "%s: a zero byte at offset %zu", field->name,
                           (size_t)(zero - bytes));
    }
    return FS_OK;
}

fs_status fs_request_check_bytes(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t size,
                                 fs_detail *detail)
{
    uint32_t count = 0;
    count_fields(type, data, size, 3, &count);
    if (count > FS_API_MAX_FIELDS)
        return fs_fail(detail, FS_INVALID, "the request has over %u strings and messages", FS_API_MAX_FIELDS);
    return check_strings(type, data, size, detail);
}

fs_status fs_request_check_model(const char *asked, const fs_api_model *model, fs_detail *detail)
{
    if (!asked || !asked[0] || strcmp(asked, model->name) == 0) return FS_OK;
    return fs_fail(detail, FS_NOT_FOUND, "model: '%.100s' is not served here; '%s' is", asked, model->name);
}

/* ---- prompt ---- */

static fs_status check_text(const generate_request *m, const fs_api_model *model, fs_request *out,
                            fs_detail *detail)
{
    size_t size = m->text ? strlen(m->text) : 0;
    if (size == 0) return fs_fail(detail, FS_INVALID, "text: the prompt is empty");
    if (size > model->max_prompt_bytes)
        return fs_fail(detail, FS_INVALID, "text: %zu bytes are over the limit of %llu", size,
                       (unsigned long long)model->max_prompt_bytes);
    out->text = m->text;
    return FS_OK;
}

static fs_status check_ids(const generate_request *m, const fs_api_model *model, fs_request *out,
                           fs_detail *detail)
{
    size_t n = m->token_ids ? m->token_ids->n_ids : 0;
    if (n == 0) return fs_fail(detail, FS_INVALID, "token_ids: the prompt is empty");
    if (n >= model->context) /* before each id is looked at: the rest costs at most the context */
        return fs_fail(detail, FS_INVALID, "token_ids: %zu tokens leave no room in the context of %u", n,
                       model->context);
    for (size_t i = 0; i < n; i++)
        if (m->token_ids->ids[i] >= model->config->vocab_size)
            return fs_fail(detail, FS_INVALID, "token_ids: [%zu] %u is not below the vocabulary's %u", i,
                           m->token_ids->ids[i], model->config->vocab_size);
    out->prompt = m->token_ids->ids;
    out->prompt_tokens = (uint32_t)n;
    return FS_OK;
}

static fs_status check_prompt(const generate_request *m, const fs_api_model *model, fs_request *out,
                              fs_detail *detail)
{
    switch (m->prompt_case) {
    case FORESIGHT__V1__GENERATE_REQUEST__PROMPT_TEXT: return check_text(m, model, out, detail);
    case FORESIGHT__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS: return check_ids(m, model, out, detail);
    default: return fs_fail(detail, FS_INVALID, "prompt: neither text nor token_ids is set");
    }
}

/* ---- limits ---- */

static fs_status check_max_tokens(const generate_request *m, const fs_api_model *model, fs_request *out,
                                  fs_detail *detail)
{
    if (m->opt_max_tokens_case != FORESIGHT__V1__GENERATE_REQUEST__OPT_MAX_TOKENS_MAX_TOKENS) return FS_OK;
    if (m->max_tokens == 0 || m->max_tokens >= model->context)
        return fs_fail(detail, FS_INVALID, "max_tokens: %u is not in 1..%u", m->max_tokens,
                       model->context - 1);
    out->max_tokens = m->max_tokens;
    return FS_OK;
}

static fs_status check_stops(const generate_request *m, const fs_api_model *model, fs_detail *detail)
{
    if (m->n_stop > FS_MAX_STOPS)
        return fs_fail(detail, FS_INVALID, "stop: %zu strings are over %u", m->n_stop, FS_MAX_STOPS);
    for (size_t i = 0; i < m->n_stop; i++) {
        size_t size = strlen(m->stop[i]);
        if (size == 0 || size > FS_MAX_STOP_BYTES)
            return fs_fail(detail, FS_INVALID, "stop: [%zu] %zu bytes are not in 1..%u", i, size,
                           FS_MAX_STOP_BYTES);
    }
    if (m->n_stop_token_ids > FS_API_MAX_STOP_IDS)
        return fs_fail(detail, FS_INVALID, "stop_token_ids: %zu are over %u", m->n_stop_token_ids,
                       FS_API_MAX_STOP_IDS);
    for (size_t i = 0; i < m->n_stop_token_ids; i++)
        if (m->stop_token_ids[i] >= model->config->vocab_size)
            return fs_fail(detail, FS_INVALID, "stop_token_ids: [%zu] %u is not below the vocabulary's %u", i,
                           m->stop_token_ids[i], model->config->vocab_size);
    return FS_OK;
}

static fs_status check_rest(const generate_request *m, fs_request *out, fs_detail *detail)
{
    if (m->logprobs > FS_MAX_TOP_LOGPROBS)
        return fs_fail(detail, FS_INVALID, "logprobs: %u is not in 0..%u", m->logprobs, FS_MAX_TOP_LOGPROBS);
    size_t size = m->request_id ? strlen(m->request_id) : 0;
    if (size > FS_API_MAX_REQUEST_ID)
        return fs_fail(detail, FS_INVALID, "request_id: %zu bytes are over %u", size, FS_API_MAX_REQUEST_ID);
    if (m->priority < -FS_SCHED_MAX_PRIORITY || m->priority > FS_SCHED_MAX_PRIORITY)
        return fs_fail(detail, FS_INVALID, "priority: %d is not in %d..%d", m->priority,
                       -FS_SCHED_MAX_PRIORITY, FS_SCHED_MAX_PRIORITY);
    out->priority = m->priority;
    out->num_top = m->logprobs;
    out->want_logprob = m->logprobs > 0 || m->with_logprobs;
    return FS_OK;
}

/* ---- sampling ---- */

static fs_sampling defaults_of(const fs_model_config *config)
{
    return (fs_sampling){.temperature = config->default_do_sample ? config->default_temperature : 0,
                         .top_k = config->default_top_k,
                         .top_p = config->default_top_p,
                         .min_p = config->default_min_p,
                         .repetition_penalty = config->default_repetition_penalty};
}

#define TAKE(field, FIELD)                                                                                   \
    if (m->opt_##field##_case == FORESIGHT__V1__SAMPLING__OPT_##FIELD##_##FIELD) s->field = m->field

static void take_values(const sampling_message *m, fs_sampling *s)
{
    TAKE(temperature, TEMPERATURE);
    TAKE(top_k, TOP_K);
    TAKE(top_p, TOP_P);
    TAKE(min_p, MIN_P);
    TAKE(repetition_penalty, REPETITION_PENALTY);
    TAKE(presence_penalty, PRESENCE_PENALTY);
    TAKE(frequency_penalty, FREQUENCY_PENALTY);
    TAKE(seed, SEED);
}

/* A map's key that comes twice counts as it came last. */
static fs_status take_bias(const sampling_message *m, fs_arena *arena, fs_sampling *s, fs_detail *detail)
{
    size_t n = m->n_logit_bias, num = 0;
    if (n > FS_MAX_LOGIT_BIAS)
        return fs_fail(detail, FS_INVALID, "logit_bias: %zu entries are over %u", n, FS_MAX_LOGIT_BIAS);
    uint32_t *token = fs_arena_calloc(arena, n, sizeof *token);
    float *bias = fs_arena_calloc(arena, n, sizeof *bias);
    if (!token || !bias) return fs_fail(detail, FS_NO_MEMORY, "no memory for the request");
    for (size_t i = 0; i < n; i++) {
        size_t at = 0;
        while (at < num && token[at] != m->logit_bias[i]->key) at++;
        token[at] = m->logit_bias[i]->key;
        bias[at] = m->logit_bias[i]->value;
        if (at == num) num++;
    }
    s->num_bias = (uint32_t)num;
    s->bias_token = token;
    s->bias = bias;
    return FS_OK;
}

static fs_status check_sampling(const sampling_message *m, const fs_api_model *model, fs_arena *arena,
                                fs_request *out, fs_detail *detail)
{
    fs_sampling *s = &out->sampling;
    *s = defaults_of(model->config);
    if (m) {
        take_values(m, s);
        fs_status st = take_bias(m, arena, s, detail);
        if (st != FS_OK) return st;
    }
    fs_status st = fs_sampling_check(s, model->config->vocab_size, detail);
    if (st != FS_OK) return st;
    bool has_seed = m && m->opt_seed_case == FORESIGHT__V1__SAMPLING__OPT_SEED_SEED;
    out->needs_seed = !has_seed && s->temperature > 0;
    return FS_OK;
}

/* ---- all of it ---- */

fs_status fs_request_check(const generate_request *m, const fs_api_model *model, fs_arena *arena,
                           fs_request *out, fs_detail *detail)
{
    fs_request r = {0};
    fs_status st = fs_request_check_model(m->model, model, detail);
    if (st == FS_OK) st = check_prompt(m, model, &r, detail);
    if (st == FS_OK) st = check_max_tokens(m, model, &r, detail);
    if (st == FS_OK) st = check_stops(m, model, detail);
    if (st == FS_OK) st = check_rest(m, &r, detail);
    if (st == FS_OK) st = check_sampling(m->sampling, model, arena, &r, detail);
    if (st == FS_OK) *out = r;
    return st;
}

fs_status fs_request_max_tokens(const fs_request *request, size_t prompt_tokens, const fs_api_model *model,
                                uint32_t *out, fs_detail *detail)
{
    const char *field = request->text ? "text" : "token_ids";
    if (prompt_tokens == 0) return fs_fail(detail, FS_INVALID, "%s: the prompt is empty", field);
    if (prompt_tokens >= model->context)
        return fs_fail(detail, FS_INVALID, "%s: %zu tokens leave no room in the context of %u", field,
                       prompt_tokens, model->context);
    uint32_t room = model->context - (uint32_t)prompt_tokens;
    if (request->max_tokens > room)
        return fs_fail(detail, FS_INVALID,
                       "max_tokens: %u and a prompt of %zu tokens are over the context of %u",
                       request->max_tokens, prompt_tokens, model->context);
    if (request->max_tokens)
        *out = request->max_tokens;
    else
        *out = room < FS_API_DEFAULT_MAX_TOKENS ? room : FS_API_DEFAULT_MAX_TOKENS;
    return FS_OK;
}
