/* tests/unit/tools/compress/text_test.c: text becomes windows of tokens, or says why not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "compress/calibrate.h"

#define DEMO FS_SOURCE_DIR "/models/demo"
#define TEXT FS_SOURCE_DIR "/share/calibration.txt"
enum { LENGTH = 32 };

static fs_input demo(void)
{
    fs_input in = {.dir = DEMO};
    fs_detail detail;
    assert_int_equal(fs_model_config_load(DEMO, &in.config, &detail), FS_OK);
    return in;
}

static fs_windows load(const fs_input *in, const fs_text_choice *choice)
{
    fs_windows w = {0};
    fs_detail detail = {0};
    if (fs_windows_load(in, choice, &w, &detail) != FS_OK) fail_msg("%s", detail.text);
    return w;
}

/* Expects that the choice is refused, and a message with `what` in it. */
static void refuse(const fs_input *in, const fs_text_choice *choice, fs_status st, const char *what)
{
    fs_windows w = {0};
    fs_detail detail = {0};
    assert_int_equal(fs_windows_load(in, choice, &w, &detail), st);
    if (!strstr(detail.text, what)) fail_msg("'%s' does not say '%s'", detail.text, what);
    assert_null(w.token);
}

typedef struct {
    char path[64];
} file;

static file make_file(const void *data, size_t size)
{
    file f = {"/tmp/text_test_XXXXXX"};
    int fd = mkstemp(f.path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), (ssize_t)size);
    close(fd);
    return f;
}

static void all_of_the_text_is_used_and_every_eighth_window_held_back(void **state)
{
    fs_input in = demo();
    fs_text_choice choice = {.calibration = TEXT, .length = LENGTH};
    fs_windows w = load(&in, &choice);
    assert_int_equal(w.length, LENGTH);
    assert_int_equal(w.num_windows - w.num_calibration, (w.num_windows + 3) / 8);
    assert_true(w.num_windows * LENGTH > 60000);
    assert_int_equal(fs_windows_rows(&w), (uint64_t)w.num_windows * LENGTH);
    for (uint64_t i = 0; i < fs_windows_rows(&w); i++) assert_true(w.token[i] < in.config.vocab_size);
    fs_windows_free(&w);
    assert_null(w.token);
}

/* What is held back stands as it is; calibration is what the model meets in use. */
static void windows_of_calibration_begin_as_prompts_do(void **state)
{
    fs_input in = demo();
    fs_text_choice choice = {.calibration = TEXT, .length = LENGTH};
    assert_int_equal(in.config.bos_token_id, 0);
    fs_windows with = load(&in, &choice);
    in.config.bos_token_id = -1;
    fs_windows without = load(&in, &choice);
    for (uint32_t i = 0; i < with.num_windows; i++) {
        const uint32_t *a = with.token + (size_t)i * LENGTH, *b = without.token + (size_t)i * LENGTH;
        const bool moved = i < with.num_calibration;
        if (moved) assert_int_equal(a[0], 0);
        assert_memory_equal(a + moved, b, (LENGTH - moved) * sizeof(*a));
    }
    fs_windows_free(&with);
    fs_windows_free(&without);
}

static void fewer_tokens_come_from_all_of_the_text_as_the_seed_says(void **state)
{
    fs_input in = demo();
    in.config.bos_token_id = -1;
    fs_text_choice choice = {.calibration = TEXT, .max_tokens = 40 * LENGTH + 5, .length = LENGTH, .seed = 1};
    fs_windows a = load(&in, &choice), b = load(&in, &choice);
    choice.seed = 2;
    fs_windows c = load(&in, &choice);
    choice.max_tokens = 0;
    fs_windows all = load(&in, &choice);
    assert_int_equal(a.num_windows, 40);
    assert_int_equal(a.num_calibration, 35);
    assert_memory_equal(a.token, b.token, fs_windows_rows(&a) * sizeof(*a.token));
    assert_memory_not_equal(a.token, c.token, fs_windows_rows(&a) * sizeof(*a.token));
    fs_windows_free(&a);
    fs_windows_free(&b);
    fs_windows_free(&c);
    fs_windows_free(&all);
}

static void a_text_of_its_own_is_held_back_whole(void **state)
{
    char text[3000];
    for (size_t i = 0; i < sizeof(text); i++) text[i] = "once upon a time "[i % 17];
    file held = make_file(text, sizeof(text));
    fs_input in = demo();
    fs_text_choice choice = {
        .calibration = TEXT, .held_back = held.path, .max_tokens = 20 * LENGTH, .length = LENGTH};
    fs_windows w = load(&in, &choice);
    assert_int_equal(w.num_calibration, 20);
    assert_true(w.num_windows > 20);
    fs_windows_free(&w);
    unlink(held.path);
}

static void texts_that_cannot_be_used_are_named(void **state)
{
    fs_input in = demo();
    file brief = make_file("too short", 9), broken = make_file("\xff\xfe\xff\xfe", 4),
         empty = make_file("", 0);
    fs_text_choice choice = {.calibration = "/tmp/text_test_none", .length = LENGTH};
    refuse(&in, &choice, FS_NOT_FOUND, "/tmp/text_test_none");
    choice.calibration = brief.path;
    refuse(&in, &choice, FS_INVALID, "too few");
    choice.calibration = empty.path;
    refuse(&in, &choice, FS_INVALID, empty.path);
    choice.calibration = broken.path;
    refuse(&in, &choice, FS_INVALID, broken.path);
    choice.calibration = TEXT;
    choice.held_back = brief.path;
    refuse(&in, &choice, FS_INVALID, brief.path);
    choice.held_back = NULL;
    choice.max_tokens = LENGTH; /* one window, and one is to be held back */
    refuse(&in, &choice, FS_INVALID, "too few");
    unlink(brief.path);
    unlink(broken.path);
    unlink(empty.path);
}

static void tokens_out_of_the_vocabulary_are_refused(void **state)
{
    fs_input in = demo();
    in.config.vocab_size = 1000;
    fs_text_choice choice = {.calibration = TEXT, .length = LENGTH};
    refuse(&in, &choice, FS_INVALID, "vocabulary of 1000");
}

static void a_model_without_a_tokenizer_is_named(void **state)
{
    fs_input in = demo();
    in.dir = FS_SOURCE_DIR "/tests/golden/readme_moe_dense";
    fs_text_choice choice = {.calibration = TEXT, .length = LENGTH};
    refuse(&in, &choice, FS_NOT_FOUND, "tokenizer.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_the_text_is_used_and_every_eighth_window_held_back),
        cmocka_unit_test(windows_of_calibration_begin_as_prompts_do),
        cmocka_unit_test(fewer_tokens_come_from_all_of_the_text_as_the_seed_says),
        cmocka_unit_test(a_text_of_its_own_is_held_back_whole),
        cmocka_unit_test(texts_that_cannot_be_used_are_named),
        cmocka_unit_test(tokens_out_of_the_vocabulary_are_refused),
        cmocka_unit_test(a_model_without_a_tokenizer_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
