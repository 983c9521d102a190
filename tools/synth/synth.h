/* tools/synth/synth.h: model directories with random weights, of any shape, as fast as a disk takes them: for load tests, for planning
 * and for trying foresight-compress at scale. What is written is what docs/formats.md says, or a plain bf16 checkpoint. */
#ifndef FS_SYNTH_SYNTH_H
#define FS_SYNTH_SYNTH_H

#include "base/arena.h"
#include "base/buffer.h"
#include "compute/pool.h"
#include "model/config.h"
#include "sub1/random.h"

/* ---- shapes (shape.c) ---- */

/* A model's dimensions. Whatever family they are of, the model is written as readme_moe: every layer attention and routed experts, and a
 * pre-gating network beside them. Plain data. */
typedef struct {
    const char *name;   /* static, or "config.json" */
    const char *source; /* where the numbers are published; NULL for a file's */
    const char
        *differs; /* what the published model has and this one has not, or has otherwise; NULL: not told */
    uint32_t hidden_size, moe_intermediate_size, num_layers, num_experts, top_k;
    uint32_t num_heads, num_kv_heads, head_dim, vocab_size, max_positions;
    bool norm_topk_prob, tie_word_embeddings;
    double rope_theta, rms_norm_eps;
    uint32_t pregate_hidden_size, pregate_num_layers, pregate_num_heads, pregate_intermediate_size;
} fs_synth_shape;

/* NULL: there are no more. */
const fs_synth_shape *fs_synth_preset(uint32_t index);
/* The dimensions in a config.json of readme_moe, or of any family that spells them like Mixtral, OLMoE, Qwen-MoE, DeepSeek or gpt-oss. Dense
 * layers in front are left out; latent attention gets as many key/value heads as make its cache about as large. name stands for the file in
 * details. FS_INVALID: not JSON, a dimension missing or not a whole number; what config.h does not allow is found by fs_synth_plan_make. */
FS_MUST_USE fs_status fs_synth_shape_parse(const char *json, size_t size, const char *name,
                                           fs_synth_shape *out, fs_detail *detail);
/* A preset's name; or a config.json, or a directory that has one. FS_NOT_FOUND: neither; and as parse. */
FS_MUST_USE fs_status fs_synth_shape_find(const char *name, fs_synth_shape *out, fs_detail *detail);

typedef enum {
    FS_SYNTH_BLOCKED_1,
    FS_SYNTH_BLOCKED_2,
    FS_SYNTH_BLOCKED_3,
    FS_SYNTH_FREE,
    FS_SYNTH_BF16,
} fs_synth_format;
#define FS_SYNTH_FORMATS "blocked:1:16|blocked:2:16|blocked:3:16|free|bf16"

/* config.json of the shape. */
void fs_synth_config_text(const fs_synth_shape *shape, fs_synth_format format, fs_buffer *out);
/* tokenizer.json: byte-level BPE without merges, so a token a byte: 0 is <|endoftext|>, 1 to 256 the bytes, and tokens that no text becomes
 * fill the rest. vocab_size >= 257. */
enum { FS_SYNTH_MIN_VOCAB = 257 };
void fs_synth_tokenizer_text(uint32_t vocab_size, fs_buffer *out);

/* ---- which expert is popular (popularity.c) ---- */

/* How much each expert's logit is shifted, in standard deviations of the logits, so that expert number i of a layer, counted by falling
 * popularity, is among a token's top_k about as often as (i + 1)^-skew says; skew 0: all alike. For normally distributed logits: the shift is the quantile of
 * the wanted probability, taken as if the bar for the top_k were the same for each token. Which expert has which place is the
 * seed's. bias [num_experts] */
void fs_synth_popularity(uint32_t num_experts, uint32_t top_k, double skew, uint64_t seed, float *bias);

/* ---- what will be written (plan.c) ---- */

typedef enum {
    FS_FILL_ONES,   /* a norm's weights */
    FS_FILL_NORMAL, /* normally distributed, nearly: a sum of four bytes */
    FS_FILL_SUB1,   /* a blob; std is the magnitude of its weights */
} fs_synth_fill_kind;
typedef enum {
    FS_COLUMN_DRAWN,    /* like the others */
    FS_COLUMN_CONSTANT, /* first_value in every row */
    FS_COLUMN_BIASES,   /* the plan's bias of the row */
} fs_synth_column;

typedef struct {
    const char *name;
    fs_synth_fill_kind kind;
    fs_synth_column first_column;
    float std, first_value;
    uint32_t file;       /* index in the plan's */
    uint32_t stock;      /* index in the plan's */
    uint32_t rows, cols; /* cols 0: a vector of rows */
    uint64_t bytes;      /* in the file; of a blob with the zeros behind it */
    uint64_t blob_bytes; /* without them */
    uint64_t seed;
} fs_synth_tensor;

typedef struct {
    fs_synth_format format;
    uint32_t num_layers; /* the first of them; 0: all */
    uint64_t seed;
    double skew;          /* Zipf's exponent of the experts' popularity; 0: even */
    uint64_t shard_bytes; /* where a file is cut; 0: 5 GiB */
} fs_synth_options;

/* Everything about the directory but its bytes. Read-only once made. */
typedef struct {
    fs_arena arena; /* names */
    fs_synth_shape shape;
    fs_synth_options options;
    fs_model_config config;
    fs_buffer config_text;
    uint32_t num_tensors, capacity, num_files;
    fs_synth_tensor *tensor; /* [num_tensors] in the order of writing: by file, then by place */
    const char **file;       /* [num_files] names */
    float *bias;             /* [num_layers][num_experts] what the gate's first column is */
    fs_sub1_stock *stock[2]; /* free: of gate and up, of down */
    uint64_t expert_weights, expert_bytes, backbone_bytes, backbone_weights; /* bytes: of the tensors */
} fs_synth_plan;

/* FS_INVALID: more layers than the shape has, dimensions that the format cannot hold, or that config.h does not allow. The caller calls fini in
 * any case. */
FS_MUST_USE fs_status fs_synth_plan_make(const fs_synth_shape *shape, const fs_synth_options *options,
                                         fs_synth_plan *out, fs_detail *detail);
void fs_synth_plan_fini(fs_synth_plan *plan);

/* ---- writing (fill.c, write.c) ---- */

/* Bytes [offset, offset + bytes) of a tensor. A blob is written whole; others from a multiple of FS_SYNTH_UNIT_BYTES, that many at most. A
 * function of the tensor and the offset: whoever calls it, in whatever order. out: 64-byte aligned. Thread: any. */
#define FS_SYNTH_UNIT_BYTES (1u << 20)
void fs_synth_fill(const fs_synth_plan *plan, const fs_synth_tensor *tensor, uint64_t offset, size_t bytes,
                   uint8_t *out);

typedef struct {
    bool (*stopped)(void *arg); /* asked between batches; may be NULL */
    void (*progress)(void *arg, uint64_t written,
                     uint64_t total); /* bytes; on the caller's thread; may be NULL */
    void *arg;
} fs_synth_hooks;

/* Makes the directory, which appears under its name when it is whole. A few batches of 32 MiB are in memory at once (or of one
 * blob a thread, where those are larger); the next is drawn while one is written. FS_INVALID: path is there already; FS_IO: the disk is full, or says another thing;
 * FS_CANCELLED: stopped. Nothing is left then. */
FS_MUST_USE fs_status fs_synth_write(const fs_synth_plan *plan, const char *path, fs_pool *pool,
                                     const fs_synth_hooks *hooks, fs_detail *detail);

#endif
