/* What *free* promises of any ternary matrix: it comes back exactly, in few bytes, and every kernel gives the bits of the definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "free_helper.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOW = 8 }; /* sanitizers: fewer cases of the same kinds */
#else
enum { SLOW = 1 };
#endif

typedef struct {
    float *w;
    uint8_t *blob;
    fs_sub1_matrix m;
} sample;

static sample new_sample(fs_random *random, free_kind kind, float density, uint32_t rows, uint32_t cols)
{
    sample s = {.w = malloc(sizeof(float) * rows * cols)};
    random_free(random, kind, density, rows, cols, s.w);
    size_t size = 0;
    s.blob = encode_free(s.w, rows, cols, &size);
    fs_detail detail = {0};
    if (fs_sub1_open(s.blob, size, &s.m, &detail) != FS_OK)
        fail_msg("%u x %u, kind %d, density %g: %s", rows, cols, (int)kind, (double)density, detail.text);
    assert_int_equal(s.m.blob_bytes, size);
    return s;
}

static void free_sample(sample *s)
{
    free(s->w), free(s->blob);
}

static double bits_a_weight(const fs_sub1_matrix *m)
{
    return 8.0 * (double)m->blob_bytes / ((double)m->rows * m->cols);
}

static void check_round_trip(const sample *s)
{
    size_t bytes = sizeof(float) * s->m.rows * s->m.cols;
    float *back = malloc(bytes);
    fs_sub1_decode(&s->m, back);
    assert_memory_equal(back, s->w, bytes);
    free(back);
}

static void any_ternary_matrix_comes_back(void **state)
{
    fs_random random = {1};
    static const uint32_t shapes[][2] = {{1, 1},    {1, 65536}, {2, 255},   {31, 256},  {32, 257}, {33, 300},
                                         {257, 70}, {300, 511}, {1000, 40}, {64, 2048}, {3, 4099}};
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        for (int kind = 0; kind < FREE_KINDS; kind++) {
            for (int tenth = 0; tenth <= 10; tenth += 2) {
                sample s = new_sample(&random, (free_kind)kind, (float)tenth / 10, shapes[i][0],
                                      shapes[i][1]);
                check_round_trip(&s);
                free_sample(&s);
            }
        }
    }
}

static void the_tallest_matrix_comes_back(void **state)
{
    fs_random random = {2};
    sample s = new_sample(&random, FREE_EVEN, 0.1f, FS_SUB1_MAX_DIM, 17);
    check_round_trip(&s);
    free_sample(&s);
}

/* What docs/formats.md says: pos * P + neg * N, in this order. */
static void scalar_is_the_documented_sum(void **state)
{
    fs_random random = {3};
    for (int i = 0; i < 60; i++) {
        sample s = new_sample(&random, (free_kind)(i % FREE_KINDS), (float)(i % 11) / 10,
                              1 + fs_random_below(&random, 300), 1 + fs_random_below(&random, 600));
        free_rows f = new_free_rows(&s.m, 3, &random, i % 5);
        multiply_free(&fs_sub1_kernels_scalar, &s.m, &f);
        for (uint32_t r = 0; r < f.num_rows; r++) {
            for (uint32_t o = 0; o < s.m.rows; o++) {
                float pos = 0, neg = 0;
                int32_t p = 0, n = 0;
                for (uint32_t c = 0; c < s.m.cols; c++) {
                    float v = s.w[(size_t)o * s.m.cols + c];
                    if (v > 0) pos = v, p += f.x[r][c];
                    if (v < 0) neg = v, n += f.x[r][c];
                }
                float left = pos * (float)p, right = neg * (float)n;
                assert_true(f.y[r][o] == f.x_scale[r] * (left + right));
            }
        }
        free_free_rows(&f);
        free_sample(&s);
    }
}

/* Returns the number of products that were compared. */
static uint32_t check_kernels(const sample *s, fs_random *random, uint32_t num_rows, int extreme)
{
    const fs_sub1_kernels *wide[4];
    uint32_t count = usable_kernels(wide);
    free_rows f = new_free_rows(&s->m, num_rows, random, extreme), g = f;
    g.y = malloc(num_rows * sizeof(*g.y));
    for (uint32_t r = 0; r < num_rows; r++) g.y[r] = malloc(sizeof(float) * s->m.rows);
    multiply_free(&fs_sub1_kernels_scalar, &s->m, &f);
    for (uint32_t k = 0; k < count; k++) {
        multiply_free(wide[k], &s->m, &g);
        if (!same_free_rows(&f, &g))
            fail_msg("%s differs: %u x %u, %u rows of x, extreme %d", wide[k]->name, s->m.rows, s->m.cols,
                     num_rows, extreme);
    }
    for (uint32_t r = 0; r < num_rows; r++) free(g.y[r]);
    free(g.y);
    free_free_rows(&f);
    return count;
}

/* 10^5 products: mostly of small matrices, of every kind and density. */
static void every_kernel_gives_the_bits_of_scalar(void **state)
{
    fs_random random = {4};
    uint32_t cases = 0;
    for (uint32_t i = 0; i < 26000 / SLOW; i++) {
        bool large = i % 200 == 0;
        uint32_t rows = 1 + fs_random_below(&random, large ? 400 : 40),
                 cols = 1 + fs_random_below(&random, large ? 1500 : 200);
        sample s = new_sample(&random, (free_kind)(i % FREE_KINDS),
                              (float)fs_random_below(&random, 101) / 100, rows, cols);
        for (uint32_t j = 0; j < 2; j++)
            cases += check_kernels(&s, &random, large ? 1 + fs_random_below(&random, 70) : 1 + i % 9,
                                   (int)fs_random_below(&random, 5));
        free_sample(&s);
    }
    print_message("%u products compared\n", cases);
}

/* A window at its last place, side lists of several parts, sums that fill up; one row of x and more, which kernels may treat differently. */
static void wide_rows_give_the_bits_of_scalar(void **state)
{
    static const uint32_t cols[] = {1024, 1025, 8192, 8193, 20000};
    fs_random random = {5};
    for (int i = 0; i < 2 * FREE_KINDS; i++) {
        for (int c = 0; c < 5; c++) {
            sample s = new_sample(&random, (free_kind)(i % FREE_KINDS), i < FREE_KINDS ? 0.12f : 0.35f, 40,
                                  cols[c]);
            check_kernels(&s, &random, 5, 1 + i % 4);
            check_kernels(&s, &random, 1, 1 + i % 4);
            free_sample(&s);
        }
    }
}

/* The sums that int32 must hold: every column of the widest row, each as large as can be. */
static void the_largest_sums_are_exact(void **state)
{
    fs_random random = {6};
    for (int extreme = 1; extreme <= 4; extreme++) {
        sample s = new_sample(&random, FREE_EVEN, extreme % 2 ? 0.3f : 1, 33, FS_SUB1_MAX_DIM);
        check_kernels(&s, &random, 2, extreme);
        free_sample(&s);
    }
}

static void a_row_of_x_does_not_depend_on_its_neighbours(void **state)
{
    fs_random random = {7};
    sample s = new_sample(&random, FREE_UNEVEN, 0.1f, 100, 700);
    free_rows f = new_free_rows(&s.m, 70, &random, 0);
    multiply_free(fs_sub1_kernels_best(), &s.m, &f);
    float *alone = malloc(sizeof(float) * s.m.rows);
    for (uint32_t r = 0; r < f.num_rows; r++) {
        fs_sub1_matmul(&s.m, (const int8_t *const *)&f.x[r], &f.x_scale[r], &alone, 1);
        assert_memory_equal(alone, f.y[r], sizeof(float) * s.m.rows);
    }
    free(alone);
    free_free_rows(&f);
    free_sample(&s);
}

/* Any division into ranges of groups writes each row once, and no other. */
static void groups_can_be_divided(void **state)
{
    fs_random random = {8};
    sample s = new_sample(&random, FREE_EVEN, 0.2f, 600, 300);
    free_rows whole = new_free_rows(&s.m, 2, &random, 0);
    multiply_free(fs_sub1_kernels_best(), &s.m, &whole);
    float *y[2] = {malloc(sizeof(float) * s.m.rows), malloc(sizeof(float) * s.m.rows)};
    for (int r = 0; r < 2; r++) memset(y[r], 0xff, sizeof(float) * s.m.rows);
    uint32_t groups = s.m.padded_rows / s.m.group_rows;
    for (uint32_t g = groups; g-- > 0;)
        fs_sub1_matmul_groups(fs_sub1_kernels_best(), &s.m, g, 1, (const int8_t *const *)whole.x,
                              whole.x_scale, y, 2);
    for (int r = 0; r < 2; r++) {
        assert_memory_equal(y[r], whole.y[r], sizeof(float) * s.m.rows);
        free(y[r]);
    }
    free_free_rows(&whole);
    free_sample(&s);
}

/* A broken row of x, whose scale is not a number, gives none in any kind of group. */
static void a_broken_row_stays_broken(void **state)
{
    fs_random random = {9};
    sample s = new_sample(&random, FREE_UNEVEN, 0, 300, 90);
    free_rows f = new_free_rows(&s.m, 1, &random, 0);
    const fs_sub1_kernels *kernels[4];
    uint32_t count = usable_kernels(kernels);
    kernels[count++] = &fs_sub1_kernels_scalar;
    f.x_scale[0] = 0.0f / 0.0f;
    for (uint32_t k = 0; k < count; k++) {
        multiply_free(kernels[k], &s.m, &f);
        for (uint32_t o = 0; o < s.m.rows; o++) assert_true(f.y[0][o] != f.y[0][o]);
    }
    free_free_rows(&f);
    free_sample(&s);
}

static void sparse_matrices_are_small(void **state)
{
    static const struct {
        free_kind kind;
        float density;
        uint32_t rows, cols;
        double most;
    } wanted[] = {{FREE_EVEN, 0.115f, 2048, 768, 0.77}, {FREE_EVEN, 0.115f, 768, 2048, 0.72},
                  {FREE_EVEN, 0.05f, 768, 2048, 0.46},  {FREE_EVEN, 0.02f, 768, 2048, 0.31},
                  {FREE_EVEN, 0.3f, 512, 2048, 1.60},   {FREE_EVEN, 0.5f, 512, 2048, 2.1},
                  {FREE_EVEN, 1, 512, 2048, 2.1},       {FREE_CLUSTERED, 0.12f, 512, 2048, 2.1},
                  {FREE_BANDED, 0.3f, 512, 2048, 0.75}, {FREE_UNEVEN, 0, 512, 2048, 2.1},
                  {FREE_EDGES, 0, 512, 2048, 0.5},      {FREE_EVEN, 0, 2048, 768, 0.02}};
    fs_random random = {10};
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        sample s = new_sample(&random, wanted[i].kind, wanted[i].density, wanted[i].rows, wanted[i].cols);
        double bits = bits_a_weight(&s.m);
        print_message("kind %d, density %.3f, %u x %u: %.4f bits a weight\n", (int)wanted[i].kind,
                      (double)wanted[i].density, wanted[i].rows, wanted[i].cols, bits);
        assert_true(bits <= wanted[i].most);
        free_sample(&s);
    }
}

static void the_same_matrix_gives_the_same_bytes(void **state)
{
    fs_random random = {11};
    sample s = new_sample(&random, FREE_EVEN, 0.1f, 90, 400);
    fs_buffer again = {0};
    fs_buffer_append(&again, "before", 6);
    for (uint32_t i = 0; i < 90 * 400; i++)
        if (s.w[i] == 0 && i % 3 == 0) s.w[i] = -0.0f; /* a zero's sign is not kept */
    assert_int_equal(fs_sub1_encode_free(s.w, 90, 400, &again, NULL), FS_OK);
    assert_int_equal(again.size, 6 + s.m.blob_bytes);
    assert_memory_equal(again.data, "before", 6);
    assert_memory_equal(again.data + 6, s.blob, s.m.blob_bytes);
    fs_buffer_free(&again);
    free_sample(&s);
}

static void what_is_not_ternary_is_refused(void **state)
{
    const float third[4] = {0.5f, -0.5f, 0.25f, 0}, not_bf16[4] = {0, 0.1f, 0, 0},
                infinite[4] = {0, 0, 1.0f / 0.0f, 0};
    const float *const bad[] = {third, not_bf16, infinite};
    const char *const why[] = {"row 0, column 2: not ternary", "row 0, column 1: 0.1",
                               "row 0, column 2: inf"};
    fs_buffer out = {0};
    for (int i = 0; i < 3; i++) {
        fs_detail detail = {0};
        assert_int_equal(fs_sub1_encode_free(bad[i], 1, 4, &out, &detail), FS_INVALID);
        assert_non_null(strstr(detail.text, why[i]));
        assert_int_equal(out.size, 0);
    }
    const uint32_t shapes[][2] = {{0, 1}, {1, 0}, {FS_SUB1_MAX_DIM + 1, 1}, {1, FS_SUB1_MAX_DIM + 1}};
    for (int i = 0; i < 4; i++)
        assert_int_equal(fs_sub1_encode_free(third, shapes[i][0], shapes[i][1], &out, NULL), FS_INVALID);
    fs_buffer_free(&out);
}

/* The example of docs/formats.md. */
static void the_documented_example_is_these_bytes(void **state)
{
    static const uint8_t step[80] = {
        0x01, 0x20, 0x0a, 0xa0, 0x02, 0x30, 0x0a, 0xa0, 0x03, 0x40, 0x0a, 0xa0, 0x04, 0x50, 0x0a, 0xa0,
        0x05, 0x60, 0x0a, 0xa0, 0x06, 0x70, 0x0a, 0xa0, 0x07, 0x80, 0x0a, 0xa0, 0x08, 0x90, 0x0a, 0xa0,
        0x09, 0xa0, 0x0a, 0xa0, 0x0a, 0xb0, 0x0a, 0xa0, 0x0b, 0xc0, 0x0a, 0xa0, 0x0c, 0xd0, 0x0a, 0xa0,
        0x0d, 0xe0, 0x0a, 0xa0, 0x0e, 0xf0, 0x0a, 0xa0, 0x0f, 0x10, 0x0a, 0xa0, 0x00, 0x21, 0x00, 0xaa,
        0x7a, 0x72, 0x72, 0x72, 0x72, 0x72, 0x72, 0xe2, 0xe4, 0xe4, 0xe4, 0xe4, 0xe4, 0xe4, 0xe4, 0xf5};
    static const uint8_t head[48] = {'F', 'S', 'B', '1', 2,    3,    0,    0,    32,   0,    0,    0,   80, 0,
                                     0,   0,   0,   0,   0,    0,    0,    0,    0,    0,    0xfd, 0,   0,  0,
                                     0,   0,   0,   0,   0x96, 0xf9, 0x4c, 0xdf, 0x0b, 0xf4, 0x40, 0x52};
    enum { COLS = 80 };
    float w[32 * COLS] = {0};
    for (uint32_t r = 0; r < 32; r++) w[r * COLS + r] = w[r * COLS + 40 + r] = r % 2 ? -0.5f : 1;
    w[79] = 1;
    size_t size;
    uint8_t *blob = encode_free(w, 32, COLS, &size);
    assert_int_equal(size, 317);
    assert_memory_equal(blob, head, sizeof(head));
    assert_memory_equal(blob + 64,
                        "\x04\0\0\0"
                        "\x01\x01\x01\0",
                        8);
    for (uint32_t r = 0; r < 32; r++) assert_int_equal(blob[72 + r], r);
    assert_memory_equal(blob + 104, "\x80\x3f\0\0\x80\x3f", 6);
    assert_memory_equal(blob + 168, "\0\0\0\xbf\0\0", 6);
    assert_memory_equal(blob + 232, "\x01\0\0", 3);
    assert_memory_equal(blob + 235, step, sizeof(step));
    assert_memory_equal(blob + 315, "\x4f\0", 2);
    free(blob);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_ternary_matrix_comes_back),
                                       cmocka_unit_test(the_tallest_matrix_comes_back),
                                       cmocka_unit_test(scalar_is_the_documented_sum),
                                       cmocka_unit_test(every_kernel_gives_the_bits_of_scalar),
                                       cmocka_unit_test(wide_rows_give_the_bits_of_scalar),
                                       cmocka_unit_test(the_largest_sums_are_exact),
                                       cmocka_unit_test(a_row_of_x_does_not_depend_on_its_neighbours),
                                       cmocka_unit_test(groups_can_be_divided),
                                       cmocka_unit_test(a_broken_row_stays_broken),
                                       cmocka_unit_test(sparse_matrices_are_small),
                                       cmocka_unit_test(the_same_matrix_gives_the_same_bytes),
                                       cmocka_unit_test(what_is_not_ternary_is_refused),
                                       cmocka_unit_test(the_documented_example_is_these_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
