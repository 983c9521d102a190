/* common/sub1/gpu/scales.c: the scales of a matrix by row: a format keeps them where its kernels want them. */
#include <assert.h>
#include <string.h>

#include "gpu/device_int.h"
#include "sub1/blocked_int.h"
#include "sub1/free_int.h"

/* The kernels cannot include these headers, which are not C++: they have numbers of their own. */
#define SAME(gpu, cpu) static_assert((int)(gpu) == (int)(cpu), #gpu " is not " #cpu)
SAME(FS_GPU_UNIT_COLS, FS_BLOCKED_UNIT_COLS);
SAME(FS_GPU_GROUP_ROWS, FS_BLOCKED_GROUP_ROWS);
SAME(FS_BLOCK_DIM, FS_FREE_BLOCK_ROWS); /* a block of threads is a block of rows */
SAME(FS_WARP, FS_FREE_LANES);
SAME(FS_GPU_FREE_WINDOW, FS_FREE_WINDOW);
SAME(FS_GPU_FREE_SKIP, FS_FREE_SKIP);
SAME(FS_GPU_FREE_LONG_SKIP, FS_FREE_LONG_SKIP);
SAME(FS_GPU_FREE_STEP_SIGNS, FS_FREE_STEP_SIGNS);
SAME(FS_GPU_FREE_STEP_BYTES, FS_FREE_STEP_BYTES);
SAME(FS_GPU_FREE_SCALES, FS_FREE_SCALE_BYTES);
SAME(FS_GPU_FREE_SIDE_COLS, FS_FREE_SIDE_COLS);
SAME(FS_GPU_FREE_CODED, FS_FREE_CODED);
SAME(FS_GPU_FREE_DENSE, FS_FREE_DENSE);

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
        out[m->padded_rows + row] = m->symmetric ? 0 : u16_at(pos + 2 * FS_GPU_GROUP_ROWS);
    }
}

static void free_scales(const fs_sub1_matrix *m, uint16_t *out)
{
    memset(out, 0, 2 * sizeof(uint16_t) * m->padded_rows);
    for (uint32_t i = 0; i < m->padded_rows / FS_FREE_LANES; i++) {
        fs_free_group g = fs_free_parts(fs_free_group_bytes(m, i), m->cols);
        for (uint32_t lane = 0; lane < FS_FREE_LANES && g.kind != FS_FREE_EMPTY; lane++) {
            uint32_t row = i / FS_FREE_BLOCK_GROUPS * FS_FREE_BLOCK_ROWS + g.row[lane];
            if (row >= m->rows) continue; /* padding */
            out[row] = u16_at(g.scales + 2 * lane);
            out[m->padded_rows + row] = u16_at(g.scales + 2 * (FS_FREE_LANES + lane));
        }
    }
}

void fs_gpu_scales(const fs_sub1_matrix *matrix, uint16_t *out)
{
    if (matrix->format == FS_SUB1_FREE)
        free_scales(matrix, out);
    else
        blocked_scales(matrix, out);
}
