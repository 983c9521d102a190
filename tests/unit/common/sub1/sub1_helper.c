/* tests/unit/common/sub1/sub1_helper.c */
#include "sub1_helper.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/arena.h"

static float random_scale(fs_random *random)
{
    return fs_bf16_to_f32((fs_bf16)(0x3a00 + fs_random_below(random, 0x500)));
}

void random_blocked(fs_random *random, uint32_t rows, uint32_t cols, float *w)
{
    memset(w, 0, sizeof(float) * rows * cols);
    for (uint32_t r = 0; r < rows; r++) {
        float scale[2] = {random_scale(random), -random_scale(random)};
        for (uint32_t c = 0; c < cols; c += 16) {
            uint32_t a = fs_random_below(random, 16), b = (a + 1 + fs_random_below(random, 15)) % 16;
            float *block = w + (size_t)r * cols + c;
            block[a] = r < 2 ? scale[r] : scale[fs_random_below(random, 2)];
            block[b] = r < 2 ? scale[r] : scale[fs_random_below(random, 2)];
        }
    }
}

void random_ternary(fs_random *random, uint32_t n, bool symmetric, uint32_t rows, uint32_t cols, float *w)
{
    memset(w, 0, sizeof(float) * rows * cols);
    for (uint32_t r = 0; r < rows; r++) {
        float scale[2] = {random_scale(random), -random_scale(random)};
        if (symmetric) scale[1] = -scale[0];
        for (uint32_t c = 0; c < cols; c += 16) {
            uint32_t left = cols - c < 16 ? cols - c : 16, room = 16 - left;
            uint32_t least = n > room ? n - room : 0, most = n < left ? n : left;
            float *block = w + (size_t)r * cols + c;
            for (uint32_t k = least + fs_random_below(random, most - least + 1); k > 0;) {
                float *at = block + fs_random_below(random, left);
                if (*at != 0) continue;
                *at = scale[fs_random_below(random, 2)];
                k--;
            }
        }
    }
}

uint8_t *encode_rate(const float *w, uint32_t n, uint32_t rows, uint32_t cols, size_t extra, size_t *size)
{
    size_t bytes = fs_sub1_blob_bytes(FS_SUB1_BLOCKED, n, 16, rows, cols);
    uint8_t *blob = fs_alloc_aligned(bytes + extra);
    FS_ASSERT(blob);
    memset(blob, 0xee, bytes); /* the encoder writes all of it */
    memset(blob + bytes, 0, extra);
    fs_detail detail = {0};
    fs_status st = fs_sub1_encode_blocked(w, rows, cols, n, 16, blob, &detail);
    FS_ASSERT(st == FS_OK);
    *size = bytes + extra;
    return blob;
}

uint8_t *encode(const float *w, uint32_t rows, uint32_t cols, size_t extra, size_t *size)
{
    return encode_rate(w, 2, rows, cols, extra, size);
}

static fs_sub1_matrix opened(const float *w, uint32_t n, uint32_t rows, uint32_t cols, uint8_t **blob)
{
    size_t size = 0;
    *blob = encode_rate(w, n, rows, cols, 0, &size);
    fs_sub1_matrix matrix = {0};
    fs_status st = fs_sub1_open(*blob, size, &matrix, NULL);
    FS_ASSERT(st == FS_OK);
    return matrix;
}

fs_sub1_matrix random_matrix(fs_random *random, uint32_t rows, uint32_t cols, uint8_t **blob)
{
    float *w = malloc(sizeof(float) * rows * cols);
    FS_ASSERT(w);
    random_blocked(random, rows, cols, w);
    fs_sub1_matrix matrix = opened(w, 2, rows, cols, blob);
    free(w);
    return matrix;
}

fs_sub1_matrix random_of_rate(fs_random *random, uint32_t n, bool symmetric, uint32_t rows, uint32_t cols,
                              uint8_t **blob)
{
    float *w = malloc(sizeof(float) * rows * cols);
    FS_ASSERT(w);
    random_ternary(random, n, symmetric, rows, cols, w);
    fs_sub1_matrix matrix = opened(w, n, rows, cols, blob);
    free(w);
    return matrix;
}

void reseal(uint8_t *blob, size_t blob_bytes)
{
    memset(blob + 32, 0, 8);
    uint64_t sum = XXH3_64bits(blob, blob_bytes);
    for (int i = 0; i < 8; i++) blob[32 + i] = (uint8_t)(sum >> (8 * i));
}
