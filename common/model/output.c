/* common/model/output.c: a directory that is made beside its final name and gets it only when it is whole. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/output.h"

static fs_status io_error(const char *path, const char *what, fs_detail *detail)
{
    return fs_fail(detail, FS_IO, "%s: %s: %s", path, what, strerror(errno));
}

static char *join(fs_arena *arena, const char *a, const char *between, const char *b)
{
    size_t size = strlen(a) + strlen(between) + strlen(b) + 1;
    char *text = fs_arena_alloc(arena, size);
    if (text) snprintf(text, size, "%s%s%s", a, between, b);
    return text;
}

fs_status fs_output_begin(const char *path, bool resume, fs_output *out, fs_detail *detail)
{
    *out = (fs_output){0};
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/') size--;
    out->path = fs_arena_strndup(&out->arena, path, size);
    out->staging = out->path ? join(&out->arena, out->path, ".incomplete", "") : NULL;
    out->weight_map = json_object();
    if (!out->staging || !out->weight_map) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", path);
    struct stat info;
    if (lstat(out->path, &info) == 0)
        return fs_fail(detail, FS_INVALID, "%s: is there already; nothing is overwritten", out->path);
    if (errno != ENOENT) return io_error(out->path, "cannot be looked at", detail);
    if (mkdir(out->staging, 0777) != 0) {
        if (errno != EEXIST) return io_error(out->staging, "cannot be made", detail);
        if (resume) {
            out->staged = out->keep = true;
            return FS_OK;
        }
        return fs_fail(detail, FS_INVALID,
                       "%s: is there already: another run is making it, or was cut off; in that case remove "
                       "it, or, where "
                       "the program can, go on with --resume",
                       out->staging);
    }
    out->staged = true;
    return FS_OK;
}

const char *fs_output_file(fs_output *out, const char *name)
{
    return join(&out->arena, out->staging, "/", name);
}

fs_status fs_output_note_tensor(fs_output *out, const char *tensor, uint64_t bytes, const char *file)
{
    out->tensor_bytes += bytes;
    return json_object_set_new(out->weight_map, tensor, json_string(file)) == 0 ? FS_OK : FS_NO_MEMORY;
}

fs_status fs_output_write(fs_output *out, const char *name, const void *data, size_t size, fs_detail *detail)
{
    const char *path = fs_output_file(out, name);
    if (!path) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", name);
    FILE *f = fopen(path, "wbx");
    if (!f) return io_error(path, "cannot be made", detail);
    bool good = fwrite(data, 1, size, f) == size && fflush(f) == 0 && fsync(fileno(f)) == 0;
    fs_status st = good ? FS_OK : io_error(path, "write", detail);
    if (fclose(f) != 0 && st == FS_OK) st = io_error(path, "close", detail);
    return st;
}

fs_status fs_output_write_index(fs_output *out, fs_detail *detail)
{
    json_t *root = json_pack("{s{sI}sO}", "metadata", "total_size", (json_int_t)out->tensor_bytes,
                             "weight_map", out->weight_map);
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    fs_status st = text ? fs_output_write(out, "model.safetensors.index.json", text, strlen(text), detail)
                        : fs_fail(detail, FS_NO_MEMORY, "model.safetensors.index.json: no memory");
    free(text);
    json_decref(root);
    return st;
}

static fs_status sync_dir(const char *path, fs_detail *detail)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fs_status st = fd >= 0 && fsync(fd) == 0 ? FS_OK : io_error(path, "sync", detail);
    if (fd >= 0) close(fd);
    return st;
}

static const char *parent_of(fs_output *out)
{
    const char *slash = strrchr(out->path, '/');
    if (!slash) return ".";
    return slash == out->path ? "/" : fs_arena_strndup(&out->arena, out->path, (size_t)(slash - out->path));
}

/* Plain rename() would replace an empty directory that somebody has just made. Not every file system knows the flag. */
static int rename_to_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
    struct stat info;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    if (lstat(to, &info) == 0) return errno = EEXIST, -1;
    return rename(from, to);
}

fs_status fs_output_commit(fs_output *out, fs_detail *detail)
{
    const char *parent = parent_of(out);
    if (!parent) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", out->path);
    fs_status st = sync_dir(out->staging, detail);
    if (st != FS_OK) return st;
    if (rename_to_new(out->staging, out->path) != 0) {
        if (errno != EEXIST && errno != ENOTEMPTY) return io_error(out->path, "rename", detail);
        return fs_fail(detail, FS_INVALID, "%s: has come meanwhile; nothing is overwritten", out->path);
    }
    out->committed = true;
    return sync_dir(parent, detail);
}

/* Everything in the staging directory is a plain file that a run of ours wrote. */
void fs_output_remove(const fs_output *out, bool (*keeps)(const char *name))
{
    DIR *dir = opendir(out->staging);
    if (!dir) return;
    for (struct dirent *e; (e = readdir(dir));) {
        bool is_entry = strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
        if (is_entry && !(keeps && keeps(e->d_name))) unlinkat(dirfd(dir), e->d_name, 0);
    }
    closedir(dir);
}

static void remove_staging(const fs_output *out)
{
    fs_output_remove(out, NULL);
    if (rmdir(out->staging) != 0)
        fprintf(stderr, "%s: could not be removed: %s\n", out->staging, strerror(errno));
}

void fs_output_fini(fs_output *out)
{
    if (out->staged && !out->committed && !out->keep) remove_staging(out);
    json_decref(out->weight_map);
    fs_arena_fini(&out->arena);
    *out = (fs_output){0};
}
