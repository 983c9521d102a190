/* common/base/buffer.c: a growing buffer, a reader of little-endian fields, and whole files. */
#include "base/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void fs_buffer_free(fs_buffer *buffer)
{
    if (!buffer) return;
    free(buffer->data);
    *buffer = (fs_buffer){0};
}

static size_t grown_capacity(size_t capacity, size_t wanted)
{
    if (capacity < 64) capacity = 64;
    while (capacity < wanted) {
        if (capacity > SIZE_MAX / 2) return wanted;
        capacity *= 2;
    }
    return capacity;
}

fs_status fs_buffer_reserve(fs_buffer *buffer, size_t more)
{
    size_t wanted;
    if (buffer->failed) return FS_NO_MEMORY;
    if (more <= buffer->capacity - buffer->size) return FS_OK;
    if (fs_add_size(buffer->size, more, &wanted) && wanted <= PTRDIFF_MAX) {
        size_t capacity = grown_capacity(buffer->capacity, wanted);
        uint8_t *data = realloc(buffer->data, capacity);
        if (data) {
            buffer->data = data;
            buffer->capacity = capacity;
            return FS_OK;
        }
    }
    buffer->failed = true;
    return FS_NO_MEMORY;
}

void fs_buffer_append(fs_buffer *buffer, const void *data, size_t size)
{
    if (size == 0 || fs_buffer_reserve(buffer, size) != FS_OK) return;
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

static void append_le(fs_buffer *buffer, uint64_t v, size_t size)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)(v >> (8 * i));
    fs_buffer_append(buffer, bytes, size);
}

void fs_buffer_append_u8(fs_buffer *buffer, uint8_t v)
{
    append_le(buffer, v, 1);
}

void fs_buffer_append_u16(fs_buffer *buffer, uint16_t v)
{
    append_le(buffer, v, 2);
}

void fs_buffer_append_u32(fs_buffer *buffer, uint32_t v)
{
    append_le(buffer, v, 4);
}

void fs_buffer_append_u64(fs_buffer *buffer, uint64_t v)
{
    append_le(buffer, v, 8);
}

void fs_buffer_append_f32(fs_buffer *buffer, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    append_le(buffer, bits, 4);
}

void fs_buffer_printf(fs_buffer *buffer, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) buffer->failed = true;
    /* One byte more: vsnprintf terminates, though the size does not count it. */
    if (n >= 0 && fs_buffer_reserve(buffer, (size_t)n + 1) == FS_OK) {
        vsnprintf((char *)buffer->data + buffer->size, (size_t)n + 1, fmt, again);
        buffer->size += (size_t)n;
    }
    va_end(again);
}

const uint8_t *fs_read_bytes(fs_reader *r, size_t size)
{
    if (r->short_read || size > r->size - r->at) {
        r->short_read = true;
        return NULL;
    }
    const uint8_t *p = r->data + r->at;
    r->at += size;
    return p;
}

static uint64_t read_le(fs_reader *r, size_t size)
{
    const uint8_t *p = fs_read_bytes(r, size);
    uint64_t v = 0;
    for (size_t i = 0; p && i < size; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint8_t fs_read_u8(fs_reader *r)
{
    return (uint8_t)read_le(r, 1);
}

uint16_t fs_read_u16(fs_reader *r)
{
    return (uint16_t)read_le(r, 2);
}

uint32_t fs_read_u32(fs_reader *r)
{
    return (uint32_t)read_le(r, 4);
}

uint64_t fs_read_u64(fs_reader *r)
{
    return read_le(r, 8);
}

float fs_read_f32(fs_reader *r)
{
    uint32_t bits = fs_read_u32(r);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* Reads until the end, whatever the size said: files in /proc say 0, and a file may grow meanwhile. */
static fs_status read_all(int fd, const char *path, size_t max_bytes, fs_buffer *data, fs_detail *detail)
{
    for (;;) {
        if (fs_buffer_reserve(data, 4096) != FS_OK)
            return fs_fail(detail, FS_NO_MEMORY, "%s: no memory for its content", path);
        ssize_t n = read(fd, data->data + data->size, data->capacity - data->size - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fs_fail(detail, FS_IO, "%s: %s", path, strerror(errno));
        if (n == 0) break;
        data->size += (size_t)n;
        if (data->size > max_bytes)
            return fs_fail(detail, FS_INVALID, "%s: larger than %zu bytes", path, max_bytes);
    }
    data->data[data->size] = 0;
    return FS_OK;
}

fs_status fs_file_read(const char *path, size_t max_bytes, fs_buffer *out, fs_detail *detail)
{
    fs_buffer data = {0};
    struct stat info;
    fs_status st = FS_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        st = errno == ENOENT || errno == ENOTDIR ? FS_NOT_FOUND : FS_IO;
        return fs_fail(detail, st, "%s: %s", path, strerror(errno));
    }
    if (fstat(fd, &info) != 0) {
        st = fs_fail(detail, FS_IO, "%s: %s", path, strerror(errno));
    } else if (S_ISREG(info.st_mode) && (uint64_t)info.st_size > max_bytes) {
        st = fs_fail(detail, FS_INVALID, "%s: %lld bytes, larger than %zu", path, (long long)info.st_size,
                     max_bytes);
    } else if (S_ISREG(info.st_mode) && fs_buffer_reserve(&data, (size_t)info.st_size + 4097) != FS_OK) {
        st = fs_fail(detail, FS_NO_MEMORY, "%s: no memory for %lld bytes", path, (long long)info.st_size);
    }
    if (st == FS_OK) st = read_all(fd, path, max_bytes, &data, detail);
    close(fd);
    if (st == FS_OK) {
        fs_buffer_free(out);
        *out = data;
        data = (fs_buffer){0};
    }
    fs_buffer_free(&data);
    return st;
}
