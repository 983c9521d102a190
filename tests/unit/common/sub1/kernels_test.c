/* What the kernels promise: the bits of the scalar one, which are those of the plain definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "sub1_helper.h"

/* Rows of x and y for one product. */
typedef struct {
    int8_t *x_data;
    float *y_data;
    const int8_t **x;
    float *x_scale, **y;
    uint32_t rows;
} batch;

static batch new_batch(const fs_sub1_matrix *m, uint32_t rows)
{
    batch b = {.rows = rows};
    b.x_data = calloc(rows, m->padded_cols);
    b.y_data = malloc(sizeof(float) * rows * m->padded_rows);
    b.x = malloc(rows * sizeof(*b.x));
    b.y = malloc(rows * sizeof(*b.y));
    b.x_scale = malloc(rows * sizeof(float));
    for (uint32_t r = 0; r < rows; r++) {
        b.x[r] = b.x_data + (size_t)r * m->padded_cols;
        b.y[r] = b.y_data + (size_t)r * m->padded_rows;
    }
    return b;
}

static void free_batch(batch *b)
{
    free(b->x_data), free(b->y_data), free(b->x), free(b->y), free(b->x_scale);
}

/* extreme: 0 random, 1 all 127, 2 all -127, 3 only -127 and 127, 4 all -128, which is read as -127 */
static void fill(batch *b, const fs_sub1_matrix *m, fs_random *random, int extreme)
{
    for (uint32_t r = 0; r < b->rows; r++) {
        int8_t *x = b->x_data + (size_t)r * m->padded_cols;
        for (uint32_t c = 0; c < m->cols; c++) {
            int v = (int)fs_random_below(random, 255) - 127;
            if (extreme == 3) v = v < 0 ? -127 : 127;
            x[c] = (int8_t)(extreme == 1 ? 127 : extreme == 2 ? -127 : extreme == 4 ? -128 : v);
        }
        b->x_scale[r] = (0.5f + fs_random_unit(random)) / 127;
    }
}

static void run(const fs_sub1_kernels *kernels, const fs_sub1_matrix *m, batch *b)
{
    memset(b->y_data, 0xff, sizeof(float) * b->rows * m->padded_rows);
    fs_sub1_matmul_groups(kernels, m, 0, m->padded_rows / m->group_rows, b->x, b->x_scale, b->y, b->rows);
}

static const fs_sub1_kernels *const wide[] = {
#if defined(__x86_64__)
    &fs_sub1_kernels_avx2, &fs_sub1_kernels_avx512, &fs_sub1_kernels_vbmi,
#endif
    &fs_sub1_kernels_scalar};
enum { NUM_WIDE = sizeof(wide) / sizeof(wide[0]) };

static void scalar_is_the_documented_sum(void **state)
{
    fs_random random = {5};
    for (uint32_t rows = 1; rows <= 33; rows += 8) {
        const uint32_t cols = 16 * rows;
        uint8_t *blob;
        fs_sub1_matrix m = random_matrix(&random, rows, cols, &blob);
        float *w = malloc(sizeof(float) * rows * cols);
        fs_sub1_decode(&m, w);
        batch b = new_batch(&m, 3);
        fill(&b, &m, &random, 0);
        run(&fs_sub1_kernels_scalar, &m, &b);
        for (uint32_t r = 0; r < b.rows; r++) {
            for (uint32_t o = 0; o < rows; o++) {
                float pos = 0, neg = 0;
                int32_t p = 0, n = 0;
                for (uint32_t c = 0; c < cols; c++) {
                    float v = w[(size_t)o * cols + c];
                    if (v > 0) pos = v, p += b.x[r][c];
                    if (v < 0) neg = v, n += b.x[r][c];
                }
                float left = pos * (float)p, right = neg * (float)n;
                assert_true(b.y[r][o] == b.x_scale[r] * (left + right));
            }
            for (uint32_t o = rows; o < m.padded_rows; o++) assert_true(b.y[r][o] == 0);
        }
        free_batch(&b), free(w), free(blob);
    }
}

/* Returns the comparisons made. */
static int check_all_kernels(fs_random *random, uint32_t n, bool symmetric, uint32_t rows, uint32_t cols,
                             uint32_t num_x, int extreme)
{
    uint8_t *blob;
    fs_sub1_matrix m = random_of_rate(random, n, symmetric, rows, cols, &blob);
    batch b = new_batch(&m, num_x);
    fill(&b, &m, random, extreme);
    size_t bytes = sizeof(float) * num_x * m.padded_rows;
    float *expected = malloc(bytes);
    int compared = 0;
    run(&fs_sub1_kernels_scalar, &m, &b);
    memcpy(expected, b.y_data, bytes);
    for (int k = 0; k < NUM_WIDE; k++) {
        if (!wide[k]->usable() || wide[k] == &fs_sub1_kernels_scalar) continue;
        run(wide[k], &m, &b);
        compared++;
        if (memcmp(expected, b.y_data, bytes) != 0)
            fail_msg("%s differs: %u:16, %u x %u, symmetric %d, %u rows of x, extreme %d", wide[k]->name, n,
                     rows, cols, symmetric, num_x, extreme);
    }
    free_batch(&b), free(expected), free(blob);
    return compared;
}

/* 100000 comparisons where there are three wide tables. */
static void every_kernel_gives_the_bits_of_scalar(void **state)
{
    fs_random random = {6};
    for (int i = 0; i < 34000; i++) {
        bool large = i % 100 == 0;
        uint32_t rows = 1 + fs_random_below(&random, large ? 300 : 20);
        uint32_t cols = 1 + fs_random_below(&random, large ? 5000 : 150);
        uint32_t num_x = 1 + fs_random_below(&random, large ? 40 : i % 10 ? 2 : 12);
        check_all_kernels(&random, 1 + (uint32_t)i % 3, i / 3 % 2, rows, cols, num_x, i / 6 % 5);
    }
    for (uint32_t num_x = 1; num_x <= 19; num_x++)
        for (uint32_t n = 1; n <= 3; n++) check_all_kernels(&random, n, num_x % 2, 130, 192, num_x, 0);
}

static void any_number_of_rows_may_come(void **state)
{
    fs_random random = {13};
    const uint32_t counts[] = {255, 256, 257, 300};
    for (int i = 0; i < 4; i++) check_all_kernels(&random, 2, i % 2, 5, 100, counts[i], 0);
    check_all_kernels(&random, 3, true, 3, 60000, 7, 3); /* more than fits on the stack at once */
}

static void the_longest_rows_are_exact(void **state)
{
    fs_random random = {7};
    for (int i = 0; i < 30; i++)
        check_all_kernels(&random, 1 + (uint32_t)i % 3, i / 15, 5, FS_SUB1_MAX_DIM, i % 2 ? 1 : 5, i / 3 % 5);
}

static void a_row_does_not_depend_on_those_beside_it(void **state)
{
    fs_random random = {8};
    uint8_t *blob;
    fs_sub1_matrix m = random_matrix(&random, 48, 320, &blob);
    batch b = new_batch(&m, 23);
    fill(&b, &m, &random, 0);
    float *alone = malloc(sizeof(float) * m.padded_rows);
    fs_sub1_matmul(&m, b.x, b.x_scale, b.y, b.rows);
    for (uint32_t r = 0; r < b.rows; r++) {
        fs_sub1_matmul(&m, &b.x[r], &b.x_scale[r], &alone, 1);
        assert_memory_equal(alone, b.y[r], sizeof(float) * m.padded_rows);
    }
    free_batch(&b), free(alone), free(blob);
}

static void a_part_of_the_groups_writes_that_part_alone(void **state)
{
    fs_random random = {9};
    uint8_t *blob;
    fs_sub1_matrix m = random_matrix(&random, 320, 64, &blob);
    batch b = new_batch(&m, 9);
    fill(&b, &m, &random, 0);
    for (int k = 0; k < NUM_WIDE; k++) {
        if (!wide[k]->usable()) continue;
        run(wide[k], &m, &b);
        float *whole = malloc(sizeof(float) * b.rows * m.padded_rows);
        memcpy(whole, b.y_data, sizeof(float) * b.rows * m.padded_rows);
        memset(b.y_data, 0, sizeof(float) * b.rows * m.padded_rows);
        fs_sub1_matmul_groups(wide[k], &m, 1, 3, b.x, b.x_scale, b.y, b.rows);
        for (uint32_t i = 0; i < b.rows * m.padded_rows; i++) {
            uint32_t group = i % m.padded_rows / 64;
            assert_true(b.y_data[i] == (group >= 1 && group < 4 ? whole[i] : 0));
        }
        free(whole);
    }
    free_batch(&b), free(blob);
}

static void kernels_read_no_byte_beyond_blob_and_rows(void **state)
{
    fs_random random = {10}; /* the heap blocks end where the data does: a sanitizer sees a longer read */
    for (uint32_t units = 1; units <= 4; units++)
        check_all_kernels(&random, 2, true, 64, 64 * units, units, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalar_is_the_documented_sum),
        cmocka_unit_test(every_kernel_gives_the_bits_of_scalar),
        cmocka_unit_test(any_number_of_rows_may_come),
        cmocka_unit_test(the_longest_rows_are_exact),
        cmocka_unit_test(a_row_does_not_depend_on_those_beside_it),
        cmocka_unit_test(a_part_of_the_groups_writes_that_part_alone),
        cmocka_unit_test(kernels_read_no_byte_beyond_blob_and_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
