/* tools/compress/gptq.c: the sweep over the columns of a matrix, a block of 16 at a time, and the rounds behind it. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "compute/kernels.h"
#include "pattern.h"

enum { BLOCK = FS_QUANTISE_BLOCK, L = FS_PATTERN_LANES, LAZY = 128, HALVINGS = 10 };
static const double scale_least = 0.25, scale_most = 16, zeros_near = 0.001;

typedef struct {
    const fs_quantise_rule *rule;
    const fs_curvature *curvature;
    size_t rows, padded_rows, cols;
    float *w;    /* [padded_rows][cols] what is still to be quantised; then the gradient of the rounds */
    float *goal; /* [padded_rows][cols] w as it came, carry added */
    float *q;    /* [padded_rows][cols] */
    float *e;    /* [padded_rows][LAZY] weighted errors of the columns done, not yet taken off those behind */
    float *a, *cost; /* [padded_rows] */
} sweep;

static size_t padded(uint32_t rows)
{
    return (rows + L - 1) / L * L;
}

size_t fs_quantise_scratch_bytes(uint32_t rows, uint32_t cols)
{
    return (padded(rows) * cols * 3 + padded(rows) * (LAZY + 2)) * sizeof(float);
}

/* ---- magnitudes ---- */

static double quadratic(const float *x, const float *y, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)x[i] * (double)y[i];
    return sum;
}

/* The sum of the n largest of 16 magnitudes. */
static double largest(const float *w, uint32_t n)
{
    float top[FS_QUANTISE_MAX_N] = {0};
    for (uint32_t i = 0; i < BLOCK; i++) {
        float v = fabsf(w[i]);
        for (uint32_t k = 0; k < n; k++) {
            float lower = fminf(v, top[k]);
            top[k] = fmaxf(v, top[k]);
            v = lower;
        }
    }
    double sum = 0;
    for (uint32_t k = 0; k < n; k++) sum += (double)top[k];
    return sum;
}

static float magnitude(const fs_quantise_rule *rule, double scale, const float *w, size_t cols)
{
    double base = 0;
    if (rule->n == 0)
        base = sqrt(quadratic(w, w, cols) / (double)cols);
    else
        for (size_t i = 0; i < cols; i += BLOCK)
            base += largest(w + i, rule->n) / (double)(rule->n * cols / BLOCK);
    float a = fs_bf16_to_f32(fs_f32_to_bf16((float)(scale * base)));
    return isfinite(a) && a >= 0x1p-100f
               ? a
               : 0x1p-100f; /* a row of zeros: a value that is a bf16 and changes nothing */
}

/* ---- between rows and lanes ---- */

static void load_block(const float *m, size_t stride, fs_lanes out[BLOCK])
{
    for (size_t l = 0; l < L; l++)
        for (size_t j = 0; j < BLOCK; j++) out[j][l] = m[l * stride + j];
}

static void store_block(const fs_lanes in[BLOCK], float *m, size_t stride)
{
    for (size_t l = 0; l < L; l++)
        for (size_t j = 0; j < BLOCK; j++) m[l * stride + j] = in[j][l];
}

/* c = A x */
static void times(const float A[BLOCK][BLOCK], const fs_lanes x[BLOCK], fs_lanes c[BLOCK])
{
    memset(c, 0, sizeof(fs_lanes) * BLOCK);
    for (size_t j = 0; j < BLOCK; j++)
        for (size_t k = 0; k < BLOCK; k++)
            for (size_t l = 0; l < L; l++) c[j][l] += A[j][k] * x[k][l];
}

/* ---- the sweep ---- */

/* What a block's error costs once the columns behind it have made up for it: with U the block of u on the diagonal, an error e there
 * costs e A e^T, A = U^-1 U^-T, and takes (e U^-1) u off the columns behind. */
typedef struct {
    float A[BLOCK][BLOCK], inverse[BLOCK][BLOCK]; /* inverse: U^-1 */
} block_curvature;

static void invert_block(const float *u, size_t stride, block_curvature *out)
{
    double inv[BLOCK][BLOCK] = {0};
    for (size_t j = 0; j < BLOCK; j++) {
        inv[j][j] = 1 / (double)u[j * stride + j];
        for (size_t i = j; i-- > 0;) {
            double sum = 0;
            for (size_t k = i + 1; k <= j; k++) sum += (double)u[i * stride + k] * inv[k][j];
            inv[i][j] = -sum / (double)u[i * stride + i];
        }
    }
    for (size_t i = 0; i < BLOCK; i++)
        for (size_t j = 0; j < BLOCK; j++) {
            double sum = 0;
            for (size_t k = 0; k < BLOCK; k++) sum += inv[i][k] * inv[j][k];
            out->A[i][j] = (float)sum;
            out->inverse[i][j] = (float)inv[i][j];
        }
}

/* GPTQ's own order: column by column, each error taken off the block's other columns before they are looked at. kept: above which size a
 * weight is not 0. w is changed. */
static void choose_in_order(const sweep *s, const float *u, const fs_lanes a, const fs_lanes kept[BLOCK],
                            fs_lanes w[BLOCK], fs_lanes q[BLOCK])
{
    for (size_t j = 0; j < BLOCK; j++) {
        for (size_t l = 0; l < L; l++) {
            float v = w[j][l];
            q[j][l] = fabsf(v) <= kept[j][l] ? 0 : v < 0 ? -a[l] : a[l];
        }
        for (size_t k = j + 1; k < BLOCK; k++) {
            float share = s->rule->choose == FS_CHOOSE_NEAREST ? 0 : u[j * s->cols + k] / u[j * s->cols + j];
            for (size_t l = 0; l < L; l++) w[k][l] -= (w[j][l] - q[j][l]) * share;
        }
    }
}

/* kept: -1 for each row's n columns of greatest w^2 / diagonal^2, infinity for the others. */
static void choose_columns(uint32_t n, const float *diagonal, size_t step, const fs_lanes w[BLOCK],
                           fs_lanes kept[BLOCK])
{
    for (size_t l = 0; l < L; l++) {
        for (size_t j = 0; j < BLOCK; j++) kept[j][l] = INFINITY;
        for (uint32_t k = 0; k < n; k++) {
            size_t best = BLOCK;
            float most = -1;
            for (size_t j = 0; j < BLOCK; j++) {
                float size = fabsf(w[j][l]) / diagonal[j * step];
                if (kept[j][l] > 0 && size > most) most = size, best = j;
            }
            kept[best < BLOCK ? best : k][l] = -1;
        }
    }
}

static void choose(const sweep *s, size_t row, size_t col, const block_curvature *block,
                   const fs_lanes w[BLOCK], fs_lanes q[BLOCK])
{
    static const float ones[BLOCK] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const fs_quantise_rule *rule = s->rule;
    const float *u = s->curvature->u + col * s->cols + col;
    fs_lanes kept[BLOCK], moved[BLOCK], c[BLOCK];
    if (rule->n && rule->choose == FS_CHOOSE_PATTERN) {
        times(block->A, w, c);
        fs_pattern_best(rule->n, block->A, (const fs_lanes *)c, s->a + row, q);
        return;
    }
    if (rule->n && rule->choose == FS_CHOOSE_NEAREST)
        choose_columns(rule->n, ones, 1, w, kept);
    else if (rule->n)
        choose_columns(rule->n, u, s->cols + 1, w, kept);
    else
        for (size_t j = 0; j < BLOCK; j++)
            for (size_t l = 0; l < L; l++) kept[j][l] = (float)rule->threshold * s->a[row + l];
    memcpy(moved, w, sizeof(moved));
    choose_in_order(s, u, s->a + row, (const fs_lanes *)kept, moved, q);
}

static void sweep_rows(sweep *s, size_t row, size_t col, size_t lazy, const block_curvature *block)
{
    fs_lanes w[BLOCK], q[BLOCK], e[BLOCK] = {0};
    load_block(s->w + row * s->cols + col, s->cols, w);
    choose(s, row, col, block, (const fs_lanes *)w, q);
    store_block(q, s->q + row * s->cols + col, s->cols);
    for (size_t k = 0; k < BLOCK; k++)
        for (size_t j = k; j < BLOCK; j++)
            for (size_t l = 0; l < L; l++) e[j][l] += (w[k][l] - q[k][l]) * block->inverse[k][j];
    store_block(e, s->e + row * LAZY + (col - lazy), LAZY);
}

/* w[:, from..to) -= e[:, first..first + count) u[..., from..to) */
static void take_off(sweep *s, size_t lazy, size_t first, size_t count, size_t from, size_t to)
{
    if (from >= to || s->rule->choose == FS_CHOOSE_NEAREST) return;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)s->padded_rows, (int)(to - from), (int)count,
                -1, s->e + first, LAZY, s->curvature->u + (lazy + first) * s->cols + from, (int)s->cols, 1,
                s->w + from, (int)s->cols);
}

static void run_sweep(sweep *s)
{
    for (size_t lazy = 0; lazy < s->cols; lazy += LAZY) {
        size_t end = lazy + LAZY < s->cols ? lazy + LAZY : s->cols;
        for (size_t col = lazy; col < end; col += BLOCK) {
            block_curvature block;
            invert_block(s->curvature->u + col * s->cols + col, s->cols, &block);
            for (size_t row = 0; row < s->padded_rows; row += L) sweep_rows(s, row, col, lazy, &block);
            take_off(s, lazy, col - lazy, BLOCK, col + BLOCK, end);
        }
        take_off(s, lazy, 0, end - lazy, end, s->cols);
    }
}

/* ---- coordinate descent, a block a coordinate ---- */

/* gradient = (goal - q) h, in w */
static void make_gradient(sweep *s)
{
    const int rows = (int)s->padded_rows, cols = (int)s->cols;
    for (size_t i = 0; i < s->padded_rows * s->cols; i++) s->goal[i] -= s->q[i];
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, cols, cols, 1, s->goal, cols,
                s->curvature->h, cols, 0, s->w, cols);
    for (size_t i = 0; i < s->padded_rows * s->cols; i++) s->goal[i] += s->q[i];
}

static void change_row(sweep *s, size_t row, size_t col, const float *now)
{
    float *q = s->q + row * s->cols + col, *gradient = s->w + row * s->cols;
    for (size_t j = 0; j < BLOCK; j++) {
        float change = now[j] - q[j];
        if (change == 0) continue;
        q[j] = now[j];
        cblas_saxpy((int)s->cols, -change, s->curvature->h + (col + j) * s->cols, 1, gradient, 1);
    }
}

static void refine_rows(sweep *s, size_t row, size_t col, const float A[BLOCK][BLOCK])
{
    fs_lanes g[BLOCK], c[BLOCK], q[BLOCK];
    float now[L][BLOCK];
    load_block(s->w + row * s->cols + col, s->cols, g);
    load_block(s->q + row * s->cols + col, s->cols, q);
    times(A, q, c);
    for (size_t j = 0; j < BLOCK; j++)
        for (size_t l = 0; l < L; l++) c[j][l] += g[j][l];
    if (s->rule->n)
        fs_pattern_best(s->rule->n, A, c, s->a + row, q);
    else
        fs_pattern_pass(A, c, s->a + row, s->cost + row, q);
    store_block(q, now[0], BLOCK);
    for (size_t l = 0; l < L; l++) change_row(s, row + l, col, now[l]);
}

static void refine(sweep *s)
{
    for (uint32_t round = 0; round < s->rule->rounds; round++)
        for (size_t col = 0; col < s->cols; col += BLOCK) {
            float A[BLOCK][BLOCK];
            for (size_t i = 0; i < BLOCK; i++)
                memcpy(A[i], s->curvature->h + (col + i) * s->cols + col, sizeof(A[i]));
            for (size_t row = 0; row < s->padded_rows; row += L) refine_rows(s, row, col, A);
        }
}

/* ---- all of it ---- */

/* goal = W + carry * W C h^-1, C = drift / rows: what W would have to be for its served inputs to give what the uncompressed ones gave.
 * Uses w for the product. */
static void make_goal(sweep *s, const float *w)
{
    const int rows = (int)s->rows, n = (int)s->cols;
    const fs_curvature *c = s->curvature;
    memset(s->goal, 0, s->padded_rows * s->cols * sizeof(float));
    memcpy(s->goal, w, s->rows * s->cols * sizeof(float));
    if (!c->drift || s->rule->carry <= 0) return;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, n, n, (float)(s->rule->carry / c->rows), w,
                n, c->drift, n, 0, s->w, n);
    cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, rows, n, 1, c->u, n, s->w,
                n);
    cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, rows, n, 1, c->u, n, s->w,
                n);
    for (size_t i = 0; i < s->rows * s->cols; i++) s->goal[i] += s->w[i];
}

static void begin(sweep *s, const float *w, void *scratch)
{
    const size_t all = s->padded_rows * s->cols;
    s->goal = scratch;
    s->w = s->goal + all;
    s->q = s->w + all;
    s->e = s->q + all;
    s->a = s->e + s->padded_rows * LAZY;
    s->cost = s->a + s->padded_rows;
    make_goal(s, w);
}

static void quantise_at(sweep *s, double scale)
{
    memcpy(s->w, s->goal, s->padded_rows * s->cols * sizeof(float));
    for (size_t r = 0; r < s->padded_rows; r++) {
        s->a[r] = magnitude(s->rule, scale, s->goal + r * s->cols, s->cols);
        s->cost[r] = 0;
    }
    run_sweep(s);
    make_gradient(s);
    refine(s);
}

static uint64_t count_nonzeros(const sweep *s)
{
    uint64_t count = 0;
    for (size_t i = 0; i < s->rows * s->cols; i++) count += s->q[i] != 0;
    return count;
}

/* Halves a range of scales: the larger the scale, the fewer weights are kept. */
static void quantise_to_zeros(sweep *s)
{
    double low = scale_least, high = scale_most;
    for (int i = 0; i < HALVINGS; i++) {
        const double scale = (low + high) / 2;
        quantise_at(s, scale);
        const double over = 1 - (double)count_nonzeros(s) / (double)(s->rows * s->cols) - s->rule->zeros;
        if (fabs(over) < zeros_near) return;
        *(over > 0 ? &high : &low) = scale;
    }
}

/* Sum of goal h goal^T: twice the upper triangle's part less the diagonal's, which is half the work. Uses w for the product. */
static double measure_energy(sweep *s)
{
    const size_t n = s->cols, count = s->rows * n;
    const float *h = s->curvature->h;
    memcpy(s->w, s->goal, count * sizeof(float));
    cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, (int)s->rows, (int)n, 1, h,
                (int)n, s->w, (int)n);
    double sum = 2 * quadratic(s->w, s->goal, count);
    for (size_t i = 0; i < count; i++)
        sum -= (double)s->goal[i] * (double)s->goal[i] * (double)h[i % n * (n + 1)];
    return sum;
}

/* Sum of (goal - q) h (goal - q)^T, by the gradient. */
static double measure_error(const sweep *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->rows * s->cols; i++) sum += (double)s->w[i] * (double)(s->goal[i] - s->q[i]);
    return sum > 0 ? sum : 0;
}

void fs_quantise(const fs_quantise_rule *rule, const fs_curvature *curvature, const float *w, uint32_t rows,
                 float *q, fs_quantise_loss *loss, void *scratch)
{
    sweep s = {rule, curvature, rows, padded(rows), curvature->cols, .w = NULL};
    FS_ASSERT(s.cols % BLOCK == 0 && rule->n <= FS_QUANTISE_MAX_N);
    begin(&s, w, scratch);
    loss->energy = measure_energy(&s);
    if (rule->n == 0 && rule->zeros > 0)
        quantise_to_zeros(&s);
    else
        quantise_at(&s, rule->scale);
    memcpy(q, s.q, s.rows * s.cols * sizeof(float));
    loss->error = measure_error(&s);
    loss->nonzeros = count_nonzeros(&s);
}
