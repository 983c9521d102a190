/* tests/unit/common/sub1/random_test.c: blobs drawn at random are blobs like any other, and as random as they say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "sub1/random.h"

enum { M = 16 };

typedef struct {
    uint8_t *blob;
    size_t bytes;
    fs_sub1_matrix matrix;
    float *w;
} drawn;

static drawn draw(uint32_t n, uint32_t rows, uint32_t cols, uint64_t seed)
{
    const fs_sub1_random what = {rows, cols, 0.5f, seed};
    drawn d = {.bytes = fs_sub1_random_bytes(n, rows, cols)};
    fs_detail detail = {0};
    assert_int_not_equal(d.bytes, 0);
    d.blob = fs_alloc_aligned(d.bytes);
    d.w = malloc(sizeof(float) * rows * cols);
    assert_true(d.blob && d.w);
    memset(d.blob, 0xa5, d.bytes);
    fs_sub1_random_blocked(&what, n, d.blob);
    if (fs_sub1_open(d.blob, d.bytes, &d.matrix, &detail) != FS_OK) fail_msg("%s", detail.text);
    fs_sub1_decode(&d.matrix, d.w);
    return d;
}

static void drop(drawn *d)
{
    free(d->blob);
    free(d->w);
}

static void encoding_what_it_says_gives_the_same_bytes(void **state)
{
    static const uint32_t shapes[][2] = {{64, 64}, {1, 16}, {63, 80}, {130, 2080}, {192, 48}, {65, 128}};
    for (uint32_t n = 1; n <= 3; n++)
        for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
            uint32_t rows = shapes[i][0], cols = shapes[i][1];
            drawn d = draw(n, rows, cols, 100 * n + i);
            assert_true(d.matrix.rows == rows && d.matrix.cols == cols && d.matrix.n == n &&
                        d.matrix.symmetric);
            assert_int_equal(d.matrix.blob_bytes, d.bytes);
            uint8_t *again = fs_alloc_aligned(fs_sub1_blob_bytes(FS_SUB1_BLOCKED, n, M, rows, cols));
            assert_int_equal(fs_sub1_encode_blocked(d.w, rows, cols, n, M, again, NULL), FS_OK);
            assert_memory_equal(again, d.blob, d.bytes);
            free(again);
            drop(&d);
        }
}

static void columns_and_signs_are_spread_evenly(void **state)
{
    enum { ROWS = 512, COLS = 512, BLOCKS = ROWS * COLS / M };
    for (uint32_t n = 1; n <= 3; n++) {
        drawn d = draw(n, ROWS, COLS, 7);
        uint32_t at[M] = {0}, negative = 0;
        for (uint32_t i = 0; i < ROWS * COLS; i++) at[i % M] += d.w[i] != 0, negative += d.w[i] < 0;
        const double expected = BLOCKS * (double)n / M, sigma = sqrt(expected);
        for (uint32_t c = 0; c < M; c++) assert_true(fabs(at[c] - expected) < 5 * sigma);
        assert_true(fabs(negative - BLOCKS * n / 2.0) < 5 * sqrt(BLOCKS * n / 4.0));
        drop(&d);
    }
}

static void magnitudes_are_within_a_quarter(void **state)
{
    drawn d = draw(2, 300, 64, 3);
    float least = 1, most = 0;
    for (uint32_t i = 0; i < 300 * 64; i++) {
        if (d.w[i] == 0) continue;
        least = fminf(least, fabsf(d.w[i]));
        most = fmaxf(most, fabsf(d.w[i]));
    }
    assert_true(least >= 0.375f && least < 0.39f && most <= 0.625f && most > 0.61f);
    drop(&d);
}

static void the_seed_decides(void **state)
{
    drawn a = draw(2, 70, 96, 5), b = draw(2, 70, 96, 5), c = draw(2, 70, 96, 6);
    assert_memory_equal(a.blob, b.blob, a.bytes);
    assert_memory_not_equal(a.blob, c.blob, a.bytes);
    drop(&a);
    drop(&b);
    drop(&c);
}

static void what_cannot_be_stored_has_no_size(void **state)
{
    assert_int_equal(fs_sub1_random_bytes(2, 64, 24), 0);
    assert_int_equal(fs_sub1_random_bytes(2, 0, 16), 0);
    assert_int_equal(fs_sub1_random_bytes(2, 16, 0), 0);
    assert_int_equal(fs_sub1_random_bytes(2, FS_SUB1_MAX_DIM + 1, 16), 0);
    assert_int_equal(fs_sub1_random_bytes(2, 16, FS_SUB1_MAX_DIM + 16), 0);
    assert_int_equal(fs_sub1_random_bytes(0, 64, 64), 0);
    assert_int_equal(fs_sub1_random_bytes(4, 64, 64), 0);
}

/* A blob of *free*: opened, decoded, and what it says encoded and decoded again. */
static void check_free(const fs_sub1_stock *stock, uint32_t rows, uint32_t cols, uint64_t seed)
{
    const fs_sub1_random what = {rows, cols, 0.5f, seed};
    const size_t bytes = fs_sub1_random_free_bytes(stock, &what), count = (size_t)rows * cols;
    uint8_t *blob = fs_alloc_aligned(bytes), *again = fs_alloc_aligned(bytes);
    float *w = malloc(count * sizeof(*w));
    fs_sub1_matrix m;
    fs_detail detail = {0};
    assert_true(blob && again && w);
    memset(blob, 0xa5, bytes);
    fs_sub1_random_free(stock, &what, blob);
    fs_sub1_random_free(stock, &what, again);
    assert_memory_equal(blob, again, bytes);
    if (fs_sub1_open(blob, bytes, &m, &detail) != FS_OK) fail_msg("%s", detail.text);
    assert_true(m.rows == rows && m.cols == cols && m.format == FS_SUB1_FREE && m.blob_bytes == bytes);
    fs_sub1_decode(&m, w);
    double nonzeros = 0;
    for (size_t i = 0; i < count; i++) {
        nonzeros += w[i] != 0;
        assert_true(w[i] == 0 || (fabsf(w[i]) >= 0.375f && fabsf(w[i]) <= 0.625f));
    }
    assert_true(fabs(nonzeros - 0.115 * (double)count) < 6 * sqrt(0.115 * (double)count) + 1);
    fs_buffer encoded = {0};
    if (fs_sub1_encode_free(w, rows, cols, &encoded, &detail) != FS_OK) fail_msg("%s", detail.text);
    fs_buffer_free(&encoded);
    free(blob);
    free(again);
    free(w);
}

static void what_is_put_together_opens_and_is_ternary(void **state)
{
    static const uint32_t shapes[][2] = {{256, 64}, {512, 300}, {1, 16}, {31, 2080}, {300, 96}, {2080, 64}};
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        fs_sub1_stock *stock = NULL;
        assert_int_equal(fs_sub1_stock_create(shapes[i][0], shapes[i][1], 0.115f, 9, &stock, NULL), FS_OK);
        for (uint64_t seed = 0; seed < 3; seed++) check_free(stock, shapes[i][0], shapes[i][1], seed);
        fs_sub1_stock_destroy(stock);
    }
}

static void a_stock_of_no_shape_is_refused(void **state)
{
    fs_sub1_stock *stock = NULL;
    assert_int_equal(fs_sub1_stock_create(0, 16, 0.1f, 1, &stock, NULL), FS_INVALID);
    assert_int_equal(fs_sub1_stock_create(16, FS_SUB1_MAX_DIM + 1, 0.1f, 1, &stock, NULL), FS_INVALID);
    assert_null(stock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoding_what_it_says_gives_the_same_bytes),
        cmocka_unit_test(columns_and_signs_are_spread_evenly),
        cmocka_unit_test(magnitudes_are_within_a_quarter),
        cmocka_unit_test(the_seed_decides),
        cmocka_unit_test(what_cannot_be_stored_has_no_size),
        cmocka_unit_test(what_is_put_together_opens_and_is_ternary),
        cmocka_unit_test(a_stock_of_no_shape_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
