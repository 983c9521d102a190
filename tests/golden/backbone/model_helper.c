/* tests/golden/backbone/model_helper.c */
#include "model_helper.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/names.h"

#define MAX_INNER 4096

static void must(fs_status st, const fs_detail *detail)
{
    if (st != FS_OK) fail_msg("%s: %s", fs_status_name(st), detail->text);
}

static fs_kv_pool *kv_for(fs_kv_shape shape, uint32_t max_positions)
{
    fs_kv_pool *kv = NULL;
    assert_int_equal(fs_kv_pool_create(shape, 6 * fs_kv_pages_for(max_positions), &kv), FS_OK);
    return kv;
}

void model_open(model *m, const char *dir, uint32_t num_threads, bool is_int8)
{
    fs_detail detail = {0};
    *m = (model){.is_int8 = is_int8};
    must(fs_isa_check(&detail), &detail);
    must(fs_model_config_load(dir, &m->config, &detail), &detail);
    must(fs_tensors_open(dir, &m->tensors, &detail), &detail);
    must(fs_backbone_open(&m->config, m->tensors, &m->backbone, &detail), &detail);
    must(fs_pregate_open(&m->config, m->tensors, &m->pregate, &detail), &detail);
    must(fs_batch_create(m->backbone, MAX_ROWS, &m->batch), &detail);
    if (num_threads > 1) must(fs_pool_create(num_threads, &m->pool), &detail);
    m->kv = kv_for(fs_backbone_kv_shape(m->backbone), m->config.max_positions);
    m->pregate_kv = kv_for(fs_pregate_kv_shape(m->pregate), m->config.max_positions);
    m->expert_out = calloc((size_t)MAX_ROWS * m->config.top_k * m->config.hidden_size, sizeof *m->expert_out);
    assert_true(m->config.moe_intermediate_size <= MAX_INNER && m->config.hidden_size <= MAX_INNER);
}

void model_close(model *m)
{
    if (m->kv != NULL) assert_int_equal(fs_kv_pool_num_free(m->kv), fs_kv_pool_num_pages(m->kv));
    free(m->expert_out);
    fs_kv_pool_destroy(m->kv);
    fs_kv_pool_destroy(m->pregate_kv);
    fs_batch_destroy(m->batch);
    fs_pool_destroy(m->pool);
    fs_pregate_close(m->pregate);
    fs_backbone_close(m->backbone);
    fs_tensors_close(m->tensors);
}

void sequence_open(model *m, sequence *s, uint32_t capacity)
{
    uint32_t num_pages = fs_kv_pages_for(capacity);
    size_t routes = (size_t)capacity * m->config.num_moe_layers * m->config.top_k;
    *s = (sequence){.capacity = capacity,
                    .token = calloc(capacity, sizeof *s->token),
                    .pages = calloc(num_pages, sizeof *s->pages),
                    .pregate_pages = calloc(num_pages, sizeof *s->pages),
                    .expert = calloc(routes, sizeof *s->expert),
                    .weight = calloc(routes, sizeof *s->weight)};
    assert_int_equal(fs_kv_acquire(m->kv, num_pages, s->pages), FS_OK);
    assert_int_equal(fs_kv_acquire(m->pregate_kv, num_pages, s->pregate_pages), FS_OK);
}

void sequence_close(model *m, sequence *s)
{
    fs_kv_release(m->kv, s->pages, fs_kv_pages_for(s->capacity));
    fs_kv_release(m->pregate_kv, s->pregate_pages, fs_kv_pages_for(s->capacity));
    free(s->token);
    free(s->pages);
    free(s->pregate_pages);
    free(s->expert);
    free(s->weight);
}

static void quantize(float *x, uint32_t n)
{
    float max = 1e-8f;
    for (uint32_t i = 0; i < n; i++) max = fmaxf(max, fabsf(x[i]));
    float scale = max / 127.0f;
    for (uint32_t i = 0; i < n; i++) x[i] = fminf(127.0f, fmaxf(-127.0f, rintf(x[i] / scale))) * scale;
}

/* y = W x of one bf16 tensor, summed in double. */
static void multiply(const model *m, uint32_t layer, uint32_t expert, fs_expert_part part, const float *x,
                     float *y)
{
    char name[128];
    uint32_t rows, cols;
    fs_expert_tensor_name(&m->config, FS_EXPERTS_DENSE, layer, expert, part, name);
    fs_expert_part_shape(&m->config, part, &rows, &cols);
    const fs_tensor *t = NULL;
    fs_detail detail = {0};
    must(fs_tensors_get(m->tensors, name, 2, (uint64_t[]){rows, cols}, &t, &detail), &detail);
    assert_int_equal(t->dtype, FS_DTYPE_BF16);
    for (uint32_t r = 0; r < rows; r++) {
        const uint8_t *w = t->data + (size_t)r * cols * 2;
        double sum = 0;
        for (uint32_t c = 0; c < cols; c++)
            sum += (double)fs_bf16_to_f32((fs_bf16)(w[2 * c] | w[2 * c + 1] << 8)) * (double)x[c];
        y[r] = (float)sum;
    }
}

static void run_expert(const model *m, uint32_t layer, uint32_t expert, const float *h, float *out)
{
    const fs_model_config *c = &m->config;
    float x[MAX_INNER], gate[MAX_INNER], up[MAX_INNER];
    memcpy(x, h, c->hidden_size * sizeof *x);
    if (m->is_int8) quantize(x, c->hidden_size);
    multiply(m, layer, expert, FS_PART_GATE, x, gate);
    multiply(m, layer, expert, FS_PART_UP, x, up);
    for (uint32_t i = 0; i < c->moe_intermediate_size; i++)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    if (m->is_int8) quantize(gate, c->moe_intermediate_size);
    multiply(m, layer, expert, FS_PART_DOWN, gate, out);
}

/* The rows of the micro-batch, as routes need them. */
typedef struct {
    const uint32_t *pregate_pages[MAX_ROWS];
    sequence *owner[MAX_ROWS];
} row_info;

static void add_rows(model *m, sequence *s, const uint32_t *token, uint32_t count, row_info *info)
{
    assert_true(s->num_tokens + count <= s->capacity && m->batch->num_rows + count <= MAX_ROWS);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t r = m->batch->num_rows++;
        m->batch->token[r] = s->token[s->num_tokens] = token[i];
        m->batch->position[r] = s->num_tokens++;
        m->batch->pages[r] = s->pages;
        info->pregate_pages[r] = s->pregate_pages;
        info->owner[r] = s;
    }
}

static void run_routes(model *m, const row_info *info)
{
    const fs_batch *b = m->batch;
    size_t a_row = (size_t)m->config.num_moe_layers * m->config.top_k;
    uint16_t *expert = calloc(b->num_rows * a_row, sizeof *expert);
    float *weight = calloc(b->num_rows * a_row, sizeof *weight);
    assert_int_equal(fs_pregate_run(m->pregate, b->token, b->position, info->pregate_pages, b->num_rows,
                                    m->pregate_kv, m->pool, expert, weight),
                     FS_OK);
    for (uint32_t r = 0; r < b->num_rows; r++) {
        memcpy(info->owner[r]->expert + b->position[r] * a_row, expert + r * a_row, a_row * sizeof *expert);
        memcpy(info->owner[r]->weight + b->position[r] * a_row, weight + r * a_row, a_row * sizeof *weight);
    }
    free(expert);
    free(weight);
}

static void run_moe(model *m, uint32_t moe, const row_info *info)
{
    const uint32_t top_k = m->config.top_k, hidden = m->config.hidden_size;
    const float **out = calloc((size_t)MAX_ROWS * top_k, sizeof *out);
    float *weight = calloc((size_t)MAX_ROWS * top_k, sizeof *weight);
    for (uint32_t r = 0; r < m->batch->num_rows; r++)
        for (uint32_t k = 0; k < top_k; k++) {
            size_t at = ((size_t)m->batch->position[r] * m->config.num_moe_layers + moe) * top_k + k;
            size_t i = (size_t)r * top_k + k;
            run_expert(m, m->config.moe_layer[moe], info->owner[r]->expert[at],
                       m->batch->h + (size_t)r * hidden, m->expert_out + i * hidden);
            weight[i] = info->owner[r]->weight[at];
            out[i] = m->expert_out + i * hidden;
        }
    fs_backbone_combine(m->backbone, m->batch, weight, out, m->pool);
    free(out);
    free(weight);
}

void model_run(model *m, uint32_t num_sequences, sequence *const *s, const uint32_t *const *tokens,
               const uint32_t *count, float *logits)
{
    row_info *info = calloc(1, sizeof *info);
    uint32_t rows[MAX_ROWS];
    m->batch->num_rows = 0;
    for (uint32_t i = 0; i < num_sequences; i++) add_rows(m, s[i], tokens[i], count[i], info);
    run_routes(m, info);
    fs_backbone_embed(m->backbone, m->batch, m->pool);
    for (uint32_t l = 0, moe = 0; l < m->config.num_layers; l++) {
        fs_backbone_attention(m->backbone, l, m->batch, m->kv, m->pool);
        if (moe < m->config.num_moe_layers && m->config.moe_layer[moe] == l) run_moe(m, moe++, info);
    }
    for (uint32_t r = 0; r < m->batch->num_rows; r++) rows[r] = r;
    if (logits != NULL) fs_backbone_logits(m->backbone, m->batch, rows, m->batch->num_rows, logits, m->pool);
    free(info);
}

uint32_t argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

json_t *read_json(const char *dir, const char *name)
{
    char path[1024];
    json_error_t error;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    json_t *json = json_load_file(path, 0, &error);
    if (json == NULL) fail_msg("%s:%d: %s", path, error.line, error.text);
    return json;
}
