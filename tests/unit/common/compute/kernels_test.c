/* The wide kernel tables give the scalar table's bits, and the scalar table does what the header says. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "compute/kernels.h"

#define MAX_N 300
static const fs_kernels *const wide[] = {&fs_kernels_avx2, &fs_kernels_avx512};
#define NUM_WIDE (sizeof wide / sizeof wide[0])
static const fs_kernels *const scalar = &fs_kernels_scalar;

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* One NaN is as good as another. */
static bool same(float a, float b)
{
    return (isnan(a) && isnan(b)) || bits_of(a) == bits_of(b);
}

static void check_same(const float *got, const float *want, size_t n, const char *isa, const char *what,
                       size_t size)
{
    for (size_t i = 0; i < n; i++)
        if (!same(got[i], want[i]))
            fail_msg("%s %s n=%zu: [%zu] is %a, scalar has %a", isa, what, size, i, (double)got[i],
                     (double)want[i]);
}

/* Kinds of input: ordinary, any bits, tiny (denormal results), and ordinary with a few special values. */
enum { ORDINARY, ANY_BITS, TINY, SPECIAL, NUM_KINDS };

static float random_value(fs_random *r, int kind)
{
    static const float special[] = {0.0f,    -0.0f, INFINITY, -INFINITY, NAN,    1e-45f,
                                    -1e-40f, 3e38f, -3e38f,   88.8f,     -104.5f};
    float f = (fs_random_unit(r) - 0.5f) * 4.0f;
    if (kind == ANY_BITS) return float_of((uint32_t)fs_random_next(r));
    if (kind == TINY) return f * 1e-23f;
    if (kind == SPECIAL && fs_random_below(r, 40) == 0) return special[fs_random_below(r, 11)];
    return f;
}

static void fill(fs_random *r, int kind, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = random_value(r, kind);
}

typedef void trial(const fs_kernels *k, fs_random *r, int kind, size_t n);

/* Calls fn for every usable wide table, kind and size, many of them not multiples of 16. */
static void for_each(trial *fn)
{
    for (size_t t = 0; t < NUM_WIDE; t++) {
        if (!wide[t]->usable()) continue;
        fs_random r = {t};
        for (int kind = 0; kind < NUM_KINDS; kind++)
            for (size_t n = 0; n < MAX_N; n += n < 70 ? 1 : 23) fn(wide[t], &r, kind, n);
    }
}

static void try_dot(const fs_kernels *k, fs_random *r, int kind, size_t n)
{
    float a[MAX_N + 1] = {0}, b[MAX_N + 1] = {0};
    fill(r, kind, a, n + 1);
    fill(r, kind, b, n + 1);
    float got = k->dot_f32(a + 1, b, n), want = scalar->dot_f32(a + 1, b, n); /* + 1: not aligned */
    check_same(&got, &want, 1, k->name, "dot", n);
    got = k->max_f32(a, n);
    want = scalar->max_f32(a, n);
    check_same(&got, &want, 1, k->name, "max", n);
}

static void dot_and_max_equal_scalar(void **state)
{
    for_each(try_dot);
}

static void try_elementwise(const fs_kernels *k, fs_random *r, int kind, size_t n)
{
    float a[MAX_N] = {0}, b[MAX_N] = {0}, got[MAX_N] = {0}, want[MAX_N] = {0};
    fill(r, kind, a, n);
    fill(r, kind, b, n);
    k->exp_f32(a, got, n);
    scalar->exp_f32(a, want, n);
    check_same(got, want, n, k->name, "exp", n);
    k->silu_mul(a, b, got, n);
    scalar->silu_mul(a, b, want, n);
    check_same(got, want, n, k->name, "silu_mul", n);
    memcpy(got, b, sizeof got);
    memcpy(want, b, sizeof want);
    k->axpy(1.25f, a, got, n);
    scalar->axpy(1.25f, a, want, n);
    check_same(got, want, n, k->name, "axpy", n);
}

static void exp_silu_and_axpy_equal_scalar(void **state)
{
    for_each(try_elementwise);
}

static void try_rows(const fs_kernels *k, fs_random *r, int kind, size_t n)
{
    float a[MAX_N] = {0}, b[MAX_N] = {0}, got[MAX_N] = {0}, want[MAX_N] = {0};
    if (n == 0) return;
    fill(r, kind, a, n);
    fill(r, kind, b, n);
    k->rms_norm(a, b, 1e-5f, got, n);
    scalar->rms_norm(a, b, 1e-5f, want, n);
    check_same(got, want, n, k->name, "rms_norm", n);
    memcpy(got, a, sizeof got);
    memcpy(want, a, sizeof want);
    k->softmax(got, n);
    scalar->softmax(want, n);
    check_same(got, want, n, k->name, "softmax", n);
}

static void norm_and_softmax_equal_scalar(void **state)
{
    for_each(try_rows);
}

static void try_weighted_sum(const fs_kernels *k, fs_random *r, int kind, size_t n)
{
    static float rows[20 * (MAX_N + 3)];
    float weight[20] = {0}, got[MAX_N] = {0}, want[MAX_N] = {0}, one_by_one[MAX_N] = {0};
    size_t num_rows = fs_random_below(r, 20), stride = n + fs_random_below(r, 4);
    fill(r, kind, rows, num_rows * stride);
    fill(r, kind, weight, num_rows);
    fill(r, kind, want, n);
    memcpy(got, want, sizeof got);
    memcpy(one_by_one, want, sizeof got);
    k->weighted_sum(weight, rows, stride, num_rows, got, n);
    scalar->weighted_sum(weight, rows, stride, num_rows, want, n);
    check_same(got, want, n, k->name, "weighted_sum", n);
    for (size_t j = 0; j < num_rows; j++) k->axpy(weight[j], rows + j * stride, one_by_one, n);
    check_same(got, one_by_one, n, k->name, "axpy in turn", n);
}

static void weighted_sum_equals_scalar_and_axpy_in_turn(void **state)
{
    for_each(try_weighted_sum);
}

static void try_quantize(const fs_kernels *k, fs_random *r, int kind, size_t n)
{
    float x[MAX_N] = {0};
    int8_t got[MAX_N + 1], want[MAX_N + 1];
    fill(r, kind, x, n);
    got[n] = want[n] = 77;
    float gs = k->quantize_i8(x, got, n), ws = scalar->quantize_i8(x, want, n);
    check_same(&gs, &ws, 1, k->name, "quantize scale", n);
    assert_memory_equal(got, want, n + 1);
}

static void quantize_equals_scalar(void **state)
{
    for_each(try_quantize);
}

static void quantize_rounds_half_to_even_and_clamps(void **state)
{
    const float x[] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -127.0f, 126.49f};
    const int8_t want[] = {127, 0, 2, 2, 0, -2, -127, 126};
    int8_t q[8];
    assert_true(scalar->quantize_i8(x, q, 8) == 1.0f);
    assert_memory_equal(q, want, 8);
    const float zero[] = {0.0f, -0.0f};
    assert_true(scalar->quantize_i8(zero, q, 2) == 1e-8f / 127.0f);
    assert_true(q[0] == 0 && q[1] == 0);
}

static void quantize_of_a_broken_row_is_visibly_broken(void **state)
{
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        float x[33] = {1.0f};
        int8_t q[33], zero[33] = {0};
        x[32] = bad[i];
        memset(q, 1, sizeof q);
        assert_true(isnan(scalar->quantize_i8(x, q, 33)));
        assert_memory_equal(q, zero, 33);
    }
}

/* One product against its definition, row by row and output by output. */
static void try_matmul(const fs_kernels *k, fs_random *r, int kind, size_t rows, size_t outs, size_t cols)
{
    size_t x_stride = cols + fs_random_below(r, 3), y_stride = outs + fs_random_below(r, 3);
    float *x = malloc((rows * x_stride + 1) * sizeof *x), *w = malloc((outs * cols + 1) * sizeof *w);
    float *y = malloc((rows * y_stride + 1) * sizeof *y),
          *widened = malloc((outs * cols + 1) * sizeof *widened);
    fs_bf16 *half = malloc((outs * cols + 1) * sizeof *half);
    fill(r, kind, x, rows * x_stride);
    fill(r, kind, w, outs * cols);
    for (size_t i = 0; i < outs * cols; i++) {
        half[i] = (fs_bf16)(bits_of(w[i]) >> 16);
        widened[i] = fs_bf16_to_f32(half[i]);
    }
    for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) {
        for (size_t i = 0; i < rows * y_stride; i++) y[i] = 7.0f;
        if (is_bf16)
            k->matmul_bf16(x, x_stride, half, y, y_stride, rows, outs, cols);
        else
            k->matmul_f32(x, x_stride, w, y, y_stride, rows, outs, cols);
        for (size_t i = 0; i < rows * y_stride; i++) {
            size_t row = i / y_stride, o = i % y_stride;
            const float *weights = is_bf16 ? widened : w;
            float want = o < outs ? scalar->dot_f32(x + row * x_stride, weights + o * cols, cols) : 7.0f;
            check_same(&y[i], &want, 1, k->name, is_bf16 ? "matmul_bf16" : "matmul_f32", cols);
        }
    }
    free(x);
    free(w);
    free(y);
    free(widened);
    free(half);
}

static void matmul_equals_one_dot_an_output_whatever_the_rows(void **state)
{
    const fs_kernels *const all[] = {&fs_kernels_scalar, &fs_kernels_avx2, &fs_kernels_avx512};
    for (size_t t = 0; t < 3; t++) {
        if (!all[t]->usable()) continue;
        fs_random r = {99};
        for (int i = 0; i < 400; i++) {
            size_t rows = 1 + fs_random_below(&r, 11), outs = 1 + fs_random_below(&r, 40);
            try_matmul(all[t], &r, i % NUM_KINDS, rows, outs, 1 + fs_random_below(&r, 100));
        }
        try_matmul(all[t], &r, ORDINARY, 0, 5, 5);
        try_matmul(all[t], &r, ORDINARY, 5, 0, 5);
    }
}

/* In ulps of the exact result (long double's expl, whose error is far below). */
static double exp_error_ulp(float x, float y)
{
    long double exact = expl((long double)x);
    float rounded = (float)exact;
    if (isinf(rounded)) return isinf(y) ? 0 : INFINITY;
    long double ulp = (long double)nextafterf(rounded, INFINITY) - (long double)rounded;
    return (double)(fabsl((long double)y - exact) / ulp);
}

static void exp_is_within_2_ulp_over_its_range(void **state)
{
    double worst = 0;
    float worst_x = 0;
    for (int sign = 0; sign < 2; sign++) {
        /* All magnitudes from the smallest denormal to beyond the ends, a step of 641 floats apart. */
        for (uint32_t u = 0; u < bits_of(105.0f); u += 641) {
            float x = float_of(u | (uint32_t)sign << 31), y;
            scalar->exp_f32(&x, &y, 1);
            double error = exp_error_ulp(x, y);
            if (error <= worst) continue;
            worst = error;
            worst_x = x;
        }
    }
    print_message("exp: at most %.3f ulp, at %a\n", worst, (double)worst_x);
    assert_true(worst <= 2.0);
}

static void exp_ends_at_zero_and_infinity(void **state)
{
    float x[] = {INFINITY, -INFINITY, NAN, 88.73f, -103.98f, 0.0f, -0.0f, 88.72f, -103.9f, 1e30f, -1e30f};
    scalar->exp_f32(x, x, 11);
    assert_true(isinf(x[0]) && x[1] == 0.0f && isnan(x[2]) && isinf(x[3]) && x[4] == 0.0f);
    assert_true(x[5] == 1.0f && x[6] == 1.0f && isfinite(x[7]) && x[8] > 0.0f && isinf(x[9]) &&
                x[10] == 0.0f);
}

static void softmax_sums_to_one_and_keeps_order(void **state)
{
    float x[] = {1.0f, 2.0f, 3.0f, -1000.0f, 2.0f};
    scalar->softmax(x, 5);
    assert_true(fabsf(x[0] + x[1] + x[2] + x[3] + x[4] - 1.0f) < 1e-6f);
    assert_true(x[2] > x[1] && x[1] == x[4] && x[1] > x[0] && x[3] == 0.0f);
    float one = -5.0f;
    scalar->softmax(&one, 1);
    assert_true(one == 1.0f);
}

static void silu_is_x_times_sigmoid(void **state)
{
    for (float x = -20.0f; x < 20.0f; x += 0.37f) {
        float up = 2.0f, y;
        scalar->silu_mul(&x, &up, &y, 1);
        double want = 2.0 * (double)x / (1.0 + exp(-(double)x));
        assert_true(fabs((double)y - want) <= 1e-6 * fabs(want) + 1e-12);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dot_and_max_equal_scalar),
        cmocka_unit_test(exp_silu_and_axpy_equal_scalar),
        cmocka_unit_test(norm_and_softmax_equal_scalar),
        cmocka_unit_test(weighted_sum_equals_scalar_and_axpy_in_turn),
        cmocka_unit_test(quantize_equals_scalar),
        cmocka_unit_test(quantize_rounds_half_to_even_and_clamps),
        cmocka_unit_test(quantize_of_a_broken_row_is_visibly_broken),
        cmocka_unit_test(matmul_equals_one_dot_an_output_whatever_the_rows),
        cmocka_unit_test(exp_is_within_2_ulp_over_its_range),
        cmocka_unit_test(exp_ends_at_zero_and_infinity),
        cmocka_unit_test(softmax_sums_to_one_and_keeps_order),
        cmocka_unit_test(silu_is_x_times_sigmoid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
