/* common/sub1/blob.c: the 64 bytes in front of every compressed matrix, its checksum, and the list of codecs. */
#define XXH_STATIC_LINKING_ONLY /* XXH3_state_t on the stack: opening an expert takes nothing from the heap */
#include <string.h>
#include <xxhash.h>

#include "base/buffer.h"
#include "sub1/sub1_int.h"

enum { VERSION = 2, AT_CHECKSUM = 32, AT_ZEROS = 40 };
static const char magic[4] = "FSB1";

static const fs_sub1_codec *const codecs[] = {&fs_blocked_1_16, &fs_blocked_2_16, &fs_blocked_3_16, &fs_free};

const fs_sub1_codec *fs_sub1_codec_find(uint32_t format, uint32_t n, uint32_t m)
{
    for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]); i++)
        if (codecs[i]->format == format && codecs[i]->n == n && codecs[i]->m == m) return codecs[i];
    return NULL;
}

uint32_t fs_sub1_padded_cols(const fs_sub1_codec *codec, uint32_t cols)
{
    uint32_t padded = fs_sub1_round_up(cols, FS_BLOCKED_UNIT_COLS);
    return padded < codec->min_padded_cols ? codec->min_padded_cols : padded;
}

/* stated: what a header says, for a codec whose payload has no size of its own. */
static size_t payload_bytes(const fs_sub1_codec *codec, uint32_t rows, uint32_t cols, bool symmetric,
                            size_t stated)
{
    if (rows == 0 || cols == 0 || rows > FS_SUB1_MAX_DIM || cols > FS_SUB1_MAX_DIM) return 0;
    return codec->payload_bytes ? codec->payload_bytes(codec, rows, cols, symmetric) : stated;
}

size_t fs_sub1_blob_bytes(fs_sub1_format format, uint32_t n, uint32_t m, uint32_t rows, uint32_t cols)
{
    const fs_sub1_codec *codec = fs_sub1_codec_find(format, n, m);
    size_t payload = codec ? payload_bytes(codec, rows, cols, false, 0) : 0;
    return payload ? FS_SUB1_HEADER_BYTES + payload : 0;
}

static void put(uint8_t *at, uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) at[i] = (uint8_t)(v >> (8 * i));
}

/* Of the whole blob, with the checksum's own field taken as zero. */
static uint64_t checksum(const uint8_t *blob, size_t bytes)
{
    uint8_t header[FS_SUB1_HEADER_BYTES];
    memcpy(header, blob, sizeof(header));
    memset(header + AT_CHECKSUM, 0, 8);
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, header, sizeof(header));
    XXH3_64bits_update(&state, blob + sizeof(header), bytes - sizeof(header));
    return XXH3_64bits_digest(&state);
}

void fs_sub1_seal(const fs_sub1_codec *codec, uint32_t rows, uint32_t cols, uint32_t flags, size_t payload,
                  uint8_t *blob)
{
    memset(blob, 0, FS_SUB1_HEADER_BYTES);
    memcpy(blob, magic, sizeof(magic));
    blob[4] = VERSION;
    blob[5] = (uint8_t)codec->format;
    blob[6] = (uint8_t)codec->n;
    blob[7] = (uint8_t)codec->m;
    put(blob + 8, rows, 4);
    put(blob + 12, cols, 4);
    put(blob + 16, flags, 4);
    put(blob + 24, payload, 8);
    put(blob + AT_CHECKSUM, checksum(blob, FS_SUB1_HEADER_BYTES + payload), 8);
}

static bool all_zero(const uint8_t *data, size_t size)
{
    uint8_t any = 0;
    for (size_t i = 0; i < size; i++) any |= data[i];
    return any == 0;
}

/* Fills out from the header; *stored receives the checksum that it states. */
static fs_status read_header(const uint8_t *data, size_t size, fs_sub1_matrix *out,
                             const fs_sub1_codec **codec_out, uint64_t *stored, fs_detail *detail)
{
    if (size < FS_SUB1_HEADER_BYTES)
        return fs_fail(detail, FS_CORRUPT, "blob: %zu bytes, the header alone is %u", size,
                       FS_SUB1_HEADER_BYTES);
    fs_reader r = fs_reader_of(data, FS_SUB1_HEADER_BYTES);
    if (memcmp(fs_read_bytes(&r, sizeof(magic)), magic, sizeof(magic)) != 0)
        return fs_fail(detail, FS_CORRUPT, "blob: does not begin with FSB1");
    uint32_t version = fs_read_u8(&r), format = fs_read_u8(&r), n = fs_read_u8(&r), m = fs_read_u8(&r);
    uint32_t rows = fs_read_u32(&r), cols = fs_read_u32(&r), flags = fs_read_u32(&r),
             reserved = fs_read_u32(&r);
    uint64_t payload = fs_read_u64(&r);
    *stored = fs_read_u64(&r);
    if (version != VERSION)
        return fs_fail(detail, FS_UNSUPPORTED, "blob: version %u, this build reads %d", version, VERSION);
    const fs_sub1_codec *codec = fs_sub1_codec_find(format, n, m);
    if (!codec)
        return fs_fail(detail, FS_UNSUPPORTED, "blob: format %u with %u:%u is not known", format, n, m);
    bool symmetric = codec->may_be_symmetric && flags == FS_SUB1_SYMMETRIC;
    if ((flags && !symmetric) || reserved || !all_zero(data + AT_ZEROS, FS_SUB1_HEADER_BYTES - AT_ZEROS))
        return fs_fail(detail, FS_CORRUPT, "blob: a header field that must be zero is not");
    size_t expected = payload_bytes(codec, rows, cols, symmetric, payload);
    if (expected == 0)
        return fs_fail(detail, FS_CORRUPT,
                       "blob: %u x %u with a payload of %llu bytes is not a shape of its format", rows, cols,
                       (unsigned long long)payload);
    if (payload != expected || expected > size - FS_SUB1_HEADER_BYTES)
        return fs_fail(detail, FS_CORRUPT, "blob: payload of %llu bytes, %u x %u takes %zu and there are %zu",
                       (unsigned long long)payload, rows, cols, expected, size - FS_SUB1_HEADER_BYTES);
    *out = (fs_sub1_matrix){.format = codec->format,
                            .n = (uint8_t)n,
                            .m = (uint8_t)m,
                            .rows = rows,
                            .cols = cols,
                            .padded_rows = fs_sub1_round_up(rows, codec->group_rows),
                            .padded_cols = fs_sub1_padded_cols(codec, cols),
                            .group_rows = codec->group_rows,
                            .symmetric = symmetric,
                            .scattered = codec->scattered,
                            .payload = data + FS_SUB1_HEADER_BYTES,
                            .payload_bytes = expected,
                            .blob_bytes = FS_SUB1_HEADER_BYTES + expected};
    *codec_out = codec;
    return FS_OK;
}

fs_status fs_sub1_open(const uint8_t *data, size_t size, fs_sub1_matrix *out, fs_detail *detail)
{
    if ((uintptr_t)data % FS_SUB1_ALIGN)
        return fs_fail(detail, FS_INVALID, "blob: its memory is not aligned to %u bytes", FS_SUB1_ALIGN);
    fs_sub1_matrix matrix = {0};
    const fs_sub1_codec *codec = NULL;
    uint64_t stored = 0;
    fs_status st = read_header(data, size, &matrix, &codec, &stored, detail);
    if (st != FS_OK) return st;
    uint64_t found = checksum(data, matrix.blob_bytes);
    if (found != stored)
        return fs_fail(detail, FS_CORRUPT, "blob: checksum is %016llx, its bytes give %016llx",
                       (unsigned long long)stored, (unsigned long long)found);
    if (!all_zero(data + matrix.blob_bytes, size - matrix.blob_bytes))
        return fs_fail(detail, FS_CORRUPT, "blob: bytes behind its end (%zu) are not zero",
                       matrix.blob_bytes);
    st = codec->check(&matrix,
                      detail); /* a checksum says that the bytes arrived, not that they are a matrix */
    if (st != FS_OK) return st;
    *out = matrix;
    return FS_OK;
}

void fs_sub1_decode(const fs_sub1_matrix *matrix, float *w)
{
    fs_sub1_codec_find(matrix->format, matrix->n, matrix->m)->decode(matrix, w);
}
