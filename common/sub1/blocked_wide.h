/* common/sub1/blocked_wide.h: what the kernels of blocked matrices share: the loops, over groups, panels of columns, tiles of rows of x and
 * strips of 16 rows. A panel is taken apart once, into registers' worth of indices and weights on the stack, and meets every
 * tile of x from there; few rows of x skip the stack and go alone.
 *
 * The including file has defined, for its instruction set:
 *   PANEL_UNITS, MAX_PART_BYTES   units of a panel, and bytes of one unit of a strip taken apart
 *   MAX_LONE_ROWS                 up to which rows of x go alone
 *   take_apart_panel, add_tile, multiply_lone, finish
 * All is static: each file gets its own copy, compiled for its instruction set.
 *
 * No sum overflows 32 bits: |x| or the biased x is at most 255, a weight at most 1 (64 in one kernel, whose x is at most 127), and a row has
 * at most FS_SUB1_MAX_DIM / 16 * 3 = 12288 nonzeros: 255 * 12288 < 2^22, 64 * 127 * 12288 < 2^27. The files that add in 16 bits say
 * themselves why a panel is short enough. */
#ifndef FS_SUB1_BLOCKED_WIDE_H
#define FS_SUB1_BLOCKED_WIDE_H

typedef struct {
    _Alignas(64) uint8_t parts[PANEL_UNITS * MAX_PART_BYTES];
    int32_t bias[FS_BLOCKED_SUMS]; /* what the sums of this panel have too much, x being biased */
} strip_panel;

/* A panel of a group with one tile of rows of x: the tile stays in the first-level cache for all strips. sums: the tile's first. */
INLINE void add_tile_to_strips(const uint32_t n, const bool symmetric, const uint32_t rows,
                               strip_panel *panel, uint32_t num_units, const uint8_t *x, bool begin,
                               int32_t (*sums)[FS_BLOCKED_STRIPS][FS_BLOCKED_SUMS])
{
    for (uint32_t s = 0; s < FS_BLOCKED_STRIPS; s++)
        add_tile(n, symmetric, rows, panel[s].parts, num_units, x, panel[s].bias, begin, &sums[0][s][0]);
}

/* A group with every row of x. */
INLINE void multiply_group(const uint32_t n, const bool symmetric, const uint8_t *group, uint32_t num_units,
                           const fs_sub1_x *x, float *const *y, size_t y_at)
{
    _Alignas(64) int32_t sums[FS_SUB1_X_ROWS][FS_BLOCKED_STRIPS][FS_BLOCKED_SUMS];
    strip_panel panel[FS_BLOCKED_STRIPS];
    const uint8_t *unit = group + fs_blocked_scales(symmetric);
    for (uint32_t u = 0; u < num_units; u += PANEL_UNITS) {
        uint32_t units = num_units - u < PANEL_UNITS ? num_units - u : PANEL_UNITS;
        for (uint32_t s = 0; s < FS_BLOCKED_STRIPS; s++)
            take_apart_panel(n, symmetric, unit + (size_t)u * fs_blocked_unit_bytes(n), s, units,
                             panel[s].parts, panel[s].bias);
        for (uint32_t r = 0, tile; r < x->num_rows; r += tile) {
            tile = fs_sub1_tile(x->num_rows, r);
            const uint8_t *rows = x->arranged + (size_t)r * x->padded_cols +
                                  (size_t)u * tile * FS_BLOCKED_UNIT_COLS;
            switch (tile) {
            case 8: add_tile_to_strips(n, symmetric, 8, panel, units, rows, u == 0, sums + r); break;
            case 4: add_tile_to_strips(n, symmetric, 4, panel, units, rows, u == 0, sums + r); break;
            case 2: add_tile_to_strips(n, symmetric, 2, panel, units, rows, u == 0, sums + r); break;
            default: add_tile_to_strips(n, symmetric, 1, panel, units, rows, u == 0, sums + r);
            }
        }
    }
    for (uint32_t r = 0; r < x->num_rows; r++)
        for (uint32_t s = 0; s < FS_BLOCKED_STRIPS; s++)
            finish(symmetric, group + 2 * FS_BLOCKED_STRIP_ROWS * s, sums[r][s], x->scale[r],
                   y[r] + y_at + s * FS_BLOCKED_STRIP_ROWS);
}

INLINE void multiply(const uint32_t n, const bool symmetric, const fs_sub1_matrix *w, uint32_t first,
                     uint32_t count, const fs_sub1_x *x, float *const *y)
{
    uint32_t num_units = w->padded_cols / FS_BLOCKED_UNIT_COLS;
    size_t group_bytes = fs_blocked_group_bytes(n, symmetric, num_units);
    for (uint32_t g = first; g < first + count; g++) {
        const uint8_t *group = w->payload + g * group_bytes;
        size_t y_at = (size_t)g * FS_BLOCKED_GROUP_ROWS;
        if (x->num_rows > MAX_LONE_ROWS) {
            multiply_group(n, symmetric, group, num_units, x, y, y_at);
            continue;
        }
        for (uint32_t r = 0; r < x->num_rows; r++)
            multiply_lone(n, symmetric, group, num_units,
                          x->arranged + (size_t)r * FS_BLOCKED_LONE_BYTES(x->padded_cols), x->scale[r],
                          y[r] + y_at);
    }
}

#define INSTANCE(name, n, symmetric)                                                                         \
    static void name(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const fs_sub1_x *x,            \
                     float *const *y)                                                                        \
    {                                                                                                        \
        multiply(n, symmetric, w, first, count, x, y);                                                       \
    }
INSTANCE(two_sided_1, 1, false)
INSTANCE(two_sided_2, 2, false)
INSTANCE(two_sided_3, 3, false)
INSTANCE(symmetric_1, 1, true)
INSTANCE(symmetric_2, 2, true)
INSTANCE(symmetric_3, 3, true)
#undef INSTANCE

static void blocked(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const fs_sub1_x *x,
                    float *const *y)
{
    static fs_sub1_blocked_kernel *const instances[2][FS_BLOCKED_MAX_N] = {
        {two_sided_1, two_sided_2, two_sided_3}, {symmetric_1, symmetric_2, symmetric_3}};
    instances[w->symmetric][w->n - 1](w, first, count, x, y);
}

#endif
