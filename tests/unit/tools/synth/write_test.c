/* tests/unit/tools/synth/write_test.c: what is written opens, is the same on any number of threads, and its routes are spread as asked.
 * links: synth backbone
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backbone/pregate.h"
#include "base/random.h"
#include "model/safetensors.h"
#include "sub1/files.h"
#include "synth/synth.h"

static const fs_synth_shape tiny = {.name = "tiny",
                                    .hidden_size = 80,
                                    .moe_intermediate_size = 48,
                                    .num_layers = 3,
                                    .num_experts = 6,
                                    .top_k = 2,
                                    .num_heads = 4,
                                    .num_kv_heads = 2,
                                    .head_dim = 16,
                                    .vocab_size = 300,
                                    .max_positions = 128,
                                    .norm_topk_prob = true,
                                    .rope_theta = 1e4,
                                    .rms_norm_eps = 1e-5,
                                    .pregate_hidden_size = 32,
                                    .pregate_num_layers = 1,
                                    .pregate_num_heads = 2,
                                    .pregate_intermediate_size = 64};

typedef struct {
    char base[64], path[96];
} place;

static place make_place(void)
{
    place p;
    snprintf(p.base, sizeof(p.base), "/tmp/fs-synth-XXXXXX");
    assert_non_null(mkdtemp(p.base));
    snprintf(p.path, sizeof(p.path), "%s/out", p.base);
    return p;
}

static uint32_t remove_dir(const char *path)
{
    uint32_t count = 0;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.') count++, unlinkat(dirfd(dir), e->d_name, 0);
    if (dir) closedir(dir);
    rmdir(path);
    return count;
}

static void remove_place(const place *p)
{
    remove_dir(p->path);
    assert_int_equal(rmdir(p->base), 0); /* nothing else was left */
}

static fs_status try_write(const fs_synth_shape *shape, const fs_synth_options *options, uint32_t threads,
                           const fs_synth_hooks *hooks, const place *to, fs_detail *detail)
{
    static const fs_synth_hooks none = {0};
    fs_synth_plan plan;
    fs_pool *pool = NULL;
    assert_int_equal(fs_pool_create(threads, &pool), FS_OK);
    fs_status st = fs_synth_plan_make(shape, options, &plan, detail);
    if (st == FS_OK) st = fs_synth_write(&plan, to->path, pool, hooks ? hooks : &none, detail);
    fs_synth_plan_fini(&plan);
    fs_pool_destroy(pool);
    return st;
}

static void write_model(const fs_synth_shape *shape, fs_synth_options options, uint32_t threads,
                        const place *to)
{
    fs_detail detail = {0};
    if (try_write(shape, &options, threads, NULL, to, &detail) != FS_OK) fail_msg("%s", detail.text);
}

typedef struct {
    fs_model_config config;
    fs_tensors *tensors;
} model;

static model open_model(const place *at)
{
    model m;
    fs_detail detail = {0};
    if (fs_model_config_load(at->path, &m.config, &detail) != FS_OK) fail_msg("%s", detail.text);
    if (fs_tensors_open(at->path, &m.tensors, &detail) != FS_OK) fail_msg("%s", detail.text);
    return m;
}

static void every_format_opens_whole(void **state)
{
    for (int format = FS_SYNTH_BLOCKED_1; format <= FS_SYNTH_BF16; format++) {
        place at = make_place();
        write_model(&tiny, (fs_synth_options){.format = (fs_synth_format)format, .shard_bytes = 20000}, 2,
                    &at);
        model m = open_model(&at);
        fs_backbone *backbone = NULL;
        fs_pregate *pregate = NULL;
        fs_detail detail = {0};
        assert_int_equal(m.config.expert_storage,
                         format == FS_SYNTH_BF16 ? FS_EXPERTS_DENSE : FS_EXPERTS_SUB1);
        assert_true(fs_tensors_num_files(m.tensors) > 4);
        if (fs_backbone_open(&m.config, m.tensors, &backbone, &detail) != FS_OK) fail_msg("%s", detail.text);
        if (fs_pregate_open(&m.config, m.tensors, &pregate, &detail) != FS_OK) fail_msg("%s", detail.text);
        for (uint32_t l = 0; l < 3; l++)
            for (uint32_t e = 0; e < 6; e++) {
                fs_expert_range range;
                fs_expert expert;
                void *widened = NULL;
                assert_int_equal(fs_expert_find(&m.config, m.tensors, l, e, &range, &detail), FS_OK);
                assert_int_equal(fs_expert_open(&m.config, &range, &expert, &widened, &detail), FS_OK);
                free(widened);
            }
        fs_pregate_close(pregate);
        fs_backbone_close(backbone);
        fs_tensors_close(m.tensors);
        remove_place(&at);
    }
}

/* Whether both have the same tensors with the same bytes; only those that b has, if it is a slice. */
static bool same_tensors(const place *a, const place *b, const char *except)
{
    model x = open_model(a), y = open_model(b);
    bool same = true;
    for (uint32_t i = 0; i < fs_tensors_count(y.tensors); i++) {
        const fs_tensor *t = fs_tensors_at(y.tensors, i), *u = fs_tensors_find(x.tensors, t->name);
        if (except && strstr(t->name, except)) continue;
        same = same && u && u->size == t->size && memcmp(u->data, t->data, t->size) == 0;
    }
    fs_tensors_close(x.tensors);
    fs_tensors_close(y.tensors);
    return same;
}

static void bytes_depend_on_the_seed_and_not_on_threads(void **state)
{
    fs_synth_shape larger = tiny; /* tensors of several units */
    larger.vocab_size = 20000;
    for (int format = FS_SYNTH_BLOCKED_1; format <= FS_SYNTH_BF16; format++) {
        place a = make_place(), b = make_place(), c = make_place();
        const fs_synth_format f = (fs_synth_format)format;
        write_model(&larger, (fs_synth_options){.format = f, .seed = 1}, 1, &a);
        write_model(&larger, (fs_synth_options){.format = f, .seed = 1}, 5, &b);
        write_model(&larger, (fs_synth_options){.format = f, .seed = 2}, 1, &c);
        assert_true(same_tensors(&a, &b, NULL));
        assert_false(same_tensors(&a, &c, NULL));
        remove_place(&a);
        remove_place(&b);
        remove_place(&c);
    }
}

static void formats_and_shards_share_the_backbone(void **state)
{
    place a = make_place(), b = make_place();
    write_model(&tiny, (fs_synth_options){.format = FS_SYNTH_BF16}, 1, &a);
    write_model(&tiny, (fs_synth_options){.format = FS_SYNTH_FREE, .shard_bytes = 1}, 2, &b);
    assert_true(same_tensors(&a, &b, ".experts."));
    remove_place(&a);
    remove_place(&b);
}

/* ---- what the weights do ---- */

typedef struct {
    double share[64]; /* of tokens, by expert of layer 0, largest first */
} usage;

static int falling(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static usage measure(const place *at)
{
    enum { WINDOWS = 60, LENGTH = 64 };
    model m = open_model(at);
    fs_pregate *pregate = NULL;
    fs_kv_pool *kv = NULL;
    uint32_t pages[LENGTH / FS_KV_PAGE_TOKENS], token[LENGTH], position[LENGTH];
    const uint32_t *row_pages[LENGTH];
    uint16_t *expert = calloc((size_t)LENGTH * m.config.num_layers * m.config.top_k, sizeof(*expert));
    float *weight = calloc((size_t)LENGTH * m.config.num_layers * m.config.top_k, sizeof(*weight));
    usage u = {0};
    fs_random random = {4};
    assert_int_equal(fs_pregate_open(&m.config, m.tensors, &pregate, NULL), FS_OK);
    assert_int_equal(fs_kv_pool_create(fs_pregate_kv_shape(pregate), LENGTH / FS_KV_PAGE_TOKENS, &kv), FS_OK);
    assert_int_equal(fs_kv_acquire(kv, LENGTH / FS_KV_PAGE_TOKENS, pages), FS_OK);
    for (uint32_t w = 0; w < WINDOWS; w++) {
        for (uint32_t r = 0; r < LENGTH; r++) {
            token[r] = fs_random_below(&random, m.config.vocab_size);
            position[r] = r;
            row_pages[r] = pages;
        }
        assert_int_equal(
            fs_pregate_run(pregate, token, position, row_pages, LENGTH, kv, NULL, expert, weight), FS_OK);
        for (uint32_t r = 0; r < LENGTH; r++)
            for (uint32_t k = 0; k < m.config.top_k; k++) {
                const size_t i = (size_t)r * m.config.num_layers * m.config.top_k + k;
                u.share[expert[i]] += 1.0 / (WINDOWS * LENGTH);
                assert_true(isfinite(weight[i]) && weight[i] > 0);
            }
    }
    qsort(u.share, m.config.num_experts, sizeof(u.share[0]), falling);
    fs_kv_pool_destroy(kv);
    fs_pregate_close(pregate);
    fs_tensors_close(m.tensors);
    free(expert);
    free(weight);
    return u;
}

static fs_synth_shape with_experts(uint32_t num_experts, uint32_t top_k)
{
    fs_synth_shape s = tiny;
    s.num_experts = num_experts;
    s.top_k = top_k;
    s.num_layers = 1;
    s.vocab_size = 4000;
    s.pregate_hidden_size = 256;
    return s;
}

static void without_skew_experts_are_used_alike(void **state)
{
    const fs_synth_shape shape = with_experts(64, 8);
    place at = make_place();
    write_model(&shape, (fs_synth_options){.format = FS_SYNTH_BLOCKED_1}, 2, &at);
    usage u = measure(&at);
    print_message("most used %.3f, least used %.3f of tokens, 0.125 would be even\n", u.share[0],
                  u.share[63]);
    assert_true(u.share[0] < 0.125 * 1.7 && u.share[63] > 0.125 / 1.7);
    remove_place(&at);
}

static void with_skew_use_falls_as_zipf_says(void **state)
{
    const fs_synth_shape shape = with_experts(64, 4);
    for (double z = 0.5; z <= 1; z += 0.5) {
        double sum = 0, wanted[64];
        for (int i = 0; i < 64; i++) sum += pow(i + 1, -z);
        for (int i = 0; i < 64; i++) wanted[i] = fmin(1, 4 * pow(i + 1, -z) / sum);
        place at = make_place();
        write_model(&shape, (fs_synth_options){.format = FS_SYNTH_BLOCKED_1, .skew = z}, 2, &at);
        usage u = measure(&at);
        for (int i = 0; i < 64; i += 7)
            print_message("skew %.1f, place %2d: %.4f of tokens, %.4f wanted\n", z, i + 1, u.share[i],
                          wanted[i]);
        for (int i = 0; i < 32; i++)
            assert_true(u.share[i] > wanted[i] / 1.6 && u.share[i] < wanted[i] * 1.6);
        remove_place(&at);
    }
}

/* ---- refusals ---- */

static void what_is_there_is_not_touched(void **state)
{
    place at = make_place();
    const fs_synth_options options = {.format = FS_SYNTH_BLOCKED_2};
    fs_detail detail = {0};
    assert_int_equal(mkdir(at.path, 0755), 0);
    assert_int_equal(try_write(&tiny, &options, 1, NULL, &at, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "is there already"));
    assert_int_equal(remove_dir(at.path), 0);
    remove_place(&at);
}

static bool always(void *arg)
{
    return true;
}

static bool after_three(void *arg)
{
    return ++*(int *)arg > 3;
}

static void a_stopped_run_leaves_nothing(void **state)
{
    int asked = 0;
    const fs_synth_hooks at_once = {.stopped = always}, later = {.stopped = after_three, .arg = &asked};
    const fs_synth_options options = {.format = FS_SYNTH_BF16};
    fs_synth_shape large = tiny;
    large.vocab_size = 1 << 20;
    fs_detail detail = {0};
    place at = make_place();
    assert_int_equal(try_write(&tiny, &options, 2, &at_once, &at, &detail), FS_CANCELLED);
    assert_int_equal(try_write(&large, &options, 2, &later, &at, &detail), FS_CANCELLED);
    remove_place(&at);
}

static void shapes_that_cannot_be_are_refused(void **state)
{
    fs_synth_shape few_tokens = tiny, odd = tiny, crowd = tiny;
    fs_synth_plan plan;
    few_tokens.vocab_size = 256;
    odd.hidden_size = 88;
    crowd.num_experts = FS_MAX_EXPERTS + 1;
    const struct {
        fs_synth_shape shape;
        fs_synth_options options;
        const char *word;
    } wrong[] = {{few_tokens, {.format = FS_SYNTH_BF16}, "vocab_size"},
                 {odd, {.format = FS_SYNTH_FREE}, "multiple of 16"},
                 {crowd, {.format = FS_SYNTH_BF16}, "num_experts"},
                 {tiny, {.format = FS_SYNTH_BF16, .num_layers = 4}, "--layers"}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        fs_detail detail = {0};
        assert_int_equal(fs_synth_plan_make(&wrong[i].shape, &wrong[i].options, &plan, &detail), FS_INVALID);
        assert_non_null(strstr(detail.text, wrong[i].word));
        fs_synth_plan_fini(&plan);
    }
    assert_int_equal(fs_synth_plan_make(&odd, &(fs_synth_options){.format = FS_SYNTH_BF16}, &plan, NULL),
                     FS_OK);
    fs_synth_plan_fini(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_opens_whole),
        cmocka_unit_test(bytes_depend_on_the_seed_and_not_on_threads),
        cmocka_unit_test(formats_and_shards_share_the_backbone),
        cmocka_unit_test(without_skew_experts_are_used_alike),
        cmocka_unit_test(with_skew_use_falls_as_zipf_says),
        cmocka_unit_test(what_is_there_is_not_touched),
        cmocka_unit_test(a_stopped_run_leaves_nothing),
        cmocka_unit_test(shapes_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
