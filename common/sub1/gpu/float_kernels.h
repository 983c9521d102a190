/* common/sub1/gpu/float_kernels.h: what an expert does between and behind its integer sums, in the operations and the order of
 * common/compute's kernels_scalar.c and sub1's expert.c. nvcc is told not to contract (-fmad=false); division, square root and
 * denormals are IEEE's by default. A maximum of bits does not depend on order, so a row may be split over blocks. */
#ifndef FS_GPU_FLOAT_KERNELS_H
#define FS_GPU_FLOAT_KERNELS_H

#include "compute/constants.h"
#include "gpu/tasks.h"

#define FS_GPU_INF_BITS 0x7f800000u
#define FS_GPU_NAN_BITS 0x7fc00000u /* NAN of C. A GPU's own NaN has other bits */

FS_DEVICE float fs_power_of_two(int32_t n)
{
    return fs_float_of((uint32_t)(n + 127) << 23);
}

FS_DEVICE float fs_exp(float x)
{
    x = FS_EXP_HI < x ? FS_EXP_HI : x;
    x = FS_EXP_LO > x ? FS_EXP_LO : x;
    float t = fmaf(x, FS_EXP_LOG2E, FS_ROUND_MAGIC);
    int32_t n = (int32_t)(fs_bits_of(t) - FS_ROUND_BITS);
    float nf = t - FS_ROUND_MAGIC;
    float r = fmaf(nf, -FS_EXP_LN2_LO, fmaf(nf, -FS_EXP_LN2_HI, x));
    float p = fmaf(FS_EXP_C5, r, FS_EXP_C4);
    p = fmaf(p, r, FS_EXP_C3);
    p = fmaf(p, r, FS_EXP_C2);
    p = fmaf(p, r, FS_EXP_C1);
    p = fmaf(p, r, FS_EXP_C0);
    p = fmaf(p, r * r, r) + 1.0f;
    int32_t half = n >> 1;
    return p * fs_power_of_two(half) * fs_power_of_two(n - half);
}

/* The item and the part of it that a block has: one row of x, FS_GPU_TILE elements. */
typedef struct {
    const fs_gpu_item *item;
    uint32_t x, first;
} fs_gpu_stretch;

FS_DEVICE fs_gpu_stretch fs_find_stretch(const fs_gpu_item *list, uint32_t count, uint32_t which,
                                         uint32_t block)
{
    uint32_t low = 0, high = count;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (list[middle].first_block[which] <= block)
            low = middle;
        else
            high = middle;
    }
    fs_gpu_stretch s;
    s.item = list + low;
    uint32_t at = block - s.item->first_block[which];
    s.x = at % s.item->num_x;
    s.first = at / s.item->num_x * FS_GPU_TILE;
    return s;
}

/* Row i of part's matrix times row x of what it was multiplied with, and its bias. */
FS_DEVICE float fs_product(const fs_gpu_item *item, uint32_t part, uint32_t x, uint32_t i, float scale)
{
    uint32_t rows = item->sum_rows[part];
    const int32_t *sums = item->sums[part] + (uint64_t)x * 2 * rows + i;
    const uint16_t *scales = item->scales[part] + i;
    float pos = fs_float_of((uint32_t)scales[0] << 16), neg = fs_float_of((uint32_t)scales[rows] << 16), y;
    if (item->symmetric[part] != 0)
        y = scale * (pos * (float)(sums[0] - sums[rows]));
    else
        y = scale * (pos * (float)sums[0] + neg * (float)sums[rows]);
    return item->bias[part] ? y + item->bias[part][i] : y;
}

/* 1 / (1 + exp(v)) */
FS_DEVICE float fs_sigmoid_of_negated(float v)
{
    return 1.0f / (1.0f + fs_exp(v));
}

/* activation.c: Phi(x). Press et al., Numerical Recipes, 6.2. */
FS_DEVICE float fs_normal_distribution(float x)
{
    float z = (x < 0 ? -x : x) * 0.70710678f, t = 1.0f / (1.0f + 0.5f * z);
    float p = 0.17087277f * t + -0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t + -1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t + -0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t + -1.26551223f;
    float half = 0.5f * (t * fs_exp(p - z * z));
    return x < 0 ? half : 1.0f - half;
}

FS_DEVICE float fs_act(uint32_t activation, float x)
{
    if (activation == FS_GPU_RELU) return x < 0 ? 0 : x;
    if (activation == FS_GPU_GELU) return x * fs_normal_distribution(x);
    if (activation == FS_GPU_GELU_TANH)
        return x * fs_sigmoid_of_negated(-1.5957691f * (x + 0.044715f * (x * x * x)));
    return x * fs_sigmoid_of_negated(-x);
}

FS_DEVICE float fs_clamped_swiglu(float limit, float gate, float up)
{
    float g = gate > limit ? limit : gate, u = up > limit ? limit : up < -limit ? -limit : up;
    return (g * fs_sigmoid_of_negated(-(1.702f * g))) * (u + 1.0f);
}

FS_DEVICE float fs_activation_at(const fs_gpu_item *item, uint32_t x, uint32_t i)
{
    float scale = item->x_scale[x], up = fs_product(item, 1, x, i, scale);
    if (item->no_gate != 0) return fs_act(item->activation, up);
    float gate = fs_product(item, 0, x, i, scale);
    if (item->activation == FS_GPU_SWIGLU_CLAMPED) return fs_clamped_swiglu(item->swiglu_limit, gate, up);
    return fs_act(item->activation, gate) * up;
}

/* a = act(gate) * up, and the largest |a| of each row. */
FS_KERNEL(fs_activate, fs_gpu_item)
{
    const fs_gpu_stretch s = fs_find_stretch(list, count, 0, FS_BLOCK);
    const fs_gpu_item *item = s.item;
    FS_SHARED uint32_t warp_max[FS_BLOCK_DIM / FS_WARP];
    FS_REGISTER(uint32_t, largest);
    FS_REGISTER(uint32_t, other);
    FS_EACH_THREAD_ALONE(t)
    {
        FS_MINE(largest, t) = 0;
        for (uint32_t i = s.first + t; i < s.first + FS_GPU_TILE && i < item->intermediate;
             i += FS_BLOCK_DIM) {
            float a = fs_activation_at(item, s.x, i);
            item->a[(uint64_t)s.x * item->a_stride + i] = a;
            uint32_t bits = fs_bits_of(a) & 0x7fffffffu;
            if (bits > FS_MINE(largest, t)) FS_MINE(largest, t) = bits;
        }
    }
    for (uint32_t mask = FS_WARP / 2; mask > 0; mask /= 2) {
        FS_SHUFFLE_XOR(other, largest, mask);
        FS_EACH_THREAD_ALONE(t)
        {
            if (FS_MINE(other, t) > FS_MINE(largest, t)) FS_MINE(largest, t) = FS_MINE(other, t);
        }
    }
    FS_EACH_THREAD(t)
    {
        if (t % FS_WARP == 0) warp_max[t / FS_WARP] = FS_MINE(largest, t);
    }
    FS_EACH_THREAD_ALONE(t)
    {
        if (t != 0) continue;
        for (uint32_t w = 0; w < FS_BLOCK_DIM / FS_WARP; w++) fs_atomic_max(item->a_max + s.x, warp_max[w]);
    }
}

/* The scale that quantize_i8 returns for a row whose largest |a| has these bits. */
FS_DEVICE float fs_quantised_scale(uint32_t max_bits)
{
    if (max_bits >= FS_GPU_INF_BITS) return fs_float_of(FS_GPU_NAN_BITS);
    float max = fs_float_of(max_bits);
    return (max > FS_AMAX_MIN ? max : FS_AMAX_MIN) / (float)FS_I8_MAX;
}

FS_KERNEL(fs_quantise, fs_gpu_item)
{
    const fs_gpu_stretch s = fs_find_stretch(list, count, 0, FS_BLOCK);
    const fs_gpu_item *item = s.item;
    FS_EACH_THREAD_ALONE(t)
    {
        uint32_t max_bits = item->a_max[s.x];
        float scale = fs_quantised_scale(max_bits);
        for (uint32_t i = s.first + t; i < s.first + FS_GPU_TILE && i < item->a_stride; i += FS_BLOCK_DIM) {
            uint64_t at = (uint64_t)s.x * item->a_stride + i;
            int32_t v = 0; /* padding, and a row that is not finite */
            if (i < item->intermediate && max_bits < FS_GPU_INF_BITS) {
                v = (int32_t)(fs_bits_of(item->a[at] / scale + FS_ROUND_MAGIC) - FS_ROUND_BITS);
                v = v > FS_I8_MAX ? FS_I8_MAX : v < -FS_I8_MAX ? -FS_I8_MAX : v;
            }
            item->a_i8[at] = (int8_t)v;
        }
    }
}

FS_KERNEL(fs_finish, fs_gpu_item)
{
    const fs_gpu_stretch s = fs_find_stretch(list, count, 1, FS_BLOCK);
    const fs_gpu_item *item = s.item;
    FS_EACH_THREAD_ALONE(t)
    {
        float scale = fs_quantised_scale(item->a_max[s.x]);
        for (uint32_t i = s.first + t; i < s.first + FS_GPU_TILE && i < item->hidden; i += FS_BLOCK_DIM) {
            float y = fs_product(item, 2, s.x, i, scale);
            if (scale != scale) y = fs_float_of(FS_GPU_NAN_BITS);
            item->out[(uint64_t)s.x * item->hidden + i] = y;
        }
    }
}

#endif
