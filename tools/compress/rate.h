/* tools/compress/rate.h: how a matrix is stored, what that is called, and its bytes. */
#ifndef FS_COMPRESS_RATE_H
#define FS_COMPRESS_RATE_H

#include "sub1/files.h"

typedef struct {
    uint32_t format; /* fs_sub1_format */
    uint32_t n, m;   /* blocked; 0, 0: free */
} fs_rate;

/* "blocked:2:16" or "blocked" for short, "free". FS_INVALID, FS_UNSUPPORTED: not of this build. */
FS_MUST_USE fs_status fs_rate_parse(const char *text, fs_rate *out, fs_detail *detail);
/* Static text. */
const char *fs_rate_name(fs_rate rate);
/* Whether a matrix of this shape can be stored so. */
bool fs_rate_fits(fs_rate rate, uint32_t rows, uint32_t cols);
/* Whether every block of a row has exactly n nonzeros (blocked) and cols is a multiple of m. */
bool fs_rate_is_exact(fs_rate rate, const float *w, uint32_t rows, uint32_t cols);
/* Bytes of such a matrix with one magnitude a row; free: what is expected with `density` nonzeros a weight. */
uint64_t fs_rate_bytes(fs_rate rate, uint32_t rows, uint32_t cols, double density);

/* The blobs of one expert, each in aligned memory of its own with zeros behind it up to where the next part begins in the file. Zero is
 * empty. */
typedef struct {
    uint8_t *data[FS_NUM_EXPERT_PARTS];
    size_t bytes[FS_NUM_EXPERT_PARTS]; /* padding counted */
} fs_expert_blobs;

void fs_blobs_free(fs_expert_blobs *blobs);
/* Stores a matrix that is ternary; the part's earlier bytes are freed. */
FS_MUST_USE fs_status fs_blobs_encode(fs_expert_blobs *blobs, fs_expert_part part, fs_rate rate,
                                      const float *q, uint32_t rows, uint32_t cols, fs_detail *detail);
/* XXH3-64 of the parts in order. */
uint64_t fs_blobs_checksum(const fs_expert_blobs *blobs);

#endif
