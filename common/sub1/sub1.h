/* common/sub1/sub1.h: matrices of less than one bit a weight: their bytes, their checked reader, their encoder.
 * A weight row is ternary {neg, 0, pos}; see docs/formats.md for the bytes. Formats: *blocked* N:M (exactly N nonzeros in every
 * aligned 16 columns; N is 1, 2 or 3), and *free* (any ternary matrix). */
#ifndef FS_SUB1_SUB1_H
#define FS_SUB1_SUB1_H

#include "base/buffer.h"

typedef enum { FS_SUB1_BLOCKED = 1, FS_SUB1_FREE = 3 } fs_sub1_format;

#define FS_SUB1_HEADER_BYTES 64u
#define FS_SUB1_ALIGN        64u /* a blob starts at a multiple of this in its file and in memory */
#define FS_SUB1_MAX_DIM                                                                                      \
    65536u /* rows or columns: |sum| <= 65536 * 127 < 2^24, exact in int32 and in float32 */

/* A blob: 64 bytes of header, then the payload. All little-endian.
 *   0  char[4] "FSB1"   4 u8 version 2   5 u8 format   6 u8 n   7 u8 m   8 u32 rows   12 u32 cols   16 u32 flags
 *   20 u32 0            24 u64 payload bytes           32 u64 XXH3-64 of the whole blob with this field zero
 *   40 zeros to 64
 * Payloads: docs/formats.md. */
#define FS_SUB1_SYMMETRIC 1u /* flag, blocked: one scale a row, pos = -neg */

/* A verified matrix, borrowed from the blob. A kernel trusts it without checks. */
typedef struct {
    fs_sub1_format format;
    uint8_t n, m;
    uint32_t rows, cols;               /* as the model sees them */
    uint32_t padded_rows, padded_cols; /* multiples of group_rows and 64; free: at least 128 columns */
    uint32_t group_rows;               /* rows of a group, the unit of work: 64, free: 32 */
    bool symmetric;                    /* one scale a row (blocked) */
    bool scattered;                    /* a group's rows are not adjacent in y (free) */
    const uint8_t *payload;            /* FS_SUB1_ALIGN-aligned */
    size_t payload_bytes, blob_bytes;
} fs_sub1_matrix;

/* Opens a blob; size may exceed what its header tells, by zero bytes only (a tensor is padded so that the next is aligned). Checks magic, version, zero fields,
 * dimensions, payload size, checksum, and everything that a kernel trusts: no reserved code (a == b), finite scales.
 * FS_CORRUPT, FS_UNSUPPORTED; FS_INVALID: data is not aligned. The detail says what and where. Thread: any. */
FS_MUST_USE fs_status fs_sub1_open(const uint8_t *data, size_t size, fs_sub1_matrix *out, fs_detail *detail);

/* Bytes that a blob of this shape takes at most (blocked: symmetric ones take less), header included; 0 if the shape is not allowed, or
 * does not tell (free). */
size_t fs_sub1_blob_bytes(fs_sub1_format format, uint32_t n, uint32_t m, uint32_t rows, uint32_t cols);

/* Encodes a matrix that is already ternary: w [rows][cols] float32, every row {neg, 0, pos} (pos > 0 > neg, each exactly a bf16)
 * with exactly n nonzeros in every aligned m columns; in a last block of fewer columns, as many as leave room for the others beyond cols.
 * Symmetric where every row allows. FS_INVALID: it is none of that; the detail names row and column and why. out: room for
 * fs_sub1_blob_bytes, written wholly: zeros follow the blob. */
FS_MUST_USE fs_status fs_sub1_encode_blocked(const float *w, uint32_t rows, uint32_t cols, uint32_t n,
                                             uint32_t m, uint8_t *out, fs_detail *detail);
/* Encodes any ternary matrix, appending the blob to out (whose memory need not be aligned: a blob is opened where it is aligned). w as
 * above, with any nonzeros at all and any shape; the blob is the same for the same matrix. FS_INVALID: not ternary; FS_NO_MEMORY. out is
 * as it was then. */
FS_MUST_USE fs_status fs_sub1_encode_free(const float *w, uint32_t rows, uint32_t cols, fs_buffer *out,
                                          fs_detail *detail);
/* The inverse of either, exactly: w [rows][cols]. */
void fs_sub1_decode(const fs_sub1_matrix *matrix, float *w);

/* Integer sums: for every row r of the batch and matrix row o, P = sum of x over positive weights, N over negative ones;
 *   y[r][o] = x_scale[r] * (pos[o] * P + neg[o] * N), as mul, mul, add, mul in float32 without contraction;
 * symmetric: x_scale[r] * (pos[o] * (P - N)), as mul, mul. x is within -127..127; blocked takes a -128 for a -127.
 * x [num_rows] pointers to [padded_cols] int8 (zeros beyond cols); y [num_rows] pointers to [padded_rows] float32 (free: [rows]).
 * Same bits on every ISA. Thread: worker. */
void fs_sub1_matmul(const fs_sub1_matrix *w, const int8_t *const *x, const float *x_scale, float *const *y,
                    uint32_t num_rows);

#endif
