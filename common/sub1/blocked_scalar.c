/* common/sub1/blocked_scalar.c: the product with a blocked matrix as plain C: the definition of what the others give. */
#include "sub1/blocked_int.h"

enum { GROUP_ROWS = FS_BLOCKED_GROUP_ROWS };

/* sum[r][0] and sum[r][1]: of x over the positive and over the negative weights of the group's row r. */
static void add_unit(uint32_t n, const uint8_t *unit, const int8_t *x, int32_t sum[GROUP_ROWS][2])
{
    for (uint32_t i = 0; i < 4 * GROUP_ROWS; i++) {
        fs_blocked_block b = fs_blocked_get(n, unit, i / 4, i % 4);
        for (uint32_t j = 0; j < n; j++) {
            int8_t v = x[i % 4 * FS_BLOCKED_BLOCK_COLS + b.at[j]];
            sum[i / 4][b.negative[j]] += v < -127 ? -127 : v;
        }
    }
}

static float scale_at(const uint8_t *group, uint32_t index)
{
    return fs_bf16_to_f32((fs_bf16)(group[2 * index] | group[2 * index + 1] << 8));
}

static void multiply_group(const fs_sub1_matrix *w, const uint8_t *group, const int8_t *x, float x_scale,
                           float *y)
{
    int32_t sum[GROUP_ROWS][2] = {0};
    const uint8_t *unit = group + fs_blocked_scales(w->symmetric);
    for (uint32_t u = 0; u < w->padded_cols / FS_BLOCKED_UNIT_COLS; u++)
        add_unit(w->n, unit + (size_t)u * fs_blocked_unit_bytes(w->n), x + u * FS_BLOCKED_UNIT_COLS, sum);
    for (uint32_t r = 0; r < GROUP_ROWS; r++) {
        if (w->symmetric) {
            y[r] = x_scale * (scale_at(group, r) * (float)(sum[r][0] - sum[r][1]));
            continue;
        }
        float pos = scale_at(group, r) * (float)sum[r][0];
        float neg = scale_at(group, GROUP_ROWS + r) * (float)sum[r][1];
        y[r] = x_scale * (pos + neg);
    }
}

static void blocked(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const fs_sub1_x *x,
                    float *const *y)
{
    size_t group_bytes = fs_blocked_group_bytes(w->n, w->symmetric, w->padded_cols / FS_BLOCKED_UNIT_COLS);
    for (uint32_t g = first; g < first + count; g++)
        for (uint32_t r = 0; r < x->num_rows; r++)
            multiply_group(w, w->payload + g * group_bytes, x->row[r], x->scale[r],
                           y[r] + (size_t)g * GROUP_ROWS);
}

static bool usable(void)
{
    return true;
}

const fs_sub1_kernels fs_sub1_kernels_scalar = {
    .name = "scalar", .usable = usable, .blocked = blocked, .free = fs_free_scalar};
