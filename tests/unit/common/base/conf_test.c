/* tests/unit/common/base/conf_test.c: the promises of conf.h: sources and their order, and what each error says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/conf.h"

typedef struct {
    fs_conf_common common;
    const char *listen, *token, *model;
    uint32_t threads, mode;
    uint64_t cache_bytes;
    int64_t timeout_ns;
    double ratio;
    bool verbose;
} test_conf;

static const fs_conf_option options[] = {
    FS_CONF_COMMON(test_conf, common),
    {.name = "listen",
     .type = FS_CONF_STRING,
     .offset = offsetof(test_conf, listen),
     .default_text = "127.0.0.1:50051",
     .help = "Where clients connect.",
     .value_name = "ADDR"},
    {.name = "token",
     .type = FS_CONF_STRING,
     .offset = offsetof(test_conf, token),
     .secret = true,
     .help = "The key."},
    {.name = "model",
     .type = FS_CONF_STRING,
     .offset = offsetof(test_conf, model),
     .required = true,
     .short_name = 'm',
     .help = "The model's folder."},
    {.name = "threads",
     .type = FS_CONF_U32,
     .offset = offsetof(test_conf, threads),
     .default_text = "4",
     .min = 1,
     .max = 64,
     .help = "How many threads."},
    {.name = "mode",
     .type = FS_CONF_ENUM,
     .offset = offsetof(test_conf, mode),
     .default_text = "fast",
     .words = "safe|fast|free",
     .help = "Which mode."},
    {.name = "cache-bytes",
     .type = FS_CONF_BYTES,
     .offset = offsetof(test_conf, cache_bytes),
     .default_text = "64MiB",
     .help = "How much is kept."},
    {.name = "timeout",
     .type = FS_CONF_DURATION,
     .offset = offsetof(test_conf, timeout_ns),
     .default_text = "1.5s",
     .min = 1000000,
     .max = 3600000000000,
     .help = "How long."},
    {.name = "ratio",
     .type = FS_CONF_FLOAT,
     .offset = offsetof(test_conf, ratio),
     .default_text = "0.1",
     .fmin = -1,
     .fmax = 1,
     .help = "How much of it."},
    {.name = "verbose",
     .type = FS_CONF_BOOL,
     .offset = offsetof(test_conf, verbose),
     .short_name = 'v',
     .help = "Say more."},
    {0},
};
static const fs_conf_spec spec = {"tester", "Tests the table.", NULL, options};

enum { MAX_ARGS = 12 };
static char file_path[64];
static char printed[16384];

/* What a load gave. */
typedef struct {
    fs_status st;
    fs_conf_outcome outcome;
    fs_conf *conf;
    test_conf values;
    fs_detail detail;
} loaded;

static loaded load_spec(const fs_conf_spec *which, char **args, char **environment, const char **words)
{
    loaded l = {.st = FS_OK, .outcome = FS_CONF_RUN};
    int argc = 0;
    while (args[argc]) argc++;
    FILE *out = fmemopen(printed, sizeof printed, "w");
    memset(printed, 0, sizeof printed);
    l.st = fs_conf_load(which, argc, args, environment, &l.values, words, &l.conf, &l.outcome, out,
                        &l.detail);
    fclose(out);
    return l;
}

#define ARGS(...) ((char *[MAX_ARGS]){"tester", __VA_ARGS__})
#define ENV(...)  ((char *[MAX_ARGS]){"HOME=/", __VA_ARGS__})
#define NO_ENV    ((char *[]){NULL})

/* Loads a YAML file of that text. */
static loaded load_yaml(const char *text, size_t size)
{
    strcpy(file_path, "/tmp/fs-conf-XXXXXX");
    int fd = mkstemp(file_path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, size), size);
    close(fd);
    loaded l = load_spec(&spec, ARGS("--config", file_path), NO_ENV, NULL);
    unlink(file_path);
    return l;
}

static void expect_error(const loaded *l, fs_status st, const char *text)
{
    if (l->st != st || !strstr(l->detail.text, text))
        fail_msg("got %s: '%s', not '%s'", fs_status_name(l->st), l->detail.text, text);
    assert_null(l->conf);
    assert_null(l->values.listen); /* nothing points into freed memory */
}

/* The detail must be exactly ":LINE: message" behind the file's name. */
static void expect_yaml_error(const char *text, const char *message)
{
    char whole[600];
    loaded l = load_yaml(text, strlen(text));
    snprintf(whole, sizeof whole, "%s:%s", file_path, message);
    expect_error(&l, FS_INVALID, whole);
}

static void expect_flag_error(char **args, const char *message)
{
    loaded l = load_spec(&spec, args, NO_ENV, NULL);
    expect_error(&l, FS_INVALID, message);
}

static void defaults_are_parsed(void **state)
{
    loaded l = load_spec(&spec, ARGS("-m", "dir"), NO_ENV, NULL);
    assert_int_equal(l.st, FS_OK);
    assert_int_equal(l.outcome, FS_CONF_RUN);
    assert_string_equal(l.values.listen, "127.0.0.1:50051");
    assert_null(l.values.token);
    assert_int_equal(l.values.threads, 4);
    assert_int_equal(l.values.mode, 1);
    assert_int_equal(l.values.cache_bytes, 64 << 20);
    assert_int_equal(l.values.timeout_ns, 1500000000);
    assert_true(l.values.ratio == 0.1);
    assert_false(l.values.verbose);
    assert_int_equal(l.values.common.log_level, 2);
    fs_conf_destroy(l.conf);
    fs_conf_destroy(NULL);
}

static void later_sources_win(void **state)
{
    char path[] = "/tmp/fs-conf-XXXXXX", variable[64];
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    fputs("# comment\nmodel: from-file\nthreads: 5\ncache_bytes: 1KiB\nlisten: 'file: x'\nlog-format: json\n",
          file);
    fclose(file);
    snprintf(variable, sizeof variable, "FORESIGHT_CONFIG=%s", path);
    loaded l = load_spec(
        &spec, ARGS("--threads=7"),
        ENV(variable, "FORESIGHT_THREADS=6", "FORESIGHT_CACHE_BYTES=2K", "FORESIGHT_OTHER=1"), NULL);
    unlink(path);
    assert_int_equal(l.st, FS_OK);
    assert_string_equal(l.values.model, "from-file");
    assert_string_equal(l.values.listen, "file: x");
    assert_int_equal(l.values.cache_bytes, 2048);
    assert_int_equal(l.values.threads, 7);
    assert_int_equal(l.values.common.log_format, 1);
    fs_conf_destroy(l.conf);
}

static void strings_are_copied_from_every_source(void **state)
{
    char arg[] = "abc", variable[] = "FORESIGHT_TOKEN=def";
    loaded l = load_spec(&spec, ARGS("-m", arg), ENV(variable), NULL);
    assert_int_equal(l.st, FS_OK);
    memset(arg, 'x', 3);
    memset(variable, 'x', sizeof variable - 1);
    assert_string_equal(l.values.model, "abc");
    assert_string_equal(l.values.token, "def");
    fs_conf_destroy(l.conf);
}

static void flags_have_several_forms(void **state)
{
    loaded l = load_spec(
        &spec, ARGS("-mdir", "-v", "--cache_bytes=1", "--timeout", "2m", "--no-verbose", "--ratio", "-1"),
        NO_ENV, NULL);
    assert_int_equal(l.st, FS_OK);
    assert_string_equal(l.values.model, "dir");
    assert_false(l.values.verbose);
    assert_int_equal(l.values.cache_bytes, 1);
    assert_int_equal(l.values.timeout_ns, 120 * FS_NS_PER_S);
    assert_true(l.values.ratio == -1);
    fs_conf_destroy(l.conf);
}

static void words_are_counted(void **state)
{
    static const fs_conf_spec with_words = {"tester", "x", "IN OUT", options};
    const char *words[2] = {NULL, NULL};
    loaded l = load_spec(&with_words, ARGS("a", "-m", "d", "--", "--b"), NO_ENV, words);
    assert_int_equal(l.st, FS_OK);
    assert_string_equal(words[0], "a");
    assert_string_equal(words[1], "--b");
    fs_conf_destroy(l.conf);
    l = load_spec(&with_words, ARGS("-m", "d", "a"), NO_ENV, words);
    expect_error(&l, FS_INVALID, "tester needs 2 words (IN OUT), not 1");
    l = load_spec(&with_words, ARGS("-m", "d", "a", "b", "c"), NO_ENV, words);
    expect_error(&l, FS_INVALID, "not 3");
    expect_flag_error(ARGS("-m", "d", "a"), "tester takes options only");
}

static void yaml_errors_name_file_and_line(void **state)
{
    expect_yaml_error("model: d\n\nlissten: x\n", "3: unknown key 'lissten' (did you mean 'listen'?)");
    expect_yaml_error("model: d\nqqqq: x\n", "2: unknown key 'qqqq'");
    expect_yaml_error("threads: 1\nmodel: d\nthreads: 2\n", "3: duplicate key 'threads'");
    expect_yaml_error("cache-bytes: 1\ncache_bytes: 2\n", "2: duplicate key 'cache_bytes'");
    expect_yaml_error("model: d\nthreads: many\n", "2: threads: 'many' is not a whole number");
    expect_yaml_error("threads: 99999999999999999999\n",
                      "1: threads: '99999999999999999999' is out of range (1 to 64)");
    expect_yaml_error("ratio: .nan\n", "1: ratio: '.nan' is not a number");
    expect_yaml_error("mode: quick\n", "1: mode: 'quick' is not one of safe|fast|free");
    expect_yaml_error("listen:\n  host: x\n", "2: listen: must be a single value");
    expect_yaml_error("listen: [a, b]\n", "1: listen: must be a single value");
    expect_yaml_error("listen:\n", "1: listen: has no value");
    expect_yaml_error("listen: ~\n", "1: listen: has no value");
    expect_yaml_error("listen: \"a\\0b\"\n", "1: listen: must be a single value");
    expect_yaml_error("listen: &a x\ntoken: *a\n", "1: listen: must be a single value");
    expect_yaml_error("[a]: x\n", "1: a key must be one word");
    expect_yaml_error("- a\n", "1: must be a map");
    expect_yaml_error("just text\n", "1: must be a map");
    expect_yaml_error("model: d\n---\nthreads: 2\n", "2: a second document");
    expect_yaml_error("model: d\nthreads: \"1\n", "");
    expect_yaml_error("model: 'a\n", "");
    expect_yaml_error("a: b: c\n", "1: ");
    expect_yaml_error("model: \xff\xfe\n", "1: ");
}

static void empty_yaml_files_say_nothing(void **state)
{
    static const char *const texts[] = {"", "\n", "# only a comment\n", "---\n", "---\n...\n", "{}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        loaded l = load_yaml(texts[i], strlen(texts[i]));
        expect_error(&l, FS_INVALID,
                     "--model: is required (or FORESIGHT_MODEL"); /* so the file itself was fine */
    }
}

static void every_cut_of_a_yaml_file_is_an_answer(void **state)
{
    static const char text[] = "model: \"d\\u00e9\"\nthreads: 3\n? listen\n: |\n  a\n  b\nratio: 1e-3 # x\n";
    for (size_t n = 0; n < sizeof text; n++) {
        loaded l = load_yaml(text, n);
        assert_true(l.st == FS_OK || l.st == FS_INVALID);
        fs_conf_destroy(l.conf);
    }
}

static void a_file_that_is_not_there_is_named(void **state)
{
    loaded l = load_spec(&spec, ARGS("-m", "d", "--config", "/nonexistent.yaml"), NO_ENV, NULL);
    expect_error(&l, FS_NOT_FOUND, "/nonexistent.yaml: ");
    l = load_spec(&spec, ARGS("-m", "d", "--config", "/tmp"), NO_ENV, NULL);
    expect_error(&l, FS_IO, "/tmp: ");
    l = load_spec(&spec, ARGS("-m", "d"), ENV("FORESIGHT_CONFIG="), NULL);
    assert_int_equal(l.st, FS_OK);
    fs_conf_destroy(l.conf);
}

static void flag_errors_name_the_flag(void **state)
{
    expect_flag_error(ARGS("--thraeds", "4"), "unknown option '--thraeds' (did you mean '--threads'?)");
    expect_flag_error(ARGS("--hlep"), "(did you mean '--help'?)");
    expect_flag_error(ARGS("--threads", "0"), "--threads: '0' is out of range (1 to 64)");
    expect_flag_error(ARGS("--threads=-1"), "--threads: '-1' is not a whole number");
    expect_flag_error(ARGS("--threads="), "--threads: '' is not a whole number");
    expect_flag_error(ARGS("--threads"), "--threads: needs a value");
    expect_flag_error(ARGS("--no-threads"), "unknown option '--no-threads'");
    expect_flag_error(ARGS("--config"), "--config: needs a value");
    expect_flag_error(ARGS("--verbose=maybe"), "--verbose: 'maybe' is not true or false");
    expect_flag_error(ARGS("--version=1"), "--version: takes no value");
    expect_flag_error(ARGS("-x"), "unknown option '-x'");
    expect_flag_error(ARGS("-vx"), "-v: takes no value");
    expect_flag_error(ARGS("--timeout", "2h"), "--timeout: '2h' is out of range (1ms to 1h)");
    expect_flag_error(ARGS("--ratio", "1.5"), "--ratio: '1.5' is out of range (-1 to 1)");
    loaded l = load_spec(&spec, ARGS("-m", "d"), ENV("FORESIGHT_THREADS=x"), NULL);
    expect_error(&l, FS_INVALID, "FORESIGHT_THREADS: 'x' is not a whole number");
}

/* One value through fs_conf_parse_value. */
static bool parses(fs_conf_type type, const char *text, void *field)
{
    const fs_conf_option option = {.name = "x", .type = type, .words = "a|bc|"};
    fs_detail detail = {{0}};
    fs_status st = fs_conf_parse_value(&option, text, field, &detail);
    assert_true(st == FS_OK || (st == FS_INVALID && detail.text[0]));
    return st == FS_OK;
}

static void numbers_are_read_to_their_ends_and_no_further(void **state)
{
    uint32_t u = 7;
    assert_true(parses(FS_CONF_U32, "4294967295", &u) && u == UINT32_MAX);
    static const char *const bad[] = {
        "4294967296", "99999999999999999999999", "-1", "+1", " 1", "1 ", "0x10", "1.0", "", "1e3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(parses(FS_CONF_U32, bad[i], &u));
    assert_int_equal(u, UINT32_MAX); /* untouched */
}

static void bytes_have_binary_units(void **state)
{
    uint64_t b = 0;
    assert_true(parses(FS_CONF_BYTES, "0", &b) && b == 0);
    assert_true(parses(FS_CONF_BYTES, "3GiB", &b) && b == 3ull << 30);
    assert_true(parses(FS_CONF_BYTES, "3T", &b) && b == 3ull << 40);
    assert_true(parses(FS_CONF_BYTES, "18446744073709551615", &b) && b == UINT64_MAX);
    assert_true(parses(FS_CONF_BYTES, "16777215TiB", &b));
    static const char *const bad[] = {
        "16777216TiB", "18446744073709551616", "1.5G", "1kb", "1 G", "GiB", "-1", "", "1GiBx", "1g"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(parses(FS_CONF_BYTES, bad[i], &b));
}

static void durations_are_exact(void **state)
{
    int64_t d = 0;
    assert_true(parses(FS_CONF_DURATION, "250us", &d) && d == 250000);
    assert_true(parses(FS_CONF_DURATION, "1.5s", &d) && d == 1500000000);
    assert_true(parses(FS_CONF_DURATION, "0.000000001s", &d) && d == 1);
    assert_true(parses(FS_CONF_DURATION, "0.1h", &d) && d == 360 * FS_NS_PER_S);
    assert_true(parses(FS_CONF_DURATION, "1.50000000000000000s", &d) && d == 1500000000);
    assert_true(parses(FS_CONF_DURATION, "0", &d) && d == 0);
    assert_true(parses(FS_CONF_DURATION, "9223372036854775807ns", &d) && d == INT64_MAX);
    static const char *const bad[] = {"9223372036854775808ns",
                                      "18446744073709551615ns",
                                      "99999999999h",
                                      "1",
                                      "1.s",
                                      ".5s",
                                      "1.5.5s",
                                      "-1s",
                                      "1.0000000001s",
                                      "s",
                                      "",
                                      "1 s",
                                      "1d",
                                      "nan",
                                      "18446744073.709551615s",
                                      "1e3s"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(parses(FS_CONF_DURATION, bad[i], &d));
}

static void floats_are_finite(void **state)
{
    double f = 0;
    assert_true(parses(FS_CONF_FLOAT, "-1.5e-3", &f) && f == -1.5e-3);
    assert_true(parses(FS_CONF_FLOAT, "7", &f) && f == 7);
    static const char *const bad[] = {"nan", "NaN", "inf", "-inf", "1e999", "-1e999", "0x1p3",
                                      "",    "1,5", "1e",  "--1",  "1 ",    "e"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(parses(FS_CONF_FLOAT, bad[i], &f));
    assert_true(f == 7);
}

static void words_are_whole_words(void **state)
{
    uint32_t e = 9;
    bool b = false;
    assert_true(parses(FS_CONF_ENUM, "bc", &e) && e == 1);
    assert_false(parses(FS_CONF_ENUM, "b", &e));
    assert_false(parses(FS_CONF_ENUM, "a|bc", &e));
    assert_false(parses(FS_CONF_ENUM, "", &e));
    assert_true(parses(FS_CONF_BOOL, "on", &b) && b);
    assert_true(parses(FS_CONF_BOOL, "no", &b) && !b);
    assert_false(parses(FS_CONF_BOOL, "1", &b));
}

static void help_names_every_option(void **state)
{
    loaded l = load_spec(&spec, ARGS("--threads", "x", "--nonsense", "-h"), NO_ENV, NULL);
    expect_error(&l, FS_INVALID, "--nonsense"); /* what stands before --help is still an error */
    l = load_spec(&spec, ARGS("--threads", "x", "--help"), NO_ENV, NULL);
    assert_int_equal(l.st, FS_OK);
    assert_int_equal(l.outcome, FS_CONF_EXIT);
    assert_non_null(strstr(printed, "Usage: tester [options]\n"));
    for (const fs_conf_option *o = options; o->name; o++) assert_non_null(strstr(printed, o->name));
    assert_non_null(strstr(printed, "-m, --model TEXT"));
    assert_non_null(strstr(printed, "--listen ADDR"));
    assert_non_null(strstr(printed, "[64MiB]"));
    l = load_spec(&spec, ARGS("--version"), NO_ENV, NULL);
    assert_int_equal(l.outcome, FS_CONF_EXIT);
    assert_memory_equal(printed, "tester ", 7);
}

static void the_printed_configuration_reads_back_the_same(void **state)
{
    loaded l = load_spec(&spec,
                         ARGS("-m", "a \"b\" \\ \n\x01 \xc3\xa9", "--token", "s3cret", "--timeout", "90m",
                              "--ratio", "0.30000000000000004", "-v", "--print-config"),
                         NO_ENV, NULL);
    expect_error(&l, FS_INVALID, "out of range");
    l = load_spec(&spec,
                  ARGS("-m", "a \"b\" \\ \n\x01 \xc3\xa9", "--timeout", "1500us", "--ratio",
                       "0.30000000000000004", "-v", "--cache-bytes", "0", "--print-config"),
                  NO_ENV, NULL);
    assert_int_equal(l.st, FS_OK);
    assert_int_equal(l.outcome, FS_CONF_EXIT);
    assert_non_null(strstr(printed, "timeout: 1500us\n"));
    assert_non_null(strstr(printed, "# token:\n"));
    char text[sizeof printed];
    strcpy(text, printed);
    l = load_yaml(text, strlen(text));
    if (l.st != FS_OK) fail_msg("%s\n%s", l.detail.text, text);
    assert_string_equal(l.values.model, "a \"b\" \\ \n\x01 \xc3\xa9");
    assert_int_equal(l.values.timeout_ns, 1500000);
    assert_true(l.values.ratio == 0.30000000000000004);
    assert_true(l.values.verbose);
    assert_int_equal(l.values.mode, 1);
    assert_int_equal(l.values.cache_bytes, 0);
    fs_conf_destroy(l.conf);
}

static void any_text_reads_back_from_the_printed_configuration(void **state)
{
    static const char *const texts[] = {"",
                                        " ",
                                        "~",
                                        "null",
                                        "a: b # c",
                                        "'",
                                        "- x",
                                        "a\xc2\x85 b\xe2\x80\xa8 c",
                                        "\xef\xbb\xbf\xef\xbf\xbe\xf0\x9f\x98\x80",
                                        "tab\t line\n  x\r\n",
                                        "\x7f\xc2\x9b"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        loaded l = load_spec(&spec, ARGS("-m", (char *)texts[i], "--print-config"), NO_ENV, NULL);
        assert_int_equal(l.st, FS_OK);
        char text[sizeof printed];
        strcpy(text, printed);
        l = load_yaml(text, strlen(text));
        if (l.st != FS_OK) fail_msg("%s\n%s", l.detail.text, text);
        assert_string_equal(l.values.model, texts[i]);
        fs_conf_destroy(l.conf);
    }
    loaded l = load_spec(&spec, ARGS("-m", "\xff\xc0\xaf", "--print-config"), NO_ENV, NULL);
    assert_int_equal(l.st, FS_OK);
    assert_non_null(strstr(printed, "model: \"\\ufffd\\ufffd\\ufffd\"\n")); /* YAML cannot say more */
}

static void secrets_are_not_printed(void **state)
{
    loaded l = load_spec(&spec, ARGS("-m", "d", "--token", "s3cret", "--print-config"), NO_ENV, NULL);
    assert_int_equal(l.st, FS_OK);
    assert_null(strstr(printed, "s3cret"));
    assert_non_null(strstr(printed, "token: \"***\"\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_parsed),
        cmocka_unit_test(later_sources_win),
        cmocka_unit_test(strings_are_copied_from_every_source),
        cmocka_unit_test(flags_have_several_forms),
        cmocka_unit_test(words_are_counted),
        cmocka_unit_test(yaml_errors_name_file_and_line),
        cmocka_unit_test(empty_yaml_files_say_nothing),
        cmocka_unit_test(every_cut_of_a_yaml_file_is_an_answer),
        cmocka_unit_test(a_file_that_is_not_there_is_named),
        cmocka_unit_test(flag_errors_name_the_flag),
        cmocka_unit_test(numbers_are_read_to_their_ends_and_no_further),
        cmocka_unit_test(bytes_have_binary_units),
        cmocka_unit_test(durations_are_exact),
        cmocka_unit_test(floats_are_finite),
        cmocka_unit_test(words_are_whole_words),
        cmocka_unit_test(help_names_every_option),
        cmocka_unit_test(the_printed_configuration_reads_back_the_same),
        cmocka_unit_test(any_text_reads_back_from_the_printed_configuration),
        cmocka_unit_test(secrets_are_not_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
