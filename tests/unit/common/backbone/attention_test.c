/* Attention over pages agrees with the textbook in double, for head sizes and groups of all kinds, and survives extreme scores. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backbone/backbone_int.h"
#include "base/random.h"

#define LAYER 1u

/* One sequence of num_keys keys in scattered pages, and queries at a few positions. */
typedef struct {
    fs_attention_shape shape;
    fs_kv_pool *kv;
    uint32_t num_keys, num_rows;
    uint32_t *pages, position[4];
    const uint32_t *row_pages[4];
    float *q, *part, *out;
} fixture;

static float *key_at(const fixture *f, uint32_t key, uint32_t head, uint32_t which)
{
    float *plane = fs_kv_at(f->kv, f->pages[key / FS_KV_PAGE_TOKENS], LAYER, which);
    return plane + ((size_t)head * FS_KV_PAGE_TOKENS + key % FS_KV_PAGE_TOKENS) * f->shape.head_dim;
}

static void setup(fixture *f, fs_attention_shape shape, uint32_t num_keys, float size)
{
    fs_random r = {num_keys + shape.head_dim};
    uint32_t num_pages = fs_kv_pages_for(num_keys);
    size_t q_size = (size_t)shape.num_heads * shape.head_dim;
    *f = (fixture){
        .shape = shape, .num_keys = num_keys, .num_rows = 4, .pages = calloc(num_pages, sizeof *f->pages)};
    assert_int_equal(
        fs_kv_pool_create((fs_kv_shape){2, shape.num_kv_heads, shape.head_dim}, num_pages, &f->kv), FS_OK);
    assert_int_equal(fs_kv_acquire(f->kv, num_pages, f->pages), FS_OK);
    for (uint32_t i = num_pages; i > 1; i--) {
        uint32_t j = fs_random_below(&r, i), page = f->pages[j];
        f->pages[j] = f->pages[i - 1];
        f->pages[i - 1] = page;
    }
    f->q = calloc(4 * q_size, sizeof *f->q);
    f->part = calloc(4 * q_size, sizeof *f->part);
    f->out = calloc(4 * q_size, sizeof *f->out);
    for (size_t i = 0; i < 4 * q_size; i++) f->q[i] = (fs_random_unit(&r) - 0.5f) * size;
    for (uint32_t key = 0; key < num_keys; key++)
        for (uint32_t i = 0; i < 2 * shape.num_kv_heads * shape.head_dim; i++)
            key_at(f, key, i / 2 / shape.head_dim,
                   i % 2)[i / 2 % shape.head_dim] = (fs_random_unit(&r) - 0.5f) * size;
    for (uint32_t row = 0; row < 4; row++) {
        f->position[row] = row == 3 ? num_keys - 1 : fs_random_below(&r, num_keys);
        f->row_pages[row] = f->pages;
    }
}

static void teardown(fixture *f)
{
    fs_kv_pool_destroy(f->kv);
    free(f->pages);
    free(f->q);
    free(f->part);
    free(f->out);
}

static void run(fixture *f)
{
    fs_attention_run(NULL, fs_kernels_best(), &f->shape, f->kv, LAYER, f->position, f->row_pages, f->num_rows,
                     f->q, f->part, f->out);
}

static double score_of(const fixture *f, const float *q, uint32_t key, uint32_t kv_head)
{
    double dot = 0;
    const float *k = key_at(f, key, kv_head, 0);
    for (uint32_t i = 0; i < f->shape.head_dim; i++) dot += (double)q[i] * (double)k[i];
    return dot / sqrt(f->shape.head_dim);
}

static void check_head(const fixture *f, uint32_t row, uint32_t head, double tolerance)
{
    const uint32_t dim = f->shape.head_dim, kv_head = head / (f->shape.num_heads / f->shape.num_kv_heads);
    size_t at = ((size_t)row * f->shape.num_heads + head) * dim;
    double max = -INFINITY, sum = 0, *want = calloc(dim, sizeof *want);
    for (uint32_t key = 0; key <= f->position[row]; key++)
        max = fmax(max, score_of(f, f->q + at, key, kv_head));
    for (uint32_t key = 0; key <= f->position[row]; key++) {
        double e = exp(score_of(f, f->q + at, key, kv_head) - max);
        sum += e;
        for (uint32_t i = 0; i < dim; i++) want[i] += e * (double)key_at(f, key, kv_head, 1)[i];
    }
    for (uint32_t i = 0; i < dim; i++)
        if (!(fabs((double)f->out[at + i] - want[i] / sum) <= tolerance))
            fail_msg("row %u head %u [%u]: %g, not %g", row, head, i, (double)f->out[at + i], want[i] / sum);
    free(want);
}

static void attention_agrees_with_the_definition(void **state)
{
    const fs_attention_shape shape[] = {{1, 1, 2},  {4, 2, 24},  {6, 2, 64},
                                        {3, 3, 17}, {20, 1, 40}, {9, 1, 130}};
    const uint32_t num_keys[] = {1, 15, 16, 17, 255, 256, 257, 800};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
        for (size_t n = 0; n < sizeof num_keys / sizeof num_keys[0]; n++) {
            fixture f;
            setup(&f, shape[s], num_keys[n], 3.0f);
            run(&f);
            for (uint32_t row = 0; row < f.num_rows; row++)
                for (uint32_t head = 0; head < shape[s].num_heads; head++) check_head(&f, row, head, 1e-5);
            teardown(&f);
        }
}

/* Scores of some thousands: only the difference to the largest may reach exp. */
static void extreme_scores_do_not_overflow(void **state)
{
    fixture f;
    setup(&f, (fs_attention_shape){2, 1, 64}, 700, 80.0f);
    run(&f);
    for (uint32_t row = 0; row < f.num_rows; row++)
        for (uint32_t head = 0; head < 2; head++) check_head(&f, row, head, 0.02);
    teardown(&f);
}

static void keys_after_the_row_do_not_count(void **state)
{
    fixture f;
    setup(&f, (fs_attention_shape){4, 2, 24}, 600, 3.0f);
    f.position[0] = 100;
    f.position[1] = 300;
    f.num_rows = 2;
    size_t n = (size_t)2 * 4 * 24;
    run(&f);
    float *want = calloc(n, sizeof *want);
    memcpy(want, f.out, n * sizeof *want);
    for (uint32_t key = 301; key < 600; key++)
        for (uint32_t i = 0; i < 2 * 2 * 24; i++) key_at(&f, key, i / 48, i % 2)[i / 2 % 24] = NAN;
    run(&f);
    assert_memory_equal(f.out, want, n * sizeof *want);
    free(want);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_agrees_with_the_definition),
        cmocka_unit_test(extreme_scores_do_not_overflow),
        cmocka_unit_test(keys_after_the_row_do_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
