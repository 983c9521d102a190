/* common/sub1/sub1_int.h: what the files of this folder share: the layout's numbers, the codecs, the kernel tables. */
#ifndef FS_SUB1_INT_H
#define FS_SUB1_INT_H

#include "compute/kernels.h"
#include "sub1/sub1.h"

#define FS_BLOCKED_UNIT_COLS 64u /* rows of x are padded to a multiple of this */

static inline uint32_t fs_sub1_round_up(uint32_t v, uint32_t to)
{
    return (v + to - 1) / to * to;
}

/* One format and rate. A new one is a table entry here and a kernel in fs_sub1_kernels; callers do not change. */
typedef struct fs_sub1_codec {
    fs_sub1_format format;
    uint32_t n, m;
    /* 0: the shape is not allowed. rows and cols are within FS_SUB1_MAX_DIM. NULL: any shape is, and the size is not told by it:
     * check finds whether the header's is right. */
    size_t (*payload_bytes)(const struct fs_sub1_codec *codec, uint32_t rows, uint32_t cols, bool symmetric);
    /* Everything in the payload that a kernel trusts. */
    fs_status (*check)(const fs_sub1_matrix *matrix, fs_detail *detail);
    void (*decode)(const fs_sub1_matrix *matrix, float *w);
    uint32_t group_rows, min_padded_cols; /* rows of x are padded to a multiple of 64, at least to that */
    bool scattered;                       /* a group's rows are not adjacent */
    bool may_be_symmetric;                /* has the flag FS_SUB1_SYMMETRIC */
} fs_sub1_codec;

/* NULL: unknown. */
const fs_sub1_codec *fs_sub1_codec_find(uint32_t format, uint32_t n, uint32_t m);
extern const fs_sub1_codec fs_blocked_1_16, fs_blocked_2_16, fs_blocked_3_16; /* blocked_read.c */
extern const fs_sub1_codec fs_free;                                           /* free_read.c */

uint32_t fs_sub1_padded_cols(const fs_sub1_codec *codec, uint32_t cols);

/* Writes the header, checksum included, in front of a payload that is already there. */
void fs_sub1_seal(const fs_sub1_codec *codec, uint32_t rows, uint32_t cols, uint32_t flags,
                  size_t payload_bytes, uint8_t *blob);

/* The one positive and the one negative value of a row (w [cols]), each exactly a bf16; 0 where it has none. -0 counts as zero.
 * FS_INVALID: it is not ternary; the detail names row and column and why. */
FS_MUST_USE fs_status fs_sub1_find_scales(const float *w, uint32_t row, uint32_t cols, float scale[2],
                                          fs_detail *detail);

/* Rows of x on their way into kernels. All borrowed. */
typedef struct {
    uint32_t num_rows;        /* at most FS_SUB1_X_ROWS */
    uint32_t padded_cols;     /* of the rows; a matrix has no more, and reads the first */
    const int8_t *const *row; /* [num_rows] of [padded_cols] */
    const float *scale;       /* [num_rows] */
    const uint8_t *
        arranged; /* as the table's arrange left it; NULL: the table has none, or the matrix is not blocked */
} fs_sub1_x;
#define FS_SUB1_X_ROWS 256u

/* Rows of x go through a blocked kernel in tiles: of 8, then one each of 4, 2 and 1 as the rest needs. The one that begins at first. */
static inline uint32_t fs_sub1_tile(uint32_t num_rows, uint32_t first)
{
    uint32_t left = num_rows - first;
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Memory for arranged, a multiple of 64. Few rows may take twice their size. */
static inline size_t fs_sub1_arranged_bytes(uint32_t num_rows, uint32_t padded_cols)
{
    return (size_t)(num_rows <= 3 ? 2 * num_rows : num_rows) * padded_cols;
}

/* fs_sub1_matmul over the row groups [first, first + count): writes y[r][group_rows * first .. group_rows * (first + count)), or, in a
 * format whose groups are scattered, those groups' rows wherever they are (but none that is padding). */
typedef void fs_sub1_blocked_kernel(const fs_sub1_matrix *w, uint32_t first, uint32_t count,
                                    const fs_sub1_x *x, float *const *y);
typedef void fs_sub1_kernel(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                            const float *x_scale, float *const *y, uint32_t num_rows);

/* The kernels of one instruction set, a member for each codec. scalar is the definition; all give the same bits. */
typedef struct {
    const char *name;
    bool (*usable)(void); /* by this CPU; FORESIGHT_ISA is fs_isa_best's business */
    /* Writes the tile of rows that begins at first to its place in arranged (64-byte aligned, fs_sub1_arranged_bytes). NULL: not needed. */
    void (*arrange)(const fs_sub1_x *x, uint32_t first, uint8_t *arranged);
    fs_sub1_blocked_kernel *blocked;
    fs_sub1_kernel *free;
} fs_sub1_kernels;
fs_sub1_kernel fs_free_scalar, fs_free_avx2, fs_free_vbmi; /* free_*.c */
extern const fs_sub1_kernels fs_sub1_kernels_scalar, fs_sub1_kernels_avx2, fs_sub1_kernels_avx512,
    fs_sub1_kernels_vbmi;

/* The table for fs_isa_best(). */
const fs_sub1_kernels *fs_sub1_kernels_best(void);

/* The matrix's kernel out of a table, run. */
void fs_sub1_multiply(const fs_sub1_kernels *kernels, const fs_sub1_matrix *w, uint32_t first, uint32_t count,
                      const fs_sub1_x *x, float *const *y);

/* The same for any number of rows that nobody has arranged: it does so itself, as many at a time as fit on its stack. */
void fs_sub1_matmul_groups(const fs_sub1_kernels *kernels, const fs_sub1_matrix *w, uint32_t first,
                           uint32_t count, const int8_t *const *x, const float *x_scale, float *const *y,
                           uint32_t num_rows);

#endif
