/* tests/unit/common/fabric/wire_hint_test.c: hints, whole and broken. */
#include "node_helper.h"

#include "fabric/wire.h"

enum { VISITS = 3, USES = 6 };
static const fs_hint_visit visit[VISITS] = {{0, 2, 3}, {7, 5, 1}, {FS_WIRE_HINT_NEVER, 5, 2}};
static const uint16_t expert[USES] = {0, 4, 31, 9, 1, 65535};
static const fs_hint_source source = {123456789, 0xfeedfacecafebeef, VISITS, visit, expert};

static void a_hint_goes_and_comes(void **state)
{
    fs_buffer b = {0};
    fs_hint h;
    assert_int_equal(fs_hint_encode(&source, &b), FS_OK);
    assert_int_equal(b.size, 32 + VISITS * 8 + 16);
    assert_int_equal(fs_hint_decode(b.data, b.size, &h, NULL), FS_OK);
    assert_int_equal(h.position, 123456789);
    assert_int_equal(h.fingerprint, 0xfeedfacecafebeef);
    assert_int_equal(h.num_visits, VISITS);
    assert_int_equal(h.num_uses, USES);
    for (uint32_t i = 0; i < VISITS; i++) {
        fs_hint_visit v = fs_hint_get_visit(&h, i);
        assert_int_equal(v.distance, visit[i].distance);
        assert_int_equal(v.layer, visit[i].layer);
        assert_int_equal(v.count, visit[i].count);
    }
    for (uint32_t i = 0; i < USES; i++) assert_int_equal(fs_hint_get_expert(&h, i), expert[i]);
    fs_buffer_free(&b);
}

static void a_hint_of_any_other_length_is_corrupt(void **state)
{
    fs_buffer b = {0};
    fs_hint h;
    assert_int_equal(fs_hint_encode(&source, &b), FS_OK);
    for (size_t size = 0; size < b.size; size++)
        assert_int_equal(fs_hint_decode(b.data, size, &h, NULL), FS_CORRUPT);
    fs_buffer_append_u64(&b, 0);
    assert_int_equal(fs_hint_decode(b.data, b.size, &h, NULL), FS_CORRUPT);
    fs_buffer_free(&b);
}

static void a_broken_hint_is_refused_and_says_what(void **state)
{
    static const struct {
        size_t at;
        uint32_t size;
        uint64_t value;
        fs_status status;
        const char *text;
    } cases[] = {
        {0, 2, 2, FS_UNSUPPORTED, "version 2"},
        {2, 2, 1, FS_CORRUPT, "reserved"},
        {28, 4, 1, FS_CORRUPT, "reserved"},
        {4, 4, 0, FS_CORRUPT, "num_visits 0"},
        {4, 4, FS_WIRE_MAX_HINT_VISITS + 1, FS_CORRUPT, "num_visits"},
        {4, 4, 4, FS_CORRUPT, "bytes"},
        {24, 4, 2, FS_CORRUPT, "num_uses 2"},
        {24, 4, UINT32_MAX, FS_CORRUPT, "num_uses"},
        {24, 4, 5, FS_CORRUPT, "padding"},
        {24, 4, 7, FS_CORRUPT, "visits have 6 uses"},
        {32, 4, FS_WIRE_HINT_MAX_DISTANCE + 1, FS_CORRUPT, "distance"},
        {38, 2, 0, FS_CORRUPT, "no uses"},
        {38, 2, 7, FS_CORRUPT, "7 uses, 6 are left"},
        {38, 2, 4, FS_CORRUPT, "does not rise"},
        {58, 2, 0, FS_CORRUPT, "does not rise"},
        {68, 1, 1, FS_CORRUPT, "padding"},
    };
    fs_buffer b = {0};
    assert_int_equal(fs_hint_encode(&source, &b), FS_OK);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t *copy = malloc(b.size);
        fs_hint h;
        fs_detail detail = {0};
        memcpy(copy, b.data, b.size);
        memcpy(copy + cases[i].at, &cases[i].value, cases[i].size);
        fs_status st = fs_hint_decode(copy, b.size, &h, &detail);
        if (st != cases[i].status || !strstr(detail.text, cases[i].text))
            fail_msg("case %zu: %s, '%s'", i, fs_status_name(st), detail.text);
        free(copy);
    }
    fs_buffer_free(&b);
}

static void a_wrong_source_is_invalid(void **state)
{
    static const fs_hint_visit empty[1] = {{0, 0, 0}}, far_off[1] = {{FS_WIRE_HINT_NEVER - 1, 0, 1}},
                               twice[1] = {{0, 0, 2}};
    static const uint16_t same[2] = {3, 3};
    const fs_hint_source wrong[] = {{0, 0, 0, visit, expert},
                                    {0, 0, 1, empty, expert},
                                    {0, 0, 1, far_off, expert},
                                    {0, 0, 1, twice, same}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        fs_buffer b = {0};
        assert_int_equal(fs_hint_encode(&wrong[i], &b), FS_INVALID);
        assert_null(b.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hint_goes_and_comes),
        cmocka_unit_test(a_hint_of_any_other_length_is_corrupt),
        cmocka_unit_test(a_broken_hint_is_refused_and_says_what),
        cmocka_unit_test(a_wrong_source_is_invalid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
