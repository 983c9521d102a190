/* router/model.c: see model.h. */
#include "model.h"

static fs_status check(const fs_router_model *m, const char *dir, fs_detail *detail)
{
    uint32_t tokens = fs_tokenizer_vocab_size(m->tokenizer);
    if (tokens <= m->config.vocab_size) return FS_OK;
    return fs_fail(detail, FS_INVALID, "%s: tokenizer.json has %u ids, config.json's vocab_size is %u", dir,
                   tokens, m->config.vocab_size);
}

fs_status fs_router_model_open(const char *dir, fs_router_model *out, fs_detail *detail)
{
    fs_router_model m = {0};
    fs_model_name(dir, m.name);
    fs_status st = fs_model_config_load(dir, &m.config, detail);
    if (st == FS_OK) st = fs_tensors_open(dir, &m.tensors, detail);
    if (st == FS_OK) st = fs_tokenizer_load(dir, &m.tokenizer, detail);
    if (st == FS_OK) st = check(&m, dir, detail);
    if (st == FS_OK) st = fs_model_fingerprint(dir, m.tensors, &m.fingerprint, detail);
    if (st == FS_OK) st = fs_backbone_open(&m.config, m.tensors, &m.backbone, detail);
    if (st == FS_OK) st = fs_pregate_open(&m.config, m.tensors, &m.pregate, detail);
    if (st == FS_OK)
        *out = m;
    else
        fs_router_model_close(&m);
    return st;
}

void fs_router_model_close(fs_router_model *m)
{
    fs_pregate_close(m->pregate);
    fs_backbone_close(m->backbone);
    fs_tokenizer_destroy(m->tokenizer);
    fs_tensors_close(m->tensors);
    *m = (fs_router_model){0};
}
