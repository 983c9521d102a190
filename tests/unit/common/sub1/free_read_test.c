/* What the reader of *free* blobs promises: it takes only what kernels can trust, whatever bytes there are behind a true checksum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "free_helper.h"
#include "sub1_helper.h"

enum { PAYLOAD = FS_SUB1_HEADER_BYTES, COLS = 300 };

/* 97 x 300: groups coded (some with side entries), dense and empty, and one with padding. */
static uint8_t *new_blob(size_t *size)
{
    enum { ROWS = 97 };
    fs_random random = {20};
    float *w = calloc(ROWS * COLS, sizeof(float));
    random_free(&random, FREE_EVEN, 0.09f, 40, COLS, w);
    random_free(&random, FREE_EVEN, 0.9f, 25, COLS, w + 70 * COLS);
    for (uint32_t c = 0; c < COLS; c += 1 + c / 60) w[45 * COLS + c] = 0.5f; /* a lane that falls behind */
    uint8_t *blob = encode_free(w, ROWS, COLS, size);
    free(w);
    return blob;
}

static uint32_t group_at(const uint8_t *blob, uint32_t group)
{
    return PAYLOAD + (uint32_t)(blob[PAYLOAD + 4 * group] | blob[PAYLOAD + 4 * group + 1] << 8);
}

static uint32_t find_group(const uint8_t *blob, fs_free_kind kind)
{
    for (uint32_t g = 0; g < 4; g++)
        if (blob[group_at(blob, g)] == kind) return group_at(blob, g);
    fail_msg("no group of kind %d", (int)kind);
    return 0;
}

/* An accepted blob multiplies alike in every kernel, without a byte read out of bounds, and decodes to what encodes again. */
static void check_accepted(const fs_sub1_matrix *m)
{
    fs_random random = {21};
    const fs_sub1_kernels *wide[4];
    uint32_t count = usable_kernels(wide);
    free_rows f = new_free_rows(m, 2, &random, 3), g = new_free_rows(m, 2, &random, 3);
    for (uint32_t r = 0; r < 2; r++) memcpy(g.x[r], f.x[r], m->padded_cols), g.x_scale[r] = f.x_scale[r];
    multiply_free(&fs_sub1_kernels_scalar, m, &f);
    for (uint32_t k = 0; k < count; k++) {
        multiply_free(wide[k], m, &g);
        assert_true(same_free_rows(&f, &g));
    }
    float *w = malloc(sizeof(float) * m->rows * m->cols);
    fs_buffer again = {0};
    fs_sub1_decode(m, w);
    assert_int_equal(fs_sub1_encode_free(w, m->rows, m->cols, &again, NULL), FS_OK);
    fs_buffer_free(&again);
    free(w);
    free_free_rows(&f), free_free_rows(&g);
}

/* Memory of exactly its size, so that a sanitizer sees a read behind it. */
static fs_status open_copy(const uint8_t *blob, size_t size, fs_detail *detail)
{
    uint8_t *copy = fs_alloc_aligned(size);
    memcpy(copy, blob, size);
    fs_sub1_matrix m;
    fs_status st = fs_sub1_open(copy, size, &m, detail);
    if (st == FS_OK) check_accepted(&m);
    free(copy);
    return st;
}

static void every_flipped_bit_is_refused_by_the_checksum(void **state)
{
    size_t size;
    uint8_t *blob = new_blob(&size);
    fs_sub1_matrix m;
    for (size_t i = 0; i < size; i++) {
        blob[i] ^= (uint8_t)(1 << i % 8);
        assert_int_not_equal(fs_sub1_open(blob, size, &m, NULL), FS_OK);
        blob[i] ^= (uint8_t)(1 << i % 8);
    }
    assert_int_equal(open_copy(blob, size, NULL), FS_OK);
    free(blob);
}

static void every_changed_byte_is_refused_or_harmless(void **state)
{
    size_t size;
    uint8_t *blob = new_blob(&size);
    uint32_t accepted = 0, refused = 0;
    fs_random random = {22};
    for (size_t i = 0; i < size; i++) {
        if (i >= 32 && i < 40) continue; /* the checksum itself */
        uint8_t was = blob[i];
        const uint8_t now[3] = {(uint8_t)(was ^ 1 << fs_random_below(&random, 8)), (uint8_t)(was + 1),
                                (uint8_t)fs_random_below(&random, 256)};
        for (int j = 0; j < 3; j++) {
            blob[i] = now[j];
            reseal(blob, size);
            fs_detail detail = {0};
            fs_status st = open_copy(blob, size, &detail);
            assert_true(st == FS_OK || detail.text[0]);
            accepted += st == FS_OK;
            refused += st != FS_OK;
        }
        blob[i] = was;
    }
    print_message("%u changes accepted, %u refused\n", accepted, refused);
    assert_true(accepted > 100 && refused > 100);
    free(blob);
}

static void every_cut_is_refused(void **state)
{
    size_t size;
    uint8_t *blob = new_blob(&size);
    fs_sub1_matrix m;
    for (size_t cut = 0; cut < size; cut++) {
        assert_int_not_equal(fs_sub1_open(blob, cut, &m, NULL), FS_OK);
        if (cut <= PAYLOAD) continue;
        uint8_t *shorter = fs_alloc_aligned(cut);
        memcpy(shorter, blob, cut);
        uint64_t payload = cut - PAYLOAD;
        memcpy(shorter + 24, &payload, 8);
        reseal(shorter, cut);
        assert_int_equal(fs_sub1_open(shorter, cut, &m, NULL), FS_CORRUPT);
        free(shorter);
    }
    free(blob);
}

/* ---- each rule, broken alone ---- */

static uint8_t *blob;
static size_t blob_size;

static int new_fixture(void **state)
{
    blob = new_blob(&blob_size);
    return 0;
}

static int free_fixture(void **state)
{
    free(blob);
    return 0;
}

static void expect(const char *why)
{
    fs_detail detail = {0};
    reseal(blob, blob_size);
    fs_status st = open_copy(blob, blob_size, &detail);
    if (st != FS_CORRUPT || !strstr(detail.text, why))
        fail_msg("status %d, \"%s\", not \"%s\"", (int)st, detail.text, why);
}

static void groups_follow_each_other(void **state)
{
    blob[PAYLOAD + 4]++;
    expect("group 1 is said to be at");
}

static void a_group_is_of_a_known_kind(void **state)
{
    blob[group_at(blob, 0)] = 3;
    expect("group 0 is of kind 3");
}

static void an_empty_group_has_no_steps(void **state)
{
    blob[find_group(blob, FS_FREE_EMPTY) + 2] = 1;
    expect("must be zero is not");
}

static void a_row_is_in_one_group(void **state)
{
    uint32_t at = group_at(blob, 0) + FS_FREE_HEAD_BYTES;
    blob[at] = blob[at + 1];
    expect("is there twice");
}

static void a_row_is_in_its_block(void **state)
{
    blob[group_at(blob, 0) + FS_FREE_HEAD_BYTES] = 128;
    expect("row 128 of its block is not in the matrix");
}

static void padding_has_no_scale(void **state)
{
    uint32_t last = find_group(blob, FS_FREE_EMPTY), coded = find_group(blob, FS_FREE_CODED);
    uint8_t *a = blob + last + FS_FREE_HEAD_BYTES, *b = blob + coded + FS_FREE_HEAD_BYTES, *padding = a;
    while (*padding < 97) padding++;
    assert_true(padding < a + FS_FREE_LANES);
    uint8_t was = *padding;
    *padding = b[0], b[0] = was; /* rows change places: weights would come to lie in padding */
    expect("(padding) has the scales");
}

static void scales_are_numbers_of_their_sign(void **state)
{
    uint8_t *pos = blob + find_group(blob, FS_FREE_CODED) + FS_FREE_HEAD_BYTES + FS_FREE_LANES;
    pos[1] |= 0x80;
    expect("has the scales");
    pos[1] = 0x7f, pos[0] = 0x80;
    expect("has the scales inf");
}

/* The coded group with the most steps, which has side entries too. */
static fs_free_group coded_group(void)
{
    fs_free_group best = {0};
    for (uint32_t i = 0; i < 4; i++) {
        fs_free_group g = fs_free_parts(blob + group_at(blob, i), COLS);
        if (g.kind == FS_FREE_CODED && g.num_steps > best.num_steps) best = g;
    }
    assert_true(best.num_steps >= 8 && best.num_steps % 4 != 0 && fs_free_u16(best.counts) >= 2);
    return best;
}

/* However far it is moved. */
static void a_window_stays_in_the_matrix(void **state)
{
    fs_free_group g = coded_group();
    memset((uint8_t *)(uintptr_t)g.moves, 0xff, g.num_steps / 4);
    memset((uint8_t *)(uintptr_t)g.steps, 0, g.num_steps * FS_FREE_STEP_BYTES);
    reseal(blob, blob_size);
    assert_int_equal(open_copy(blob, blob_size, NULL), FS_OK);
}

static void moves_end_with_the_steps(void **state)
{
    fs_free_group g = coded_group();
    ((uint8_t *)(uintptr_t)g.moves)[g.num_steps / 4] |= 0xc0;
    expect("moves behind its last step");
}

static void set_step(const fs_free_group *g, uint32_t step, uint8_t codes)
{
    memset((uint8_t *)(uintptr_t)g->steps + FS_FREE_STEP_BYTES * step, codes, FS_FREE_STEP_SIGNS);
}

/* Codes that go once around a window that stays come back to columns before. */
static void the_columns_of_a_lane_ascend(void **state)
{
    fs_free_group g = coded_group();
    memset((uint8_t *)(uintptr_t)g.moves, 0, fs_free_move_bytes(g.num_steps));
    for (uint32_t s = 0; s < 3; s++) set_step(&g, s, 0xff);
    expect("step 2: code 0 leads to column 6, which is not its to reach");
}

/* The window covers columns 192 to 319, of 300. */
static void a_code_stays_in_the_matrix(void **state)
{
    fs_free_group g = coded_group();
    memset((uint8_t *)(uintptr_t)g.moves, 0xff, g.num_steps / 4);
    for (uint32_t s = 0; s < g.num_steps; s++) set_step(&g, s, s < 7 ? 0 : 0xff);
    expect("leads to column 3");
}

/* All columns are in one part of the side list. */
static void side_entries_ascend(void **state)
{
    fs_free_group g = coded_group();
    memcpy((uint8_t *)(uintptr_t)g.side, g.side + FS_FREE_SIDE_BYTES, FS_FREE_SIDE_BYTES);
    expect("side entry 1 of part 0 (lane");
}

static void set_entry(uint8_t *at, uint32_t col, uint32_t lane)
{
    uint32_t entry = col | lane << 10;
    at[0] = (uint8_t)entry, at[1] = (uint8_t)(entry >> 8);
}

static void side_entries_are_in_the_matrix(void **state)
{
    fs_free_group g = coded_group();
    uint8_t *last = (uint8_t *)(uintptr_t)g.side + FS_FREE_SIDE_BYTES * (fs_free_u16(g.counts) - 1);
    set_entry(last, COLS, fs_free_side_lane(fs_free_u16(last)));
    expect("column 300) cannot be there");
}

static void side_entries_are_counted(void **state)
{
    ((uint8_t *)(uintptr_t)coded_group().counts)[0]++;
    expect("blob: "); /* what follows is not where it is said to be */
}

static void no_weight_is_there_twice(void **state)
{
    fs_free_group g = coded_group();
    fs_sub1_matrix m;
    assert_int_equal(fs_sub1_open(blob, blob_size, &m, NULL), FS_OK);
    uint8_t *side = (uint8_t *)(uintptr_t)g.side;
    uint32_t first = fs_free_side_col(fs_free_u16(side));
    for (uint32_t lane = 0; lane < FS_FREE_LANES; lane++) {
        fs_free_walk walk = fs_free_start_walk(&m);
        fs_free_weight w[FS_FREE_CODES];
        fs_free_walk_step(&g, lane, 0, &walk, w);
        if (!w[0].nonzero || w[0].col >= first) continue;
        set_entry(side, w[0].col, lane);
        expect("which the side list has too");
        return;
    }
    fail_msg("no lane has a code before the first side entry");
}

static void a_dense_weight_has_one_sign(void **state)
{
    uint8_t *unit = (uint8_t *)(uintptr_t)fs_free_parts(blob + find_group(blob, FS_FREE_DENSE), COLS).steps;
    memset(unit, 0xff, FS_FREE_UNIT_BYTES);
    expect("reserved bits in columns 0 to 63");
}

static void a_dense_row_ends_with_the_matrix(void **state)
{
    uint8_t *unit = (uint8_t *)(uintptr_t)fs_free_parts(blob + find_group(blob, FS_FREE_DENSE), COLS).steps;
    unit[4 * FS_FREE_UNIT_BYTES + 7] = 0x80; /* column 319 of 300 */
    expect("reserved bits in columns 256 to 319");
}

/* Random payloads, most of them nonsense: a status each, and nothing else happens. */
static void random_bytes_are_refused(void **state)
{
    fs_random random = {23};
    for (int i = 0; i < 20000; i++) {
        uint32_t from = PAYLOAD + fs_random_below(&random, (uint32_t)blob_size - PAYLOAD);
        uint32_t count = 1 + fs_random_below(&random, 8);
        uint8_t *copy = fs_alloc_aligned(blob_size);
        memcpy(copy, blob, blob_size);
        for (uint32_t j = from; j < blob_size && j < from + count; j++)
            copy[j] = (uint8_t)fs_random_next(&random);
        reseal(copy, blob_size);
        fs_sub1_matrix m;
        if (fs_sub1_open(copy, blob_size, &m, NULL) == FS_OK && i % 8 == 0) check_accepted(&m);
        free(copy);
    }
}

#define BROKEN(test) cmocka_unit_test_setup_teardown(test, new_fixture, free_fixture)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_flipped_bit_is_refused_by_the_checksum),
                                       cmocka_unit_test(every_changed_byte_is_refused_or_harmless),
                                       cmocka_unit_test(every_cut_is_refused),
                                       BROKEN(groups_follow_each_other),
                                       BROKEN(a_group_is_of_a_known_kind),
                                       BROKEN(an_empty_group_has_no_steps),
                                       BROKEN(a_row_is_in_one_group),
                                       BROKEN(a_row_is_in_its_block),
                                       BROKEN(padding_has_no_scale),
                                       BROKEN(scales_are_numbers_of_their_sign),
                                       BROKEN(a_window_stays_in_the_matrix),
                                       BROKEN(moves_end_with_the_steps),
                                       BROKEN(the_columns_of_a_lane_ascend),
                                       BROKEN(a_code_stays_in_the_matrix),
                                       BROKEN(side_entries_ascend),
                                       BROKEN(side_entries_are_in_the_matrix),
                                       BROKEN(side_entries_are_counted),
                                       BROKEN(no_weight_is_there_twice),
                                       BROKEN(a_dense_weight_has_one_sign),
                                       BROKEN(a_dense_row_ends_with_the_matrix),
                                       BROKEN(random_bytes_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
