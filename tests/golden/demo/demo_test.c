/* tests/golden/demo/demo_test.c: the demo model, computed from its compressed experts, says what the reference says: routes, logits, log
 * probabilities and greedy text, and the same bits on every instruction set, chunking and number of threads.
 * golden.json is the reference's output (PyTorch, float32, experts' activations quantised to int8).
 * links: backbone sub1 model compute base PkgConfig::jansson
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "backbone/pregate.h"
#include "base/arena.h"
#include "sub1/files.h"

#define MODEL_DIR FS_SOURCE_DIR "/models/demo"
#define GOLDEN    FS_SOURCE_DIR "/tests/golden/demo/golden.json"
#define MAX_ROWS  256
#define TOLERANCE 2e-3f /* of the largest logit */

/* Everything needed to run the model in one thread of control, without a cluster. */
typedef struct {
    fs_model_config config;
    fs_tensors *tensors;
    fs_backbone *backbone;
    fs_pregate *pregate;
    fs_kv_pool *kv, *pregate_kv;
    fs_pool *pool;
    fs_batch *batch;
    fs_expert *expert; /* [num_moe_layers][num_experts] */
    void *scratch;
    json_t *golden;
} model;

static model m;

static void must(fs_status status, const fs_detail *detail)
{
    if (status != FS_OK) fail_msg("%s: %s", fs_status_name(status), detail->text);
}

static int open_model(void **state)
{
    fs_detail d = {0};
    must(fs_model_config_load(MODEL_DIR, &m.config, &d), &d);
    must(fs_tensors_open(MODEL_DIR, &m.tensors, &d), &d);
    must(fs_backbone_open(&m.config, m.tensors, &m.backbone, &d), &d);
    must(fs_pregate_open(&m.config, m.tensors, &m.pregate, &d), &d);
    must(fs_kv_pool_create(fs_backbone_kv_shape(m.backbone), 64, &m.kv), &d);
    must(fs_kv_pool_create(fs_pregate_kv_shape(m.pregate), 64, &m.pregate_kv), &d);
    must(fs_batch_create(m.backbone, MAX_ROWS, &m.batch), &d);
    size_t n = (size_t)m.config.num_moe_layers * m.config.num_experts;
    m.expert = calloc(n, sizeof(*m.expert));
    assert_non_null(m.expert);
    for (size_t i = 0; i < n; i++) {
        fs_expert_range range;
        void *widened = NULL;
        must(fs_expert_find(&m.config, m.tensors, m.config.moe_layer[i / m.config.num_experts],
                            (uint32_t)(i % m.config.num_experts), &range, &d), &d);
        must(fs_expert_open(&m.config, &range, &m.expert[i], &widened, &d), &d);
        assert_null(widened);
    }
    m.scratch = fs_alloc_aligned(fs_expert_scratch_bytes(&m.expert[0], MAX_ROWS));
    assert_non_null(m.scratch);
    json_error_t error;
    m.golden = json_load_file(GOLDEN, 0, &error);
    assert_non_null(m.golden);
    return 0;
}

static int close_model(void **state)
{
    json_decref(m.golden);
    free(m.scratch);
    free(m.expert);
    fs_batch_destroy(m.batch);
    fs_kv_pool_destroy(m.kv);
    fs_kv_pool_destroy(m.pregate_kv);
    fs_pregate_close(m.pregate);
    fs_backbone_close(m.backbone);
    fs_tensors_close(m.tensors);
    return 0;
}

/* A sequence of up to 1024 tokens on pages 0, 1, ... of both pools. */
typedef struct {
    uint32_t token[1024], num_tokens, num_done;
    uint16_t expert[1024 * 64 * 8]; /* [token][layer][top_k] */
    float weight[1024 * 64 * 8];
    float logits[4096 * MAX_ROWS]; /* of the last chunk's rows */
} sequence;

static const uint32_t pages[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                   22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                   44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};

static void experts_of_layer(const sequence *s, uint32_t layer, uint32_t first, uint32_t rows, float *out)
{
    const uint32_t k = m.config.top_k, layers = m.config.num_moe_layers, hidden = m.config.hidden_size;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t j = 0; j < k; j++) {
            uint32_t e = s->expert[((size_t)(first + r) * layers + layer) * k + j];
            const int8_t *x = m.batch->h_i8 + (size_t)r * hidden;
            float *y = out + ((size_t)r * k + j) * hidden;
            fs_expert_rows call = {.num_rows = 1, .x_i8 = &x, .x_scale = &m.batch->h_scale[r], .out = &y};
            fs_expert_run(&m.expert[(size_t)layer * m.config.num_experts + e], &call, m.scratch, m.pool);
        }
}

/* Runs the next `rows` tokens; s->logits holds the logits of each. */
static void run_chunk(sequence *s, uint32_t rows)
{
    const uint32_t k = m.config.top_k, layers = m.config.num_moe_layers, hidden = m.config.hidden_size;
    const uint32_t first = s->num_done;
    fs_batch *b = m.batch;
    b->num_rows = rows;
    uint32_t row[MAX_ROWS];
    for (uint32_t r = 0; r < rows; r++) {
        b->token[r] = s->token[first + r];
        b->position[r] = first + r;
        b->pages[r] = pages;
        row[r] = r;
    }
    fs_status st = fs_pregate_run(m.pregate, b->token, b->position, b->pages, rows, m.pregate_kv, m.pool,
                                  s->expert + (size_t)first * layers * k, s->weight + (size_t)first * layers * k);
    assert_int_equal(st, FS_OK);
    float *out = malloc(sizeof(float) * rows * k * hidden), *weight = malloc(sizeof(float) * rows * k);
    const float **ptr = malloc(sizeof(*ptr) * rows * k);
    assert_true(out && weight && ptr);
    fs_backbone_embed(m.backbone, b, m.pool);
    for (uint32_t layer = 0; layer < layers; layer++) {
        fs_backbone_attention(m.backbone, layer, b, m.kv, m.pool);
        experts_of_layer(s, layer, first, rows, out);
        for (uint32_t i = 0; i < rows * k; i++) {
            weight[i] = s->weight[((size_t)(first + i / k) * layers + layer) * k + i % k];
            ptr[i] = out + (size_t)i * hidden;
        }
        fs_backbone_combine(m.backbone, b, weight, ptr, m.pool);
    }
    fs_backbone_logits(m.backbone, b, row, rows, s->logits, m.pool);
    s->num_done += rows;
    free(out);
    free(weight);
    free(ptr);
}

static void load_prompt(sequence *s, const json_t *prompt)
{
    const json_t *ids = json_object_get(prompt, "token_ids");
    s->num_done = 0;
    s->num_tokens = (uint32_t)json_array_size(ids);
    for (uint32_t i = 0; i < s->num_tokens; i++) s->token[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
}

static double number(const json_t *array, size_t i)
{
    return json_number_value(json_array_get(array, i));
}

static uint32_t argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static sequence s, other;

static void routes_are_the_references(void **state)
{
    size_t i;
    json_t *prompt;
    json_array_foreach(json_object_get(m.golden, "prompts"), i, prompt)
    {
        load_prompt(&s, prompt);
        run_chunk(&s, s.num_tokens);
        const json_t *experts = json_object_get(prompt, "route_expert"), *weights = json_object_get(prompt, "route_weight");
        for (uint32_t t = 0; t < s.num_tokens; t++)
            for (uint32_t l = 0; l < m.config.num_moe_layers; l++)
                for (uint32_t k = 0; k < m.config.top_k; k++) {
                    size_t at = ((size_t)t * m.config.num_moe_layers + l) * m.config.top_k + k;
                    const json_t *e = json_array_get(json_array_get(experts, t), l);
                    const json_t *w = json_array_get(json_array_get(weights, t), l);
                    assert_int_equal(s.expert[at], json_integer_value(json_array_get(e, k)));
                    assert_true(fabs((double)s.weight[at] - number(w, k)) < 1e-4);
                }
    }
}

/* The last prompt position's logits and every position's log probability of the next token. */
static void logits_agree_with_the_reference(void **state)
{
    double worst = 0;
    size_t i;
    json_t *prompt;
    const uint32_t vocab = m.config.vocab_size;
    json_array_foreach(json_object_get(m.golden, "prompts"), i, prompt)
    {
        load_prompt(&s, prompt);
        run_chunk(&s, s.num_tokens);
        const json_t *want = json_object_get(prompt, "last_logits");
        const float *got = s.logits + (size_t)(s.num_tokens - 1) * vocab;
        double largest = 0, diff = 0;
        for (uint32_t v = 0; v < vocab; v++) {
            largest = fmax(largest, fabs(number(want, v)));
            diff = fmax(diff, fabs(number(want, v) - (double)got[v]));
        }
        worst = fmax(worst, diff / largest);
        assert_true(diff <= (double)TOLERANCE * largest);
        const json_t *logprob = json_object_get(prompt, "prompt_logprob");
        for (uint32_t t = 0; t + 1 < s.num_tokens; t++) {
            const float *row = s.logits + (size_t)t * vocab;
            double sum = 0, top = (double)row[argmax(row, vocab)];
            for (uint32_t v = 0; v < vocab; v++) sum += exp((double)row[v] - top);
            assert_true(fabs((double)row[s.token[t + 1]] - top - log(sum) - number(logprob, t)) < 2e-2);
        }
    }
    print_message("largest difference of a logit, of the largest logit: %.2g\n", worst);
}

static void greedy_text_is_the_references(void **state)
{
    size_t i;
    json_t *prompt;
    const uint32_t vocab = m.config.vocab_size;
    json_array_foreach(json_object_get(m.golden, "prompts"), i, prompt)
    {
        load_prompt(&s, prompt);
        run_chunk(&s, s.num_tokens);
        const float *row = s.logits + (size_t)(s.num_tokens - 1) * vocab;
        const json_t *greedy = json_object_get(prompt, "greedy");
        for (size_t n = 0; n < json_array_size(greedy); n++) {
            uint32_t token = argmax(row, vocab);
            assert_int_equal(token, json_integer_value(json_array_get(greedy, n)));
            s.token[s.num_tokens++] = token;
            run_chunk(&s, 1);
            row = s.logits;
        }
    }
}

static void chunks_and_threads_do_not_change_a_bit(void **state)
{
    static const uint32_t chunk[] = {1, 7, 16, 64};
    const uint32_t vocab = m.config.vocab_size, n = 150;
    fs_detail d = {0};
    s.num_done = other.num_done = 0;
    for (uint32_t i = 0; i < n; i++) s.token[i] = other.token[i] = (i * 2654435761u) % vocab;
    run_chunk(&s, n);
    const float *want = s.logits + (size_t)(n - 1) * vocab;
    for (size_t c = 0; c < sizeof(chunk) / sizeof(chunk[0]); c++) {
        other.num_done = 0;
        must(fs_pool_create(1 + (uint32_t)c, &m.pool), &d);
        uint32_t rows = 0;
        while (other.num_done < n) {
            rows = n - other.num_done < chunk[c] ? n - other.num_done : chunk[c];
            run_chunk(&other, rows);
        }
        fs_pool_destroy(m.pool);
        m.pool = NULL;
        assert_memory_equal(other.logits + (size_t)(rows - 1) * vocab, want, sizeof(float) * vocab);
    }
}

static uint64_t digest_of_a_prompt(void)
{
    const uint32_t n = 200;
    s.num_done = 0;
    for (uint32_t i = 0; i < n; i++) s.token[i] = (i * 40503u + 7) % m.config.vocab_size;
    run_chunk(&s, n);
    return XXH3_64bits(s.logits, sizeof(float) * n * m.config.vocab_size);
}

/* Runs this program again under each cap of FORESIGHT_ISA (the choice is made once a process) and compares. */
static void every_instruction_set_gives_the_same_bits(void **state)
{
    char self[4096] = {0}, command[4200];
    assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    uint64_t want = digest_of_a_prompt();
    static const char *const isa[] = {"scalar", "avx2", "avx512"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(command, sizeof(command), "FORESIGHT_ISA=%s '%s' digest", isa[i], self);
        FILE *child = popen(command, "r");
        assert_non_null(child);
        unsigned long long got = 0;
        assert_int_equal(fscanf(child, "%llx", &got), 1);
        assert_int_equal(pclose(child), 0);
        if (got != want) fail_msg("%s gives %llx, the default %llx", isa[i], got, (unsigned long long)want);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "digest") == 0) {
        open_model(NULL);
        printf("%llx\n", (unsigned long long)digest_of_a_prompt());
        return close_model(NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_are_the_references),
        cmocka_unit_test(logits_agree_with_the_reference),
        cmocka_unit_test(greedy_text_is_the_references),
        cmocka_unit_test(chunks_and_threads_do_not_change_a_bit),
        cmocka_unit_test(every_instruction_set_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
