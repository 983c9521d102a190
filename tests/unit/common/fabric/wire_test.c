/* tests/unit/common/fabric/wire_test.c: dispatches and results, whole and broken. */
#include "node_helper.h"

#include <math.h>

#include "fabric/wire.h"

enum { ROWS = 3, GROUPS = 2, PAIRS = 4 };

typedef struct {
    fs_dispatch_source source;
    int8_t i8[ROWS][200];
    float f32[ROWS][200];
    const int8_t *row_i8[ROWS];
    const float *row_f32[ROWS];
} sample;

static const uint32_t expert[GROUPS] = {3, 31}, count[GROUPS] = {3, 1}, pair[PAIRS] = {0, 1, 2, 1};
static const float scale[ROWS] = {0.5f, 2.0f, 3.25f};

static void sample_init(sample *s, fs_row_format format, uint32_t hidden_size)
{
    memset(s, 0, sizeof(*s));
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < 200; i++) {
            s->i8[r][i] = (int8_t)(r * 31 + i + 1);
            s->f32[r][i] = (float)(r * 1000 + i) * 0.125f;
        }
        s->row_i8[r] = s->i8[r];
        s->row_f32[r] = s->f32[r];
    }
    s->source = (fs_dispatch_source){.id = 77,
                                     .epoch = 5,
                                     .fingerprint = 0xfeedfacecafebeef,
                                     .layer = 4,
                                     .hidden_size = hidden_size,
                                     .num_rows = ROWS,
                                     .num_groups = GROUPS,
                                     .num_pairs = PAIRS,
                                     .row_format = format,
                                     .expert = expert,
                                     .count = count,
                                     .pair = pair,
                                     .scale = scale,
                                     .row_i8 = s->row_i8,
                                     .row_f32 = s->row_f32};
}

static void check_common(const fs_dispatch *d, const sample *s)
{
    assert_int_equal(d->id, 77);
    assert_int_equal(d->epoch, 5);
    assert_int_equal(d->fingerprint, 0xfeedfacecafebeef);
    assert_int_equal(d->layer, 4);
    assert_int_equal(d->hidden_size, s->source.hidden_size);
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t e, n;
        fs_dispatch_group(d, i, &e, &n);
        assert_int_equal(e, expert[i]);
        assert_int_equal(n, count[i]);
    }
    for (uint32_t i = 0; i < PAIRS; i++) assert_int_equal(fs_dispatch_pair(d, i), pair[i]);
}

static void int8_dispatch_goes_and_comes(void **state)
{
    static const uint32_t sizes[] = {1, 63, 64, 65, 128, 200};
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        sample s;
        fs_buffer b = {0};
        fs_dispatch d;
        sample_init(&s, FS_ROWS_I8, sizes[k]);
        assert_int_equal(fs_dispatch_encode(&s.source, &b), FS_OK);
        assert_int_equal(fs_dispatch_decode(b.data, b.size, &d, NULL), FS_OK);
        check_common(&d, &s);
        assert_int_equal(d.row_stride, (sizes[k] + 63) / 64 * 64);
        assert_int_equal((size_t)((const uint8_t *)d.row_i8 - b.data) % 64, 0);
        assert_memory_equal(d.scale, scale, sizeof(scale));
        for (uint32_t r = 0; r < ROWS; r++) {
            assert_memory_equal(d.row_i8 + r * d.row_stride, s.i8[r], sizes[k]);
            for (uint32_t i = sizes[k]; i < d.row_stride; i++)
                assert_int_equal(d.row_i8[r * d.row_stride + i], 0);
        }
        fs_buffer_free(&b);
    }
}

static void float_dispatch_goes_and_comes(void **state)
{
    sample s;
    fs_buffer b = {0};
    fs_dispatch d;
    sample_init(&s, FS_ROWS_F32, 200);
    assert_int_equal(fs_dispatch_encode(&s.source, &b), FS_OK);
    assert_int_equal(fs_dispatch_decode(b.data, b.size, &d, NULL), FS_OK);
    check_common(&d, &s);
    assert_null(d.scale);
    for (uint32_t r = 0; r < ROWS; r++) assert_memory_equal(d.row_f32 + r * 200, s.f32[r], 800);
    fs_buffer_free(&b);
}

static void a_dispatch_of_any_other_length_is_corrupt(void **state)
{
    sample s;
    fs_buffer b = {0};
    fs_dispatch d;
    sample_init(&s, FS_ROWS_I8, 100);
    assert_int_equal(fs_dispatch_encode(&s.source, &b), FS_OK);
    for (size_t size = 0; size < b.size; size++)
        assert_int_equal(fs_dispatch_decode(b.data, size, &d, NULL), FS_CORRUPT);
    fs_buffer_append_u8(&b, 0);
    assert_int_equal(fs_dispatch_decode(b.data, b.size, &d, NULL), FS_CORRUPT);
    fs_buffer_free(&b);
}

typedef struct {
    size_t at;
    uint32_t size;
    uint64_t value;
    fs_status status;
    const char *text; /* in the detail */
} breakage;

static void try_broken(const fs_buffer *b, const breakage *c, bool result)
{
    uint8_t *copy = malloc(b->size);
    memcpy(copy, b->data, b->size);
    memcpy(copy + c->at, &c->value, c->size);
    fs_dispatch d;
    fs_result r;
    fs_detail detail = {0};
    fs_status st = result ? fs_result_decode(copy, b->size, &r, &detail)
                          : fs_dispatch_decode(copy, b->size, &d, &detail);
    if (st != c->status || !strstr(detail.text, c->text))
        fail_msg("offset %zu: %s, '%s'", c->at, fs_status_name(st), detail.text);
    free(copy);
}

static void a_broken_dispatch_is_refused_and_says_what(void **state)
{
    static const breakage cases[] = {
        {0, 2, 2, FS_UNSUPPORTED, "version 2"},
        {2, 2, 3, FS_UNSUPPORTED, "row_format 3"},
        {2, 2, FS_ROWS_F32, FS_CORRUPT, "bytes"},
        {24, 4, 0, FS_CORRUPT, "hidden_size 0"},
        {24, 4, UINT32_MAX, FS_CORRUPT, "hidden_size"},
        {24, 4, 200, FS_CORRUPT, "bytes"},
        {24, 4, 99, FS_CORRUPT, "padding"}, /* the same stride */
        {28, 4, 0, FS_CORRUPT, "num_rows 0"},
        {28, 4, FS_WIRE_MAX_ROWS + 1, FS_CORRUPT, "num_rows"},
        {32, 4, 0, FS_CORRUPT, "num_groups 0"},
        {32, 4, FS_WIRE_MAX_GROUPS + 1, FS_CORRUPT, "num_groups"},
        {36, 4, 1, FS_CORRUPT, "num_pairs 1"},
        {36, 4, FS_WIRE_MAX_PAIRS + 1, FS_CORRUPT, "num_pairs"},
        {36, 4, UINT32_MAX, FS_CORRUPT, "num_pairs"},
        {48, 4, 31, FS_CORRUPT, "does not rise"},
        {48, 4, 32, FS_CORRUPT, "does not rise"},
        {52, 4, 0, FS_CORRUPT, "no rows"},
        {52, 4, 2, FS_CORRUPT, "groups have 3 rows"},
        {52, 4, UINT32_MAX, FS_CORRUPT, "groups have"},
        {64, 4, 3, FS_CORRUPT, "row 3"},
        {76, 4, UINT32_MAX, FS_CORRUPT, "pair 3"},
        {92, 1, 1, FS_CORRUPT, "padding"},        /* between scales and rows */
        {128 + 127, 1, 1, FS_CORRUPT, "padding"}, /* behind the first row */
    };
    sample s;
    fs_buffer b = {0};
    sample_init(&s, FS_ROWS_I8, 100);
    assert_int_equal(fs_dispatch_encode(&s.source, &b), FS_OK);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) try_broken(&b, &cases[i], false);
    fs_buffer_free(&b);
}

static void a_wrong_source_is_invalid(void **state)
{
    static const uint32_t falling[] = {31, 3}, empty[] = {4, 0}, outside[] = {0, 1, 3, 1};
    for (int what = 0; what < 8; what++) {
        sample s;
        fs_buffer b = {0};
        sample_init(&s, FS_ROWS_I8, 100);
        if (what == 0) s.source.expert = falling;
        if (what == 1) s.source.count = empty;
        if (what == 2) s.source.pair = outside;
        if (what == 3) s.source.num_pairs = 5;
        if (what == 4) s.source.hidden_size = 0;
        if (what == 5) s.source.num_rows = FS_WIRE_MAX_ROWS + 1;
        if (what == 6) s.source.row_format = 9;
        if (what == 7) s.source.num_groups = 0;
        assert_int_equal(fs_dispatch_encode(&s.source, &b), FS_INVALID);
        assert_null(b.data);
    }
}

static uint8_t *make_result(uint32_t hidden_size, size_t *size, float **row)
{
    sample s;
    fs_buffer b = {0};
    fs_dispatch d;
    sample_init(&s, FS_ROWS_I8, hidden_size);
    assert_int_equal(fs_dispatch_encode(&s.source, &b), FS_OK);
    assert_int_equal(fs_dispatch_decode(b.data, b.size, &d, NULL), FS_OK);
    uint8_t *block = fs_result_create(&d, 9, size, row);
    assert_non_null(block);
    fs_buffer_free(&b);
    return block;
}

/* A node would round NaN to int8. A float32 row is only multiplied: it may hold anything. */
static void a_scale_that_is_not_finite_is_refused(void **state)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 8; k++) {
        sample s;
        fs_buffer b = {0};
        fs_dispatch d;
        fs_detail detail = {0};
        float broken[ROWS] = {0.5f, 0.0f, -3.0f};
        sample_init(&s, FS_ROWS_I8, 100);
        s.source.scale = broken;
        assert_int_equal(fs_dispatch_encode(&s.source, &b), FS_OK);
        assert_int_equal(fs_dispatch_decode(b.data, b.size, &d, NULL), FS_OK);
        int row = k < 4 ? 0 : ROWS - 1;
        memcpy((uint8_t *)(uintptr_t)&d.scale[row], &bad[k % 4], sizeof(float));
        assert_int_equal(fs_dispatch_decode(b.data, b.size, &d, &detail), FS_CORRUPT);
        assert_non_null(strstr(detail.text, row == 0 ? "scale of row 0" : "scale of row 2"));
        fs_buffer_free(&b);
        broken[row] = bad[k % 4];
        assert_int_equal(fs_dispatch_encode(&s.source, &b), FS_INVALID);
    }
    sample s;
    fs_buffer b = {0};
    fs_dispatch d;
    sample_init(&s, FS_ROWS_F32, 200);
    s.f32[1][7] = NAN;
    assert_int_equal(fs_dispatch_encode(&s.source, &b), FS_OK);
    assert_int_equal(fs_dispatch_decode(b.data, b.size, &d, NULL), FS_OK);
    fs_buffer_free(&b);
}

static void a_result_is_made_in_place(void **state)
{
    size_t size;
    float *row;
    uint8_t *block = make_result(100, &size, &row);
    assert_int_equal((uintptr_t)row % 64, 0);
    for (uint32_t i = 0; i < PAIRS * 100; i++) {
        assert_true(row[i] == 0);
        row[i] = (float)i;
    }
    fs_result_set_group(block, 1, FS_WIRE_MOVED);
    fs_result_set_compute(block, 123456789012);
    fs_result_set_flags(block, FS_WIRE_WANTS_HINTS);
    fs_result r;
    assert_int_equal(fs_result_decode(block, size, &r, NULL), FS_OK);
    assert_int_equal(r.id, 77);
    assert_int_equal(r.epoch, 9);
    assert_int_equal(r.layer, 4);
    assert_int_equal(r.compute_ns, 123456789012);
    assert_int_equal(r.flags, FS_WIRE_WANTS_HINTS);
    assert_int_equal(r.num_pairs, PAIRS);
    uint32_t e;
    fs_wire_status st;
    fs_result_group(&r, 0, &e, &st);
    assert_true(e == 3 && st == FS_WIRE_OK);
    fs_result_group(&r, 1, &e, &st);
    assert_true(e == 31 && st == FS_WIRE_MOVED);
    assert_memory_equal(r.row, row, PAIRS * 100 * sizeof(float));
    free(block);
}

static void a_broken_result_is_refused_and_says_what(void **state)
{
    static const breakage cases[] = {
        {0, 2, 0, FS_UNSUPPORTED, "version 0"},
        {2, 2, 1, FS_CORRUPT, "reserved"},
        {36, 4, 2, FS_CORRUPT, "flags 0x2"},
        {36, 4, 1u << 31, FS_CORRUPT, "flags"},
        {24, 4, 0, FS_CORRUPT, "hidden_size 0"},
        {24, 4, UINT32_MAX, FS_CORRUPT, "hidden_size"},
        {24, 4, 101, FS_CORRUPT, "bytes"},
        {28, 4, 0, FS_CORRUPT, "num_groups 0"},
        {28, 4, FS_WIRE_MAX_GROUPS + 1, FS_CORRUPT, "num_groups"},
        {28, 4, 1, FS_CORRUPT, "padding"}, /* the second group would be padding */
        {32, 4, 0, FS_CORRUPT, "num_pairs 0"},
        {32, 4, FS_WIRE_MAX_PAIRS + 1, FS_CORRUPT, "num_pairs"},
        {48, 4, 31, FS_CORRUPT, "does not rise"},
        {52, 4, 5, FS_CORRUPT, "status 5"},
    };
    size_t size;
    float *row;
    fs_result r;
    uint8_t *block = make_result(100, &size, &row);
    fs_buffer b = {.data = block, .size = size};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) try_broken(&b, &cases[i], true);
    for (size_t s = 0; s < size; s++) assert_int_equal(fs_result_decode(block, s, &r, NULL), FS_CORRUPT);
    free(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(int8_dispatch_goes_and_comes),
        cmocka_unit_test(float_dispatch_goes_and_comes),
        cmocka_unit_test(a_dispatch_of_any_other_length_is_corrupt),
        cmocka_unit_test(a_broken_dispatch_is_refused_and_says_what),
        cmocka_unit_test(a_wrong_source_is_invalid),
        cmocka_unit_test(a_scale_that_is_not_finite_is_refused),
        cmocka_unit_test(a_result_is_made_in_place),
        cmocka_unit_test(a_broken_result_is_refused_and_says_what),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
