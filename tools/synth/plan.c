/* tools/synth/plan.c: the tensors of a synthetic model, their sizes, their files, and how each is drawn. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "model/names.h"
#include "sub1/files.h"
#include "synth/synth.h"

#define SHARD_BYTES  (5ull << 30)
#define FREE_DENSITY 0.115f /* nonzeros of a *free* matrix: 88.5 % zeros, as QMoE finds */

/* The pre-gating network. A constant first column of its embedding carries the experts' biases to the head: norm(x) has it always
 * alike, because no matrix in between reads it, nor changes it by much. Behind the layers a row of x has about this mean square, of which
 * the first column makes 1, and this much of it differs from token to token. */
#define PREGATE_SQUARE 2.35
#define PREGATE_TOKENS 1.35
#define PREGATE_LOGITS 1.5 /* standard deviation of the gate's logits */

static fs_status no_memory(fs_detail *detail)
{
    return fs_fail(detail, FS_NO_MEMORY, "no memory for the list of tensors");
}

static uint64_t seed_of(const fs_synth_plan *p, const char *name)
{
    return XXH3_64bits_withSeed(name, strlen(name), p->options.seed);
}

/* ---- a list that grows; the first failure stays ---- */

typedef struct {
    fs_synth_plan *plan;
    fs_status status;
    fs_detail *detail;
} list;

static void add(list *l, const char *name, fs_synth_tensor tensor)
{
    fs_synth_plan *p = l->plan;
    if (l->status != FS_OK) return;
    if (p->num_tensors == p->capacity) {
        uint32_t capacity = p->capacity ? 2 * p->capacity : 256;
        fs_synth_tensor *bigger = realloc(p->tensor, capacity * sizeof(*bigger));
        if (bigger) p->tensor = bigger, p->capacity = capacity;
    }
    tensor.name = fs_arena_strndup(&p->arena, name, strlen(name));
    tensor.seed = seed_of(p, name);
    if (!tensor.name || p->num_tensors == p->capacity)
        l->status = no_memory(l->detail);
    else
        p->tensor[p->num_tensors++] = tensor;
}

static void add_backbone(list *l, const char *name, fs_synth_tensor tensor)
{
    uint64_t weights = (uint64_t)tensor.rows * (tensor.cols ? tensor.cols : 1);
    tensor.bytes = weights * 2;
    l->plan->backbone_weights += weights;
    l->plan->backbone_bytes += tensor.bytes;
    add(l, name, tensor);
}

static void add_norm(list *l, const char *prefix, const char *name, uint32_t rows)
{
    char full[128];
    snprintf(full, sizeof(full), "%s.%s.weight", prefix, name);
    add_backbone(l, full, (fs_synth_tensor){.kind = FS_FILL_ONES, .rows = rows});
}

static fs_synth_tensor matrix(uint32_t rows, uint32_t cols, double std)
{
    return (fs_synth_tensor){.kind = FS_FILL_NORMAL, .rows = rows, .cols = cols, .std = (float)std};
}

static void add_matrix(list *l, const char *prefix, const char *name, fs_synth_tensor m)
{
    char full[128];
    snprintf(full, sizeof(full), "%s.%s.weight", prefix, name);
    add_backbone(l, full, m);
}

/* ---- the backbone ---- */

/* What two branches in each of num_layers layers add to the residual stream sums to about what it began with. */
static double shrink(uint32_t num_layers)
{
    return 1 / sqrt(2.0 * num_layers);
}

static void add_attention(list *l, uint32_t layer)
{
    const fs_synth_shape *s = &l->plan->shape;
    const uint32_t q = s->num_heads * s->head_dim, kv = s->num_kv_heads * s->head_dim;
    const double in = 1 / sqrt(s->hidden_size);
    char prefix[64];
    snprintf(prefix, sizeof(prefix), "model.layers.%u", layer);
    add_norm(l, prefix, "input_layernorm", s->hidden_size);
    add_matrix(l, prefix, "self_attn.q_proj", matrix(q, s->hidden_size, in));
    add_matrix(l, prefix, "self_attn.k_proj", matrix(kv, s->hidden_size, in));
    add_matrix(l, prefix, "self_attn.v_proj", matrix(kv, s->hidden_size, in));
    add_matrix(l, prefix, "self_attn.o_proj", matrix(s->hidden_size, q, shrink(s->num_layers) / sqrt(q)));
    add_norm(l, prefix, "post_attention_layernorm", s->hidden_size);
}

static void add_ends(list *l)
{
    const fs_synth_shape *s = &l->plan->shape;
    const double out = 1 / sqrt(s->hidden_size);
    add_matrix(l, "model", "embed_tokens",
               matrix(s->vocab_size, s->hidden_size, s->tie_word_embeddings ? out : 1));
    add_norm(l, "model", "norm", s->hidden_size);
    if (!s->tie_word_embeddings)
        add_backbone(l, "lm_head.weight", matrix(s->vocab_size, s->hidden_size, out));
}

/* ---- the pre-gating network ---- */

static fs_synth_tensor with_column(fs_synth_tensor m, fs_synth_column column, double value)
{
    m.first_column = column;
    m.first_value = (float)value;
    return m;
}

/* Reads norm(x) without its first column. */
static fs_synth_tensor pregate_input(const fs_synth_shape *s, uint32_t rows)
{
    const double std = sqrt(PREGATE_SQUARE / PREGATE_TOKENS / s->pregate_hidden_size);
    return with_column(matrix(rows, s->pregate_hidden_size, std), FS_COLUMN_CONSTANT, 0);
}

static void add_pregate_layer(list *l, uint32_t layer)
{
    const fs_synth_shape *s = &l->plan->shape;
    const uint32_t hidden = s->pregate_hidden_size, inner = s->pregate_intermediate_size;
    const double out = shrink(s->pregate_num_layers);
    char prefix[64];
    snprintf(prefix, sizeof(prefix), "model.router.layers.%u", layer);
    add_norm(l, prefix, "input_layernorm", hidden);
    add_matrix(l, prefix, "self_attn.q_proj", pregate_input(s, hidden));
    add_matrix(l, prefix, "self_attn.k_proj", pregate_input(s, hidden));
    add_matrix(l, prefix, "self_attn.v_proj", pregate_input(s, hidden));
    add_matrix(l, prefix, "self_attn.o_proj", matrix(hidden, hidden, out / sqrt(hidden)));
    add_norm(l, prefix, "post_attention_layernorm", hidden);
    add_matrix(l, prefix, "mlp.gate_proj", pregate_input(s, inner));
    add_matrix(l, prefix, "mlp.up_proj", pregate_input(s, inner));
    add_matrix(l, prefix, "mlp.down_proj", matrix(hidden, inner, out / sqrt(inner)));
}

static fs_status make_biases(fs_synth_plan *p, double std, fs_detail *detail)
{
    const fs_synth_shape *s = &p->shape;
    const size_t count = (size_t)s->num_layers * s->num_experts;
    p->bias = calloc(count, sizeof(*p->bias));
    if (!p->bias) return no_memory(detail);
    for (uint32_t i = 0; i < s->num_layers; i++) {
        char name[64];
        snprintf(name, sizeof(name), "popularity.%u", i);
        fs_synth_popularity(s->num_experts, s->top_k, p->options.skew, seed_of(p, name),
                            p->bias + (size_t)i * s->num_experts);
    }
    for (size_t i = 0; i < count; i++) p->bias[i] *= (float)(std * sqrt(PREGATE_TOKENS));
    return FS_OK;
}

static void add_pregate(list *l)
{
    const fs_synth_shape *s = &l->plan->shape;
    const uint32_t hidden = s->pregate_hidden_size;
    const double gate = PREGATE_LOGITS * sqrt(PREGATE_SQUARE / PREGATE_TOKENS / hidden);
    add_matrix(l, "model.router", "embed_tokens",
               with_column(matrix(s->vocab_size, hidden, 1), FS_COLUMN_CONSTANT, sqrt(hidden)));
    for (uint32_t i = 0; i < s->pregate_num_layers; i++) add_pregate_layer(l, i);
    add_norm(l, "model.router", "norm", hidden);
    add_matrix(l, "model.router", "head",
               with_column(matrix(s->num_layers * s->num_experts, hidden, gate), FS_COLUMN_BIASES, 0));
    if (l->status == FS_OK) l->status = make_biases(l->plan, gate, l->detail);
}

/* ---- experts ---- */

static uint32_t nonzeros(fs_synth_format format)
{
    return (uint32_t)format - FS_SYNTH_BLOCKED_1 + 1;
}

static uint64_t round_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) / to * to;
}

/* A ternary matrix whose outputs are as large as a normally distributed one's with this std. */
static void make_blob(const fs_synth_plan *p, fs_expert_part part, fs_synth_tensor *t)
{
    const bool is_free = p->options.format == FS_SYNTH_FREE;
    const float density = is_free ? FREE_DENSITY : (float)nonzeros(p->options.format) / 16;
    t->kind = FS_FILL_SUB1;
    t->stock = part == FS_PART_DOWN;
    t->std /= sqrtf(density);
    const fs_sub1_random what = {t->rows, t->cols, t->std, t->seed};
    t->blob_bytes = is_free ? fs_sub1_random_free_bytes(p->stock[t->stock], &what)
                            : fs_sub1_random_bytes(nonzeros(p->options.format), t->rows, t->cols);
}

static void add_expert(list *l, uint32_t layer, uint32_t expert)
{
    fs_synth_plan *p = l->plan;
    const bool sub1 = p->options.format != FS_SYNTH_BF16;
    uint64_t begin = p->expert_bytes;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        char name[128];
        uint32_t rows, cols;
        fs_expert_part_shape(&p->config, (fs_expert_part)i, &rows, &cols);
        fs_expert_tensor_name(&p->config, sub1 ? FS_EXPERTS_SUB1 : FS_EXPERTS_DENSE, layer, expert,
                              (fs_expert_part)i, name);
        double std = (i == FS_PART_DOWN ? shrink(p->shape.num_layers) : 1) / sqrt(cols);
        fs_synth_tensor t = matrix(rows, cols, std);
        t.seed = seed_of(p, name);
        t.bytes = (uint64_t)rows * cols * 2;
        p->expert_weights += (uint64_t)rows * cols;
        if (sub1) {
            make_blob(p, (fs_expert_part)i, &t);
            t.bytes = round_up(t.blob_bytes, FS_SUB1_ALIGN);
            uint64_t so_far = p->expert_bytes - begin + t.blob_bytes;
            if (i == FS_PART_DOWN)
                t.bytes = round_up(so_far, FS_EXPERT_FILE_ALIGN) - (p->expert_bytes - begin);
        }
        p->expert_bytes += t.bytes;
        add(l, name, t);
    }
}

static void add_experts(list *l, uint32_t layer)
{
    for (uint32_t e = 0; e < l->plan->shape.num_experts; e++) add_expert(l, layer, e);
}

/* ---- files ---- */

/* Cuts the tensors from `first` on into files of about shard_bytes, the first of which has number first_file; returns how many. */
static uint32_t cut_files(fs_synth_plan *p, uint32_t first, uint32_t first_file)
{
    const uint64_t most = p->options.shard_bytes ? p->options.shard_bytes : SHARD_BYTES;
    uint64_t bytes = 0;
    uint32_t file = first_file;
    for (uint32_t i = first; i < p->num_tensors; i++) {
        if (bytes && bytes + p->tensor[i].bytes > most) file++, bytes = 0;
        bytes += p->tensor[i].bytes;
        p->tensor[i].file = file;
    }
    return file - first_file + 1;
}

static fs_status name_files(fs_synth_plan *p, const char *what, uint32_t shards, fs_detail *detail)
{
    p->file = fs_arena_calloc(&p->arena, p->num_files, sizeof(*p->file));
    for (uint32_t i = 0; p->file && i < p->num_files; i++) {
        char name[64];
        if (i < shards)
            snprintf(name, sizeof(name), "%s-%05u-of-%05u.safetensors", what, i + 1, shards);
        else
            snprintf(name, sizeof(name), "experts-layer-%05u.safetensors", i - shards);
        p->file[i] = fs_arena_strndup(&p->arena, name, strlen(name));
        if (!p->file[i]) return no_memory(detail);
    }
    return p->file ? FS_OK : no_memory(detail);
}

/* A checkpoint: all tensors, layer by layer, in shards. */
static fs_status list_checkpoint(list *l)
{
    fs_synth_plan *p = l->plan;
    add_ends(l);
    add_pregate(l);
    for (uint32_t i = 0; i < p->shape.num_layers; i++) {
        add_attention(l, i);
        add_experts(l, i);
    }
    if (l->status != FS_OK) return l->status;
    p->num_files = cut_files(p, 0, 0);
    return name_files(p, "model", p->num_files, l->detail);
}

/* Compressed: the backbone in shards, then a file of experts a layer. */
static fs_status list_compressed(list *l)
{
    fs_synth_plan *p = l->plan;
    add_ends(l);
    add_pregate(l);
    for (uint32_t i = 0; i < p->shape.num_layers; i++) add_attention(l, i);
    if (l->status != FS_OK) return l->status;
    const uint32_t shards = cut_files(p, 0, 0);
    for (uint32_t i = 0; i < p->shape.num_layers; i++) {
        uint32_t first = p->num_tensors;
        add_experts(l, i);
        for (uint32_t t = first; t < p->num_tensors; t++) p->tensor[t].file = shards + i;
    }
    if (l->status != FS_OK) return l->status;
    p->num_files = shards + p->shape.num_layers;
    return name_files(p, "backbone", shards, l->detail);
}

/* ---- the whole ---- */

static fs_status check_shape(const fs_synth_plan *p, fs_detail *detail)
{
    const fs_synth_shape *s = &p->shape;
    if (s->vocab_size < FS_SYNTH_MIN_VOCAB)
        return fs_fail(detail, FS_INVALID, "%s: vocab_size is %u, the tokenizer needs %d", s->name,
                       s->vocab_size, FS_SYNTH_MIN_VOCAB);
    if ((uint64_t)s->num_layers * s->num_experts > UINT32_MAX / 4)
        return fs_fail(detail, FS_INVALID, "%s: %u layers of %u experts are too many", s->name, s->num_layers,
                       s->num_experts);
    if (p->options.format != FS_SYNTH_BF16 && (s->hidden_size % 16 || s->moe_intermediate_size % 16))
        return fs_fail(detail, FS_INVALID,
                       "%s: hidden_size %u or moe_intermediate_size %u is not a multiple of 16, as "
                       "compressed experts are",
                       s->name, s->hidden_size, s->moe_intermediate_size);
    return FS_OK;
}

static fs_status make_config(fs_synth_plan *p, fs_detail *detail)
{
    if (p->options.num_layers > p->shape.num_layers)
        return fs_fail(detail, FS_INVALID, "--layers: %s has %u", p->shape.name, p->shape.num_layers);
    if (p->options.num_layers) p->shape.num_layers = p->options.num_layers;
    fs_synth_config_text(&p->shape, p->options.format, &p->config_text);
    if (p->config_text.failed) return no_memory(detail);
    return fs_model_config_parse((const char *)p->config_text.data, p->config_text.size, p->shape.name, NULL,
                                 0, &p->config, detail);
}

static fs_status make_stock(fs_synth_plan *p, fs_detail *detail)
{
    fs_status st = FS_OK;
    for (int i = 0; st == FS_OK && p->options.format == FS_SYNTH_FREE && i < 2; i++) {
        uint32_t rows, cols;
        fs_expert_part_shape(&p->config, i ? FS_PART_DOWN : FS_PART_GATE, &rows, &cols);
        st = fs_sub1_stock_create(rows, cols, FREE_DENSITY, seed_of(p, i ? "stock.down" : "stock.up"),
                                  &p->stock[i], detail);
    }
    return st;
}

fs_status fs_synth_plan_make(const fs_synth_shape *shape, const fs_synth_options *options, fs_synth_plan *out,
                             fs_detail *detail)
{
    *out = (fs_synth_plan){.shape = *shape, .options = *options};
    list l = {out, FS_OK, detail};
    fs_status st = make_config(out, detail);
    if (st == FS_OK) st = check_shape(out, detail);
    if (st == FS_OK) st = make_stock(out, detail);
    if (st != FS_OK) return st;
    return options->format == FS_SYNTH_BF16 ? list_checkpoint(&l) : list_compressed(&l);
}

void fs_synth_plan_fini(fs_synth_plan *p)
{
    fs_sub1_stock_destroy(p->stock[0]);
    fs_sub1_stock_destroy(p->stock[1]);
    fs_buffer_free(&p->config_text);
    fs_arena_fini(&p->arena);
    free(p->tensor);
    free(p->bias);
    *p = (fs_synth_plan){0};
}
