/* tools/compress/moments.c: second moments of a matrix's inputs, and what the sweep needs of them. */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

#include "quantise.h"

enum { ATTEMPTS = 3 }; /* times that damping is raised before the moments are given up */

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static size_t square(uint32_t cols, size_t element)
{
    return aligned((size_t)cols * cols * element);
}

size_t fs_moments_bytes(uint32_t cols, bool with_drift)
{
    return square(cols, sizeof(double)) + square(cols, sizeof(float)) * (with_drift ? 2 : 1) +
           (with_drift ? aligned((size_t)FS_MOMENTS_ROWS * cols * sizeof(float)) : 0);
}

void fs_moments_init(fs_moments *m, uint32_t cols, bool with_drift, void *memory)
{
    uint8_t *at = memory;
    *m = (fs_moments){.cols = cols, .served = (double *)at};
    m->product = (float *)(at += square(cols, sizeof(double)));
    memset(m->served, 0, (size_t)cols * cols * sizeof(double));
    if (!with_drift) return;
    m->drift = (float *)(at += square(cols, sizeof(float)));
    m->apart = (float *)(at + square(cols, sizeof(float)));
    memset(m->drift, 0, (size_t)cols * cols * sizeof(float));
}

void fs_moments_flush(fs_moments *m)
{
    const size_t n = m->cols;
    for (size_t i = 0; m->pending > 0 && i < n; i++)
        for (size_t j = i; j < n; j++) m->served[i * n + j] += (double)m->product[i * n + j];
    m->pending = 0;
}

void fs_moments_add(fs_moments *m, const float *x, const float *d, uint32_t rows, double weight)
{
    FS_ASSERT(rows <= FS_MOMENTS_ROWS);
    const int n = (int)m->cols, k = (int)rows;
    if (m->pending + rows > FS_MOMENTS_FLUSH) fs_moments_flush(m);
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, n, k, (float)weight, x, n, m->pending ? 1 : 0,
                m->product, n);
    m->pending += rows;
    m->rows += weight * rows;
    if (!m->drift) return;
    for (size_t i = 0; i < (size_t)rows * m->cols; i++) m->apart[i] = d[i] - x[i];
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, n, k, (float)weight, m->apart, n, x, n, 1,
                m->drift, n);
}

size_t fs_curvature_bytes(uint32_t cols)
{
    return 2 * square(cols, sizeof(float));
}

/* moments / rows + damping * mean of the diagonal, to h. A column that never had an input has a unit moment. */
static fs_status damp(const fs_moments *m, double damping, float *h, fs_detail *detail)
{
    const size_t n = m->cols;
    const double rows = m->rows > 0 ? m->rows : 1;
    double mean = 0;
    for (size_t i = 0; i < n; i++) mean += m->served[i * n + i] / rows / (double)n;
    if (!isfinite(mean)) return fs_fail(detail, FS_INVALID, "the inputs of the matrix are not finite");
    if (mean <= 0) mean = 1;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i; j < n; j++) h[i * n + j] = (float)(m->served[i * n + j] / rows);
        h[i * n + i] = (float)(m->served[i * n + i] / rows + damping * mean);
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) h[i * n + j] = h[j * n + i];
    return FS_OK;
}

/* u with u^T u = inverse of h. With rows and columns of h in reverse, its Cholesky factor is L: h = R R^T, R the reverse of L and upper
 * triangular, and u = inverse of R, the reverse of the inverse of L. So one factor and one inverse of a triangle are enough, and damped
 * moments are not so ill-conditioned that float32 were too little for them. false: h is not positive definite. */
static bool factor(const float *h, float *u, size_t n)
{
    const lapack_int size = (lapack_int)n;
    for (size_t i = 0; i < n * n; i++) u[i] = h[n * n - 1 - i];
    /* Column-major upper is row-major lower of a symmetric matrix: called in the library's own order, nothing is transposed. */
    if (LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'U', size, u, size) != 0 ||
        LAPACKE_strtri_work(LAPACK_COL_MAJOR, 'U', 'N', size, u, size) != 0)
        return false;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++) u[i * n + j] = 0;
    for (size_t i = 0; i < n * n / 2; i++) {
        const float v = u[i];
        u[i] = u[n * n - 1 - i];
        u[n * n - 1 - i] = v;
    }
    return true;
}

/* Old OpenBLAS builds compute wrong results on some processors: u h u^T must be the unit matrix. Some of its diagonal. */
static bool inverts(const fs_curvature *c)
{
    const size_t n = c->cols;
    double worst = 0;
    for (size_t row = 0; row < n; row += n / 8 + 1) {
        const float *u = c->u + row * n;
        double sum = 0;
        for (size_t i = row; i < n; i++) {
            double product = 0;
            for (size_t j = row; j < n; j++) product += (double)c->h[i * n + j] * (double)u[j];
            sum += (double)u[i] * product;
        }
        worst = fmax(worst, fabs(sum - 1));
    }
    return worst < 0.05;
}

fs_status fs_curvature_make(fs_moments *m, double damping, fs_curvature *out, void *memory, fs_detail *detail)
{
    fs_curvature c = {.cols = m->cols, .h = memory, .drift = m->drift, .rows = m->rows > 0 ? m->rows : 1};
    c.u = (float *)((uint8_t *)memory + square(m->cols, sizeof(float)));
    fs_moments_flush(m);
    bool good = false;
    for (int attempt = 0; !good && attempt < ATTEMPTS; attempt++, damping = damping * 10 + 1e-3) {
        fs_status st = damp(m, damping, c.h, detail);
        if (st != FS_OK) return st;
        c.damping = damping;
        good = factor(c.h, c.u, c.cols);
    }
    if (!good)
        return fs_fail(detail, FS_INVALID, "the moments of the inputs are singular even with damping %g",
                       c.damping);
    if (!inverts(&c))
        return fs_fail(detail, FS_INTERNAL,
                       "the linear algebra library computes wrong inverses on this processor (for OpenBLAS, "
                       "OPENBLAS_CORETYPE in the environment names another kernel)");
    *out = c;
    return FS_OK;
}
