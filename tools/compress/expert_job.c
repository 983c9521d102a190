/* tools/compress/expert_job.c: one expert from its rows. */
#include "expert_job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = FS_MOMENTS_ROWS, ALIGN = 64, KEPT = 32 * CHUNK };
static const double borrowed_weight = 0.25;

struct fs_expert_job {
    const fs_model_config *config;
    const fs_kernels *kernels;
    size_t hidden, inter, hidden_pad, inter_pad; /* padded to what every format's kernels ask for */
    float *h[FS_NUM_PLANES];                     /* [CHUNK][hidden] */
    float *gate, *up;                            /* [CHUNK][inter_pad] */
    float *y;                                    /* [CHUNK][hidden_pad] */
    int8_t *x8;                                  /* [CHUNK][hidden_pad] */
    float *x_scale;                              /* [CHUNK] */
    const int8_t **x8_row;                       /* [CHUNK] */
    float **gate_row, **up_row, **y_row;         /* [CHUNK] */
    /* What the experts' down matrices get: of the expert's first calibration rows, kept from the moments for the run, and a chunk more. */
    float *a_dense;        /* [KEPT + CHUNK][inter] */
    int8_t *a8;            /* [KEPT + CHUNK][inter_pad] as served */
    float *a_scale;        /* [KEPT + CHUNK] */
    const int8_t **a8_row; /* [KEPT + CHUNK] */
    float *a_served;       /* [CHUNK][inter] a8 as numbers */
    float *w, *q;          /* [inter * hidden] */
    void *moments, *curvature, *scratch;
    uint64_t slot[CHUNK];
    /* the expert in work */
    fs_expert dense;
    void *widened;
    fs_sub1_matrix sub1[FS_NUM_EXPERT_PARTS];
    uint64_t num_kept; /* of the rows that run is to go through; 0: none */
};

/* ---- memory ---- */

typedef struct {
    uint8_t *at;
    size_t bytes;
} carver;

static void *carve(carver *c, size_t count, size_t element)
{
    void *p = c->at ? c->at + c->bytes : NULL;
    c->bytes += (count * element + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

static size_t round_up(size_t v, size_t to)
{
    return (v + to - 1) / to * to;
}

static void lay_out(const fs_model_config *config, fs_expert_job *j, carver *c)
{
    *j = (fs_expert_job){.config = config,
                         .kernels = fs_kernels_best(),
                         .hidden = config->hidden_size,
                         .inter = config->moe_intermediate_size};
    j->hidden_pad = round_up(j->hidden, 256);
    j->inter_pad = round_up(j->inter, 256);
    const uint32_t widest = (uint32_t)(j->hidden > j->inter ? j->hidden : j->inter);
    for (int p = 0; p < FS_NUM_PLANES; p++) j->h[p] = carve(c, CHUNK * j->hidden, sizeof(float));
    j->gate = carve(c, CHUNK * j->inter_pad, sizeof(float));
    j->up = carve(c, CHUNK * j->inter_pad, sizeof(float));
    j->y = carve(c, CHUNK * j->hidden_pad, sizeof(float));
    j->x8 = carve(c, CHUNK * j->hidden_pad, 1);
    j->x_scale = carve(c, CHUNK, sizeof(float));
    j->x8_row = carve(c, CHUNK, sizeof(void *));
    j->gate_row = carve(c, CHUNK, sizeof(void *));
    j->up_row = carve(c, CHUNK, sizeof(void *));
    j->y_row = carve(c, CHUNK, sizeof(void *));
    j->a_dense = carve(c, (KEPT + CHUNK) * j->inter, sizeof(float));
    j->a8 = carve(c, (KEPT + CHUNK) * j->inter_pad, 1);
    j->a_scale = carve(c, KEPT + CHUNK, sizeof(float));
    j->a8_row = carve(c, KEPT + CHUNK, sizeof(void *));
    j->a_served = carve(c, CHUNK * j->inter, sizeof(float));
    j->w = carve(c, j->hidden * j->inter, sizeof(float));
    j->q = carve(c, j->hidden * j->inter, sizeof(float));
    j->moments = carve(c, fs_moments_bytes(widest, true), 1);
    j->curvature = carve(c, fs_curvature_bytes(widest), 1);
    const size_t up = fs_quantise_scratch_bytes((uint32_t)j->inter, (uint32_t)j->hidden);
    const size_t down = fs_quantise_scratch_bytes((uint32_t)j->hidden, (uint32_t)j->inter);
    j->scratch = carve(c, up > down ? up : down, 1);
}

size_t fs_expert_job_bytes(const fs_model_config *config)
{
    fs_expert_job j;
    carver c = {0};
    lay_out(config, &j, &c);
    return c.bytes + round_up(sizeof(j), ALIGN);
}

fs_status fs_expert_job_create(const fs_model_config *config, fs_expert_job **out)
{
    const size_t bytes = fs_expert_job_bytes(config), own = round_up(sizeof(fs_expert_job), ALIGN);
    uint8_t *memory = fs_alloc_aligned(bytes);
    if (!memory) return FS_NO_MEMORY;
    carver c = {.at = memory + own};
    fs_expert_job *j = (fs_expert_job *)memory;
    lay_out(config, j, &c);
    memset(j->x8, 0, CHUNK * j->hidden_pad);
    memset(j->a8, 0, (KEPT + CHUNK) * j->inter_pad);
    for (size_t r = 0; r < KEPT + CHUNK; r++) j->a8_row[r] = j->a8 + r * j->inter_pad;
    for (size_t r = 0; r < CHUNK; r++) {
        j->x8_row[r] = j->x8 + r * j->hidden_pad;
        j->gate_row[r] = j->gate + r * j->inter_pad;
        j->up_row[r] = j->up + r * j->inter_pad;
        j->y_row[r] = j->y + r * j->hidden_pad;
    }
    *out = j;
    return FS_OK;
}

void fs_expert_job_destroy(fs_expert_job *job)
{
    if (job) free(job->widened);
    free(job);
}

/* ---- rows ---- */

/* Where the chunk's a goes that begins at the expert's row `at`. */
static size_t place_of(uint64_t at, uint32_t count)
{
    return at + count <= KEPT ? (size_t)at : KEPT;
}

/* The h of the chunk's slots as served: x8, and h as int8 says it. */
static fs_status gather_served(fs_expert_job *j, const fs_layer_rows *rows, uint32_t count, fs_detail *detail)
{
    for (uint32_t i = 0; i < count; i++) {
        float *x = j->h[FS_PLANE_SERVED] + i * j->hidden;
        fs_status st = fs_rows_read(&rows->stream->h[FS_PLANE_SERVED], j->slot[i] / j->config->top_k, 1, x,
                                    detail);
        if (st != FS_OK) return st;
        int8_t *x8 = j->x8 + i * j->hidden_pad;
        j->x_scale[i] = j->kernels->quantize_i8(x, x8, j->hidden);
        for (size_t c = 0; c < j->hidden; c++) x[c] = (float)x8[c] * j->x_scale[i];
    }
    return FS_OK;
}

static fs_status gather_dense(fs_expert_job *j, const fs_layer_rows *rows, uint32_t count, fs_detail *detail)
{
    fs_status st = FS_OK;
    for (uint32_t i = 0; st == FS_OK && i < count; i++)
        st = fs_rows_read(&rows->stream->h[FS_PLANE_DENSE], j->slot[i] / j->config->top_k, 1,
                          j->h[FS_PLANE_DENSE] + i * j->hidden, detail);
    return st;
}

/* a of the served plane to place, and as int8 says it. */
static void served_middle(fs_expert_job *j, size_t place, uint32_t count)
{
    fs_sub1_matmul(&j->sub1[FS_PART_GATE], j->x8_row, j->x_scale, j->gate_row, count);
    fs_sub1_matmul(&j->sub1[FS_PART_UP], j->x8_row, j->x_scale, j->up_row, count);
    for (uint32_t r = 0; r < count; r++) {
        float *gate = j->gate_row[r], *a = j->a_served + r * j->inter;
        j->kernels->silu_mul(gate, j->up_row[r], gate, j->inter);
        int8_t *a8 = j->a8 + (place + r) * j->inter_pad;
        const float scale = j->a_scale[place + r] = j->kernels->quantize_i8(gate, a8, j->inter);
        for (size_t c = 0; c < j->inter; c++) a[c] = (float)a8[c] * scale;
    }
}

static void dense_middle(fs_expert_job *j, size_t place, uint32_t count)
{
    const float *h = j->h[FS_PLANE_DENSE];
    fs_matmul(NULL, j->kernels, &j->dense.dense[FS_PART_GATE], h, j->hidden, j->gate, j->inter_pad, count);
    fs_matmul(NULL, j->kernels, &j->dense.dense[FS_PART_UP], h, j->hidden, j->up, j->inter_pad, count);
    for (uint32_t r = 0; r < count; r++)
        j->kernels->silu_mul(j->gate_row[r], j->up_row[r], j->a_dense + (place + r) * j->inter, j->inter);
}

/* ---- quantising ---- */

static fs_status load_weights(fs_expert_job *j, const fs_input *in, const fs_expert_range *range, int part,
                              fs_detail *detail)
{
    const fs_tensor *t = range->part[part];
    const size_t cols = t->shape[1], count = t->shape[0] * cols;
    fs_tensor_to_f32(t, j->w);
    for (size_t i = 0; i < count; i++)
        if (!isfinite(j->w[i]))
            return fs_fail(detail, FS_INVALID, "%s: %s: row %zu, column %zu: %g is not finite",
                           fs_tensors_file_path(in->tensors, t->file), t->name, i / cols, i % cols,
                           (double)j->w[i]);
    return FS_OK;
}

static fs_status open_dense(fs_expert_job *j, const fs_layer_rows *rows, uint32_t expert,
                            fs_expert_range *range, fs_detail *detail)
{
    const fs_input *in = rows->stream->in;
    free(j->widened);
    j->widened = NULL;
    j->num_kept = 0;
    fs_status st = fs_expert_find(&in->config, in->tensors, rows->layer, expert, range, detail);
    return st == FS_OK ? fs_expert_open(&in->config, range, &j->dense, &j->widened, detail) : st;
}

/* A chunk of the moments of gate and up. kept: its a of the dense plane is wanted at place. */
static fs_status add_inputs(fs_expert_job *j, const fs_layer_rows *rows, size_t place, uint32_t count,
                            bool kept, double weight, fs_moments *m, fs_detail *detail)
{
    fs_status st = gather_served(j, rows, count, detail);
    if (st == FS_OK && (m->drift || kept)) st = gather_dense(j, rows, count, detail);
    if (st != FS_OK) return st;
    if (kept) dense_middle(j, place, count);
    fs_moments_add(m, j->h[FS_PLANE_SERVED], j->h[FS_PLANE_DENSE], count, weight);
    return FS_OK;
}

/* A chunk of the moments of down. kept: its a of the dense plane is at place already. */
static fs_status add_middles(fs_expert_job *j, const fs_layer_rows *rows, size_t place, uint32_t count,
                             bool kept, double weight, fs_moments *m, fs_detail *detail)
{
    fs_status st = gather_served(j, rows, count, detail);
    if (st == FS_OK && m->drift && !kept) st = gather_dense(j, rows, count, detail);
    if (st != FS_OK) return st;
    served_middle(j, place, count);
    if (m->drift && !kept) dense_middle(j, place, count);
    fs_moments_add(m, j->a_served, j->a_dense + place * j->inter, count, weight);
    return FS_OK;
}

static uint32_t chunk_of(uint64_t left)
{
    return left < CHUNK ? (uint32_t)left : CHUNK;
}

/* The expert's own rows and, where they are too few, some of the layer's others, taken evenly, which count less. */
static fs_status gather_moments(fs_expert_job *j, const fs_layer_rows *rows, uint32_t expert, bool of_down,
                                fs_expert_result *result, fs_moments *m, fs_detail *detail)
{
    const uint64_t first = rows->start[expert], own = rows->held[expert] - first;
    fs_status (*add)(fs_expert_job *, const fs_layer_rows *, size_t, uint32_t, bool, double, fs_moments *,
                     fs_detail *) = of_down ? add_middles : add_inputs;
    fs_status st = FS_OK;
    for (uint64_t i = 0; st == FS_OK && i < own; i += CHUNK) {
        const uint32_t count = chunk_of(own - i);
        const size_t place = place_of(i, count);
        memcpy(j->slot, rows->slot + first + i, count * sizeof(*j->slot));
        st = add(j, rows, place, count, place < KEPT, 1, m, detail);
        if (st == FS_OK && of_down && place < KEPT) j->num_kept = i + count;
    }
    result->num_rows = own;
    result->borrowed = own < m->cols ? m->cols - own : 0;
    if (result->borrowed > rows->num_calibration_rows) result->borrowed = rows->num_calibration_rows;
    for (uint64_t i = 0; st == FS_OK && i < result->borrowed; i += CHUNK) {
        uint32_t count = chunk_of(result->borrowed - i);
        for (uint32_t k = 0; k < count; k++)
            j->slot[k] = (i + k) * rows->num_calibration_rows / result->borrowed * j->config->top_k;
        st = add(j, rows, KEPT, count, false, borrowed_weight, m, detail);
    }
    return st;
}

/* The part's weights to w and, where its inputs are not those of the part before, their curvature. */
static fs_status prepare_part(fs_expert_job *j, const fs_layer_rows *rows, uint32_t expert, int part,
                              const fs_expert_range *range, const fs_quantise_rule *rule,
                              fs_curvature *curvature, fs_expert_result *result, fs_detail *detail)
{
    const fs_tensor *t = range->part[part];
    fs_moments moments;
    fs_status st = load_weights(j, rows->stream->in, range, part, detail);
    if (st != FS_OK || part == FS_PART_UP) return st;
    fs_moments_init(&moments, (uint32_t)t->shape[1], rule->carry > 0, j->moments);
    st = gather_moments(j, rows, expert, part == FS_PART_DOWN, result, &moments, detail);
    if (st == FS_OK) st = fs_curvature_make(&moments, rule->damping, curvature, j->curvature, detail);
    return st == FS_OK ? FS_OK : fs_fail_in(detail, st, "%s", t->name);
}

static fs_matrix_result quantise_part(fs_expert_job *j, const fs_tensor *t, const fs_quantise_rule *rule,
                                      fs_rate rate, const fs_curvature *curvature)
{
    fs_quantise_loss loss;
    fs_quantise(rule, curvature, j->w, (uint32_t)t->shape[0], j->q, &loss, j->scratch);
    return (fs_matrix_result){.rate = rate,
                              .error = loss.energy > 0 ? loss.error / loss.energy : 0,
                              .density = (double)loss.nonzeros / (double)(t->shape[0] * t->shape[1]),
                              .damping = curvature->damping};
}

/* q as a blob, opened: the parts behind are measured behind it. */
static fs_status store_part(fs_expert_job *j, const fs_tensor *t, int part, fs_rate rate,
                            fs_expert_blobs *blobs, fs_detail *detail)
{
    fs_status st = fs_blobs_encode(blobs, (fs_expert_part)part, rate, j->q, (uint32_t)t->shape[0],
                                   (uint32_t)t->shape[1], detail);
    if (st == FS_OK) st = fs_sub1_open(blobs->data[part], blobs->bytes[part], &j->sub1[part], detail);
    return st == FS_OK ? FS_OK : fs_fail_in(detail, st, "%s, quantised", t->name);
}

fs_status fs_expert_job_quantise(fs_expert_job *j, const fs_layer_rows *rows, uint32_t expert,
                                 const fs_quantise_rule rule[FS_NUM_EXPERT_PARTS],
                                 const fs_rate rate[FS_NUM_EXPERT_PARTS], fs_expert_blobs *blobs,
                                 fs_expert_result *result, fs_detail *detail)
{
    fs_expert_range range;
    fs_curvature curvature;
    fs_status st = open_dense(j, rows, expert, &range, detail);
    for (int part = 0; st == FS_OK && part < FS_NUM_EXPERT_PARTS; part++) {
        st = prepare_part(j, rows, expert, part, &range, &rule[part], &curvature, result, detail);
        if (st != FS_OK) break;
        result->part[part] = quantise_part(j, range.part[part], &rule[part], rate[part], &curvature);
        st = store_part(j, range.part[part], part, rate[part], blobs, detail);
        result->part[part].bytes = blobs->bytes[part];
    }
    return st;
}

fs_status fs_expert_job_probe(fs_expert_job *j, const fs_layer_rows *rows, uint32_t expert,
                              const fs_quantise_rule rule[FS_BUDGET_RATES],
                              fs_budget_matrix out[FS_NUM_EXPERT_PARTS], fs_detail *detail)
{
    static const uint32_t order[FS_BUDGET_RATES] = {0, 2, 1}; /* the middle one last: its q is stored */
    fs_expert_range range;
    fs_curvature curvature;
    fs_expert_result result = {0};
    fs_expert_blobs blobs = {0};
    fs_status st = open_dense(j, rows, expert, &range, detail);
    for (int part = 0; st == FS_OK && part < FS_NUM_EXPERT_PARTS; part++) {
        st = prepare_part(j, rows, expert, part, &range, &rule[1], &curvature, &result, detail);
        for (uint32_t i = 0; st == FS_OK && i < FS_BUDGET_RATES; i++) {
            const fs_rate rate = {FS_SUB1_BLOCKED, order[i] + 1, FS_QUANTISE_BLOCK};
            out[part].error[order[i]] =
                quantise_part(j, range.part[part], &rule[order[i]], rate, &curvature).error;
        }
        if (st == FS_OK)
            st = store_part(j, range.part[part], part, (fs_rate){FS_SUB1_BLOCKED, 2, FS_QUANTISE_BLOCK},
                            &blobs, detail);
    }
    fs_blobs_free(&blobs);
    j->num_kept = 0; /* of the middle rates' */
    return st;
}

/* ---- running ---- */

static fs_status put(fs_expert_job *j, const fs_layer_rows *rows, int plane, uint32_t count,
                     fs_detail *detail)
{
    fs_status st = FS_OK;
    for (uint32_t i = 0; st == FS_OK && i < count; i++)
        st = fs_rows_write(&rows->stream->out[plane], j->slot[i], 1, j->y_row[i], detail);
    return st;
}

/* The chunk that begins at the expert's row `at`. kept: its a is there from the moments. */
static fs_status run_chunk(fs_expert_job *j, const fs_layer_rows *rows, uint64_t at, uint32_t count,
                           bool kept, fs_detail *detail)
{
    const size_t place = kept ? (size_t)at : KEPT;
    fs_status st = FS_OK;
    if (!kept) {
        st = gather_served(j, rows, count, detail);
        if (st == FS_OK) st = gather_dense(j, rows, count, detail);
        if (st != FS_OK) return st;
        served_middle(j, place, count);
        dense_middle(j, place, count);
    }
    fs_sub1_matmul(&j->sub1[FS_PART_DOWN], j->a8_row + place, j->a_scale + place, j->y_row, count);
    st = put(j, rows, FS_PLANE_SERVED, count, detail);
    if (st != FS_OK) return st;
    fs_matmul(NULL, j->kernels, &j->dense.dense[FS_PART_DOWN], j->a_dense + place * j->inter, j->inter, j->y,
              j->hidden_pad, count);
    return put(j, rows, FS_PLANE_DENSE, count, detail);
}

fs_status fs_expert_job_run(fs_expert_job *j, const fs_layer_rows *rows, uint32_t expert,
                            const fs_expert_blobs *blobs, fs_detail *detail)
{
    const uint64_t first = rows->start[expert], all = rows->start[expert + 1] - first, kept = j->num_kept;
    fs_expert_range range;
    fs_status st = open_dense(j, rows, expert, &range, detail);
    for (int part = 0; st == FS_OK && part < FS_NUM_EXPERT_PARTS; part++)
        st = fs_sub1_open(blobs->data[part], blobs->bytes[part], &j->sub1[part], detail);
    for (uint64_t at = 0, count; st == FS_OK && at < all; at += count) {
        count = chunk_of((at < kept ? kept : all) - at);
        memcpy(j->slot, rows->slot + first + at, count * sizeof(*j->slot));
        st = run_chunk(j, rows, at, (uint32_t)count, at < kept, detail);
    }
    for (int part = 0; st == FS_OK && part < FS_NUM_EXPERT_PARTS; part++) fs_tensor_release(range.part[part]);
    return st;
}
