/* common/compute/convert.c: 16-bit float formats. */
#include <string.h>

#include "compute/kernels.h"

fs_bf16 fs_f32_to_bf16(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (fs_bf16)(u >> 16 | 0x40u); /* rounding could carry a NaN to infinity */
    return (fs_bf16)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

float fs_f16_to_f32(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000u) << 16, exponent = v >> 10 & 0x1fu, fraction = v & 0x3ffu, u;
    float f;
    if (exponent == 0) {
        f = (float)fraction * 0x1p-24f; /* zero and subnormal: exact */
        memcpy(&u, &f, sizeof u);
        u |= sign;
    } else {
        u = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    }
    memcpy(&f, &u, sizeof f);
    return f;
}
