/* tools/eval/eval.c: a text, chunk by chunk, through a model. */
#include "eval/eval.h"

static fs_status measure(fs_eval_model *m, uint32_t num_layers, const fs_eval_text *text,
                         const fs_eval_hooks *hooks, double *nats, fs_detail *detail)
{
    const uint64_t a_window = (uint64_t)text->length * num_layers, total = a_window * text->num_windows;
    const uint32_t chunk = fs_eval_model_chunk(m);
    fs_status st = FS_OK;
    *nats = 0;
    for (uint32_t w = 0; st == FS_OK && w < text->num_windows; w += chunk) {
        const uint32_t left = text->num_windows - w, count = left < chunk ? left : chunk;
        st = fs_eval_model_run(m, text->token + (size_t)w * text->length, count, hooks, w * a_window, total,
                               detail);
        if (st == FS_OK) st = fs_eval_model_loss(m, nats, detail);
    }
    return st;
}

fs_status fs_eval_run(const fs_eval_options *options, fs_pool *pool, const fs_eval_hooks *hooks,
                      fs_eval_result *out, fs_detail *detail)
{
    fs_model_config config;
    fs_eval_text text = {0};
    fs_eval_model *model = NULL;
    double nats = 0;
    fs_status st = fs_model_config_load(options->dir, &config, detail);
    if (st == FS_OK)
        st = fs_eval_text_load(options->dir, &config, options->text, options->max_tokens, options->window,
                               &text, detail);
    if (st == FS_OK) st = fs_eval_model_open(options->dir, &config, text.length, pool, &model, detail);
    if (st == FS_OK) st = measure(model, config.num_layers, &text, hooks, &nats, detail);
    if (st == FS_OK) {
        *out = (fs_eval_result){.config = config,
                                .num_tokens = text.num_tokens,
                                .window = text.length,
                                .num_windows = text.num_windows,
                                .num_predictions = (uint64_t)text.num_windows * (text.length - 1),
                                .num_bytes = text.num_bytes,
                                .experts_used = fs_eval_model_experts_used(model),
                                .num_experts = (uint64_t)config.num_moe_layers * config.num_experts};
        out->nats = nats / (double)out->num_predictions;
    }
    fs_eval_model_close(model);
    fs_eval_text_free(&text);
    return st;
}
