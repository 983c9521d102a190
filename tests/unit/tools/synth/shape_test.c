/* tests/unit/tools/synth/shape_test.c: presets are as large as what they are named after; other families' config.json is understood. */
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

#include "model/tokenizer.h"
#include "synth/synth.h"

/* Weights of routed experts, as the models' own reports have them: 8 x 5.6 G, 671 G less what is shared and dense, 1.57 T ... */
static void presets_have_as_many_weights_as_their_models(void **state)
{
    static const struct {
        const char *name;
        double experts, all; /* in 10^9; what is published for all, or near it */
    } expected[] = {{"mixtral-8x7b", 45.1, 46.7},  {"mixtral-8x22b", 135.3, 140.6},
                    {"qwen3-30b-a3b", 29.0, 30.5}, {"olmoe-1b-7b", 6.44, 6.9},
                    {"deepseek-v3", 653.9, 671},   {"gpt-oss-120b", 114.7, 116.8},
                    {"switch-c2048", 1570, 1571}};
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        fs_synth_shape shape;
        fs_synth_plan plan;
        const fs_synth_options options = {.format = FS_SYNTH_BLOCKED_2};
        fs_detail detail = {0};
        assert_int_equal(fs_synth_shape_find(expected[i].name, &shape, &detail), FS_OK);
        if (fs_synth_plan_make(&shape, &options, &plan, &detail) != FS_OK) fail_msg("%s", detail.text);
        assert_true(fabs((double)plan.expert_weights / 1e9 / expected[i].experts - 1) < 0.002);
        assert_true(fabs((double)(plan.expert_weights + plan.backbone_weights) / 1e9 / expected[i].all - 1) <
                    0.02);
        assert_string_equal(fs_synth_preset((uint32_t)i)->name, expected[i].name);
        fs_synth_plan_fini(&plan);
    }
    assert_null(fs_synth_preset(sizeof(expected) / sizeof(expected[0])));
}

/* The shape of a config.json with this text, or why there is none. */
static fs_status read_text(const char *text, fs_synth_shape *shape, fs_detail *detail)
{
    char path[] = "/tmp/fs-synth-shape-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    fs_status st = fs_synth_shape_find(path, shape, detail);
    unlink(path);
    return st;
}

static void neighbouring_families_spellings_are_known(void **state)
{
    fs_synth_shape s;
    fs_detail detail = {0};
    assert_int_equal(
        read_text("{\"model_type\": \"mixtral\", \"hidden_size\": 64, \"intermediate_size\": 96, "
                  "\"num_hidden_layers\": 3, \"num_local_experts\": 4, \"num_experts_per_tok\": 2, "
                  "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 300, "
                  "\"head_dim\": null, \"rope_theta\": 1000000.0}",
                  &s, &detail),
        FS_OK);
    assert_true(s.moe_intermediate_size == 96 && s.num_experts == 4 && s.head_dim == 16 &&
                s.num_kv_heads == 2);
    assert_true(s.rope_theta == 1e6 && s.rms_norm_eps == 1e-5 && s.norm_topk_prob && !s.tie_word_embeddings);
    assert_int_equal(
        read_text("{\"hidden_size\": 64, \"intermediate_size\": 999, \"moe_intermediate_size\": 32, "
                  "\"num_hidden_layers\": 7, \"first_k_dense_replace\": 3, \"n_routed_experts\": 16, "
                  "\"num_experts_per_tok\": 4, \"num_attention_heads\": 12, \"num_key_value_heads\": 12, "
                  "\"kv_lora_rank\": 48, \"v_head_dim\": 8, \"vocab_size\": 300, "
                  "\"router_hidden_size\": 64, \"router_num_heads\": 2}",
                  &s, &detail),
        FS_OK);
    assert_true(s.moe_intermediate_size == 32 && s.num_layers == 4 && s.num_experts == 16);
    assert_true(s.num_heads == 12 && s.head_dim == 8 && s.num_kv_heads == 3); /* 2 x 3 x 8 = 48 */
    assert_true(s.pregate_hidden_size == 64 && s.pregate_num_heads == 2 && s.pregate_num_layers == 1);
}

/* Numbers that once divided by zero, or counted to 2^32. */
static void absurd_heads_are_answered_at_once(void **state)
{
    static const char *const numbers[][3] = {
        {"7", "4000000000", "1"}, {"128", "1", "2147483648"}, {"4294967295", "1", "1"}};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        fs_synth_shape shape;
        fs_synth_plan plan;
        fs_detail detail = {0};
        char text[512];
        snprintf(text, sizeof(text),
                 "{\"hidden_size\": 64, \"moe_intermediate_size\": 32, \"num_hidden_layers\": 1, "
                 "\"num_experts\": 4, "
                 "\"num_experts_per_tok\": 1, \"vocab_size\": 300, \"num_attention_heads\": %s, "
                 "\"kv_lora_rank\": %s, "
                 "\"v_head_dim\": %s}",
                 numbers[i][0], numbers[i][1], numbers[i][2]);
        fs_status st = fs_synth_shape_parse(text, strlen(text), "config.json", &shape, &detail);
        if (st != FS_OK) continue;
        assert_true(shape.num_kv_heads >= 1 && shape.num_heads % shape.num_kv_heads == 0);
        const fs_synth_options options = {.format = FS_SYNTH_BF16};
        assert_int_equal(fs_synth_plan_make(&shape, &options, &plan, &detail), FS_INVALID);
        fs_synth_plan_fini(&plan);
    }
}

static void what_is_no_shape_is_refused_and_named(void **state)
{
    static const struct {
        const char *text, *word;
    } wrong[] = {{"[]", "JSON object"},
                 {"{\"hidden_size\": 64", "JSON object"},
                 {"{}", "hidden_size"},
                 {"{\"hidden_size\": \"64\"}", "hidden_size"},
                 {"{\"hidden_size\": -64}", "hidden_size"},
                 {"{\"hidden_size\": 0}", "hidden_size"},
                 {"{\"hidden_size\": 99999999999}", "hidden_size"},
                 {"{\"hidden_size\": 64}", "intermediate_size"}};
    fs_synth_shape s;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        fs_detail detail = {0};
        assert_int_equal(read_text(wrong[i].text, &s, &detail), FS_INVALID);
        assert_non_null(strstr(detail.text, wrong[i].word));
    }
    fs_detail detail = {0};
    assert_int_equal(fs_synth_shape_find("no-such-shape", &s, &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "no-such-shape"));
    assert_non_null(strstr(detail.text, "switch-c2048"));
    assert_int_equal(fs_synth_shape_find("/tmp", &s, &detail), FS_NOT_FOUND); /* without a config.json */
}

static void any_text_is_tokens_of_the_vocabulary(void **state)
{
    static const uint32_t sizes[] = {FS_SYNTH_MIN_VOCAB, 1000, 151936};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        fs_buffer text = {0};
        fs_tokenizer *t = NULL;
        fs_detail detail = {0};
        fs_synth_tokenizer_text(sizes[i], &text);
        if (fs_tokenizer_parse((const char *)text.data, text.size, "tokenizer.json", &t, &detail) != FS_OK)
            fail_msg("%s", detail.text);
        assert_int_equal(fs_tokenizer_vocab_size(t), sizes[i]);
        uint32_t *ids = NULL;
        size_t count = 0;
        const char words[] = "A \"quoted\\\" line\n\xc3\xa9 t300 \x7f";
        assert_int_equal(fs_tokenizer_encode(t, words, sizeof(words), false, &ids, &count, NULL), FS_OK);
        assert_int_equal(count, sizeof(words));
        for (size_t k = 0; k < count; k++) assert_int_equal(ids[k], 1 + (uint8_t)words[k]);
        free(ids);
        const uint8_t *bytes;
        size_t size;
        bool special;
        assert_int_equal(fs_tokenizer_piece(t, 0, &bytes, &size, &special), FS_OK);
        assert_true(special);
        fs_tokenizer_destroy(t);
        fs_buffer_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_have_as_many_weights_as_their_models),
        cmocka_unit_test(neighbouring_families_spellings_are_known),
        cmocka_unit_test(absurd_heads_are_answered_at_once),
        cmocka_unit_test(what_is_no_shape_is_refused_and_named),
        cmocka_unit_test(any_text_is_tokens_of_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
