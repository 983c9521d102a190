/* common/backbone/attention_block.c: x += attention(norm(x)) over the rows of a micro-batch. */
#include <string.h>

#include "backbone/backbone_int.h"

void fs_attention_weights_load(fs_weights *weights, const fs_attention_block *block, const char *prefix,
                               fs_attention_weights *out)
{
    const fs_attention_shape *s = &block->shape;
    uint32_t hidden = block->hidden_size, q_size = s->num_heads * s->head_dim,
             kv_size = s->num_kv_heads * s->head_dim;
    fs_weights_vector(weights, hidden, &out->norm, "%s.input_layernorm.weight", prefix);
    fs_weights_matrix(weights, q_size, hidden, &out->q, "%s.self_attn.q_proj.weight", prefix);
    fs_weights_matrix(weights, kv_size, hidden, &out->k, "%s.self_attn.k_proj.weight", prefix);
    fs_weights_matrix(weights, kv_size, hidden, &out->v, "%s.self_attn.v_proj.weight", prefix);
    fs_weights_matrix(weights, hidden, q_size, &out->o, "%s.self_attn.o_proj.weight", prefix);
}

void fs_rope_create(fs_weights *weights, float theta, uint32_t head_dim, uint32_t max_positions, fs_rope *out)
{
    float *cos = fs_weights_calloc(weights, (size_t)max_positions * (head_dim / 2), sizeof *cos);
    float *sin = fs_weights_calloc(weights, (size_t)max_positions * (head_dim / 2), sizeof *sin);
    if (sin == NULL) return;
    fs_rope_table(theta, head_dim, max_positions, cos, sin);
    *out = (fs_rope){cos, sin, max_positions, head_dim};
}

bool fs_attention_scratch_init(const fs_attention_block *block, uint32_t max_rows, fs_arena *arena,
                               fs_attention_scratch *out)
{
    const fs_attention_shape *s = &block->shape;
    size_t hidden = (size_t)max_rows * block->hidden_size;
    size_t q = (size_t)max_rows * s->num_heads * s->head_dim,
           kv = (size_t)max_rows * s->num_kv_heads * s->head_dim;
    *out = (fs_attention_scratch){.norm = fs_arena_calloc(arena, hidden, sizeof(float)),
                                  .proj = fs_arena_calloc(arena, hidden, sizeof(float)),
                                  .q = fs_arena_calloc(arena, q, sizeof(float)),
                                  .part = fs_arena_calloc(arena, q, sizeof(float)),
                                  .out = fs_arena_calloc(arena, q, sizeof(float)),
                                  .k = fs_arena_calloc(arena, kv, sizeof(float)),
                                  .v = fs_arena_calloc(arena, kv, sizeof(float))};
    return out->norm && out->proj && out->q && out->part && out->out && out->k && out->v;
}

static void turn_heads(const fs_rope *rope, float *x, uint32_t num_heads, uint32_t position)
{
    size_t at = (size_t)position * (rope->head_dim / 2);
    for (uint32_t h = 0; h < num_heads; h++)
        fs_rope_apply(x + (size_t)h * rope->head_dim, rope->cos + at, rope->sin + at, rope->head_dim);
}

/* One row's [num_kv_heads][head_dim] into its slot of its page. */
static void store_heads(const fs_attention_shape *s, float *plane, uint32_t slot, const float *heads)
{
    for (uint32_t h = 0; h < s->num_kv_heads; h++)
        memcpy(plane + ((size_t)h * FS_KV_PAGE_TOKENS + slot) * s->head_dim, heads + (size_t)h * s->head_dim,
               s->head_dim * sizeof *heads);
}

static void turn_and_store(const fs_attention_block *block, fs_attention_scratch *scratch, uint32_t layer,
                           const fs_attention_rows *rows, fs_kv_pool *kv)
{
    const fs_attention_shape *s = &block->shape;
    for (uint32_t r = 0; r < rows->num_rows; r++) {
        uint32_t position = rows->position[r], page = rows->pages[r][position / FS_KV_PAGE_TOKENS];
        FS_ASSERT(position < block->rope.max_positions);
        float *k = scratch->k + (size_t)r * s->num_kv_heads * s->head_dim;
        turn_heads(&block->rope, scratch->q + (size_t)r * s->num_heads * s->head_dim, s->num_heads, position);
        turn_heads(&block->rope, k, s->num_kv_heads, position);
        store_heads(s, fs_kv_at(kv, page, layer, 0), position % FS_KV_PAGE_TOKENS, k);
        store_heads(s, fs_kv_at(kv, page, layer, 1), position % FS_KV_PAGE_TOKENS,
                    scratch->v + (size_t)r * s->num_kv_heads * s->head_dim);
    }
}

void fs_attention_block_run(fs_pool *pool, const fs_kernels *kernels, const fs_attention_block *block,
                            const fs_attention_weights *weights, fs_attention_scratch *scratch,
                            uint32_t layer, const fs_attention_rows *rows, fs_kv_pool *kv)
{
    const fs_attention_shape *s = &block->shape;
    size_t hidden = block->hidden_size, q_size = (size_t)s->num_heads * s->head_dim;
    size_t kv_size = (size_t)s->num_kv_heads * s->head_dim, n = rows->num_rows;
    fs_rows_norm(pool, kernels, rows->x, weights->norm, block->norm_eps, scratch->norm, n, hidden);
    fs_matmul(pool, kernels, &weights->q, scratch->norm, hidden, scratch->q, q_size, n);
    fs_matmul(pool, kernels, &weights->k, scratch->norm, hidden, scratch->k, kv_size, n);
    fs_matmul(pool, kernels, &weights->v, scratch->norm, hidden, scratch->v, kv_size, n);
    turn_and_store(block, scratch, layer, rows, kv);
    fs_attention_run(pool, kernels, s, kv, layer, rows->position, rows->pages, rows->num_rows, scratch->q,
                     scratch->part, scratch->out);
    fs_matmul(pool, kernels, &weights->o, scratch->out, q_size, scratch->proj, hidden, n);
    fs_add(kernels, rows->x, scratch->proj, n * hidden);
}
