/* What the subcommands' options promise: repeated ones, lists, and ones that may be left out; errors name the option. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/cli.h"

/* argv of up to 15 words, as main would have it. */
typedef struct {
    char *word[16];
    int count;
} words;

static words split(char *text)
{
    words w = {0};
    for (char *at = strtok(text, " "); at; at = strtok(NULL, " ")) w.word[w.count++] = at;
    return w;
}

static void repeated_options_are_taken_in_order_and_the_rest_stays(void **state)
{
    char text[] = "generate --stop one --prompt x --stop=two --stop --json --json -- --stop three";
    words w = split(text);
    const char *values[4];
    uint32_t count;
    assert_int_equal(fs_cli_take_repeated("stop", &w.count, w.word, values, 4, &count, NULL), FS_OK);
    assert_int_equal(count, 3);
    assert_string_equal(values[0], "one");
    assert_string_equal(values[1], "two");
    assert_string_equal(values[2], "--json"); /* a value may look like an option */
    const char *const rest[] = {"generate", "--prompt", "x", "--json", "--", "--stop", "three"};
    assert_int_equal(w.count, 7);
    for (int i = 0; i < 7; i++) assert_string_equal(w.word[i], rest[i]);
    assert_null(w.word[7]);
}

static void a_name_that_only_begins_alike_is_another_option(void **state)
{
    char text[] = "generate --stopping 5 --stop=";
    words w = split(text);
    const char *values[4];
    uint32_t count;
    assert_int_equal(fs_cli_take_repeated("stop", &w.count, w.word, values, 4, &count, NULL), FS_OK);
    assert_int_equal(count, 1);
    assert_string_equal(values[0], "");
    assert_int_equal(w.count, 3);
}

static void a_missing_value_and_too_many_are_refused(void **state)
{
    char missing[] = "generate --stop", many[] = "generate --stop a --stop b --stop c";
    words w = split(missing);
    const char *values[2];
    uint32_t count;
    fs_detail detail = {0};
    assert_int_equal(fs_cli_take_repeated("stop", &w.count, w.word, values, 2, &count, &detail), FS_INVALID);
    assert_string_equal(detail.text, "--stop: needs a value");
    w = split(many);
    assert_int_equal(fs_cli_take_repeated("stop", &w.count, w.word, values, 2, &count, &detail), FS_INVALID);
    assert_string_equal(detail.text, "--stop: given more than 2 times");
}

static void lists_are_whole_numbers_within_their_range(void **state)
{
    uint32_t values[3], count = 0;
    assert_int_equal(fs_cli_parse_list("streams", "1,8,32", 1, 100, values, 3, &count, NULL), FS_OK);
    assert_int_equal(count, 3);
    assert_int_equal(values[2], 32);
    static const char *const bad[] = {"",     ",",  "1,", ",1", "1,,2", "0",       "101",
                                      "1 ,2", "-1", "+1", "1x", "1.5",  "1,2,3,4", "99999999999999999999999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        fs_detail detail = {0};
        assert_int_equal(fs_cli_parse_list("streams", bad[i], 1, 100, values, 3, &count, &detail),
                         FS_INVALID);
        assert_memory_equal(detail.text, "--streams: ", 11);
    }
}

static void what_is_left_out_stays_unset(void **state)
{
    float f = 5;
    uint64_t u = 6;
    bool set = false;
    assert_int_equal(fs_cli_optional_float("top-p", NULL, &f, &set, NULL), FS_OK);
    assert_int_equal(fs_cli_optional_u64("seed", NULL, UINT64_MAX, &u, &set, NULL), FS_OK);
    assert_false(set);
    assert_true(f == 5 && u == 6);
}

static void numbers_that_are_none_are_named(void **state)
{
    float f = 0;
    uint64_t u = 0;
    bool set = false;
    assert_int_equal(fs_cli_optional_float("top-p", "0.25", &f, &set, NULL), FS_OK);
    assert_true(set && f == 0.25f);
    assert_int_equal(fs_cli_optional_u64("seed", "18446744073709551615", UINT64_MAX, &u, &set, NULL), FS_OK);
    assert_true(u == UINT64_MAX);
    static const char *const bad_float[] = {"", "x", "1x", "nan", "inf", "1e99"};
    static const char *const bad_u64[] = {"", "-1", "1.5", "1K", "99999999999999999999"};
    for (size_t i = 0; i < sizeof(bad_float) / sizeof(*bad_float); i++) {
        fs_detail detail = {0};
        assert_int_equal(fs_cli_optional_float("top-p", bad_float[i], &f, &set, &detail), FS_INVALID);
        assert_memory_equal(detail.text, "--top-p: ", 9);
    }
    for (size_t i = 0; i < sizeof(bad_u64) / sizeof(*bad_u64); i++) {
        fs_detail detail = {0};
        assert_int_equal(fs_cli_optional_u64("seed", bad_u64[i], UINT64_MAX, &u, &set, &detail), FS_INVALID);
        assert_memory_equal(detail.text, "--seed: ", 8);
    }
    fs_detail detail = {0};
    assert_int_equal(fs_cli_optional_u64("top-k", "4294967296", UINT32_MAX, &u, &set, &detail), FS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repeated_options_are_taken_in_order_and_the_rest_stays),
        cmocka_unit_test(a_name_that_only_begins_alike_is_another_option),
        cmocka_unit_test(a_missing_value_and_too_many_are_refused),
        cmocka_unit_test(lists_are_whole_numbers_within_their_range),
        cmocka_unit_test(what_is_left_out_stays_unset),
        cmocka_unit_test(numbers_that_are_none_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
