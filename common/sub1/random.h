/* common/sub1/random.h: matrices drawn at random straight into their bytes, for models that only have to be of the right size and
 * speed. As fast as a disk; what comes out opens, decodes and multiplies like any other blob. */
#ifndef FS_SUB1_RANDOM_H
#define FS_SUB1_RANDOM_H

#include "sub1/sub1.h"

/* What is drawn: each row {-s, 0, s} with its own s, uniform from 0.75 to 1.25 of magnitude and rounded to bf16. */
typedef struct {
    uint32_t rows, cols; /* cols % 16 == 0 */
    float magnitude;     /* positive, so that both ends are normal bf16 numbers */
    uint64_t seed;       /* the blob is a function of these four (and of n, or of the stock) alone */
} fs_sub1_random;

/* Bytes of such a blob: blocked n:16, one scale a row; 0 if the shape or n is not allowed. */
size_t fs_sub1_random_bytes(uint32_t n, uint32_t rows, uint32_t cols);
/* Writes fs_sub1_random_bytes to out (any alignment). All patterns of n nonzeros and signs come in a block, equally often (n = 2: a
 * fifteenth of them twice as often); every column is as likely as any other. Thread: any. */
void fs_sub1_random_blocked(const fs_sub1_random *what, uint32_t n, uint8_t *out);

/* *free* is not drawn but put together: of blocks of 256 rows that were drawn and encoded once, in an order and with scales of the matrix's
 * own. Immutable after creation. */
typedef struct fs_sub1_stock fs_sub1_stock;

/* For matrices of this shape in which a weight is a nonzero with probability density, whichever it is. A function of its arguments.
 * FS_INVALID: the shape is not allowed; FS_NO_MEMORY. Thread: any, as all here. */
FS_MUST_USE fs_status fs_sub1_stock_create(uint32_t rows, uint32_t cols, float density, uint64_t seed,
                                           fs_sub1_stock **out, fs_detail *detail);
void fs_sub1_stock_destroy(fs_sub1_stock *stock);
/* Bytes of the blob that fs_sub1_random_free makes. what has the stock's shape. */
size_t fs_sub1_random_free_bytes(const fs_sub1_stock *stock, const fs_sub1_random *what);
/* Writes that many to out (any alignment). */
void fs_sub1_random_free(const fs_sub1_stock *stock, const fs_sub1_random *what, uint8_t *out);

#endif
