/* common/backbone/backbone_int.h: what the families share: their table of functions, loading of weights, the attention block. */
#ifndef FS_BACKBONE_INT_H
#define FS_BACKBONE_INT_H

#include "backbone/backbone.h"
#include "base/arena.h"

/* --- weights.c: tensors as matrices and vectors ------------------------------------------------------------------- */

/* The loading of one network. The first failure stays in status and later calls do nothing, so that a family checks once.
 * Matrices point into the mapping where the file holds bf16 or f32, aligned; other dtypes and all vectors are copied to f32. */
typedef struct {
    const fs_tensors *tensors;
    fs_detail *detail; /* may be NULL */
    fs_status status;
    size_t bytes; /* of the tensors loaded, as stored in the file */
    fs_arena arena;
} fs_weights;

void fs_weights_matrix(fs_weights *weights, uint32_t outs, uint32_t cols, fs_matrix *out,
                       const char *name_fmt, ...) FS_PRINTF(5, 6);
void fs_weights_vector(fs_weights *weights, uint32_t n, const float **out, const char *name_fmt, ...)
    FS_PRINTF(4, 5);
/* count zeroed elements of the network's memory; NULL, with status set, if there is none. */
void *fs_weights_calloc(fs_weights *weights, size_t count, size_t bytes);
/* Row `row` of a matrix, widened. out [cols] */
void fs_matrix_row(const fs_matrix *matrix, uint32_t row, float *out);

/* --- rows.c: per-row steps over a batch --------------------------------------------------------------------------- */

/* y[row] = rms_norm(x[row]) * w for rows of n contiguous elements. y may be x. */
void fs_rows_norm(fs_pool *pool, const fs_kernels *kernels, const float *x, const float *w, float eps,
                  float *y, size_t num_rows, size_t n);
/* x[i] += y[i] */
void fs_add(const fs_kernels *kernels, float *x, const float *y, size_t n);

/* --- attention.c: grouped-query attention over paged KV ----------------------------------------------------------- */

typedef struct {
    uint32_t num_heads, num_kv_heads, head_dim;
} fs_attention_shape;

/* For every row: out = softmax(q k / sqrt(head_dim)) v over the keys 0..position of its sequence, all of which are in its pages.
 * Keys are taken in parts of FS_ATTENTION_SPLIT from position 0, each part with its own maximum, and parts are combined in
 * order: a row's bits depend on its position and its keys alone.
 *   q, part, out [num_rows][num_heads][head_dim]; part is scratch */
void fs_attention_run(fs_pool *pool, const fs_kernels *kernels, const fs_attention_shape *shape,
                      const fs_kv_pool *kv, uint32_t layer, const uint32_t *position,
                      const uint32_t *const *pages, uint32_t num_rows, const float *q, float *part,
                      float *out);

/* --- attention_block.c: x += attention(norm(x)), the same in every family so far ---------------------------------- */

typedef struct {
    const float *norm;
    fs_matrix q, k, v, o;
} fs_attention_weights;

/* cos, sin [max_positions][head_dim / 2] */
typedef struct {
    const float *cos, *sin;
    uint32_t max_positions, head_dim;
} fs_rope;

/* What the block needs beside its weights; one a network. */
typedef struct {
    fs_attention_shape shape;
    uint32_t hidden_size;
    float norm_eps;
    fs_rope rope;
} fs_attention_block;

/* Temporary rows of the block; rows are contiguous. */
typedef struct {
    float *norm, *proj;    /* [max_rows][hidden_size] */
    float *q, *part, *out; /* [max_rows][num_heads * head_dim] */
    float *k, *v;          /* [max_rows][num_kv_heads * head_dim] */
} fs_attention_scratch;

/* Rows of a micro-batch as the block sees them. */
typedef struct {
    const uint32_t *position;
    const uint32_t *const *pages;
    uint32_t num_rows;
    float *x; /* [num_rows][hidden_size] */
} fs_attention_rows;

/* prefix: "model.layers.3". Loads <prefix>.input_layernorm and <prefix>.self_attn.*. */
void fs_attention_weights_load(fs_weights *weights, const fs_attention_block *block, const char *prefix,
                               fs_attention_weights *out);
/* Sets up block->rope, in the network's memory. */
void fs_rope_create(fs_weights *weights, float theta, uint32_t head_dim, uint32_t max_positions,
                    fs_rope *out);
/* false: no memory. */
bool fs_attention_scratch_init(const fs_attention_block *block, uint32_t max_rows, fs_arena *arena,
                               fs_attention_scratch *out);
/* Writes the rows' k and v into their pages (layer `layer` of kv), then attends. */
void fs_attention_block_run(fs_pool *pool, const fs_kernels *kernels, const fs_attention_block *block,
                            const fs_attention_weights *weights, fs_attention_scratch *scratch,
                            uint32_t layer, const fs_attention_rows *rows, fs_kv_pool *kv);

/* --- families ----------------------------------------------------------------------------------------------------- */

/* What differs from family to family. */
typedef struct {
    /* Loads the family's layers. The common parts of backbone are set; status and detail: backbone->weights'. */
    void (*load_layers)(fs_backbone *backbone);
    void (*attention)(const fs_backbone *backbone, uint32_t layer, fs_batch *batch, fs_kv_pool *kv,
                      fs_pool *pool);
} fs_backbone_family;

extern const fs_backbone_family fs_backbone_readme_moe; /* readme_moe.c */

struct fs_backbone {
    const fs_backbone_family *family;
    const fs_kernels *kernels;
    fs_model_config config;
    fs_weights weights;
    fs_attention_block block;
    fs_matrix embed, head; /* [vocab_size][hidden_size]; the same where tied */
    const float *final_norm;
    void *layers; /* the family's array, in weights' memory */
};

/* fs_batch.scratch */
typedef struct {
    fs_arena arena; /* holds all of the batch */
    fs_attention_scratch attention;
} fs_batch_scratch;

#endif
