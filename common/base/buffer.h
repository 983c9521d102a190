/* common/base/buffer.h: bytes that grow, and the checked little-endian reading and writing of them. */
#ifndef FS_BASE_BUFFER_H
#define FS_BASE_BUFFER_H

#include "base/status.h"

/* Zero is empty. Owned; freed with fs_buffer_free. After a failed growth `failed` stays set and writes do nothing, so that
 * a writer checks once, at its end. */
typedef struct {
    uint8_t *data;
    size_t size, capacity;
    bool failed;
} fs_buffer;

void fs_buffer_free(fs_buffer *buffer);
/* Makes room for more bytes behind size. FS_NO_MEMORY leaves it as it was (and failed set). */
FS_MUST_USE fs_status fs_buffer_reserve(fs_buffer *buffer, size_t more);
void fs_buffer_append(fs_buffer *buffer, const void *data, size_t size);
void fs_buffer_append_u8(fs_buffer *buffer, uint8_t v);
void fs_buffer_append_u16(fs_buffer *buffer, uint16_t v);
void fs_buffer_append_u32(fs_buffer *buffer, uint32_t v);
void fs_buffer_append_u64(fs_buffer *buffer, uint64_t v);
void fs_buffer_append_f32(fs_buffer *buffer, float v);
void fs_buffer_printf(fs_buffer *buffer, const char *fmt, ...) FS_PRINTF(2, 3);

/* Reads little-endian fields from borrowed bytes. A read past the end gives 0 and sets `short_read` for good, so that a
 * parser checks once a section. */
typedef struct {
    const uint8_t *data;
    size_t size, at;
    bool short_read;
} fs_reader;

static inline fs_reader fs_reader_of(const void *data, size_t size)
{
    return (fs_reader){data, size, 0, false};
}
uint8_t fs_read_u8(fs_reader *r);
uint16_t fs_read_u16(fs_reader *r);
uint32_t fs_read_u32(fs_reader *r);
uint64_t fs_read_u64(fs_reader *r);
float fs_read_f32(fs_reader *r);
/* The next size bytes, borrowed from the input; NULL (and short_read) if there are fewer. */
const uint8_t *fs_read_bytes(fs_reader *r, size_t size);
static inline size_t fs_reader_left(const fs_reader *r)
{
    return r->size - r->at;
}

/* Reads a whole file, at most max_bytes. FS_NOT_FOUND, FS_IO, FS_INVALID (larger than max_bytes), FS_NO_MEMORY; the detail
 * names the path. The data is followed by a 0 byte that size does not count. */
FS_MUST_USE fs_status fs_file_read(const char *path, size_t max_bytes, fs_buffer *out, fs_detail *detail);

#endif
