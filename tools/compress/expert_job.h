/* tools/compress/expert_job.h: one expert from its rows: moments, quantisation, blobs, and what it gives to the layer behind it. */
#ifndef FS_EXPERT_JOB_H
#define FS_EXPERT_JOB_H

#include "budget.h"
#include "calibrate.h"
#include "rate.h"

/* What is known of a matrix afterwards. */
typedef struct {
    fs_rate rate;
    double error;   /* of the output's energy on the calibration rows: |W d - Q x|^2 / |W d|^2 */
    double density; /* nonzeros a weight */
    double damping;
    uint64_t bytes; /* of the blob with the padding behind it */
} fs_matrix_result;

typedef struct {
    uint64_t num_rows; /* calibration rows that the router sent here */
    uint64_t borrowed; /* rows of the layer's others that filled up too few */
    fs_matrix_result part[FS_NUM_EXPERT_PARTS];
} fs_expert_result;

/* The experts of one layer, and each one's rows. A slot is row * top_k + k. */
typedef struct {
    fs_stream *stream;
    uint32_t layer, moe;
    uint64_t num_calibration_rows;
    uint64_t *slot;  /* [rows * top_k] by expert, rising */
    uint64_t *start; /* [num_experts + 1] in slot */
    uint64_t *held;  /* [num_experts] in slot: the first of a held-back row */
} fs_layer_rows;

FS_MUST_USE fs_status fs_layer_rows_find(fs_stream *stream, uint32_t layer, uint32_t moe, fs_layer_rows *out,
                                         fs_detail *detail);
void fs_layer_rows_free(fs_layer_rows *rows);

/* One worker's memory. */
typedef struct fs_expert_job fs_expert_job;

/* rules: for every part. Bytes that a job takes for this shape, and the job. */
size_t fs_expert_job_bytes(const fs_model_config *config);
FS_MUST_USE fs_status fs_expert_job_create(const fs_model_config *config, fs_expert_job **out);
void fs_expert_job_destroy(fs_expert_job *job);

/* What every part of the expert would lose at each rate: errors, relative, of rule[part][rate], with the parts before it at the middle rate.
 * Bytes and weights are the caller's. */
FS_MUST_USE fs_status fs_expert_job_probe(fs_expert_job *job, const fs_layer_rows *rows, uint32_t expert,
                                          const fs_quantise_rule rule[FS_BUDGET_RATES],
                                          fs_budget_matrix out[FS_NUM_EXPERT_PARTS], fs_detail *detail);
/* Quantises the expert into blobs (the caller's to free; empty before).
 * FS_INVALID: a weight is not finite (the detail names tensor, row and column). Thread: worker, a job each. */
FS_MUST_USE fs_status fs_expert_job_quantise(fs_expert_job *job, const fs_layer_rows *rows, uint32_t expert,
                                             const fs_quantise_rule rule[FS_NUM_EXPERT_PARTS],
                                             const fs_rate rate[FS_NUM_EXPERT_PARTS], fs_expert_blobs *blobs,
                                             fs_expert_result *result, fs_detail *detail);
/* Runs the expert over all of its rows, compressed on the served plane and as it came on the dense one, to the stream's out files. Faster with
 * the job that has just quantised it, which has kept some of what down gets. */
FS_MUST_USE fs_status fs_expert_job_run(fs_expert_job *job, const fs_layer_rows *rows, uint32_t expert,
                                        const fs_expert_blobs *blobs, fs_detail *detail);

#endif
