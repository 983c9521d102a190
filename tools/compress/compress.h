/* tools/compress/compress.h: what the files of foresight-compress share: packing, verifying. */
#ifndef FS_COMPRESS_H
#define FS_COMPRESS_H

#include <jansson.h>

#include "base/arena.h"
#include "compute/pool.h"
#include "model/config.h"
#include "model/output.h"
#include "model/safetensors.h"
#include "rate.h"
#include "sub1/files.h"

/* Whether the user asked to stop (SIGINT, SIGTERM). Whoever works long asks between pieces and returns FS_CANCELLED. */
bool fs_compress_stopped(void);
/* From a signal handler. */
void fs_compress_stop(void);

/* leftovers.c: removes an earlier run's files from the staged directory, but for the journal and, unless it is a new one, what it tells of. */
void fs_output_clean(const fs_output *out, bool new_journal);
/* Removes what only a run needs: finished experts' own files, activations. */
void fs_output_remove_work(const fs_output *out);

/* The checkpoint that comes in. */
typedef struct {
    const char *dir;
    fs_model_config config;
    fs_tensors *tensors;
} fs_input;

/* What was written, counted from the files. */
typedef struct {
    uint32_t num_experts, num_backbone_tensors, num_backbone_files, num_json_files;
    uint64_t num_weights;                  /* of the experts */
    uint64_t num_matrices[4];              /* of the experts: [0] free, [n] blocked n:16 (lossless) */
    uint64_t part_bytes[3];                /* blobs with the padding behind them */
    uint64_t expert_bytes, backbone_bytes; /* whole files */
    uint64_t json_bytes;
} fs_summary;

/* Packs a checkpoint whose experts are ternary already, exactly. rate: of all of them; NULL: blocked where every block has as many
 * nonzeros, free elsewhere. FS_INVALID: they are not ternary, or not of that rate; the detail names tensor, row, column and why.
 * FS_UNSUPPORTED: a shape that the format cannot hold. */
FS_MUST_USE fs_status fs_pack_lossless(const fs_input *in, const fs_rate *rate, fs_pool *pool, fs_output *out,
                                       fs_summary *summary, fs_detail *detail);

/* Every tensor but the experts', as it is, to backbone-*.safetensors. */
FS_MUST_USE fs_status fs_pack_backbone(const fs_input *in, fs_output *out, fs_summary *summary,
                                       fs_detail *detail);

/* config.json with its quantization_config, the index, and copies of the input's other small *.json files. format: fs_sub1_format,
 * 0: both; n: of blocked n:16; 0: mixed. */
FS_MUST_USE fs_status fs_pack_json(const fs_input *in, uint32_t format, uint32_t n, fs_output *out,
                                   fs_summary *summary, fs_detail *detail);

/* Opens the staged directory as a process would: the backbone's tensors must be the input's, every expert must open, and check (worker:
 * its memory) must find it good. */
typedef fs_status fs_check_fn(void *arg, uint32_t worker, uint32_t layer, uint32_t expert,
                              const fs_expert_range *range, const fs_expert *opened, fs_detail *detail);
FS_MUST_USE fs_status fs_verify_written(const fs_input *in, const char *dir, fs_pool *pool,
                                        fs_check_fn *check, void *arg, fs_detail *detail);
/* The same, and the experts are the input's, weight for weight. FS_CORRUPT: not the same. */
FS_MUST_USE fs_status fs_verify(const fs_input *in, const char *dir, fs_pool *pool, fs_detail *detail);

/* Runs fn for the experts of one decoder layer, fs_num_workers at a time, and after each such batch (if not NULL) after(arg, count), on the
 * caller's thread. worker: 0 to count - 1, the expert's place in its batch: memory that fn may use. Returns the failure of the
 * lowest expert; FS_CANCELLED when stopped. */
typedef fs_status fs_expert_fn(void *arg, uint32_t worker, uint32_t layer, uint32_t expert,
                               fs_detail *detail);
typedef fs_status fs_batch_fn(void *arg, uint32_t count, fs_detail *detail);
FS_MUST_USE fs_status fs_each_expert(const fs_model_config *config, uint32_t layer, fs_pool *pool,
                                     fs_expert_fn *fn, fs_batch_fn *after, void *arg, fs_detail *detail);
/* How many experts are in work at once. */
uint32_t fs_num_workers(const fs_pool *pool);

/* The largest part of an expert, in weights. */
size_t fs_max_part_weights(const fs_model_config *config);

#endif
