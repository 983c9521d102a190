/* common/backbone/attention.c: grouped-query attention over paged KV, a task for each row and KV head. */
#include <math.h>
#include <string.h>

#include "backbone/backbone_int.h"

#define MAX_HEADS_AT_ONCE 8u /* query heads that share one pass over the keys: what the stack holds */
#define MIN_POOL_WORK     (size_t)(256 * 1024) /* multiplications that are worth waking threads */

typedef struct {
    const fs_kernels *kernels;
    const fs_attention_shape *shape;
    const fs_kv_pool *kv;
    uint32_t layer;
    const uint32_t *position;
    const uint32_t *const *pages;
    const float *q;
    float *part, *out;
    float scale;
} job;

/* A few query heads of one row, with the KV head that they share. */
typedef struct {
    const uint32_t *pages;
    uint32_t kv_head, num_heads;
    const float *q;    /* [num_heads][head_dim] */
    float *part, *out; /* [num_heads][head_dim]; out is the sum so far, weighted relative to max */
    float max[MAX_HEADS_AT_ONCE], sum[MAX_HEADS_AT_ONCE];
} head_group;

static const float one[FS_ATTENTION_SPLIT] = {
#define ONE4  1, 1, 1, 1
#define ONE16 ONE4, ONE4, ONE4, ONE4
#define ONE64 ONE16, ONE16, ONE16, ONE16
    ONE64, ONE64, ONE64, ONE64};

/* [FS_KV_PAGE_TOKENS][head_dim] of the key at a page's start. which: 0 keys, 1 values */
static const float *page_rows(const job *j, const head_group *g, uint32_t key, uint32_t which)
{
    size_t head_floats = (size_t)FS_KV_PAGE_TOKENS * j->shape->head_dim;
    return fs_kv_at(j->kv, g->pages[key / FS_KV_PAGE_TOKENS], j->layer, which) + g->kv_head * head_floats;
}

static uint32_t rows_in_page(uint32_t key, uint32_t end)
{
    return end - key < FS_KV_PAGE_TOKENS ? end - key : FS_KV_PAGE_TOKENS;
}

/* score[h][key - first] = q[h] . k[key] * scale */
static void score_part(const job *j, const head_group *g, uint32_t first, uint32_t end,
                       float score[][FS_ATTENTION_SPLIT])
{
    const uint32_t dim = j->shape->head_dim;
    for (uint32_t key = first; key < end; key += FS_KV_PAGE_TOKENS)
        j->kernels->matmul_f32(g->q, dim, page_rows(j, g, key, 0), &score[0][key - first], FS_ATTENTION_SPLIT,
                               g->num_heads, rows_in_page(key, end), dim);
    for (uint32_t h = 0; h < g->num_heads; h++)
        for (uint32_t i = 0; i < end - first; i++) score[h][i] *= j->scale;
}

/* Scores of one head become exp(score - max). Returns their sum, in the kernels' lanes. */
static float exp_part(const job *j, float *score, uint32_t n, float max)
{
    for (uint32_t i = 0; i < n; i++) score[i] -= max;
    j->kernels->exp_f32(score, score, n);
    return j->kernels->dot_f32(score, one, n);
}

static void sum_values(const job *j, const head_group *g, uint32_t h, uint32_t first, uint32_t end,
                       const float *weight)
{
    const uint32_t dim = j->shape->head_dim;
    float *part = g->part + (size_t)h * dim;
    memset(part, 0, dim * sizeof *part);
    for (uint32_t key = first; key < end; key += FS_KV_PAGE_TOKENS)
        j->kernels->weighted_sum(weight + (key - first), page_rows(j, g, key, 1), dim, rows_in_page(key, end),
                                 part, dim);
}

/* out = out * e^(max - m) + part * e^(part_max - m), m the larger of both. */
static void combine(const job *j, head_group *g, uint32_t h, float part_max, float part_sum)
{
    const uint32_t dim = j->shape->head_dim;
    float *out = g->out + (size_t)h * dim;
    const float *part = g->part + (size_t)h * dim;
    float max = part_max > g->max[h] ? part_max : g->max[h];
    float factor[2] = {g->max[h] - max, part_max - max};
    j->kernels->exp_f32(factor, factor, 2);
    for (uint32_t i = 0; i < dim; i++) out[i] *= factor[0];
    j->kernels->axpy(factor[1], part, out, dim);
    g->sum[h] = fmaf(part_sum, factor[1], g->sum[h] * factor[0]);
    g->max[h] = max;
}

static void attend_part(const job *j, head_group *g, uint32_t first, uint32_t end)
{
    const size_t bytes = j->shape->head_dim * sizeof(float);
    float score[MAX_HEADS_AT_ONCE][FS_ATTENTION_SPLIT];
    score_part(j, g, first, end, score);
    for (uint32_t h = 0; h < g->num_heads; h++) {
        float max = j->kernels->max_f32(score[h], end - first);
        float sum = exp_part(j, score[h], end - first, max);
        sum_values(j, g, h, first, end, score[h]);
        if (first != 0) {
            combine(j, g, h, max, sum);
            continue;
        }
        memcpy((char *)g->out + h * bytes, (const char *)g->part + h * bytes, bytes);
        g->max[h] = max;
        g->sum[h] = sum;
    }
}

static void attend(const job *j, head_group *g, uint32_t num_keys)
{
    const uint32_t dim = j->shape->head_dim;
    for (uint32_t first = 0; first < num_keys; first += FS_ATTENTION_SPLIT)
        attend_part(j, g, first,
                    num_keys - first < FS_ATTENTION_SPLIT ? num_keys : first + FS_ATTENTION_SPLIT);
    for (uint32_t h = 0; h < g->num_heads; h++)
        for (uint32_t i = 0; i < dim; i++) g->out[(size_t)h * dim + i] /= g->sum[h];
}

static void run_task(void *arg, uint32_t index)
{
    const job *j = arg;
    const fs_attention_shape *s = j->shape;
    uint32_t row = index / s->num_kv_heads, kv_head = index % s->num_kv_heads,
             group = s->num_heads / s->num_kv_heads;
    for (uint32_t h = 0; h < group; h += MAX_HEADS_AT_ONCE) {
        size_t at = ((size_t)row * s->num_heads + (size_t)kv_head * group + h) * s->head_dim;
        head_group g = {.pages = j->pages[row],
                        .kv_head = kv_head,
                        .num_heads = group - h < MAX_HEADS_AT_ONCE ? group - h : MAX_HEADS_AT_ONCE,
                        .q = j->q + at,
                        .part = j->part + at,
                        .out = j->out + at};
        attend(j, &g, j->position[row] + 1);
    }
}

void fs_attention_run(fs_pool *pool, const fs_kernels *kernels, const fs_attention_shape *shape,
                      const fs_kv_pool *kv, uint32_t layer, const uint32_t *position,
                      const uint32_t *const *pages, uint32_t num_rows, const float *q, float *part,
                      float *out)
{
    job j = {kernels, shape, kv, layer, position, pages, q, part, out, 1.0f / sqrtf((float)shape->head_dim)};
    size_t num_keys = 0;
    for (uint32_t r = 0; r < num_rows; r++) num_keys += (size_t)position[r] + 1;
    bool small = num_keys * 2 * shape->num_heads * shape->head_dim < MIN_POOL_WORK;
    fs_pool_run(small ? NULL : pool, run_task, &j, num_rows * shape->num_kv_heads);
}
