/* tools/compress/lossless.c: packs a checkpoint whose experts are ternary already: the backbone as it is, a file a layer of experts. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "compress.h"
#include "model/names.h"
#include "rate.h"
#include "sub1/files.h"

enum { FILE_ALIGN = 4096 };
#define MAX_SHARD_BYTES (5ull << 30) /* as Hugging Face cuts them */

/* ---- the backbone ---- */

static int by_address(const void *a, const void *b)
{
    const fs_tensor *x = *(const fs_tensor *const *)a, *y = *(const fs_tensor *const *)b;
    return x < y ? -1 : x > y;
}

/* All experts' tensors, sorted; what is not among them is the backbone. */
typedef struct {
    const fs_tensor **tensor;
    size_t count;
} tensor_set;

static fs_status find_experts(const fs_input *in, tensor_set *out, fs_detail *detail)
{
    const fs_model_config *c = &in->config;
    size_t most = (size_t)c->num_moe_layers * c->num_experts * FS_NUM_EXPERT_PARTS;
    out->tensor = calloc(most, sizeof(*out->tensor));
    if (!out->tensor) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", in->dir);
    for (uint32_t l = 0; l < c->num_moe_layers; l++) {
        for (uint32_t e = 0; e < c->num_experts; e++) {
            fs_expert_range range;
            fs_status st = fs_expert_find(c, in->tensors, c->moe_layer[l], e, &range, detail);
            if (st != FS_OK) return st;
            for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) out->tensor[out->count++] = range.part[i];
        }
    }
    qsort(out->tensor, out->count, sizeof(*out->tensor), by_address);
    return FS_OK;
}

static bool is_expert(const tensor_set *experts, const fs_tensor *t)
{
    return bsearch(&t, experts->tensor, experts->count, sizeof(*experts->tensor), by_address) != NULL;
}

/* The index behind the last tensor of the shard that begins at `first`. */
static uint32_t end_of_shard(const fs_input *in, const tensor_set *experts, uint32_t first)
{
    uint64_t bytes = 0;
    uint32_t i = first;
    for (; i < fs_tensors_count(in->tensors); i++) {
        const fs_tensor *t = fs_tensors_at(in->tensors, i);
        if (is_expert(experts, t)) continue;
        if (bytes && bytes + t->size > MAX_SHARD_BYTES) break;
        bytes += t->size;
    }
    return i;
}

static uint64_t file_size(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
}

/* Tells what went wrong where the writer itself has no detail. */
static fs_status declared(fs_status st, const char *path, const char *tensor, fs_detail *detail)
{
    return st == FS_OK ? st : fs_fail(detail, st, "%s: %s: %s", path, tensor, fs_status_name(st));
}

static fs_status new_writer(const char *path, fs_safetensors_writer **out, fs_detail *detail)
{
    if (!path) return fs_fail(detail, FS_NO_MEMORY, "no memory for a path");
    fs_status st = fs_safetensors_writer_create(path, FILE_ALIGN, out, detail);
    if (st != FS_OK) return st;
    /* transformers refuses files that do not say what framework's layout they have. */
    return declared(fs_safetensors_writer_metadata(*out, "format", "pt"), path, "metadata", detail);
}

/* The backbone's tensors among [first, end). */
static fs_status write_shard(const fs_input *in, const tensor_set *experts, uint32_t first, uint32_t end,
                             const char *name, fs_output *out, fs_summary *summary, fs_detail *detail)
{
    const char *path = fs_output_file(out, name);
    fs_safetensors_writer *writer = NULL;
    fs_status st = new_writer(path, &writer, detail);
    for (uint32_t i = first; st == FS_OK && i < end; i++) {
        const fs_tensor *t = fs_tensors_at(in->tensors, i);
        if (is_expert(experts, t)) continue;
        st = fs_safetensors_writer_declare(writer, t->name, t->dtype, t->num_dims, t->shape);
        if (st == FS_OK) st = fs_output_note_tensor(out, t->name, t->size, name);
        st = declared(st, path, t->name, detail);
        summary->num_backbone_tensors++;
    }
    for (uint32_t i = first; st == FS_OK && i < end; i++) {
        const fs_tensor *t = fs_tensors_at(in->tensors, i);
        if (is_expert(experts, t)) continue;
        st = fs_safetensors_writer_write(writer, t->data, t->size, detail);
        fs_tensor_release(t);
        if (st == FS_OK && fs_compress_stopped()) st = fs_fail(detail, FS_CANCELLED, "stopped");
    }
    if (st == FS_OK) st = fs_safetensors_writer_finish(writer, detail);
    fs_safetensors_writer_destroy(writer);
    summary->backbone_bytes += st == FS_OK ? file_size(path) : 0;
    return st;
}

fs_status fs_pack_backbone(const fs_input *in, fs_output *out, fs_summary *summary, fs_detail *detail)
{
    tensor_set experts = {0};
    fs_status st = find_experts(in, &experts, detail);
    uint32_t count = fs_tensors_count(in->tensors), shards = 0;
    for (uint32_t at = 0; st == FS_OK && at < count; shards++) at = end_of_shard(in, &experts, at);
    uint32_t at = 0;
    for (uint32_t i = 0; st == FS_OK && i < shards; i++) {
        char name[64];
        snprintf(name, sizeof(name), "backbone-%05u-of-%05u.safetensors", i + 1, shards);
        uint32_t end = end_of_shard(in, &experts, at);
        st = write_shard(in, &experts, at, end, name, out, summary, detail);
        at = end;
    }
    summary->num_backbone_files = shards;
    free(experts.tensor);
    return st;
}

/* ---- the experts ---- */

/* A layer in work, and the file that it goes to. */
typedef struct {
    const fs_input *in;
    const fs_rate *rate;    /* NULL: whichever holds the matrix as it is */
    fs_expert_blobs *blobs; /* [num_experts] of the layer */
    float *w;               /* [workers][w_stride] */
    size_t w_stride;
    fs_safetensors_writer *writer;
} packer;

/* A matrix in which every block of 16 columns has as many nonzeros is blocked, any other free: its blocks would need padding. */
static fs_status encode_matrix(const packer *p, fs_expert_blobs *blobs, fs_expert_part part, const float *w,
                               uint32_t rows, uint32_t cols, fs_detail *detail)
{
    static const fs_rate blocked[] = {
        {FS_SUB1_BLOCKED, 2, 16}, {FS_SUB1_BLOCKED, 1, 16}, {FS_SUB1_BLOCKED, 3, 16}};
    if (p->rate) return fs_blobs_encode(blobs, part, *p->rate, w, rows, cols, detail);
    for (size_t i = 0; i < sizeof(blocked) / sizeof(blocked[0]); i++) {
        if (!fs_rate_is_exact(blocked[i], w, rows, cols)) continue;
        return fs_blobs_encode(blobs, part, blocked[i], w, rows, cols, detail);
    }
    return fs_blobs_encode(blobs, part, (fs_rate){FS_SUB1_FREE, 0, 0}, w, rows, cols, detail);
}

static fs_status encode_expert(void *arg, uint32_t worker, uint32_t layer, uint32_t expert, fs_detail *detail)
{
    packer *p = arg;
    fs_expert_range range;
    fs_status st = fs_expert_find(&p->in->config, p->in->tensors, layer, expert, &range, detail);
    float *w = p->w + worker * p->w_stride;
    for (int i = 0; st == FS_OK && i < FS_NUM_EXPERT_PARTS; i++) {
        const fs_tensor *t = range.part[i];
        fs_tensor_to_f32(t, w);
        fs_tensor_release(t);
        st = encode_matrix(p, &p->blobs[expert], (fs_expert_part)i, w, (uint32_t)t->shape[0],
                           (uint32_t)t->shape[1], detail);
        if (st != FS_OK)
            st = fs_fail_in(detail, st, "%s: %s", fs_tensors_file_path(p->in->tensors, t->file), t->name);
    }
    return st;
}

static fs_status declare_layer(const packer *p, uint32_t layer, const char *file, fs_output *out,
                               fs_detail *detail)
{
    for (uint32_t e = 0; e < p->in->config.num_experts; e++) {
        for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
            char name[128];
            fs_expert_tensor_name(&p->in->config, FS_EXPERTS_SUB1, layer, e, (fs_expert_part)i, name);
            const uint64_t bytes = p->blobs[e].bytes[i];
            fs_status st = fs_safetensors_writer_declare(p->writer, name, FS_DTYPE_U8, 1, &bytes);
            if (st == FS_OK) st = fs_output_note_tensor(out, name, bytes, file);
            if (st != FS_OK) return declared(st, file, name, detail);
        }
    }
    return FS_OK;
}

static fs_status write_layer(const packer *p, fs_summary *summary, fs_detail *detail)
{
    for (uint32_t e = 0; e < p->in->config.num_experts; e++) {
        const fs_expert_blobs *blobs = &p->blobs[e];
        for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
            fs_status st = fs_safetensors_writer_write(p->writer, blobs->data[i], blobs->bytes[i], detail);
            if (st != FS_OK) return st;
            summary->part_bytes[i] += blobs->bytes[i];
            bool is_free = blobs->data[i][5] == FS_SUB1_FREE; /* a blob's format, and its n */
            summary->num_matrices[is_free ? 0 : blobs->data[i][6]]++;
        }
    }
    return FS_OK;
}

/* The experts' sizes are known when they are encoded, and a file begins with them: a layer is held in memory, compressed. */
static fs_status pack_layer(packer *p, uint32_t layer, fs_pool *pool, fs_output *out, fs_summary *summary,
                            fs_detail *detail)
{
    char name[64];
    snprintf(name, sizeof(name), "experts-layer-%05u.safetensors", layer);
    const char *path = fs_output_file(out, name);
    fs_status st = fs_each_expert(&p->in->config, layer, pool, encode_expert, NULL, p, detail);
    if (st == FS_OK) st = new_writer(path, &p->writer, detail);
    if (st == FS_OK) st = declare_layer(p, layer, name, out, detail);
    if (st == FS_OK) st = write_layer(p, summary, detail);
    if (st == FS_OK) st = fs_safetensors_writer_finish(p->writer, detail);
    fs_safetensors_writer_destroy(p->writer);
    p->writer = NULL;
    for (uint32_t e = 0; e < p->in->config.num_experts; e++) fs_blobs_free(&p->blobs[e]);
    summary->expert_bytes += st == FS_OK ? file_size(path) : 0;
    return st;
}

static void count_experts(const fs_model_config *c, fs_summary *summary)
{
    summary->num_experts = c->num_moe_layers * c->num_experts;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        uint32_t rows, cols;
        fs_expert_part_shape(c, (fs_expert_part)i, &rows, &cols);
        summary->num_weights += (uint64_t)rows * cols * summary->num_experts;
    }
}

static fs_status pack_experts(const fs_input *in, const fs_rate *rate, fs_pool *pool, fs_output *out,
                              fs_summary *summary, fs_detail *detail)
{
    packer p = {.in = in, .rate = rate, .w_stride = fs_max_part_weights(&in->config)};
    p.w = fs_alloc_aligned(sizeof(float) * p.w_stride * fs_num_workers(pool));
    p.blobs = calloc(in->config.num_experts, sizeof(*p.blobs));
    fs_status st = FS_OK;
    if (!p.w || !p.blobs)
        st = fs_fail(detail, FS_NO_MEMORY, "no memory for %u experts at once", fs_num_workers(pool));
    for (uint32_t l = 0; st == FS_OK && l < in->config.num_moe_layers; l++)
        st = pack_layer(&p, in->config.moe_layer[l], pool, out, summary, detail);
    count_experts(&in->config, summary);
    free(p.w);
    free(p.blobs);
    return st;
}

fs_status fs_pack_lossless(const fs_input *in, const fs_rate *rate, fs_pool *pool, fs_output *out,
                           fs_summary *summary, fs_detail *detail)
{
    fs_status st = fs_pack_backbone(in, out, summary, detail);
    return st == FS_OK ? pack_experts(in, rate, pool, out, summary, detail) : st;
}
