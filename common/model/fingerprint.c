/* common/model/fingerprint.c: which model it is: the number that members of a cluster compare before they work together, and a name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/buffer.h"
#include "model/config.h"
#include "model/safetensors.h"

#define MAX_CONFIG_BYTES (1u << 20)
#define HEAD_BYTES       64u /* of a compressed part: its header, which carries the checksum of the rest */

/* Each tensor as bytes that cannot be read in two ways: lengths before text, numbers little-endian. Of a compressed part its header
 * too: two packings of one shape are two models, and one cluster must not mix them. */
static void describe(const fs_tensor *t, fs_buffer *out)
{
    size_t name_size = strlen(t->name);
    out->size = 0;
    fs_buffer_append_u64(out, name_size);
    fs_buffer_append(out, t->name, name_size);
    fs_buffer_append(out, fs_dtype_name(t->dtype), strlen(fs_dtype_name(t->dtype)));
    fs_buffer_append_u32(out, t->num_dims);
    for (uint32_t d = 0; d < t->num_dims; d++) fs_buffer_append_u64(out, t->shape[d]);
    fs_buffer_append_u32(out, t->file);
    fs_buffer_append_u64(out, t->file_offset);
    if (t->dtype == FS_DTYPE_U8 && t->data)
        fs_buffer_append(out, t->data, t->size < HEAD_BYTES ? t->size : HEAD_BYTES);
}

fs_status fs_model_fingerprint(const char *dir, const struct fs_tensors *tensors, uint64_t *out,
                               fs_detail *detail)
{
    fs_buffer path = {0}, config = {0}, bytes = {0};
    XXH3_state_t *hash = XXH3_createState();
    fs_buffer_printf(&path, "%s/config.json", dir);
    fs_buffer_append_u8(&path, 0);
    fs_status st = path.failed || !hash
                       ? FS_NO_MEMORY
                       : fs_file_read((const char *)path.data, MAX_CONFIG_BYTES, &config, detail);
    if (st != FS_OK) goto out;
    XXH3_64bits_reset(hash);
    fs_buffer_append_u64(&bytes, config.size);
    XXH3_64bits_update(hash, bytes.data, bytes.size);
    XXH3_64bits_update(hash, config.data, config.size);
    for (uint32_t i = 0; i < fs_tensors_count(tensors) && !bytes.failed; i++) {
        describe(fs_tensors_at(tensors, i), &bytes);
        XXH3_64bits_update(hash, bytes.data, bytes.size);
    }
    st = bytes.failed ? FS_NO_MEMORY : FS_OK;
    if (st == FS_OK) *out = XXH3_64bits_digest(hash);
out:
    XXH3_freeState(hash);
    fs_buffer_free(&bytes);
    fs_buffer_free(&config);
    fs_buffer_free(&path);
    return st;
}

void fs_model_name(const char *dir, char out[FS_MODEL_NAME_BYTES])
{
    char *real = realpath(dir, NULL);
    const char *path = real ? real : dir, *slash = strrchr(path, '/');
    snprintf(out, FS_MODEL_NAME_BYTES, "%s", slash && slash[1] ? slash + 1 : path);
    free(real);
}
