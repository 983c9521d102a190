/* common/sub1/gpu/free_kernels.h: integer sums of *free* matrices, as free_int.h lays them out. A warp is a group, a thread its lane: all
 * lanes walk one window of columns, whose activations stay in the first-level cache. A walk has an order, so columns are not split. */
#ifndef FS_GPU_FREE_KERNELS_H
#define FS_GPU_FREE_KERNELS_H

#include "gpu/blocked_kernels.h"

/* A group's parts, and the lane that this thread is. */
typedef struct {
    uint32_t kind, num_steps, side_parts, lane, row; /* row: of the matrix */
    uint32_t last_base, move_shift;                  /* where the window stops; how wide moves are */
    const uint8_t *counts, *moves, *steps, *side;    /* dense: its units begin at counts */
} fs_gpu_group;

/* Sums of one matrix row over the rows of x. */
typedef struct {
    const int8_t *x;
    uint32_t stride, num_x;
    int32_t all[4], neg[4];
} fs_gpu_sums;

FS_DEVICE uint32_t fs_u16_at(const uint8_t *at)
{
    return fs_read_byte(at) | fs_read_byte(at + 1) << 8;
}

FS_DEVICE fs_gpu_group fs_group_of(const fs_gpu_product *p, uint32_t row_place)
{
    const uint8_t *at = p->payload + fs_read_word(p->payload + row_place / FS_WARP * 4);
    fs_gpu_group g;
    g.kind = fs_read_byte(at);
    g.move_shift = fs_read_byte(at + 1);
    g.num_steps = fs_u16_at(at + 2);
    g.side_parts = (p->cols_units * FS_GPU_UNIT_COLS + FS_GPU_FREE_SIDE_COLS - 1) / FS_GPU_FREE_SIDE_COLS;
    g.last_base = p->num_units * FS_GPU_UNIT_COLS - FS_GPU_FREE_WINDOW;
    g.lane = row_place % FS_WARP;
    g.row = row_place / FS_BLOCK_DIM * FS_BLOCK_DIM +
            fs_read_byte(at + 4 + g.lane); /* rows change places within a block's 256 */
    g.counts = at + 4 + FS_WARP + FS_GPU_FREE_SCALES;
    g.moves = g.counts + 2 * g.side_parts;
    g.steps = g.moves + (g.num_steps + 3) / 4;
    g.side = g.steps + g.num_steps * FS_GPU_FREE_STEP_BYTES;
    return g;
}

/* tile: rows of x, a constant. */
FS_DEVICE void fs_add_weight(fs_gpu_sums *sums, uint32_t tile, uint32_t col, uint32_t negative)
{
    FS_UNROLL(4)
    for (uint32_t i = 0; i < tile; i++) {
        int32_t v = i < sums->num_x ? fs_read_i8(sums->x + i * sums->stride + col) : 0;
        sums->all[i] += v;
        sums->neg[i] += negative ? v : 0;
    }
}

/* A lane's four codes of a step are the nibbles of a word, which it shares with a lane of the other half; its signs are half a byte. */
FS_DEVICE void fs_walk_coded(const fs_gpu_group *g, uint32_t tile, fs_gpu_sums *sums)
{
    uint32_t half = g->lane / 16, in_half = g->lane % 16, base = 0;
    uint32_t last = FS_GPU_FREE_WINDOW - 1; /* the last column that it has passed, modulo the window */
    const uint8_t *at = g->steps;
    for (uint32_t s = 0; s < g->num_steps; s++, at += FS_GPU_FREE_STEP_BYTES) {
        uint32_t move = fs_read_byte(g->moves + s / 4) >> s % 4 * 2 & 3u;
        base += (FS_GPU_FREE_MOVES >> 8 * move & 255u) << g->move_shift;
        if (base > g->last_base) base = g->last_base;
        uint32_t word = fs_read_unaligned(at + in_half * 4) >> half * 4;
        uint32_t signs = fs_read_byte(at + FS_GPU_FREE_STEP_SIGNS + half * 8 + in_half / 2) >>
                         in_half % 2 * 4;
        FS_UNROLL(4)
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t code = word >> 8 * k & 15u, negative = signs >> k & 1u;
            last += code != 0 ? code : negative != 0 ? FS_GPU_FREE_LONG_SKIP : FS_GPU_FREE_SKIP;
            if (code != 0) fs_add_weight(sums, tile, base + (last - base) % FS_GPU_FREE_WINDOW, negative);
        }
    }
    const uint8_t *side = g->side;
    for (uint32_t i = 0; i < g->side_parts; i++) {
        for (uint32_t left = fs_u16_at(g->counts + 2 * i); left > 0; left--, side += 2) {
            uint32_t entry = fs_u16_at(side);
            if ((entry >> 10 & 31u) == g->lane)
                fs_add_weight(sums, tile, i * FS_GPU_FREE_SIDE_COLS + entry % FS_GPU_FREE_SIDE_COLS,
                              entry >> 15);
        }
    }
}

/* num_units: of the matrix's columns, without padding. */
FS_DEVICE void fs_add_dense(const fs_gpu_group *g, uint32_t tile, uint32_t num_units, fs_gpu_sums *sums)
{
    const uint8_t *unit = g->counts + (uint64_t)g->lane * num_units * 16;
    for (uint32_t w = 0; w < 2 * num_units; w++) { /* 32 columns */
        const uint8_t *at = unit + w / 2 * 16 + w % 2 * 4;
        uint32_t pos = fs_read_unaligned(at), neg = fs_read_unaligned(at + 8);
        for (uint32_t b = 0; b < 32; b++)
            if ((pos | neg) >> b & 1u) fs_add_weight(sums, tile, 32 * w + b, neg >> b & 1u);
    }
}

FS_DEVICE void fs_free_rows(const fs_gpu_product *list, uint32_t count, uint32_t tile)
{
    const fs_gpu_product *p = fs_find_product(list, count, FS_BLOCK);
    const fs_gpu_part part = fs_part_of(p, FS_BLOCK, tile);
    FS_EACH_THREAD_ALONE(t)
    {
        if (part.first_row + t >= p->padded_rows) continue;
        const fs_gpu_group g = fs_group_of(p, part.first_row + t);
        if (g.row >= p->rows) continue; /* padding */
        fs_gpu_sums sums = {
            p->x + (uint64_t)part.first_x * p->x_stride, p->x_stride, part.num_x, {0, 0, 0, 0}, {0, 0, 0, 0}};
        if (g.kind == FS_GPU_FREE_CODED) fs_walk_coded(&g, tile, &sums);
        if (g.kind == FS_GPU_FREE_DENSE) fs_add_dense(&g, tile, p->cols_units, &sums);
        FS_UNROLL(4)
        for (uint32_t i = 0; i < tile; i++)
            if (i < part.num_x)
                fs_add_sums(p, part.first_x + i, g.row, sums.all[i] - sums.neg[i], sums.neg[i]);
    }
}

FS_KERNEL(fs_free_x1, fs_gpu_product)
{
    fs_free_rows(list, count, 1);
}
FS_KERNEL(fs_free_x4, fs_gpu_product)
{
    fs_free_rows(list, count, 4);
}

#endif
