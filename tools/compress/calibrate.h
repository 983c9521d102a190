/* tools/compress/calibrate.h: the calibration text's way through the model, a layer at a time. Activations lie in files beside the
 * output; what is in memory is a window of rows, or one expert's chunk of them. */
#ifndef FS_CALIBRATE_H
#define FS_CALIBRATE_H

#include "backbone/pregate.h"
#include "compress.h"
#include "quantise.h"

/* ---- text.c: text as windows of tokens ---- */

/* Windows of equal length, each begun cold. First those that the moments are gathered from, then those held back from them to measure with. */
typedef struct {
    uint32_t length;          /* tokens in a window */
    uint32_t num_calibration; /* windows */
    uint32_t num_windows;     /* with those held back */
    uint32_t *token;          /* [num_windows][length]; heap */
} fs_windows;

typedef struct {
    const char *calibration; /* file; NULL: the text that is installed with the program */
    const char *held_back;   /* file to measure on; NULL: every eighth window of the calibration text */
    uint32_t max_tokens;     /* of calibration; 0: all. Windows are taken evenly from all of the text */
    uint32_t length;
    uint32_t seed; /* which windows of the text, where there are more than max_tokens */
} fs_text_choice;

/* FS_NOT_FOUND: no such file, no tokenizer; FS_INVALID: not UTF-8, too short for a window, a token that the model does not have. */
FS_MUST_USE fs_status fs_windows_load(const fs_input *in, const fs_text_choice *choice, fs_windows *out,
                                      fs_detail *detail);
void fs_windows_free(fs_windows *windows);
static inline uint64_t fs_windows_rows(const fs_windows *w)
{
    return (uint64_t)w->num_windows * w->length;
}

/* ---- rows_file.c: float32 rows in a file ---- */

typedef struct {
    int fd;
    char path[4096];
    size_t row_bytes;
} fs_rows_file;

/* Makes the file anew with room for rows, so that a full disk is told now. FS_IO. */
FS_MUST_USE fs_status fs_rows_create(const char *dir, const char *name, size_t cols, uint64_t rows,
                                     fs_rows_file *out, fs_detail *detail);
/* An existing file of exactly that size, to read. FS_NOT_FOUND, FS_CORRUPT, FS_IO. */
FS_MUST_USE fs_status fs_rows_open(const char *dir, const char *name, size_t cols, uint64_t rows,
                                   fs_rows_file *out, fs_detail *detail);
FS_MUST_USE fs_status fs_rows_read(const fs_rows_file *file, uint64_t row, uint32_t count, float *out,
                                   fs_detail *detail);
FS_MUST_USE fs_status fs_rows_write(const fs_rows_file *file, uint64_t row, uint32_t count, const float *in,
                                    fs_detail *detail);
/* XXH3-64 of the bytes, and everything on the disk. */
FS_MUST_USE fs_status fs_rows_seal(const fs_rows_file *file, uint64_t rows, uint64_t *checksum,
                                   fs_detail *detail);
/* Closes; with remove, also unlinks. A zeroed file (fd 0) is none. */
void fs_rows_close(fs_rows_file *file, bool remove);

/* ---- stream.c: the residual stream from layer to layer ---- */

/* Two models run beside each other over the same windows: as the compressed one is served, and uncompressed. */
typedef enum { FS_PLANE_SERVED, FS_PLANE_DENSE, FS_NUM_PLANES } fs_plane;

typedef struct {
    const fs_input *in;
    const fs_windows *windows;
    fs_pool *pool;
    const char *dir; /* of the work files */
    fs_backbone *backbone;
    fs_pregate *pregate;
    fs_kv_pool *kv, *pregate_kv; /* of one window */
    uint32_t *pages, *pregate_pages;
    fs_batch *batch;                  /* a window */
    uint16_t *expert;                 /* [rows][num_moe_layers][top_k] the routes */
    float *weight;                    /* the same shape */
    fs_rows_file x[FS_NUM_PLANES];    /* [rows] the stream before the layer */
    fs_rows_file next[FS_NUM_PLANES]; /* [rows] behind it, between combine and advance */
    uint32_t num_advanced;            /* MoE layers behind the stream; its last bit is in x's file name */
    fs_rows_file mid[FS_NUM_PLANES];  /* [rows] behind its attention */
    fs_rows_file h[FS_NUM_PLANES];    /* [rows] what its experts get */
    fs_rows_file out[FS_NUM_PLANES];  /* [rows * top_k] what they give, in the order of the routes */
    float *buffer;                    /* [length * top_k][hidden_size] */
} fs_stream;

/* The routes, and the stream behind num_done MoE layers: of an earlier run's files, whose checksums are `saved`, or for 0 from the
 * embedding. windows, in, pool, dir: borrowed for the stream's life. FS_CORRUPT, FS_NOT_FOUND: the saved stream is not there. */
FS_MUST_USE fs_status fs_stream_open(const fs_input *in, const fs_windows *windows, const char *dir,
                                     fs_pool *pool, uint32_t num_done, const uint64_t saved[FS_NUM_PLANES],
                                     fs_stream *out, fs_detail *detail);
/* The work files are removed; keep: but for the stream's own, with which a later run goes on. */
void fs_stream_close(fs_stream *stream, bool keep);
/* x -> mid, h */
FS_MUST_USE fs_status fs_stream_attend(fs_stream *stream, uint32_t layer, fs_detail *detail);
/* mid, out -> next, which is on the disk then, with these checksums. moe: the layer's number among MoE layers. */
FS_MUST_USE fs_status fs_stream_combine(fs_stream *stream, uint32_t moe, uint64_t checksum[FS_NUM_PLANES],
                                        fs_detail *detail);
/* next is the stream from here on, the old one's files are removed. */
void fs_stream_advance(fs_stream *stream);
/* The mean cross-entropy of the held-back windows in nats a token, of the stream behind the last layer. */
FS_MUST_USE fs_status fs_stream_loss(fs_stream *stream, double loss[FS_NUM_PLANES], uint64_t *num_tokens,
                                     fs_detail *detail);
/* Bytes of the work files, and of memory beside the experts' jobs. */
uint64_t fs_stream_disk_bytes(const fs_model_config *config, const fs_windows *windows);
uint64_t fs_stream_memory_bytes(const fs_model_config *config, const fs_windows *windows);

#endif
