/* tools/compress/rate.c: how a matrix is stored, what that is called, and its bytes. */
#define XXH_STATIC_LINKING_ONLY /* XXH3_state_t on the stack */
#include "rate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/arena.h"
#include "base/buffer.h"

static const struct {
    const char *name;
    fs_rate rate;
} names[] = {{"blocked:1:16", {FS_SUB1_BLOCKED, 1, 16}},
             {"blocked:2:16", {FS_SUB1_BLOCKED, 2, 16}},
             {"blocked:3:16", {FS_SUB1_BLOCKED, 3, 16}},
             {"free", {FS_SUB1_FREE, 0, 0}},
             {"blocked", {FS_SUB1_BLOCKED, 2, 16}}};
enum { NUM_NAMES = sizeof(names) / sizeof(names[0]) };

fs_status fs_rate_parse(const char *text, fs_rate *out, fs_detail *detail)
{
    for (size_t i = 0; i < NUM_NAMES; i++) {
        if (strcmp(text, names[i].name) != 0) continue;
        *out = names[i].rate;
        return FS_OK;
    }
    return fs_fail(detail, FS_INVALID,
                   "--format: '%s' is none of auto, blocked:1:16, blocked:2:16, blocked:3:16, free", text);
}

const char *fs_rate_name(fs_rate rate)
{
    for (size_t i = 0; i < NUM_NAMES; i++)
        if (names[i].rate.format == rate.format && names[i].rate.n == rate.n) return names[i].name;
    return "unknown";
}

bool fs_rate_fits(fs_rate rate, uint32_t rows, uint32_t cols)
{
    if (cols % 16 != 0 || rows == 0 || cols == 0 || rows > FS_SUB1_MAX_DIM || cols > FS_SUB1_MAX_DIM)
        return false;
    return rate.format == FS_SUB1_FREE ||
           fs_sub1_blob_bytes((fs_sub1_format)rate.format, rate.n, rate.m, rows, cols) != 0;
}

bool fs_rate_is_exact(fs_rate rate, const float *w, uint32_t rows, uint32_t cols)
{
    if (!fs_rate_fits(rate, rows, cols)) return false;
    for (size_t i = 0; i < (size_t)rows * cols; i += rate.m) {
        uint32_t count = 0;
        for (uint32_t c = 0; c < rate.m; c++) count += w[i + c] != 0;
        if (count != rate.n) return false;
    }
    return true;
}

/* Entropy of a weight and a twelfth more, which is what the code was measured to take. */
static double free_bits(double density)
{
    return 1.12 * (-density * log2(density / 2) - (1 - density) * log2(1 - density));
}

uint64_t fs_rate_bytes(fs_rate rate, uint32_t rows, uint32_t cols, double density)
{
    if (rate.format == FS_SUB1_FREE)
        return (uint64_t)(FS_SUB1_HEADER_BYTES + 5.0 * rows + free_bits(density) * rows * cols / 8);
    const uint64_t one_scale = 2 * ((uint64_t)rows + 63) / 64 * 64;
    const uint64_t two_scales = fs_sub1_blob_bytes((fs_sub1_format)rate.format, rate.n, rate.m, rows, cols);
    return two_scales - one_scale;
}

/* ---- blobs ---- */

void fs_blobs_free(fs_expert_blobs *blobs)
{
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) free(blobs->data[i]);
    *blobs = (fs_expert_blobs){0};
}

static size_t blob_bytes(const uint8_t *blob)
{
    fs_reader r = fs_reader_of(blob + 24, 8);
    return FS_SUB1_HEADER_BYTES + (size_t)fs_read_u64(&r);
}

static fs_status encode(fs_rate rate, const float *q, uint32_t rows, uint32_t cols, fs_buffer *out,
                        fs_detail *detail)
{
    if (rate.format == FS_SUB1_FREE) return fs_sub1_encode_free(q, rows, cols, out, detail);
    const size_t most = fs_sub1_blob_bytes((fs_sub1_format)rate.format, rate.n, rate.m, rows, cols);
    if (most == 0)
        return fs_fail(detail, FS_UNSUPPORTED, "%u x %u does not fit %s", rows, cols, fs_rate_name(rate));
    fs_status st = fs_buffer_reserve(out, most);
    if (st == FS_OK) st = fs_sub1_encode_blocked(q, rows, cols, rate.n, rate.m, out->data, detail);
    if (st == FS_OK) out->size = blob_bytes(out->data);
    return st;
}

fs_status fs_blobs_encode(fs_expert_blobs *blobs, fs_expert_part part, fs_rate rate, const float *q,
                          uint32_t rows, uint32_t cols, fs_detail *detail)
{
    fs_buffer blob = {0};
    fs_status st = encode(rate, q, rows, cols, &blob, detail);
    /* Down is padded so that the next expert begins where unbuffered reads can begin. */
    size_t align = FS_SUB1_ALIGN, bytes = (blob.size + align - 1) / align * align;
    if (part == FS_PART_DOWN) {
        size_t before = blobs->bytes[FS_PART_GATE] + blobs->bytes[FS_PART_UP];
        bytes = (before + blob.size + FS_EXPERT_FILE_ALIGN - 1) / FS_EXPERT_FILE_ALIGN *
                    FS_EXPERT_FILE_ALIGN -
                before;
    }
    uint8_t *data = st == FS_OK ? fs_alloc_aligned(bytes) : NULL;
    if (st == FS_OK && !data) st = fs_fail(detail, FS_NO_MEMORY, "no memory for a blob of %zu bytes", bytes);
    if (data) {
        memcpy(data, blob.data, blob.size);
        memset(data + blob.size, 0, bytes - blob.size);
        free(blobs->data[part]);
        blobs->data[part] = data;
        blobs->bytes[part] = bytes;
    }
    fs_buffer_free(&blob);
    return st;
}

uint64_t fs_blobs_checksum(const fs_expert_blobs *blobs)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) XXH3_64bits_update(&state, blobs->data[i], blobs->bytes[i]);
    return XXH3_64bits_digest(&state);
}
