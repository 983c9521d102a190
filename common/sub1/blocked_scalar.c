/* common/sub1/blocked_scalar.c: the product with a blocked 2:16 matrix as plain C: the definition of what the others give. */
#include "sub1/sub1_int.h"

enum { GROUP_ROWS = FS_SUB1_GROUP_ROWS, UNIT = FS_BLOCKED_2_16_UNIT, SIGNS = FS_BLOCKED_2_16_SIGNS };

/* sum[r][0] and sum[r][1]: of x over the positive and over the negative weights of the group's row r. */
static void add_unit(const uint8_t *unit, const int8_t *x, int32_t sum[GROUP_ROWS][2])
{
    for (uint32_t i = 0; i < SIGNS; i++) {
        uint32_t a = unit[i] & 15, b = unit[i] >> 4;
        bool o = a > b, s = unit[SIGNS + i / 8] >> i % 8 & 1;
        const int8_t *block = x + i % 4 * FS_BLOCKED_BLOCK_COLS;
        sum[i / 4][o && s] += block[a];
        sum[i / 4][o || s] += block[b];
    }
}

static float scale_at(const uint8_t *group, uint32_t index)
{
    return fs_bf16_to_f32((fs_bf16)(group[2 * index] | group[2 * index + 1] << 8));
}

static void multiply_group(const uint8_t *group, uint32_t num_units, const int8_t *x, float x_scale, float *y)
{
    int32_t sum[GROUP_ROWS][2] = {0};
    const uint8_t *unit = group + FS_BLOCKED_SCALE_BYTES;
    for (uint32_t u = 0; u < num_units; u++)
        add_unit(unit + (size_t)u * UNIT, x + u * FS_BLOCKED_UNIT_COLS, sum);
    for (uint32_t r = 0; r < GROUP_ROWS; r++) {
        float pos = scale_at(group, r) * (float)sum[r][0];
        float neg = scale_at(group, GROUP_ROWS + r) * (float)sum[r][1];
        y[r] = x_scale * (pos + neg);
    }
}

static void blocked_2_16(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                         const float *x_scale, float *const *y, uint32_t num_rows)
{
    uint32_t num_units = w->padded_cols / FS_BLOCKED_UNIT_COLS;
    size_t group_bytes = FS_BLOCKED_SCALE_BYTES + (size_t)num_units * UNIT;
    for (uint32_t g = first; g < first + count; g++)
        for (uint32_t r = 0; r < num_rows; r++)
            multiply_group(w->payload + g * group_bytes, num_units, x[r], x_scale[r],
                           y[r] + (size_t)g * GROUP_ROWS);
}

static bool usable(void)
{
    return true;
}

const fs_sub1_kernels fs_sub1_kernels_scalar = {"scalar", usable, blocked_2_16};
