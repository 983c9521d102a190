/* tests/unit/router/engine/stop_test.c: stop strings in text that comes in pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "engine/stop.h"

typedef struct {
    const char *stops[4];
    const char *text, *shown;
    int matched;
} example;

static void begin(fs_stop *stop, const char *const *strings)
{
    size_t bytes[FS_MAX_STOPS];
    uint32_t num = 0;
    for (; num < 4 && strings[num]; num++) bytes[num] = strlen(strings[num]);
    fs_stop_init(stop, strings, bytes, num);
}

static void expect(const fs_buffer *out, const char *text)
{
    assert_false(out->failed);
    assert_int_equal(out->size, strlen(text));
    if (out->size) assert_memory_equal(out->data, text, out->size);
}

/* Feeds the text in pieces of at most that many bytes, ends it, and compares what was shown. */
static void run(const example *e, size_t piece)
{
    fs_stop stop;
    fs_buffer out = {0};
    bool stopped = false;
    begin(&stop, e->stops);
    for (size_t at = 0, size = strlen(e->text); at < size && !stopped; at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        stopped = fs_stop_feed(&stop, e->text + at, n, &out);
        assert_int_equal(stopped, stop.matched >= 0);
    }
    fs_stop_flush(&stop, &out);
    expect(&out, e->shown);
    assert_int_equal(stop.matched, e->matched);
    fs_stop_fini(&stop);
    fs_buffer_free(&out);
}

static void text_ends_before_the_stop_string_however_it_is_cut(void **state)
{
    static const example examples[] = {
        {{NULL}, "all of it", "all of it", -1},
        {{"###"}, "a # b ## c", "a # b ## c", -1},
        {{"###"}, "a # b ### c", "a # b ", 0},
        {{"###"}, "###", "", 0},
        {{"###"}, "ends in ##", "ends in ##", -1},
        {{"aab"}, "aaaaab", "aaa", 0}, /* a beginning within a beginning */
        {{"abcabd"}, "abcabcabd!", "abc", 0},
        {{"END", "User:"}, "hello User: END", "hello ", 1},
        {{"\n\n"}, "one\ntwo\n\nthree", "one\ntwo", 0},
        {{"。"}, "猫は。犬", "猫は", 0},
        {{"€"}, "₢ is not €", "₢ is not ", 0}, /* the same first bytes */
        {{"x"}, "", "", -1},
    };
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
        for (size_t piece = 1; piece <= 20; piece++) run(&examples[i], piece);
}

static void of_several_in_one_piece_the_earliest_counts_and_then_the_longest(void **state)
{
    static const example examples[] = {
        {{"b", "abc"}, "xabcx", "x", 1},
        {{"ab", "abc"}, "xabcx", "x", 1},
        {{"abc", "ab"}, "xabcx", "x", 0},
        {{"ab", "abc"}, "xabx", "x", 0},
        {{"late", "early"}, "an early and a late one", "an ", 1},
    };
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) run(&examples[i], 100);
}

static void what_is_certain_goes_out_at_once(void **state)
{
    const char *stops[] = {"stop!", NULL};
    fs_stop stop;
    fs_buffer out = {0};
    begin(&stop, stops);
    assert_false(fs_stop_feed(&stop, "we st", 5, &out));
    expect(&out, "we "); /* "st" may be its beginning */
    assert_false(fs_stop_feed(&stop, "op", 2, &out));
    expect(&out, "we ");
    assert_false(fs_stop_feed(&stop, "", 0, &out));
    assert_false(fs_stop_feed(&stop, "?", 1, &out));
    expect(&out, "we stop?"); /* it was not */
    assert_false(fs_stop_feed(&stop, " sto", 4, &out));
    expect(&out, "we stop? ");
    fs_stop_flush(&stop, &out);
    expect(&out, "we stop? sto");
    fs_stop_fini(&stop);
    fs_buffer_free(&out);
}

static void nothing_behind_a_stop_string_is_ever_shown(void **state)
{
    const char *stops[] = {"##", NULL};
    fs_stop stop;
    fs_buffer out = {0};
    begin(&stop, stops);
    assert_true(fs_stop_feed(&stop, "a## secret", 10, &out));
    fs_stop_flush(&stop, &out);
    expect(&out, "a");
    fs_stop_fini(&stop);
    fs_buffer_free(&out);
}

static void the_longest_stop_strings_are_found(void **state)
{
    char strings[FS_MAX_STOPS][FS_MAX_STOP_BYTES], text[2 * FS_MAX_STOP_BYTES];
    const char *pointers[FS_MAX_STOPS];
    size_t bytes[FS_MAX_STOPS];
    for (uint32_t i = 0; i < FS_MAX_STOPS; i++) {
        memset(strings[i], 'a', FS_MAX_STOP_BYTES);
        strings[i][FS_MAX_STOP_BYTES - 1] = (char)('b' + i);
        pointers[i] = strings[i];
        bytes[i] = FS_MAX_STOP_BYTES;
    }
    memset(text, 'a', sizeof text);
    fs_stop stop;
    fs_buffer out = {0};
    fs_stop_init(&stop, pointers, bytes, FS_MAX_STOPS);
    assert_false(fs_stop_feed(&stop, text, sizeof text, &out));
    assert_int_equal(stop.held.size, FS_MAX_STOP_BYTES - 1); /* no more than may be a beginning */
    assert_true(fs_stop_feed(&stop, "q", 1, &out));
    assert_int_equal(stop.matched, 'q' - 'b');
    assert_int_equal(out.size, sizeof text - (FS_MAX_STOP_BYTES - 1));
    fs_stop_fini(&stop);
    fs_buffer_free(&out);
}

/* The slow way: the whole text so far, searched again at each piece. */
static void random_pieces_agree_with_a_search_of_the_whole_text(void **state)
{
    fs_random random = {42};
    for (int round = 0; round < 20000; round++) {
        char stops[3][5], text[64];
        const char *strings[4] = {stops[0], stops[1], stops[2], NULL};
        size_t size = 0, end = 0, shown_end = 0;
        fs_stop stop;
        fs_buffer out = {0};
        for (int i = 0; i < 3; i++) {
            size_t n = 1 + fs_random_below(&random, 4);
            for (size_t j = 0; j < n; j++) stops[i][j] = (char)('a' + fs_random_below(&random, 3));
            stops[i][n] = 0;
        }
        begin(&stop, strings);
        bool stopped = false;
        while (!stopped && size < 60) {
            size_t piece = fs_random_below(&random, 4);
            for (size_t j = 0; j < piece; j++) text[size++] = (char)('a' + fs_random_below(&random, 3));
            text[size] = 0;
            stopped = fs_stop_feed(&stop, text + size - piece, piece, &out);
            end = size;
            for (int i = 0; i < 3; i++) {
                const char *found = strstr(text, stops[i]);
                if (found && (size_t)(found - text) < end) end = (size_t)(found - text);
            }
            assert_int_equal(stopped, end < size);
            if (!stopped) {
                assert_true(out.size >= shown_end); /* nothing is taken back */
                assert_true(size - out.size < 5);   /* and little held */
            }
            shown_end = out.size;
        }
        fs_stop_flush(&stop, &out);
        assert_int_equal(out.size, end);
        if (end) assert_memory_equal(out.data, text, end);
        fs_stop_fini(&stop);
        fs_buffer_free(&out);
    }
}

static void lost_memory_is_told_to_the_output(void **state)
{
    const char *stops[] = {"##", NULL};
    fs_stop stop;
    fs_buffer out = {0};
    begin(&stop, stops);
    stop.held.failed = true; /* as after a growth that failed */
    assert_false(fs_stop_feed(&stop, "a", 1, &out));
    assert_true(out.failed);
    fs_stop_fini(&stop);
    fs_buffer_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_ends_before_the_stop_string_however_it_is_cut),
        cmocka_unit_test(of_several_in_one_piece_the_earliest_counts_and_then_the_longest),
        cmocka_unit_test(what_is_certain_goes_out_at_once),
        cmocka_unit_test(nothing_behind_a_stop_string_is_ever_shown),
        cmocka_unit_test(the_longest_stop_strings_are_found),
        cmocka_unit_test(random_pieces_agree_with_a_search_of_the_whole_text),
        cmocka_unit_test(lost_memory_is_told_to_the_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
