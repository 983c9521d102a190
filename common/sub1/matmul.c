/* common/sub1/matmul.c: which kernel multiplies. */
#include "sub1/sub1_int.h"

const fs_sub1_kernels *fs_sub1_kernels_best(void)
{
#if defined(__x86_64__)
    switch (fs_isa_best()) {
    case FS_ISA_AVX512_VBMI: return &fs_sub1_kernels_vbmi;
    case FS_ISA_AVX512: /* without the byte permute, wider registers gain little */
    case FS_ISA_AVX2: return &fs_sub1_kernels_avx2;
    case FS_ISA_SCALAR: break;
    }
#endif
    return &fs_sub1_kernels_scalar;
}

void fs_sub1_matmul_groups(const fs_sub1_kernels *kernels, const fs_sub1_matrix *w, uint32_t first,
                           uint32_t count, const int8_t *const *x, const float *x_scale, float *const *y,
                           uint32_t num_rows)
{
    FS_ASSERT(w->format == FS_SUB1_BLOCKED && w->n == 2 && w->m == 16); /* the one codec that there is */
    kernels->blocked_2_16(w, first, count, x, x_scale, y, num_rows);
}

void fs_sub1_matmul(const fs_sub1_matrix *w, const int8_t *const *x, const float *x_scale, float *const *y,
                    uint32_t num_rows)
{
    fs_sub1_matmul_groups(fs_sub1_kernels_best(), w, 0, w->padded_rows / FS_SUB1_GROUP_ROWS, x, x_scale, y,
                          num_rows);
}
