/* common/sub1/matmul.c: which kernel multiplies. */
#include "sub1/sub1_int.h"

const fs_sub1_kernels *fs_sub1_kernels_best(void)
{
#if defined(__x86_64__)
    fs_isa isa = fs_isa_best();
    /* Asked again: a table may want more of its machine than fs_isa tells apart. */
    if (isa >= FS_ISA_AVX512_VBMI && fs_sub1_kernels_vbmi.usable()) return &fs_sub1_kernels_vbmi;
    if (isa >= FS_ISA_AVX512 && fs_sub1_kernels_avx512.usable()) return &fs_sub1_kernels_avx512;
    if (isa >= FS_ISA_AVX2) return &fs_sub1_kernels_avx2;
#endif
    return &fs_sub1_kernels_scalar;
}

void fs_sub1_multiply(const fs_sub1_kernels *kernels, const fs_sub1_matrix *w, uint32_t first, uint32_t count,
                      const fs_sub1_x *x, float *const *y)
{
    if (w->format == FS_SUB1_FREE) {
        kernels->free(w, first, count, x->row, x->scale, y, x->num_rows);
        return;
    }
    FS_ASSERT(x->num_rows <= FS_SUB1_X_ROWS && x->padded_cols >= w->padded_cols &&
              (x->arranged || !kernels->arrange));
    kernels->blocked(w, first, count, x, y);
}

void fs_sub1_matmul_groups(const fs_sub1_kernels *kernels, const fs_sub1_matrix *w, uint32_t first,
                           uint32_t count, const int8_t *const *x, const float *x_scale, float *const *y,
                           uint32_t num_rows)
{
    enum { ROOM = 6 * FS_SUB1_MAX_DIM }; /* three rows at least: fs_sub1_arranged_bytes */
    _Alignas(64) uint8_t arranged[ROOM];
    uint32_t most = ROOM / w->padded_cols;
    if (most > FS_SUB1_X_ROWS) most = FS_SUB1_X_ROWS;
    for (uint32_t r = 0; r < num_rows; r += most) {
        uint32_t rows = num_rows - r < most ? num_rows - r : most;
        fs_sub1_x part = {rows, w->padded_cols, x + r, x_scale + r, arranged};
        for (uint32_t t = 0; t < rows && kernels->arrange && w->format == FS_SUB1_BLOCKED;
             t += fs_sub1_tile(rows, t))
            kernels->arrange(&part, t, arranged);
        fs_sub1_multiply(kernels, w, first, count, &part, y + r);
    }
}

void fs_sub1_matmul(const fs_sub1_matrix *w, const int8_t *const *x, const float *x_scale, float *const *y,
                    uint32_t num_rows)
{
    fs_sub1_matmul_groups(fs_sub1_kernels_best(), w, 0, w->padded_rows / w->group_rows, x, x_scale, y,
                          num_rows);
}
