/* common/model/safetensors_writer.c: one safetensors file, written front to back. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "model/safetensors_int.h"

typedef struct {
    const char *name; /* in the arena */
    size_t size;
} declared;

struct fs_safetensors_writer {
    fs_arena arena;
    char *path, *temporary, *dir; /* in the arena */
    FILE *stream;                 /* on the temporary file; NULL once it has its final name */
    size_t align;
    fs_buffer metadata, entries; /* inner text of the JSON objects */
    fs_string_table names;
    declared *tensors;
    uint32_t count, capacity, next; /* next: the one whose bytes come next */
    size_t given; /* bytes of it that were appended */
    uint64_t data_size;
    bool header_written;
};

static fs_status io_error(const fs_safetensors_writer *w, const char *what, fs_detail *detail)
{
    return fs_fail(detail, FS_IO, "%s: %s: %s", w->temporary, what, strerror(errno));
}

/* mkostemp makes the file private; a model is for all who may read its directory. */
static fs_status open_temporary(fs_safetensors_writer *w, fs_detail *detail)
{
    int fd = mkostemp(w->temporary, O_CLOEXEC);
    if (fd < 0) return io_error(w, "cannot be made", detail);
    w->stream = fdopen(fd, "wb");
    if (w->stream && fchmod(fd, 0644) == 0) return FS_OK;
    fs_status st = io_error(w, "cannot be opened", detail);
    if (!w->stream) {
        close(fd);
        unlink(w->temporary);
    }
    return st;
}

static bool make_paths(fs_safetensors_writer *w, const char *path)
{
    size_t size = strlen(path), stem = size;
    while (stem > 0 && path[stem - 1] != '/') stem--;
    w->path = fs_arena_strndup(&w->arena, path, size);
    w->dir = stem ? fs_arena_strndup(&w->arena, path, stem) : fs_arena_strndup(&w->arena, ".", 1);
    w->temporary = fs_arena_alloc(&w->arena, size + sizeof(".XXXXXX"));
    if (!w->path || !w->dir || !w->temporary) return false;
    snprintf(w->temporary, size + sizeof(".XXXXXX"), "%s.XXXXXX", path);
    return true;
}

fs_status fs_safetensors_writer_create(const char *path, size_t align, fs_safetensors_writer **out,
                                       fs_detail *detail)
{
    if (align < 8 || align > FS_MAX_HEADER_BYTES || (align & (align - 1)) != 0)
        return fs_fail(detail, FS_INVALID, "%s: alignment %zu is not a power of two from 8", path, align);
    fs_safetensors_writer *w = calloc(1, sizeof(*w));
    if (!w || !make_paths(w, path)) {
        fs_safetensors_writer_destroy(w);
        return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", path);
    }
    w->align = align;
    fs_status st = open_temporary(w, detail);
    if (st != FS_OK) return fs_safetensors_writer_destroy(w), st;
    *out = w;
    return FS_OK;
}

/* text as a JSON string. FS_INVALID: not UTF-8. */
static fs_status append_json(fs_buffer *out, const char *text)
{
    json_t *value = json_string(text);
    if (!value) return FS_INVALID;
    char *quoted = json_dumps(value, JSON_ENCODE_ANY);
    json_decref(value);
    if (!quoted) return FS_NO_MEMORY;
    fs_buffer_append(out, quoted, strlen(quoted));
    free(quoted);
    return out->failed ? FS_NO_MEMORY : FS_OK;
}

fs_status fs_safetensors_writer_metadata(fs_safetensors_writer *w, const char *key, const char *value)
{
    if (w->header_written) return FS_INVALID;
    if (w->metadata.size > 0) fs_buffer_append_u8(&w->metadata, ',');
    fs_status st = append_json(&w->metadata, key);
    fs_buffer_append_u8(&w->metadata, ':');
    return st == FS_OK ? append_json(&w->metadata, value) : st;
}

static fs_status size_of(fs_dtype dtype, uint32_t num_dims, const uint64_t *shape, size_t *out)
{
    if ((unsigned)dtype >= FS_NUM_DTYPES || num_dims > FS_MAX_DIMS) return FS_INVALID;
    size_t size = fs_dtype_size(dtype);
    for (uint32_t d = 0; d < num_dims; d++)
        if (!fs_mul_size(size, shape[d], &size)) return FS_INVALID;
    if (size > INT64_MAX) return FS_INVALID;
    *out = size;
    return FS_OK;
}

static fs_status remember(fs_safetensors_writer *w, const char *name, size_t size)
{
    if (w->count == w->capacity) {
        uint32_t capacity = w->capacity ? 2 * w->capacity : 64;
        declared *bigger = realloc(w->tensors, capacity * sizeof(*bigger));
        if (!bigger) return FS_NO_MEMORY;
        w->tensors = bigger;
        w->capacity = capacity;
    }
    char *copy = fs_arena_strndup(&w->arena, name, strlen(name));
    if (!copy) return FS_NO_MEMORY;
    fs_status st = fs_string_table_add(&w->names, copy, strlen(copy), w->count);
    if (st == FS_OK) w->tensors[w->count++] = (declared){copy, size};
    return st;
}

fs_status fs_safetensors_writer_declare(fs_safetensors_writer *w, const char *name, fs_dtype dtype,
                                        uint32_t num_dims, const uint64_t *shape)
{
    size_t size = 0, entry = w->entries.size;
    uint64_t begin = w->data_size;
    if (w->header_written || strcmp(name, "__metadata__") == 0) return FS_INVALID;
    fs_status st = size_of(dtype, num_dims, shape, &size);
    if (st == FS_OK && size > INT64_MAX - begin) st = FS_INVALID;
    if (st != FS_OK) return st;
    if (entry > 0) fs_buffer_append_u8(&w->entries, ',');
    st = append_json(&w->entries, name);
    fs_buffer_printf(&w->entries, ":{\"dtype\":\"%s\",\"shape\":[", fs_dtype_name(dtype));
    for (uint32_t d = 0; d < num_dims; d++)
        fs_buffer_printf(&w->entries, "%s%" PRIu64, d ? "," : "", shape[d]);
    fs_buffer_printf(&w->entries, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, begin + size);
    if (st == FS_OK && w->entries.failed) st = FS_NO_MEMORY;
    if (st == FS_OK) st = remember(w, name, size);
    if (st != FS_OK) {
        w->entries.size = entry; /* as if it had not been asked for */
        return st;
    }
    w->data_size = begin + size;
    return FS_OK;
}

static fs_status write_header(fs_safetensors_writer *w, fs_detail *detail)
{
    fs_buffer head = {0};
    fs_buffer_append_u64(&head, 0); /* its length, known below */
    fs_buffer_append_u8(&head, '{');
    if (w->metadata.size > 0) {
        fs_buffer_printf(&head, "\"__metadata__\":{");
        fs_buffer_append(&head, w->metadata.data, w->metadata.size);
        fs_buffer_printf(&head, "}%s", w->count ? "," : "");
    }
    fs_buffer_append(&head, w->entries.data, w->entries.size);
    fs_buffer_append_u8(&head, '}');
    while (head.size % w->align != 0 && !head.failed) fs_buffer_append_u8(&head, ' ');
    fs_status st = FS_OK;
    if (head.failed || w->metadata.failed || w->entries.failed)
        st = fs_fail(detail, FS_NO_MEMORY, "%s: no memory for the header", w->path);
    else if (head.size - 8 > FS_MAX_HEADER_BYTES)
        st = fs_fail(detail, FS_INVALID, "%s: a header of %zu bytes is over %u", w->path, head.size,
                     FS_MAX_HEADER_BYTES);
    for (int i = 0; i < 8 && st == FS_OK; i++) head.data[i] = (uint8_t)((uint64_t)(head.size - 8) >> (8 * i));
    if (st == FS_OK && fwrite(head.data, 1, head.size, w->stream) != head.size)
        st = io_error(w, "write", detail);
    fs_buffer_free(&head);
    w->header_written = true;
    return st;
}

fs_status fs_safetensors_writer_append(fs_safetensors_writer *w, const void *data, size_t size,
                                       fs_detail *detail)
{
    if (w->next >= w->count)
        return fs_fail(detail, FS_INVALID, "%s: more data than tensors declared", w->path);
    const declared *t = &w->tensors[w->next];
    if (size > t->size - w->given)
        return fs_fail(detail, FS_INVALID, "%s: tensor '%.120s': %zu bytes given behind %zu, %zu declared",
                       w->path, t->name, size, w->given, t->size);
    fs_status st = w->header_written ? FS_OK : write_header(w, detail);
    if (st != FS_OK) return st;
    if (size > 0 && fwrite(data, 1, size, w->stream) != size) return io_error(w, "write", detail);
    w->given += size;
    if (w->given < t->size) return FS_OK;
    w->given = 0;
    w->next++;
    return FS_OK;
}

fs_status fs_safetensors_writer_write(fs_safetensors_writer *w, const void *data, size_t size,
                                      fs_detail *detail)
{
    const declared *t = w->next < w->count ? &w->tensors[w->next] : NULL;
    if (t && (t->size != size || w->given))
        return fs_fail(detail, FS_INVALID, "%s: tensor '%.120s': %zu bytes given, %zu declared", w->path,
                       t->name, size, t->size - w->given);
    return fs_safetensors_writer_append(w, data, size, detail);
}

/* A rename is durable only once its directory is. */
static fs_status sync_dir(const fs_safetensors_writer *w, fs_detail *detail)
{
    int fd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fs_status st = fd >= 0 && fsync(fd) == 0 ? FS_OK
                                             : fs_fail(detail, FS_IO, "%s: %s", w->dir, strerror(errno));
    if (fd >= 0) close(fd);
    return st;
}

fs_status fs_safetensors_writer_finish(fs_safetensors_writer *w, fs_detail *detail)
{
    if (!w->stream) return fs_fail(detail, FS_INVALID, "%s: finished already", w->path);
    if (w->next < w->count)
        return fs_fail(detail, FS_INVALID, "%s: tensor '%.120s' was declared but not written", w->path,
                       w->tensors[w->next].name);
    fs_status st = w->header_written ? FS_OK : write_header(w, detail);
    if (st != FS_OK) return st;
    if (fflush(w->stream) != 0 || fsync(fileno(w->stream)) != 0) return io_error(w, "write", detail);
    if (rename(w->temporary, w->path) != 0) return io_error(w, "rename", detail);
    fclose(w->stream); /* flushed above: nothing left to fail */
    w->stream = NULL;
    return sync_dir(w, detail);
}

void fs_safetensors_writer_destroy(fs_safetensors_writer *w)
{
    if (!w) return;
    if (w->stream) {
        fclose(w->stream);
        unlink(w->temporary);
    }
    fs_buffer_free(&w->metadata);
    fs_buffer_free(&w->entries);
    fs_string_table_free(&w->names);
    fs_arena_fini(&w->arena);
    free(w->tensors);
    free(w);
}
