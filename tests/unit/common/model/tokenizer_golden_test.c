/* tests/unit/common/model/tokenizer_golden_test.c: the same ids and the same text as the reference
 * library, on the demo model's tokenizer and variants of it (data/tokenizer_cases.json, made by
 * tests/golden/make_tokenizer_cases.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "model/tokenizer.h"

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!root) fail_msg("%s: %s", path, error.text);
    return root;
}

static fs_tokenizer *variant(const char *name, json_t *change)
{
    const char *key;
    json_t *value, *root = load(FS_SOURCE_DIR "/models/demo/tokenizer.json");
    json_object_foreach(change, key, value) json_object_set(
        strcmp(key, "ignore_merges") == 0 ? json_object_get(root, "model") : root, key, value);
    char *text = json_dumps(root, 0);
    fs_tokenizer *t = NULL;
    fs_detail detail = {0};
    if (fs_tokenizer_parse(text, strlen(text), name, &t, &detail) != FS_OK) fail_msg("%s", detail.text);
    free(text);
    json_decref(root);
    return t;
}

static void check_ids(const fs_tokenizer *t, const char *name, const char *text, bool allow_special,
                      const json_t *expected)
{
    uint32_t *ids = NULL;
    size_t count = 0;
    fs_detail detail = {0};
    if (fs_tokenizer_encode(t, text, strlen(text), allow_special, &ids, &count, &detail) != FS_OK)
        fail_msg("%s: '%s': %s", name, text, detail.text);
    bool same = count == json_array_size(expected);
    for (size_t i = 0; i < count && same; i++)
        same = json_integer_value(json_array_get(expected, i)) == ids[i];
    if (!same) fail_msg("%s: '%s' (%s) has other ids", name, text, allow_special ? "special" : "plain");
    free(ids);
}

/* Also: no call gives out half a character, nor more than the header says. */
static void check_stream(const fs_tokenizer *t, const char *name, const json_t *ids, const json_t *expected)
{
    fs_detokenizer state = {0};
    fs_buffer all = {0};
    for (size_t i = 0; i < json_array_size(ids); i++) {
        char text[1024];
        const uint8_t *bytes;
        size_t size, piece;
        bool special;
        uint32_t id = (uint32_t)json_integer_value(json_array_get(ids, i));
        assert_int_equal(fs_tokenizer_piece(t, id, &bytes, &piece, &special), FS_OK);
        assert_int_equal(fs_detokenizer_next(&state, t, id, text, sizeof(text), &size), FS_OK);
        assert_true(size <= 3 * piece + FS_DETOKENIZER_EXTRA);
        json_t *whole = json_stringn(text, size);
        assert_non_null(whole);
        json_decref(whole);
        fs_buffer_append(&all, text, size);
    }
    char rest[FS_DETOKENIZER_EXTRA];
    fs_buffer_append(&all, rest, fs_detokenizer_finish(&state, rest));
    const char *text = json_string_value(expected);
    bool same = all.size == json_string_length(expected) &&
                (all.size == 0 || memcmp(all.data, text, all.size) == 0);
    if (!same) fail_msg("%s: decodes to '%.*s', not '%s'", name, (int)all.size, (char *)all.data, text);
    fs_buffer_free(&all);
}

static void ids_and_text_are_the_librarys(void **state)
{
    json_t *root = load(FS_SOURCE_DIR "/tests/unit/common/model/data/tokenizer_cases.json");
    json_t *one, *c;
    size_t i, j, checked = 0;
    json_array_foreach(json_object_get(root, "variants"), i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        fs_tokenizer *t = variant(name, json_object_get(one, "change"));
        json_array_foreach(json_object_get(one, "cases"), j, c)
        {
            const char *text = json_string_value(json_object_get(c, "text"));
            const json_t *ids = json_object_get(c, "ids"), *plain = json_object_get(c, "plain_ids");
            check_ids(t, name, text, true, ids);
            check_ids(t, name, text, false, json_is_null(plain) ? ids : plain);
            check_stream(t, name, ids, json_object_get(c, "decoded"));
            checked++;
        }
        fs_tokenizer_destroy(t);
    }
    assert_true(checked > 300);
    json_decref(root);
}

static void characters_cut_in_any_way_decode_as_the_librarys(void **state)
{
    json_t *root = load(FS_SOURCE_DIR "/tests/unit/common/model/data/tokenizer_cases.json");
    json_t *one, *none = json_object();
    size_t i;
    fs_tokenizer *t = variant("demo", none);
    json_array_foreach(json_object_get(root, "streams"), i, one)
        check_stream(t, "stream", json_object_get(one, "ids"), json_object_get(one, "decoded"));
    assert_true(i >= 20);
    fs_tokenizer_destroy(t);
    json_decref(none);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_text_are_the_librarys),
        cmocka_unit_test(characters_cut_in_any_way_decode_as_the_librarys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
