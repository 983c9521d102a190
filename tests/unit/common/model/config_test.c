/* tests/unit/common/model/config_test.c: config.json and generation_config.json, one thing wrong at a
 * time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/config.h"
#include "model/names.h"

static const char good[] =
    "{\"vocab_size\":4096,\"hidden_size\":256,\"num_hidden_layers\":6,\"num_attention_heads\":4,"
    "\"num_key_value_heads\":2,\"head_dim\":64,\"rope_theta\":10000.0,\"rms_norm_eps\":1e-05,"
    "\"max_position_embeddings\":1024,\"num_experts\":32,\"num_experts_per_tok\":2,\"moe_intermediate_size\":"
    "384,"
    "\"norm_topk_prob\":true,\"router_hidden_size\":128,\"router_num_layers\":1,\"router_num_heads\":4,"
    "\"router_intermediate_size\":256,\"router_shared_across_layers\":false,\"tie_word_embeddings\":true,"
    "\"model_type\":\"readme_moe\",\"hidden_act\":\"silu\",\"bos_token_id\":0,\"eos_token_id\":0}";

static fs_status parse(const char *json, fs_model_config *out, fs_detail *detail)
{
    return fs_model_config_parse(json, strlen(json), "config.json", NULL, 0, out, detail);
}

/* good with key set to value (JSON text); NULL takes the key away. */
static fs_status parse_with(const char *key, const char *value, fs_model_config *out, fs_detail *detail)
{
    json_t *root = json_loads(good, 0, NULL);
    if (value)
        json_object_set_new(root, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(root, key);
    char *text = json_dumps(root, 0);
    fs_status st = parse(text, out, detail);
    free(text);
    json_decref(root);
    return st;
}

static void expect(const char *key, const char *value, fs_status status)
{
    fs_model_config config = {.vocab_size = 77}, before = config;
    fs_detail detail = {0};
    fs_status st = parse_with(key, value, &config, &detail);
    if (st != status)
        fail_msg("%s: %s gives %s (%s)", key, value ? value : "absent", fs_status_name(st), detail.text);
    if (st == FS_OK) return;
    assert_memory_equal(&config, &before, sizeof(config));
    assert_non_null(strstr(detail.text, "config.json"));
    if (!strstr(detail.text, key)) fail_msg("'%s' does not name %s", detail.text, key);
}

static void every_key_arrives(void **state)
{
    fs_model_config c;
    assert_int_equal(parse(good, &c, NULL), FS_OK);
    assert_int_equal(c.family, FS_FAMILY_README_MOE);
    assert_string_equal(fs_model_family_name(c.family), "readme_moe");
    assert_int_equal(c.vocab_size, 4096);
    assert_int_equal(c.hidden_size, 256);
    assert_int_equal(c.num_layers, 6);
    assert_int_equal(c.num_heads, 4);
    assert_int_equal(c.num_kv_heads, 2);
    assert_int_equal(c.head_dim, 64);
    assert_true(c.rope_theta == 10000.0f && c.rms_norm_eps == 1e-5f);
    assert_int_equal(c.max_positions, 1024);
    assert_true(c.tie_word_embeddings && c.norm_topk_prob);
    assert_int_equal(c.num_experts, 32);
    assert_int_equal(c.top_k, 2);
    assert_int_equal(c.moe_intermediate_size, 384);
    assert_int_equal(c.num_moe_layers, 6);
    for (uint32_t i = 0; i < 6; i++) assert_int_equal(c.moe_layer[i], i);
    assert_int_equal(c.pregate_hidden_size, 128);
    assert_int_equal(c.pregate_num_layers, 1);
    assert_int_equal(c.pregate_num_heads, 4);
    assert_int_equal(c.pregate_intermediate_size, 256);
    assert_int_equal(c.expert_storage, FS_EXPERTS_DENSE);
    assert_int_equal(c.bos_token_id, 0);
    assert_int_equal(c.num_eos, 1);
    assert_int_equal(c.eos_token_id[0], 0);
    assert_true(!c.default_do_sample && c.default_temperature == 1 && c.default_top_p == 1 &&
                c.default_top_k == 0);
}

static void other_models_are_refused_by_name(void **state)
{
    static const char *const types[] = {"deepseek_v3", "gpt_oss",   "llama",     "mixtral",
                                        "olmoe",       "qwen2_moe", "qwen3_moe", "switch_transformers"};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        fs_model_config c;
        fs_detail detail = {0};
        char json[128];
        snprintf(json, sizeof(json), "{\"model_type\": \"%s\", \"vocab_size\": 512}", types[i]);
        assert_int_equal(parse(json, &c, &detail), FS_UNSUPPORTED);
        assert_non_null(strstr(detail.text, types[i]));
    }
}

static void activations_are_known_by_their_names(void **state)
{
    static const struct {
        const char *name;
        fs_activation activation;
    } known[] = {
        {"silu", FS_ACT_SILU}, {"gelu", FS_ACT_GELU}, {"gelu_new", FS_ACT_GELU_TANH}, {"relu", FS_ACT_RELU}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        char json[sizeof(good) + 32];
        const char *at = strstr(good, "\"silu\"");
        snprintf(json, sizeof(json), "%.*s\"%s\"%s", (int)(at - good), good, known[i].name, at + 6);
        fs_model_config c;
        assert_int_equal(parse(json, &c, NULL), FS_OK);
        assert_int_equal(c.activation, known[i].activation);
    }
}

static void what_would_change_the_numbers_is_unsupported(void **state)
{
    expect("hidden_act", "\"quick_gelu\"", FS_UNSUPPORTED);
    expect("rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":4}", FS_UNSUPPORTED);
    expect("rope_scaling", "{\"type\":\"linear\",\"factor\":4}", FS_UNSUPPORTED);
    expect("rope_scaling", "7", FS_UNSUPPORTED);
    expect("rope_parameters", "{\"rope_type\":\"llama3\"}", FS_UNSUPPORTED);
    expect("rope_scaling", "{\"rope_type\":\"default\"}", FS_OK);
    expect("rope_scaling", "null", FS_OK);
    expect("attention_bias", "true", FS_UNSUPPORTED);
    expect("router_shared_across_layers", "true", FS_UNSUPPORTED);
    expect("sliding_window", "16", FS_UNSUPPORTED);
}

static void a_compressed_model_says_so(void **state)
{
    fs_model_config c;
    assert_int_equal(parse_with("quantization_config",
                                "{\"quant_method\":\"foresight-sub1\",\"version\":1,\"x\":2}", &c, NULL),
                     FS_OK);
    assert_int_equal(c.expert_storage, FS_EXPERTS_SUB1);
    expect("version", NULL, FS_OK);
    expect("quantization_config", "{\"quant_method\":\"foresight-sub1\",\"version\":2}", FS_UNSUPPORTED);
    fs_detail detail = {0};
    assert_int_equal(parse_with("quantization_config", "{\"quant_method\":\"gptq\"}", &c, &detail),
                     FS_UNSUPPORTED);
    assert_non_null(strstr(detail.text, "'gptq'"));
    assert_int_equal(parse_with("quantization_config", "{\"quant_method\":\"foresight-sub1\"}", &c, &detail),
                     FS_INVALID);
    assert_non_null(strstr(detail.text, "version"));
    assert_int_equal(parse_with("quantization_config", "[]", &c, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "quant_method"));
}

static void missing_keys_are_named(void **state)
{
    static const char *const keys[] = {"vocab_size",
                                       "hidden_size",
                                       "num_hidden_layers",
                                       "num_attention_heads",
                                       "rope_theta",
                                       "rms_norm_eps",
                                       "max_position_embeddings",
                                       "num_experts",
                                       "num_experts_per_tok",
                                       "moe_intermediate_size",
                                       "norm_topk_prob",
                                       "router_hidden_size",
                                       "router_num_layers",
                                       "router_num_heads",
                                       "router_intermediate_size",
                                       "tie_word_embeddings",
                                       "model_type",
                                       "hidden_act"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        expect(keys[i], NULL, FS_INVALID);
        expect(keys[i], "null", FS_INVALID);
        expect(keys[i], "[1]", FS_INVALID);
        expect(keys[i], "{}", FS_INVALID);
    }
    static const char *const optional[] = {"num_key_value_heads", "head_dim", "bos_token_id", "eos_token_id"};
    for (size_t i = 0; i < 4; i++) expect(optional[i], NULL, FS_OK);
}

static void sizes_are_whole_and_within_limits(void **state)
{
    static const char *const sizes[] = {"vocab_size",
                                        "hidden_size",
                                        "num_hidden_layers",
                                        "num_attention_heads",
                                        "num_key_value_heads",
                                        "head_dim",
                                        "max_position_embeddings",
                                        "num_experts",
                                        "num_experts_per_tok",
                                        "moe_intermediate_size",
                                        "router_hidden_size",
                                        "router_num_layers",
                                        "router_num_heads",
                                        "router_intermediate_size"};
    static const char *const wrong[] = {"0",   "-1",  "4294967296", "9223372036854775807",
                                        "2.0", "1e3", "\"4\"",      "true"};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (size_t j = 0; j < sizeof(wrong) / sizeof(wrong[0]); j++) expect(sizes[i], wrong[j], FS_INVALID);
    expect("num_hidden_layers", "512", FS_OK);
    expect("num_hidden_layers", "513", FS_INVALID);
    expect("num_experts", "4097", FS_INVALID);
    expect("num_experts_per_tok", "65", FS_INVALID);
    expect("vocab_size", "1048577", FS_INVALID);
}

static void impossible_shapes_are_refused(void **state)
{
    expect("num_key_value_heads", "3", FS_INVALID);  /* does not divide 4 */
    expect("head_dim", "63", FS_INVALID);            /* rope needs pairs */
    expect("head_dim", "32768", FS_INVALID);         /* 4 heads of it are too wide */
    expect("num_experts_per_tok", "33", FS_INVALID); /* of 32 */
    expect("router_num_heads", "3", FS_INVALID);
    expect("router_num_heads", "128", FS_INVALID); /* heads of one element */
    expect("bos_token_id", "4096", FS_INVALID);
    expect("bos_token_id", "-1", FS_INVALID);
    expect("eos_token_id", "4096", FS_INVALID);
    expect("eos_token_id", "[1,2,3,4,5,6,7,8]", FS_OK);
    expect("eos_token_id", "[1,2,3,4,5,6,7,8,9]", FS_INVALID);
    expect("eos_token_id", "[1,\"2\"]", FS_INVALID);
    expect("eos_token_id", "[]", FS_OK);
}

static void floats_are_finite_and_positive(void **state)
{
    expect("rope_theta", "0", FS_INVALID);
    expect("rope_theta", "-1.5", FS_INVALID);
    expect("rope_theta", "1e300", FS_INVALID);   /* infinite as float */
    expect("rms_norm_eps", "1e-60", FS_INVALID); /* zero as float */
    expect("rope_theta", "500000", FS_OK);
}

static void text_that_is_no_json_object_is_invalid(void **state)
{
    static const char *const bad[] = {"",
                                      " ",
                                      "[]",
                                      "3",
                                      "null",
                                      "{",
                                      "{\"a\":1,}",
                                      "{\"a\":NaN}",
                                      "{\"a\":Infinity}",
                                      "{\"a\":-Infinity}",
                                      "{\"a\":1e999}",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"a\":\"\xff\"}",
                                      "{} x",
                                      "{\"a\":99999999999999999999}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        fs_model_config c;
        fs_detail detail = {0};
        assert_int_equal(parse(bad[i], &c, &detail), FS_INVALID);
        assert_non_null(strstr(detail.text, "config.json: "));
    }
}

static void deep_nesting_is_invalid(void **state)
{
    enum { depth = 1000000 };
    char *text = malloc(depth + 6);
    fs_model_config c;
    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', depth);
    assert_int_equal(fs_model_config_parse(text, depth + 5, "config.json", NULL, 0, &c, NULL), FS_INVALID);
    free(text);
}

static void every_truncation_is_invalid(void **state)
{
    fs_model_config c;
    for (size_t n = 0; n + 1 < sizeof(good) - 1; n++)
        assert_int_equal(fs_model_config_parse(good, n, "config.json", NULL, 0, &c, NULL), FS_INVALID);
}

static fs_status parse_generation(const char *text, fs_model_config *out, fs_detail *detail)
{
    return fs_model_config_parse(good, sizeof(good) - 1, "config.json", text, strlen(text), out, detail);
}

static void generation_config_gives_defaults(void **state)
{
    fs_model_config c;
    fs_detail detail = {0};
    assert_int_equal(parse_generation("{\"do_sample\":true,\"temperature\":0.5,\"top_p\":0.9,\"top_k\":50,"
                                      "\"min_p\":0.25,\"repetition_penalty\":1.5,"
                                      "\"eos_token_id\":[3,4]}",
                                      &c, NULL),
                     FS_OK);
    assert_true(c.default_do_sample && c.default_temperature == 0.5f && c.default_top_p == 0.9f);
    assert_true(c.default_min_p == 0.25f && c.default_repetition_penalty == 1.5f);
    assert_int_equal(c.default_top_k, 50);
    assert_int_equal(c.num_eos, 2);
    assert_int_equal(c.eos_token_id[1], 4);
    static const char *const bad[] = {"{\"temperature\":-1}",
                                      "{\"temperature\":\"hot\"}",
                                      "{\"top_p\":0}",
                                      "{\"top_p\":1.5}",
                                      "{\"top_k\":-1}",
                                      "{\"min_p\":2}",
                                      "{\"repetition_penalty\":0}",
                                      "{\"do_sample\":1}",
                                      "{\"eos_token_id\":5000}",
                                      "{",
                                      "[]"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(parse_generation(bad[i], &c, &detail), FS_INVALID);
        assert_non_null(strstr(detail.text, "generation_config.json"));
    }
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void a_directory_is_loaded_with_or_without_generation_config(void **state)
{
    char dir[] = "/tmp/fs-config-XXXXXX", path[256];
    fs_model_config c;
    fs_detail detail = {0};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(fs_model_config_load(dir, &c, &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, dir));
    write_file(dir, "config.json", good);
    assert_int_equal(fs_model_config_load(dir, &c, &detail), FS_OK);
    assert_false(c.default_do_sample);
    write_file(dir, "generation_config.json", "{\"do_sample\":true}");
    assert_int_equal(fs_model_config_load(dir, &c, &detail), FS_OK);
    assert_true(c.default_do_sample);
    write_file(dir, "generation_config.json", "");
    assert_int_equal(fs_model_config_load(dir, &c, &detail), FS_INVALID);
    snprintf(path, sizeof(path), "%s/config.json", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/generation_config.json", dir);
    unlink(path);
    rmdir(dir);
}

static void experts_have_names_and_shapes(void **state)
{
    fs_model_config c;
    char name[128];
    uint32_t rows, cols;
    assert_int_equal(parse(good, &c, NULL), FS_OK);
    size_t n = fs_expert_tensor_name(&c, FS_EXPERTS_DENSE, 3, 17, FS_PART_GATE, name);
    assert_string_equal(name, "model.layers.3.mlp.experts.17.gate_proj.weight");
    assert_int_equal(n, strlen(name));
    fs_expert_tensor_name(&c, FS_EXPERTS_SUB1, UINT32_MAX, UINT32_MAX, FS_PART_DOWN, name);
    assert_string_equal(name, "model.layers.4294967295.mlp.experts.4294967295.down_proj.sub1");
    fs_expert_part_shape(&c, FS_PART_UP, &rows, &cols);
    assert_true(rows == 384 && cols == 256);
    fs_expert_part_shape(&c, FS_PART_DOWN, &rows, &cols);
    assert_true(rows == 256 && cols == 384);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_arrives),
        cmocka_unit_test(other_models_are_refused_by_name),
        cmocka_unit_test(what_would_change_the_numbers_is_unsupported),
        cmocka_unit_test(a_compressed_model_says_so),
        cmocka_unit_test(missing_keys_are_named),
        cmocka_unit_test(sizes_are_whole_and_within_limits),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(floats_are_finite_and_positive),
        cmocka_unit_test(text_that_is_no_json_object_is_invalid),
        cmocka_unit_test(deep_nesting_is_invalid),
        cmocka_unit_test(every_truncation_is_invalid),
        cmocka_unit_test(activations_are_known_by_their_names),
        cmocka_unit_test(generation_config_gives_defaults),
        cmocka_unit_test(a_directory_is_loaded_with_or_without_generation_config),
        cmocka_unit_test(experts_have_names_and_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
