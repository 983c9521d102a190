/* common/model/safetensors_header.c: the JSON header of one file, with every claim that it makes checked. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "model/json_int.h"
#include "model/safetensors_int.h"

/* What is being read, for the details. */
typedef struct {
    fs_tensors *set;
    fs_tensor_file *file;
    uint32_t file_index;
    uint64_t data_start, data_size; /* of the bytes behind the header */
    fs_detail *detail;
} header;

static fs_status corrupt(const header *h, const char *tensor, const char *what)
{
    return fs_fail(h->detail, FS_CORRUPT, "%s: tensor '%.120s': %s", h->file->path, tensor, what);
}

static fs_status read_dtype(const header *h, const char *name, const json_t *entry, fs_dtype *out)
{
    const char *word = json_string_value(json_object_get(entry, "dtype"));
    if (!word) return corrupt(h, name, "dtype is not a string");
    for (fs_dtype d = 0; d < FS_NUM_DTYPES; d++) {
        if (strcmp(word, fs_dtype_name(d)) != 0) continue;
        *out = d;
        return FS_OK;
    }
    return fs_fail(h->detail, FS_UNSUPPORTED, "%s: tensor '%.120s': dtype '%.40s' is not supported",
                   h->file->path, name, word);
}

static fs_status read_shape(const header *h, const char *name, const json_t *entry, fs_tensor *t)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) return corrupt(h, name, "shape is not an array");
    if (json_array_size(shape) > FS_MAX_DIMS)
        return fs_fail(h->detail, FS_UNSUPPORTED,
                       "%s: tensor '%.120s': %zu dimensions, at most %d are supported", h->file->path, name,
                       json_array_size(shape), FS_MAX_DIMS);
    t->num_dims = (uint32_t)json_array_size(shape);
    size_t bytes = fs_dtype_size(t->dtype);
    for (uint32_t d = 0; d < FS_MAX_DIMS; d++) {
        const json_t *dim = json_array_get(shape, d);
        if (d < t->num_dims && (!json_is_integer(dim) || json_integer_value(dim) < 0))
            return corrupt(h, name, "shape has something other than whole numbers");
        t->shape[d] = d < t->num_dims ? (uint64_t)json_integer_value(dim) : 1;
        if (!fs_mul_size(bytes, t->shape[d], &bytes)) return corrupt(h, name, "shape overflows");
    }
    t->size = bytes;
    return FS_OK;
}

static fs_status read_place(const header *h, const char *name, const json_t *entry, fs_tensor *t)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return corrupt(h, name, "data_offsets is not [begin, end]");
    int64_t b = json_integer_value(begin), e = json_integer_value(end);
    if (b < 0 || e < b || (uint64_t)e > h->data_size)
        return fs_fail(h->detail, FS_CORRUPT,
                       "%s: tensor '%.120s': data_offsets [%" PRId64 ", %" PRId64
                       "] do not lie in the file's %" PRIu64 " bytes of data",
                       h->file->path, name, b, e, h->data_size);
    if ((uint64_t)(e - b) != t->size)
        return fs_fail(h->detail, FS_CORRUPT,
                       "%s: tensor '%.120s': data_offsets hold %" PRId64 " bytes, its shape %zu",
                       h->file->path, name, e - b, t->size);
    t->file_offset = h->data_start + (uint64_t)b;
    return FS_OK;
}

static fs_status read_metadata(const header *h, const json_t *metadata)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata)) return corrupt(h, "__metadata__", "not an object");
    h->file->metadata = fs_arena_calloc(&h->set->arena, json_object_size(metadata) + 1, 2 * sizeof(char *));
    if (!h->file->metadata) return FS_NO_MEMORY;
    json_object_foreach((json_t *)metadata, key, value)
    {
        if (!json_is_string(value)) return corrupt(h, "__metadata__", "a value is not a string");
        const char **pair = &h->file->metadata[2 * (size_t)h->file->num_metadata++];
        pair[0] = fs_arena_strndup(&h->set->arena, key, strlen(key));
        pair[1] = fs_arena_strndup(&h->set->arena, json_string_value(value), json_string_length(value));
        if (!pair[0] || !pair[1]) return FS_NO_MEMORY;
    }
    return FS_OK;
}

static fs_status read_tensor(const header *h, const char *name, const json_t *entry, fs_tensor *out)
{
    fs_tensor t = {.file = h->file_index};
    if (!json_is_object(entry)) return corrupt(h, name, "not an object");
    fs_status st = read_dtype(h, name, entry, &t.dtype);
    if (st == FS_OK) st = read_shape(h, name, entry, &t);
    if (st == FS_OK) st = read_place(h, name, entry, &t);
    if (st != FS_OK) return st;
    t.name = fs_arena_strndup(&h->set->arena, name, strlen(name));
    if (!t.name) return FS_NO_MEMORY;
    if (h->file->data) t.data = h->file->data + t.file_offset;
    *out = t;
    return FS_OK;
}

static fs_status reserve(fs_tensors *set, size_t more)
{
    if (more > UINT32_MAX - set->count) return FS_NO_MEMORY;
    uint32_t needed = set->count + (uint32_t)more;
    if (needed <= set->capacity) return FS_OK;
    fs_tensor *bigger = realloc(set->tensors, needed * sizeof(*bigger));
    if (!bigger) return FS_NO_MEMORY;
    set->tensors = bigger;
    set->capacity = needed;
    return FS_OK;
}

/* Empty tensors go before the one that begins where they lie, so that neither looks like an overlap. */
static int by_place(const void *a, const void *b)
{
    const fs_tensor *x = a, *y = b;
    if (x->file_offset != y->file_offset) return x->file_offset < y->file_offset ? -1 : 1;
    if (x->size != y->size) return x->size < y->size ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Every byte behind the header belongs to exactly one tensor: nothing hides in a file, and nothing is read
 * twice. */
static fs_status check_cover(const header *h)
{
    uint64_t at = h->data_start;
    for (uint32_t i = h->file->first; i < h->set->count; i++) {
        const fs_tensor *t = &h->set->tensors[i];
        if (t->file_offset < at)
            return corrupt(h, t->name, "its bytes overlap those of the tensor before it");
        if (t->file_offset > at)
            return corrupt(h, t->name, "there is a hole between it and the tensor before it");
        at += t->size;
    }
    if (at == h->data_start + h->data_size) return FS_OK;
    return fs_fail(h->detail, FS_CORRUPT, "%s: %" PRIu64 " bytes behind the last tensor", h->file->path,
                   h->data_start + h->data_size - at);
}

static fs_status add_names(const header *h)
{
    for (uint32_t i = h->file->first; i < h->set->count; i++) {
        const char *name = h->set->tensors[i].name;
        fs_status st = fs_string_table_add(&h->set->names, name, strlen(name), i);
        if (st == FS_INVALID) return corrupt(h, name, "another file has a tensor of this name");
        if (st != FS_OK) return st;
    }
    return FS_OK;
}

static fs_status read_entries(const header *h, json_t *root)
{
    const char *name;
    json_t *entry;
    fs_status st = reserve(h->set, json_object_size(root));
    json_object_foreach(root, name, entry)
    {
        if (st != FS_OK) break;
        if (strcmp(name, "__metadata__") == 0)
            st = read_metadata(h, entry);
        else if ((st = read_tensor(h, name, entry, &h->set->tensors[h->set->count])) == FS_OK)
            h->set->count++;
    }
    if (st != FS_OK) return st;
    h->file->count = h->set->count - h->file->first;
    if (h->file->count > 1)
        qsort(&h->set->tensors[h->file->first], h->file->count, sizeof(fs_tensor), by_place);
    st = check_cover(h);
    return st == FS_OK ? add_names(h) : st;
}

fs_status fs_safetensors_header(fs_tensors *set, uint32_t file, const uint8_t *data, size_t size,
                                fs_detail *detail)
{
    header h = {set, &set->files[file], file, 0, 0, detail};
    h.file->first = set->count;
    fs_reader r = fs_reader_of(data, size);
    uint64_t length = fs_read_u64(&r);
    if (r.short_read || h.file->size < 8)
        return fs_fail(detail, FS_CORRUPT, "%s: %zu bytes are too few for a header", h.file->path, size);
    if (length > FS_MAX_HEADER_BYTES || length > h.file->size - 8 || length > fs_reader_left(&r))
        return fs_fail(detail, FS_CORRUPT, "%s: header of %" PRIu64 " bytes in a file of %" PRIu64,
                       h.file->path, length, h.file->size);
    h.data_start = 8 + length;
    h.data_size = h.file->size - h.data_start;
    const char *json = (const char *)fs_read_bytes(&r, (size_t)length);
    if (length == 0 || json[0] != '{')
        return fs_fail(detail, FS_CORRUPT, "%s: the header does not begin with '{'", h.file->path);
    json_t *root = NULL;
    fs_status st = fs_json_parse(json, (size_t)length, h.file->path, FS_CORRUPT, &root, detail);
    if (st == FS_OK) st = read_entries(&h, root);
    json_decref(root);
    if (st == FS_NO_MEMORY) return fs_fail(detail, st, "%s: no memory for its tensors", h.file->path);
    return st;
}
