/* tests/unit/tools/compress/quantise_test.c: moments, their curvature, and the sweep, on small matrices. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/random.h"
#include "compress/quantise.h"

enum { COLS = 32, ROWS = 21, INPUTS = 200 };

typedef struct {
    float x[INPUTS][COLS], d[INPUTS][COLS], w[ROWS][COLS];
    void *moments_memory, *curvature_memory, *scratch;
    fs_moments moments;
    fs_curvature curvature;
} problem;

static float centred(fs_random *random)
{
    return fs_random_unit(random) + fs_random_unit(random) + fs_random_unit(random) - 1.5f;
}

/* Inputs whose columns hang together; d is x and a little more. */
static problem *make_problem(bool with_drift)
{
    problem *p = calloc(1, sizeof(*p));
    fs_random random = {9};
    for (int i = 0; i < INPUTS; i++) {
        float common = centred(&random);
        for (int c = 0; c < COLS; c++) {
            p->x[i][c] = centred(&random) + 0.7f * common;
            p->d[i][c] = p->x[i][c] + 0.2f * (c ? p->x[i][c - 1] : centred(&random));
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) p->w[r][c] = centred(&random);
    p->moments_memory = fs_alloc_aligned(fs_moments_bytes(COLS, with_drift));
    p->curvature_memory = fs_alloc_aligned(fs_curvature_bytes(COLS));
    p->scratch = fs_alloc_aligned(fs_quantise_scratch_bytes(ROWS, COLS));
    fs_moments_init(&p->moments, COLS, with_drift, p->moments_memory);
    fs_moments_add(&p->moments, p->x[0], with_drift ? p->d[0] : NULL, INPUTS, 1);
    return p;
}

static void free_problem(problem *p)
{
    free(p->moments_memory);
    free(p->curvature_memory);
    free(p->scratch);
    free(p);
}

static void make_curvature(problem *p)
{
    fs_detail detail = {0};
    assert_int_equal(fs_curvature_make(&p->moments, 0.01, &p->curvature, p->curvature_memory, &detail),
                     FS_OK);
}

static const fs_quantise_rule rule = {.n = 2, .choose = FS_CHOOSE_PATTERN, .scale = 1, .damping = 0.01};

static fs_quantise_loss quantise(problem *p, const fs_quantise_rule *how, float q[ROWS][COLS])
{
    fs_quantise_loss loss;
    fs_quantise(how, &p->curvature, p->w[0], ROWS, q[0], &loss, p->scratch);
    return loss;
}

/* Mean over the inputs of |W d - Q x|^2. */
static double output_error(const problem *p, float q[ROWS][COLS], bool drift)
{
    double sum = 0;
    for (int i = 0; i < INPUTS; i++)
        for (int r = 0; r < ROWS; r++) {
            double y = 0;
            for (int c = 0; c < COLS; c++)
                y += (double)p->w[r][c] * (double)(drift ? p->d : p->x)[i][c] -
                     (double)q[r][c] * (double)p->x[i][c];
            sum += y * y / INPUTS;
        }
    return sum;
}

static void moments_are_sums_of_products(void **state)
{
    problem *p = make_problem(true);
    fs_moments_add(&p->moments, p->x[0], p->d[0], 10, 0.5);
    assert_true(p->moments.rows == INPUTS + 5);
    fs_moments_flush(&p->moments);
    for (int i = 0; i < COLS; i += 5)
        for (int j = i; j < COLS; j += 3) {
            double served = 0, drift = 0;
            for (int k = 0; k < INPUTS; k++) {
                double weight = k < 10 ? 1.5 : 1;
                served += weight * (double)p->x[k][i] * (double)p->x[k][j];
                drift += weight * (double)(p->d[k][i] - p->x[k][i]) * (double)p->x[k][j];
            }
            assert_true(fabs(p->moments.served[i * COLS + j] - served) < 1e-3);
            assert_true(fabs((double)p->moments.drift[i * COLS + j] - drift) < 1e-3);
        }
    free_problem(p);
}

/* 40 times the rows, over FLUSH, count 40 times. */
static void moments_of_many_rows_lose_nothing(void **state)
{
    problem *few = make_problem(false), *many = make_problem(false);
    fs_moments_flush(&few->moments);
    for (int i = 1; i < 40; i++) fs_moments_add(&many->moments, many->x[0], NULL, INPUTS, 1);
    assert_true(40 * INPUTS > FS_MOMENTS_FLUSH && many->moments.rows == 40 * INPUTS);
    fs_moments_flush(&many->moments);
    for (int i = 0; i < COLS; i++)
        for (int j = i; j < COLS; j++) {
            double expected = 40 * few->moments.served[i * COLS + j];
            assert_true(fabs(many->moments.served[i * COLS + j] - expected) < 1e-5 * 40 * INPUTS);
        }
    free_problem(few);
    free_problem(many);
}

/* u h u^T = 1, which is u^T u = inverse of h. */
static void curvature_factors_the_inverse(void **state)
{
    problem *p = make_problem(false);
    make_curvature(p);
    const float *h = p->curvature.h, *u = p->curvature.u;
    for (int i = 0; i < COLS; i++)
        for (int j = 0; j < COLS; j++) {
            double product = 0;
            for (int k = 0; k < COLS; k++)
                for (int l = 0; l < COLS; l++)
                    product += (double)u[i * COLS + k] * (double)h[k * COLS + l] * (double)u[j * COLS + l];
            assert_true(fabs(product - (i == j)) < 1e-4);
            assert_true(h[i * COLS + j] == h[j * COLS + i]);
            assert_true(j >= i || u[i * COLS + j] == 0);
        }
    free_problem(p);
}

static void every_block_of_a_row_has_n_nonzeros_of_one_magnitude(void **state)
{
    problem *p = make_problem(false);
    make_curvature(p);
    float q[ROWS][COLS];
    for (uint32_t n = 1; n <= FS_QUANTISE_MAX_N; n++)
        for (int choose = FS_CHOOSE_PATTERN; choose <= FS_CHOOSE_NEAREST; choose++) {
            fs_quantise_rule how = rule;
            how.n = n;
            how.choose = (fs_choose)choose;
            how.rounds = choose == FS_CHOOSE_PATTERN ? 2 : 0;
            fs_quantise_loss loss = quantise(p, &how, q);
            assert_int_equal(loss.nonzeros, ROWS * COLS / 16 * n);
            for (int r = 0; r < ROWS; r++) {
                float magnitude = 0;
                for (int c = 0; c < COLS; c++) magnitude = fmaxf(magnitude, fabsf(q[r][c]));
                for (int c = 0; c < COLS; c++) assert_true(q[r][c] == 0 || fabsf(q[r][c]) == magnitude);
            }
        }
    free_problem(p);
}

static void the_loss_is_what_the_outputs_lose(void **state)
{
    problem *p = make_problem(false);
    assert_int_equal(fs_curvature_make(&p->moments, 0, &p->curvature, p->curvature_memory, NULL), FS_OK);
    float q[ROWS][COLS], zero[ROWS][COLS] = {0};
    fs_quantise_loss loss = quantise(p, &rule, q);
    assert_true(fabs(loss.error / output_error(p, q, false) - 1) < 1e-3);
    assert_true(fabs(loss.energy / output_error(p, zero, false) - 1) < 1e-3);
    free_problem(p);
}

static void feedback_patterns_and_rounds_each_lower_the_error(void **state)
{
    problem *p = make_problem(false);
    make_curvature(p);
    float q[ROWS][COLS];
    fs_quantise_rule nearest = rule, saliency = rule, rounds = rule;
    nearest.choose = FS_CHOOSE_NEAREST;
    saliency.choose = FS_CHOOSE_SALIENCY;
    rounds.rounds = 3;
    double by_nearest = quantise(p, &nearest, q).error, by_saliency = quantise(p, &saliency, q).error;
    double by_pattern = quantise(p, &rule, q).error, by_rounds = quantise(p, &rounds, q).error;
    assert_true(by_saliency < by_nearest);
    assert_true(by_pattern < by_saliency);
    assert_true(by_rounds < by_pattern);
    free_problem(p);
}

static void carry_takes_on_the_error_of_the_layers_before(void **state)
{
    problem *p = make_problem(true);
    make_curvature(p);
    float without[ROWS][COLS], with[ROWS][COLS];
    fs_quantise_rule carry = rule;
    carry.carry = 1;
    quantise(p, &rule, without);
    quantise(p, &carry, with);
    assert_true(output_error(p, with, true) < output_error(p, without, true));
    free_problem(p);
}

static void free_keeps_what_is_above_the_threshold(void **state)
{
    problem *p = make_problem(false);
    make_curvature(p);
    float q[ROWS][COLS];
    fs_quantise_rule sparse = {.n = 0, .scale = 4, .threshold = 0.5, .damping = 0.01, .rounds = 2},
                     dense = sparse;
    dense.scale = 2;
    uint64_t few = quantise(p, &sparse, q).nonzeros, many = quantise(p, &dense, q).nonzeros;
    assert_true(0 < few && few < many && many < ROWS * COLS);
    free_problem(p);
}

static void a_share_of_zeros_is_hit(void **state)
{
    problem *p = make_problem(false);
    make_curvature(p);
    float q[ROWS][COLS];
    for (double zeros = 0.7; zeros < 0.95; zeros += 0.1)
        for (uint32_t rounds = 0; rounds < 3; rounds += 2) {
            fs_quantise_rule how = {
                .n = 0, .scale = 1, .threshold = 0.5, .zeros = zeros, .damping = 0.01, .rounds = rounds};
            double share = 1 - (double)quantise(p, &how, q).nonzeros / (ROWS * COLS);
            assert_true(fabs(share - zeros) < 0.01);
        }
    free_problem(p);
}

static void the_same_problem_gives_the_same_bits(void **state)
{
    float q[2][ROWS][COLS];
    fs_quantise_rule how = rule;
    how.rounds = 2;
    for (int i = 0; i < 2; i++) {
        problem *p = make_problem(true);
        make_curvature(p);
        quantise(p, &how, q[i]);
        free_problem(p);
    }
    assert_memory_equal(q[0], q[1], sizeof(q[0]));
}

static void singular_moments_get_more_damping(void **state)
{
    problem *p = make_problem(false);
    fs_moments_init(&p->moments, COLS, false, p->moments_memory);
    for (int k = 0; k < 3; k++) fs_moments_add(&p->moments, p->x[k], NULL, 1, 1); /* three rows, 32 columns */
    assert_int_equal(fs_curvature_make(&p->moments, 0, &p->curvature, p->curvature_memory, NULL), FS_OK);
    assert_true(p->curvature.damping > 0);
    float q[ROWS][COLS];
    assert_true(isfinite(quantise(p, &rule, q).error));
    free_problem(p);
}

static void no_rows_at_all_quantise_as_if_columns_were_independent(void **state)
{
    problem *p = make_problem(false);
    fs_moments_init(&p->moments, COLS, false, p->moments_memory);
    make_curvature(p);
    float q[ROWS][COLS];
    fs_quantise_loss loss = quantise(p, &rule, q);
    assert_true(loss.error < loss.energy);
    free_problem(p);
}

static void moments_that_are_not_finite_are_refused(void **state)
{
    problem *p = make_problem(false);
    fs_detail detail = {0};
    p->moments.served[5 * COLS + 5] = NAN;
    assert_int_equal(fs_curvature_make(&p->moments, 0.1, &p->curvature, p->curvature_memory, &detail),
                     FS_INVALID);
    assert_non_null(strstr(detail.text, "finite"));
    free_problem(p);
}

static void moments_that_no_damping_helps_are_refused(void **state)
{
    problem *p = make_problem(false);
    fs_detail detail = {0};
    for (int i = 0; i < COLS; i++) p->moments.served[i * COLS + i] = i ? 1 : 2;
    p->moments.served[1] = 1e6; /* cannot be a moment: its square is over the product of the diagonal's */
    assert_int_equal(fs_curvature_make(&p->moments, 0.1, &p->curvature, p->curvature_memory, &detail),
                     FS_INVALID);
    assert_non_null(strstr(detail.text, "singular"));
    free_problem(p);
}

static void a_row_of_zeros_is_quantised(void **state)
{
    problem *p = make_problem(false);
    make_curvature(p);
    memset(p->w[4], 0, sizeof(p->w[4]));
    float q[ROWS][COLS];
    quantise(p, &rule, q);
    uint32_t count = 0;
    for (int c = 0; c < COLS; c++) count += q[4][c] != 0;
    assert_int_equal(count, COLS / 16 * 2);
    free_problem(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moments_are_sums_of_products),
        cmocka_unit_test(moments_of_many_rows_lose_nothing),
        cmocka_unit_test(curvature_factors_the_inverse),
        cmocka_unit_test(every_block_of_a_row_has_n_nonzeros_of_one_magnitude),
        cmocka_unit_test(the_loss_is_what_the_outputs_lose),
        cmocka_unit_test(feedback_patterns_and_rounds_each_lower_the_error),
        cmocka_unit_test(carry_takes_on_the_error_of_the_layers_before),
        cmocka_unit_test(free_keeps_what_is_above_the_threshold),
        cmocka_unit_test(a_share_of_zeros_is_hit),
        cmocka_unit_test(the_same_problem_gives_the_same_bits),
        cmocka_unit_test(singular_moments_get_more_damping),
        cmocka_unit_test(no_rows_at_all_quantise_as_if_columns_were_independent),
        cmocka_unit_test(moments_that_are_not_finite_are_refused),
        cmocka_unit_test(moments_that_no_damping_helps_are_refused),
        cmocka_unit_test(a_row_of_zeros_is_quantised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
