/* tools/compress/rows_file.c: float32 rows in a file: what does not have to be in memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "calibrate.h"

enum { CHECKSUM_CHUNK = 1 << 20 };

static fs_status io_error(const fs_rows_file *file, const char *what, fs_detail *detail)
{
    return fs_fail(detail, FS_IO, "%s: %s: %s", file->path, what, strerror(errno));
}

static fs_status open_file(const char *dir, const char *name, int flags, size_t cols, fs_rows_file *out,
                           fs_detail *detail)
{
    out->row_bytes = cols * sizeof(float);
    if (snprintf(out->path, sizeof(out->path), "%s/%s", dir, name) >= (int)sizeof(out->path))
        return fs_fail(detail, FS_INVALID, "%s: path is too long", dir);
    out->fd = open(out->path, flags | O_RDWR | O_CLOEXEC, 0666);
    if (out->fd >= 0) return FS_OK;
    fs_status st = io_error(out, "open", detail);
    *out = (fs_rows_file){0};
    return errno == ENOENT ? FS_NOT_FOUND : st;
}

fs_status fs_rows_create(const char *dir, const char *name, size_t cols, uint64_t rows, fs_rows_file *out,
                         fs_detail *detail)
{
    fs_rows_file file = {0};
    fs_status st = open_file(dir, name, O_CREAT | O_TRUNC, cols, &file, detail);
    if (st != FS_OK) return st;
    errno = posix_fallocate(file.fd, 0, (off_t)(rows * file.row_bytes));
    if (errno == EOPNOTSUPP || errno == EINVAL) errno = 0; /* such a file system tells when it is written */
    if (errno) {
        st = io_error(&file, "no room", detail);
        fs_rows_close(&file, true);
        return st;
    }
    *out = file;
    return FS_OK;
}

fs_status fs_rows_open(const char *dir, const char *name, size_t cols, uint64_t rows, fs_rows_file *out,
                       fs_detail *detail)
{
    fs_rows_file file = {0};
    struct stat info;
    fs_status st = open_file(dir, name, 0, cols, &file, detail);
    if (st != FS_OK) return st;
    if (fstat(file.fd, &info) != 0)
        st = io_error(&file, "stat", detail);
    else if ((uint64_t)info.st_size != rows * file.row_bytes)
        st = fs_fail(detail, FS_CORRUPT, "%s: has %lld bytes, %llu are expected", file.path,
                     (long long)info.st_size, (unsigned long long)(rows * file.row_bytes));
    if (st != FS_OK) return fs_rows_close(&file, false), st;
    *out = file;
    return FS_OK;
}

fs_status fs_rows_read(const fs_rows_file *file, uint64_t row, uint32_t count, float *out, fs_detail *detail)
{
    size_t left = count * file->row_bytes;
    off_t at = (off_t)(row * file->row_bytes);
    for (uint8_t *to = (uint8_t *)out; left > 0;) {
        ssize_t n = pread(file->fd, to, left, at);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) return fs_fail(detail, FS_CORRUPT, "%s: became shorter while it was read", file->path);
        if (n < 0) return io_error(file, "read", detail);
        to += n, at += n, left -= (size_t)n;
    }
    return FS_OK;
}

fs_status fs_rows_write(const fs_rows_file *file, uint64_t row, uint32_t count, const float *in,
                        fs_detail *detail)
{
    size_t left = count * file->row_bytes;
    off_t at = (off_t)(row * file->row_bytes);
    for (const uint8_t *from = (const uint8_t *)in; left > 0;) {
        ssize_t n = pwrite(file->fd, from, left, at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_error(file, "write", detail);
        from += n, at += n, left -= (size_t)n;
    }
    return FS_OK;
}

fs_status fs_rows_seal(const fs_rows_file *file, uint64_t rows, uint64_t *checksum, fs_detail *detail)
{
    uint8_t *chunk = malloc(CHECKSUM_CHUNK);
    XXH3_state_t *state = XXH3_createState();
    fs_status st = chunk && state ? FS_OK : fs_fail(detail, FS_NO_MEMORY, "%s: no memory", file->path);
    if (st == FS_OK) XXH3_64bits_reset(state);
    uint64_t bytes = rows * file->row_bytes;
    for (uint64_t at = 0; st == FS_OK && at < bytes;) {
        size_t want = bytes - at < CHECKSUM_CHUNK ? (size_t)(bytes - at) : CHECKSUM_CHUNK;
        ssize_t n = pread(file->fd, chunk, want, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            st = n < 0 ? io_error(file, "read", detail)
                       : fs_fail(detail, FS_CORRUPT, "%s: is short", file->path);
        if (st == FS_OK) XXH3_64bits_update(state, chunk, (size_t)n), at += (uint64_t)n;
    }
    if (st == FS_OK && fsync(file->fd) != 0) st = io_error(file, "sync", detail);
    if (st == FS_OK) *checksum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    free(chunk);
    return st;
}

void fs_rows_close(fs_rows_file *file, bool remove)
{
    if (file->fd > 0) close(file->fd);
    if (file->fd > 0 && remove) unlink(file->path);
    *file = (fs_rows_file){0};
}
