/* common/sub1/files.c: the experts of a model directory: their place in its files, and opening one on the mapping. */
#include "sub1/files.h"

#include <inttypes.h>

#include "base/arena.h"

static fs_status find_part(const fs_model_config *config, const fs_tensors *tensors, uint32_t layer,
                           uint32_t expert, fs_expert_part part, const fs_tensor **out, fs_detail *detail)
{
    bool sub1 = config->expert_storage == FS_EXPERTS_SUB1;
    char name[128];
    fs_expert_tensor_name(config, config->expert_storage, layer, expert, part, name);
    uint32_t rows, cols;
    fs_expert_part_shape(config, part, &rows, &cols);
    const uint64_t any_bytes[1] = {0}, matrix[2] = {rows, cols};
    fs_status st = fs_tensors_get(tensors, name, sub1 ? 1 : 2, sub1 ? any_bytes : matrix, out, detail);
    if (st != FS_OK) return st;
    bool is_bytes = (*out)->dtype == FS_DTYPE_U8;
    if (is_bytes != sub1 || (*out)->dtype == FS_DTYPE_I8)
        return fs_fail(detail, FS_INVALID, "%s: dtype %s is not what its storage has", name,
                       fs_dtype_name((*out)->dtype));
    return FS_OK;
}

/* One read must bring all three parts, to memory where each is aligned. */
static fs_status check_contiguous(const fs_tensors *tensors, const fs_expert_range *range, fs_detail *detail)
{
    uint64_t next = range->offset;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        const fs_tensor *t = range->part[i];
        if (t->file != range->file || t->file_offset != next)
            return fs_fail(detail, FS_CORRUPT, "%s: %s is not right behind the part before it",
                           fs_tensors_file_path(tensors, t->file), t->name);
        if (t->size % FS_SUB1_ALIGN)
            return fs_fail(detail, FS_CORRUPT, "%s: %s has %zu bytes, not a multiple of %u",
                           fs_tensors_file_path(tensors, t->file), t->name, t->size, FS_SUB1_ALIGN);
        next += t->size;
    }
    if (range->offset % FS_EXPERT_FILE_ALIGN || range->bytes % FS_EXPERT_FILE_ALIGN)
        return fs_fail(detail, FS_CORRUPT,
                       "%s: %s: offset %" PRIu64 " or length %" PRIu64 " is not a multiple of %u",
                       fs_tensors_file_path(tensors, range->file), range->part[0]->name, range->offset,
                       range->bytes, FS_EXPERT_FILE_ALIGN);
    return FS_OK;
}

fs_status fs_expert_find(const fs_model_config *config, const fs_tensors *tensors, uint32_t layer,
                         uint32_t expert, fs_expert_range *out, fs_detail *detail)
{
    fs_expert_range range = {0};
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        fs_status st = find_part(config, tensors, layer, expert, (fs_expert_part)i, &range.part[i], detail);
        if (st != FS_OK) return st;
        range.bytes += range.part[i]->size;
    }
    range.file = range.part[0]->file;
    range.offset = range.part[0]->file_offset;
    if (config->expert_storage == FS_EXPERTS_SUB1) {
        fs_status st = check_contiguous(tensors, &range, detail);
        if (st != FS_OK) return st;
    }
    *out = range;
    return FS_OK;
}

static fs_status open_part(const fs_model_config *config, const fs_tensor *tensor, fs_expert_part part,
                           const uint8_t *data, fs_sub1_matrix *out, fs_detail *detail)
{
    fs_sub1_matrix matrix;
    fs_status st = fs_sub1_open(data, tensor->size, &matrix, detail);
    if (st != FS_OK) return fs_fail_in(detail, st, "%s", tensor->name);
    uint32_t rows, cols;
    fs_expert_part_shape(config, part, &rows, &cols);
    if (matrix.rows != rows || matrix.cols != cols)
        return fs_fail(detail, FS_CORRUPT, "%s: %u x %u, the model's is %u x %u", tensor->name, matrix.rows,
                       matrix.cols, rows, cols);
    *out = matrix;
    return FS_OK;
}

static fs_expert new_expert(const fs_model_config *config)
{
    return (fs_expert){.storage = config->expert_storage,
                       .activation = config->activation,
                       .hidden_size = config->hidden_size,
                       .intermediate_size = config->moe_intermediate_size};
}

/* Kernels read bf16 and float32 in place; float16, and what a foreign writer left unaligned, is widened. */
static bool usable_in_place(const fs_tensor *t)
{
    if (t->dtype != FS_DTYPE_BF16 && t->dtype != FS_DTYPE_F32) return false;
    return (uintptr_t)t->data % fs_dtype_size(t->dtype) == 0;
}

static size_t widened_bytes(const fs_tensor *t)
{
    size_t bytes = t->size / fs_dtype_size(t->dtype) * sizeof(float);
    return (bytes + FS_SUB1_ALIGN - 1) / FS_SUB1_ALIGN * FS_SUB1_ALIGN;
}

static fs_status open_dense(const fs_expert_range *range, fs_expert *e, void **widened, fs_detail *detail)
{
    size_t bytes = 0;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++)
        if (!usable_in_place(range->part[i])) bytes += widened_bytes(range->part[i]);
    uint8_t *memory = bytes ? fs_alloc_aligned(bytes) : NULL;
    if (bytes && !memory)
        return fs_fail(detail, FS_NO_MEMORY, "%s: no %zu bytes to widen the expert", range->part[0]->name,
                       bytes);
    *widened = memory;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        const fs_tensor *t = range->part[i];
        e->dense[i] = (fs_matrix){t->data, t->dtype == FS_DTYPE_BF16, (uint32_t)t->shape[0],
                                  (uint32_t)t->shape[1]};
        if (usable_in_place(t)) continue;
        fs_tensor_to_f32(t, (float *)memory);
        e->dense[i].data = memory;
        e->dense[i].is_bf16 = false;
        memory += widened_bytes(t);
    }
    return FS_OK;
}

fs_status fs_expert_open_parts(const fs_model_config *config, const fs_expert_range *range,
                               const uint8_t *const part[3], fs_expert *out, void **widened,
                               fs_detail *detail)
{
    fs_tensor tensor[FS_NUM_EXPERT_PARTS];
    fs_expert_range moved = *range;
    fs_expert e = new_expert(config);
    void *memory = NULL;
    fs_status st = FS_OK;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        tensor[i] = *range->part[i];
        tensor[i].data = part[i];
        moved.part[i] = &tensor[i];
    }
    if (config->expert_storage == FS_EXPERTS_DENSE) st = open_dense(&moved, &e, &memory, detail);
    for (int i = 0; i < FS_NUM_EXPERT_PARTS && config->expert_storage == FS_EXPERTS_SUB1 && st == FS_OK; i++)
        st = open_part(config, &tensor[i], (fs_expert_part)i, part[i], &e.sub1[i], detail);
    if (st != FS_OK) return st;
    *out = e;
    *widened = memory;
    return FS_OK;
}

size_t fs_expert_widened_bytes(const fs_model_config *config, const fs_expert_range *range)
{
    size_t bytes = 0;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS && config->expert_storage == FS_EXPERTS_DENSE; i++) {
        fs_dtype dtype = range->part[i]->dtype;
        if (dtype != FS_DTYPE_BF16 && dtype != FS_DTYPE_F32) bytes += widened_bytes(range->part[i]);
    }
    return bytes;
}

fs_status fs_expert_open_bytes(const fs_model_config *config, const fs_expert_range *range,
                               const uint8_t *bytes, fs_expert *out, fs_detail *detail)
{
    FS_ASSERT(config->expert_storage == FS_EXPERTS_SUB1);
    const uint8_t *part[FS_NUM_EXPERT_PARTS];
    void *widened;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++)
        part[i] = bytes + (range->part[i]->file_offset - range->offset);
    return fs_expert_open_parts(config, range, part, out, &widened, detail);
}

fs_status fs_expert_open(const fs_model_config *config, const fs_expert_range *range, fs_expert *out,
                         void **widened, fs_detail *detail)
{
    const uint8_t *part[FS_NUM_EXPERT_PARTS];
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) part[i] = range->part[i]->data;
    return fs_expert_open_parts(config, range, part, out, widened, detail);
}
