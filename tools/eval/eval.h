/* tools/eval/eval.h: how well a model foretells a text: its perplexity, computed by the code that serves (backbone, pre-gating network,
 * experts over rows as the dispatcher quantises them), in this process. */
#ifndef FS_EVAL_EVAL_H
#define FS_EVAL_EVAL_H

#include "backbone/backbone.h"
#include "backbone/pregate.h"
#include "model/tokenizer.h"
#include "sub1/files.h"

/* ---- text.c: text as windows of tokens ---- */

/* The text's tokens, cut into windows of equal length from its beginning; what is left at the end is not looked at. A text shorter than a
 * window is one window. Each window begins cold: its first token is foretold by nothing and counts for nothing. So foresight-compress measures. */
typedef struct {
    uint32_t length;      /* tokens in a window, 2 at least */
    uint32_t num_windows; /* 1 at least */
    uint32_t *token;      /* [num_windows][length] each < vocab_size; heap */
    uint64_t num_tokens;  /* of the whole text */
    uint64_t num_bytes;   /* that the foretold tokens stand for */
} fs_eval_text;

/* max_tokens: of the text's beginning; 0: all. FS_NOT_FOUND: no such file, no tokenizer; FS_INVALID: not UTF-8, fewer than two
 * tokens, a window that is longer than the model's context, a token that the model does not have; the detail says which. */
FS_MUST_USE fs_status fs_eval_text_load(const char *dir, const fs_model_config *config, const char *path,
                                        uint64_t max_tokens, uint32_t window, fs_eval_text *out,
                                        fs_detail *detail);
void fs_eval_text_free(fs_eval_text *text);

/* ---- model.c: a model directory and the memory for a chunk of windows ---- */

typedef struct fs_eval_model fs_eval_model;

/* FS_NOT_FOUND, FS_INVALID, FS_CORRUPT, FS_UNSUPPORTED, FS_NO_MEMORY: with a detail. config: the directory's. pool: borrowed for as long as
 * the model is open. */
FS_MUST_USE fs_status fs_eval_model_open(const char *dir, const fs_model_config *config, uint32_t window,
                                         fs_pool *pool, fs_eval_model **out, fs_detail *detail);
void fs_eval_model_close(fs_eval_model *model);
/* How many windows go through the layers together: what 256 MiB of rows hold, one at least. */
uint32_t fs_eval_model_chunk(const fs_eval_model *model);
/* Experts that some row has visited; each was verified when the first one did. */
uint64_t fs_eval_model_experts_used(const fs_eval_model *model);

typedef struct {
    bool (*stopped)(
        void *
            arg); /* asked often, on any thread; may be NULL. What it stops is as if it had not been asked for */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* rows times layers; may be NULL */
    void *arg;
} fs_eval_hooks;

/* All layers over count (<= chunk) windows, layer by layer, so that an expert's rows of all windows meet it together.
 *   token  [count][window]
 * FS_CORRUPT: an expert's bytes are not what its checksum says; FS_NO_MEMORY; FS_CANCELLED. Results wait for fs_eval_model_loss. done, total: for the hook. */
FS_MUST_USE fs_status fs_eval_model_run(fs_eval_model *model, const uint32_t *token, uint32_t count,
                                        const fs_eval_hooks *hooks, uint64_t done, uint64_t total,
                                        fs_detail *detail);
/* Adds the loss of each window's tokens but the first, in their order, to *nats. FS_CORRUPT: one is not finite. */
FS_MUST_USE fs_status fs_eval_model_loss(fs_eval_model *model, double *nats, fs_detail *detail);

/* ---- eval.c ---- */

typedef struct {
    const char *dir, *text;
    uint64_t max_tokens; /* 0: all */
    uint32_t window;
} fs_eval_options;

typedef struct {
    fs_model_config config;
    uint64_t num_tokens; /* of the text */
    uint32_t window, num_windows;
    uint64_t num_predictions, num_bytes; /* tokens that were foretold, the bytes that they are */
    uint64_t experts_used, num_experts;
    double nats; /* a prediction */
} fs_eval_result;

/* The same numbers, to the bit, for any number of threads, and for any chunk. */
FS_MUST_USE fs_status fs_eval_run(const fs_eval_options *options, fs_pool *pool, const fs_eval_hooks *hooks,
                                  fs_eval_result *out, fs_detail *detail);

#endif
