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
    FS_FREE_WINDOW = 256,    /* columns that all lanes of a step can reach */
    FS_FREE_MOVE = 64,       /* a window begins at a multiple of this */
    FS_FREE_CODES = 4,       /* of a lane in a step */
    FS_FREE_STEP_SIGNS = 64, /* where in a step the signs begin: a u64 for each half */
    FS_FREE_STEP_BYTES = 80,
    FS_FREE_SKIP = 15,      /* columns that code 0 passes over */
    FS_FREE_LONG_SKIP = 30, /* ... with a sign */
    FS_FREE_SIDE_BYTES = 3,
    FS_FREE_HEAD_BYTES = 6,
    FS_FREE_SCALE_BYTES = 4 * FS_FREE_LANES,
    FS_FREE_UNIT_BYTES = 16, /* dense: 64 columns of a row */
};
typedef enum { FS_FREE_EMPTY, FS_FREE_CODED, FS_FREE_DENSE } fs_free_kind;

/* A group's parts, borrowed from the payload. */
typedef struct {
    fs_free_kind kind;
    uint32_t num_steps, num_side; /* coded */
    const uint8_t *row;           /* [FS_FREE_LANES] which row of the block a lane is */
    const uint8_t *scales;        /* bf16 pos, then neg, by lane; not in an empty group */
    const uint8_t *moves;         /* 2 bits a step */
    const uint8_t *steps;         /* [num_steps][FS_FREE_STEP_BYTES], or the units of a dense group */
    const uint8_t *side;          /* [num_side][FS_FREE_SIDE_BYTES] */
} fs_free_group;

static inline uint32_t fs_free_u16(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8;
}

static inline uint32_t fs_free_move_bytes(uint32_t steps)
{
    return (steps + 3) / 4;
}

/* at: the group's first byte. */
static inline fs_free_group fs_free_parts(const uint8_t *at)
{
    fs_free_group g = {
        .kind = (fs_free_kind)at[0], .num_steps = fs_free_u16(at + 2), .num_side = fs_free_u16(at + 4)};
    g.row = at + FS_FREE_HEAD_BYTES;
    g.scales = g.row + FS_FREE_LANES;
    g.moves = g.scales + FS_FREE_SCALE_BYTES;
    g.steps = g.moves + fs_free_move_bytes(g.num_steps);
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

/* How far the window moves before a step: 0 to 3 times FS_FREE_MOVE columns. */
static inline uint32_t fs_free_move(const fs_free_group *g, uint32_t step)
{
    return g->moves[step / 4] >> step % 4 * 2 & 3;
}

/* One lane on its way through a group's steps. Start with {-1, 0}. */
typedef struct {
    int32_t last;  /* the last column that it has passed, counted from the window's first */
    uint32_t base; /* the window's first column */
} fs_free_walk;
typedef struct {
    uint32_t col;
    bool nonzero, negative,
        outside; /* outside: the column is not in the window; kernels read the window's last instead */
} fs_free_weight;
/* The lane's FS_FREE_CODES codes of a step. */
void fs_free_walk_step(const fs_free_group *g, uint32_t lane, uint32_t step, fs_free_walk *walk,
                       fs_free_weight out[FS_FREE_CODES]);

/* A side entry: u16 column, u8: lane in bits 0-4, negative in bit 5. */
static inline uint32_t fs_free_side_lane(const uint8_t *entry)
{
    return entry[2] & 31;
}

#endif
