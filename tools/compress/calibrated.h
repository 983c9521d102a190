/* tools/compress/calibrated.h: a dense checkpoint in, a compressed model directory out: the run as a whole, and what it tells. */
#ifndef FS_CALIBRATED_H
#define FS_CALIBRATED_H

#include "journal.h"

/* The last two are there to be compared with. */
typedef enum { FS_METHOD_FORESIGHT, FS_METHOD_GPTQ, FS_METHOD_NEAREST } fs_method;

typedef struct {
    fs_rate rate;
    fs_method method;
    fs_text_choice text;
    double
        bits; /* a weight, spent over each layer's matrices at blocked 1:16 to 3:16; 0: all have the rate */
    double scale;          /* 0: the rate's own */
    double zeros;          /* free: this share of each matrix's weights becomes 0; 0: as the scale gives */
    uint64_t memory_bytes; /* 0: three quarters of the machine's */
    uint32_t threads;
    bool resume, dry_run;
    const char *report; /* file; NULL: none */
} fs_calibrated_options;

/* "blocked:2:16", or "mixed" where bits are spent. */
const char *fs_format_name(const fs_calibrated_options *options);
/* The rule for matrices of that rate. */
fs_quantise_rule fs_rule_for(const fs_calibrated_options *options, fs_rate rate);

/* What a run does to the machine. */
typedef struct {
    uint32_t workers;                             /* experts at a time */
    uint64_t job_bytes, memory_bytes, disk_bytes; /* a worker's; all; of the work files */
    uint64_t backbone_bytes, expert_bytes, num_weights;
    double seconds;
} fs_plan;

/* FS_INVALID: not even one expert fits into --memory; FS_UNSUPPORTED: a shape that the rate cannot hold. */
FS_MUST_USE fs_status fs_plan_make(const fs_input *in, const fs_windows *windows,
                                   const fs_calibrated_options *options, fs_plan *out, fs_detail *detail);
void fs_plan_print(const fs_plan *plan, const fs_calibrated_options *options, const fs_windows *windows);

/* Everything that the report tells. */
typedef struct {
    const fs_input *in;
    const fs_calibrated_options *options;
    const fs_windows *windows;
    const fs_plan *plan;
    const fs_journal *journal; /* results by expert */
    const fs_summary *summary;
    const char *out_path;
    double loss[FS_NUM_PLANES];
    uint64_t num_loss_tokens, num_weights, rare_experts;
    double seconds;
    bool resumed;
} fs_report;

/* path: JSON, and beside it a page with the ending .html. */
FS_MUST_USE fs_status fs_report_write(const fs_report *report, const char *path, fs_detail *detail);
/* The page's text, appended. */
void fs_report_page(const fs_report *report, fs_buffer *out);
uint64_t fs_peak_memory_bytes(void);

/* ---- progress.c ---- */

/* A line that is redrawn on a terminal, a line a layer elsewhere; to standard error. Thread: any, one at a time. */
typedef struct {
    bool terminal;
    uint64_t total, done, first; /* experts; first: done before this run */
    int64_t begun_ns, drawn_ns;
} fs_progress;

void fs_progress_begin(fs_progress *progress, uint64_t total, uint64_t done);
void fs_progress_step(fs_progress *progress, uint32_t layer, uint32_t num_layers);
void fs_progress_layer(fs_progress *progress, uint32_t layer, uint32_t num_layers);
void fs_progress_end(fs_progress *progress);

/* Makes OUT. */
FS_MUST_USE fs_status fs_compress_calibrated(const fs_input *in, const char *out_path,
                                             const fs_calibrated_options *options, fs_detail *detail);

#endif
