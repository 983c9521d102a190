/* tools/compress/expert_store.c: finished experts as files of their own, then as the layer's file. */
#include "expert_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/buffer.h"

enum { FILE_ALIGN = 4096, MAX_PATH = 4096 };

static void part_path(const char *dir, uint32_t layer, uint32_t expert, char out[MAX_PATH])
{
    if (snprintf(out, MAX_PATH, "%s/part-%05u-%05u", dir, layer, expert) >= MAX_PATH)
        out[0] = 0; /* open says so */
}

static fs_status write_all(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return FS_IO;
        data += n, size -= (size_t)n;
    }
    return FS_OK;
}

fs_status fs_expert_store_save(const char *dir, uint32_t layer, uint32_t expert, const fs_expert_blobs *blobs,
                               fs_detail *detail)
{
    char path[MAX_PATH];
    part_path(dir, layer, expert, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    fs_status st = fd >= 0 ? FS_OK : FS_IO;
    for (int i = 0; st == FS_OK && i < FS_NUM_EXPERT_PARTS; i++)
        st = write_all(fd, blobs->data[i], blobs->bytes[i]);
    if (st == FS_OK && fsync(fd) != 0) st = FS_IO;
    if (st != FS_OK) fs_fail(detail, st, "%s: write: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return st;
}

static void layer_file(uint32_t layer, char out[64])
{
    snprintf(out, 64, "experts-layer-%05u.safetensors", layer);
}

static uint64_t expert_bytes(const fs_journal_expert *expert)
{
    uint64_t bytes = 0;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) bytes += expert->result.part[i].bytes;
    return bytes;
}

static fs_status read_at(int fd, uint64_t at, uint8_t *out, size_t size)
{
    while (size > 0) {
        ssize_t n = pread(fd, out, size, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? FS_IO : FS_CORRUPT;
        out += n, at += (uint64_t)n, size -= (size_t)n;
    }
    return FS_OK;
}

/* in_layer: the file is the layer's, where experts follow each other behind a header. */
static fs_status read_blobs(const char *path, const fs_journal_expert *finished, uint32_t expert,
                            bool in_layer, fs_expert_blobs *blobs, fs_detail *detail)
{
    uint8_t head[8] = {0};
    uint64_t at = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fs_fail(detail, errno == ENOENT ? FS_NOT_FOUND : FS_IO, "%s: %s", path, strerror(errno));
    fs_status st = in_layer ? read_at(fd, 0, head, sizeof(head)) : FS_OK;
    fs_reader r = fs_reader_of(head, sizeof(head));
    if (in_layer) at = sizeof(head) + fs_read_u64(&r);
    for (uint32_t e = 0; in_layer && e < expert; e++) at += expert_bytes(&finished[e]);
    for (int i = 0; st == FS_OK && i < FS_NUM_EXPERT_PARTS; i++) {
        blobs->bytes[i] = finished[expert].result.part[i].bytes;
        blobs->data[i] = fs_alloc_aligned(blobs->bytes[i]);
        st = blobs->data[i] ? read_at(fd, at, blobs->data[i], blobs->bytes[i]) : FS_NO_MEMORY;
        at += blobs->bytes[i];
    }
    close(fd);
    if (st == FS_OK && fs_blobs_checksum(blobs) != finished[expert].checksum) st = FS_CORRUPT;
    if (st == FS_OK) return FS_OK;
    fs_blobs_free(blobs);
    return fs_fail(detail, st, "%s: %s", path,
                   st == FS_CORRUPT ? "is not what the journal says was written" : fs_status_name(st));
}

fs_status fs_expert_store_load(const char *dir, uint32_t layer, uint32_t expert,
                               const fs_journal_expert *finished, fs_expert_blobs *blobs, fs_detail *detail)
{
    char path[MAX_PATH], name[64];
    part_path(dir, layer, expert, path);
    fs_status st = read_blobs(path, finished, expert, false, blobs, detail);
    if (st != FS_NOT_FOUND && st != FS_CORRUPT) return st;
    layer_file(layer, name);
    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path)) return st;
    return read_blobs(path, finished, expert, true, blobs, detail);
}

/* ---- the layer's file ---- */

static fs_status declare(const fs_model_config *config, uint32_t layer, const fs_journal_expert *finished,
                         const char *path, fs_safetensors_writer *writer, fs_detail *detail)
{
    fs_status st = fs_safetensors_writer_metadata(writer, "format", "pt");
    for (uint32_t e = 0; e < config->num_experts; e++)
        for (int i = 0; st == FS_OK && i < FS_NUM_EXPERT_PARTS; i++) {
            char name[128];
            fs_expert_tensor_name(config, FS_EXPERTS_SUB1, layer, e, (fs_expert_part)i, name);
            st = fs_safetensors_writer_declare(writer, name, FS_DTYPE_U8, 1,
                                               &finished[e].result.part[i].bytes);
        }
    return st == FS_OK ? FS_OK : fs_fail(detail, st, "%s: %s", path, fs_status_name(st));
}

static fs_status copy_parts(const fs_model_config *config, uint32_t layer, const fs_journal_expert *finished,
                            const char *dir, fs_safetensors_writer *writer, fs_detail *detail)
{
    fs_status st = FS_OK;
    for (uint32_t e = 0; st == FS_OK && e < config->num_experts; e++) {
        fs_expert_blobs blobs = {0};
        st = fs_expert_store_load(dir, layer, e, finished, &blobs, detail);
        for (int i = 0; st == FS_OK && i < FS_NUM_EXPERT_PARTS; i++)
            st = fs_safetensors_writer_write(writer, blobs.data[i], blobs.bytes[i], detail);
        fs_blobs_free(&blobs);
    }
    return st;
}

fs_status fs_expert_store_merge(const fs_model_config *config, uint32_t layer,
                                const fs_journal_expert *finished, fs_output *out, fs_detail *detail)
{
    char name[64];
    layer_file(layer, name);
    const char *path = fs_output_file(out, name);
    if (!path) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", name);
    fs_safetensors_writer *writer = NULL;
    fs_status st = fs_safetensors_writer_create(path, FILE_ALIGN, &writer, detail);
    if (st == FS_OK) st = declare(config, layer, finished, path, writer, detail);
    if (st == FS_OK) st = copy_parts(config, layer, finished, out->staging, writer, detail);
    if (st == FS_OK) st = fs_safetensors_writer_finish(writer, detail);
    fs_safetensors_writer_destroy(writer);
    return st;
}

fs_status fs_expert_store_note(const fs_model_config *config, uint32_t layer,
                               const fs_journal_expert *finished, fs_output *out, fs_detail *detail)
{
    char name[128], file[64];
    fs_status st = FS_OK;
    layer_file(layer, file);
    for (uint32_t e = 0; e < config->num_experts; e++)
        for (int i = 0; st == FS_OK && i < FS_NUM_EXPERT_PARTS; i++) {
            fs_expert_tensor_name(config, FS_EXPERTS_SUB1, layer, e, (fs_expert_part)i, name);
            st = fs_output_note_tensor(out, name, finished[e].result.part[i].bytes, file);
        }
    return st == FS_OK ? FS_OK : fs_fail(detail, st, "%s: no memory for the index", file);
}

void fs_expert_store_remove(const fs_model_config *config, const char *dir, uint32_t layer)
{
    char path[MAX_PATH];
    for (uint32_t e = 0; e < config->num_experts; e++) {
        part_path(dir, layer, e, path);
        unlink(path);
    }
}
