/* tests/unit/tools/compress/pattern_test.c: the best pattern of a block, against looking at all of them one row at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "compress/pattern.h"

enum { BLOCK = FS_QUANTISE_BLOCK, L = FS_PATTERN_LANES };

/* Positive definite: B B^T + 1. */
static void make_curvature(fs_random *random, float A[BLOCK][BLOCK])
{
    float b[BLOCK][BLOCK];
    for (int i = 0; i < BLOCK; i++)
        for (int j = 0; j < BLOCK; j++) b[i][j] = fs_random_unit(random) - 0.5f;
    for (int i = 0; i < BLOCK; i++)
        for (int j = 0; j < BLOCK; j++) {
            A[i][j] = i == j;
            for (int k = 0; k < BLOCK; k++) A[i][j] += b[i][k] * b[j][k];
        }
}

static double cost_of(const float A[BLOCK][BLOCK], const double c[BLOCK], const double q[BLOCK])
{
    double sum = 0;
    for (int i = 0; i < BLOCK; i++) {
        sum -= 2 * c[i] * q[i];
        for (int j = 0; j < BLOCK; j++) sum += q[i] * (double)A[i][j] * q[j];
    }
    return sum;
}

/* The least cost of n nonzeros at or behind column `from`, beside those in q. */
static double least(const float A[BLOCK][BLOCK], const double c[BLOCK], double a, uint32_t n, int from,
                    double q[BLOCK])
{
    if (n == 0) return cost_of(A, c, q);
    double best = 1e30;
    for (int i = from; i < BLOCK; i++)
        for (int s = -1; s <= 1; s += 2) {
            q[i] = s * a;
            double cost = least(A, c, a, n - 1, i + 1, q);
            if (cost < best) best = cost;
            q[i] = 0;
        }
    return best;
}

static void check(uint32_t n, uint64_t seed)
{
    fs_random random = {seed};
    float A[BLOCK][BLOCK];
    fs_lanes c[BLOCK], a, q[BLOCK];
    make_curvature(&random, A);
    for (int l = 0; l < L; l++) {
        a[l] = 0.25f + fs_random_unit(&random);
        for (int i = 0; i < BLOCK; i++) c[i][l] = 4 * (fs_random_unit(&random) - 0.5f);
    }
    fs_pattern_best(n, (const float(*)[BLOCK])A, (const fs_lanes *)c, a, q);
    for (int l = 0; l < L; l++) {
        double row_c[BLOCK], found[BLOCK], none[BLOCK] = {0};
        uint32_t count = 0;
        for (int i = 0; i < BLOCK; i++) {
            row_c[i] = (double)c[i][l];
            found[i] = (double)q[i][l];
            count += q[i][l] != 0;
            assert_true(q[i][l] == 0 || q[i][l] == a[l] || q[i][l] == -a[l]);
        }
        assert_int_equal(count, n);
        double best = least((const float(*)[BLOCK])A, row_c, (double)a[l], n, 0, none);
        double mine = cost_of((const float(*)[BLOCK])A, row_c, found);
        assert_true(mine <= best + 1e-4);
    }
}

static void the_pattern_of_least_cost_is_found(void **state)
{
    for (uint32_t n = 1; n <= FS_QUANTISE_MAX_N; n++)
        for (uint64_t seed = 1; seed <= 4; seed++) check(n, seed * 10 + n);
}

static void ties_go_to_the_first_columns_and_plus(void **state)
{
    float A[BLOCK][BLOCK] = {0};
    fs_lanes c[BLOCK] = {0}, a, q[BLOCK];
    for (int i = 0; i < BLOCK; i++) A[i][i] = 1;
    for (int l = 0; l < L; l++) a[l] = 1;
    fs_pattern_best(2, (const float(*)[BLOCK])A, (const fs_lanes *)c, a, q);
    for (int i = 0; i < BLOCK; i++) assert_true(q[i][3] == (i < 2 ? 1.0f : 0.0f));
}

static void a_pass_never_raises_the_cost(void **state)
{
    fs_random random = {77};
    float A[BLOCK][BLOCK];
    fs_lanes c[BLOCK], a, cost = {0}, q[BLOCK] = {0};
    make_curvature(&random, A);
    for (int l = 0; l < L; l++) {
        a[l] = 0.5f;
        for (int i = 0; i < BLOCK; i++) c[i][l] = 4 * (fs_random_unit(&random) - 0.5f);
    }
    double before[L] = {0};
    for (int round = 0; round < 4; round++) {
        fs_pattern_pass((const float(*)[BLOCK])A, (const fs_lanes *)c, a, cost, q);
        for (int l = 0; l < L; l++) {
            double row_c[BLOCK], row_q[BLOCK];
            for (int i = 0; i < BLOCK; i++) row_c[i] = (double)c[i][l], row_q[i] = (double)q[i][l];
            double now = cost_of((const float(*)[BLOCK])A, row_c, row_q);
            assert_true(now <= before[l] + 1e-5);
            before[l] = now;
        }
    }
    assert_true(before[0] < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_pattern_of_least_cost_is_found),
        cmocka_unit_test(ties_go_to_the_first_columns_and_plus),
        cmocka_unit_test(a_pass_never_raises_the_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
