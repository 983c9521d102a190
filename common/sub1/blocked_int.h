/* common/sub1/blocked_int.h: the *blocked* layout (docs/formats.md draws it): its numbers, and what one block says.
 * Everything here is static, so that a file for one instruction set lends no code to another. */
#ifndef FS_SUB1_BLOCKED_INT_H
#define FS_SUB1_BLOCKED_INT_H

#include "sub1/sub1_int.h"

enum {
    FS_BLOCKED_GROUP_ROWS = 64,
    FS_BLOCKED_STRIP_ROWS = 16, /* a register has a byte for each of their 4 blocks in a unit */
    FS_BLOCKED_STRIPS = FS_BLOCKED_GROUP_ROWS / FS_BLOCKED_STRIP_ROWS,
    FS_BLOCKED_BLOCK_COLS = 16,
    FS_BLOCKED_MAX_N = 3,
    FS_BLOCKED_STRIP_CODES = 64,   /* bytes: a place and the way to the next one, for n >= 2 */
    FS_BLOCKED_STRIP_NIBBLES = 32, /* bytes: the place (n = 1) or the way to the third (n = 3) */
    FS_BLOCKED_STRIP_SIGNS = 8,
    FS_BLOCKED_SUMS =
        2 * FS_BLOCKED_STRIP_ROWS, /* of a strip and one row of x: P - N (symmetric) or P + N, then N */
    FS_BLOCKED_SCALE_BYTES = 2 * FS_BLOCKED_GROUP_ROWS, /* once if symmetric, else pos, then neg */
};

/* From one row of x to the next in a kernel's sums: all strips of a group. */
#define ROW_SUMS (FS_BLOCKED_STRIPS * FS_BLOCKED_SUMS)
/* A row of x that goes alone takes this in x.arranged. */
#define FS_BLOCKED_LONE_BYTES(padded_cols) (2 * (size_t)(padded_cols))

/* Where in a unit the nibbles and the signs begin, and its size. The codes, where there are any, begin it. */
static inline uint32_t fs_blocked_nibbles_at(uint32_t n)
{
    return n >= 2 ? FS_BLOCKED_STRIPS * FS_BLOCKED_STRIP_CODES : 0;
}
static inline uint32_t fs_blocked_signs_at(uint32_t n)
{
    return fs_blocked_nibbles_at(n) + (n % 2 ? FS_BLOCKED_STRIPS * FS_BLOCKED_STRIP_NIBBLES : 0);
}
static inline uint32_t fs_blocked_unit_bytes(uint32_t n)
{
    return fs_blocked_signs_at(n) + FS_BLOCKED_STRIPS * FS_BLOCKED_STRIP_SIGNS;
}

static inline uint32_t fs_blocked_scales(bool symmetric)
{
    return (symmetric ? 1 : 2) * FS_BLOCKED_SCALE_BYTES;
}
static inline size_t fs_blocked_group_bytes(uint32_t n, bool symmetric, uint32_t num_units)
{
    return fs_blocked_scales(symmetric) + (size_t)num_units * fs_blocked_unit_bytes(n);
}

/* One block of one row: n places (0 to 15) in the order in which they are stored, and their signs. */
typedef struct {
    uint32_t at[FS_BLOCKED_MAX_N];
    bool negative[FS_BLOCKED_MAX_N];
} fs_blocked_block;

/* Block k (0 to 3) of the group's row in a unit. */
static inline fs_blocked_block fs_blocked_get(uint32_t n, const uint8_t *unit, uint32_t row, uint32_t k)
{
    uint32_t i = 4 * row + k, in_strip = i % 64;
    uint32_t nibble = 0, code = n >= 2 ? unit[i] : 0, way[FS_BLOCKED_MAX_N] = {0};
    if (n % 2) {
        const uint8_t *nibbles = unit + fs_blocked_nibbles_at(n) +
                                 row / FS_BLOCKED_STRIP_ROWS * FS_BLOCKED_STRIP_NIBBLES;
        nibble = nibbles[in_strip % 32] >> in_strip / 32 * 4 & 15;
    }
    fs_blocked_block b = {0};
    b.at[0] = n == 1 ? nibble : code >> 2 & 15;
    b.negative[0] = unit[fs_blocked_signs_at(n) + i / 8] >> i % 8 & 1;
    way[1] = code >> 6 | (code & 3) << 2;
    way[2] = nibble;
    for (uint32_t j = 1; j < n; j++) {
        b.at[j] = (b.at[j - 1] - way[j]) & 15;
        b.negative[j] = b.negative[j - 1] ^ (b.at[j - 1] < way[j]); /* passing column 0 changes the sign */
    }
    return b;
}

#endif
