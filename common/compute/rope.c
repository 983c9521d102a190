/* common/compute/rope.c: rotary position embedding, rotate halves. */
#include <math.h>

#include "compute/kernels.h"

void fs_rope_apply(float *x, const float *cos, const float *sin, uint32_t head_dim)
{
    uint32_t half = head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

void fs_rope_table(float theta, uint32_t head_dim, uint32_t max_positions, float *cos_out, float *sin_out)
{
    uint32_t half = head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        double step = pow((double)theta, -2.0 * i / head_dim);
        for (uint32_t p = 0; p < max_positions; p++) {
            cos_out[(size_t)p * half + i] = (float)cos(p * step);
            sin_out[(size_t)p * half + i] = (float)sin(p * step);
        }
    }
}
