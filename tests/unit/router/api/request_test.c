/* Request checks: each wrong field is named, each default is the model's. */
#include "api/request.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

typedef Foresight__V1__GenerateRequest generate_request;
typedef Foresight__V1__Sampling sampling_message;

enum { VOCAB = 100, CONTEXT = 64 };

static const fs_model_config CONFIG = {.vocab_size = VOCAB,
                                       .max_positions = CONTEXT,
                                       .default_do_sample = true,
                                       .default_temperature = 0.7f,
                                       .default_top_p = 0.9f,
                                       .default_repetition_penalty = 1,
                                       .default_top_k = 40};
static const fs_api_model MODEL = {
    .name = "demo", .config = &CONFIG, .context = CONTEXT, .max_prompt_bytes = 32};

/* A request that is right; each row of the table makes one thing wrong. */
typedef struct {
    generate_request m;
    sampling_message s;
    Foresight__V1__TokenIds ids;
    uint32_t id[CONTEXT + 1];
    char *stop[32];
    Foresight__V1__Sampling__LogitBiasEntry bias[2000], *bias_list[2000];
    char text[300];
} request;

static request *fresh(void)
{
    request *r = test_calloc(1, sizeof *r);
    foresight__v1__generate_request__init(&r->m);
    foresight__v1__sampling__init(&r->s);
    foresight__v1__token_ids__init(&r->ids);
    r->m.prompt_case = FORESIGHT__V1__GENERATE_REQUEST__PROMPT_TEXT;
    r->m.text = "once";
    r->m.sampling = &r->s;
    r->ids.ids = r->id;
    r->m.stop = r->stop;
    r->s.logit_bias = r->bias_list;
    for (int i = 0; i < 2000; i++) {
        foresight__v1__sampling__logit_bias_entry__init(&r->bias[i]);
        r->bias_list[i] = &r->bias[i];
    }
    memset(r->text, 'x', sizeof r->text - 1);
    return r;
}

static void use_ids(request *r, size_t n)
{
    r->m.prompt_case = FORESIGHT__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    r->m.token_ids = &r->ids;
    r->ids.n_ids = n;
}

static void max_tokens(request *r, uint32_t n)
{
    r->m.opt_max_tokens_case = FORESIGHT__V1__GENERATE_REQUEST__OPT_MAX_TOKENS_MAX_TOKENS;
    r->m.max_tokens = n;
}

#define SET(field, FIELD, v)                                                                                 \
    r->s.opt_##field##_case = FORESIGHT__V1__SAMPLING__OPT_##FIELD##_##FIELD, r->s.field = (v)

static void no_prompt(request *r)
{
    r->m.prompt_case = 0;
}
static void empty_text(request *r)
{
    r->m.text = "";
}
static void null_text(request *r)
{
    r->m.text = NULL;
}
static void long_text(request *r)
{
    r->m.text = r->text;
}
static void no_ids(request *r)
{
    use_ids(r, 0);
}
static void null_ids(request *r)
{
    use_ids(r, 0), r->m.token_ids = NULL;
}
static void too_many_ids(request *r)
{
    use_ids(r, CONTEXT);
}
static void id_past_vocab(request *r)
{
    use_ids(r, 3), r->id[2] = VOCAB;
}
static void zero_tokens(request *r)
{
    max_tokens(r, 0);
}
static void context_tokens(request *r)
{
    max_tokens(r, CONTEXT);
}
static void huge_tokens(request *r)
{
    max_tokens(r, UINT32_MAX);
}
static void other_model(request *r)
{
    r->m.model = "other";
}
static void many_stops(request *r)
{
    r->m.n_stop = 17;
    for (int i = 0; i < 17; i++) r->stop[i] = "x";
}
static void empty_stop(request *r)
{
    r->m.n_stop = 2, r->stop[0] = "x", r->stop[1] = "";
}
static void long_stop(request *r)
{
    r->m.n_stop = 1, r->stop[0] = r->text;
}
static void stop_id(request *r)
{
    static uint32_t id[] = {3, VOCAB};
    r->m.stop_token_ids = id;
    r->m.n_stop_token_ids = 2;
}
static void many_stop_ids(request *r)
{
    static uint32_t id[FS_API_MAX_STOP_IDS + 1];
    r->m.stop_token_ids = id;
    r->m.n_stop_token_ids = FS_API_MAX_STOP_IDS + 1;
}
static void logprobs(request *r)
{
    r->m.logprobs = 21;
}
static void urgent(request *r)
{
    r->m.priority = 9;
}
static void long_id(request *r)
{
    r->m.request_id = r->text;
}
static void nan_temperature(request *r)
{
    SET(temperature, TEMPERATURE, NAN);
}
static void cold(request *r)
{
    SET(temperature, TEMPERATURE, -0.1f);
}
static void hot(request *r)
{
    SET(temperature, TEMPERATURE, 100.5f);
}
static void zero_top_p(request *r)
{
    SET(top_p, TOP_P, 0);
}
static void min_p(request *r)
{
    SET(min_p, MIN_P, 1.5f);
}
static void repetition(request *r)
{
    SET(repetition_penalty, REPETITION_PENALTY, 0);
}
static void presence(request *r)
{
    SET(presence_penalty, PRESENCE_PENALTY, 2.5f);
}
static void frequency(request *r)
{
    SET(frequency_penalty, FREQUENCY_PENALTY, -INFINITY);
}
static void bias_token(request *r)
{
    r->s.n_logit_bias = 1, r->bias[0].key = VOCAB;
}
static void bias_value(request *r)
{
    r->s.n_logit_bias = 1, r->bias[0].value = 101;
}
static void bias_nan(request *r)
{
    r->s.n_logit_bias = 1, r->bias[0].value = NAN;
}
static void many_bias(request *r)
{
    r->s.n_logit_bias = 1025;
    for (int i = 0; i < 1025; i++) r->bias[i].key = (uint32_t)i;
}

static void each_wrong_field_is_named(void **state)
{
    const struct {
        void (*spoil)(request *r);
        const char *field;
        fs_status want;
    } rows[] = {
        {no_prompt, "prompt:", FS_INVALID},
        {empty_text, "text:", FS_INVALID},
        {null_text, "text:", FS_INVALID},
        {long_text, "text:", FS_INVALID},
        {no_ids, "token_ids:", FS_INVALID},
        {null_ids, "token_ids:", FS_INVALID},
        {too_many_ids, "token_ids:", FS_INVALID},
        {id_past_vocab, "token_ids: [2] 100", FS_INVALID},
        {zero_tokens, "max_tokens: 0", FS_INVALID},
        {context_tokens, "max_tokens:", FS_INVALID},
        {huge_tokens, "max_tokens:", FS_INVALID},
        {other_model, "model: 'other'", FS_NOT_FOUND},
        {many_stops, "stop:", FS_INVALID},
        {empty_stop, "stop: [1]", FS_INVALID},
        {long_stop, "stop: [0]", FS_INVALID},
        {stop_id, "stop_token_ids: [1] 100", FS_INVALID},
        {many_stop_ids, "stop_token_ids:", FS_INVALID},
        {logprobs, "logprobs:", FS_INVALID},
        {urgent, "priority: 9", FS_INVALID},
        {long_id, "request_id:", FS_INVALID},
        {nan_temperature, "temperature", FS_INVALID},
        {cold, "temperature", FS_INVALID},
        {hot, "temperature", FS_INVALID},
        {zero_top_p, "top_p", FS_INVALID},
        {min_p, "min_p", FS_INVALID},
        {repetition, "repetition_penalty", FS_INVALID},
        {presence, "presence_penalty", FS_INVALID},
        {frequency, "frequency_penalty", FS_INVALID},
        {bias_token, "logit_bias", FS_INVALID},
        {bias_value, "logit_bias", FS_INVALID},
        {bias_nan, "logit_bias", FS_INVALID},
        {many_bias, "logit_bias: 1025", FS_INVALID},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        request *r = fresh();
        fs_arena arena = {0};
        fs_request out = {.num_top = 77};
        fs_detail detail = {0};
        rows[i].spoil(r);
        fs_status st = fs_request_check(&r->m, &MODEL, &arena, &out, &detail);
        if (st != rows[i].want || strncmp(detail.text, rows[i].field, strlen(rows[i].field)) != 0)
            fail_msg("row %zu: %s, '%s'", i, fs_status_name(st), detail.text);
        assert_int_equal(out.num_top, 77); /* untouched */
        fs_arena_fini(&arena);
        test_free(r);
    }
}

static void what_is_not_said_takes_the_models_default(void **state)
{
    request *r = fresh();
    fs_arena arena = {0};
    fs_request out;
    r->m.sampling = NULL;
    assert_int_equal(fs_request_check(&r->m, &MODEL, &arena, &out, NULL), FS_OK);
    assert_string_equal(out.text, "once");
    assert_true(out.sampling.temperature == 0.7f && out.sampling.top_p == 0.9f && out.sampling.top_k == 40);
    assert_true(out.sampling.repetition_penalty == 1 && out.sampling.min_p == 0);
    assert_true(out.needs_seed && !out.want_logprob && out.max_tokens == 0);
    r->m.sampling = &r->s;
    SET(temperature, TEMPERATURE, 0);
    assert_int_equal(fs_request_check(&r->m, &MODEL, &arena, &out, NULL), FS_OK);
    assert_true(out.sampling.temperature == 0 && out.sampling.top_k == 40 && !out.needs_seed);
    fs_arena_fini(&arena);
    test_free(r);
}

static void a_greedy_models_default_is_greedy(void **state)
{
    request *r = fresh();
    fs_arena arena = {0};
    fs_request out;
    fs_model_config config = CONFIG;
    fs_api_model model = MODEL;
    config.default_do_sample = false;
    model.config = &config;
    assert_int_equal(fs_request_check(&r->m, &model, &arena, &out, NULL), FS_OK);
    assert_true(out.sampling.temperature == 0 && !out.needs_seed);
    fs_arena_fini(&arena);
    test_free(r);
}

static void what_is_said_is_taken(void **state)
{
    request *r = fresh();
    fs_arena arena = {0};
    fs_request out;
    use_ids(r, 3);
    r->m.model = "demo";
    max_tokens(r, 9);
    SET(temperature, TEMPERATURE, 1.5f);
    SET(top_k, TOP_K, 0);
    SET(top_p, TOP_P, 1);
    SET(min_p, MIN_P, 0.25f);
    SET(seed, SEED, UINT64_MAX);
    r->m.with_logprobs = 1;
    r->s.n_logit_bias = 3;
    r->bias[0].key = r->bias[2].key = 7; /* the last counts */
    r->bias[0].value = 1;
    r->bias[1].key = 8;
    r->bias[2].value = -100;
    assert_int_equal(fs_request_check(&r->m, &MODEL, &arena, &out, NULL), FS_OK);
    assert_null(out.text);
    assert_int_equal(out.prompt_tokens, 3);
    assert_int_equal(out.max_tokens, 9);
    assert_true(out.sampling.temperature == 1.5f && out.sampling.top_k == 0 && out.sampling.top_p == 1);
    assert_true(out.sampling.min_p == 0.25f && out.sampling.seed == UINT64_MAX && !out.needs_seed);
    assert_true(out.want_logprob && out.num_top == 0);
    assert_int_equal(out.sampling.num_bias, 2);
    assert_true(out.sampling.bias_token[0] == 7 && out.sampling.bias[0] == -100);
    fs_arena_fini(&arena);
    test_free(r);
}

static void max_tokens_fit_between_prompt_and_context(void **state)
{
    const struct {
        uint32_t context, asked;
        size_t prompt;
        fs_status want;
        uint32_t max_tokens;
    } rows[] = {
        {64, 0, 1, FS_OK, 63},       {64, 0, 63, FS_OK, 1},
        {64, 0, 64, FS_INVALID, 0},  {64, 0, SIZE_MAX, FS_INVALID, 0},
        {64, 0, 0, FS_INVALID, 0},   {64, 60, 4, FS_OK, 60},
        {64, 60, 5, FS_INVALID, 0},  {4096, 0, 10, FS_OK, 256},
        {4096, 0, 3841, FS_OK, 255}, {4096, 4086, 10, FS_OK, 4086},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fs_api_model model = MODEL;
        fs_request r = {.max_tokens = rows[i].asked};
        uint32_t n = 0;
        model.context = rows[i].context;
        assert_int_equal(fs_request_max_tokens(&r, rows[i].prompt, &model, &n, NULL), rows[i].want);
        assert_int_equal(n, rows[i].max_tokens);
    }
}

static void a_zero_byte_in_a_string_is_named_and_not_cut_off(void **state)
{
    const struct {
        const char *bytes;
        size_t size;
        const char *field; /* NULL: nothing to complain of here */
    } rows[] = {
        {"", 0, NULL},
        {"\x12\x03"
         "abc",
         5, NULL},
        {"\x12\x03"
         "a\0c",
         5, "text: a zero byte at offset 1"},
        {"\x20\x05\x12\x01\0", 5, "text: a zero byte at offset 0"}, /* behind a varint */
        {"\x32\x01x\x32\x02x\0", 7, "stop: a zero byte at offset 1"},
        {"\x62\x01\0", 3, "request_id:"},
        {"\x1a\x02\x0a\0", 4, NULL}, /* token_ids: not a string */
        {"\x12\x7f"
         "a\0c",
         5, NULL}, /* malformed: unpacking says so */
        {"\x12", 1, NULL},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11, NULL},
        {"\x13\x12\x01\0", 4, NULL}, /* a group: proto3 has none */
        {"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
         "a\0",
         13, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fs_detail detail = {0};
        fs_status st = fs_request_check_bytes(&foresight__v1__generate_request__descriptor,
                                              (const uint8_t *)rows[i].bytes, rows[i].size, &detail);
        assert_int_equal(st, rows[i].field ? FS_INVALID : FS_OK);
        if (rows[i].field) assert_true(strncmp(detail.text, rows[i].field, strlen(rows[i].field)) == 0);
    }
}

/* size: of one tiny field; how many of them are too many. */
static void expect_too_many(const char *field, size_t size)
{
    static uint8_t bytes[(FS_API_MAX_FIELDS + 1) * 8];
    const ProtobufCMessageDescriptor *type = &foresight__v1__generate_request__descriptor;
    for (size_t i = 0; i <= FS_API_MAX_FIELDS; i++) memcpy(bytes + i * size, field, size);
    fs_detail detail = {0};
    assert_int_equal(fs_request_check_bytes(type, bytes, FS_API_MAX_FIELDS * size, &detail), FS_OK);
    assert_int_equal(fs_request_check_bytes(type, bytes, (FS_API_MAX_FIELDS + 1) * size, &detail),
                     FS_INVALID);
    assert_non_null(strstr(detail.text, "4096"));
}

static void more_fields_than_a_request_can_have_are_refused(void **state)
{
    expect_too_many("\x32\x01x", 3);    /* stop */
    expect_too_many("\x1a\x00", 2);     /* token_ids: a message */
    expect_too_many("\xfa\x7f\x00", 3); /* a field that we do not know */
    expect_too_many("\xf8\x7f\x00", 3); /* one that is a number */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_wrong_field_is_named),
        cmocka_unit_test(what_is_not_said_takes_the_models_default),
        cmocka_unit_test(a_greedy_models_default_is_greedy),
        cmocka_unit_test(what_is_said_is_taken),
        cmocka_unit_test(a_zero_byte_in_a_string_is_named_and_not_cut_off),
        cmocka_unit_test(more_fields_than_a_request_can_have_are_refused),
        cmocka_unit_test(max_tokens_fit_between_prompt_and_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
