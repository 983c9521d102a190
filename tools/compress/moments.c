/* tools/compress/moments.c: second moments of a matrix's inputs, and what the sweep needs of them. */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

#include "quantise.h"

enum { CHECKED = 3 }; /* times that damping is raised before the moments are given up */

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
    return square(cols, sizeof(double)) * (with_drift ? 2 : 1) + square(cols, sizeof(float)) +
           aligned((size_t)FS_MOMENTS_ROWS * cols * sizeof(float));
}

void fs_moments_init(fs_moments *m, uint32_t cols, bool with_drift, void *memory)
{
    uint8_t *at = memory;
    *m = (fs_moments){.cols = cols, .served = (double *)at};
    at += square(cols, sizeof(double));
    if (with_drift) m->drift = (double *)at;
    if (with_drift) at += square(cols, sizeof(double));
    m->product = (float *)at;
    m->scaled = (float *)(at + square(cols, sizeof(float)));
    memset(m->served, 0, (size_t)cols * cols * sizeof(double));
    if (with_drift) memset(m->drift, 0, (size_t)cols * cols * sizeof(double));
}

static void add_product(double *sum, const float *product, uint32_t cols, double weight, bool upper)
{
    for (size_t i = 0; i < cols; i++)
        for (size_t j = upper ? i : 0; j < cols; j++)
            sum[i * cols + j] += weight * (double)product[i * cols + j];
}

void fs_moments_add(fs_moments *m, const float *x, const float *d, uint32_t rows, double weight)
{
    FS_ASSERT(rows <= FS_MOMENTS_ROWS);
    const int n = (int)m->cols, k = (int)rows;
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, n, k, 1, x, n, 0, m->product, n);
    add_product(m->served, m->product, m->cols, weight, true);
    m->rows += weight * rows;
    if (!m->drift) return;
    for (size_t i = 0; i < (size_t)rows * m->cols; i++) m->scaled[i] = d[i] - x[i];
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, n, k, 1, m->scaled, n, x, n, 0, m->product, n);
    add_product(m->drift, m->product, m->cols, weight, false);
}

size_t fs_curvature_bytes(uint32_t cols, bool with_drift)
{
    return 2 * square(cols, sizeof(double)) + square(cols, sizeof(float)) * (with_drift ? 3 : 2);
}

static void mirror(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) a[i * n + j] = a[j * n + i];
}

/* moments / rows + damping * mean of the diagonal, to h and, upper triangle, to a. A column that never had an input has a unit moment. */
static fs_status damp(const fs_moments *m, double damping, double *a, float *h, fs_detail *detail)
{
    size_t n = m->cols;
    double mean = 0, rows = m->rows > 0 ? m->rows : 1;
    for (size_t i = 0; i < n; i++) mean += m->served[i * n + i] / rows / (double)n;
    if (!isfinite(mean)) return fs_fail(detail, FS_INVALID, "the inputs of the matrix are not finite");
    if (mean <= 0) mean = 1;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i; j < n; j++) a[i * n + j] = m->served[i * n + j] / rows;
        a[i * n + i] += damping * mean;
    }
    mirror(a, n);
    for (size_t i = 0; i < n * n; i++) h[i] = (float)a[i];
    return FS_OK;
}

/* Old OpenBLAS builds compute wrong results on some processors: h (inverse v) must be v. */
static bool inverts(const float *h, const double *inverse, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i += n / 8 + 1) {
        double sum = 0;
        for (size_t j = 0; j < n; j++) sum += (double)h[i * n + j] * inverse[j * n + i];
        worst = fmax(worst, fabs(sum - 1));
    }
    return worst < 1e-2;
}

static lapack_int invert(double *a, lapack_int n)
{
    /* Column-major upper is row-major lower of a symmetric matrix: called in the library's own order, nothing is transposed. */
    lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', n, a, n);
    if (info == 0) info = LAPACKE_dpotri_work(LAPACK_COL_MAJOR, 'U', n, a, n);
    return info;
}

static void mirror_lower(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) a[j * n + i] = a[i * n + j];
}

fs_status fs_curvature_make(const fs_moments *m, double damping, fs_curvature *out, void *memory,
                            fs_detail *detail)
{
    const size_t n = m->cols;
    uint8_t *at = memory;
    fs_curvature c = {.cols = m->cols, .inverse = (double *)at};
    double *work = (double *)(at += square(m->cols, sizeof(double)));
    c.h = (float *)(at += square(m->cols, sizeof(double)));
    c.u = (float *)(at += square(m->cols, sizeof(float)));
    c.carry = m->drift ? (float *)(at + square(m->cols, sizeof(float))) : NULL;
    lapack_int info = 1;
    for (int attempt = 0; info != 0 && attempt < CHECKED; attempt++, damping = damping * 10 + 1e-3) {
        fs_status st = damp(m, damping, c.inverse, c.h, detail);
        if (st != FS_OK) return st;
        c.damping = damping;
        info = invert(c.inverse, (lapack_int)n);
    }
    if (info == 0) {
        mirror_lower(c.inverse, n);
        memcpy(work, c.inverse, n * n * sizeof(double));
        info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', (lapack_int)n, work, (lapack_int)n);
    }
    if (info != 0)
        return fs_fail(detail, FS_INVALID, "the moments of the inputs are singular even with damping %g",
                       c.damping);
    if (!inverts(c.h, c.inverse, n))
        return fs_fail(detail, FS_INTERNAL,
                       "the linear algebra library computes wrong inverses on this processor (for OpenBLAS, "
                       "OPENBLAS_CORETYPE in the environment names another kernel)");
    /* Column-major lower L with L L^T: row-major it is the upper u = L^T with u^T u. */
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) c.u[i * n + j] = j < i ? 0 : (float)work[i * n + j];
    if (c.carry) {
        double rows = m->rows > 0 ? m->rows : 1;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)n, (int)n, 1 / rows, m->drift,
                    (int)n, c.inverse, (int)n, 0, work, (int)n);
        for (size_t i = 0; i < n * n; i++) c.carry[i] = (float)work[i];
    }
    *out = c;
    return FS_OK;
}
