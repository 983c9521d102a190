/* tests/fuzz/sub1_blocked_fuzz.c: opens arbitrary bytes as a blob; what is accepted is decoded, multiplied by every kernel and
 * encoded again to the same bytes. The checksum is made true first, or nothing behind it would be reached; the first input
 * byte says whether (odd: leave it as it is). */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/arena.h"
#include "sub1/sub1_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void make_checksum_true(uint8_t *blob, size_t size)
{
    if (size < FS_SUB1_HEADER_BYTES) return;
    uint64_t payload;
    memcpy(&payload, blob + 24, 8);
    if (payload > size - FS_SUB1_HEADER_BYTES) return;
    memset(blob + 32, 0, 8);
    uint64_t sum = XXH3_64bits(blob, FS_SUB1_HEADER_BYTES + payload);
    memcpy(blob + 32, &sum, 8);
}

static void multiply(const fs_sub1_kernels *kernels, const fs_sub1_matrix *m, float *y)
{
    int8_t *x = malloc(m->padded_cols);
    FS_ASSERT(x);
    for (uint32_t c = 0; c < m->padded_cols; c++) x[c] = c < m->cols ? (int8_t)(c * 37 % 255 - 127) : 0;
    const int8_t *rows[1] = {x};
    const float scale = 0.01f;
    fs_sub1_matmul_groups(kernels, m, 0, m->padded_rows / m->group_rows, rows, &scale, &y, 1);
    free(x);
}

static void check_kernels(const fs_sub1_matrix *m)
{
    float *scalar = calloc(m->padded_rows, sizeof(float)), *wide = calloc(m->padded_rows, sizeof(float));
    FS_ASSERT(scalar && wide);
    multiply(&fs_sub1_kernels_scalar, m, scalar);
#if defined(__x86_64__)
    const fs_sub1_kernels *const tables[] = {&fs_sub1_kernels_avx2, &fs_sub1_kernels_avx512,
                                             &fs_sub1_kernels_vbmi};
    for (int i = 0; i < 3; i++) {
        if (!tables[i]->usable()) continue;
        multiply(tables[i], m, wide);
        for (uint32_t r = 0; r < m->padded_rows; r++) /* huge scales may give inf - inf */
            FS_ASSERT(memcmp(&scalar[r], &wide[r], sizeof(float)) == 0 ||
                      (scalar[r] != scalar[r] && wide[r] != wide[r]));
    }
#endif
    free(scalar), free(wide);
}

/* A scale of zero beside weights that use it, or a scale that none uses, decodes to something that encodes differently. */
static void check_round_trip(const fs_sub1_matrix *m, const uint8_t *blob)
{
    size_t room = fs_sub1_blob_bytes(m->format, m->n, m->m, m->rows, m->cols);
    if (room == 0) return; /* free */
    float *w = malloc(sizeof(float) * m->rows * m->cols), *back = malloc(sizeof(float) * m->rows * m->cols);
    uint8_t *again = fs_alloc_aligned(room);
    FS_ASSERT(w && back && again);
    fs_sub1_decode(m, w);
    fs_sub1_matrix reopened;
    if (fs_sub1_encode_blocked(w, m->rows, m->cols, m->n, m->m, again, NULL) == FS_OK) {
        FS_ASSERT(fs_sub1_open(again, room, &reopened, NULL) == FS_OK);
        fs_sub1_decode(&reopened, back);
        FS_ASSERT(memcmp(w, back, sizeof(float) * m->rows * m->cols) == 0);
    }
    free(w), free(back), free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    bool as_it_is = data[0] & 1;
    size--;
    uint8_t *blob = fs_alloc_aligned(size ? size : 1);
    FS_ASSERT(blob);
    memcpy(blob, data + 1, size);
    if (!as_it_is) make_checksum_true(blob, size);
    fs_sub1_matrix m;
    fs_detail detail = {0};
    if (fs_sub1_open(blob, size, &m, &detail) == FS_OK) {
        check_kernels(&m);
        check_round_trip(&m, blob);
    } else {
        FS_ASSERT(detail.text[0]);
    }
    free(blob);
    return 0;
}
