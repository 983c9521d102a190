/* tests/golden/backbone/golden_test.c: the backbone and the pre-gating network say what a reference implementation says.
 * The models and golden.json of tests/golden/readme_moe_* are made by tests/golden/make_readme_moe.py; the environment variable
 * FORESIGHT_GOLDEN_MODEL names one more directory with dense bf16 experts and a golden.json. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model_helper.h"

#define MAX_GREEDY       64
#define WEIGHT_TOLERANCE 1e-4

typedef struct {
    float worst_logit; /* difference over the largest logit */
    double worst_logprob;
    uint32_t num_greedy, num_near_ties;
} summary;

static uint32_t *token_array(const json_t *array, uint32_t *count)
{
    *count = (uint32_t)json_array_size(array);
    uint32_t *out = calloc(*count + 1, sizeof *out);
    for (uint32_t i = 0; i < *count; i++) out[i] = (uint32_t)json_integer_value(json_array_get(array, i));
    return out;
}

static const json_t *at3(const json_t *array, size_t i, size_t j, size_t k)
{
    return json_array_get(json_array_get(json_array_get(array, i), j), k);
}

static void check_routes(const model *m, const sequence *s, const json_t *prompt)
{
    const json_t *experts = json_object_get(prompt, "route_expert"),
                 *weights = json_object_get(prompt, "route_weight");
    const uint32_t layers = m->config.num_moe_layers, top_k = m->config.top_k;
    assert_int_equal(json_array_size(experts), s->num_tokens);
    for (uint32_t t = 0; t < s->num_tokens; t++)
        for (uint32_t l = 0; l < layers; l++)
            for (uint32_t k = 0; k < top_k; k++) {
                size_t at = ((size_t)t * layers + l) * top_k + k;
                assert_int_equal(s->expert[at], json_integer_value(at3(experts, t, l, k)));
                assert_true(fabs((double)s->weight[at] - json_number_value(at3(weights, t, l, k))) <
                            WEIGHT_TOLERANCE);
            }
}

static float largest(const float *x, uint32_t n)
{
    float max = 0;
    for (uint32_t i = 0; i < n; i++) max = fmaxf(max, fabsf(x[i]));
    return max;
}

static void check_last_logits(const float *logits, uint32_t vocab, const json_t *want, summary *sum)
{
    float scale = largest(logits, vocab), worst = 0;
    assert_int_equal(json_array_size(want), vocab);
    for (uint32_t i = 0; i < vocab; i++)
        worst = fmaxf(worst, fabsf(logits[i] - (float)json_number_value(json_array_get(want, i))));
    if (!(worst <= TOLERANCE * scale)) fail_msg("logits differ by %g of %g", (double)worst, (double)scale);
    sum->worst_logit = fmaxf(sum->worst_logit, worst / scale);
}

static double logprob(const float *logits, uint32_t vocab, uint32_t token)
{
    double sum = 0, max = (double)logits[argmax(logits, vocab)];
    for (uint32_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - max);
    return (double)logits[token] - max - log(sum);
}

/* prompt_logprob[i]: of token i + 1 given 0..i */
static void check_logprobs(const float *logits, uint32_t vocab, const uint32_t *token, const json_t *want,
                           summary *sum)
{
    for (size_t i = 0; i < json_array_size(want); i++) {
        double got = logprob(logits + i * vocab, vocab, token[i + 1]);
        double difference = fabs(got - json_number_value(json_array_get(want, i)));
        if (!(difference < 0.02)) fail_msg("log probability %zu differs by %g", i, difference);
        sum->worst_logprob = fmax(sum->worst_logprob, difference);
    }
}

/* Goes on from the prompt's last logits, in place. Where the reference's choice is within the tolerance of ours, either is right, and
 * the texts part. */
static void check_greedy(model *m, sequence *s, float *logits, const json_t *want, summary *sum)
{
    const uint32_t vocab = m->config.vocab_size;
    for (size_t i = 0; i < json_array_size(want); i++) {
        uint32_t ours = argmax(logits, vocab), theirs = (uint32_t)json_integer_value(json_array_get(want, i));
        if (ours != theirs) {
            float gap = logits[ours] - logits[theirs];
            print_message("  greedy token %zu: a near tie, %g apart\n", i, (double)gap);
            if (!(gap <= TOLERANCE * largest(logits, vocab)))
                fail_msg("token %zu: %u, not %u", i, ours, theirs);
            sum->num_near_ties++;
            return;
        }
        sum->num_greedy++;
        if (i + 1 == json_array_size(want)) return;
        const uint32_t *next = &ours, one = 1;
        model_run(m, 1, &s, &next, &one, logits);
    }
}

static void check_prompt(model *m, const json_t *prompt, summary *sum)
{
    uint32_t count, vocab = m->config.vocab_size;
    uint32_t *token = token_array(json_object_get(prompt, "token_ids"), &count);
    const uint32_t *tokens = token;
    float *logits = calloc((size_t)count * vocab, sizeof *logits);
    sequence s, *sp = &s;
    sequence_open(m, &s, count + MAX_GREEDY);
    model_run(m, 1, &sp, &tokens, &count, logits);
    check_routes(m, &s, prompt);
    check_last_logits(logits + (size_t)(count - 1) * vocab, vocab, json_object_get(prompt, "last_logits"),
                      sum);
    check_logprobs(logits, vocab, token, json_object_get(prompt, "prompt_logprob"), sum);
    check_greedy(m, &s, logits + (size_t)(count - 1) * vocab, json_object_get(prompt, "greedy"), sum);
    sequence_close(m, &s);
    free(logits);
    free(token);
}

static void check_model(const char *dir)
{
    json_t *golden = read_json(dir, "golden.json");
    const json_t *prompts = json_object_get(golden, "prompts");
    model m;
    summary sum = {0};
    model_open(&m, dir, 2, json_is_true(json_object_get(golden, "int8_activations")));
    assert_true(json_array_size(prompts) > 0);
    for (size_t i = 0; i < json_array_size(prompts); i++) check_prompt(&m, json_array_get(prompts, i), &sum);
    print_message("%s (%s): %zu prompts, logits within %.2g of the largest, log probabilities within %.2g, "
                  "%u greedy tokens equal, "
                  "%u near ties\n",
                  dir, fs_kernels_best()->name, json_array_size(prompts), (double)sum.worst_logit,
                  sum.worst_logprob, sum.num_greedy, sum.num_near_ties);
    model_close(&m);
    json_decref(golden);
}

static void dense_experts_agree_with_the_reference(void **state)
{
    check_model(FS_SOURCE_DIR "/tests/golden/readme_moe_dense");
}

static void ternary_experts_with_int8_activations_agree_with_the_reference(void **state)
{
    check_model(FS_SOURCE_DIR "/tests/golden/readme_moe_ternary");
}

static void the_model_that_the_environment_names_agrees_with_its_reference(void **state)
{
    const char *dir = getenv("FORESIGHT_GOLDEN_MODEL");
    if (dir == NULL) skip();
    check_model(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_experts_agree_with_the_reference),
        cmocka_unit_test(ternary_experts_with_int8_activations_agree_with_the_reference),
        cmocka_unit_test(the_model_that_the_environment_names_agrees_with_its_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
