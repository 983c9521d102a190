/* tests/golden/backbone/invariance_test.c: a row's bits are a function of its sequence and the model: not of chunking, company,
 * threads or instruction set. Run with --hash it prints a fingerprint of one run, for the last of these. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/random.h"
#include "model_helper.h"

#define DENSE      FS_SOURCE_DIR "/tests/golden/readme_moe_dense"
#define NUM_TOKENS 540u /* more than two parts of a long context's attention */

static char own_path[1024];

static void make_tokens(const model *m, uint32_t seed, uint32_t *token, uint32_t n)
{
    fs_random r = {seed};
    for (uint32_t i = 0; i < n; i++) token[i] = fs_random_below(&r, m->config.vocab_size);
}

/* Logits of all tokens of the seed's sequence, its tokens computed chunk by chunk. */
static float *run_in_chunks(model *m, uint32_t seed, uint32_t chunk)
{
    const size_t vocab = m->config.vocab_size;
    uint32_t token[NUM_TOKENS];
    float *logits = calloc(NUM_TOKENS * vocab, sizeof *logits);
    sequence s, *sp = &s;
    make_tokens(m, seed, token, NUM_TOKENS);
    sequence_open(m, &s, NUM_TOKENS);
    for (uint32_t at = 0; at < NUM_TOKENS;) {
        const uint32_t *next = token + at;
        uint32_t n = NUM_TOKENS - at < chunk ? NUM_TOKENS - at : chunk;
        model_run(m, 1, &sp, &next, &n, logits + at * vocab);
        at += n;
    }
    sequence_close(m, &s);
    return logits;
}

/* The logits when the tokens come 1, 2, 3, ... 61 at a time beside other sequences that do other things. */
static float *run_in_company(model *m, uint32_t seed)
{
    enum { NUM = 4 };
    const size_t vocab = m->config.vocab_size;
    uint32_t token[NUM][NUM_TOKENS];
    float *logits = calloc(NUM_TOKENS * vocab, sizeof *logits), *all = calloc(MAX_ROWS * vocab, sizeof *all);
    sequence s[NUM], *sp[NUM];
    for (uint32_t i = 0; i < NUM; i++) {
        make_tokens(m, i == 2 ? seed : seed + 1 + i, token[i], NUM_TOKENS);
        sequence_open(m, &s[i], NUM_TOKENS);
        sp[i] = &s[i];
    }
    fs_random r = {seed};
    while (s[2].num_tokens < NUM_TOKENS) {
        const uint32_t *next[NUM];
        uint32_t count[NUM], before = s[2].num_tokens;
        for (uint32_t i = 0; i < NUM; i++) {
            uint32_t left = NUM_TOKENS - s[i].num_tokens, n = fs_random_below(&r, 62) + (i == 2);
            next[i] = token[i] + s[i].num_tokens;
            count[i] = n < left ? n : left;
        }
        model_run(m, NUM, sp, next, count, all);
        memcpy(logits + before * vocab, all + (size_t)(count[0] + count[1]) * vocab,
               count[2] * vocab * sizeof *all);
    }
    for (uint32_t i = 0; i < NUM; i++) sequence_close(m, &s[i]);
    free(all);
    return logits;
}

static size_t logits_bytes(const model *m)
{
    return (size_t)NUM_TOKENS * m->config.vocab_size * sizeof(float);
}

static void expect_same(const model *m, float *got, const float *want)
{
    assert_memory_equal(got, want, logits_bytes(m));
    free(got);
}

static void logits_do_not_depend_on_how_a_prompt_is_chunked(void **state)
{
    const uint32_t chunk[] = {1, 7, 64, 255, 257};
    model m;
    model_open(&m, DENSE, 1, false);
    float *want = run_in_chunks(&m, 1, MAX_ROWS);
    for (size_t i = 0; i < sizeof chunk / sizeof chunk[0]; i++)
        expect_same(&m, run_in_chunks(&m, 1, chunk[i]), want);
    free(want);
    model_close(&m);
}

static void logits_do_not_depend_on_the_other_sequences(void **state)
{
    model m;
    model_open(&m, DENSE, 1, false);
    for (uint32_t seed = 2; seed < 4; seed++) {
        float *want = run_in_chunks(&m, seed, 64);
        expect_same(&m, run_in_company(&m, seed), want);
        free(want);
    }
    model_close(&m);
}

static void logits_do_not_depend_on_the_number_of_threads(void **state)
{
    model m;
    model_open(&m, DENSE, 1, false);
    float *want = run_in_chunks(&m, 9, 100);
    model_close(&m);
    for (uint32_t num_threads = 2; num_threads < 6; num_threads += 3) {
        model_open(&m, DENSE, num_threads, false);
        expect_same(&m, run_in_chunks(&m, 9, 100), want);
        expect_same(&m, run_in_company(&m, 9), want);
        model_close(&m);
    }
    free(want);
}

/* FNV-1a of all logits. */
static uint64_t fingerprint(void)
{
    model m;
    model_open(&m, DENSE, 2, false);
    float *logits = run_in_chunks(&m, 5, 50);
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < logits_bytes(&m); i++)
        hash = (hash ^ ((const uint8_t *)logits)[i]) * 0x100000001b3u;
    free(logits);
    model_close(&m);
    return hash;
}

/* In a process of its own: the instruction set is picked once a process. */
static uint64_t fingerprint_with(const char *isa)
{
    char command[1200];
    unsigned long long hash = 0;
    snprintf(command, sizeof command, "FORESIGHT_ISA=%s '%s' --hash", isa, own_path);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    assert_int_equal(fscanf(out, "%llx", &hash), 1);
    assert_int_equal(pclose(out), 0);
    return hash;
}

static void logits_do_not_depend_on_the_instruction_set(void **state)
{
    uint64_t want = fingerprint();
    assert_true(fingerprint_with("scalar") == want);
    assert_true(fingerprint_with("avx2") == want);
    assert_true(fingerprint_with("avx512") == want);
}

int main(int argc, char **argv)
{
    ssize_t n = readlink("/proc/self/exe", own_path, sizeof own_path - 1);
    if (argc > 1 && strcmp(argv[1], "--hash") == 0)
        return printf("%llx\n", (unsigned long long)fingerprint()) < 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_do_not_depend_on_how_a_prompt_is_chunked),
        cmocka_unit_test(logits_do_not_depend_on_the_other_sequences),
        cmocka_unit_test(logits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(logits_do_not_depend_on_the_instruction_set),
    };
    return n < 0 || cmocka_run_group_tests(tests, NULL, NULL);
}
