/* What blobs promise: lossless, one spelling, nothing but the truth accepted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "sub1_helper.h"

typedef struct {
    uint32_t rows, cols;
} shape;
static const shape shapes[] = {{1, 16},  {2, 64},   {15, 32},  {16, 64},   {17, 48},
                               {31, 80}, {33, 128}, {48, 272}, {100, 1040}};
enum { NUM_SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static void decode_gives_back_every_weight(void **state)
{
    fs_random random = {1};
    for (int i = 0; i < NUM_SHAPES; i++) {
        size_t weights = (size_t)shapes[i].rows * shapes[i].cols, size;
        float *w = malloc(sizeof(float) * weights), *back = malloc(sizeof(float) * weights);
        random_blocked(&random, shapes[i].rows, shapes[i].cols, w);
        uint8_t *blob = encode(w, shapes[i].rows, shapes[i].cols, 128, &size);
        fs_sub1_matrix m;
        fs_detail detail = {0};
        assert_int_equal(fs_sub1_open(blob, size, &m, &detail), FS_OK);
        assert_int_equal(m.rows, shapes[i].rows);
        assert_int_equal(m.cols, shapes[i].cols);
        assert_true(m.blob_bytes + 128 <= size); /* a symmetric one is shorter */
        fs_sub1_decode(&m, back);
        assert_memory_equal(w, back, sizeof(float) * weights);
        free(w), free(back), free(blob);
    }
}

static void every_rate_and_odd_shapes_come_back(void **state)
{
    fs_random random = {11};
    for (uint32_t i = 0; i < 600; i++) {
        uint32_t n = 1 + i % 3, rows = 1 + fs_random_below(&random, 130),
                 cols = 1 + fs_random_below(&random, 200);
        size_t bytes = sizeof(float) * rows * cols, size;
        float *w = malloc(bytes), *back = malloc(bytes);
        random_ternary(&random, n, i / 3 % 2, rows, cols, w);
        uint8_t *blob = encode_rate(w, n, rows, cols, 0, &size);
        fs_sub1_matrix m;
        assert_int_equal(fs_sub1_open(blob, size, &m, NULL), FS_OK);
        assert_true(m.symmetric || i / 3 % 2 == 0);
        fs_sub1_decode(&m, back);
        assert_memory_equal(w, back, bytes);
        free(w), free(back), free(blob);
    }
}

static void one_scale_a_row_is_told_by_a_flag_and_takes_less(void **state)
{
    float w[3 * 16] = {0};
    w[0] = 2, w[5] = -2;                  /* both signs */
    w[16 + 1] = -0.5f, w[16 + 2] = -0.5f; /* only negative ones */
    w[32 + 1] = 0.25f, w[32 + 2] = 0.25f;
    size_t size;
    uint8_t *blob = encode(w, 3, 16, 0, &size);
    assert_int_equal(blob[16], FS_SUB1_SYMMETRIC);
    fs_sub1_matrix m;
    assert_int_equal(fs_sub1_open(blob, size, &m, NULL), FS_OK);
    assert_true(m.symmetric);
    assert_int_equal(m.blob_bytes, 64 + 128 + 288);
    float back[3 * 16];
    fs_sub1_decode(&m, back);
    assert_memory_equal(w, back, sizeof(w));
    free(blob);
}

static void a_worked_example_is_to_the_byte_as_documented(void **state)
{
    float w[2 * 64] = {0};
    w[3] = 0.5f, w[9] = 0.5f;               /* (+,+): from 9 to 3 */
    w[16 + 0] = 0.5f, w[16 + 15] = -0.25f;  /* (+,-): from 0 to 15, which changes the sign */
    w[32 + 7] = -0.25f, w[32 + 8] = 0.5f;   /* (-,+): from 7 to 8, which changes the sign */
    w[48 + 1] = -0.25f, w[48 + 2] = -0.25f; /* (-,-): from 2 to 1 */
    for (int c = 64; c < 128; c += 16) w[c] = w[c + 1] = 2.0f;
    size_t size;
    uint8_t *blob = encode(w, 2, 64, 0, &size);
    assert_int_equal(size, 64 + 256 + 288);
    const uint8_t header[32] = {'F', 'S', 'B', '1', 2, 1, 2, 16, 2, 0, 0, 0,  64,
                                0,   0,   0,   0,   0, 0, 0, 0,  0, 0, 0, 32, 2};
    assert_memory_equal(blob, header, sizeof(header));
    const uint8_t checksum[8] = {0xe8, 0xc4, 0x91, 0x6d, 0x21, 0x9e, 0xe1, 0x4f};
    assert_memory_equal(blob + 32, checksum, 8);
    const uint8_t pos[4] = {0x00, 0x3f, 0x00, 0x40}, neg[4] = {0x80, 0xbe, 0, 0};
    assert_memory_equal(blob + 64, pos, 4);
    assert_memory_equal(blob + 192, neg, 4);
    const uint8_t codes[8] = {0xa5, 0x40, 0xdf, 0x48, 0x44, 0x44, 0x44, 0x44}, signs[8] = {0x0c};
    assert_memory_equal(blob + 320, codes, 8);
    assert_memory_equal(blob + 320 + 256, signs, 8);
    free(blob);
}

static void a_zero_of_either_sign_is_a_zero(void **state)
{
    float w[16] = {0};
    w[4] = 1, w[5] = -1;
    size_t size;
    uint8_t *plain = encode(w, 1, 16, 0, &size);
    for (int c = 0; c < 16; c++)
        if (w[c] == 0) w[c] = -0.0f;
    uint8_t *signed_zeros = encode(w, 1, 16, 0, &size);
    assert_memory_equal(plain, signed_zeros, size);
    free(plain), free(signed_zeros);
}

typedef struct {
    uint32_t at; /* in a matrix of 17 x 32 whose row r has 1 at 16k+3, -2 at 16k+5 */
    float value;
    const char *says;
} refusal;

static void what_is_not_ternary_is_refused_with_row_and_column(void **state)
{
    static const refusal cases[] = {
        {16 * 32 + 3, 3.0f, "row 16, column 19: not ternary: the row has both 3 and 1"},
        {4 * 32 + 21, -1.0f, "row 4, column 21: not ternary: the row has both -2 and -1"},
        {2 * 32 + 18, 1.0f, "row 2, column 21: more than 2 nonzeros in columns 16 to 31, 2:16 has 2"},
        {5 * 32 + 5, 0.0f, "row 5, column 0: 1 nonzeros in columns 0 to 15, 2:16 has 2"},
        {0, NAN, "row 0, column 0: nan is not finite"},
        {1, -INFINITY, "row 0, column 1: -inf is not finite"},
        {32 + 3, 1.0009765625f, "row 1, column 3: 1.00097656 is not exactly a bf16"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        float w[17 * 32] = {0};
        for (int b = 0; b < 17 * 2; b++) w[16 * b + 3] = 1, w[16 * b + 5] = -2;
        w[cases[i].at] = cases[i].value;
        uint8_t out[64 + 256 + 288];
        fs_detail detail = {0};
        assert_int_equal(fs_sub1_encode_blocked(w, 17, 32, 2, 16, out, &detail), FS_INVALID);
        assert_string_equal(detail.text, cases[i].says);
    }
}

static void shapes_and_rates_outside_the_format_are_refused(void **state)
{
    static const uint32_t bad[][4] = {{2, 16, 0, 16},  {2, 16, 16, 0},     {4, 16, 16, 16},
                                      {0, 16, 16, 16}, {2, 16, 65537, 16}, {2, 16, 16, 65552},
                                      {2, 8, 16, 16}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        float w[16] = {0};
        assert_int_equal(fs_sub1_blob_bytes(FS_SUB1_BLOCKED, bad[i][0], bad[i][1], bad[i][2], bad[i][3]), 0);
        fs_detail detail = {0};
        uint8_t out[1];
        assert_int_equal(fs_sub1_encode_blocked(w, bad[i][2], bad[i][3], bad[i][0], bad[i][1], out, &detail),
                         FS_INVALID);
        assert_true(detail.text[0]);
    }
    assert_int_equal(fs_sub1_blob_bytes(FS_SUB1_BLOCKED, 2, 16, 384, 256), 64 + 6 * (256 + 4 * 288));
    assert_int_equal(fs_sub1_blob_bytes(FS_SUB1_BLOCKED, 2, 16, 65536, 65536),
                     64 + 1024ull * (256 + 1024 * 288));
}

static void every_flipped_bit_is_refused(void **state)
{
    fs_random random = {2};
    float w[17 * 48];
    random_blocked(&random, 17, 48, w);
    size_t size;
    uint8_t *blob = encode(w, 17, 48, 64, &size); /* padding bytes too */
    for (size_t bit = 0; bit < 8 * size; bit++) {
        blob[bit / 8] ^= (uint8_t)(1 << bit % 8);
        fs_sub1_matrix m;
        fs_detail detail = {0};
        fs_status st = fs_sub1_open(blob, size, &m, &detail);
        assert_true(st == FS_CORRUPT || st == FS_UNSUPPORTED);
        assert_true(detail.text[0]);
        blob[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(blob);
}

static void every_truncation_is_refused(void **state)
{
    fs_random random = {3};
    uint8_t *blob;
    fs_sub1_matrix m = random_matrix(&random, 17, 80, &blob);
    for (size_t size = 0; size < m.blob_bytes; size++) {
        uint8_t *cut = fs_alloc_aligned(size + 1); /* a read past the end is then seen by a sanitizer */
        memcpy(cut, blob, size);
        fs_sub1_matrix out;
        assert_int_equal(fs_sub1_open(cut, size, &out, NULL), FS_CORRUPT);
        free(cut);
    }
    free(blob);
}

typedef struct {
    size_t at; /* in the blob of a 15 x 32 matrix */
    uint8_t value;
    const char *says;
} forgery;

static void a_true_checksum_does_not_excuse_wrong_contents(void **state)
{
    enum { POS = 64, NEG = 192, CODES = 320, SIGNS = 576 };
    static const forgery cases[] = {
        {CODES + 4 * 14 + 1, 0x3c, "blob: reserved code in the unit of row 0, column 0"},
        {POS + 1, 0x7f | 0x80, "blob: row 0 has the scales "},
        {POS + 2 * 3 + 1, 0xbf, "blob: row 3 has the scales "},
        {NEG + 1, 0x3f, "blob: row 0 has the scales "},
        {NEG + 2 * 14 + 1, 0xff, "blob: row 14 has the scales "},
        {POS + 2 * 15, 1, "blob: row 15 (padding) has the scales "},
        {CODES + 4 * 15, 0x48, "blob: padding in the unit of row 0, column 0 is not plain"},
        {CODES + 2, 0x48, "blob: padding in the unit of row 0, column 0 is not plain"},
        {SIGNS + 31, 0xff, "blob: padding in the unit of row 0, column 0 is not plain"},
        {16, 1, "blob: payload of 544 bytes, 15 x 32 takes 416 and there are 544"},
        {16, 2, "blob: a header field that must be zero is not"},
        {23, 1, "blob: a header field that must be zero is not"},
        {63, 1, "blob: a header field that must be zero is not"},
        {0, 'G', "blob: does not begin with FSB1"},
        {4, 1, "blob: version 1, this build reads 2"},
        {5, 9, "blob: format 9 with 2:16 is not known"},
        {6, 4, "blob: format 1 with 4:16 is not known"},
        {8, 0, "blob: 0 x 32 with a payload of 544 bytes is not a shape of its format"},
        {12, 65, "blob: payload of 544 bytes, 15 x 65 takes 832 and there are 544"},
        {8, 65, "blob: payload of 544 bytes, 65 x 32 takes 1088 and there are 544"},
        {24, 200, "blob: payload of 712 bytes, 15 x 32 takes 544 and there are 544"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fs_random random = {4};
        uint8_t *blob;
        fs_sub1_matrix m = random_matrix(&random, 15, 32, &blob), untouched = {0};
        if (cases[i].at == POS + 1) blob[POS] = 0xc0;
        blob[cases[i].at] = cases[i].value;
        reseal(blob, m.blob_bytes);
        fs_detail detail = {0};
        fs_status st = fs_sub1_open(blob, m.blob_bytes, &untouched, &detail);
        assert_true(st == FS_CORRUPT || st == FS_UNSUPPORTED);
        assert_true(strncmp(detail.text, cases[i].says, strlen(cases[i].says)) == 0);
        assert_null(untouched.payload); /* outputs are written only on success */
        free(blob);
    }
}

static void two_scales_where_one_would_do_are_refused(void **state)
{
    fs_random random = {12};
    uint8_t *blob;
    fs_sub1_matrix m = random_matrix(&random, 15, 32, &blob);
    for (uint32_t r = 0; r < 15; r++) {
        blob[192 + 2 * r] = blob[64 + 2 * r];
        blob[192 + 2 * r + 1] = blob[64 + 2 * r + 1] | 0x80;
    }
    for (uint32_t r = 0; r < 15; r++) /* what was only negative has no positive scale */
        if (blob[64 + 2 * r] == 0 && blob[64 + 2 * r + 1] == 0) blob[192 + 2 * r + 1] = 0;
    reseal(blob, m.blob_bytes);
    fs_detail detail = {0};
    assert_int_equal(fs_sub1_open(blob, m.blob_bytes, &m, &detail), FS_CORRUPT);
    assert_string_equal(detail.text, "blob: two scales a row, and one would do in every row");
    free(blob);
}

/* 3:16: of the six orders of three places, two repeat another. */
static void an_order_that_repeats_another_is_refused(void **state)
{
    for (uint32_t code = 0; code < 4096; code++) {
        float w[16] = {0};
        w[1] = w[2] = w[3] = 1;
        size_t size;
        uint8_t *blob = encode_rate(w, 3, 1, 16, 0, &size);
        fs_sub1_matrix m, again;
        assert_int_equal(fs_sub1_open(blob, size, &m, NULL), FS_OK);
        uint8_t *unit = blob + 64 + 128;
        unit[0] = (uint8_t)code;
        unit[256] = (uint8_t)((unit[256] & 0xf0) | code >> 8);
        reseal(blob, m.blob_bytes);
        if (fs_sub1_open(blob, m.blob_bytes, &m, NULL) == FS_OK) {
            float back[16];
            fs_sub1_decode(&m, back);
            uint8_t *same = encode_rate(back, 3, 1, 16, 0, &size);
            assert_int_equal(fs_sub1_open(same, size, &again, NULL), FS_OK);
            assert_int_equal(again.blob_bytes, m.blob_bytes);
            assert_memory_equal(blob, same, m.blob_bytes);
            free(same);
        }
        free(blob);
    }
}

static void unaligned_memory_is_refused(void **state)
{
    uint8_t *memory = fs_alloc_aligned(256);
    memset(memory, 0, 256);
    fs_sub1_matrix m;
    fs_detail detail = {0};
    assert_int_equal(fs_sub1_open(memory + 8, 200, &m, &detail), FS_INVALID);
    assert_string_equal(detail.text, "blob: its memory is not aligned to 64 bytes");
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_gives_back_every_weight),
        cmocka_unit_test(every_rate_and_odd_shapes_come_back),
        cmocka_unit_test(one_scale_a_row_is_told_by_a_flag_and_takes_less),
        cmocka_unit_test(two_scales_where_one_would_do_are_refused),
        cmocka_unit_test(an_order_that_repeats_another_is_refused),
        cmocka_unit_test(a_worked_example_is_to_the_byte_as_documented),
        cmocka_unit_test(a_zero_of_either_sign_is_a_zero),
        cmocka_unit_test(what_is_not_ternary_is_refused_with_row_and_column),
        cmocka_unit_test(shapes_and_rates_outside_the_format_are_refused),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(a_true_checksum_does_not_excuse_wrong_contents),
        cmocka_unit_test(unaligned_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
