/* common/sub1/free_int.h: the *free* layout (docs/formats.md draws it): its numbers, where a group's parts are, its kernels. */
#ifndef FS_SUB1_FREE_INT_H
#define FS_SUB1_FREE_INT_H

#include "sub1/sub1_int.h"

enum {
    FS_FREE_LANES = 32, /* matrix rows of a group */
    FS_FREE_HALF = 16,  /* ... of which two halves share the bytes of a step */
    FS_FREE_BLOCK_ROWS =
        256, /* rows change places within such blocks, so that a group's are of like density */
    FS_FREE_BLOCK_GROUPS = FS_FREE_BLOCK_ROWS / FS_FREE_LANES,
    FS_FREE_WINDOW = 128, /* columns that all lanes of a step can reach */
    FS_FREE_MOVE = 8,     /* a window begins at a multiple of this */
    FS_FREE_MAX_SHIFT = 3,
    FS_FREE_CODES = 4,       /* of a lane in a step */
    FS_FREE_STEP_SIGNS = 64, /* where in a step the signs begin: a u64 for each half */
    FS_FREE_STEP_BYTES = 80,
    FS_FREE_SKIP = 15,        /* columns that code 0 passes over */
    FS_FREE_LONG_SKIP = 30,   /* ... with a sign */
    FS_FREE_SIDE_COLS = 1024, /* side entries are counted for so many columns */
    FS_FREE_SIDE_BYTES = 2,
    FS_FREE_HEAD_BYTES = 4,
    FS_FREE_SCALE_BYTES = 4 * FS_FREE_LANES,
    FS_FREE_UNIT_BYTES = 16, /* dense: 64 columns of a row */
};
typedef enum { FS_FREE_EMPTY, FS_FREE_CODED, FS_FREE_DENSE } fs_free_kind;

/* A group's parts, borrowed from the payload. */
typedef struct {
    fs_free_kind kind;
    uint32_t num_steps;    /* coded */
    uint32_t move_shift;   /* coded: moves are 2 to the power of it times as wide */
    const uint8_t *row;    /* [FS_FREE_LANES] which row of the block a lane is */
    const uint8_t *scales; /* bf16 pos, then neg, by lane; not in an empty group */
    const uint8_t *counts; /* coded: u16 for each FS_FREE_SIDE_COLS columns: side entries there */
    const uint8_t *moves;  /* 2 bits a step */
    const uint8_t *steps;  /* [num_steps][FS_FREE_STEP_BYTES], or the units of a dense group */
    const uint8_t *side;   /* u16 each */
} fs_free_group;

static inline uint32_t fs_free_u16(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8;
}

static inline uint32_t fs_free_move_bytes(uint32_t steps)
{
    return (steps + 3) / 4;
}

/* Into how many parts the side list of a matrix of so many columns is divided. */
static inline uint32_t fs_free_side_parts(uint32_t cols)
{
    return (cols + FS_FREE_SIDE_COLS - 1) / FS_FREE_SIDE_COLS;
}

/* at: the group's first byte. cols: of the matrix. */
static inline fs_free_group fs_free_parts(const uint8_t *at, uint32_t cols)
{
    fs_free_group g = {.kind = (fs_free_kind)at[0], .move_shift = at[1], .num_steps = fs_free_u16(at + 2)};
    g.row = at + FS_FREE_HEAD_BYTES;
    g.scales = g.row + FS_FREE_LANES;
    g.counts = g.scales + FS_FREE_SCALE_BYTES;
    g.moves = g.counts + 2 * fs_free_side_parts(cols);
    g.steps = g.kind == FS_FREE_CODED ? g.moves + fs_free_move_bytes(g.num_steps) : g.counts;
    g.side = g.steps + (size_t)g.num_steps * FS_FREE_STEP_BYTES;
    return g;
}

/* Of 64 columns, in a row of a dense group. */
static inline uint32_t fs_free_units(uint32_t cols)
{
    return (cols + 63) / 64;
}

static inline const uint8_t *fs_free_group_bytes(const fs_sub1_matrix *m, uint32_t group)
{
    uint32_t at;
    __builtin_memcpy(&at, m->payload + 4 * (size_t)group, 4);
    return m->payload + at;
}

/* Columns that the window moves by, for the two bits of a step and the group's shift. On the average it moves by 30 at 11.5 % nonzeros. */
static inline uint32_t fs_free_move_columns(uint32_t bits, uint32_t shift)
{
    return (0x30201800u >> 8 * bits & 0xff) << shift; /* 0, 24, 32, 48 */
}

/* The window's first column in a step, from that of the step before (at first 0). It stops at the end of the padded columns. */
static inline uint32_t fs_free_next_base(const fs_free_group *g, uint32_t step, uint32_t base,
                                         uint32_t padded_cols)
{
    uint32_t moved = base + fs_free_move_columns(g->moves[step / 4] >> step % 4 * 2 & 3, g->move_shift);
    uint32_t last = padded_cols - FS_FREE_WINDOW;
    return moved < last ? moved : last;
}

/* One lane on its way through a group's steps. */
typedef struct {
    uint32_t last; /* the last column that it has passed, modulo FS_FREE_WINDOW */
    uint32_t base; /* the window's first column */
    uint32_t padded_cols;
} fs_free_walk;
static inline fs_free_walk fs_free_start_walk(const fs_sub1_matrix *m)
{
    return (fs_free_walk){FS_FREE_WINDOW - 1, 0, m->padded_cols};
}
typedef struct {
    uint32_t col; /* in the window: base to base + FS_FREE_WINDOW - 1 */
    bool nonzero, negative;
} fs_free_weight;
/* The lane's FS_FREE_CODES codes of a step. */
void fs_free_walk_step(const fs_free_group *g, uint32_t lane, uint32_t step, fs_free_walk *walk,
                       fs_free_weight out[FS_FREE_CODES]);

/* A side entry: the column within its FS_FREE_SIDE_COLS in bits 0-9, the lane in bits 10-14, negative in bit 15. */
static inline uint32_t fs_free_side_col(uint32_t entry)
{
    return entry % FS_FREE_SIDE_COLS;
}
static inline uint32_t fs_free_side_lane(uint32_t entry)
{
    return entry >> 10 & 31;
}

#endif
