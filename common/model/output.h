/* common/model/output.h: a model directory being made, which appears under its name only when it is whole: until then it is
 * OUT.incomplete. */
#ifndef FS_MODEL_OUTPUT_H
#define FS_MODEL_OUTPUT_H

#include <jansson.h>

#include "base/arena.h"
#include "base/status.h"

/* Thread: one. */
typedef struct {
    fs_arena arena;
    const char *path, *staging; /* in the arena */
    json_t *weight_map;         /* tensor name -> file name */
    uint64_t tensor_bytes, file_bytes;
    bool staged, committed;
    bool keep; /* fini leaves what was not committed: an earlier run's, or a later one goes on from it */
} fs_output;

/* FS_INVALID: OUT is there already, or OUT.incomplete is and resume does not say to go on with it; FS_IO. The caller calls fini in any case.
 * path: copied. */
FS_MUST_USE fs_status fs_output_begin(const char *path, bool resume, fs_output *out, fs_detail *detail);
/* Removes the staged directory's files but those that keeps (NULL: none) says. */
void fs_output_remove(const fs_output *out, bool (*keeps)(const char *name));
/* staging/name, in the arena; NULL: no memory. */
const char *fs_output_file(fs_output *out, const char *name);
/* Notes for the index that the tensor is in the file. */
FS_MUST_USE fs_status fs_output_note_tensor(fs_output *out, const char *tensor, uint64_t bytes,
                                            const char *file);
/* Writes a small file. */
FS_MUST_USE fs_status fs_output_write(fs_output *out, const char *name, const void *data, size_t size,
                                      fs_detail *detail);
/* model.safetensors.index.json, from what was noted. */
FS_MUST_USE fs_status fs_output_write_index(fs_output *out, fs_detail *detail);
/* Gives the directory its name. FS_INVALID: something of that name has come meanwhile. */
FS_MUST_USE fs_status fs_output_commit(fs_output *out, fs_detail *detail);
/* Removes what was not committed. Zero is allowed. */
void fs_output_fini(fs_output *out);

#endif
