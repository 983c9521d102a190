/* tests/fuzz/sub1_free_fuzz.c: opens arbitrary bytes as a *free* blob; what is accepted is decoded, multiplied by every kernel, encoded
 * again and decoded to the same. The first input byte says what is made true first, or nothing behind it would be reached: bit 0
 * leaves the checksum as it is, bit 1 leaves magic, format and payload size as they are. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/arena.h"
#include "sub1/sub1_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_WEIGHTS = 1 << 20, ROWS_OF_X = 5 };

static void make_header_true(uint8_t *blob, size_t size)
{
    const uint8_t head[8] = {'F', 'S', 'B', '1', blob[4], FS_SUB1_FREE, 0, 0};
    uint64_t payload = size - FS_SUB1_HEADER_BYTES;
    memcpy(blob, head, sizeof(head));
    memset(blob + 16, 0, 8);
    memcpy(blob + 24, &payload, 8);
    memset(blob + 40, 0, 24);
}

static void make_checksum_true(uint8_t *blob, size_t size)
{
    uint64_t payload;
    memcpy(&payload, blob + 24, 8);
    if (payload > size - FS_SUB1_HEADER_BYTES) return;
    memset(blob + 32, 0, 8);
    uint64_t sum = XXH3_64bits(blob, FS_SUB1_HEADER_BYTES + payload);
    memcpy(blob + 32, &sum, 8);
}

/* y [ROWS_OF_X][rows] */
static void multiply(const fs_sub1_kernels *kernels, const fs_sub1_matrix *m, float *y)
{
    int8_t *x[ROWS_OF_X];
    float *to[ROWS_OF_X], scale[ROWS_OF_X];
    for (uint32_t r = 0; r < ROWS_OF_X; r++) {
        x[r] = malloc(m->padded_cols);
        FS_ASSERT(x[r]);
        for (uint32_t c = 0; c < m->padded_cols; c++)
            x[r][c] = c < m->cols ? (int8_t)((c + r) * 37 % 255 - 127) : 0;
        to[r] = y + (size_t)r * m->rows;
        scale[r] = 0.01f;
    }
    kernels->free(m, 0, m->padded_rows / m->group_rows, (const int8_t *const *)x, scale, to, ROWS_OF_X);
    for (uint32_t r = 0; r < ROWS_OF_X; r++) free(x[r]);
}

static void check_kernels(const fs_sub1_matrix *m)
{
    size_t count = (size_t)ROWS_OF_X * m->rows;
    float *scalar = calloc(count, sizeof(float)), *wide = calloc(count, sizeof(float));
    FS_ASSERT(scalar && wide);
    multiply(&fs_sub1_kernels_scalar, m, scalar);
#if defined(__x86_64__)
    const fs_sub1_kernels *const tables[] = {&fs_sub1_kernels_avx2, &fs_sub1_kernels_vbmi};
    for (int i = 0; i < 2; i++) {
        if (!tables[i]->usable()) continue;
        multiply(tables[i], m, wide);
        for (size_t j = 0; j < count; j++) /* huge scales may give inf - inf */
            FS_ASSERT(memcmp(&scalar[j], &wide[j], sizeof(float)) == 0 ||
                      (scalar[j] != scalar[j] && wide[j] != wide[j]));
    }
#endif
    free(scalar), free(wide);
}

static void check_round_trip(const fs_sub1_matrix *m)
{
    size_t bytes = sizeof(float) * m->rows * m->cols;
    float *w = malloc(bytes), *back = malloc(bytes);
    fs_buffer again = {0};
    FS_ASSERT(w && back);
    fs_sub1_decode(m, w);
    FS_ASSERT(fs_sub1_encode_free(w, m->rows, m->cols, &again, NULL) == FS_OK);
    uint8_t *blob = fs_alloc_aligned(again.size);
    FS_ASSERT(blob);
    memcpy(blob, again.data, again.size);
    fs_sub1_matrix reopened;
    FS_ASSERT(fs_sub1_open(blob, again.size, &reopened, NULL) == FS_OK);
    fs_sub1_decode(&reopened, back);
    FS_ASSERT(memcmp(w, back, bytes) == 0);
    fs_buffer_free(&again);
    free(w), free(back), free(blob);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    uint8_t how = data[0];
    size--;
    uint8_t *blob = fs_alloc_aligned(size ? size : 1);
    FS_ASSERT(blob);
    memcpy(blob, data + 1, size);
    if (size >= FS_SUB1_HEADER_BYTES && !(how & 2)) make_header_true(blob, size);
    if (size >= FS_SUB1_HEADER_BYTES && !(how & 1)) make_checksum_true(blob, size);
    fs_sub1_matrix m;
    fs_detail detail = {0};
    if (fs_sub1_open(blob, size, &m, &detail) == FS_OK) {
        if (m.format == FS_SUB1_FREE && (uint64_t)m.rows * m.cols <= MAX_WEIGHTS) {
            check_kernels(&m);
            check_round_trip(&m);
        }
    } else {
        FS_ASSERT(detail.text[0]);
    }
    free(blob);
    return 0;
}
