#include "sub1/free_int.h"
void fs_free_avx2(const fs_sub1_matrix *w, uint32_t first, uint32_t count, const int8_t *const *x,
                  const float *x_scale, float *const *y, uint32_t num_rows)
{
    fs_free_scalar(w, first, count, x, x_scale, y, num_rows);
}
