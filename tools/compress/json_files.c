/* tools/compress/json_files.c: config.json with what the compression adds, and the small files that go along as they are. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "compress.h"

enum { MAX_JSON_BYTES = 256 << 20 };

static void append_quantization(uint32_t format, uint32_t n, fs_buffer *out)
{
    fs_buffer_printf(
        out,
        "  \"quantization_config\": {\n    \"quant_method\": \"foresight-sub1\",\n    \"version\": 1,\n");
    if (format == FS_SUB1_FREE)
        fs_buffer_printf(out, "    \"format\": \"free\",\n");
    else if (format == 0) /* each blob tells its own */
        fs_buffer_printf(out, "    \"format\": \"mixed\",\n");
    else if (n == 0)
        fs_buffer_printf(out, "    \"format\": \"blocked\",\n    \"m\": 16,\n");
    else
        fs_buffer_printf(out, "    \"format\": \"blocked\",\n    \"n\": %u,\n    \"m\": 16,\n", n);
    fs_buffer_printf(out, "    \"activations\": \"int8\"\n  }\n}\n");
}

static fs_status read_input(const fs_input *in, const char *name, fs_buffer *text, fs_detail *detail)
{
    char path[4096];
    if (snprintf(path, sizeof(path), "%s/%s", in->dir, name) >= (int)sizeof(path))
        return fs_fail(detail, FS_INVALID, "%s: path is too long", in->dir);
    return fs_file_read(path, MAX_JSON_BYTES, text, detail);
}

/* The text stays as it is, numbers and order included; the new key goes before the last brace. That the text is an object with keys was
 * seen when the configuration was loaded; this looks again because the file may have changed since. */
static fs_status write_config(const fs_input *in, uint32_t format, uint32_t n, fs_output *out,
                              fs_summary *summary, fs_detail *detail)
{
    fs_buffer text = {0}, with = {0};
    fs_status st = read_input(in, "config.json", &text, detail);
    json_t *root = st == FS_OK ? json_loadb((const char *)text.data, text.size, JSON_REJECT_DUPLICATES, NULL)
                               : NULL;
    if (st == FS_OK && (json_object_size(root) == 0 || json_object_get(root, "quantization_config")))
        st = fs_fail(detail, FS_INVALID, "%s/config.json: not an object, or quantised already", in->dir);
    if (st == FS_OK) {
        size_t size = text.size;
        while (text.data[size - 1] != '}') size--;
        size--;
        while (strchr(" \t\r\n", text.data[size - 1])) size--;
        fs_buffer_append(&with, text.data, size);
        fs_buffer_printf(&with, ",\n");
        append_quantization(format, n, &with);
        st = with.failed ? fs_fail(detail, FS_NO_MEMORY, "config.json: no memory")
                         : fs_output_write(out, "config.json", with.data, with.size, detail);
        summary->json_bytes += with.size;
        summary->num_json_files++;
    }
    json_decref(root);
    fs_buffer_free(&text);
    fs_buffer_free(&with);
    return st;
}

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), end_size = strlen(end);
    return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

/* golden.json: reference outputs of the demo checkpoint, large and of no use to a server. */
static bool goes_along(const char *name)
{
    return ends_with(name, ".json") && name[0] != '.' && !ends_with(name, ".index.json") &&
           strcmp(name, "config.json") != 0 && strcmp(name, "golden.json") != 0;
}

static fs_status copy_file(const fs_input *in, const char *name, fs_output *out, fs_summary *summary,
                           fs_detail *detail)
{
    fs_buffer text = {0};
    fs_status st = read_input(in, name, &text, detail);
    if (st == FS_OK) st = fs_output_write(out, name, text.data, text.size, detail);
    summary->json_bytes += text.size;
    summary->num_json_files++;
    fs_buffer_free(&text);
    return st;
}

static fs_status copy_others(const fs_input *in, fs_output *out, fs_summary *summary, fs_detail *detail)
{
    DIR *dir = opendir(in->dir);
    if (!dir) return fs_fail(detail, FS_IO, "%s: %s", in->dir, strerror(errno));
    fs_status st = FS_OK;
    for (struct dirent *e; st == FS_OK && (e = readdir(dir));) {
        struct stat info;
        if (!goes_along(e->d_name)) continue;
        if (fstatat(dirfd(dir), e->d_name, &info, 0) == 0 && !S_ISREG(info.st_mode)) continue;
        st = copy_file(in, e->d_name, out, summary, detail);
    }
    closedir(dir);
    return st;
}

fs_status fs_pack_json(const fs_input *in, uint32_t format, uint32_t n, fs_output *out, fs_summary *summary,
                       fs_detail *detail)
{
    fs_status st = write_config(in, format, n, out, summary, detail);
    if (st == FS_OK) st = copy_others(in, out, summary, detail);
    return st == FS_OK ? fs_output_write_index(out, detail) : st;
}
