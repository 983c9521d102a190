/* tools/eval/model.c: a model over a chunk of windows, a layer at a time. A window's rows go through attention together, an expert gets
 * its rows of all windows. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "backbone/loss.h"
#include "base/arena.h"
#include "eval/eval.h"

enum { LOGIT_ROWS = 32 };
#define CHUNK_BYTES (256u << 20)
#define MAX_ROWS    (1u << 13) /* of a chunk, unless one window has more */

struct fs_eval_model {
    fs_model_config config;
    fs_pool *pool;
    fs_tensors *tensors;
    fs_backbone *backbone;
    fs_pregate *pregate;
    fs_kv_pool *kv, *pregate_kv;
    uint32_t *pages,
        *pregate_pages;         /* of one window: all windows use them in turn, and none needs them later */
    const uint32_t **row_pages; /* [window] each pregate_pages */
    fs_batch *batch;
    uint32_t window, chunk, num_windows; /* num_windows: of the last run */
    const uint32_t *token;               /* of the last run; borrowed, as hooks */
    const fs_eval_hooks *hooks;

    /* The chunk's rows. */
    uint16_t *expert;    /* [rows][num_moe_layers][top_k] */
    float *route_weight; /* likewise */
    float *x;            /* [rows][hidden_size] the residual stream */
    float *h;            /* [rows][hidden_size] what experts get, if dense */
    int8_t *h_i8;        /* if sub1 */
    float *h_scale;      /* [rows] */
    float *out;          /* [rows][top_k][hidden_size] of the layer's experts */
    uint32_t *first;     /* [num_experts + 1] where an expert's slots begin in slot */
    uint32_t *slot;      /* [rows * top_k] row * top_k + k, expert by expert, by rising number */
    float *weight;       /* [window][top_k] of the window being combined */
    const float **outs;  /* [window][top_k] */
    float *logits;       /* [LOGIT_ROWS][vocab_size] */

    fs_expert *opened; /* [num_moe_layers][num_experts] sub1: verified ones */
    uint8_t *state;    /* [num_moe_layers][num_experts] */
    void *scratch[64]; /* a worker's, grown as needed */
    size_t scratch_bytes[64];
};
enum { UNSEEN, OPENED };

static bool is_stopped(const fs_eval_model *m)
{
    return m->hooks->stopped && m->hooks->stopped(m->hooks->arg);
}

static fs_status no_memory(fs_detail *detail)
{
    return fs_fail(detail, FS_NO_MEMORY, "no memory for a window of the text; a shorter --window takes less");
}

/* ---- opening ---- */

static fs_status open_kv(fs_kv_shape shape, uint32_t length, fs_kv_pool **kv, uint32_t **pages,
                         fs_detail *detail)
{
    const uint32_t num_pages = fs_kv_pages_for(length);
    *pages = malloc(num_pages * sizeof(**pages));
    fs_status st = *pages ? fs_kv_pool_create(shape, num_pages, kv) : FS_NO_MEMORY;
    if (st == FS_OK) st = fs_kv_acquire(*kv, num_pages, *pages);
    return st == FS_OK ? FS_OK : no_memory(detail);
}

static fs_status open_parts(const char *dir, fs_eval_model *m, fs_detail *detail)
{
    fs_status st = fs_tensors_open(dir, &m->tensors, detail);
    if (st == FS_OK) st = fs_backbone_open(&m->config, m->tensors, &m->backbone, detail);
    if (st == FS_OK) st = fs_pregate_open(&m->config, m->tensors, &m->pregate, detail);
    if (st == FS_OK) st = open_kv(fs_backbone_kv_shape(m->backbone), m->window, &m->kv, &m->pages, detail);
    if (st == FS_OK)
        st = open_kv(fs_pregate_kv_shape(m->pregate), m->window, &m->pregate_kv, &m->pregate_pages, detail);
    if (st == FS_OK && fs_batch_create(m->backbone, m->window, &m->batch) != FS_OK) st = no_memory(detail);
    return st;
}

static size_t row_bytes(const fs_model_config *c)
{
    const size_t routes = (size_t)c->num_moe_layers * c->top_k * (sizeof(uint16_t) + sizeof(float));
    return (size_t)c->hidden_size * sizeof(float) * (2 + c->top_k) + routes + c->top_k * sizeof(uint32_t);
}

static void choose_chunk(fs_eval_model *m)
{
    size_t rows = CHUNK_BYTES / row_bytes(&m->config);
    if (rows > MAX_ROWS) rows = MAX_ROWS;
    m->chunk = rows < m->window ? 1 : (uint32_t)(rows / m->window);
}

static bool allocate(fs_eval_model *m)
{
    const fs_model_config *c = &m->config;
    const size_t rows = (size_t)m->chunk * m->window, hidden = c->hidden_size, slots = rows * c->top_k;
    const size_t experts = (size_t)c->num_moe_layers * c->num_experts;
    const bool sub1 = c->expert_storage == FS_EXPERTS_SUB1;
    m->row_pages = malloc(m->window * sizeof(*m->row_pages));
    m->expert = malloc(slots * c->num_moe_layers * sizeof(*m->expert));
    m->route_weight = malloc(slots * c->num_moe_layers * sizeof(*m->route_weight));
    m->x = fs_alloc_aligned(rows * hidden * sizeof(*m->x));
    m->h = sub1 ? NULL : fs_alloc_aligned(rows * hidden * sizeof(*m->h));
    m->h_i8 = sub1 ? fs_alloc_aligned(rows * hidden) : NULL;
    m->h_scale = malloc(rows * sizeof(*m->h_scale));
    m->out = fs_alloc_aligned(slots * hidden * sizeof(*m->out));
    m->first = malloc(((size_t)c->num_experts + 1) * sizeof(*m->first));
    m->slot = malloc(slots * sizeof(*m->slot));
    m->weight = malloc((size_t)m->window * c->top_k * sizeof(*m->weight));
    m->outs = malloc((size_t)m->window * c->top_k * sizeof(*m->outs));
    m->logits = fs_alloc_aligned((size_t)LOGIT_ROWS * c->vocab_size * sizeof(*m->logits));
    m->opened = sub1 ? calloc(experts, sizeof(*m->opened)) : NULL;
    m->state = calloc(experts, 1);
    for (uint32_t r = 0; m->row_pages && r < m->window; r++) m->row_pages[r] = m->pregate_pages;
    return m->row_pages && m->expert && m->route_weight && m->x && (m->h || m->h_i8) && m->h_scale &&
           m->out && m->first && m->slot && m->weight && m->outs && m->logits && (m->opened || !sub1) &&
           m->state;
}

fs_status fs_eval_model_open(const char *dir, const fs_model_config *config, uint32_t window, fs_pool *pool,
                             fs_eval_model **out, fs_detail *detail)
{
    fs_eval_model *m = calloc(1, sizeof(*m));
    if (!m) return no_memory(detail);
    m->config = *config;
    m->pool = pool;
    m->window = window;
    choose_chunk(m);
    fs_status st = open_parts(dir, m, detail);
    if (st == FS_OK && !allocate(m)) st = no_memory(detail);
    if (st == FS_OK)
        *out = m;
    else
        fs_eval_model_close(m);
    return st;
}

void fs_eval_model_close(fs_eval_model *m)
{
    if (!m) return;
    for (size_t i = 0; i < sizeof(m->scratch) / sizeof(m->scratch[0]); i++) free(m->scratch[i]);
    free(m->row_pages), free(m->expert), free(m->route_weight), free(m->x), free(m->h), free(m->h_i8);
    free(m->h_scale), free(m->out), free(m->first), free(m->slot), free(m->weight), free(m->outs);
    free(m->logits), free(m->opened), free(m->state), free(m->pages), free(m->pregate_pages);
    fs_batch_destroy(m->batch);
    fs_kv_pool_destroy(m->kv);
    fs_kv_pool_destroy(m->pregate_kv);
    fs_pregate_close(m->pregate);
    fs_backbone_close(m->backbone);
    fs_tensors_close(m->tensors);
    free(m);
}

uint32_t fs_eval_model_chunk(const fs_eval_model *m)
{
    return m->chunk;
}

uint64_t fs_eval_model_experts_used(const fs_eval_model *m)
{
    uint64_t used = 0;
    for (size_t i = 0; i < (size_t)m->config.num_moe_layers * m->config.num_experts; i++)
        used += m->state[i] == OPENED;
    return used;
}

/* ---- a window ---- */

static size_t first_row(const fs_eval_model *m, uint32_t window)
{
    return (size_t)window * m->window;
}

/* The batch with the window's rows, x as the chunk has it. */
static void set_window(fs_eval_model *m, uint32_t window)
{
    fs_batch *b = m->batch;
    const size_t row = first_row(m, window), hidden = m->config.hidden_size;
    b->num_rows = m->window;
    for (uint32_t r = 0; r < m->window; r++) {
        b->token[r] = m->token[row + r];
        b->position[r] = r;
        b->pages[r] = m->pages;
    }
    memcpy(b->x, m->x + row * hidden, m->window * hidden * sizeof(*b->x));
}

static void keep_x(fs_eval_model *m, uint32_t window)
{
    const size_t hidden = m->config.hidden_size;
    memcpy(m->x + first_row(m, window) * hidden, m->batch->x, m->window * hidden * sizeof(*m->x));
}

static fs_status begin_window(fs_eval_model *m, uint32_t window, fs_detail *detail)
{
    fs_batch *b = m->batch;
    const size_t routes = first_row(m, window) * m->config.num_moe_layers * m->config.top_k;
    set_window(m, window);
    fs_backbone_embed(m->backbone, b, m->pool);
    keep_x(m, window);
    fs_status st = fs_pregate_run(m->pregate, b->token, b->position, m->row_pages, b->num_rows, m->pregate_kv,
                                  m->pool, m->expert + routes, m->route_weight + routes);
    return st == FS_OK ? FS_OK : fs_fail(detail, st, "the pre-gating network: %s", fs_status_name(st));
}

static void attend(fs_eval_model *m, uint32_t layer, uint32_t window)
{
    const fs_batch *b = m->batch;
    const size_t row = first_row(m, window), hidden = m->config.hidden_size;
    set_window(m, window);
    fs_backbone_attention(m->backbone, layer, m->batch, m->kv, m->pool);
    keep_x(m, window);
    if (m->h) {
        memcpy(m->h + row * hidden, b->h, m->window * hidden * sizeof(*b->h));
        return;
    }
    memcpy(m->h_i8 + row * hidden, b->h_i8, m->window * hidden);
    memcpy(m->h_scale + row, b->h_scale, m->window * sizeof(*b->h_scale));
}

static size_t route_at(const fs_eval_model *m, size_t row, uint32_t moe)
{
    return (row * m->config.num_moe_layers + moe) * m->config.top_k;
}

static void combine(fs_eval_model *m, uint32_t moe, uint32_t window)
{
    const uint32_t top_k = m->config.top_k;
    set_window(m, window);
    for (uint32_t r = 0; r < m->window; r++) {
        const size_t row = first_row(m, window) + r, at = route_at(m, row, moe);
        for (uint32_t k = 0; k < top_k; k++) {
            m->weight[r * top_k + k] = m->route_weight[at + k];
            m->outs[r * top_k + k] = m->out + (row * top_k + k) * m->config.hidden_size;
        }
    }
    fs_backbone_combine(m->backbone, m->batch, m->weight, m->outs, m->pool);
    keep_x(m, window);
}

/* ---- a layer's experts ---- */

static void sort_slots(fs_eval_model *m, uint32_t moe)
{
    const size_t rows = (size_t)m->num_windows * m->window;
    const uint32_t top_k = m->config.top_k, num_experts = m->config.num_experts;
    memset(m->first, 0, ((size_t)num_experts + 1) * sizeof(*m->first));
    for (size_t r = 0; r < rows; r++)
        for (uint32_t k = 0; k < top_k; k++) m->first[m->expert[route_at(m, r, moe) + k] + 1]++;
    for (uint32_t e = 0; e < num_experts; e++) m->first[e + 1] += m->first[e];
    for (size_t r = 0; r < rows; r++)
        for (uint32_t k = 0; k < top_k; k++)
            m->slot[m->first[m->expert[route_at(m, r, moe) + k]]++] = (uint32_t)(r * top_k + k);
    memmove(m->first + 1, m->first, num_experts * sizeof(*m->first)); /* each had become the next one's */
    m->first[0] = 0;
}

/* Workers take experts one by one. */
typedef struct {
    fs_eval_model *model;
    uint32_t moe;
    atomic_uint next;
    fs_status status[64];
    fs_detail detail[64];
    uint32_t failed_at[64]; /* the expert */
} layer_run;

static fs_status open_expert(fs_eval_model *m, uint32_t moe, uint32_t expert, fs_expert *out, void **widened,
                             fs_detail *detail)
{
    const size_t at = (size_t)moe * m->config.num_experts + expert;
    fs_expert_range range;
    *widened = NULL;
    if (m->opened && m->state[at] == OPENED) {
        *out = m->opened[at];
        return FS_OK;
    }
    fs_status st = fs_expert_find(&m->config, m->tensors, m->config.moe_layer[moe], expert, &range, detail);
    if (st == FS_OK) {
        st = fs_expert_open(&m->config, &range, out, widened, detail);
        if (st != FS_OK) st = fs_fail_in(detail, st, "%s", fs_tensors_file_path(m->tensors, range.file));
    }
    if (st != FS_OK) return st;
    if (m->opened) m->opened[at] = *out;
    m->state[at] = OPENED;
    return FS_OK;
}

static void run_rows(fs_eval_model *m, const fs_expert *expert, const uint32_t *slot, uint32_t count,
                     void *scratch)
{
    const size_t hidden = m->config.hidden_size;
    const int8_t *x_i8[FS_EXPERT_MAX_ROWS];
    const float *x_f32[FS_EXPERT_MAX_ROWS];
    float x_scale[FS_EXPERT_MAX_ROWS], *out[FS_EXPERT_MAX_ROWS];
    for (uint32_t i = 0; i < count; i++) {
        const size_t row = slot[i] / m->config.top_k;
        x_i8[i] = m->h ? NULL : m->h_i8 + row * hidden;
        x_f32[i] = m->h ? m->h + row * hidden : NULL;
        x_scale[i] = m->h ? 0 : m->h_scale[row];
        out[i] = m->out + slot[i] * hidden;
    }
    const fs_expert_rows rows = {count, x_i8, x_scale, x_f32, out};
    fs_expert_run(expert, &rows, scratch, NULL);
}

static fs_status run_expert(fs_eval_model *m, uint32_t moe, uint32_t e, uint32_t worker, fs_detail *detail)
{
    const uint32_t *slot = m->slot + m->first[e];
    uint32_t left = m->first[e + 1] - m->first[e];
    fs_expert expert;
    void *widened;
    fs_status st = open_expert(m, moe, e, &expert, &widened, detail);
    if (st != FS_OK) return st;
    const size_t bytes = fs_expert_scratch_bytes(&expert,
                                                 left < FS_EXPERT_MAX_ROWS ? left : FS_EXPERT_MAX_ROWS);
    if (bytes > m->scratch_bytes[worker]) {
        free(m->scratch[worker]);
        m->scratch[worker] = fs_alloc_aligned(bytes);
        m->scratch_bytes[worker] = m->scratch[worker] ? bytes : 0;
        if (!m->scratch[worker]) st = no_memory(detail);
    }
    for (uint32_t count; st == FS_OK && left; slot += count, left -= count) {
        count = left < FS_EXPERT_MAX_ROWS ? left : FS_EXPERT_MAX_ROWS;
        run_rows(m, &expert, slot, count, m->scratch[worker]);
    }
    free(widened);
    return st;
}

static void work(void *arg, uint32_t worker)
{
    layer_run *l = arg;
    fs_eval_model *m = l->model;
    while (l->status[worker] == FS_OK) {
        const uint32_t e = atomic_fetch_add(&l->next, 1);
        if (e >= m->config.num_experts || is_stopped(m)) return;
        if (m->first[e] == m->first[e + 1]) continue;
        l->failed_at[worker] = e;
        l->status[worker] = run_expert(m, l->moe, e, worker, &l->detail[worker]);
    }
}

static fs_status run_experts(fs_eval_model *m, uint32_t moe, fs_detail *detail)
{
    const uint32_t threads = m->pool ? fs_pool_num_threads(m->pool) : 1,
                   workers = threads < 64 ? threads : 64;
    layer_run *l = calloc(1, sizeof(*l));
    if (!l) return no_memory(detail);
    l->model = m;
    l->moe = moe;
    sort_slots(m, moe);
    fs_pool_run(m->pool, work, l, workers);
    fs_status st = FS_OK;
    uint32_t lowest =
        UINT32_MAX; /* experts are taken by rising number: which failure is lowest does not hang on threads */
    for (uint32_t w = 0; w < workers; w++) {
        if (l->status[w] == FS_OK || l->failed_at[w] > lowest) continue;
        lowest = l->failed_at[w];
        st = l->status[w];
        *detail = l->detail[w];
    }
    free(l);
    return st;
}

/* ---- the chunk ---- */

static fs_status run_layer(fs_eval_model *m, uint32_t layer, uint32_t *moe, fs_detail *detail)
{
    for (uint32_t w = 0; w < m->num_windows && !is_stopped(m); w++) attend(m, layer, w);
    if (*moe >= m->config.num_moe_layers || m->config.moe_layer[*moe] != layer) return FS_OK;
    fs_status st = run_experts(m, *moe, detail);
    for (uint32_t w = 0; st == FS_OK && w < m->num_windows; w++) combine(m, *moe, w);
    ++*moe;
    return st;
}

fs_status fs_eval_model_run(fs_eval_model *m, const uint32_t *token, uint32_t count,
                            const fs_eval_hooks *hooks, uint64_t done, uint64_t total, fs_detail *detail)
{
    FS_ASSERT(count >= 1 && count <= m->chunk);
    uint32_t moe = 0;
    fs_status st = FS_OK;
    m->token = token;
    m->num_windows = count;
    m->hooks = hooks;
    for (uint32_t w = 0; st == FS_OK && w < count; w++) st = begin_window(m, w, detail);
    for (uint32_t l = 0; st == FS_OK && l < m->config.num_layers; l++) {
        st = run_layer(m, l, &moe, detail);
        if (st == FS_OK && is_stopped(m)) return fs_fail(detail, FS_CANCELLED, "stopped");
        if (hooks->progress) hooks->progress(hooks->arg, done + (uint64_t)(l + 1) * count * m->window, total);
    }
    return st;
}

/* ---- the loss ---- */

typedef struct {
    const fs_eval_model *model;
    const uint32_t *next; /* the token that each row should have foretold */
    double loss[LOGIT_ROWS];
} loss_run;

static void one_loss(void *arg, uint32_t index)
{
    loss_run *l = arg;
    const uint32_t vocab = l->model->config.vocab_size;
    l->loss[index] = fs_cross_entropy(l->model->logits + (size_t)index * vocab, vocab, l->next[index]);
}

static fs_status window_loss(fs_eval_model *m, uint32_t window, double *nats, fs_detail *detail)
{
    set_window(m, window);
    for (uint32_t r = 0; r + 1 < m->window; r += LOGIT_ROWS) {
        uint32_t rows[LOGIT_ROWS], count = m->window - 1 - r < LOGIT_ROWS ? m->window - 1 - r : LOGIT_ROWS;
        loss_run l = {.model = m, .next = m->batch->token + r + 1};
        for (uint32_t i = 0; i < count; i++) rows[i] = r + i;
        fs_backbone_logits(m->backbone, m->batch, rows, count, m->logits, m->pool);
        fs_pool_run(m->pool, one_loss, &l, count);
        for (uint32_t i = 0; i < count; i++) {
            if (!isfinite(l.loss[i]))
                return fs_fail(detail, FS_CORRUPT,
                               "the loss of a token is not finite: the model's weights are broken");
            *nats += l.loss[i];
        }
    }
    return FS_OK;
}

fs_status fs_eval_model_loss(fs_eval_model *m, double *nats, fs_detail *detail)
{
    fs_status st = FS_OK;
    for (uint32_t w = 0; st == FS_OK && w < m->num_windows; w++) st = window_loss(m, w, nats, detail);
    return st;
}
