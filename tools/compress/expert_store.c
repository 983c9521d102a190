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

fs_status fs_expert_store_load(const char *dir, uint32_t layer, uint32_t expert,
                               const fs_journal_expert *known, fs_expert_blobs *blobs, fs_detail *detail)
{
    char path[MAX_PATH];
    fs_buffer bytes = {0};
    size_t total = 0, at = 0;
    part_path(dir, layer, expert, path);
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) total += known->result.part[i].bytes;
    fs_status st = fs_file_read(path, total, &bytes, detail);
    if (st == FS_OK && bytes.size != total) st = fs_fail(detail, FS_CORRUPT, "%s: is short", path);
    for (int i = 0; st == FS_OK && i < FS_NUM_EXPERT_PARTS; i++) {
        blobs->bytes[i] = known->result.part[i].bytes;
        blobs->data[i] = fs_alloc_aligned(blobs->bytes[i]);
        if (!blobs->data[i]) st = fs_fail(detail, FS_NO_MEMORY, "%s: no memory", path);
        if (st == FS_OK) memcpy(blobs->data[i], bytes.data + at, blobs->bytes[i]);
        at += blobs->bytes[i];
    }
    if (st == FS_OK && fs_blobs_checksum(blobs) != known->checksum)
        st = fs_fail(detail, FS_CORRUPT, "%s: is not what the journal says was written", path);
    fs_buffer_free(&bytes);
    return st;
}

/* ---- the layer's file ---- */

static void layer_file(uint32_t layer, char out[64])
{
    snprintf(out, 64, "experts-layer-%05u.safetensors", layer);
}

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
        st = fs_expert_store_load(dir, layer, e, &finished[e], &blobs, detail);
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
