/* tools/cli/summary.c: what a model directory holds, by part. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "model/safetensors.h"
#include "sub1/files.h"

/* In order: the first whose mark is in the tensor's name has it. */
static const struct {
    const char *part, *mark;
} parts[FS_SUMMARY_PARTS] = {
    {"experts", ".mlp.experts."},
    {"pre-gate", "model.router."},
    {"embedding", "embed_tokens"},
    {"attention", ".self_attn."},
    {"shared experts", ".shared_expert"},
    {"norms", "norm"},
    {"head", "lm_head"},
    {"other", ""},
};

static void add_tensor(fs_summary *s, const fs_tensor *t, uint64_t weights)
{
    uint32_t i = 0;
    while (!strstr(t->name, parts[i].mark)) i++; /* the last mark is in every name */
    fs_summary_part *p = &s->part[i];
    p->tensors++;
    p->weights += weights;
    p->bytes += t->size;
    s->weights += weights;
    s->bytes += t->size;
}

/* A compressed tensor's shape is its bytes; its weights are what the model sees. */
static uint64_t weights_of(const fs_model_config *config, const fs_tensor *t)
{
    static const struct {
        const char *ending;
        fs_expert_part part;
    } compressed[] = {
        {".gate_proj.sub1", FS_PART_GATE}, {".up_proj.sub1", FS_PART_UP}, {".down_proj.sub1", FS_PART_DOWN}};
    size_t len = strlen(t->name);
    for (size_t i = 0; i < sizeof(compressed) / sizeof(*compressed); i++) {
        size_t ending = strlen(compressed[i].ending);
        if (len < ending || strcmp(t->name + len - ending, compressed[i].ending) != 0) continue;
        uint32_t rows, cols;
        fs_expert_part_shape(config, compressed[i].part, &rows, &cols);
        return (uint64_t)rows * cols;
    }
    return t->size / fs_dtype_size(t->dtype);
}

static fs_status check_experts(const fs_model_config *config, const fs_tensors *tensors, bool verify,
                               fs_detail *detail)
{
    fs_status st = FS_OK;
    for (uint32_t l = 0; st == FS_OK && l < config->num_moe_layers; l++) {
        for (uint32_t e = 0; st == FS_OK && e < config->num_experts; e++) {
            fs_expert_range range;
            fs_expert expert;
            void *widened = NULL;
            st = fs_expert_find(config, tensors, config->moe_layer[l], e, &range, detail);
            if (st == FS_OK && verify) st = fs_expert_open(config, &range, &expert, &widened, detail);
            free(widened);
        }
    }
    return st;
}

/* Parts that the model has not are left out. */
static void close_ranks(fs_summary *s)
{
    for (uint32_t i = 0; i < FS_SUMMARY_PARTS; i++) {
        s->part[i].part = parts[i].part;
        if (s->part[i].tensors > 0) s->part[s->num_parts++] = s->part[i];
    }
}

fs_status fs_summary_load(const char *dir, bool verify, fs_summary *out, fs_detail *detail)
{
    fs_summary *s = calloc(1, sizeof(*s));
    fs_tensors *tensors = NULL;
    if (!s) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", dir);
    fs_status st = fs_model_config_load(dir, &s->config, detail);
    if (st == FS_OK) st = fs_tensors_open(dir, &tensors, detail);
    if (st == FS_OK) st = fs_model_fingerprint(dir, tensors, &s->fingerprint, detail);
    if (st == FS_OK) st = check_experts(&s->config, tensors, verify, detail);
    if (st == FS_OK) {
        for (uint32_t i = 0; i < fs_tensors_count(tensors); i++) {
            const fs_tensor *t = fs_tensors_at(tensors, i);
            add_tensor(s, t, weights_of(&s->config, t));
        }
        s->num_files = fs_tensors_num_files(tensors);
        for (uint32_t i = 0; i < s->num_files; i++) s->file_bytes += fs_tensors_file_size(tensors, i);
        close_ranks(s);
        *out = *s;
    }
    fs_tensors_close(tensors);
    free(s);
    return st;
}

double fs_bits_per_weight(const fs_summary_part *part)
{
    return part->weights ? 8.0 * (double)part->bytes / (double)part->weights : 0;
}
