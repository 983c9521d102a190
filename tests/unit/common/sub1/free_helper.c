/* tests/unit/common/sub1/free_helper.c */
#include "free_helper.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

static float random_scale(fs_random *random)
{
    return fs_bf16_to_f32((fs_bf16)(0x3a00 + fs_random_below(random, 0x500)));
}

static bool is_nonzero(fs_random *random, free_kind kind, float density, uint32_t col, uint32_t cols,
                       bool *in_run)
{
    switch (kind) {
    case FREE_CLUSTERED:
        if (fs_random_unit(random) < 0.03f) *in_run = fs_random_unit(random) < density;
        return *in_run && fs_random_unit(random) < 0.9f;
    case FREE_BANDED: return col / 37 % 3 == 0 && fs_random_unit(random) < density;
    case FREE_EDGES: return (col < 3 || cols - col < 3) && fs_random_unit(random) < 0.7f;
    default: return fs_random_unit(random) < density;
    }
}

void random_free(fs_random *random, free_kind kind, float density, uint32_t rows, uint32_t cols, float *w)
{
    for (uint32_t r = 0; r < rows; r++) {
        float scale[2] = {random_scale(random), -random_scale(random)}, own = density;
        if (kind == FREE_UNEVEN) own = (float)fs_random_below(random, 5) / 4;
        bool in_run = false;
        for (uint32_t c = 0; c < cols; c++) {
            bool nonzero = is_nonzero(random, kind, own, c, cols, &in_run);
            w[(size_t)r * cols + c] = nonzero ? scale[r < 2 ? r : fs_random_below(random, 2)] : 0;
        }
    }
}

uint8_t *encode_free(const float *w, uint32_t rows, uint32_t cols, size_t *size)
{
    fs_buffer out = {0};
    fs_detail detail = {0};
    fs_status st = fs_sub1_encode_free(w, rows, cols, &out, &detail);
    FS_ASSERT(st == FS_OK);
    uint8_t *blob = fs_alloc_aligned(out.size);
    FS_ASSERT(blob);
    memcpy(blob, out.data, out.size);
    *size = out.size;
    fs_buffer_free(&out);
    return blob;
}

free_rows new_free_rows(const fs_sub1_matrix *m, uint32_t num_rows, fs_random *random, int extreme)
{
    free_rows f = {.num_rows = num_rows, .cols = m->padded_cols, .y_rows = m->rows};
    f.x = malloc(num_rows * sizeof(*f.x));
    f.y = malloc(num_rows * sizeof(*f.y));
    f.x_scale = malloc(num_rows * sizeof(float));
    for (uint32_t r = 0; r < num_rows; r++) {
        f.x[r] = calloc(m->padded_cols, 1);
        f.y[r] = malloc(sizeof(float) * m->rows);
        f.x_scale[r] = (0.5f + fs_random_unit(random)) / 127;
        for (uint32_t c = 0; c < m->cols; c++) {
            int v = (int)fs_random_below(random, 255) - 127;
            if (extreme == 1 || extreme == 2) v = extreme == 1 ? 127 : -127;
            if (extreme >= 3) v = v < 0 ? extreme == 4 ? -128 : -127 : 127;
            f.x[r][c] = (int8_t)v;
        }
    }
    return f;
}

void free_free_rows(free_rows *f)
{
    for (uint32_t r = 0; r < f->num_rows; r++) free(f->x[r]), free(f->y[r]);
    free(f->x), free(f->y), free(f->x_scale);
}

void multiply_free(const fs_sub1_kernels *kernels, const fs_sub1_matrix *m, free_rows *f)
{
    for (uint32_t r = 0; r < f->num_rows; r++) memset(f->y[r], 0xff, sizeof(float) * f->y_rows);
    kernels->free(m, 0, m->padded_rows / m->group_rows, (const int8_t *const *)f->x, f->x_scale, f->y,
                  f->num_rows);
}

bool same_free_rows(const free_rows *a, const free_rows *b)
{
    for (uint32_t r = 0; r < a->num_rows; r++) {
        for (uint32_t o = 0; o < a->y_rows; o++) {
            float x = a->y[r][o], y = b->y[r][o];
            if (memcmp(&x, &y, sizeof(x)) != 0 && !(x != x && y != y)) return false;
        }
    }
    return true;
}

uint32_t usable_kernels(const fs_sub1_kernels *out[4])
{
    uint32_t count = 0;
#if defined(__x86_64__)
    const fs_sub1_kernels *const all[] = {&fs_sub1_kernels_avx2, &fs_sub1_kernels_avx512,
                                          &fs_sub1_kernels_vbmi};
    for (uint32_t i = 0; i < 3; i++)
        if (all[i]->usable() && (count == 0 || all[i]->free != out[count - 1]->free)) out[count++] = all[i];
#endif
    return count;
}
