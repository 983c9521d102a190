/* A linear layer over a pool gives the bits of the kernel alone; rope and the 16-bit formats do what their names say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "compute/matmul.h"

static void fill(fs_random *r, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = fs_random_unit(r) - 0.5f;
}

static void check_layer(fs_pool *pool, fs_random *r, uint32_t rows, uint32_t outs, uint32_t cols,
                        bool is_bf16)
{
    const fs_kernels *k = fs_kernels_best();
    float *w = calloc((size_t)outs * cols + 1, sizeof *w), *x = calloc((size_t)rows * cols + 1, sizeof *x);
    float *got = calloc((size_t)rows * outs + 1, sizeof *got),
          *want = calloc((size_t)rows * outs + 1, sizeof *want);
    fill(r, w, (size_t)outs * cols);
    fill(r, x, (size_t)rows * cols);
    /* The same bytes serve as bf16: half as many outputs. */
    fs_matrix m = {w, is_bf16, outs, cols};
    if (is_bf16)
        k->matmul_bf16(x, cols, (const fs_bf16 *)w, want, outs, rows, outs, cols);
    else
        k->matmul_f32(x, cols, w, want, outs, rows, outs, cols);
    fs_matmul(pool, k, &m, x, cols, got, outs, rows);
    for (size_t i = 0; i < (size_t)rows * outs; i++)
        if (!isnan(want[i]))
            assert_memory_equal(&got[i], &want[i], sizeof got[i]);
        else
            assert_true(isnan(got[i]));
    free(w);
    free(x);
    free(got);
    free(want);
}

static void a_layer_does_not_depend_on_the_pool(void **state)
{
    fs_random r = {5};
    for (uint32_t threads = 1; threads < 5; threads++) {
        fs_pool *pool = NULL;
        assert_int_equal(fs_pool_create(threads, &pool), FS_OK);
        for (int i = 0; i < 30; i++)
            check_layer(pool, &r, fs_random_below(&r, 40), 1 + fs_random_below(&r, 700),
                        1 + fs_random_below(&r, 300), i % 2 != 0);
        fs_pool_destroy(pool);
    }
    check_layer(NULL, &r, 3, 50, 20, true);
}

static void rope_turns_pairs_by_their_angle(void **state)
{
    enum { DIM = 10, POSITIONS = 600 };
    static float cos_table[POSITIONS * DIM / 2], sin_table[POSITIONS * DIM / 2];
    fs_rope_table(10000.0f, DIM, POSITIONS, cos_table, sin_table);
    for (uint32_t p = 0; p < POSITIONS; p += 37) {
        float x[DIM], y[DIM];
        for (int i = 0; i < DIM; i++) x[i] = y[i] = (float)(i + 1);
        fs_rope_apply(y, cos_table + p * DIM / 2, sin_table + p * DIM / 2, DIM);
        for (int i = 0; i < DIM / 2; i++) {
            double angle = p * pow(10000.0, -2.0 * i / DIM), c = cos(angle), s = sin(angle);
            double a = (double)x[i], b = (double)x[i + DIM / 2];
            assert_true(fabs((double)y[i] - (a * c - b * s)) < 1e-5);
            assert_true(fabs((double)y[i + DIM / 2] - (b * c + a * s)) < 1e-5);
        }
    }
}

static void bf16_rounds_to_nearest_even(void **state)
{
    for (uint32_t v = 0; v < 0x10000; v++) {
        float f = fs_bf16_to_f32((fs_bf16)v);
        if (isnan(f))
            assert_true(isnan(fs_bf16_to_f32(fs_f32_to_bf16(f))));
        else
            assert_int_equal(fs_f32_to_bf16(f), v);
    }
    assert_int_equal(fs_f32_to_bf16(0x1.01p0f), 0x3f80);       /* a tie goes to even, down */
    assert_int_equal(fs_f32_to_bf16(0x1.03p0f), 0x3f82);       /* and up */
    assert_int_equal(fs_f32_to_bf16(0x1.01002p0f), 0x3f81);    /* above the tie */
    assert_int_equal(fs_f32_to_bf16(0x1.fffffep127f), 0x7f80); /* carries to infinity */
    uint32_t low_nan = 0x7f800001;
    float f;
    memcpy(&f, &low_nan, sizeof f);
    assert_true(isnan(fs_bf16_to_f32(fs_f32_to_bf16(f))));
}

static void f16_widens_exactly(void **state)
{
    assert_true(fs_f16_to_f32(0x3c00) == 1.0f && fs_f16_to_f32(0xc000) == -2.0f &&
                fs_f16_to_f32(0x7bff) == 65504.0f);
    assert_true(fs_f16_to_f32(0x0001) == 0x1p-24f && fs_f16_to_f32(0x8001) == -0x1p-24f);
    assert_true(fs_f16_to_f32(0x03ff) == 1023 * 0x1p-24f && fs_f16_to_f32(0x0400) == 0x1p-14f);
    assert_true(isinf(fs_f16_to_f32(0x7c00)) && isnan(fs_f16_to_f32(0x7c01)) &&
                signbit(fs_f16_to_f32(0x8000)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_does_not_depend_on_the_pool),
        cmocka_unit_test(rope_turns_pairs_by_their_angle),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(f16_widens_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
