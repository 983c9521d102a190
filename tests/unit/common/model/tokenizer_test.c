/* tests/unit/common/model/tokenizer_test.c: what tokenizer.json may not say, and encoding's and decoding's
 * own promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "model/tokenizer.h"

static const char small[] =
    "{\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},\"decoder\":{"
    "\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\\u0120\":3,\"\\u0120ab\":4},"
    "\"merges\":[[\"a\",\"b\"],[\"\\u0120\",\"ab\"]]}}";

static fs_tokenizer *parse_good(const char *json)
{
    fs_tokenizer *t = NULL;
    fs_detail detail = {0};
    if (fs_tokenizer_parse(json, strlen(json), "tokenizer.json", &t, &detail) != FS_OK)
        fail_msg("%s", detail.text);
    return t;
}

/* small with path ("model.vocab") set to value. */
static char *changed(const char *path, const char *value)
{
    json_t *root = json_loads(small, 0, NULL);
    const char *dot = strchr(path, '.');
    json_t *new_value = json_loads(value, JSON_DECODE_ANY, NULL);
    if (!new_value) fail_msg("the test's own JSON: %s", value);
    json_object_set_new(dot ? json_object_get(root, "model") : root, dot ? dot + 1 : path, new_value);
    char *text = json_dumps(root, 0);
    json_decref(root);
    return text;
}

static void refused(const char *path, const char *value, fs_status status, const char *word)
{
    fs_tokenizer *t = NULL;
    fs_detail detail = {0};
    char *text = changed(path, value);
    fs_status st = fs_tokenizer_parse(text, strlen(text), "tokenizer.json", &t, &detail);
    free(text);
    if (st != status) fail_msg("%s = %s: %s (%s)", path, value, fs_status_name(st), detail.text);
    assert_null(t);
    if (!strstr(detail.text, "tokenizer.json") || !strstr(detail.text, word))
        fail_msg("'%s' does not say '%s'", detail.text, word);
}

static void check(const fs_tokenizer *t, const char *text, bool special, size_t count,
                  const uint32_t *expected)
{
    uint32_t *ids = NULL;
    size_t n = 99;
    assert_int_equal(fs_tokenizer_encode(t, text, strlen(text), special, &ids, &n, NULL), FS_OK);
    assert_int_equal(n, count);
    if (count == 0) assert_null(ids);
    for (size_t i = 0; i < n; i++) assert_int_equal(ids[i], expected[i]);
    free(ids);
}

static void ids_that_are_not_dense_are_corrupt(void **state)
{
    refused("model.vocab", "{\"a\":0,\"b\":1,\"ab\":2,\"\\u0120\":3,\"\\u0120ab\":9}", FS_CORRUPT, "9");
    refused("model.vocab", "{\"a\":0,\"b\":1,\"ab\":2,\"\\u0120\":3,\"\\u0120ab\":3}", FS_CORRUPT,
            "two tokens have id 3");
    refused("model.vocab", "{\"a\":-1,\"b\":1,\"ab\":2,\"\\u0120\":3,\"\\u0120ab\":4}", FS_CORRUPT, "-1");
    refused("model.vocab", "{\"a\":0.5,\"b\":1,\"ab\":2,\"\\u0120\":3,\"\\u0120ab\":4}", FS_CORRUPT, "'a'");
    refused("added_tokens", "[{\"id\":6,\"content\":\"<s>\"}]", FS_CORRUPT, "6");
    refused("added_tokens", "[{\"id\":4,\"content\":\"<s>\"}]", FS_CORRUPT, "two tokens have id 4");
    refused("added_tokens", "[{\"id\":1,\"content\":\"a\"}]", FS_CORRUPT, "'a'");
    refused("added_tokens", "[{\"id\":1,\"content\":\"b\"},{\"id\":1,\"content\":\"b\"}]", FS_CORRUPT,
            "twice");
    refused("added_tokens", "[{\"content\":\"<s>\"}]", FS_CORRUPT, "'<s>'");
}

static void a_merge_of_unknown_pieces_is_corrupt(void **state)
{
    refused("model.merges", "[[\"a\",\"x\"]]", FS_CORRUPT, "merge 0");
    refused("model.merges", "[[\"a\",\"b\"],[\"x\",\"a\"]]", FS_CORRUPT, "merge 1");
    refused("model.merges", "[[\"b\",\"a\"]]", FS_CORRUPT, "'b' and 'a'"); /* there is no "ba" */
    refused("model.merges", "[\"ab\"]", FS_CORRUPT, "merge 0");
    refused("model.merges", "[\"a b c\"]", FS_CORRUPT, "merge 0");
    refused("model.merges", "[[\"a\"]]", FS_CORRUPT, "merge 0");
    refused("model.merges", "[[\"a\",\"b\",\"a\"]]", FS_CORRUPT, "merge 0");
    refused("model.merges", "[7]", FS_CORRUPT, "merge 0");
}

static void wrong_types_are_invalid(void **state)
{
    refused("model.merges", "{}", FS_INVALID, "merges");
    refused("model.vocab", "[]", FS_INVALID, "vocab");
    refused("added_tokens", "{}", FS_INVALID, "added_tokens");
    refused("added_tokens", "[{\"id\":5,\"content\":\"\"}]", FS_INVALID, "content");
    refused("added_tokens", "[{\"id\":5,\"content\":7}]", FS_INVALID, "content");
    refused("added_tokens", "[{\"id\":5,\"content\":\"<s>\",\"lstrip\":1}]", FS_INVALID, "lstrip");
    refused("model.ignore_merges", "3", FS_INVALID, "ignore_merges");
    refused("normalizer", "{\"type\":\"Sequence\"}", FS_INVALID, "normalizers");
    static const char *const bad[] = {"", "{", "[]", "{\"a\":1,\"a\":1}", "{\"a\":NaN}", "\"\xff\""};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        fs_tokenizer *t = NULL;
        assert_int_equal(fs_tokenizer_parse(bad[i], strlen(bad[i]), "x", &t, NULL), FS_INVALID);
    }
}

static void what_is_not_implemented_is_named(void **state)
{
    refused("model.type", "\"WordPiece\"", FS_UNSUPPORTED, "WordPiece");
    refused("model.dropout", "0.1", FS_UNSUPPORTED, "dropout");
    refused("model.end_of_word_suffix", "\"</w>\"", FS_UNSUPPORTED, "end_of_word_suffix");
    refused("model.unk_token", "\"<s>\"", FS_UNSUPPORTED, "unk_token"); /* this alphabet has gaps */
    refused("model.byte_fallback", "true", FS_UNSUPPORTED, "byte_fallback");
    refused("normalizer", "{\"type\":\"Lowercase\"}", FS_UNSUPPORTED, "Lowercase");
    refused("pre_tokenizer", "null", FS_UNSUPPORTED, "ByteLevel");
    refused("pre_tokenizer", "{\"type\":\"Whitespace\"}", FS_UNSUPPORTED, "ByteLevel");
    refused("pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[]}", FS_UNSUPPORTED, "empty");
    refused("pre_tokenizer",
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},{\"type\":\"ByteLevel\"}]}",
            FS_UNSUPPORTED, "Digits");
    refused("pre_tokenizer",
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"ByteLevel\"}]}",
            FS_UNSUPPORTED, "behind ByteLevel");
    refused("decoder", "null", FS_UNSUPPORTED, "decoder");
    refused("decoder", "{\"type\":\"Metaspace\"}", FS_UNSUPPORTED, "Metaspace");
    refused("post_processor", "{\"type\":\"BertProcessing\"}", FS_UNSUPPORTED, "BertProcessing");
}

static void regexes_that_pcre2_reads_otherwise_are_refused(void **state)
{
    static const char *const bad[] = {"(",       "[a",     "a{2}+",   "a{2}?",      "a{,3}",   "[[:punct:]]",
                                      "[a&&b]",  "(?m:a)", "(?<n>a)", "(*FAIL)",    "\\\\h",   "\\\\b",
                                      "\\\\1",   "\\\\",   "\\\\pL",  "\\\\p{Foo}", "\\\\xe9", "[\\\\W]",
                                      "\\\\u12", "\\\\K",  "\\\\R",   "[]a]"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char value[512];
        snprintf(
            value, sizeof(value),
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
            "\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\"}]}",
            bad[i]);
        refused("pre_tokenizer", value, FS_UNSUPPORTED, "regex");
    }
}

static void text_cannot_forge_a_special_token(void **state)
{
    fs_tokenizer *t = parse_good(small);
    check(t, "ab<s> ab", true, 3, (uint32_t[]){2, 5, 4});
    check(t, "ab<s> ab", false, 2, (uint32_t[]){2, 4}); /* no pieces for < s > here: dropped */
    fs_tokenizer_destroy(t);
    /* Neither by a merge, nor as a whole word, nor as a byte. */
    refused("added_tokens", "[{\"id\":2,\"content\":\"ab\",\"special\":true}]", FS_UNSUPPORTED,
            "special token 'ab'");
    refused("added_tokens", "[{\"id\":0,\"content\":\"a\",\"special\":true}]", FS_UNSUPPORTED, "special");
    char *text = changed(
        "model",
        "{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{\"a\":0,\"b\":1,\"<s>\":2},\"merges\":[]}");
    json_t *root = json_loads(text, 0, NULL);
    json_object_set_new(root, "added_tokens",
                        json_loads("[{\"id\":2,\"content\":\"<s>\",\"special\":true}]", 0, NULL));
    json_object_set_new(json_object_get(root, "pre_tokenizer"), "use_regex", json_false());
    free(text);
    text = json_dumps(root, 0);
    t = parse_good(text);
    check(t, "<s>", true, 1, (uint32_t[]){2});
    check(t, "<s>", false, 0, NULL);
    fs_tokenizer_destroy(t);
    json_decref(root);
    free(text);
}

static void text_that_is_not_utf8_is_invalid_at_its_offset(void **state)
{
    static const struct {
        const char *text;
        size_t offset;
    } bad[] = {{"ab\xff", 2},
               {"\x80", 0},
               {"a\xc3", 1},
               {"\xc0\x80", 0},
               {"a\xe0\x80\x80", 1},
               {"\xed\xa0\x80", 0},
               {"\xf4\x90\x80\x80", 0},
               {"\xf8\x88\x80\x80\x80", 0},
               {"ab\xf0\x9f\x91", 2}};
    fs_tokenizer *t = parse_good(small);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint32_t *ids = NULL;
        size_t n = 0;
        fs_detail detail = {0};
        char offset[32];
        snprintf(offset, sizeof(offset), "at byte %zu", bad[i].offset);
        assert_int_equal(fs_tokenizer_encode(t, bad[i].text, strlen(bad[i].text), true, &ids, &n, &detail),
                         FS_INVALID);
        assert_null(ids);
        assert_non_null(strstr(detail.text, offset));
    }
    check(t, "", true, 0, NULL);
    fs_tokenizer_destroy(t);
}

static void pieces_are_bytes_and_specials_are_none(void **state)
{
    const uint8_t *bytes;
    size_t size;
    bool special;
    fs_tokenizer *t = parse_good(small);
    assert_int_equal(fs_tokenizer_vocab_size(t), 6);
    assert_int_equal(fs_tokenizer_piece(t, 4, &bytes, &size, &special), FS_OK);
    assert_true(size == 3 && memcmp(bytes, " ab", 3) == 0 && !special);
    assert_int_equal(fs_tokenizer_piece(t, 5, &bytes, &size, &special), FS_OK);
    assert_true(size == 0 && special);
    assert_int_equal(fs_tokenizer_piece(t, 6, &bytes, &size, &special), FS_INVALID);
    assert_int_equal(fs_tokenizer_piece(t, UINT32_MAX, &bytes, &size, &special), FS_INVALID);
    fs_tokenizer_destroy(t);
}

static fs_tokenizer *demo(void)
{
    fs_tokenizer *t = NULL;
    fs_detail detail = {0};
    if (fs_tokenizer_load(FS_SOURCE_DIR "/models/demo", &t, &detail) != FS_OK) fail_msg("%s", detail.text);
    return t;
}

static void a_full_buffer_changes_nothing(void **state)
{
    fs_tokenizer *t = demo();
    fs_detokenizer d = {0}, before;
    char text[64];
    size_t size;
    uint32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(fs_tokenizer_encode(t, "\xf0\x9f\x91\x8dz", 5, false, &ids, &n, NULL), FS_OK);
    for (size_t i = 0; i + 1 < n; i++) {
        before = d;
        fs_status st = fs_detokenizer_next(&d, t, ids[i], text, 0, &size);
        assert_true(st == (size ? FS_EXHAUSTED : FS_OK));
        if (st == FS_EXHAUSTED) {
            assert_memory_equal(&d, &before, sizeof(d));
            assert_int_equal(fs_detokenizer_next(&d, t, ids[i], text, size, &size), FS_OK);
        }
    }
    assert_int_equal(fs_detokenizer_next(&d, t, fs_tokenizer_vocab_size(t), text, 64, &size), FS_INVALID);
    free(ids);
    fs_tokenizer_destroy(t);
}

static void what_is_held_at_the_end_is_one_replacement(void **state)
{
    fs_detokenizer d = {{0xf0, 0x9f, 0x91}, 3};
    char text[FS_DETOKENIZER_EXTRA];
    assert_int_equal(fs_detokenizer_finish(&d, text), 3);
    assert_memory_equal(text, "\xef\xbf\xbd", 3);
    assert_int_equal(fs_detokenizer_finish(&d, text), 0);
}

/* One word of a megabyte, of letters, blanks, marks in the wrong order: each would take hours if it were
 * quadratic. */
static void long_words_end(void **state)
{
    static const char *const units[] = {"a", "the", " ", "\xcc\x80\xcc\xa3", "<|endoftext|", "\xe6\x97\xa5",
                                        "\n"};
    enum { size = 1 << 20 };
    fs_tokenizer *tokenizers[2] = {demo(), NULL};
    json_t *root = json_load_file(FS_SOURCE_DIR "/models/demo/tokenizer.json", 0, NULL);
    json_object_set_new(root, "normalizer", json_pack("{s:s}", "type", "NFC"));
    json_object_set_new(json_object_get(root, "pre_tokenizer"), "use_regex", json_false());
    char *json = json_dumps(root, 0), *text = malloc(size);
    tokenizers[1] = parse_good(json);
    for (size_t i = 0; i < 2 * sizeof(units) / sizeof(units[0]); i++) {
        size_t unit = strlen(units[i / 2]), whole = size / unit * unit, n = 0;
        uint32_t *ids = NULL;
        for (size_t at = 0; at < whole; at++) text[at] = units[i / 2][at % unit];
        assert_int_equal(fs_tokenizer_encode(tokenizers[i % 2], text, whole, false, &ids, &n, NULL), FS_OK);
        assert_true(n > 0);
        free(ids);
    }
    fs_tokenizer_destroy(tokenizers[0]);
    fs_tokenizer_destroy(tokenizers[1]);
    json_decref(root);
    free(json);
    free(text);
}

typedef struct {
    const fs_tokenizer *t;
    size_t count[8];
} thread_job;

static void *encode_often(void *arg)
{
    thread_job *job = arg;
    for (size_t i = 0; i < 8; i++) {
        static const char text[] = "Once upon a time <|endoftext|> there was a tokenizer.";
        uint32_t *ids = NULL;
        if (fs_tokenizer_encode(job->t, text, sizeof(text) - 1, true, &ids, &job->count[i], NULL) != FS_OK)
            return NULL;
        free(ids);
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    fs_tokenizer *t = demo();
    pthread_t threads[4];
    thread_job jobs[4] = {{t, {0}}, {t, {0}}, {t, {0}}, {t, {0}}};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &jobs[i]), 0);
    for (size_t i = 0; i < 4; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (size_t i = 0; i < 4; i++) assert_memory_equal(jobs[i].count, jobs[0].count, sizeof(jobs[0].count));
    assert_true(jobs[0].count[0] > 8);
    fs_tokenizer_destroy(t);
}

static void a_missing_file_is_not_found(void **state)
{
    fs_tokenizer *t = NULL;
    fs_detail detail = {0};
    assert_int_equal(fs_tokenizer_load("/nowhere", &t, &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "/nowhere/tokenizer.json"));
    fs_tokenizer_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_that_are_not_dense_are_corrupt),
        cmocka_unit_test(a_merge_of_unknown_pieces_is_corrupt),
        cmocka_unit_test(wrong_types_are_invalid),
        cmocka_unit_test(what_is_not_implemented_is_named),
        cmocka_unit_test(regexes_that_pcre2_reads_otherwise_are_refused),
        cmocka_unit_test(text_cannot_forge_a_special_token),
        cmocka_unit_test(text_that_is_not_utf8_is_invalid_at_its_offset),
        cmocka_unit_test(pieces_are_bytes_and_specials_are_none),
        cmocka_unit_test(a_full_buffer_changes_nothing),
        cmocka_unit_test(what_is_held_at_the_end_is_one_replacement),
        cmocka_unit_test(long_words_end),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(a_missing_file_is_not_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
