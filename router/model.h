/* router/model.h: what a router reads from the model directory. */
#ifndef FS_ROUTER_MODEL_H
#define FS_ROUTER_MODEL_H

#include "backbone/backbone.h"
#include "backbone/pregate.h"
#include "model/tokenizer.h"

typedef struct {
    char name[FS_MODEL_NAME_BYTES]; /* the directory's */
    fs_model_config config;
    fs_tensors *tensors;
    fs_tokenizer *tokenizer;
    fs_backbone *backbone;
    fs_pregate *pregate;
    uint64_t fingerprint;
} fs_router_model;

/* Thread: main, before the loop runs: it waits for files. On failure nothing is left open; the detail names
 * file and tensor. */
FS_MUST_USE fs_status fs_router_model_open(const char *dir, fs_router_model *out, fs_detail *detail);
void fs_router_model_close(fs_router_model *model);

#endif
