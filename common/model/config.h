/* common/model/config.h: a model directory's config.json (and generation_config.json) as a struct with every constraint
 * checked. Keys and spelling are those of Hugging Face checkpoints. */
#ifndef FS_MODEL_CONFIG_H
#define FS_MODEL_CONFIG_H

#include "base/status.h"

#define FS_MAX_LAYERS      512
#define FS_MAX_EXPERTS     4096 /* a layer */
#define FS_MAX_TOP_K       64
#define FS_MAX_VOCAB       (1u << 20)
#define FS_MAX_EOS         8
#define FS_MAX_HIDDEN      (1u << 16) /* hidden and intermediate sizes: int32 sums of int8 x ternary stay exact below 2^24 */

typedef enum { FS_FAMILY_README_MOE } fs_model_family; /* more families: one value and one backbone file each */

typedef enum {
    FS_ACT_SILU,           /* "silu", "swish" */
    FS_ACT_GELU,           /* "gelu": by the error function */
    FS_ACT_GELU_TANH,      /* "gelu_pytorch_tanh", "gelu_new" */
    FS_ACT_RELU,           /* "relu" */
    FS_ACT_SWIGLU_CLAMPED, /* gpt-oss */
} fs_activation;

/* How the routed experts are stored: as the checkpoint's own tensors, or compressed by foresight-compress. */
typedef enum {
    FS_EXPERTS_DENSE, /* <expert>.gate_proj.weight ...: bf16, f16 or f32; activations stay float32 */
    FS_EXPERTS_SUB1,  /* <expert>.gate_proj.sub1 ...: common/sub1 blobs; activations are int8 with one scale a row */
} fs_expert_storage;

/* Plain data, copied freely. Sizes are positive and within the limits above; products that index memory fit in size_t. */
typedef struct {
    fs_model_family family;
    uint32_t vocab_size, hidden_size, num_layers;
    uint32_t num_heads, num_kv_heads, head_dim; /* num_heads % num_kv_heads == 0; head_dim even */
    float rope_theta, rms_norm_eps;
    uint32_t max_positions; /* the context: prompt and generated tokens together */
    bool tie_word_embeddings;
    fs_activation activation;

    uint32_t num_experts, top_k; /* a layer; top_k <= num_experts. Layers are MoE where moe_layer says */
    uint32_t moe_intermediate_size;
    bool norm_topk_prob;
    uint32_t num_moe_layers;                /* number of MoE layers; their numbers in order: */
    uint16_t moe_layer[FS_MAX_LAYERS];      /* moe_layer[i] is the decoder layer of the i-th MoE layer */

    /* the pre-gating network beside the backbone (Read-ME); pregate_hidden_size 0: the gates sit inside the layers */
    uint32_t pregate_hidden_size, pregate_num_layers, pregate_num_heads, pregate_intermediate_size;

    fs_expert_storage expert_storage;

    int32_t bos_token_id; /* put before every prompt; -1: none */
    uint32_t num_eos;
    int32_t eos_token_id[FS_MAX_EOS];

    /* generation_config.json: what a request that says nothing gets; absent: temperature 1, top_p 1, top_k 0 */
    bool default_do_sample; /* false: greedy */
    float default_temperature, default_top_p, default_min_p, default_repetition_penalty;
    uint32_t default_top_k;
} fs_model_config;

/* Parses config.json's text; name stands for the file in details ("model/config.json"). generation (may be NULL) is
 * generation_config.json's text. FS_INVALID: not JSON, a key missing, of the wrong type or out of range (the detail names
 * key and value); FS_UNSUPPORTED: an unknown model_type, activation, rope scaling, or quant_method. Thread: any. */
FS_MUST_USE fs_status fs_model_config_parse(const char *json, size_t size, const char *name, const char *generation,
                                            size_t generation_size, fs_model_config *out, fs_detail *detail);
/* Reads dir/config.json and, if it is there, dir/generation_config.json. FS_NOT_FOUND, FS_IO, and as parse. */
FS_MUST_USE fs_status fs_model_config_load(const char *dir, fs_model_config *out, fs_detail *detail);

const char *fs_model_family_name(fs_model_family family); /* "readme_moe" */

/* A fingerprint of what decides a model's results: the bytes of config.json and, from the safetensors headers, every
 * tensor's name, dtype, shape and place; of compressed parts also their 64-byte headers, which carry the checksums of their
 * weights. Other weights are not read (that would be the whole file). Members of one cluster must agree on it. Thread: any. */
struct fs_tensors;
FS_MUST_USE fs_status fs_model_fingerprint(const char *dir, const struct fs_tensors *tensors, uint64_t *out,
                                           fs_detail *detail);

/* A model's name is its directory's, "models/demo/" and "." included: the last part of the resolved path, cut to fit. Touches the
 * file system. Thread: any. */
enum { FS_MODEL_NAME_BYTES = 256 };
void fs_model_name(const char *dir, char out[FS_MODEL_NAME_BYTES]);

#endif
