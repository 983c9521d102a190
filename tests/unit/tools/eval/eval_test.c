/* tests/unit/tools/eval/eval_test.c: how text becomes windows, and that how many go together changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backbone/loss.h"
#include "eval/eval.h"

#define DEMO FS_SOURCE_DIR "/models/demo"

static fs_model_config demo_config(void)
{
    fs_model_config config;
    fs_detail detail = {0};
    if (fs_model_config_load(DEMO, &config, &detail) != FS_OK) fail_msg("%s", detail.text);
    return config;
}

/* path: 32 bytes */
static void put_text(const char *bytes, size_t size, char path[32])
{
    snprintf(path, 32, "/tmp/fs-eval-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    close(fd);
}

static fs_status load(const char *bytes, size_t size, uint64_t max_tokens, uint32_t window, fs_eval_text *out,
                      fs_detail *detail)
{
    const fs_model_config config = demo_config();
    char path[32];
    put_text(bytes, size, path);
    fs_status st = fs_eval_text_load(DEMO, &config, path, max_tokens, window, out, detail);
    unlink(path);
    return st;
}

static const char story[] =
    "Once upon a time there was a king who had three daughters, and the youngest was so fair that the sun "
    "himself, who had seen so much, was astonished each time she came out into his light.";
enum { STORY = sizeof(story) - 1 };

static void windows_follow_each_other_and_the_rest_is_left_out(void **state)
{
    fs_eval_text whole = {0}, cut = {0}, begin = {0};
    assert_int_equal(load(story, STORY, 0, 1000, &whole, NULL),
                     FS_OK); /* shorter than a window: one window */
    assert_true(whole.num_windows == 1 && whole.length == whole.num_tokens && whole.length > 20);
    assert_int_equal(load(story, STORY, 0, 8, &cut, NULL), FS_OK);
    assert_int_equal(cut.length, 8);
    assert_int_equal(cut.num_windows, whole.num_tokens / 8);
    assert_memory_equal(cut.token, whole.token, (size_t)cut.num_windows * 8 * sizeof(*cut.token));
    assert_int_equal(load(story, STORY, 17, 8, &begin, NULL), FS_OK);
    assert_true(begin.num_windows == 2 && begin.num_tokens == whole.num_tokens);
    fs_eval_text_free(&begin);
    assert_int_equal(load(story, STORY, 5, 8, &begin, NULL), FS_OK);
    assert_true(begin.num_windows == 1 && begin.length == 5);
    fs_eval_text_free(&begin);
    fs_eval_text_free(&cut);
    fs_eval_text_free(&whole);
}

static void bytes_are_those_of_the_foretold_tokens(void **state)
{
    fs_eval_text one = {0}, cut = {0};
    assert_int_equal(load("xyz", 3, 0, 256, &one, NULL), FS_OK);
    assert_int_equal(load(story, STORY, 0, 1000, &cut, NULL), FS_OK);
    assert_true(one.num_bytes < 3 && one.num_bytes >= 1);
    assert_true(cut.num_bytes < STORY && cut.num_bytes > STORY - 10); /* less the first token's */
    fs_eval_text_free(&cut);
    fs_eval_text_free(&one);
}

static void texts_without_anything_to_foretell_are_refused(void **state)
{
    fs_eval_text text = {0};
    fs_detail detail = {0};
    assert_int_equal(load("", 0, 0, 8, &text, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "0 tokens"));
    assert_int_equal(load("a", 1, 0, 8, &text, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "1 token,"));
    assert_int_equal(load("a\xff z", 4, 0, 8, &text, &detail), FS_INVALID);
    assert_int_equal(load(story, STORY, 0, 1025, &text, &detail), FS_INVALID); /* the context is 1024 */
    assert_non_null(strstr(detail.text, "1024"));
    assert_null(text.token);
    const fs_model_config config = demo_config();
    assert_int_equal(fs_eval_text_load(DEMO, &config, "/none/text", 0, 8, &text, &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "/none/text"));
    assert_int_equal(fs_eval_text_load("/none", &config, "/none/text", 0, 8, &text, &detail), FS_NOT_FOUND);
}

static void a_token_that_the_model_has_not_is_refused(void **state)
{
    fs_model_config config = demo_config();
    fs_eval_text text = {0};
    fs_detail detail = {0};
    char path[32];
    put_text(story, STORY, path);
    config.vocab_size = 300;
    assert_int_equal(fs_eval_text_load(DEMO, &config, path, 0, 8, &text, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "vocabulary of 300"));
    unlink(path);
}

static const fs_eval_hooks no_hooks = {0};

/* Nats of the windows, `together` at a time. */
static double run_windows(const fs_eval_text *text, uint32_t together, uint32_t threads)
{
    const fs_model_config config = demo_config();
    fs_eval_model *model = NULL;
    fs_pool *pool = NULL;
    fs_detail detail = {0};
    double nats = 0;
    assert_int_equal(fs_pool_create(threads, &pool), FS_OK);
    if (fs_eval_model_open(DEMO, &config, text->length, pool, &model, &detail) != FS_OK)
        fail_msg("%s", detail.text);
    for (uint32_t w = 0; w < text->num_windows; w += together) {
        uint32_t left = text->num_windows - w, count = left < together ? left : together;
        const uint32_t *token = text->token + (size_t)w * text->length;
        if (fs_eval_model_run(model, token, count, &no_hooks, 0, 0, &detail) != FS_OK)
            fail_msg("%s", detail.text);
        assert_int_equal(fs_eval_model_loss(model, &nats, &detail), FS_OK);
    }
    assert_true(fs_eval_model_experts_used(model) > 50);
    fs_eval_model_close(model);
    fs_pool_destroy(pool);
    return nats;
}

static void windows_together_or_alone_on_any_threads_give_the_same_bits(void **state)
{
    fs_eval_text text = {0};
    assert_int_equal(load(story, STORY, 0, 9, &text, NULL), FS_OK);
    assert_true(text.num_windows >= 3);
    const double alone = run_windows(&text, 1, 1), pairs = run_windows(&text, 2, 3),
                 all = run_windows(&text, 100, 2);
    assert_true(alone > 0 && alone == pairs && alone == all);
    fs_eval_text_free(&text);
}

static void a_demo_model_foretells_better_than_chance(void **state)
{
    const fs_eval_options options = {.dir = DEMO, .text = DEMO "/README.md", .window = 64};
    fs_eval_result r = {0};
    fs_detail detail = {0};
    if (fs_eval_run(&options, NULL, &no_hooks, &r, &detail) != FS_OK) fail_msg("%s", detail.text);
    assert_true(r.nats > 1 && r.nats < log(4096));
    assert_int_equal(r.num_predictions, r.num_windows * 63);
    assert_int_equal(r.num_experts, 192);
}

static bool always(void *arg)
{
    return true;
}

static void it_stops_when_asked(void **state)
{
    const fs_eval_options options = {.dir = DEMO, .text = DEMO "/README.md", .window = 64};
    const fs_eval_hooks hooks = {.stopped = always};
    fs_eval_result r = {0};
    fs_detail detail = {0};
    assert_int_equal(fs_eval_run(&options, NULL, &hooks, &r, &detail), FS_CANCELLED);
}

static void the_loss_is_that_of_a_softmax(void **state)
{
    const float even[4] = {3, 3, 3, 3}, sure[2] = {0, 100}, broken[2] = {0, NAN};
    assert_true(fabs(fs_cross_entropy(even, 4, 2) - log(4)) < 1e-15);
    assert_true(fs_cross_entropy(sure, 2, 1) < 1e-40 && fabs(fs_cross_entropy(sure, 2, 0) - 100) < 1e-12);
    assert_false(isfinite(fs_cross_entropy(broken, 2, 0)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_follow_each_other_and_the_rest_is_left_out),
        cmocka_unit_test(bytes_are_those_of_the_foretold_tokens),
        cmocka_unit_test(texts_without_anything_to_foretell_are_refused),
        cmocka_unit_test(a_token_that_the_model_has_not_is_refused),
        cmocka_unit_test(windows_together_or_alone_on_any_threads_give_the_same_bits),
        cmocka_unit_test(a_demo_model_foretells_better_than_chance),
        cmocka_unit_test(it_stops_when_asked),
        cmocka_unit_test(the_loss_is_that_of_a_softmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
