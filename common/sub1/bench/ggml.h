/* common/sub1/bench/ggml.h: the dot products of a build of ggml that the user points to. Nothing of ggml is needed to build: what its public
 * headers (ggml.h, ggml-cpu.h) promise is looked up in the library, and its structures, which differ from version to version, are checked
 * before anything in them is called. */
#ifndef FS_BENCH_GGML_H
#define FS_BENCH_GGML_H

#include "base/status.h"

typedef struct fs_ggml fs_ggml;

/* A way to store weights, and to multiply them with a row of x that is stored in a way of its own. Both are rows of blocks. */
typedef struct {
    const fs_ggml *ggml;
    const char *name; /* "TQ1_0" */
    int id, x_id;
    size_t block_cols, block_bytes, x_block_cols, x_block_bytes;
    void (*to_float)(const void *stored, float *w, int64_t cols);
    void (*x_from_float)(const float *x, void *stored, int64_t cols);
    void (*vec_dot)(int cols, float *out, size_t, const void *w, size_t, const void *x, size_t, int);
} fs_ggml_type;

/* What is compared; not every library has all. */
#define FS_GGML_NUM_TYPES 4u

/* path: a library, or a folder with libggml-cpu.so or libggml.so. FS_NOT_FOUND: it cannot be loaded; FS_UNSUPPORTED: it does not have the
 * functions (since the end of 2024). The detail names it. */
FS_MUST_USE fs_status fs_ggml_open(const char *path, fs_ggml **out, fs_detail *detail);
void fs_ggml_close(fs_ggml *ggml);

/* index: below FS_GGML_NUM_TYPES: TQ1_0, TQ2_0, Q1_0, Q4_0. FS_NOT_FOUND: this library has no such type. FS_UNSUPPORTED: it is laid out in
 * another way, or a dot product differs from the same in floats. The detail names library and type. */
FS_MUST_USE fs_status fs_ggml_find(const fs_ggml *ggml, uint32_t index, fs_ggml_type *out, fs_detail *detail);

/* Bytes of a row of that many columns, which is a multiple of the blocks'. */
size_t fs_ggml_row_bytes(const fs_ggml_type *type, uint32_t cols);
size_t fs_ggml_x_bytes(const fs_ggml_type *type, uint32_t cols);
/* w [rows][cols] -> out [rows][row_bytes]. FS_UNSUPPORTED: ggml wrote another number of bytes. */
FS_MUST_USE fs_status fs_ggml_quantise(const fs_ggml_type *type, const float *w, uint32_t rows, uint32_t cols,
                                       void *out, fs_detail *detail);

#endif
