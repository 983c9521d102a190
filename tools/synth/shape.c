/* tools/synth/shape.c: the dimensions of published models, those of a config.json, and config.json of a shape. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "synth/synth.h"

enum { MAX_CONFIG_BYTES = 1 << 20 };

/* The gate network's size is not published: no model here has one. */
#define PREGATE                                                                                              \
    .pregate_hidden_size = 512, .pregate_num_layers = 1, .pregate_num_heads = 8,                             \
    .pregate_intermediate_size = 1024

/* Numbers are those of the config.json at `source` (Hugging Face), or of the paper. */
static const fs_synth_shape presets[] = {
    {.name = "mixtral-8x7b",
     .source = "mistralai/Mixtral-8x7B-v0.1",
     .differs = "the gates sit in its layers",
     .hidden_size = 4096,
     .moe_intermediate_size = 14336,
     .num_layers = 32,
     .num_experts = 8,
     .top_k = 2,
     .num_heads = 32,
     .num_kv_heads = 8,
     .head_dim = 128,
     .vocab_size = 32000,
     .max_positions = 32768,
     .norm_topk_prob = true,
     .rope_theta = 1e6,
     .rms_norm_eps = 1e-5,
     PREGATE},
    {.name = "mixtral-8x22b",
     .source = "mistralai/Mixtral-8x22B-v0.1",
     .differs = "the gates sit in its layers",
     .hidden_size = 6144,
     .moe_intermediate_size = 16384,
     .num_layers = 56,
     .num_experts = 8,
     .top_k = 2,
     .num_heads = 48,
     .num_kv_heads = 8,
     .head_dim = 128,
     .vocab_size = 32000,
     .max_positions = 65536,
     .norm_topk_prob = true,
     .rope_theta = 1e6,
     .rms_norm_eps = 1e-5,
     PREGATE},
    {.name = "qwen3-30b-a3b",
     .source = "Qwen/Qwen3-30B-A3B",
     .differs = "the gates sit in its layers; queries and keys are normed",
     .hidden_size = 2048,
     .moe_intermediate_size = 768,
     .num_layers = 48,
     .num_experts = 128,
     .top_k = 8,
     .num_heads = 32,
     .num_kv_heads = 4,
     .head_dim = 128,
     .vocab_size = 151936,
     .max_positions = 40960,
     .norm_topk_prob = true,
     .rope_theta = 1e6,
     .rms_norm_eps = 1e-6,
     PREGATE},
    {.name = "olmoe-1b-7b",
     .source = "allenai/OLMoE-1B-7B-0924",
     .differs = "the gates sit in its layers; queries and keys are normed",
     .hidden_size = 2048,
     .moe_intermediate_size = 1024,
     .num_layers = 16,
     .num_experts = 64,
     .top_k = 8,
     .num_heads = 16,
     .num_kv_heads = 16,
     .head_dim = 128,
     .vocab_size = 50304,
     .max_positions = 4096,
     .norm_topk_prob = false,
     .rope_theta = 1e4,
     .rms_norm_eps = 1e-5,
     PREGATE},
    {.name = "deepseek-v3",
     .source = "deepseek-ai/DeepSeek-V3",
     .differs = "the gates sit in its layers (sigmoid, in groups); 3 dense layers stand before these 58, "
                "each layer has a shared "
                "expert too, and one more layer predicts a second token: left out; latent attention caches "
                "576 numbers a "
                "token and layer, these 2 key/value heads 512",
     .hidden_size = 7168,
     .moe_intermediate_size = 2048,
     .num_layers = 58,
     .num_experts = 256,
     .top_k = 8,
     .num_heads = 128,
     .num_kv_heads = 2,
     .head_dim = 128,
     .vocab_size = 129280,
     .max_positions = 163840,
     .norm_topk_prob = true,
     .rope_theta = 1e4,
     .rms_norm_eps = 1e-6,
     PREGATE},
    {.name = "gpt-oss-120b",
     .source = "openai/gpt-oss-120b",
     .differs = "the gates sit in its layers; biases, clamped SwiGLU, attention sinks, and a window in every "
                "second layer",
     .hidden_size = 2880,
     .moe_intermediate_size = 2880,
     .num_layers = 36,
     .num_experts = 128,
     .top_k = 4,
     .num_heads = 64,
     .num_kv_heads = 8,
     .head_dim = 64,
     .vocab_size = 201088,
     .max_positions = 131072,
     .norm_topk_prob = true,
     .rope_theta = 150000,
     .rms_norm_eps = 1e-5,
     PREGATE},
    {.name = "switch-c2048",
     .source = "google/switch-c-2048; Fedus et al., arXiv 2101.03961, table 9",
     .differs = "an encoder and a decoder of 15 layers each (here 30 of a decoder) without rope; experts are "
                "two matrices of 2080 x 6144 with "
                "ReLU, here three of 2080 x 4096: as many weights",
     .hidden_size = 2080,
     .moe_intermediate_size = 4096,
     .num_layers = 30,
     .num_experts = 2048,
     .top_k = 1,
     .num_heads = 32,
     .num_kv_heads = 32,
     .head_dim = 64,
     .vocab_size = 32128,
     .max_positions = 4096,
     .norm_topk_prob = false,
     .tie_word_embeddings = true,
     .rope_theta = 1e4,
     .rms_norm_eps = 1e-6,
     PREGATE},
};
enum { NUM_PRESETS = sizeof(presets) / sizeof(presets[0]) };

const fs_synth_shape *fs_synth_preset(uint32_t index)
{
    return index < NUM_PRESETS ? &presets[index] : NULL;
}

/* ---- a config.json ---- */

typedef struct {
    const json_t *object;
    const char *path;
    fs_status status;
    fs_detail *detail;
} source;

/* The value of the first of the keys (divided by '|') that is there and not null. */
static const json_t *first_of(const source *s, const char *keys, char name[64])
{
    for (const char *at = keys; *at;) {
        size_t size = strcspn(at, "|");
        const json_t *value = json_object_getn(s->object, at, size);
        snprintf(name, 64, "%.*s", (int)size, at);
        if (value && !json_is_null(value)) return value;
        at += size + (at[size] == '|');
    }
    return NULL;
}

static uint32_t read_u32(source *s, const char *keys, uint32_t least, bool needed, uint32_t absent)
{
    char name[64];
    const json_t *value = first_of(s, keys, name);
    if (s->status != FS_OK || (!value && !needed)) return absent;
    if (!value)
        s->status = fs_fail(s->detail, FS_INVALID, "%s: has no %s", s->path, keys);
    else if (!json_is_integer(value) || json_integer_value(value) < least ||
             json_integer_value(value) > UINT32_MAX)
        s->status = fs_fail(s->detail, FS_INVALID, "%s: %s is not a whole number from %u", s->path, name,
                            least);
    return s->status == FS_OK ? (uint32_t)json_integer_value(value) : absent;
}

static double read_float(source *s, const char *key, double absent)
{
    char name[64];
    const json_t *value = first_of(s, key, name);
    if (s->status != FS_OK || !value) return absent;
    if (!json_is_number(value))
        s->status = fs_fail(s->detail, FS_INVALID, "%s: %s is not a number", s->path, name);
    return json_number_value(value);
}

static bool read_bool(source *s, const char *key, bool absent)
{
    char name[64];
    const json_t *value = first_of(s, key, name);
    if (s->status != FS_OK || !value) return absent;
    if (!json_is_boolean(value))
        s->status = fs_fail(s->detail, FS_INVALID, "%s: %s is not true or false", s->path, name);
    return json_is_true(value);
}

/* The least number of heads that divides num_heads and is not below wanted. */
static uint32_t divisor_from(uint32_t num_heads, uint32_t wanted)
{
    for (uint32_t i = wanted ? wanted : 1; i < num_heads; i++)
        if (num_heads % i == 0) return i;
    return num_heads;
}

/* Latent attention (DeepSeek) caches kv_lora_rank numbers, whatever it calls its heads. */
static void read_heads(source *s, fs_synth_shape *out)
{
    const uint32_t latent = read_u32(s, "kv_lora_rank", 1, false, 0);
    out->num_heads = read_u32(s, "num_attention_heads", 1, true, 1);
    if (s->status == FS_OK && out->num_heads > FS_MAX_HIDDEN)
        s->status = fs_fail(s->detail, FS_INVALID, "%s: num_attention_heads is over %u", s->path,
                            FS_MAX_HIDDEN);
    if (s->status != FS_OK) return;
    if (latent) {
        out->head_dim = read_u32(s, "v_head_dim", 1, true, 1);
        out->num_kv_heads = divisor_from(out->num_heads, (uint32_t)(latent / (2 * (uint64_t)out->head_dim)));
        return;
    }
    out->num_kv_heads = read_u32(s, "num_key_value_heads", 1, false, out->num_heads);
    out->head_dim = read_u32(s, "head_dim", 1, false, out->hidden_size / out->num_heads);
}

static void read_shape(source *s, fs_synth_shape *out)
{
    *out = (fs_synth_shape){.name = "config.json", PREGATE};
    out->hidden_size = read_u32(s, "hidden_size", 1, true, 1);
    out->moe_intermediate_size = read_u32(s, "moe_intermediate_size|intermediate_size", 1, true, 1);
    out->num_layers = read_u32(s, "num_hidden_layers", 1, true, 1);
    out->num_experts = read_u32(s, "num_experts|num_local_experts|n_routed_experts", 1, true, 1);
    out->top_k = read_u32(s, "num_experts_per_tok|experts_per_token", 1, true, 1);
    out->vocab_size = read_u32(s, "vocab_size", 1, true, 1);
    out->max_positions = read_u32(s, "max_position_embeddings", 1, false, 4096);
    read_heads(s, out);
    out->norm_topk_prob = read_bool(s, "norm_topk_prob", true);
    out->tie_word_embeddings = read_bool(s, "tie_word_embeddings", false);
    out->rope_theta = read_float(s, "rope_theta", 1e4);
    out->rms_norm_eps = read_float(s, "rms_norm_eps", 1e-5);
    out->pregate_hidden_size = read_u32(s, "router_hidden_size", 1, false, out->pregate_hidden_size);
    out->pregate_num_layers = read_u32(s, "router_num_layers", 1, false, out->pregate_num_layers);
    out->pregate_num_heads = read_u32(s, "router_num_heads", 1, false, out->pregate_num_heads);
    out->pregate_intermediate_size = read_u32(s, "router_intermediate_size", 1, false,
                                              out->pregate_intermediate_size);
    const uint32_t dense = read_u32(s, "first_k_dense_replace", 0, false, 0);
    if (s->status == FS_OK && dense >= out->num_layers)
        s->status = fs_fail(s->detail, FS_INVALID, "%s: first_k_dense_replace leaves no layer with experts",
                            s->path);
    out->num_layers -= dense;
}

fs_status fs_synth_shape_parse(const char *json, size_t size, const char *name, fs_synth_shape *out,
                               fs_detail *detail)
{
    json_error_t error = {0};
    json_t *root = json_loadb(json, size, JSON_REJECT_DUPLICATES, &error);
    source s = {root, name, FS_OK, detail};
    fs_synth_shape shape = {0};
    if (!json_is_object(root))
        s.status = fs_fail(detail, FS_INVALID, "%s: is not a JSON object: %s", name, error.text);
    else
        read_shape(&s, &shape);
    if (s.status == FS_OK) *out = shape;
    json_decref(root);
    return s.status;
}

static fs_status load_shape(const char *path, fs_synth_shape *out, fs_detail *detail)
{
    fs_buffer text = {0};
    fs_status st = fs_file_read(path, MAX_CONFIG_BYTES, &text, detail);
    if (st == FS_OK) st = fs_synth_shape_parse((const char *)text.data, text.size, path, out, detail);
    fs_buffer_free(&text);
    return st;
}

static fs_status unknown(const char *name, fs_detail *detail)
{
    char list[256] = "";
    size_t size = 0;
    for (uint32_t i = 0; i < NUM_PRESETS; i++)
        size += (size_t)snprintf(list + size, sizeof(list) - size, "%s%s", i ? ", " : "", presets[i].name);
    return fs_fail(detail, FS_NOT_FOUND, "--shape: '%.200s' is neither a file nor one of %s", name, list);
}

fs_status fs_synth_shape_find(const char *name, fs_synth_shape *out, fs_detail *detail)
{
    struct stat info;
    char path[4096];
    for (uint32_t i = 0; i < NUM_PRESETS; i++) {
        if (strcmp(name, presets[i].name) != 0) continue;
        *out = presets[i];
        return FS_OK;
    }
    if (stat(name, &info) != 0) return unknown(name, detail);
    const char *inside = S_ISDIR(info.st_mode) ? "/config.json" : "";
    if (snprintf(path, sizeof(path), "%s%s", name, inside) >= (int)sizeof(path))
        return fs_fail(detail, FS_INVALID, "%.200s...: the path is too long", name);
    return load_shape(path, out, detail);
}

/* ---- config.json ---- */

static void append_storage(fs_synth_format format, fs_buffer *out)
{
    if (format == FS_SYNTH_BF16) return;
    fs_buffer_printf(
        out,
        "  \"quantization_config\": {\n    \"quant_method\": \"foresight-sub1\",\n    \"version\": 1,\n");
    if (format == FS_SYNTH_FREE)
        fs_buffer_printf(out, "    \"format\": \"free\",\n");
    else
        fs_buffer_printf(out, "    \"format\": \"blocked\",\n    \"n\": %d,\n    \"m\": 16,\n",
                         format - FS_SYNTH_BLOCKED_1 + 1);
    fs_buffer_printf(out, "    \"activations\": \"int8\"\n  },\n");
}

static const char *word(bool value)
{
    return value ? "true" : "false";
}

void fs_synth_config_text(const fs_synth_shape *s, fs_synth_format format, fs_buffer *out)
{
    fs_buffer_printf(
        out,
        "{\n  \"architectures\": [\n    \"ReadMeMoeForCausalLM\"\n  ],\n  \"model_type\": \"readme_moe\",\n");
    fs_buffer_printf(out, "  \"vocab_size\": %u,\n  \"hidden_size\": %u,\n  \"num_hidden_layers\": %u,\n",
                     s->vocab_size, s->hidden_size, s->num_layers);
    fs_buffer_printf(out,
                     "  \"num_attention_heads\": %u,\n  \"num_key_value_heads\": %u,\n  \"head_dim\": %u,\n",
                     s->num_heads, s->num_kv_heads, s->head_dim);
    fs_buffer_printf(
        out, "  \"max_position_embeddings\": %u,\n  \"rope_theta\": %.9g,\n  \"rms_norm_eps\": %.9g,\n",
        s->max_positions, s->rope_theta, s->rms_norm_eps);
    fs_buffer_printf(out,
                     "  \"hidden_act\": \"silu\",\n  \"num_experts\": %u,\n  \"num_experts_per_tok\": %u,\n",
                     s->num_experts, s->top_k);
    fs_buffer_printf(out, "  \"moe_intermediate_size\": %u,\n  \"norm_topk_prob\": %s,\n",
                     s->moe_intermediate_size, word(s->norm_topk_prob));
    fs_buffer_printf(out, "  \"router_hidden_size\": %u,\n  \"router_num_layers\": %u,\n",
                     s->pregate_hidden_size, s->pregate_num_layers);
    fs_buffer_printf(out, "  \"router_num_heads\": %u,\n  \"router_intermediate_size\": %u,\n",
                     s->pregate_num_heads, s->pregate_intermediate_size);
    fs_buffer_printf(out, "  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"bfloat16\",\n",
                     word(s->tie_word_embeddings));
    append_storage(format, out);
    fs_buffer_printf(out, "  \"bos_token_id\": 0,\n  \"eos_token_id\": 0\n}\n");
}
