/* tests/unit/common/base/log_test.c: the promises of log.h: what a line holds, and that nobody can forge one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <unistd.h>

#include "base/log.h"

static char text[32768];
static size_t captured;
static int saved_stderr, pipe_ends[2];

static void capture_begin(void)
{
    assert_int_equal(pipe2(pipe_ends, O_NONBLOCK), 0);
    saved_stderr = dup(2);
    dup2(pipe_ends[1], 2);
}

/* What was written since, in text. */
static size_t capture_end(void)
{
    dup2(saved_stderr, 2);
    close(saved_stderr);
    close(pipe_ends[1]);
    size_t size = 0;
    ssize_t n;
    while ((n = read(pipe_ends[0], text + size, sizeof text - 1 - size)) > 0) size += (size_t)n;
    text[size] = 0;
    close(pipe_ends[0]);
    return size;
}

#define CAPTURE(call)                                                                                        \
    do {                                                                                                     \
        capture_begin();                                                                                     \
        call;                                                                                                \
        captured = capture_end();                                                                            \
    } while (0)

static int num_lines(void)
{
    int n = 0;
    for (const char *p = text; *p; p++) n += *p == '\n';
    return n;
}

static json_t *parse_line(void)
{
    json_error_t error;
    json_t *line = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!line) fail_msg("not JSON: %s in %s", error.text, text);
    return line;
}

static void a_line_has_its_fields_in_order(void **state)
{
    fs_log_init(FS_LOG_INFO, FS_LOG_LOGFMT, "router", "r1");
    CAPTURE(fs_log_write(FS_LOG_WARN, "node_lost", "node=%u epoch=%" PRIu64 " ratio=%.2f cause=%s", 3u,
                         UINT64_MAX, 0.5, "gone"));
    assert_memory_equal(text, "time=20", 7);
    assert_non_null(
        strstr(text, "Z level=warn process=router name=r1 event=node_lost node=3 epoch=18446744073709551615 "
                     "ratio=0.50 cause=gone\n"));
}

static void json_lines_hold_numbers_as_numbers(void **state)
{
    fs_log_init(FS_LOG_INFO, FS_LOG_JSON, "router", "");
    CAPTURE(fs_log_write(FS_LOG_INFO, "e",
                         "n=%d big=%zu f=%g s=%s inf=%f ip=%d.%d hex=%#x c=%c pad=%03d p=100%%", -4,
                         (size_t)7, 1e300, "1", 1.0 / 0.0, 1, 2, 255, 'z', 5));
    json_t *line = parse_line();
    assert_int_equal(json_integer_value(json_object_get(line, "n")), -4);
    assert_int_equal(json_integer_value(json_object_get(line, "big")), 7);
    assert_true(json_is_real(json_object_get(line, "f")));
    assert_string_equal(json_string_value(json_object_get(line, "s")), "1");
    assert_string_equal(json_string_value(json_object_get(line, "inf")), "inf");
    assert_string_equal(json_string_value(json_object_get(line, "hex")), "0xff");
    assert_string_equal(json_string_value(json_object_get(line, "c")), "z");
    assert_string_equal(json_string_value(json_object_get(line, "pad")), "005");
    assert_string_equal(json_string_value(json_object_get(line, "p")), "100%");
    assert_null(json_object_get(line, "name"));
    json_decref(line);
}

static const char evil[] =
    "x\" admin=true\nlevel=error event=forged \\ \x1b[31m \xc2\x85 \xe2\x80\xa8 \xff \xc0\xaf z";

static void text_from_outside_cannot_forge_a_line_or_a_field(void **state)
{
    static const char *const formats[] = {"who=%s next=%d", "who=\"%s\" next=%d"};
    for (int i = 0; i < 2; i++) {
        fs_log_init(FS_LOG_INFO, FS_LOG_LOGFMT, "p", "");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        CAPTURE(fs_log_write(FS_LOG_INFO, "e", formats[i], evil, 1));
#pragma GCC diagnostic pop
        assert_int_equal(num_lines(), 1);
        assert_null(strchr(text, 0x1b));
        assert_null(strstr(text, "\xc2\x85"));
        assert_null(strstr(text, "\xe2\x80\xa8"));
        assert_null(strchr(text, '\xff'));
        assert_non_null(strstr(
            text, "event=e who=\"x\\\" admin=true\\nlevel=error event=forged \\\\ \\u001b[31m \\u0085"));
        assert_non_null(strstr(text, " z\" next=1\n"));
    }
}

static void json_escapes_come_back_as_the_text(void **state)
{
    fs_log_init(FS_LOG_INFO, FS_LOG_JSON, "p", "");
    CAPTURE(fs_log_write(FS_LOG_INFO, "e", "who=%s ok=\"%s\"", evil, "tschüs \"日本\" \t"));
    assert_int_equal(num_lines(), 1);
    json_t *line = parse_line();
    const char *who = json_string_value(json_object_get(line, "who"));
    assert_memory_equal(who, evil, 40);
    assert_non_null(strstr(who, "\xef\xbf\xbd")); /* what was not UTF-8 */
    assert_string_equal(json_string_value(json_object_get(line, "ok")), "tschüs \"日本\" \t");
    json_decref(line);
}

static void a_quoted_value_may_be_made_of_several_parts(void **state)
{
    fs_log_init(FS_LOG_INFO, FS_LOG_LOGFMT, "p", "");
    const char *volatile nothing = NULL; /* the compiler must not know */
    CAPTURE(fs_log_write(FS_LOG_INFO, "e", "why=\"%s of %d\" at=%s:%d empty=%s null=%s cut=%.*s done", "3 b",
                         7, "h", 80, "", nothing, 2, "abc"));
    assert_non_null(strstr(text, " why=\"3 b of 7\" at=h:80 empty=\"\" null=(null) cut=ab note=done\n"));
}

static void long_lines_are_cut_but_whole(void **state)
{
    static char long_text[20000];
    memset(long_text, '"', sizeof long_text - 1);
    for (fs_log_format format = FS_LOG_LOGFMT; format <= FS_LOG_JSON; format++) {
        fs_log_init(FS_LOG_INFO, format, "p", "");
        CAPTURE(fs_log_write(FS_LOG_INFO, "e", "a=%d b=%s c=%s d=%d e=%s", 1, long_text, long_text, 2,
                             long_text));
        assert_true(captured <= 4096);
        assert_true(captured > 3000);
        assert_int_equal(num_lines(), 1);
        assert_int_equal(text[captured - 1], '\n');
        if (format == FS_LOG_JSON) json_decref(parse_line());
    }
}

static void every_length_gives_a_whole_json_line(void **state)
{
    static char filler[4200];
    fs_log_init(FS_LOG_INFO, FS_LOG_JSON, "p", "");
    for (int n = 1900; n < 2100; n++) {
        memset(filler, 'a', sizeof filler);
        filler[n] = 0;
        CAPTURE(fs_log_write(FS_LOG_INFO, "e", "b=%s c=%s d=%d quite_a_long_key=%d f=%s", filler, filler,
                             123456789, 7, "x\n"));
        assert_true(captured <= 4096);
        json_decref(parse_line());
    }
}

static void levels_are_filtered(void **state)
{
    fs_log_init(FS_LOG_WARN, FS_LOG_LOGFMT, "p", "");
    CAPTURE(fs_log_info("e", "a=%d", 1));
    assert_int_equal(captured, 0);
    CAPTURE(fs_log_warn("e", "a=%d", 1));
    assert_int_not_equal(captured, 0);
    CAPTURE(fs_log_error("e", "a=%d", 1));
    assert_int_not_equal(captured, 0);
    fs_log_init(FS_LOG_OFF, FS_LOG_LOGFMT, "p", "");
    CAPTURE(fs_log_error("e", "a=%d", 1));
    assert_int_equal(captured, 0);
}

static void words_are_parsed(void **state)
{
    fs_log_level level;
    fs_log_format format;
    assert_int_equal(fs_log_parse_level("debug", &level), FS_OK);
    assert_int_equal(level, FS_LOG_DEBUG);
    assert_int_equal(fs_log_parse_level("off", &level), FS_OK);
    assert_int_equal(level, FS_LOG_OFF);
    assert_int_equal(fs_log_parse_level("loud", &level), FS_INVALID);
    assert_int_equal(fs_log_parse_format("json", &format), FS_OK);
    assert_int_equal(format, FS_LOG_JSON);
    assert_int_equal(fs_log_parse_format("", &format), FS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_its_fields_in_order),
        cmocka_unit_test(json_lines_hold_numbers_as_numbers),
        cmocka_unit_test(text_from_outside_cannot_forge_a_line_or_a_field),
        cmocka_unit_test(json_escapes_come_back_as_the_text),
        cmocka_unit_test(a_quoted_value_may_be_made_of_several_parts),
        cmocka_unit_test(long_lines_are_cut_but_whole),
        cmocka_unit_test(every_length_gives_a_whole_json_line),
        cmocka_unit_test(levels_are_filtered),
        cmocka_unit_test(words_are_parsed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
