/* common/model/safetensors_int.h: what the files that make up the reader share. */
#ifndef FS_MODEL_SAFETENSORS_INT_H
#define FS_MODEL_SAFETENSORS_INT_H

#include "base/arena.h"
#include "model/safetensors.h"
#include "model/string_table.h"

#define FS_MAX_HEADER_BYTES (100u << 20) /* as the reference library */

typedef struct {
    char *path;          /* in the set's arena */
    const uint8_t *data; /* the mapping, of `size` bytes; NULL for a header parsed alone */
    uint64_t size;
    uint32_t first, count; /* its tensors in the set */
    uint32_t num_metadata;
    const char **metadata; /* [num_metadata][2]: key, value */
} fs_tensor_file;

struct fs_tensors {
    fs_arena arena; /* names, paths, metadata */
    fs_tensor_file *files;
    uint32_t num_files;
    fs_tensor *tensors; /* by file, then by place */
    uint32_t count, capacity;
    fs_string_table names; /* to indices of tensors */
};

/* An empty set with room for num_files (all zero). NULL: no memory. */
fs_tensors *fs_tensors_new(uint32_t num_files);

/* Reads the header at the start of data[0..size) into set->files[file] (whose path and size are set) and
 * appends its tensors, sorted by place. Errors as of fs_safetensors_parse; the set is then only good for
 * fs_tensors_close. */
FS_MUST_USE fs_status fs_safetensors_header(fs_tensors *set, uint32_t file, const uint8_t *data, size_t size,
                                            fs_detail *detail);

#endif
