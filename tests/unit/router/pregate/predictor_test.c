/* tests/unit/router/pregate/predictor_test.c: what a table of transitions learns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "pregate/predictor.h"

enum { LAYERS = 4, EXPERTS = 16, TOP_K = 2, AHEAD = 2 };

static fs_predictor *create(void)
{
    fs_predictor *p = NULL;
    const fs_predictor_options o = {LAYERS, EXPERTS, TOP_K, AHEAD};
    assert_int_equal(fs_predictor_create(&o, &p), FS_OK);
    return p;
}

/* Each layer's experts are the layer's before, moved on by a step. */
static void shifted(fs_random *r, uint32_t step, uint16_t route[LAYERS * TOP_K])
{
    uint16_t a = (uint16_t)fs_random_below(r, EXPERTS), b = (uint16_t)((a + 5) % EXPERTS);
    for (uint32_t l = 0; l < LAYERS; l++) {
        route[l * TOP_K] = (uint16_t)((a + l * step) % EXPERTS);
        route[l * TOP_K + 1] = (uint16_t)((b + l * step) % EXPERTS);
    }
}

static double recall_of(fs_predictor *p, fs_random *r, uint32_t step, uint32_t distance)
{
    fs_prediction_score score = {0};
    uint16_t route[LAYERS * TOP_K], out[TOP_K];
    for (int i = 0; i < 200; i++) {
        shifted(r, step, route);
        for (uint32_t l = 0; l + distance < LAYERS; l++) {
            fs_predictor_rank(p, l, route + l * TOP_K, distance, TOP_K, out);
            fs_prediction_add(&score, out, TOP_K, route + (l + distance) * TOP_K, TOP_K);
        }
    }
    assert_int_equal(score.predicted, score.visited);
    return fs_prediction_recall(&score);
}

static void what_always_follows_is_predicted(void **state)
{
    fs_predictor *p = create();
    fs_random r = {1};
    uint16_t route[LAYERS * TOP_K];
    for (int i = 0; i < 1000; i++) {
        shifted(&r, 3, route);
        fs_predictor_learn(p, route);
    }
    for (uint32_t d = 1; d <= AHEAD; d++) assert_true(recall_of(p, &r, 3, d) == 1);
    fs_predictor_destroy(p);
}

static void what_changes_is_learnt_anew(void **state)
{
    fs_predictor *p = create();
    fs_random r = {2};
    uint16_t route[LAYERS * TOP_K];
    for (int i = 0; i < 200000; i++) { /* until counts are full */
        shifted(&r, 3, route);
        fs_predictor_learn(p, route);
    }
    for (int i = 0; i < 1000000; i++) {
        shifted(&r, 7, route);
        fs_predictor_learn(p, route);
    }
    assert_true(recall_of(p, &r, 7, 1) == 1);
    fs_predictor_destroy(p);
}

static void the_unseen_is_ranked_by_use(void **state)
{
    fs_predictor *p = create();
    const uint16_t route[LAYERS * TOP_K] = {0, 1, 9, 4, 9, 4, 9, 4}, other[TOP_K] = {7, 8};
    uint16_t out[3];
    fs_predictor_rank(p, 0, other, 1, 3, out);
    assert_true(out[0] == 0 && out[1] == 1 && out[2] == 2); /* nothing is known: the lower number */
    fs_predictor_learn(p, route);
    fs_predictor_rank(p, 0, other, 1, 3, out);
    assert_true(out[0] == 4 && out[1] == 9 && out[2] == 0);
    fs_predictor_destroy(p);
}

static void impossible_options_are_refused(void **state)
{
    static const fs_predictor_options bad[] = {{1, 8, 2, 1}, {4, 8, 2, 4}, {4, 8, 2, 0},
                                               {4, 8, 9, 1}, {4, 0, 0, 1}, {4, 70000, 2, 1}};
    fs_predictor *p = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(fs_predictor_create(&bad[i], &p), FS_INVALID);
    assert_null(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_always_follows_is_predicted),
        cmocka_unit_test(what_changes_is_learnt_anew),
        cmocka_unit_test(the_unseen_is_ranked_by_use),
        cmocka_unit_test(impossible_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
