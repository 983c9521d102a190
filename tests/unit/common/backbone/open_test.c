/* Opening a model: what is missing or of another shape is named; how weights are stored does not change a bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backbone/pregate.h"

#define DENSE FS_SOURCE_DIR "/tests/golden/readme_moe_dense"

typedef struct {
    fs_model_config config;
    fs_tensors *tensors;
} files;

static void open_files(files *f, const char *dir)
{
    assert_int_equal(fs_model_config_load(DENSE, &f->config, NULL), FS_OK);
    assert_int_equal(fs_tensors_open(dir, &f->tensors, NULL), FS_OK);
}

static void expect_backbone(const files *f, fs_status want, const char *named)
{
    fs_backbone *backbone = NULL;
    fs_detail detail = {0};
    assert_int_equal(fs_backbone_open(&f->config, f->tensors, &backbone, &detail), want);
    assert_null(backbone);
    assert_non_null(strstr(detail.text, named));
}

static void expect_pregate(const files *f, fs_status want, const char *named)
{
    fs_pregate *pregate = NULL;
    fs_detail detail = {0};
    assert_int_equal(fs_pregate_open(&f->config, f->tensors, &pregate, &detail), want);
    assert_null(pregate);
    assert_non_null(strstr(detail.text, named));
}

static void a_missing_tensor_is_named(void **state)
{
    files f;
    open_files(&f, DENSE);
    f.config.num_layers = 3;
    expect_backbone(&f, FS_NOT_FOUND, "model.layers.2.input_layernorm.weight");
    f.config.pregate_num_layers = 3;
    expect_pregate(&f, FS_NOT_FOUND, "model.router.layers.2.input_layernorm.weight");
    fs_tensors_close(f.tensors);
}

static void a_wrong_shape_is_named(void **state)
{
    files f;
    open_files(&f, DENSE);
    f.config.num_kv_heads = 3;
    expect_backbone(&f, FS_INVALID, "model.layers.0.self_attn.k_proj.weight");
    f.config.vocab_size = 301;
    expect_backbone(&f, FS_INVALID, "model.embed_tokens.weight");
    f.config.vocab_size = 300;
    f.config.num_experts = 6;
    expect_pregate(&f, FS_INVALID, "model.router.head.weight");
    fs_tensors_close(f.tensors);
}

static void a_model_without_a_pregating_network_has_none(void **state)
{
    files f;
    open_files(&f, DENSE);
    f.config.pregate_hidden_size = 0;
    expect_pregate(&f, FS_UNSUPPORTED, "pre-gating network");
    fs_tensors_close(f.tensors);
}

static void an_unknown_family_is_refused(void **state)
{
    files f;
    open_files(&f, DENSE);
    f.config.family = (fs_model_family)99;
    expect_backbone(&f, FS_UNSUPPORTED, "99");
    fs_tensors_close(f.tensors);
}

/* Writes DENSE to dir with every tensor widened to float32; the one named poisoned becomes all NaN. */
static void write_f32(const char *dir, const char *poisoned)
{
    files f;
    char path[1024];
    fs_safetensors_writer *writer = NULL;
    open_files(&f, DENSE);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(fs_safetensors_writer_create(path, 64, &writer, NULL), FS_OK);
    for (uint32_t i = 0; i < fs_tensors_count(f.tensors); i++) {
        const fs_tensor *t = fs_tensors_at(f.tensors, i);
        assert_int_equal(fs_safetensors_writer_declare(writer, t->name, FS_DTYPE_F32, t->num_dims, t->shape),
                         FS_OK);
    }
    for (uint32_t i = 0; i < fs_tensors_count(f.tensors); i++) {
        const fs_tensor *t = fs_tensors_at(f.tensors, i);
        float *wide = malloc(t->size * 2);
        fs_tensor_to_f32(t, wide);
        if (strcmp(t->name, poisoned) == 0) memset(wide, 0xff, t->size * 2);
        assert_int_equal(fs_safetensors_writer_write(writer, wide, t->size * 2, NULL), FS_OK);
        free(wide);
    }
    assert_int_equal(fs_safetensors_writer_finish(writer, NULL), FS_OK);
    fs_safetensors_writer_destroy(writer);
    fs_tensors_close(f.tensors);
}

/* h of the first layer and logits, for a few tokens; [16 * (hidden_size + vocab_size)], the caller's. */
static float *run_a_little(const char *dir, size_t *weight_bytes)
{
    files f;
    fs_backbone *b = NULL;
    fs_batch *batch = NULL;
    fs_kv_pool *kv = NULL;
    uint32_t page, rows[16];
    const uint32_t *pages = &page;
    open_files(&f, dir);
    assert_int_equal(fs_backbone_open(&f.config, f.tensors, &b, NULL), FS_OK);
    assert_int_equal(fs_batch_create(b, 16, &batch), FS_OK);
    assert_int_equal(fs_kv_pool_create(fs_backbone_kv_shape(b), 1, &kv), FS_OK);
    assert_int_equal(fs_kv_acquire(kv, 1, &page), FS_OK);
    batch->num_rows = 16;
    for (uint32_t r = 0; r < 16; r++) {
        batch->token[r] = r * 17 % f.config.vocab_size;
        batch->position[r] = rows[r] = r;
        batch->pages[r] = pages;
    }
    size_t hidden = f.config.hidden_size;
    float *out = calloc(16 * (hidden + f.config.vocab_size), sizeof *out);
    fs_backbone_embed(b, batch, NULL);
    fs_backbone_attention(b, 0, batch, kv, NULL);
    memcpy(out, batch->h, 16 * hidden * sizeof *out);
    fs_backbone_logits(b, batch, rows, 16, out + 16 * hidden, NULL);
    *weight_bytes = fs_backbone_weight_bytes(b);
    fs_kv_pool_destroy(kv);
    fs_batch_destroy(batch);
    fs_backbone_close(b);
    fs_tensors_close(f.tensors);
    return out;
}

static void storage_as_float32_gives_the_same_bits(void **state)
{
    char dir[] = "/tmp/fs_open_test_XXXXXX", path[64];
    size_t narrow_bytes, wide_bytes;
    assert_non_null(mkdtemp(dir));
    write_f32(dir, "");
    float *narrow = run_a_little(DENSE, &narrow_bytes), *wide = run_a_little(dir, &wide_bytes);
    assert_memory_equal(narrow, wide, 16 * (64 + 300) * sizeof *wide);
    assert_int_equal(wide_bytes, 2 * narrow_bytes);
    free(narrow);
    free(wide);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

static void check_routes(const fs_model_config *c, const uint16_t *expert, const float *weight)
{
    for (uint32_t i = 0; i < 3 * c->num_moe_layers; i++) {
        assert_true(expert[2 * i] < c->num_experts && expert[2 * i + 1] < c->num_experts);
        assert_true(expert[2 * i] != expert[2 * i + 1]);
        assert_true(isnan(weight[2 * i]));
    }
}

static void broken_gates_still_name_experts_that_exist(void **state)
{
    char dir[] = "/tmp/fs_open_test_XXXXXX", path[64];
    files f;
    fs_pregate *pregate = NULL;
    fs_kv_pool *kv = NULL;
    uint32_t page;
    const uint32_t token[] = {0, 5, 299}, position[] = {0, 1, 2}, *pages[] = {&page, &page, &page};
    uint16_t expert[3 * 2 * 2];
    float weight[3 * 2 * 2];
    assert_non_null(mkdtemp(dir));
    write_f32(dir, "model.router.head.weight");
    open_files(&f, dir);
    assert_int_equal(fs_pregate_open(&f.config, f.tensors, &pregate, NULL), FS_OK);
    assert_int_equal(fs_kv_pool_create(fs_pregate_kv_shape(pregate), 1, &kv), FS_OK);
    assert_int_equal(fs_kv_acquire(kv, 1, &page), FS_OK);
    assert_int_equal(fs_pregate_run(pregate, token, position, pages, 3, kv, NULL, expert, weight), FS_OK);
    check_routes(&f.config, expert, weight);
    assert_int_equal(fs_pregate_run(pregate, token, position, pages, 0, kv, NULL, expert, weight), FS_OK);
    fs_kv_pool_destroy(kv);
    fs_pregate_close(pregate);
    fs_tensors_close(f.tensors);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

static void combine_adds_in_the_order_of_the_route_and_skips_failed_rows(void **state)
{
    files f;
    fs_backbone *b = NULL;
    fs_batch *batch = NULL;
    open_files(&f, DENSE);
    assert_int_equal(fs_backbone_open(&f.config, f.tensors, &b, NULL), FS_OK);
    assert_int_equal(fs_batch_create(b, 2, &batch), FS_OK);
    assert_int_equal(fs_batch_create(b, 0, &batch), FS_INVALID);
    float first[64], second[64];
    for (int i = 0; i < 64; i++) {
        first[i] = 1e8f;
        second[i] = (float)i;
        batch->x[i] = batch->x[64 + i] = 3.0f;
    }
    const float weight[] = {1.0f, 0.5f, 1.0f, 1.0f}, *out[] = {first, second, NULL, NULL};
    batch->num_rows = 2;
    fs_backbone_combine(b, batch, weight, out, NULL);
    for (int i = 0; i < 64; i++) {
        assert_true(batch->x[i] == 3.0f + (1e8f + 0.5f * (float)i));
        assert_true(batch->x[64 + i] == 3.0f);
    }
    fs_batch_destroy(batch);
    fs_backbone_close(b);
    fs_tensors_close(f.tensors);
    fs_backbone_close(NULL);
    fs_batch_destroy(NULL);
    fs_pregate_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_tensor_is_named),
        cmocka_unit_test(a_wrong_shape_is_named),
        cmocka_unit_test(a_model_without_a_pregating_network_has_none),
        cmocka_unit_test(an_unknown_family_is_refused),
        cmocka_unit_test(storage_as_float32_gives_the_same_bits),
        cmocka_unit_test(broken_gates_still_name_experts_that_exist),
        cmocka_unit_test(combine_adds_in_the_order_of_the_route_and_skips_failed_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
