/* common/sub1/gpu/scales.c: the scales of a matrix by row: a format keeps them where its kernels want them. */
#include <string.h>

#include "gpu/device_int.h"

static uint16_t u16_at(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static void blocked_scales(const fs_sub1_matrix *m, uint16_t *out)
{
    size_t group_bytes = m->payload_bytes / (m->padded_rows / FS_GPU_GROUP_ROWS);
    for (uint32_t row = 0; row < m->padded_rows; row++) {
        const uint8_t *pos = m->payload + row / FS_GPU_GROUP_ROWS * group_bytes + row % FS_GPU_GROUP_ROWS * 2;
        out[row] = u16_at(pos);
        out[m->padded_rows + row] = u16_at(pos + 2 * FS_GPU_GROUP_ROWS);
    }
}

void fs_gpu_scales(const fs_sub1_matrix *matrix, uint16_t *out)
{
    blocked_scales(matrix, out);
}
