/* tools/compress/quantise.h: a dense matrix and the second moments of its inputs in, a ternary matrix out. Numbers only: no file,
 * thread or clock; the same input gives the same bits on one machine. After GPTQ (Frantar et al., arXiv 2210.17323); README.md
 * says what is different. */
#ifndef FS_COMPRESS_QUANTISE_H
#define FS_COMPRESS_QUANTISE_H

#include "base/status.h"

#define FS_QUANTISE_BLOCK 16u /* columns: the block of the *blocked* formats, and the step of the sweep */
#define FS_QUANTISE_MAX_N 3u

/* How the nonzeros of a block are chosen. The last two are there to be compared with. */
typedef enum {
    FS_CHOOSE_PATTERN,  /* the pattern that costs least once the columns behind have made up for it */
    FS_CHOOSE_SALIENCY, /* the n largest of w^2 / [H^-1], as SparseGPT and GPTQ do */
    FS_CHOOSE_NEAREST   /* the n largest; no error is passed on */
} fs_choose;

/* How a matrix becomes ternary. Every row gets one magnitude a for its positive and its negative weights. */
typedef struct {
    uint32_t n; /* nonzeros in every aligned 16 columns, 1 to FS_QUANTISE_MAX_N; 0: where it pays (*free*) */
    fs_choose choose; /* n > 0 */
    double
        scale; /* a = scale * the mean magnitude of the row's kept weights (n = 0: the row's root mean square) */
    double threshold; /* n = 0: a weight is kept above this fraction of a */
    double
        zeros; /* n = 0: > 0: the scale is looked for that leaves this share of the weights 0, from 0.01 to 0.99 */
    double damping;  /* added to the moments' diagonal, in means of the diagonal */
    double carry;    /* share of the error of earlier layers that the matrix takes on, 0 to 1 */
    uint32_t rounds; /* of coordinate descent after the sweep */
} fs_quantise_rule;

/* Second moments of a matrix's inputs, as it is served (x) and as the uncompressed model had it (d), for the same rows. Products are summed
 * in float32 over FS_MOMENTS_FLUSH rows, from there on in float64; the drift, which nothing is inverted of, in float32. */
typedef struct {
    uint32_t cols;
    double *served; /* [cols][cols] sum of x x^T, upper triangle, but for the rows that are pending */
    float *drift;   /* [cols][cols] sum of (d - x) x^T; NULL: not gathered */
    double rows;    /* sum of the weights of the rows */
    float *product; /* [cols][cols] of the pending rows, upper triangle */
    float *apart;   /* [FS_MOMENTS_ROWS][cols] scratch */
    uint32_t pending;
} fs_moments;

#define FS_MOMENTS_ROWS  256u /* a call */
#define FS_MOMENTS_FLUSH 2048u

size_t fs_moments_bytes(uint32_t cols, bool with_drift);
/* In memory of fs_moments_bytes, 64-byte aligned, borrowed. All zero. */
void fs_moments_init(fs_moments *moments, uint32_t cols, bool with_drift, void *memory);
/* x, d [rows][cols]; rows <= FS_MOMENTS_ROWS; weight: how much each row counts. d: NULL without drift. */
void fs_moments_add(fs_moments *moments, const float *x, const float *d, uint32_t rows, double weight);
/* No row is pending. */
void fs_moments_flush(fs_moments *moments);

/* What the sweep needs of the moments: in memory of fs_curvature_bytes. */
typedef struct {
    uint32_t cols;
    double damping;     /* that was needed: more than asked for where the moments were nearly singular */
    float *h;           /* [cols][cols] damped moments over the number of rows; full */
    float *u;           /* [cols][cols] upper triangular, u^T u = inverse of h; zeros below */
    const float *drift; /* [cols][cols] the moments'; borrowed. NULL: none */
    double rows;
} fs_curvature;

size_t fs_curvature_bytes(uint32_t cols);
/* Flushes the moments, which must outlive the curvature. FS_INVALID: a moment is not finite, or no damping makes them positive definite;
 * FS_INTERNAL: the linear algebra library computes wrong results on this machine (a check that costs a few matrix-vector products). */
FS_MUST_USE fs_status fs_curvature_make(fs_moments *moments, double damping, fs_curvature *out, void *memory,
                                        fs_detail *detail);

/* What a matrix lost, in the moments' measure: mean over the calibration rows of |W d - Q x|^2 and of |W d|^2, up to drift. */
typedef struct {
    double error, energy;
    uint64_t nonzeros;
} fs_quantise_loss;

size_t fs_quantise_scratch_bytes(uint32_t rows, uint32_t cols);
/* w [rows][cols] finite; q [rows][cols] receives the ternary matrix, each value exactly a bf16. cols is a multiple of
 * FS_QUANTISE_BLOCK. scratch: 64-byte aligned. A row of zeros gets magnitudes all the same: the format wants n nonzeros. */
void fs_quantise(const fs_quantise_rule *rule, const fs_curvature *curvature, const float *w, uint32_t rows,
                 float *q, fs_quantise_loss *loss, void *scratch);

#endif
