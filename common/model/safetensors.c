#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "model/json_int.h"
#include "model/safetensors_int.h"

#define MAX_INDEX_BYTES (512u << 20)
#define MAX_FILES       65536

/* dir/name, in the arena; NULL: no memory. */
static char *join(fs_arena *arena, const char *dir, const char *name)
{
    size_t size = strlen(dir) + 1 + strlen(name) + 1;
    char *path = fs_arena_alloc(arena, size);
    if (path) snprintf(path, size, "%s/%s", dir, name);
    return path;
}

fs_tensors *fs_tensors_new(uint32_t num_files)
{
    fs_tensors *set = calloc(1, sizeof(*set));
    if (!set) return NULL;
    set->files = calloc(num_files ? num_files : 1, sizeof(*set->files));
    if (!set->files) return free(set), NULL;
    set->num_files = num_files;
    return set;
}

void fs_tensors_close(fs_tensors *set)
{
    if (!set) return;
    for (uint32_t i = 0; i < set->num_files; i++)
        if (set->files[i].data) munmap((void *)set->files[i].data, set->files[i].size);
    fs_string_table_free(&set->names);
    fs_arena_fini(&set->arena);
    free(set->tensors);
    free(set->files);
    free(set);
}

void fs_tensor_release(const fs_tensor *tensor)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)tensor->data;
    const uintptr_t first = (begin + page - 1) / page * page, last = (begin + tensor->size) / page * page;
    if (last > first)
        madvise((void *)first, last - first, MADV_DONTNEED); /* a mapping of a file: nothing is lost */
}

static fs_status map_fd(fs_tensor_file *file, int fd, fs_detail *detail)
{
    struct stat info;
    if (fstat(fd, &info) != 0) return fs_fail(detail, FS_IO, "%s: %s", file->path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return fs_fail(detail, FS_INVALID, "%s: not a regular file", file->path);
    if (info.st_size < 8)
        return fs_fail(detail, FS_CORRUPT, "%s: %lld bytes are too few for a header", file->path,
                       (long long)info.st_size);
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) return fs_fail(detail, FS_IO, "%s: mmap: %s", file->path, strerror(errno));
    file->data = data;
    file->size = (uint64_t)info.st_size;
    return FS_OK;
}

/* Maps files[i], named `name` in dir, and reads its header. */
static fs_status open_file(fs_tensors *set, uint32_t i, const char *dir, const char *name, fs_detail *detail)
{
    fs_tensor_file *file = &set->files[i];
    file->path = join(&set->arena, dir, name);
    if (!file->path) return fs_fail(detail, FS_NO_MEMORY, "%.200s: no memory", name);
    int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (fd < 0)
        return fs_fail(detail, errno == ENOENT || errno == ENOTDIR ? FS_NOT_FOUND : FS_IO, "%s: %s",
                       file->path, strerror(errno));
    fs_status st = map_fd(file, fd, detail);
    close(fd);
    return st == FS_OK ? fs_safetensors_header(set, i, file->data, file->size, detail) : st;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The file names of weight_map, each once, sorted. Only plain names: an index must not lead out of its
 * directory. */
static fs_status list_shards(const json_t *map, const char *index, const char ***out, uint32_t *count,
                             fs_detail *detail)
{
    const char *tensor;
    json_t *value;
    const char **names = calloc(json_object_size(map) + 1, sizeof(*names));
    uint32_t n = 0, unique = 0;
    if (!names) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", index);
    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!name || name[0] == '\0' || name[0] == '.' || strchr(name, '/')) {
            free(names);
            return fs_fail(detail, FS_CORRUPT, "%s: tensor '%.120s' is not placed in a plain file name",
                           index, tensor);
        }
        names[n++] = name;
    }
    if (n > 1) qsort(names, n, sizeof(*names), by_text);
    for (uint32_t i = 0; i < n; i++)
        if (unique == 0 || strcmp(names[unique - 1], names[i]) != 0) names[unique++] = names[i];
    *out = names;
    *count = unique;
    return FS_OK;
}

/* The index and the headers must say the same: a shard from another download would pass each check of its
 * own. */
static fs_status check_index(const fs_tensors *set, const json_t *map, const char *index, fs_detail *detail)
{
    for (uint32_t i = 0; i < set->count; i++) {
        const fs_tensor *t = &set->tensors[i];
        const char *path = set->files[t->file].path, *slash = strrchr(path, '/');
        const char *said = json_string_value(json_object_get(map, t->name));
        if (!said)
            return fs_fail(detail, FS_CORRUPT, "%s: tensor '%.120s' of %s is not in it", index, t->name,
                           path);
        if (strcmp(said, slash + 1) != 0)
            return fs_fail(detail, FS_CORRUPT, "%s: tensor '%.120s' is said to be in '%.120s' but is in %s",
                           index, t->name, said, path);
    }
    if (json_object_size(map) == set->count) return FS_OK;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value)
    {
        if (!fs_tensors_find(set, name))
            return fs_fail(detail, FS_CORRUPT, "%s: tensor '%.120s' is not in '%.120s'", index, name,
                           json_string_value(value));
    }
    return FS_OK;
}

static fs_status open_shards(const char *dir, const json_t *root, const char *index, fs_tensors **out,
                             fs_detail *detail)
{
    const json_t *map = json_object_get(root, "weight_map");
    const char **names = NULL;
    uint32_t count = 0;
    if (!json_is_object(map)) return fs_fail(detail, FS_CORRUPT, "%s: weight_map is not an object", index);
    fs_status st = list_shards(map, index, &names, &count, detail);
    if (st != FS_OK) return st;
    fs_tensors *set = NULL;
    if (count > MAX_FILES)
        st = fs_fail(detail, FS_UNSUPPORTED, "%s: %u files are over %d", index, count, MAX_FILES);
    else if (!(set = fs_tensors_new(count)))
        st = fs_fail(detail, FS_NO_MEMORY, "%s: no memory", index);
    for (uint32_t i = 0; i < count && st == FS_OK; i++) st = open_file(set, i, dir, names[i], detail);
    if (st == FS_OK) st = check_index(set, map, index, detail);
    free(names);
    if (st != FS_OK) return fs_tensors_close(set), st;
    *out = set;
    return FS_OK;
}

static fs_status open_single(const char *dir, fs_tensors **out, fs_detail *detail)
{
    fs_tensors *set = fs_tensors_new(1);
    if (!set) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", dir);
    fs_status st = open_file(set, 0, dir, "model.safetensors", detail);
    if (st != FS_OK) return fs_tensors_close(set), st;
    *out = set;
    return FS_OK;
}

fs_status fs_tensors_open(const char *dir, fs_tensors **out, fs_detail *detail)
{
    fs_arena arena = {0};
    fs_buffer text = {0};
    json_t *root = NULL;
    char *index = join(&arena, dir, "model.safetensors.index.json");
    fs_status st = index ? fs_file_read(index, MAX_INDEX_BYTES, &text, detail) : FS_NO_MEMORY;
    if (st == FS_NOT_FOUND) {
        if (detail) *detail = (fs_detail){0};
        st = open_single(dir, out, detail);
    } else if (st == FS_OK) {
        st = fs_json_parse((const char *)text.data, text.size, index, FS_CORRUPT, &root, detail);
        if (st == FS_OK) st = open_shards(dir, root, index, out, detail);
    }
    json_decref(root);
    fs_buffer_free(&text);
    fs_arena_fini(&arena);
    return st;
}

fs_status fs_safetensors_parse(const uint8_t *data, size_t size, uint64_t file_size, const char *name,
                               fs_tensors **out, fs_detail *detail)
{
    fs_tensors *set = fs_tensors_new(1);
    if (!set) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", name);
    set->files[0].size = file_size;
    set->files[0].path = fs_arena_strndup(&set->arena, name, strlen(name));
    fs_status st = set->files[0].path ? fs_safetensors_header(set, 0, data, size, detail)
                                      : fs_fail(detail, FS_NO_MEMORY, "%s: no memory", name);
    if (st != FS_OK) return fs_tensors_close(set), st;
    *out = set;
    return FS_OK;
}

const fs_tensor *fs_tensors_find(const fs_tensors *set, const char *name)
{
    uint32_t i;
    return fs_string_table_find(&set->names, name, strlen(name), &i) ? &set->tensors[i] : NULL;
}

/* "BF16 [4096, 256]" */
static const char *describe(const char *dtype, uint32_t num_dims, const uint64_t *shape, char out[128])
{
    int at = snprintf(out, 128, "%s [", dtype);
    for (uint32_t d = 0; d < num_dims && d < FS_MAX_DIMS; d++)
        at += snprintf(out + at, 128 - (size_t)at, "%s%llu", d ? ", " : "", (unsigned long long)shape[d]);
    snprintf(out + at, 128 - (size_t)at, "]");
    return out;
}

fs_status fs_tensors_get(const fs_tensors *set, const char *name, uint32_t num_dims, const uint64_t *shape,
                         const fs_tensor **out, fs_detail *detail)
{
    FS_ASSERT(num_dims <= FS_MAX_DIMS);
    const fs_tensor *t = fs_tensors_find(set, name);
    const char *where = set->num_files ? set->files[t ? t->file : 0].path : "(no file)";
    if (!t) return fs_fail(detail, FS_NOT_FOUND, "%s: there is no tensor '%.120s'", where, name);
    bool bytes = num_dims > 0 && shape[0] == 0, is_float = t->dtype <= FS_DTYPE_BF16;
    bool fits = t->num_dims == num_dims && (bytes ? t->dtype == FS_DTYPE_U8 && num_dims == 1 : is_float);
    for (uint32_t d = 0; d < num_dims && !bytes; d++) fits = fits && t->shape[d] == shape[d];
    if (fits) {
        *out = t;
        return FS_OK;
    }
    char found[128], expected[128];
    return fs_fail(detail, FS_INVALID, "%s: tensor '%.120s' is %s, expected %s", where, name,
                   describe(fs_dtype_name(t->dtype), t->num_dims, t->shape, found),
                   bytes ? "U8 of one dimension" : describe("float", num_dims, shape, expected));
}

uint32_t fs_tensors_count(const fs_tensors *set)
{
    return set->count;
}

const fs_tensor *fs_tensors_at(const fs_tensors *set, uint32_t index)
{
    FS_ASSERT(index < set->count);
    return &set->tensors[index];
}

uint32_t fs_tensors_num_files(const fs_tensors *set)
{
    return set->num_files;
}

const char *fs_tensors_file_path(const fs_tensors *set, uint32_t file)
{
    FS_ASSERT(file < set->num_files);
    return set->files[file].path;
}

uint64_t fs_tensors_file_size(const fs_tensors *set, uint32_t file)
{
    FS_ASSERT(file < set->num_files);
    return set->files[file].size;
}

const char *fs_tensors_metadata(const fs_tensors *set, uint32_t file, const char *key)
{
    FS_ASSERT(file < set->num_files);
    for (uint32_t i = 0; i < set->files[file].num_metadata; i++)
        if (strcmp(set->files[file].metadata[2 * i], key) == 0) return set->files[file].metadata[2 * i + 1];
    return NULL;
}
