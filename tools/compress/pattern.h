/* tools/compress/pattern.h: the best ternary values of one block of 16 columns, for 16 rows at a time (a row a lane). */
#ifndef FS_COMPRESS_PATTERN_H
#define FS_COMPRESS_PATTERN_H

#include <stdint.h>

#include "quantise.h"

#define FS_PATTERN_LANES 16u

typedef float fs_lanes[FS_PATTERN_LANES];

/* Minimises q A q^T - 2 c q^T over the rows' values q, of which exactly n of 16 (n 1 to 3) are not 0 and those are +a or -a, by looking
 * at every such pattern.
 *   A [16][16] symmetric positive definite, the same for all rows; c, q [16] lanes; a: magnitudes, > 0
 * Ties: the first pattern in order of columns, + before -. */
void fs_pattern_best(uint32_t n, const float A[FS_QUANTISE_BLOCK][FS_QUANTISE_BLOCK],
                     const fs_lanes c[FS_QUANTISE_BLOCK], const fs_lanes a, fs_lanes q[FS_QUANTISE_BLOCK]);

/* The same without a count: from the given q, one pass over the columns, each set to the best of {0, +a, -a}, where a nonzero costs cost in
 * addition. */
void fs_pattern_pass(const float A[FS_QUANTISE_BLOCK][FS_QUANTISE_BLOCK], const fs_lanes c[FS_QUANTISE_BLOCK],
                     const fs_lanes a, const fs_lanes cost, fs_lanes q[FS_QUANTISE_BLOCK]);

#endif
