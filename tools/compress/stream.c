/* tools/compress/stream.c: the residual stream of two models over the same windows, from layer to layer, in files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backbone/loss.h"
#include "calibrate.h"

enum { LOGIT_ROWS = 32 };

static uint32_t num_rows_a_window(const fs_stream *s)
{
    return s->windows->length;
}

static uint64_t first_row(const fs_stream *s, uint32_t window)
{
    return (uint64_t)window * s->windows->length;
}

/* ---- opening ---- */

static fs_status no_memory(fs_detail *detail)
{
    return fs_fail(detail, FS_NO_MEMORY, "no memory for the calibration's rows");
}

static fs_status open_kv(fs_kv_shape shape, uint32_t length, fs_kv_pool **kv, uint32_t **pages,
                         fs_detail *detail)
{
    uint32_t num_pages = fs_kv_pages_for(length);
    *pages = malloc(num_pages * sizeof(**pages));
    fs_status st = *pages ? fs_kv_pool_create(shape, num_pages, kv) : FS_NO_MEMORY;
    if (st == FS_OK) st = fs_kv_acquire(*kv, num_pages, *pages);
    return st == FS_OK ? FS_OK : fs_fail(detail, st, "no memory for the keys and values of a window");
}

static fs_status open_model(fs_stream *s, fs_detail *detail)
{
    fs_model_config dense = s->in->config;
    dense.expert_storage = FS_EXPERTS_DENSE;
    fs_status st = fs_backbone_open(&dense, s->in->tensors, &s->backbone, detail);
    if (st == FS_OK) st = fs_pregate_open(&dense, s->in->tensors, &s->pregate, detail);
    if (st != FS_OK) return st;
    const uint32_t length = s->windows->length;
    st = open_kv(fs_backbone_kv_shape(s->backbone), length, &s->kv, &s->pages, detail);
    if (st == FS_OK)
        st = open_kv(fs_pregate_kv_shape(s->pregate), length, &s->pregate_kv, &s->pregate_pages, detail);
    if (st != FS_OK) return st;
    const size_t routes = fs_windows_rows(s->windows) * dense.num_moe_layers * dense.top_k;
    s->expert = malloc(routes * sizeof(*s->expert));
    s->weight = malloc(routes * sizeof(*s->weight));
    s->buffer = fs_alloc_aligned((size_t)length * dense.top_k * dense.hidden_size * sizeof(float));
    if (!s->expert || !s->weight || !s->buffer) return no_memory(detail);
    st = fs_batch_create(s->backbone, length, &s->batch);
    return st == FS_OK ? FS_OK : no_memory(detail);
}

static void set_window(fs_stream *s, uint32_t window)
{
    fs_batch *b = s->batch;
    b->num_rows = num_rows_a_window(s);
    for (uint32_t r = 0; r < b->num_rows; r++) {
        b->token[r] = s->windows->token[first_row(s, window) + r];
        b->position[r] = r;
        b->pages[r] = s->pages;
    }
}

static fs_status find_routes(fs_stream *s, fs_detail *detail)
{
    const fs_model_config *c = &s->in->config;
    const size_t a_row = (size_t)c->num_moe_layers * c->top_k;
    const uint32_t **pages = malloc(s->windows->length * sizeof(*pages));
    fs_status st = pages ? FS_OK : no_memory(detail);
    for (uint32_t r = 0; pages && r < s->windows->length; r++) pages[r] = s->pregate_pages;
    for (uint32_t w = 0; st == FS_OK && w < s->windows->num_windows; w++) {
        set_window(s, w);
        const size_t at = first_row(s, w) * a_row;
        st = fs_pregate_run(s->pregate, s->batch->token, s->batch->position, pages, s->batch->num_rows,
                            s->pregate_kv, s->pool, s->expert + at, s->weight + at);
        if (st != FS_OK) st = fs_fail(detail, st, "the pre-gating network: %s", fs_status_name(st));
        if (st == FS_OK && fs_compress_stopped()) st = fs_fail(detail, FS_CANCELLED, "stopped");
    }
    free(pages);
    return st;
}

static const char *const plane_name[FS_NUM_PLANES] = {"served", "dense"};

static void file_name(const char *what, int plane, uint32_t turn, char out[64])
{
    snprintf(out, 64, "work-%s-%s-%u", what, plane_name[plane], turn % 2);
}

static fs_status create(fs_stream *s, const char *what, int plane, uint32_t turn, uint32_t rows_a_row,
                        fs_rows_file *out, fs_detail *detail)
{
    char name[64];
    file_name(what, plane, turn, name);
    return fs_rows_create(s->dir, name, s->in->config.hidden_size, fs_windows_rows(s->windows) * rows_a_row,
                          out, detail);
}

static fs_status create_files(fs_stream *s, fs_detail *detail)
{
    fs_status st = FS_OK;
    for (int p = 0; st == FS_OK && p < FS_NUM_PLANES; p++) {
        st = create(s, "mid", p, 0, 1, &s->mid[p], detail);
        if (st == FS_OK) st = create(s, "h", p, 0, 1, &s->h[p], detail);
        if (st == FS_OK) st = create(s, "out", p, 0, s->in->config.top_k, &s->out[p], detail);
    }
    return st;
}

static fs_status embed(fs_stream *s, fs_detail *detail)
{
    fs_status st = FS_OK;
    for (int p = 0; st == FS_OK && p < FS_NUM_PLANES; p++) st = create(s, "x", p, 0, 1, &s->x[p], detail);
    for (uint32_t w = 0; st == FS_OK && w < s->windows->num_windows; w++) {
        set_window(s, w);
        fs_backbone_embed(s->backbone, s->batch, s->pool);
        for (int p = 0; st == FS_OK && p < FS_NUM_PLANES; p++)
            st = fs_rows_write(&s->x[p], first_row(s, w), s->batch->num_rows, s->batch->x, detail);
    }
    return st;
}

static fs_status reopen(fs_stream *s, const uint64_t saved[FS_NUM_PLANES], fs_detail *detail)
{
    const uint64_t rows = fs_windows_rows(s->windows);
    fs_status st = FS_OK;
    for (int p = 0; st == FS_OK && p < FS_NUM_PLANES; p++) {
        char name[64];
        uint64_t found = 0;
        file_name("x", p, s->num_advanced, name);
        st = fs_rows_open(s->dir, name, s->in->config.hidden_size, rows, &s->x[p], detail);
        if (st == FS_OK) st = fs_rows_seal(&s->x[p], rows, &found, detail);
        if (st == FS_OK && found != saved[p])
            st = fs_fail(detail, FS_CORRUPT, "%s: is not what the journal says was written", s->x[p].path);
    }
    return st;
}

fs_status fs_stream_open(const fs_input *in, const fs_windows *windows, const char *dir, fs_pool *pool,
                         uint32_t num_done, const uint64_t saved[FS_NUM_PLANES], fs_stream *out,
                         fs_detail *detail)
{
    *out = (fs_stream){.in = in, .windows = windows, .dir = dir, .pool = pool, .num_advanced = num_done};
    fs_status st = open_model(out, detail);
    if (st == FS_OK) st = num_done ? reopen(out, saved, detail) : FS_OK;
    if (st == FS_OK) st = create_files(out, detail);
    if (st == FS_OK) st = find_routes(out, detail);
    if (st == FS_OK && num_done == 0) st = embed(out, detail);
    return st;
}

void fs_stream_close(fs_stream *s, bool keep)
{
    for (int p = 0; p < FS_NUM_PLANES; p++) {
        fs_rows_close(&s->x[p], !keep);
        fs_rows_close(&s->next[p], !keep);
        fs_rows_close(&s->mid[p], true);
        fs_rows_close(&s->h[p], true);
        fs_rows_close(&s->out[p], true);
    }
    free(s->pages);
    free(s->pregate_pages);
    free(s->expert);
    free(s->weight);
    free(s->buffer);
    fs_batch_destroy(s->batch);
    fs_kv_pool_destroy(s->kv);
    fs_kv_pool_destroy(s->pregate_kv);
    fs_pregate_close(s->pregate);
    fs_backbone_close(s->backbone);
    *s = (fs_stream){0};
}

uint64_t fs_stream_disk_bytes(const fs_model_config *c, const fs_windows *w)
{
    return fs_windows_rows(w) * c->hidden_size * sizeof(float) * FS_NUM_PLANES * (4 + c->top_k);
}

uint64_t fs_stream_memory_bytes(const fs_model_config *c, const fs_windows *w)
{
    const uint64_t rows = fs_windows_rows(w), slots = rows * c->top_k;
    const uint64_t window = (uint64_t)w->length * c->hidden_size * sizeof(float) * (16 + c->top_k) +
                            2 * (uint64_t)w->length * c->num_layers * c->num_kv_heads * c->head_dim *
                                sizeof(float);
    return window + rows * 4 + slots * c->num_moe_layers * 6 + slots * 8 +
           (uint64_t)LOGIT_ROWS * c->vocab_size * 4;
}

/* ---- a layer ---- */

static fs_status attend(fs_stream *s, uint32_t layer, uint32_t window, int plane, fs_detail *detail)
{
    fs_batch *b = s->batch;
    const uint64_t row = first_row(s, window);
    set_window(s, window);
    fs_status st = fs_rows_read(&s->x[plane], row, b->num_rows, b->x, detail);
    if (st != FS_OK) return st;
    fs_backbone_attention(s->backbone, layer, b, s->kv, s->pool);
    st = fs_rows_write(&s->mid[plane], row, b->num_rows, b->x, detail);
    return st == FS_OK ? fs_rows_write(&s->h[plane], row, b->num_rows, b->h, detail) : st;
}

fs_status fs_stream_attend(fs_stream *s, uint32_t layer, fs_detail *detail)
{
    for (uint32_t w = 0; w < s->windows->num_windows; w++) {
        if (fs_compress_stopped()) return fs_fail(detail, FS_CANCELLED, "stopped");
        for (int p = 0; p < FS_NUM_PLANES; p++) {
            fs_status st = attend(s, layer, w, p, detail);
            if (st != FS_OK) return st;
        }
    }
    return FS_OK;
}

static fs_status combine(fs_stream *s, uint32_t moe, uint32_t window, int plane, float *weight,
                         const float **out, fs_detail *detail)
{
    const fs_model_config *c = &s->in->config;
    fs_batch *b = s->batch;
    const uint64_t row = first_row(s, window);
    set_window(s, window);
    fs_status st = fs_rows_read(&s->mid[plane], row, b->num_rows, b->x, detail);
    if (st == FS_OK)
        st = fs_rows_read(&s->out[plane], row * c->top_k, b->num_rows * c->top_k, s->buffer, detail);
    if (st != FS_OK) return st;
    for (uint32_t r = 0; r < b->num_rows; r++)
        for (uint32_t k = 0; k < c->top_k; k++) {
            weight[r * c->top_k + k] = s->weight[((row + r) * c->num_moe_layers + moe) * c->top_k + k];
            out[r * c->top_k + k] = s->buffer + ((size_t)r * c->top_k + k) * c->hidden_size;
        }
    fs_backbone_combine(s->backbone, b, weight, out, s->pool);
    return fs_rows_write(&s->next[plane], row, b->num_rows, b->x, detail);
}

fs_status fs_stream_combine(fs_stream *s, uint32_t moe, uint64_t checksum[FS_NUM_PLANES], fs_detail *detail)
{
    const size_t slots = (size_t)s->windows->length * s->in->config.top_k;
    float *weight = malloc(slots * sizeof(*weight));
    const float **out = malloc(slots * sizeof(*out));
    fs_status st = weight && out ? FS_OK : no_memory(detail);
    for (int p = 0; st == FS_OK && p < FS_NUM_PLANES; p++)
        st = create(s, "x", p, s->num_advanced + 1, 1, &s->next[p], detail);
    for (uint32_t w = 0; st == FS_OK && w < s->windows->num_windows; w++)
        for (int p = 0; st == FS_OK && p < FS_NUM_PLANES; p++)
            st = combine(s, moe, w, p, weight, out, detail);
    for (int p = 0; st == FS_OK && p < FS_NUM_PLANES; p++)
        st = fs_rows_seal(&s->next[p], fs_windows_rows(s->windows), &checksum[p], detail);
    free(weight);
    free(out);
    return st;
}

void fs_stream_advance(fs_stream *s)
{
    for (int p = 0; p < FS_NUM_PLANES; p++) {
        fs_rows_close(&s->x[p], true);
        s->x[p] = s->next[p];
        s->next[p] = (fs_rows_file){0};
    }
    s->num_advanced++;
}

/* ---- the loss ---- */

static fs_status window_loss(fs_stream *s, uint32_t window, int plane, float *logits, double *sum,
                             fs_detail *detail)
{
    fs_batch *b = s->batch;
    const uint32_t vocab = s->in->config.vocab_size;
    set_window(s, window);
    fs_status st = fs_rows_read(&s->x[plane], first_row(s, window), b->num_rows, b->x, detail);
    for (uint32_t r = 0; st == FS_OK && r + 1 < b->num_rows; r += LOGIT_ROWS) {
        uint32_t rows[LOGIT_ROWS],
            count = b->num_rows - 1 - r < LOGIT_ROWS ? b->num_rows - 1 - r : LOGIT_ROWS;
        for (uint32_t i = 0; i < count; i++) rows[i] = r + i;
        fs_backbone_logits(s->backbone, b, rows, count, logits, s->pool);
        for (uint32_t i = 0; i < count; i++)
            *sum += fs_cross_entropy(logits + (size_t)i * vocab, vocab, b->token[r + i + 1]);
    }
    return st;
}

fs_status fs_stream_loss(fs_stream *s, double loss[FS_NUM_PLANES], uint64_t *num_tokens, fs_detail *detail)
{
    const fs_windows *w = s->windows;
    double sum[FS_NUM_PLANES] = {0};
    float *logits = malloc((size_t)LOGIT_ROWS * s->in->config.vocab_size * sizeof(*logits));
    fs_status st = logits ? FS_OK : no_memory(detail);
    for (uint32_t i = w->num_calibration; st == FS_OK && i < w->num_windows; i++) {
        if (fs_compress_stopped()) st = fs_fail(detail, FS_CANCELLED, "stopped");
        for (int p = 0; st == FS_OK && p < FS_NUM_PLANES; p++)
            st = window_loss(s, i, p, logits, &sum[p], detail);
    }
    free(logits);
    if (st != FS_OK) return st;
    *num_tokens = (uint64_t)(w->num_windows - w->num_calibration) * (w->length - 1);
    for (int p = 0; p < FS_NUM_PLANES; p++) loss[p] = sum[p] / (double)*num_tokens;
    return FS_OK;
}
