/* common/model/safetensors.h: the tensors of a model directory, by mmap, and a writer.
 * Format: https://huggingface.co/docs/safetensors: 8 bytes little-endian header length, JSON header, bytes. */
#ifndef FS_MODEL_SAFETENSORS_H
#define FS_MODEL_SAFETENSORS_H

#include <stdio.h>

#include "base/status.h"

typedef enum { FS_DTYPE_F32, FS_DTYPE_F16, FS_DTYPE_BF16, FS_DTYPE_U8, FS_DTYPE_I8, FS_NUM_DTYPES } fs_dtype;
size_t fs_dtype_size(fs_dtype dtype);
const char *fs_dtype_name(fs_dtype dtype); /* "BF16" */

#define FS_MAX_DIMS 4

/* One tensor. Row-major; data borrowed from the mapping. file: index into the set's files; file_offset: from its start. */
typedef struct {
    const char *name;
    fs_dtype dtype;
    uint32_t num_dims;
    uint64_t shape[FS_MAX_DIMS]; /* unused dims are 1 */
    const uint8_t *data;
    size_t size; /* bytes: product of shape times the element's size */
    uint32_t file;
    uint64_t file_offset;
} fs_tensor;

/* All tensors of a directory. Read-only after open. Thread: any. */
typedef struct fs_tensors fs_tensors;

/* Opens dir/model.safetensors.index.json and its shards or, without an index, dir/model.safetensors. Checked: header length,
 * JSON, known dtypes, offsets in order, inside the file, without overlap or hole, size == shape x dtype, no duplicate name (in
 * one file or over shards), the index naming exactly the tensors that are there.
 * FS_NOT_FOUND: no such file, or a shard that the index names is missing; FS_CORRUPT, FS_UNSUPPORTED (dtype), FS_IO, FS_NO_MEMORY; the
 * detail names file and tensor. */
FS_MUST_USE fs_status fs_tensors_open(const char *dir, fs_tensors **out, fs_detail *detail);
void fs_tensors_close(fs_tensors *tensors);

/* NULL: there is none. */
const fs_tensor *fs_tensors_find(const fs_tensors *tensors, const char *name);
/* The tensor, of exactly this shape and of one of the float dtypes (or U8 if shape[0] is 0: any length, one dim).
 * FS_NOT_FOUND, FS_INVALID; the detail names tensor, expected and found. */
FS_MUST_USE fs_status fs_tensors_get(const fs_tensors *tensors, const char *name, uint32_t num_dims,
                                     const uint64_t *shape, const fs_tensor **out, fs_detail *detail);
uint32_t fs_tensors_count(const fs_tensors *tensors);
/* By index, in order of file, then of place in the file. */
const fs_tensor *fs_tensors_at(const fs_tensors *tensors, uint32_t index);
uint32_t fs_tensors_num_files(const fs_tensors *tensors);
const char *fs_tensors_file_path(const fs_tensors *tensors, uint32_t file);
uint64_t fs_tensors_file_size(const fs_tensors *tensors, uint32_t file);
/* A value of the file's __metadata__ object, or NULL. */
const char *fs_tensors_metadata(const fs_tensors *tensors, uint32_t file, const char *key);

/* Parses a header alone, as it stands in a file of file_size bytes whose first `size` bytes are data (for the fuzzer and for
 * tests; open uses it). out receives tensors without data pointers; freed with fs_tensors_close. */
FS_MUST_USE fs_status fs_safetensors_parse(const uint8_t *data, size_t size, uint64_t file_size, const char *name,
                                           fs_tensors **out, fs_detail *detail);

/* Whoever is done with a tensor of a model larger than memory says so: its pages leave this process (not the page cache) until it is read
 * again, which it may be at any time. Thread: any. */
void fs_tensor_release(const fs_tensor *tensor);

/* Copies a float tensor (bf16, f16, f32) to float32. out [elements]. Thread: any. */
void fs_tensor_to_f32(const fs_tensor *tensor, float *out);

/* Writes one safetensors file, tensors in the order of adding: first declare them all, then write their bytes in the same
 * order. The header is padded with spaces so that the data starts at a multiple of align bytes (a power of two >= 8). The
 * file appears under its final name only in finish (a temporary name, fsync, rename). */
typedef struct fs_safetensors_writer fs_safetensors_writer;
FS_MUST_USE fs_status fs_safetensors_writer_create(const char *path, size_t align, fs_safetensors_writer **out,
                                                   fs_detail *detail);
FS_MUST_USE fs_status fs_safetensors_writer_metadata(fs_safetensors_writer *writer, const char *key, const char *value);
FS_MUST_USE fs_status fs_safetensors_writer_declare(fs_safetensors_writer *writer, const char *name, fs_dtype dtype,
                                                    uint32_t num_dims, const uint64_t *shape);
/* The next declared tensor's bytes, exactly as many as declared. */
FS_MUST_USE fs_status fs_safetensors_writer_write(fs_safetensors_writer *writer, const void *data, size_t size,
                                                  fs_detail *detail);
/* The same in pieces, for what is too large for memory: the next piece of the tensor that is not yet whole. */
FS_MUST_USE fs_status fs_safetensors_writer_append(fs_safetensors_writer *writer, const void *data, size_t size,
                                                   fs_detail *detail);
/* FS_INVALID: a declared tensor was not written. */
FS_MUST_USE fs_status fs_safetensors_writer_finish(fs_safetensors_writer *writer, fs_detail *detail);
/* Before finish: the temporary file is removed. NULL is allowed. */
void fs_safetensors_writer_destroy(fs_safetensors_writer *writer);

#endif
