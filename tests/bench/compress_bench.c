/* tests/bench/compress_bench.c: CPU time of quantising one expert of a shape, step by step, on one thread; what a whole model takes by that.
 *   compress_bench [HIDDEN INTERMEDIATE ROWS]      default: 2048 768 4096, an expert of qwen3-30b-a3b */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/arena.h"
#include "base/random.h"
#include "compress/quantise.h"

static double cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static float *random_values(size_t count, uint64_t seed)
{
    fs_random random = {seed};
    float *out = fs_alloc_aligned(count * sizeof(*out));
    for (size_t i = 0; out && i < count; i++)
        out[i] = fs_random_unit(&random) + fs_random_unit(&random) + fs_random_unit(&random) - 1.5f;
    return out;
}

typedef struct {
    double moments, curvature, sweep;
} times;

/* Moments of `rows` inputs, then `matrices` matrices of outs x cols on them. */
static void quantise(uint32_t cols, uint32_t outs, uint32_t rows, uint32_t matrices, times *t)
{
    const fs_quantise_rule rule = {
        .n = 2, .choose = FS_CHOOSE_PATTERN, .scale = 2.1, .damping = 0.1, .carry = 1, .rounds = 3};
    float *x = random_values((size_t)FS_MOMENTS_ROWS * cols, 1),
          *d = random_values((size_t)FS_MOMENTS_ROWS * cols, 2);
    float *w = random_values((size_t)outs * cols, 3), *q = fs_alloc_aligned((size_t)outs * cols * sizeof(*q));
    void *a = fs_alloc_aligned(fs_moments_bytes(cols, true)), *b = fs_alloc_aligned(fs_curvature_bytes(cols));
    void *c = fs_alloc_aligned(fs_quantise_scratch_bytes(outs, cols));
    fs_moments moments;
    fs_curvature curvature;
    fs_quantise_loss loss;
    if (!x || !d || !w || !q || !a || !b || !c) exit(EXIT_FAILURE);
    double begun = cpu();
    fs_moments_init(&moments, cols, true, a);
    for (uint32_t i = 0; i < rows; i += FS_MOMENTS_ROWS) fs_moments_add(&moments, x, d, FS_MOMENTS_ROWS, 1);
    t->moments += cpu() - begun;
    begun = cpu();
    if (fs_curvature_make(&moments, 0.1, &curvature, b, NULL) != FS_OK) exit(EXIT_FAILURE);
    t->curvature += cpu() - begun;
    begun = cpu();
    for (uint32_t i = 0; i < matrices; i++) fs_quantise(&rule, &curvature, w, outs, q, &loss, c);
    t->sweep += cpu() - begun;
    free(x), free(d), free(w), free(q), free(a), free(b), free(c);
}

static double product_speed(uint32_t n)
{
    float *m = random_values(3 * (size_t)n * n, 4);
    if (!m) exit(EXIT_FAILURE);
    double begun = cpu();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)n, (int)n, 1, m, (int)n,
                m + (size_t)n * n, (int)n, 0, m + 2 * (size_t)n * n, (int)n);
    double seconds = cpu() - begun;
    free(m);
    return 2.0 * n * n * n / seconds;
}

int main(int argc, char **argv)
{
    uint32_t hidden = argc > 3 ? (uint32_t)atoi(argv[1]) : 2048,
             inter = argc > 3 ? (uint32_t)atoi(argv[2]) : 768;
    uint32_t rows = argc > 3 ? (uint32_t)atoi(argv[3]) : 4096;
    times t = {0};
    openblas_set_num_threads(1);
    product_speed(1024); /* warm */
    double peak = product_speed(1024);
    quantise(hidden, inter, rows, 2, &t);
    quantise(inter, hidden, rows, 1, &t);
    double all = t.moments + t.curvature + t.sweep, weights = 3.0 * hidden * inter;
    double d = hidden, f = inter, k = rows;
    /* moments: half a product and a product; factors: two Cholesky, an inverse, a product; a matrix: carry, half a product, gradient, one to
     * measure. What is not a product (patterns, changes) is not counted. */
    double work = k * 3 * (d * d + f * f) + 10 / 3.0 * (d * d * d + f * f * f) +
                  9 * (2 * f * d * d + d * f * f);
    printf("%u x %u, %u rows: moments %.3f s, factors %.3f s, sweep and rounds %.3f s: %.3f s an expert, "
           "%.2f Mw/s a thread\n",
           hidden, inter, rows, t.moments, t.curvature, t.sweep, all, weights / all / 1e6);
    printf("about %.0f GFLOP/s of %.0f that a large float32 product has\n", work / all / 1e9, peak / 1e9);
    printf("29e9 weights (qwen3-30b-a3b) on 2 threads: %.2f h; 1.6e12 on 64: %.1f h\n",
           29e9 / weights * all / 2 / 3600, 1.6e12 / weights * all / 64 / 3600);
    return EXIT_SUCCESS;
}
