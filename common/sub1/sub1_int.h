/* common/sub1/sub1_int.h: what the files of this folder share: the layout's numbers, the codecs, the kernel tables. */
#ifndef FS_SUB1_INT_H
#define FS_SUB1_INT_H

#include "compute/kernels.h"
#include "sub1/sub1.h"

/* Every format so far keeps rows in groups of 16, a group in one contiguous range: the unit of work of a kernel. */
#define FS_SUB1_GROUP_ROWS 16u

/* blocked: a group is 16 bf16 pos, 16 bf16 neg, then a unit for every 64 columns. */
#define FS_BLOCKED_UNIT_COLS    64u
#define FS_BLOCKED_BLOCK_COLS   16u
#define FS_BLOCKED_SCALE_BYTES  64u
#define FS_BLOCKED_2_16_SIGNS   64u                          /* where in a unit the 8 bytes of signs begin */
#define FS_BLOCKED_2_16_UNIT    (FS_BLOCKED_2_16_SIGNS + 8u) /* bytes */
#define FS_BLOCKED_2_16_PADDING 0x10u /* positions 0 and 1: what a block of padding holds */

static inline uint32_t fs_sub1_round_up(uint32_t v, uint32_t to)
{
    return (v + to - 1) / to * to;
}

/* One format and rate. A new one is a table entry here and a kernel in fs_sub1_kernels; callers do not change. */
typedef struct {
    fs_sub1_format format;
    uint32_t n, m;
    /* 0: the shape is not allowed. rows and cols are within FS_SUB1_MAX_DIM. */
    size_t (*payload_bytes)(uint32_t rows, uint32_t cols);
    /* Everything in the payload that a kernel trusts. */
    fs_status (*check)(const fs_sub1_matrix *matrix, fs_detail *detail);
    void (*decode)(const fs_sub1_matrix *matrix, float *w);
} fs_sub1_codec;

/* NULL: unknown. */
const fs_sub1_codec *fs_sub1_codec_find(uint32_t format, uint32_t n, uint32_t m);
extern const fs_sub1_codec fs_blocked_2_16; /* blocked_read.c */

/* Writes the header, checksum included, in front of a payload that is already there. blob: fs_sub1_blob_bytes of them. */
void fs_sub1_seal(const fs_sub1_codec *codec, uint32_t rows, uint32_t cols, uint8_t *blob);

/* fs_sub1_matmul over the row groups [first, first + count): writes y[r][16 * first .. 16 * (first + count)). */
typedef void fs_sub1_kernel(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                            const float *x_scale, float *const *y, uint32_t num_rows);

/* The kernels of one instruction set, a member for each codec. scalar is the definition; all give the same bits. */
typedef struct {
    const char *name;
    bool (*usable)(void); /* by this CPU; FORESIGHT_ISA is fs_isa_best's business */
    fs_sub1_kernel *blocked_2_16;
} fs_sub1_kernels;
extern const fs_sub1_kernels fs_sub1_kernels_scalar, fs_sub1_kernels_avx2, fs_sub1_kernels_vbmi;

/* The table for fs_isa_best(). */
const fs_sub1_kernels *fs_sub1_kernels_best(void);

/* The matrix's kernel out of a table, run. */
void fs_sub1_matmul_groups(const fs_sub1_kernels *kernels, const fs_sub1_matrix *w, uint32_t first,
                           uint32_t count, const int8_t *const *x, const float *x_scale, float *const *y,
                           uint32_t num_rows);

#endif
