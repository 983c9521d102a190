/* common/backbone/weights.c: a network's tensors as matrices and vectors. */
#include <stdio.h>
#include <string.h>

#include "backbone/backbone_int.h"

#define MAX_NAME 128

void *fs_weights_calloc(fs_weights *weights, size_t count, size_t bytes)
{
    if (weights->status != FS_OK) return NULL;
    void *p = fs_arena_calloc(&weights->arena, count, bytes);
    if (p == NULL)
        weights->status = fs_fail(weights->detail, FS_NO_MEMORY, "no memory for %zu x %zu bytes of weights",
                                  count, bytes);
    return p;
}

static const fs_tensor *find(fs_weights *weights, const char *name, uint32_t num_dims, const uint64_t *shape)
{
    const fs_tensor *tensor = NULL;
    if (weights->status != FS_OK) return NULL;
    weights->status = fs_tensors_get(weights->tensors, name, num_dims, shape, &tensor, weights->detail);
    if (weights->status != FS_OK) return NULL;
    weights->bytes += tensor->size;
    return tensor;
}

static const float *copy_f32(fs_weights *weights, const fs_tensor *tensor)
{
    size_t n = tensor->size / fs_dtype_size(tensor->dtype);
    float *out = fs_weights_calloc(weights, n, sizeof *out);
    if (out != NULL) fs_tensor_to_f32(tensor, out);
    return out;
}

void fs_weights_matrix(fs_weights *weights, uint32_t outs, uint32_t cols, fs_matrix *out,
                       const char *name_fmt, ...)
{
    char name[MAX_NAME];
    va_list args;
    va_start(args, name_fmt);
    vsnprintf(name, sizeof name, name_fmt, args);
    va_end(args);
    const fs_tensor *tensor = find(weights, name, 2, (uint64_t[]){outs, cols});
    if (tensor == NULL) return;
    bool borrow = (tensor->dtype == FS_DTYPE_BF16 || tensor->dtype == FS_DTYPE_F32) &&
                  (uintptr_t)tensor->data % fs_dtype_size(tensor->dtype) == 0;
    *out = (fs_matrix){.is_bf16 = borrow && tensor->dtype == FS_DTYPE_BF16, .outs = outs, .cols = cols};
    out->data = borrow ? (const void *)tensor->data : copy_f32(weights, tensor);
}

void fs_weights_vector(fs_weights *weights, uint32_t n, const float **out, const char *name_fmt, ...)
{
    char name[MAX_NAME];
    va_list args;
    va_start(args, name_fmt);
    vsnprintf(name, sizeof name, name_fmt, args);
    va_end(args);
    const fs_tensor *tensor = find(weights, name, 1, (uint64_t[]){n});
    if (tensor != NULL) *out = copy_f32(weights, tensor);
}

void fs_matrix_row(const fs_matrix *matrix, uint32_t row, float *out)
{
    size_t at = (size_t)row * matrix->cols;
    if (!matrix->is_bf16) {
        memcpy(out, (const float *)matrix->data + at, matrix->cols * sizeof *out);
        return;
    }
    const fs_bf16 *in = (const fs_bf16 *)matrix->data + at;
    for (uint32_t i = 0; i < matrix->cols; i++) out[i] = fs_bf16_to_f32(in[i]);
}
