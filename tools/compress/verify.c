/* tools/compress/verify.c: the directory that was written, opened as a process opens it, is the input, weight for weight. */
#include <stdlib.h>
#include <string.h>

#include "compress.h"
#include "sub1/files.h"

typedef struct {
    const fs_input *in;
    fs_model_config config; /* of what was written */
    fs_tensors *written;
    fs_check_fn *check;
    void *arg;
} verifier;

static bool same_tensor(const fs_tensor *a, const fs_tensor *b)
{
    const bool same = a->dtype == b->dtype && a->num_dims == b->num_dims &&
                      memcmp(a->shape, b->shape, sizeof(a->shape)) == 0 && a->size == b->size &&
                      memcmp(a->data, b->data, a->size) == 0;
    fs_tensor_release(a);
    fs_tensor_release(b);
    return same;
}

/* Every tensor that was written and is not compressed has the input's bytes; with the experts' below, none is missing. */
static fs_status verify_backbone(const verifier *v, fs_detail *detail)
{
    uint32_t count = fs_tensors_count(v->written);
    for (uint32_t i = 0; i < count; i++) {
        const fs_tensor *t = fs_tensors_at(v->written, i), *source = fs_tensors_find(v->in->tensors, t->name);
        if (t->dtype == FS_DTYPE_U8 && !source) continue;
        if (!source || !same_tensor(t, source))
            return fs_fail(detail, FS_CORRUPT, "%s: %s is not what the input has",
                           fs_tensors_file_path(v->written, t->file), t->name);
        if (fs_compress_stopped()) return fs_fail(detail, FS_CANCELLED, "stopped");
    }
    if (count == fs_tensors_count(v->in->tensors)) return FS_OK;
    return fs_fail(detail, FS_CORRUPT, "%u tensors were written, the input has %u", count,
                   fs_tensors_count(v->in->tensors));
}

static fs_status verify_expert(void *arg, uint32_t worker, uint32_t layer, uint32_t expert, fs_detail *detail)
{
    const verifier *v = arg;
    fs_expert_range range;
    fs_expert opened;
    void *widened = NULL;
    fs_status st = fs_expert_find(&v->config, v->written, layer, expert, &range, detail);
    if (st == FS_OK) st = fs_expert_open(&v->config, &range, &opened, &widened, detail);
    if (st == FS_OK) st = v->check(v->arg, worker, layer, expert, &range, &opened, detail);
    free(widened);
    for (int i = 0; st == FS_OK && i < FS_NUM_EXPERT_PARTS; i++) fs_tensor_release(range.part[i]);
    return st;
}

static fs_status open_written(verifier *v, const char *dir, fs_detail *detail)
{
    fs_status st = fs_model_config_load(dir, &v->config, detail);
    if (st == FS_OK) st = fs_tensors_open(dir, &v->written, detail);
    if (st == FS_OK && v->config.expert_storage != FS_EXPERTS_SUB1)
        st = fs_fail(detail, FS_INTERNAL, "%s/config.json: does not say that the experts are compressed",
                     dir);
    return st;
}

fs_status fs_verify_written(const fs_input *in, const char *dir, fs_pool *pool, fs_check_fn *check, void *arg,
                            fs_detail *detail)
{
    verifier v = {.in = in, .check = check, .arg = arg};
    fs_status st = open_written(&v, dir, detail);
    if (st == FS_OK) st = verify_backbone(&v, detail);
    for (uint32_t l = 0; st == FS_OK && l < in->config.num_moe_layers; l++)
        st = fs_each_expert(&in->config, in->config.moe_layer[l], pool, verify_expert, NULL, &v, detail);
    fs_tensors_close(v.written);
    return st;
}

/* ---- weight for weight ---- */

typedef struct {
    const fs_input *in;
    float *w, *back; /* [workers][stride] */
    size_t stride;
} comparer;

/* Compared as numbers: -0 is packed as 0. */
static fs_status compare(const float *expected, const float *found, const fs_tensor *t, fs_detail *detail)
{
    size_t cols = t->shape[1], weights = t->shape[0] * cols;
    for (size_t i = 0; i < weights; i++)
        if (!(expected[i] == found[i]))
            return fs_fail(detail, FS_CORRUPT, "%s: row %zu, column %zu: %g was written as %g", t->name,
                           i / cols, i % cols, (double)expected[i], (double)found[i]);
    return FS_OK;
}

static fs_status compare_expert(void *arg, uint32_t worker, uint32_t layer, uint32_t expert,
                                const fs_expert_range *range, const fs_expert *opened, fs_detail *detail)
{
    const comparer *c = arg;
    fs_expert_range source;
    fs_status st = fs_expert_find(&c->in->config, c->in->tensors, layer, expert, &source, detail);
    float *w = c->w + worker * c->stride, *back = c->back + worker * c->stride;
    for (int i = 0; st == FS_OK && i < FS_NUM_EXPERT_PARTS; i++) {
        fs_tensor_to_f32(source.part[i], w);
        fs_tensor_release(source.part[i]);
        fs_sub1_decode(&opened->sub1[i], back);
        st = compare(w, back, source.part[i], detail);
    }
    return st;
}

fs_status fs_verify(const fs_input *in, const char *dir, fs_pool *pool, fs_detail *detail)
{
    comparer c = {.in = in, .stride = fs_max_part_weights(&in->config)};
    const size_t bytes = sizeof(float) * c.stride * fs_num_workers(pool);
    c.w = fs_alloc_aligned(bytes);
    c.back = fs_alloc_aligned(bytes);
    fs_status st = c.w && c.back ? fs_verify_written(in, dir, pool, compare_expert, &c, detail)
                                 : fs_fail(detail, FS_NO_MEMORY, "no memory to verify");
    free(c.w);
    free(c.back);
    return st;
}
