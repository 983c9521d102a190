/* What the integer kernels promise: exact sums over the weights that a matrix decodes to, by any kernel, split and order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gpu/device_int.h"
#include "gpu_helper.h"

enum { TILE_ROWS = FS_BLOCK_DIM };

/* One product as plan.c would ask for it, with a split of its own. x [num_x][stride]; sums [num_x][2][padded_rows]. */
static void launch(fs_gpu_driver *driver, const fs_sub1_matrix *m, const int8_t *x, uint32_t stride,
                   uint32_t num_x, uint32_t units_a_split, int32_t *sums)
{
    fs_gpu_kernel kernel;
    uint32_t x_a_tile = 1, num_units = m->padded_cols / 64, group_bytes = 0;
    assert_true(fs_gpu_kernel_for(m, num_x, &kernel, &x_a_tile));
    bool blocked = m->format == FS_SUB1_BLOCKED;
    if (blocked) group_bytes = (uint32_t)(m->payload_bytes / (m->padded_rows / m->group_rows));
    if (!blocked) units_a_split = num_units;
    fs_gpu_product p = {.payload = m->payload,
                        .x = x,
                        .sums = sums,
                        .num_x = num_x,
                        .x_stride = stride,
                        .rows = m->rows,
                        .padded_rows = m->padded_rows,
                        .num_units = num_units,
                        .cols_units = (m->cols + 63) / 64,
                        .group_bytes = group_bytes,
                        .scale_bytes = blocked ? group_bytes - num_units * FS_GPU_UNIT_BYTES(m->n) : 0,
                        .x_tiles = (num_x + x_a_tile - 1) / x_a_tile,
                        .row_tiles = (m->padded_rows + TILE_ROWS - 1) / TILE_ROWS,
                        .units_a_split = units_a_split};
    uint32_t blocks = p.x_tiles * p.row_tiles * ((num_units + units_a_split - 1) / units_a_split);
    fs_gpu_stream *stream = NULL;
    fs_gpu_event *event = NULL;
    assert_int_equal(driver->create_stream(driver, &stream), FS_OK);
    assert_int_equal(driver->create_event(driver, &event), FS_OK);
    assert_int_equal(driver->launch(driver, stream, kernel, blocks,
                                    units_a_split * FS_GPU_TABLE_UNIT * (x_a_tile == 8 ? 2 : 1),
                                    (uintptr_t)&p, 1),
                     FS_OK);
    assert_int_equal(driver->record(driver, event, stream), FS_OK);
    assert_int_equal(driver->synchronize(driver, event), FS_OK);
    driver->destroy_event(driver, event);
    driver->destroy_stream(driver, stream);
}

static void expect(const fs_sub1_matrix *m, const float *w, const int8_t *x, uint32_t stride, uint32_t num_x,
                   int32_t *sums)
{
    memset(sums, 0, sizeof(int32_t) * num_x * 2 * m->padded_rows);
    for (uint32_t r = 0; r < num_x; r++)
        for (uint32_t o = 0; o < m->rows; o++)
            for (uint32_t c = 0; c < m->cols; c++) {
                float v = w[(size_t)o * m->cols + c];
                if (v != 0) sums[(r * 2 + (v < 0)) * m->padded_rows + o] += x[r * stride + c];
            }
}

static void check(fs_random *random, kind k, uint32_t rows, uint32_t cols, uint32_t num_x,
                  uint32_t units_a_split, int extreme)
{
    fs_gpu_driver *driver = NULL;
    fs_gpu_emulation options = {.order = (fs_grid_order)fs_random_below(random, 3)};
    assert_int_equal(fs_gpu_open_emulated(&options, &driver, NULL), FS_OK);
    uint8_t *blob;
    fs_sub1_matrix m = random_matrix(random, k, rows, cols, &blob);
    uint32_t stride = m.padded_cols + 64 * fs_random_below(random, 2);
    size_t num_sums = (size_t)num_x * 2 * m.padded_rows;
    float *w = malloc(sizeof(float) * rows * cols);
    int8_t *x = calloc(num_x, stride);
    int32_t *expected = malloc(sizeof(int32_t) * num_sums), *sums = calloc(num_sums, sizeof(int32_t));
    for (uint32_t i = 0; i < num_x * stride; i++) {
        int v = (int)fs_random_below(random, 255) - 127;
        if (i % stride < cols)
            x[i] = (int8_t)(extreme == 0 ? v : extreme == 1 ? 127 : extreme == 2 ? -127 : v < 0 ? -127 : 127);
    }
    fs_sub1_decode(&m, w);
    expect(&m, w, x, stride, num_x, expected);
    launch(driver, &m, x, stride, num_x, units_a_split, sums);
    for (uint32_t r = 0; r < num_x; r++)
        for (uint32_t s = 0; s < 2; s++)
            for (uint32_t o = 0; o < rows; o++) {
                size_t at = (r * 2 + s) * m.padded_rows + o;
                if (sums[at] != expected[at])
                    fail_msg(
                        "n %u, %u permille, %u x %u, row %u of %u of x, matrix row %u, sign %u: %d, not %d",
                        k.n, k.permille, rows, cols, r, num_x, o, s, sums[at], expected[at]);
            }
    free(w), free(x), free(expected), free(sums), free(blob);
    driver->destroy(driver);
}

static void sums_are_exact_for_every_kernel(void **state)
{
    fs_random random = {41};
    for (int i = 0; i < 400; i++) {
        kind k = random_kind(&random);
        uint32_t rows = 1 + fs_random_below(&random, 300), cols = 16 * (1 + fs_random_below(&random, 30));
        check(&random, k, rows, cols, 1 + fs_random_below(&random, 12), 1 + fs_random_below(&random, 8),
              i % 4);
    }
}

static void the_longest_split_does_not_overflow(void **state)
{
    fs_random random = {42};
    for (uint32_t n = 1; n <= 3; n++)
        for (int extreme = 1; extreme <= 3; extreme++) {
            uint32_t units = FS_GPU_MAX_NONZEROS / (4 * n);
            if (units > 32) units = 32;
            check(&random, (kind){.n = n}, 3, 64 * units, 1, units, extreme);
            check(&random, (kind){.n = n}, 3, 64 * units, 8, units, extreme);
        }
}

static void free_matrices_of_any_density_are_exact(void **state)
{
    fs_random random = {43};
    for (uint32_t permille = 0; permille <= 1000; permille += 50)
        for (int clustered = 0; clustered < 2; clustered++) {
            kind k = {.permille = permille, .clustered = clustered};
            check(&random, k, 1 + fs_random_below(&random, 300), 1 + fs_random_below(&random, 900), 1, 1, 0);
            check(&random, k, 40, 1100, 5, 1, 3);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_exact_for_every_kernel),
        cmocka_unit_test(the_longest_split_does_not_overflow),
        cmocka_unit_test(free_matrices_of_any_density_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
