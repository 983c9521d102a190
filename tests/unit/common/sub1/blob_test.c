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
        assert_int_equal(m.blob_bytes + 128, size);
        fs_sub1_decode(&m, back);
        assert_memory_equal(w, back, sizeof(float) * weights);
        free(w), free(back), free(blob);
    }
}

static void a_worked_example_is_to_the_byte_as_documented(void **state)
{
    float w[2 * 64] = {0};
    w[3] = 0.5f, w[9] = 0.5f;               /* (+,+): a=3 b=9 s=0 */
    w[16 + 0] = 0.5f, w[16 + 15] = -0.25f;  /* (+,-): a=0 b=15 s=1 */
    w[32 + 7] = -0.25f, w[32 + 8] = 0.5f;   /* (-,+): a=8 b=7 s=0 */
    w[48 + 1] = -0.25f, w[48 + 2] = -0.25f; /* (-,-): a=2 b=1 s=1 */
    for (int c = 64; c < 128; c += 16) w[c] = w[c + 1] = 2.0f;
    size_t size;
    uint8_t *blob = encode(w, 2, 64, 0, &size);
    assert_int_equal(size, 64 + 64 + 72);
    const uint8_t header[32] = {'F', 'S', 'B', '1', 1, 1, 2, 16, 2, 0, 0, 0,  64,
                                0,   0,   0,   0,   0, 0, 0, 0,  0, 0, 0, 136};
    assert_memory_equal(blob, header, sizeof(header));
    const uint8_t checksum[8] = {0xcb, 0xac, 0x48, 0x8b, 0x7e, 0x88, 0xe4, 0xb0};
    assert_memory_equal(blob + 32, checksum, 8);
    const uint8_t pos[4] = {0x00, 0x3f, 0x00, 0x40}, neg[4] = {0x80, 0xbe, 0, 0};
    assert_memory_equal(blob + 64, pos, 4);
    assert_memory_equal(blob + 96, neg, 4);
    const uint8_t codes[8] = {0x93, 0xf0, 0x78, 0x12, 0x10, 0x10, 0x10, 0x10}, signs[8] = {0x0a};
    assert_memory_equal(blob + 128, codes, 8);
    assert_memory_equal(blob + 128 + 64, signs, 8);
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
        {2 * 32 + 18, 1.0f, "row 2, column 21: a third nonzero in columns 16 to 31, 2:16 has 2"},
        {5 * 32 + 5, 0.0f, "row 5, column 0: 1 nonzeros in columns 0 to 15, 2:16 has 2"},
        {0, NAN, "row 0, column 0: nan is not finite"},
        {1, -INFINITY, "row 0, column 1: -inf is not finite"},
        {32 + 3, 1.0009765625f, "row 1, column 3: 1.00097656 is not exactly a bf16"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        float w[17 * 32] = {0};
        for (int b = 0; b < 17 * 2; b++) w[16 * b + 3] = 1, w[16 * b + 5] = -2;
        w[cases[i].at] = cases[i].value;
        uint8_t out[64 + 2 * 136];
        fs_detail detail = {0};
        assert_int_equal(fs_sub1_encode_blocked(w, 17, 32, 2, 16, out, &detail), FS_INVALID);
        assert_string_equal(detail.text, cases[i].says);
    }
}

static void shapes_and_rates_outside_the_format_are_refused(void **state)
{
    static const uint32_t bad[][4] = {{2, 16, 0, 16},     {2, 16, 16, 0},  {2, 16, 16, 8},
                                      {2, 16, 16, 24},    {1, 16, 16, 16}, {2, 16, 65537, 16},
                                      {2, 16, 16, 65552}, {2, 8, 16, 16}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        float w[16] = {0};
        assert_int_equal(fs_sub1_blob_bytes(FS_SUB1_BLOCKED, bad[i][0], bad[i][1], bad[i][2], bad[i][3]), 0);
        fs_detail detail = {0};
        uint8_t out[1];
        assert_int_equal(fs_sub1_encode_blocked(w, bad[i][2], bad[i][3], bad[i][0], bad[i][1], out, &detail),
                         FS_INVALID);
        assert_true(detail.text[0]);
    }
    assert_int_equal(fs_sub1_blob_bytes(FS_SUB1_BLOCKED, 2, 16, 384, 256), 64 + 24 * (64 + 4 * 72));
    assert_int_equal(fs_sub1_blob_bytes(FS_SUB1_BLOCKED, 2, 16, 65536, 65536),
                     64 + 4096ull * (64 + 1024 * 72));
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
    enum { POS = 64, NEG = 96, CODES = 128, SIGNS = 192 };
    static const forgery cases[] = {
        {CODES + 4 * 14 + 1, 0x77, "blob: reserved code in the unit of row 0, column 0"},
        {POS + 1, 0x7f | 0x80, "blob: row 0 has the scales "},
        {POS + 2 * 3 + 1, 0xbf, "blob: row 3 has the scales "},
        {NEG + 1, 0x3f, "blob: row 0 has the scales "},
        {NEG + 2 * 14 + 1, 0xff, "blob: row 14 has the scales "},
        {POS + 2 * 15, 1, "blob: row 15 (padding) has the scales "},
        {CODES + 4 * 15, 0x32, "blob: padding in the unit of row 0, column 0 is not plain"},
        {CODES + 2, 0x20, "blob: padding in the unit of row 0, column 0 is not plain"},
        {SIGNS + 7, 0xff, "blob: padding in the unit of row 0, column 0 is not plain"},
        {16, 1, "blob: a header field that must be zero is not"},
        {23, 1, "blob: a header field that must be zero is not"},
        {63, 1, "blob: a header field that must be zero is not"},
        {0, 'G', "blob: does not begin with FSB1"},
        {4, 2, "blob: version 2, this build reads 1"},
        {5, 2, "blob: format 2 with 2:16 is not known"},
        {6, 1, "blob: format 1 with 1:16 is not known"},
        {8, 0, "blob: 0 x 32 is not a shape of its format"},
        {12, 33, "blob: 15 x 33 is not a shape of its format"},
        {8, 17, "blob: payload of 136 bytes, 17 x 32 takes 272 and there are 136"},
        {24, 200, "blob: payload of 200 bytes, 15 x 32 takes 136 and there are 136"},
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
