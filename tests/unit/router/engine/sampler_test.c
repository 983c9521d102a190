/* tests/unit/router/engine/sampler_test.c: from logits to tokens: checks, order of the steps, distributions, repeatability. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "engine/sampler.h"
#include "engine/sampler_int.h"

enum { MAX_VOCAB = 4096 };

static _Alignas(64) float scratch[2 * MAX_VOCAB];
static _Alignas(64) uint8_t sampler_state[MAX_VOCAB * 5];

static const fs_sampling neutral = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1};

static void begin(fs_sampler *sampler, const fs_sampling *sampling, uint32_t vocab)
{
    assert_int_equal(fs_sampling_check(sampling, vocab, NULL), FS_OK);
    fs_sampler_init(sampler, sampling, vocab, sampler_state, NULL, 0);
}

static uint32_t next(fs_sampler *sampler, const float *logits)
{
    fs_sample sample;
    float before[MAX_VOCAB];
    memcpy(before, logits, sampler->vocab_size * sizeof *logits);
    assert_int_equal(fs_sampler_next(sampler, logits, scratch, false, 0, &sample), FS_OK);
    assert_memory_equal(before, logits, sampler->vocab_size * sizeof *logits); /* not changed */
    return sample.token;
}

static uint32_t greedy_with(fs_sampling sampling, const float *logits, uint32_t vocab, const uint32_t *prompt,
                            size_t prompt_tokens)
{
    fs_sampler sampler;
    sampling.temperature = 0;
    assert_int_equal(fs_sampling_check(&sampling, vocab, NULL), FS_OK);
    fs_sampler_init(&sampler, &sampling, vocab, sampler_state, prompt, prompt_tokens);
    return next(&sampler, logits);
}

static void expect_refused(fs_sampling sampling, const char *field)
{
    fs_detail detail = {{0}};
    assert_int_equal(fs_sampling_check(&sampling, 100, &detail), FS_INVALID);
    if (!strstr(detail.text, field)) fail_msg("'%s' does not name %s", detail.text, field);
}

static void values_out_of_range_are_refused_by_name(void **state)
{
    static const struct {
        const char *field;
        size_t offset;
        float bad[5], good[3];
    } cases[] = {
        {"temperature",
         offsetof(fs_sampling, temperature),
         {-0.1f, 101, NAN, INFINITY, -INFINITY},
         {0, 0.5f, 100}},
        {"top_p", offsetof(fs_sampling, top_p), {0, -1, 1.01f, NAN, INFINITY}, {1e-6f, 0.5f, 1}},
        {"min_p", offsetof(fs_sampling, min_p), {-0.1f, 1.1f, NAN, INFINITY, -1}, {0, 0.5f, 1}},
        {"repetition_penalty",
         offsetof(fs_sampling, repetition_penalty),
         {0, -1, NAN, INFINITY, -0.0f},
         {1e-30f, 1, 1e30f}},
        {"presence_penalty",
         offsetof(fs_sampling, presence_penalty),
         {-2.1f, 2.1f, NAN, INFINITY, 3},
         {-2, 0, 2}},
        {"frequency_penalty",
         offsetof(fs_sampling, frequency_penalty),
         {-2.1f, 2.1f, NAN, INFINITY, 3},
         {-2, 0, 2}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        for (int i = 0; i < 5; i++) {
            fs_sampling s = neutral;
            *(float *)((char *)&s + cases[c].offset) = cases[c].bad[i];
            expect_refused(s, cases[c].field);
        }
        for (int i = 0; i < 3; i++) {
            fs_sampling s = neutral;
            *(float *)((char *)&s + cases[c].offset) = cases[c].good[i];
            assert_int_equal(fs_sampling_check(&s, 100, NULL), FS_OK);
        }
    }
}

static void bias_entries_are_checked(void **state)
{
    uint32_t tokens[FS_MAX_LOGIT_BIAS + 1];
    float bias[FS_MAX_LOGIT_BIAS + 1] = {0};
    fs_sampling s = neutral;
    for (uint32_t i = 0; i <= FS_MAX_LOGIT_BIAS; i++) tokens[i] = i;
    s.bias_token = tokens;
    s.bias = bias;
    s.num_bias = FS_MAX_LOGIT_BIAS + 1;
    assert_int_equal(fs_sampling_check(&s, 5000, NULL), FS_INVALID);
    s.num_bias = FS_MAX_LOGIT_BIAS;
    assert_int_equal(fs_sampling_check(&s, 5000, NULL), FS_OK);
    expect_refused(s, "token 100 is not below 100");
    s.num_bias = 3;
    bias[1] = NAN;
    expect_refused(s, "logit_bias");
    bias[1] = -100.5f;
    expect_refused(s, "logit_bias");
    bias[1] = -100;
    tokens[2] = 0;
    expect_refused(s, "token 0 twice");
}

static void greedy_takes_the_largest_and_of_equals_the_first(void **state)
{
    const float logits[] = {-1, 3, -INFINITY, 3, 2};
    fs_sampling s = neutral;
    s.top_k = 1;
    assert_int_equal(greedy_with(s, logits, 5, NULL, 0), 1);
    const float negative[] = {-5, -4, -3.5f};
    assert_int_equal(greedy_with(s, negative, 3, NULL, 0), 2);
}

static void broken_rows_are_refused_and_change_nothing(void **state)
{
    static const float rows[][3] = {
        {1, NAN, 2}, {1, INFINITY, 2}, {-INFINITY, -INFINITY, -INFINITY}, {NAN, NAN, NAN}};
    for (int greedy = 0; greedy < 2; greedy++)
        for (int i = 0; i < 4; i++) {
            fs_sampling s = neutral;
            fs_sampler sampler;
            fs_sample sample = {.token = 99};
            s.temperature = greedy ? 0 : 1;
            begin(&sampler, &s, 3);
            assert_int_equal(fs_sampler_next(&sampler, rows[i], scratch, true, 3, &sample), FS_INTERNAL);
            assert_int_equal(sample.token, 99);
            assert_int_equal(sampler.num_sampled, 0);
        }
}

static void masked_tokens_are_never_drawn(void **state)
{
    const float logits[] = {-INFINITY, 0, -INFINITY, 0, -INFINITY};
    const uint32_t biased[] = {0, 2};
    const float bias[] = {100, 100};
    for (uint64_t seed = 0; seed < 300; seed++) {
        fs_sampling s = neutral;
        fs_sampler sampler;
        s.seed = seed;
        s.temperature = 100;
        s.num_bias = 2;
        s.bias_token = biased;
        s.bias = bias;
        s.top_k = seed % 3 ? 0 : 4;
        s.top_p = seed % 2 ? 1 : 0.99f;
        s.repetition_penalty = 1e-30f;
        begin(&sampler, &s, 5);
        for (int i = 0; i < 3; i++) {
            uint32_t token = next(&sampler, logits);
            assert_true(token == 1 || token == 3);
        }
    }
}

static void bias_comes_before_the_penalties(void **state)
{
    const float logits[] = {1, 1.5f}, bias[] = {1};
    const uint32_t tokens[] = {0}, prompt[] = {0, 7};
    fs_sampling s = neutral;
    s.num_bias = 1;
    s.bias_token = tokens;
    s.bias = bias;
    assert_int_equal(greedy_with(s, logits, 2, NULL, 0), 0); /* 2 over 1.5 */
    s.repetition_penalty = 2;
    assert_int_equal(greedy_with(s, logits, 2, prompt, 2),
                     1); /* (1 + 1) / 2 = 1; the other way round 1 / 2 + 1 would win the tie */
}

static void repetition_penalty_counts_prompt_and_text_and_pulls_down_on_both_sides_of_zero(void **state)
{
    const float positive[] = {2, 1.5f}, negative[] = {-1, -1.5f};
    const uint32_t prompt[] = {0};
    fs_sampling s = neutral;
    s.repetition_penalty = 2;
    assert_int_equal(greedy_with(s, positive, 2, prompt, 1), 1);
    assert_int_equal(greedy_with(s, negative, 2, prompt, 1), 1);
    s.temperature = 0;
    fs_sampler sampler;
    begin(&sampler, &s, 2); /* no prompt: the text itself */
    assert_int_equal(next(&sampler, positive), 0);
    assert_int_equal(next(&sampler, positive), 1); /* 1 against 1.5 */
    assert_int_equal(next(&sampler, positive), 0); /* 1 against 0.75 */
}

static void presence_and_frequency_count_the_text_alone(void **state)
{
    const float logits[] = {2, 1.2f};
    const uint32_t prompt[] = {0, 0, 0, 0};
    fs_sampling s = neutral;
    s.presence_penalty = 0.5f;
    s.frequency_penalty = 0.25f;
    s.temperature = 0;
    fs_sampler sampler;
    fs_sampler_init(&sampler, &s, 2, sampler_state, prompt, 4);
    static const uint32_t wanted[] = {0, 0, 1, 0}; /* 2; 1.25 against 1.2; 1 against 1.2; 1 against 0.45 */
    for (int i = 0; i < 4; i++) assert_int_equal(next(&sampler, logits), wanted[i]);
}

static void state_is_needed_only_for_penalties(void **state)
{
    fs_sampling s = neutral;
    fs_sampler sampler;
    assert_int_equal(fs_sampler_state_bytes(&s, 1000), 0);
    fs_sampler_init(&sampler, &s, 1000, NULL, NULL, 0);
    assert_null(sampler.count);
    s.frequency_penalty = 0.1f;
    assert_int_equal(fs_sampler_state_bytes(&s, 1000), 5000);
    assert_true(fs_sampler_state_bytes(&s, UINT32_MAX) > UINT32_MAX); /* no wrap */
}

static void extreme_penalties_and_temperatures_still_choose(void **state)
{
    const float logits[] = {FLT_MAX, -FLT_MAX, 1e-38f, -1e-38f};
    const uint32_t prompt[] = {0, 1, 2, 3};
    static const float penalties[] = {1e-38f, 1e38f}, temperatures[] = {0, 1e-38f, 1e-3f, 100};
    for (int p = 0; p < 2; p++)
        for (int t = 0; t < 4; t++) {
            fs_sampling s = neutral;
            fs_sampler sampler;
            s.repetition_penalty = penalties[p];
            s.temperature = temperatures[t];
            s.top_p = t == 3 ? 0.9f : 1;
            assert_int_equal(fs_sampling_check(&s, 4, NULL), FS_OK);
            fs_sampler_init(&sampler, &s, 4, sampler_state, prompt, 4);
            assert_true(next(&sampler, logits) < 4);
        }
    const float all_low[] = {-FLT_MAX, -FLT_MAX}; /* times 1e38: not masked, still equal */
    fs_sampling s = neutral;
    s.repetition_penalty = 1e38f;
    assert_int_equal(greedy_with(s, all_low, 2, prompt, 2), 0);
}

/* Draws many times; how often each token came. */
static void histogram(fs_sampling sampling, const float *logits, uint32_t vocab, uint32_t draws,
                      uint32_t *count)
{
    fs_sampler sampler;
    begin(&sampler, &sampling, vocab);
    memset(count, 0, vocab * sizeof *count);
    for (uint32_t i = 0; i < draws; i++) count[next(&sampler, logits)]++;
}

/* Within five standard deviations of the expected frequency: with a fixed seed there is nothing random about it. */
static void expect_share(uint32_t count, uint32_t draws, double p)
{
    double mean = p * draws, deviation = sqrt(draws * p * (1 - p));
    if (fabs(count - mean) > 5 * deviation + 1e-9) fail_msg("%u of %u, not about %g", count, draws, mean);
}

static void draws_follow_the_softmax_at_each_temperature(void **state)
{
    enum { DRAWS = 40000 };
    const float logits[] = {0, 1, 2, -1, 0.5f};
    static const float temperatures[] = {0.5f, 1, 2};
    for (int t = 0; t < 3; t++) {
        uint32_t count[5];
        double sum = 0;
        fs_sampling s = neutral;
        s.temperature = temperatures[t];
        histogram(s, logits, 5, DRAWS, count);
        for (int i = 0; i < 5; i++) sum += exp(logits[i] / temperatures[t]);
        for (int i = 0; i < 5; i++) expect_share(count[i], DRAWS, exp(logits[i] / temperatures[t]) / sum);
    }
}

/* Expected shares of kept tokens only, by their weights. */
static void expect_kept(fs_sampling s, const float *logits, const double *weight, uint32_t vocab)
{
    enum { DRAWS = 20000 };
    uint32_t count[8];
    double sum = 0;
    histogram(s, logits, vocab, DRAWS, count);
    for (uint32_t i = 0; i < vocab; i++) sum += weight[i];
    for (uint32_t i = 0; i < vocab; i++) expect_share(count[i], DRAWS, weight[i] / sum);
}

static const double probability[6] = {0.05, 0.4, 0.1, 0.25, 0.15, 0.05};

static const float *log_probabilities(void)
{
    static float logits[6];
    for (int i = 0; i < 6; i++) logits[i] = (float)log(probability[i]);
    return logits;
}

static void top_k_keeps_the_k_most_probable_and_of_equals_the_first(void **state)
{
    fs_sampling s = neutral;
    s.top_k = 2;
    expect_kept(s, log_probabilities(), (double[]){0, 0.4, 0, 0.25, 0, 0}, 6);
    s.top_k = 5;
    expect_kept(s, log_probabilities(), (double[]){0.05, 0.4, 0.1, 0.25, 0.15, 0}, 6);
    s.top_k = 1;
    expect_kept(s, log_probabilities(), (double[]){0, 1, 0, 0, 0, 0}, 6);
    s.top_k = 100;
    expect_kept(s, log_probabilities(), probability, 6);
}

static void top_p_keeps_the_fewest_that_reach_it(void **state)
{
    fs_sampling s = neutral;
    s.top_p = 0.39f;
    expect_kept(s, log_probabilities(), (double[]){0, 1, 0, 0, 0, 0}, 6);
    s.top_p = 0.41f;
    expect_kept(s, log_probabilities(), (double[]){0, 0.4, 0, 0.25, 0, 0}, 6);
    s.top_p = 0.79f;
    expect_kept(s, log_probabilities(), (double[]){0, 0.4, 0, 0.25, 0.15, 0}, 6);
    s.top_p = 1e-30f;
    expect_kept(s, log_probabilities(), (double[]){0, 1, 0, 0, 0, 0}, 6);
}

static void top_p_is_of_what_top_k_leaves(void **state)
{
    fs_sampling s = neutral;
    s.top_k = 2; /* 0.4 of 0.65 is 0.615 */
    s.top_p = 0.6f;
    expect_kept(s, log_probabilities(), (double[]){0, 1, 0, 0, 0, 0}, 6);
    s.top_p = 0.63f;
    expect_kept(s, log_probabilities(), (double[]){0, 0.4, 0, 0.25, 0, 0}, 6);
}

static void min_p_is_relative_to_the_most_probable(void **state)
{
    fs_sampling s = neutral;
    s.min_p = 0.3f; /* of 0.4: 0.12 */
    expect_kept(s, log_probabilities(), (double[]){0, 0.4, 0, 0.25, 0.15, 0}, 6);
    s.top_k = 5; /* the same through the other path */
    expect_kept(s, log_probabilities(), (double[]){0, 0.4, 0, 0.25, 0.15, 0}, 6);
    s.top_k = 0;
    s.min_p = 1;
    expect_kept(s, log_probabilities(), (double[]){0, 1, 0, 0, 0, 0}, 6);
}

/* The slow way: sort everything, then cut. */
static const float *sort_by;
static int by_falling_weight(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (sort_by[x] != sort_by[y]) return sort_by[x] > sort_by[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

static uint32_t slow_draw(const fs_sampling *s, const float *logits, uint32_t n, double unit)
{
    static float weight[MAX_VOCAB];
    static uint32_t order[MAX_VOCAB];
    double total = 0, sum = 0, kept_sum = 0;
    uint32_t kept = 0, limit = s->top_k && s->top_k < n ? s->top_k : n;
    memcpy(weight, logits, n * sizeof *weight);
    (void)fs_sampler_draw(&(fs_sampling){.temperature = s->temperature, .top_p = 1}, weight, order, n,
                          0); /* leaves the weights */
    for (uint32_t i = 0; i < n; i++) order[i] = i;
    sort_by = weight;
    qsort(order, n, sizeof *order, by_falling_weight);
    for (uint32_t i = 0; i < limit; i++) total += (double)weight[order[i]];
    for (; kept < limit; kept++) {
        float w = weight[order[kept]];
        if (kept > 0 && (w < s->min_p || (s->top_p < 1 && kept_sum >= (double)s->top_p * total))) break;
        kept_sum += (double)w;
    }
    for (uint32_t i = 0; i < kept; i++)
        if ((sum += (double)weight[order[i]]) > unit * kept_sum) return order[i];
    return order[kept - 1];
}

static void draws_agree_with_a_full_sort(void **state)
{
    static float logits[MAX_VOCAB], work[MAX_VOCAB];
    static uint32_t order[MAX_VOCAB];
    fs_random random = {9};
    for (int round = 0; round < 3000; round++) {
        uint32_t n = 1 + fs_random_below(&random, round % 10 ? 50 : 2000);
        for (uint32_t i = 0; i < n; i++)
            logits[i] = (float)fs_random_below(&random, 40) / 4 - 5; /* many ties */
        fs_sampling s = neutral;
        s.temperature = 0.1f + 2 * fs_random_unit(&random);
        s.top_k = fs_random_below(&random, 2) ? 0 : 1 + fs_random_below(&random, n);
        if (s.top_k == n) s.top_k = n - 1; /* 0 for a vocabulary of one: off */
        s.top_p = fs_random_below(&random, 2) ? 0.05f + 0.9f * fs_random_unit(&random) : 1;
        s.min_p = fs_random_below(&random, 2) ? 0 : fs_random_unit(&random);
        if (s.top_k == 0 && s.top_p == 1) s.top_p = 0.999f * fs_random_unit(&random) + 0.0005f;
        double unit = (double)(fs_random_next(&random) >> 11) * 0x1p-53;
        memcpy(work, logits, n * sizeof *work);
        assert_int_equal(fs_sampler_draw(&s, work, order, n, unit), slow_draw(&s, logits, n, unit));
    }
}

static void a_seed_gives_the_same_tokens_and_a_redone_token_is_the_same(void **state)
{
    static float logits[1000];
    fs_random random = {3};
    fs_sampling s = neutral;
    fs_sampler a, b;
    uint32_t tokens[200], same = 0;
    for (int i = 0; i < 1000; i++) logits[i] = 3 * fs_random_unit(&random);
    begin(&a, &s, 1000);
    for (int i = 0; i < 200; i++) tokens[i] = next(&a, logits);
    begin(&b, &s, 1000);
    b.num_sampled = 100; /* as after a lost step: straight to the 100th */
    for (int i = 100; i < 200; i++) assert_int_equal(next(&b, logits), tokens[i]);
    s.seed = 2;
    begin(&b, &s, 1000);
    for (int i = 0; i < 200; i++) same += next(&b, logits) == tokens[i];
    assert_true(same < 20);
}

/* The tokens are from sampler_golden.py, beside this file. */
static void a_seed_gives_the_tokens_of_the_reference(void **state)
{
    static const struct {
        float temperature;
        uint32_t top_k;
        float top_p, min_p;
        uint32_t tokens[16];
    } cases[] = {
        {1, 0, 1, 0, {730, 594, 210, 309, 721, 692, 495, 235, 361, 804, 112, 285, 782, 600, 951, 926}},
        {0.75f,
         50,
         0.9f,
         0,
         {951, 704, 568, 852, 630, 309, 420, 889, 494, 914, 284, 531, 593, 704, 482, 840}},
        {2, 0, 0.5f, 0.25f, {594, 569, 667, 482, 273, 347, 112, 951, 371, 409, 494, 519, 125, 890, 2, 755}},
    };
    static float logits[1000];
    for (int i = 0; i < 1000; i++) logits[i] = (float)(i * 7919 % 1000) / 128;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        fs_sampling s = neutral;
        fs_sampler sampler;
        s.temperature = cases[c].temperature;
        s.top_k = cases[c].top_k;
        s.top_p = cases[c].top_p;
        s.min_p = cases[c].min_p;
        s.seed = 1234;
        begin(&sampler, &s, 1000);
        for (int i = 0; i < 16; i++) assert_int_equal(next(&sampler, logits), cases[c].tokens[i]);
    }
}

static void the_largest_draw_still_gives_a_token(void **state)
{
    float x[] = {0, -1, -200, -INFINITY}; /* exp(-200) is 0 in float32 */
    static uint32_t order[4];
    double largest = 1 - 0x1p-53;
    fs_sampling s = neutral;
    assert_int_equal(fs_sampler_draw(&s, x, order, 4, largest), 1);
    float y[] = {0, -1, -200, -INFINITY};
    s.top_p = 0.9999f;
    assert_int_equal(fs_sampler_draw(&s, y, order, 4, largest), 1);
    float z[] = {5};
    assert_int_equal(fs_sampler_draw(&s, z, order, 1, largest), 0);
}

/* In ulps of the exact logarithm. */
static void the_logarithm_is_exact_to_two_ulps(void **state)
{
    fs_random random = {11};
    assert_true(fs_sampler_log(1) == 0);
    for (int i = 0; i < 200000; i++) {
        float x = (1 + fs_random_unit(&random)) * ldexpf(1, (int)fs_random_below(&random, i % 2 ? 24 : 2));
        double exact = log((double)x);
        double ulp = nextafterf((float)exact, INFINITY) - (double)(float)exact;
        if (fabs(fs_sampler_log(x) - exact) > 2 * ulp)
            fail_msg("log(%a) = %a, not %a", (double)x, (double)fs_sampler_log(x), exact);
    }
}

static void logprobs_are_of_the_unmodified_softmax(void **state)
{
    enum { VOCAB = 3000 };
    static float logits[VOCAB];
    static double exact[VOCAB];
    double sum = 0;
    fs_random random = {5};
    fs_sampling s = neutral;
    const uint32_t token[] = {17};
    const float bias[] = {100};
    fs_sampler sampler;
    fs_sample sample;
    for (int i = 0; i < VOCAB; i++) sum += exp(logits[i] = 10 * fs_random_unit(&random));
    for (int i = 0; i < VOCAB; i++) exact[i] = logits[i] - log(sum);
    s.temperature = 0;
    s.num_bias = 1;
    s.bias_token = token;
    s.bias = bias;
    begin(&sampler, &s, VOCAB);
    assert_int_equal(fs_sampler_next(&sampler, logits, scratch, true, 20, &sample), FS_OK);
    assert_int_equal(sample.token, 17);
    assert_true(fabs(sample.logprob - exact[17]) < 1e-5);
    assert_int_equal(sample.num_top, 20);
    for (uint32_t i = 0; i < 20; i++) {
        uint32_t better = 0;
        for (int j = 0; j < VOCAB; j++) better += logits[j] > logits[sample.top_token[i]];
        assert_int_equal(better, i);
        assert_true(fabs(sample.top_logprob[i] - exact[sample.top_token[i]]) < 1e-5);
    }
}

static void top_logprobs_break_ties_by_id_and_leave_out_masked_tokens(void **state)
{
    const float logits[] = {1, -INFINITY, 2, 1, 2};
    static const uint32_t wanted[] = {2, 4, 0, 3};
    fs_sampler sampler;
    fs_sample sample;
    begin(&sampler, &neutral, 5);
    assert_int_equal(fs_sampler_next(&sampler, logits, scratch, true, 20, &sample), FS_OK);
    assert_int_equal(sample.num_top, 4);
    for (int i = 0; i < 4; i++) assert_int_equal(sample.top_token[i], wanted[i]);
    assert_int_equal(fs_sampler_next(&sampler, logits, scratch, true, 2, &sample), FS_OK);
    assert_int_equal(sample.num_top, 2);
    assert_int_equal(fs_sampler_next(&sampler, logits, scratch, true, 0, &sample), FS_OK);
    assert_int_equal(sample.num_top, 0);
    assert_true(sample.logprob < 0);
    const float one[] = {7};
    begin(&sampler, &neutral, 1);
    assert_int_equal(fs_sampler_next(&sampler, one, scratch, true, 5, &sample), FS_OK);
    assert_true(sample.logprob == 0 && sample.num_top == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_out_of_range_are_refused_by_name),
        cmocka_unit_test(bias_entries_are_checked),
        cmocka_unit_test(greedy_takes_the_largest_and_of_equals_the_first),
        cmocka_unit_test(broken_rows_are_refused_and_change_nothing),
        cmocka_unit_test(masked_tokens_are_never_drawn),
        cmocka_unit_test(bias_comes_before_the_penalties),
        cmocka_unit_test(repetition_penalty_counts_prompt_and_text_and_pulls_down_on_both_sides_of_zero),
        cmocka_unit_test(presence_and_frequency_count_the_text_alone),
        cmocka_unit_test(state_is_needed_only_for_penalties),
        cmocka_unit_test(extreme_penalties_and_temperatures_still_choose),
        cmocka_unit_test(draws_follow_the_softmax_at_each_temperature),
        cmocka_unit_test(top_k_keeps_the_k_most_probable_and_of_equals_the_first),
        cmocka_unit_test(top_p_keeps_the_fewest_that_reach_it),
        cmocka_unit_test(top_p_is_of_what_top_k_leaves),
        cmocka_unit_test(min_p_is_relative_to_the_most_probable),
        cmocka_unit_test(draws_agree_with_a_full_sort),
        cmocka_unit_test(a_seed_gives_the_same_tokens_and_a_redone_token_is_the_same),
        cmocka_unit_test(a_seed_gives_the_tokens_of_the_reference),
        cmocka_unit_test(the_largest_draw_still_gives_a_token),
        cmocka_unit_test(the_logarithm_is_exact_to_two_ulps),
        cmocka_unit_test(logprobs_are_of_the_unmodified_softmax),
        cmocka_unit_test(top_logprobs_break_ties_by_id_and_leave_out_masked_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
