/* What a new token means for a sequence's text: pieces, stop strings, stop ids, end-of-sequence, length. With
 * the demo model's tokenizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "engine/engine_int.h"

static fs_model_config config;
static fs_tokenizer *tokenizer;
static fs_engine engine = {.options.config = &config};

static int group_setup(void **state)
{
    fs_detail detail = {0};
    if (fs_model_config_load(FS_SOURCE_DIR "/models/demo", &config, &detail) != FS_OK) return -1;
    return fs_tokenizer_load(FS_SOURCE_DIR "/models/demo", &tokenizer, &detail) == FS_OK ? 0 : -1;
}

static int group_teardown(void **state)
{
    fs_tokenizer_destroy(tokenizer);
    return 0;
}

static fs_engine_request a_request(uint32_t max_tokens)
{
    static const uint32_t prompt[] = {0, 47};
    return (fs_engine_request){.prompt = prompt,
                               .prompt_tokens = 2,
                               .max_tokens = max_tokens,
                               .sampling = {.top_p = 1, .repetition_penalty = 1},
                               .deadline_ns = FS_NEVER};
}

static fs_sequence *create(const fs_engine_request *request)
{
    const fs_engine_handlers handlers = {0};
    fs_sequence *seq = NULL;
    assert_int_equal(fs_sequence_create(&engine, request, &handlers, &seq), FS_OK);
    return seq;
}

static fs_finish take(fs_sequence *seq, uint32_t token)
{
    seq->sample.token = token;
    assert_int_equal(fs_sequence_accept(seq, &config, tokenizer), FS_OK);
    return seq->finish;
}

static void expect_text(const fs_sequence *seq, const char *want)
{
    assert_int_equal(seq->text.size, strlen(want));
    if (seq->text.size) assert_memory_equal(seq->text.data, want, seq->text.size);
}

static size_t encode(const char *text, uint32_t ids[64])
{
    uint32_t *out = NULL;
    size_t n = 0;
    assert_int_equal(fs_tokenizer_encode(tokenizer, text, strlen(text), false, &out, &n, NULL), FS_OK);
    assert_in_range(n, 1, 64);
    memcpy(ids, out, n * sizeof *ids);
    free(out);
    return n;
}

static void tokens_and_text_add_up(void **state)
{
    static const char *text = " of the Great Gargoyles.";
    uint32_t ids[64];
    size_t n = encode(text, ids);
    fs_engine_request r = a_request((uint32_t)n + 1);
    fs_sequence *seq = create(&r);
    for (size_t i = 0; i < n; i++) assert_int_equal(take(seq, ids[i]), FS_FINISH_NONE);
    expect_text(seq, text);
    assert_int_equal(seq->num_tokens, 2 + n);
    assert_memory_equal(seq->token + 2, ids, n * sizeof *ids);
    fs_sequence_free(seq);
}

static void end_tokens_end_the_text_without_being_in_it(void **state)
{
    uint32_t ids[64], stop_id;
    assert_true(encode(" the great", ids) >= 2);
    stop_id = ids[1];
    const struct {
        bool ignore_eos, with_stop_id;
        uint32_t token;
        fs_finish want;
    } rows[] = {{false, false, 0, FS_FINISH_STOP},
                {true, false, 0, FS_FINISH_NONE},
                {true, true, stop_id, FS_FINISH_STOP},
                {false, false, stop_id, FS_FINISH_NONE}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fs_engine_request r = a_request(9);
        r.ignore_eos = rows[i].ignore_eos;
        r.stop_ids = &stop_id;
        r.num_stop_ids = rows[i].with_stop_id;
        fs_sequence *seq = create(&r);
        assert_int_equal(take(seq, ids[0]), FS_FINISH_NONE);
        size_t before = seq->text.size;
        assert_int_equal(take(seq, rows[i].token), rows[i].want);
        if (rows[i].want == FS_FINISH_STOP) assert_int_equal(seq->text.size, before);
        assert_int_equal(seq->stop.matched, -1);
        assert_int_equal(seq->num_tokens, 4); /* the end token counts */
        fs_sequence_free(seq);
    }
}

static void the_last_token_that_fits_ends_with_length(void **state)
{
    uint32_t ids[64];
    encode(" the", ids);
    fs_engine_request r = a_request(2);
    fs_sequence *seq = create(&r);
    assert_int_equal(take(seq, ids[0]), FS_FINISH_NONE);
    assert_int_equal(take(seq, ids[0]), FS_FINISH_LENGTH);
    expect_text(seq, " the the");
    fs_sequence_free(seq);
}

static void a_stop_string_over_tokens_ends_before_it(void **state)
{
    static const char *stops[] = {"zebra", "eat Ga"};
    uint32_t ids[64];
    size_t n = encode(" of the Great Gargoyles.", ids), i = 0;
    fs_engine_request r = a_request(30);
    r.stop = stops;
    r.num_stops = 2;
    fs_sequence *seq = create(&r);
    while (i < n && take(seq, ids[i]) == FS_FINISH_NONE) i++;
    assert_true(i < n);
    assert_int_equal(seq->finish, FS_FINISH_STOP);
    assert_int_equal(seq->stop.matched, 1);
    expect_text(seq, " of the Gr");
    fs_sequence_free(seq);
}

/* What was held back as a possible beginning of a stop string is text after all. */
static void held_text_comes_out_at_the_end(void **state)
{
    static const char *stops[] = {" the end"};
    uint32_t ids[64];
    encode(" the", ids);
    for (int by_length = 0; by_length < 2; by_length++) {
        fs_engine_request r = a_request(by_length ? 1 : 5);
        r.stop = stops;
        r.num_stops = 1;
        fs_sequence *seq = create(&r);
        assert_int_equal(take(seq, ids[0]), by_length ? FS_FINISH_LENGTH : FS_FINISH_NONE);
        if (!by_length) {
            expect_text(seq, "");
            assert_int_equal(take(seq, 0), FS_FINISH_STOP);
            assert_int_equal(seq->stop.matched, -1);
        }
        expect_text(seq, " the");
        fs_sequence_free(seq);
    }
}

/* A character of several tokens appears whole, or as U+FFFD when the text ends inside it; even that may
 * complete a stop string. */
static void no_part_of_a_character_is_shown(void **state)
{
    static const char *character = "\xf0\x9f\xa6\x93"; /* a zebra: no token of its own */
    static const char *stops[] = {"\xef\xbf\xbd"};
    uint32_t ids[64];
    size_t n = encode(character, ids);
    assert_true(n > 1);
    fs_engine_request r = a_request(9);
    fs_sequence *seq = create(&r);
    for (size_t i = 0; i < n; i++) {
        expect_text(seq, "");
        take(seq, ids[i]);
    }
    expect_text(seq, character);
    fs_sequence_free(seq);

    r = a_request(1);
    seq = create(&r);
    assert_int_equal(take(seq, ids[0]), FS_FINISH_LENGTH);
    expect_text(seq, "\xef\xbf\xbd");
    fs_sequence_free(seq);

    r.stop = stops;
    r.num_stops = 1;
    seq = create(&r);
    assert_int_equal(take(seq, ids[0]), FS_FINISH_STOP);
    assert_int_equal(seq->stop.matched, 0);
    expect_text(seq, "");
    fs_sequence_free(seq);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_and_text_add_up),
        cmocka_unit_test(end_tokens_end_the_text_without_being_in_it),
        cmocka_unit_test(the_last_token_that_fits_ends_with_length),
        cmocka_unit_test(a_stop_string_over_tokens_ends_before_it),
        cmocka_unit_test(held_text_comes_out_at_the_end),
        cmocka_unit_test(no_part_of_a_character_is_shown),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
