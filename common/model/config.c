#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "model/json_int.h"

#define MAX_CONFIG_BYTES (1u << 20)
#define MAX_POSITIONS    (1u << 24) /* with every other size at its limit, a KV cache has a 64-bit size */

/* One object being read. The first thing that is wrong stays: getters after it do nothing, and the caller
 * looks once. */
typedef struct {
    const json_t *object;
    const char *file;
    fs_detail *detail;
    fs_status status;
} source;

static const json_t *need(source *s, const char *key)
{
    const json_t *value = fs_json_get(s->object, key);
    if (!value && s->status == FS_OK)
        s->status = fs_fail(s->detail, FS_INVALID, "%s: %s is missing", s->file, key);
    return value;
}

/* value must be an integer in [min, max]; 0 if it is not. */
static int64_t check_int(source *s, const char *key, const json_t *value, int64_t min, int64_t max)
{
    char found[80];
    if (s->status != FS_OK) return 0;
    if (json_is_integer(value) && json_integer_value(value) >= min && json_integer_value(value) <= max)
        return json_integer_value(value);
    s->status = fs_fail(s->detail, FS_INVALID, "%s: %s is %s, not an integer from %lld to %lld", s->file, key,
                        fs_json_describe(value, found), (long long)min, (long long)max);
    return 0;
}

static uint32_t need_u32(source *s, const char *key, uint32_t max)
{
    return (uint32_t)check_int(s, key, need(s, key), 1, max);
}

static uint32_t u32_or(source *s, const char *key, uint32_t min, uint32_t max, uint32_t absent)
{
    const json_t *value = fs_json_get(s->object, key);
    return value ? (uint32_t)check_int(s, key, value, min, max) : absent;
}

/* min < x <= max, or min <= x with closed. Compared as float: 1e-60 is not above 0 where it is used. */
static float check_float(source *s, const char *key, const json_t *value, float min, bool closed, float max)
{
    char found[80];
    if (s->status != FS_OK) return 0;
    float x = json_is_number(value) ? (float)json_number_value(value) : NAN;
    if ((x > min || (closed && x == min)) && x <= max) return x;
    s->status = fs_fail(s->detail, FS_INVALID, "%s: %s is %s, not a number %s %g and at most %g", s->file,
                        key, fs_json_describe(value, found), closed ? "from" : "above", (double)min,
                        (double)max);
    return 0;
}

static float need_float(source *s, const char *key, float above, float max)
{
    return check_float(s, key, need(s, key), above, false, max);
}

static bool check_bool(source *s, const char *key, const json_t *value)
{
    char found[80];
    if (s->status == FS_OK && !json_is_boolean(value))
        s->status = fs_fail(s->detail, FS_INVALID, "%s: %s is %s, not true or false", s->file, key,
                            fs_json_describe(value, found));
    return json_is_true(value);
}

static bool need_bool(source *s, const char *key)
{
    return check_bool(s, key, need(s, key));
}

static const char *need_string(source *s, const char *key)
{
    char found[80];
    const json_t *value = need(s, key);
    if (s->status == FS_OK && !json_is_string(value))
        s->status = fs_fail(s->detail, FS_INVALID, "%s: %s is %s, not a string", s->file, key,
                            fs_json_describe(value, found));
    return s->status == FS_OK ? json_string_value(value) : "";
}

static void unsupported(source *s, const char *key, const json_t *value)
{
    char found[80];
    if (s->status == FS_OK)
        s->status = fs_fail(s->detail, FS_UNSUPPORTED, "%s: %s %s is not supported", s->file, key,
                            fs_json_describe(value, found));
}

static void invalid(source *s, const char *rule, uint32_t a, uint32_t b)
{
    if (s->status == FS_OK)
        s->status = fs_fail(s->detail, FS_INVALID, "%s: %s (%u, %u)", s->file, rule, a, b);
}

/* Rope scaling changes every position's angles: to ignore it would give wrong text, so only the plain type
 * passes. The key of the type is spelt `type` in older files. */
static void refuse_rope_scaling(source *s, const char *key)
{
    const json_t *scaling = fs_json_get(s->object, key);
    if (!scaling) return;
    const json_t *type = fs_json_get(scaling, "rope_type");
    if (!type) type = fs_json_get(scaling, "type");
    if (!json_is_string(type)) return unsupported(s, key, scaling);
    if (strcmp(json_string_value(type), "default") != 0) unsupported(s, key, type);
}

/* Features of neighbouring families that would change the numbers if they were skipped. */
static void refuse_unknown_features(source *s)
{
    static const char *const off[] = {"attention_bias", "mlp_bias", "router_shared_across_layers",
                                      "qkv_bias"};
    for (size_t i = 0; i < sizeof(off) / sizeof(off[0]); i++) {
        const json_t *value = fs_json_get(s->object, off[i]);
        if (value && check_bool(s, off[i], value)) unsupported(s, off[i], value);
    }
    const json_t *window = fs_json_get(s->object, "sliding_window");
    if (window) unsupported(s, "sliding_window", window);
    refuse_rope_scaling(s, "rope_scaling");
    refuse_rope_scaling(s, "rope_parameters");
}

static void read_attention(source *s, fs_model_config *c)
{
    c->num_heads = need_u32(s, "num_attention_heads", FS_MAX_HIDDEN);
    c->num_kv_heads = u32_or(s, "num_key_value_heads", 1, FS_MAX_HIDDEN, c->num_heads);
    if (s->status != FS_OK) return;
    if (c->num_heads % c->num_kv_heads != 0)
        invalid(s, "num_attention_heads is not a multiple of num_key_value_heads", c->num_heads,
                c->num_kv_heads);
    if (!fs_json_get(s->object, "head_dim") && c->hidden_size % c->num_heads != 0)
        invalid(s, "hidden_size is not a multiple of num_attention_heads and there is no head_dim",
                c->hidden_size, c->num_heads);
    c->head_dim = u32_or(s, "head_dim", 1, FS_MAX_HIDDEN, c->hidden_size / c->num_heads);
    if (c->head_dim % 2 != 0) invalid(s, "head_dim is odd, rope needs pairs", c->head_dim, c->num_heads);
    if ((uint64_t)c->num_heads * c->head_dim > FS_MAX_HIDDEN)
        invalid(s, "num_attention_heads x head_dim is over 65536", c->num_heads, c->head_dim);
}

static void read_experts(source *s, fs_model_config *c)
{
    c->num_experts = need_u32(s, "num_experts", FS_MAX_EXPERTS);
    c->top_k = need_u32(s, "num_experts_per_tok", FS_MAX_TOP_K);
    c->moe_intermediate_size = need_u32(s, "moe_intermediate_size", FS_MAX_HIDDEN);
    c->norm_topk_prob = need_bool(s, "norm_topk_prob");
    if (c->top_k > c->num_experts)
        invalid(s, "num_experts_per_tok is over num_experts", c->top_k, c->num_experts);
    c->num_moe_layers = c->num_layers;
    for (uint32_t i = 0; i < c->num_layers; i++) c->moe_layer[i] = (uint16_t)i;
}

static void read_pregate(source *s, fs_model_config *c)
{
    c->pregate_hidden_size = need_u32(s, "router_hidden_size", FS_MAX_HIDDEN);
    c->pregate_num_layers = need_u32(s, "router_num_layers", FS_MAX_LAYERS);
    c->pregate_num_heads = need_u32(s, "router_num_heads", FS_MAX_HIDDEN);
    c->pregate_intermediate_size = need_u32(s, "router_intermediate_size", FS_MAX_HIDDEN);
    if (s->status == FS_OK && c->pregate_hidden_size % (2 * (uint64_t)c->pregate_num_heads) != 0)
        invalid(s, "router_hidden_size is not a multiple of twice router_num_heads", c->pregate_hidden_size,
                c->pregate_num_heads);
}

/* eos_token_id: one id, a list of them, or null. */
static void read_eos(source *s, fs_model_config *c)
{
    const json_t *value = fs_json_get(s->object, "eos_token_id");
    size_t count = json_is_array(value) ? json_array_size(value) : value ? 1 : 0;
    if (s->status != FS_OK || !value) return;
    if (count > FS_MAX_EOS) return invalid(s, "eos_token_id has too many ids", (uint32_t)count, FS_MAX_EOS);
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
        c->eos_token_id[i] = (int32_t)check_int(s, "eos_token_id", one, 0, (int64_t)c->vocab_size - 1);
    }
    c->num_eos = (uint32_t)count;
}

static void read_storage(source *s, fs_model_config *c)
{
    const json_t *quant = fs_json_get(s->object, "quantization_config");
    c->expert_storage = FS_EXPERTS_DENSE;
    if (!quant || s->status != FS_OK) return;
    source q = {quant, s->file, s->detail, FS_OK};
    const char *method = need_string(&q, "quant_method");
    if (q.status == FS_OK && strcmp(method, "foresight-sub1") != 0)
        unsupported(&q, "quant_method", fs_json_get(quant, "quant_method"));
    const json_t *version = need(&q, "version");
    if (check_int(&q, "version", version, 0, UINT32_MAX) != 1)
        unsupported(&q, "quantization_config of foresight-sub1, version", version);
    c->expert_storage = FS_EXPERTS_SUB1;
    s->status = q.status;
}

/* Names as in transformers' ACT2FN. */
static void read_activation(source *s, fs_model_config *c)
{
    static const struct {
        const char *name;
        fs_activation activation;
    } known[] = {{"silu", FS_ACT_SILU}, {"swish", FS_ACT_SILU},
                 {"gelu", FS_ACT_GELU}, {"gelu_new", FS_ACT_GELU_TANH},
                 {"relu", FS_ACT_RELU}, {"gelu_pytorch_tanh", FS_ACT_GELU_TANH}};
    const char *name = need_string(s, "hidden_act");
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(name, known[i].name) != 0) continue;
        c->activation = known[i].activation;
        return;
    }
    unsupported(s, "hidden_act", fs_json_get(s->object, "hidden_act"));
}

static void read_readme_moe(source *s, fs_model_config *c)
{
    c->family = FS_FAMILY_README_MOE;
    c->vocab_size = need_u32(s, "vocab_size", FS_MAX_VOCAB);
    c->hidden_size = need_u32(s, "hidden_size", FS_MAX_HIDDEN);
    c->num_layers = need_u32(s, "num_hidden_layers", FS_MAX_LAYERS);
    c->max_positions = need_u32(s, "max_position_embeddings", MAX_POSITIONS);
    c->rope_theta = need_float(s, "rope_theta", 0, 1e15f);
    c->rms_norm_eps = need_float(s, "rms_norm_eps", 0, 1);
    c->tie_word_embeddings = need_bool(s, "tie_word_embeddings");
    read_activation(s, c);
    refuse_unknown_features(s);
    read_attention(s, c);
    read_experts(s, c);
    read_pregate(s, c);
    read_storage(s, c);
    const json_t *bos = fs_json_get(s->object, "bos_token_id");
    c->bos_token_id = bos ? (int32_t)check_int(s, "bos_token_id", bos, 0, (int64_t)c->vocab_size - 1) : -1;
    read_eos(s, c);
}

/* Its ends of text replace config.json's, as in the reference; its bos_token_id says nothing new. */
static void read_generation(source *s, fs_model_config *c)
{
    const json_t *sample = fs_json_get(s->object, "do_sample"),
                 *temperature = fs_json_get(s->object, "temperature");
    const json_t *top_p = fs_json_get(s->object, "top_p");
    if (sample) c->default_do_sample = check_bool(s, "do_sample", sample);
    if (temperature) c->default_temperature = check_float(s, "temperature", temperature, 0, true, 100);
    if (top_p) c->default_top_p = check_float(s, "top_p", top_p, 0, false, 1);
    const json_t *min_p = fs_json_get(s->object, "min_p"),
                 *penalty = fs_json_get(s->object, "repetition_penalty");
    if (min_p) c->default_min_p = check_float(s, "min_p", min_p, 0, true, 1);
    if (penalty) c->default_repetition_penalty = check_float(s, "repetition_penalty", penalty, 0, false, 100);
    c->default_top_k = u32_or(s, "top_k", 0, FS_MAX_VOCAB, 0);
    read_eos(s, c);
}

static fs_status parse_model(const char *json, size_t size, const char *name, fs_model_config *out,
                             fs_detail *detail)
{
    json_t *root = NULL;
    fs_status st = fs_json_parse(json, size, name, FS_INVALID, &root, detail);
    if (st != FS_OK) return st;
    source s = {root, name, detail, FS_OK};
    const char *type = need_string(&s, "model_type");
    if (s.status == FS_OK && strcmp(type, fs_model_family_name(FS_FAMILY_README_MOE)) != 0)
        unsupported(&s, "model_type", fs_json_get(root, "model_type"));
    if (s.status == FS_OK) read_readme_moe(&s, out);
    json_decref(root);
    return s.status;
}

static fs_status parse_generation(const char *json, size_t size, const char *name, fs_model_config *out,
                                  fs_detail *detail)
{
    json_t *root = NULL;
    char label[512];
    snprintf(label, sizeof(label), "%s with generation_config.json", name);
    fs_status st = fs_json_parse(json, size, label, FS_INVALID, &root, detail);
    if (st != FS_OK) return st;
    source s = {root, label, detail, FS_OK};
    read_generation(&s, out);
    json_decref(root);
    return s.status;
}

fs_status fs_model_config_parse(const char *json, size_t size, const char *name, const char *generation,
                                size_t generation_size, fs_model_config *out, fs_detail *detail)
{
    fs_model_config config = {.default_temperature = 1, .default_top_p = 1, .default_repetition_penalty = 1};
    fs_status st = parse_model(json, size, name, &config, detail);
    if (st == FS_OK && generation) st = parse_generation(generation, generation_size, name, &config, detail);
    if (st == FS_OK) *out = config;
    return st;
}

fs_status fs_model_config_load(const char *dir, fs_model_config *out, fs_detail *detail)
{
    char path[4096], generation_path[4096];
    fs_buffer text = {0}, generation = {0};
    if (snprintf(path, sizeof(path), "%s/config.json", dir) >= (int)sizeof(path) ||
        snprintf(generation_path, sizeof(generation_path), "%s/generation_config.json", dir) >=
            (int)sizeof(generation_path))
        return fs_fail(detail, FS_INVALID, "%.200s...: the path is too long", dir);
    fs_status st = fs_file_read(path, MAX_CONFIG_BYTES, &text, detail);
    if (st != FS_OK) goto out;
    st = fs_file_read(generation_path, MAX_CONFIG_BYTES, &generation, detail);
    bool absent = st == FS_NOT_FOUND;
    if (absent && detail) *detail = (fs_detail){0};
    if (st != FS_OK && !absent) goto out;
    st = fs_model_config_parse((const char *)text.data, text.size, path,
                               absent ? NULL : (const char *)generation.data, generation.size, out, detail);
out:
    fs_buffer_free(&generation);
    fs_buffer_free(&text);
    return st;
}

const char *fs_model_family_name(fs_model_family family)
{
    switch (family) {
    case FS_FAMILY_README_MOE: return "readme_moe";
    }
    return "unknown";
}
