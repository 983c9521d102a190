/* tests/unit/common/sub1/sub1_helper.h: random matrices of 2:16 and their blobs, for this folder's tests. */
#ifndef SUB1_HELPER_H
#define SUB1_HELPER_H

#include "base/random.h"
#include "sub1/sub1_int.h"

/* w [rows][cols]: every row has its own two scales (row 0 only positive weights, row 1 only negative ones). */
void random_blocked(fs_random *random, uint32_t rows, uint32_t cols, float *w);

/* The blob of w, padded with `extra` zero bytes, FS_SUB1_ALIGN-aligned; the caller's to free(). */
uint8_t *encode(const float *w, uint32_t rows, uint32_t cols, size_t extra, size_t *size);

/* A random matrix as an opened blob, which *blob owns. */
fs_sub1_matrix random_matrix(fs_random *random, uint32_t rows, uint32_t cols, uint8_t **blob);

/* Makes the header's checksum true again after a test changed bytes behind it. */
/* The same for any rate; in a last block of fewer than 16 columns, any number of nonzeros that may be there. */
void random_ternary(fs_random *random, uint32_t n, bool symmetric, uint32_t rows, uint32_t cols, float *w);
uint8_t *encode_rate(const float *w, uint32_t n, uint32_t rows, uint32_t cols, size_t extra, size_t *size);
fs_sub1_matrix random_of_rate(fs_random *random, uint32_t n, bool symmetric, uint32_t rows, uint32_t cols,
                              uint8_t **blob);

void reseal(uint8_t *blob, size_t blob_bytes);

#endif
