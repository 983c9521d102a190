/* common/sub1/gpu/grid.c: a grid of thread blocks as loops on a CPU. */
#include "gpu/grid.h"

#include <stdbool.h>
#include <stdlib.h>

_Thread_local fs_grid_state fs_grid;

bool fs_grid_run(fs_grid_kernel *kernel, uint32_t num_blocks, uint32_t shared_bytes, fs_grid_order order,
                 const void *list, uint32_t count)
{
    uint8_t *shared = malloc(shared_bytes ? shared_bytes : 1);
    if (!shared) return false;
    fs_grid_state outer = fs_grid;
    for (uint32_t i = 0; i < num_blocks; i++) {
        memset(shared, 0xcc, shared_bytes); /* what an earlier block left is not there on a GPU */
        fs_grid.block = fs_grid_at(i, num_blocks, order);
        fs_grid.order = order;
        fs_grid.shared = shared;
        kernel(list, count);
    }
    fs_grid = outer;
    free(shared);
    return true;
}
