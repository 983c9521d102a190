/* common/backbone/pregate.c: the pre-gating network: embedding, a few decoder layers with SwiGLU, and a head that gives the gate
 * logits of every MoE layer at once. */
#include "backbone/pregate.h"

#include <stdio.h>
#include <stdlib.h>

#include "backbone/backbone_int.h"

#define BLOCK_ROWS   64u
#define BLOCK_LOGITS (4u << 20) /* bounds the block's rows where layers times experts is large */

typedef struct {
    fs_attention_weights attention;
    const float *mlp_norm;
    fs_matrix gate, up, down;
} layer_weights;

struct fs_pregate {
    const fs_kernels *kernels;
    fs_weights weights;
    fs_attention_block block;
    uint32_t num_layers, intermediate_size, vocab_size;
    uint32_t num_moe_layers, num_experts, top_k; /* of the model that it serves */
    bool norm_topk_prob;
    fs_matrix embed, head; /* head [num_moe_layers * num_experts][hidden_size] */
    const float *final_norm;
    layer_weights *layers;
};

/* Temporary rows of one run. */
typedef struct {
    fs_arena arena;
    uint32_t max_rows;
    float *x;         /* [max_rows][hidden_size] */
    float *gate, *up; /* [max_rows][intermediate_size] */
    float *logits;    /* [max_rows][num_moe_layers][num_experts] */
    fs_attention_scratch attention;
} scratch;

static void load_layer(fs_pregate *p, uint32_t l)
{
    const uint32_t hidden = p->block.hidden_size, inner = p->intermediate_size;
    layer_weights *w = &p->layers[l];
    char prefix[64];
    snprintf(prefix, sizeof prefix, "model.router.layers.%u", l);
    fs_attention_weights_load(&p->weights, &p->block, prefix, &w->attention);
    fs_weights_vector(&p->weights, hidden, &w->mlp_norm, "%s.post_attention_layernorm.weight", prefix);
    fs_weights_matrix(&p->weights, inner, hidden, &w->gate, "%s.mlp.gate_proj.weight", prefix);
    fs_weights_matrix(&p->weights, inner, hidden, &w->up, "%s.mlp.up_proj.weight", prefix);
    fs_weights_matrix(&p->weights, hidden, inner, &w->down, "%s.mlp.down_proj.weight", prefix);
}

static void load(fs_pregate *p, const fs_model_config *c)
{
    const uint32_t hidden = c->pregate_hidden_size, head_dim = hidden / c->pregate_num_heads;
    p->block = (fs_attention_block){.shape = {c->pregate_num_heads, c->pregate_num_heads, head_dim},
                                    .hidden_size = hidden,
                                    .norm_eps = c->rms_norm_eps};
    fs_rope_create(&p->weights, c->rope_theta, head_dim, c->max_positions, &p->block.rope);
    fs_weights_matrix(&p->weights, c->vocab_size, hidden, &p->embed, "model.router.embed_tokens.weight");
    fs_weights_vector(&p->weights, hidden, &p->final_norm, "model.router.norm.weight");
    fs_weights_matrix(&p->weights, c->num_moe_layers * c->num_experts, hidden, &p->head,
                      "model.router.head.weight");
    p->layers = fs_weights_calloc(&p->weights, p->num_layers, sizeof *p->layers);
    for (uint32_t l = 0; p->layers != NULL && l < p->num_layers; l++) load_layer(p, l);
}

fs_status fs_pregate_open(const fs_model_config *config, const fs_tensors *tensors, fs_pregate **out,
                          fs_detail *detail)
{
    if (config->pregate_hidden_size == 0)
        return fs_fail(detail, FS_UNSUPPORTED, "the model has no pre-gating network");
    fs_pregate *p = calloc(1, sizeof *p);
    if (p == NULL) return fs_fail(detail, FS_NO_MEMORY, "no memory for the pre-gating network");
    *p = (fs_pregate){.kernels = fs_kernels_best(),
                      .weights = {.tensors = tensors, .detail = detail},
                      .num_layers = config->pregate_num_layers,
                      .intermediate_size = config->pregate_intermediate_size,
                      .vocab_size = config->vocab_size,
                      .num_moe_layers = config->num_moe_layers,
                      .num_experts = config->num_experts,
                      .top_k = config->top_k,
                      .norm_topk_prob = config->norm_topk_prob};
    load(p, config);
    p->weights.detail = NULL; /* the caller's, for the call */
    fs_status st = p->weights.status;
    if (st == FS_OK)
        *out = p;
    else
        fs_pregate_close(p);
    return st;
}

void fs_pregate_close(fs_pregate *pregate)
{
    if (pregate == NULL) return;
    fs_arena_fini(&pregate->weights.arena);
    free(pregate);
}

fs_kv_shape fs_pregate_kv_shape(const fs_pregate *pregate)
{
    return (fs_kv_shape){pregate->num_layers, pregate->block.shape.num_kv_heads,
                         pregate->block.shape.head_dim};
}

static bool scratch_init(const fs_pregate *p, uint32_t num_rows, scratch *s)
{
    size_t num_logits = (size_t)p->num_moe_layers * p->num_experts;
    size_t max_rows = num_rows < BLOCK_ROWS ? num_rows : BLOCK_ROWS;
    if (max_rows * num_logits > BLOCK_LOGITS) max_rows = BLOCK_LOGITS / num_logits + 1;
    s->max_rows = (uint32_t)max_rows;
    s->x = fs_arena_calloc(&s->arena, max_rows * p->block.hidden_size, sizeof(float));
    s->gate = fs_arena_calloc(&s->arena, max_rows * p->intermediate_size, sizeof(float));
    s->up = fs_arena_calloc(&s->arena, max_rows * p->intermediate_size, sizeof(float));
    s->logits = fs_arena_calloc(&s->arena, max_rows * num_logits, sizeof(float));
    return s->x && s->gate && s->up && s->logits &&
           fs_attention_scratch_init(&p->block, s->max_rows, &s->arena, &s->attention);
}

/* x += down(silu(gate(norm(x))) * up(norm(x))) */
static void run_mlp(const fs_pregate *p, const layer_weights *w, scratch *s, uint32_t n, fs_pool *pool)
{
    const fs_kernels *k = p->kernels;
    const size_t hidden = p->block.hidden_size, inner = p->intermediate_size;
    float *norm = s->attention.norm, *proj = s->attention.proj;
    fs_rows_norm(pool, k, s->x, w->mlp_norm, p->block.norm_eps, norm, n, hidden);
    fs_matmul(pool, k, &w->gate, norm, hidden, s->gate, inner, n);
    fs_matmul(pool, k, &w->up, norm, hidden, s->up, inner, n);
    k->silu_mul(s->gate, s->up, s->gate, n * inner);
    fs_matmul(pool, k, &w->down, s->gate, inner, proj, hidden, n);
    fs_add(k, s->x, proj, n * hidden);
}

static void run_logits(const fs_pregate *p, const uint32_t *token, const fs_attention_rows *rows, scratch *s,
                       fs_kv_pool *kv, fs_pool *pool)
{
    const size_t hidden = p->block.hidden_size;
    for (uint32_t r = 0; r < rows->num_rows; r++) {
        FS_ASSERT(token[r] < p->vocab_size);
        fs_matrix_row(&p->embed, token[r], s->x + r * hidden);
    }
    for (uint32_t l = 0; l < p->num_layers; l++) {
        fs_attention_block_run(pool, p->kernels, &p->block, &p->layers[l].attention, &s->attention, l, rows,
                               kv);
        run_mlp(p, &p->layers[l], s, rows->num_rows, pool);
    }
    fs_rows_norm(pool, p->kernels, s->x, p->final_norm, p->block.norm_eps, s->attention.norm, rows->num_rows,
                 hidden);
    fs_matmul(pool, p->kernels, &p->head, s->attention.norm, hidden, s->logits, p->head.outs, rows->num_rows);
}

/* The largest of p[0..n) that is not marked with -1; ties to the lower. NaN counts as smallest, so that an expert is always found. */
static uint32_t find_largest(const float *p, uint32_t n)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t e = 0; e < n; e++) {
        if (p[e] == -1.0f) continue;
        if (best == UINT32_MAX || p[e] > p[best] || (p[best] != p[best] && p[e] == p[e])) best = e;
    }
    return best;
}

/* One row and layer: logits [num_experts] become probabilities and are used up. */
static void route(const fs_pregate *p, float *logits, uint16_t *expert, float *weight)
{
    float sum = 0;
    p->kernels->softmax(logits, p->num_experts);
    for (uint32_t k = 0; k < p->top_k; k++) {
        uint32_t e = find_largest(logits, p->num_experts);
        expert[k] = (uint16_t)e;
        weight[k] = logits[e];
        sum += logits[e];
        logits[e] = -1.0f;
    }
    for (uint32_t k = 0; p->norm_topk_prob && k < p->top_k; k++) weight[k] /= sum;
}

fs_status fs_pregate_run(const fs_pregate *pregate, const uint32_t *token, const uint32_t *position,
                         const uint32_t *const *pages, uint32_t num_rows, fs_kv_pool *kv, fs_pool *pool,
                         uint16_t *expert, float *weight)
{
    const size_t num_layers = pregate->num_moe_layers;
    scratch s = {0};
    if (num_rows != 0 && !scratch_init(pregate, num_rows, &s)) {
        fs_arena_fini(&s.arena);
        return FS_NO_MEMORY;
    }
    for (uint32_t done = 0; done < num_rows;) {
        uint32_t n = num_rows - done < s.max_rows ? num_rows - done : s.max_rows;
        fs_attention_rows rows = {position + done, pages + done, n, s.x};
        run_logits(pregate, token + done, &rows, &s, kv, pool);
        for (size_t i = 0; i < n * num_layers; i++) {
            size_t at = (done * num_layers + i) * pregate->top_k;
            route(pregate, s.logits + i * pregate->num_experts, expert + at, weight + at);
        }
        done += n;
    }
    fs_arena_fini(&s.arena);
    return FS_OK;
}
