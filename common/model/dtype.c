/* common/model/dtype.c: element types of tensors, and floats of any width as float32. */
#include <string.h>

#include "model/safetensors.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[FS_NUM_DTYPES] = {
    [FS_DTYPE_F32] = {"F32", 4}, [FS_DTYPE_F16] = {"F16", 2}, [FS_DTYPE_BF16] = {"BF16", 2},
    [FS_DTYPE_U8] = {"U8", 1},   [FS_DTYPE_I8] = {"I8", 1},
};

size_t fs_dtype_size(fs_dtype dtype)
{
    FS_ASSERT((unsigned)dtype < FS_NUM_DTYPES);
    return dtypes[dtype].size;
}

const char *fs_dtype_name(fs_dtype dtype)
{
    FS_ASSERT((unsigned)dtype < FS_NUM_DTYPES);
    return dtypes[dtype].name;
}

static float f32_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static float f32_of_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, mantissa = half & 1023u;
    if (exponent == 31) return f32_of_bits(sign | 0x7f800000u | mantissa << 13); /* infinity, NaN */
    if (exponent != 0) return f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float tiny = (float)mantissa * 0x1p-24f; /* subnormal or zero: exact */
    return sign ? -tiny : tiny;
}

/* The data may lie at any address: only the sizes of a header are promised, so elements are read by bytes. */
void fs_tensor_to_f32(const fs_tensor *tensor, float *out)
{
    const uint8_t *p = tensor->data;
    size_t n = tensor->size / fs_dtype_size(tensor->dtype);
    switch (tensor->dtype) {
    case FS_DTYPE_F32:
        for (size_t i = 0; i < n; i++)
            out[i] = f32_of_bits((uint32_t)u16_at(p + 4 * i) | (uint32_t)u16_at(p + 4 * i + 2) << 16);
        return;
    case FS_DTYPE_F16:
        for (size_t i = 0; i < n; i++) out[i] = f32_of_f16(u16_at(p + 2 * i));
        return;
    case FS_DTYPE_BF16:
        for (size_t i = 0; i < n; i++) out[i] = f32_of_bits((uint32_t)u16_at(p + 2 * i) << 16);
        return;
    default: FS_ASSERT(!"a float tensor");
    }
}
