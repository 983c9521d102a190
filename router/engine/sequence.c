/* router/engine/sequence.c: one request's memory, and what a new token means for its text. */
#include <string.h>

#include "engine/engine_int.h"

/* ---- memory ---- */

static bool copy_stops(fs_sequence *seq, const fs_engine_request *r)
{
    const char *text[FS_MAX_STOPS];
    size_t bytes[FS_MAX_STOPS];
    FS_ASSERT(r->num_stops <= FS_MAX_STOPS);
    for (uint32_t i = 0; i < r->num_stops; i++) {
        bytes[i] = strlen(r->stop[i]);
        text[i] = fs_arena_strndup(&seq->arena, r->stop[i], bytes[i]);
        if (!text[i]) return false;
    }
    fs_stop_init(&seq->stop, text, bytes, r->num_stops);
    return true;
}

static void *copy(fs_arena *arena, const void *data, size_t count, size_t bytes)
{
    void *out = fs_arena_calloc(arena, count, bytes);
    if (out && count) memcpy(out, data, count * bytes);
    return out;
}

static bool init_sampler(fs_sequence *seq, const fs_engine_request *r, uint32_t vocab_size)
{
    fs_sampling sampling = r->sampling;
    sampling.bias_token = copy(&seq->arena, sampling.bias_token, sampling.num_bias, sizeof(uint32_t));
    sampling.bias = copy(&seq->arena, sampling.bias, sampling.num_bias, sizeof(float));
    void *state = fs_arena_calloc(&seq->arena, 1, fs_sampler_state_bytes(&sampling, vocab_size));
    if (!sampling.bias_token || !sampling.bias || !state) return false;
    fs_sampler_init(&seq->sampler, &sampling, vocab_size, state, r->prompt, r->prompt_tokens);
    return true;
}

static bool fill(fs_sequence *seq, const fs_engine_request *r)
{
    const fs_model_config *config = seq->engine->options.config;
    uint32_t total = r->prompt_tokens + r->max_tokens, pages = fs_kv_pages_for(total);
    seq->token = fs_arena_calloc(&seq->arena, total, sizeof *seq->token);
    seq->pages = fs_arena_calloc(&seq->arena, pages, sizeof *seq->pages);
    seq->gate.pages = fs_arena_calloc(&seq->arena, pages, sizeof *seq->gate.pages);
    seq->stop_ids = copy(&seq->arena, r->stop_ids, r->num_stop_ids, sizeof *r->stop_ids);
    if (!seq->token || !seq->pages || !seq->gate.pages || !seq->stop_ids) return false;
    if (fs_route_table_init(&seq->routes, &seq->arena, config->num_moe_layers, config->num_experts,
                            config->top_k, total) != FS_OK)
        return false;
    if (!copy_stops(seq, r) || !init_sampler(seq, r, config->vocab_size)) return false;
    memcpy(seq->token, r->prompt, r->prompt_tokens * sizeof *seq->token);
    seq->num_prompt = seq->num_tokens = r->prompt_tokens;
    seq->total_tokens = total;
    seq->num_stop_ids = r->num_stop_ids;
    seq->want_logprob = r->want_logprob;
    seq->num_top = r->num_top;
    seq->ignore_eos = r->ignore_eos;
    return true;
}

fs_status fs_sequence_create(fs_engine *engine, const fs_engine_request *request,
                             const fs_engine_handlers *handlers, fs_sequence **out)
{
    fs_arena arena = {.block_bytes = 16384};
    fs_sequence *seq = fs_arena_calloc(&arena, 1, sizeof *seq);
    if (!seq) return FS_NO_MEMORY;
    seq->engine = engine;
    seq->arena = arena;
    seq->handlers = *handlers;
    if (!fill(seq, request)) {
        fs_sequence_free(seq);
        return FS_NO_MEMORY;
    }
    seq->timing = (fs_engine_timing){.arrival_ns = request->arrival_ns,
                                     .prompt_tokens = request->prompt_tokens};
    seq->gate.token = seq->token;
    seq->gate.num_prompt = seq->num_prompt;
    seq->gate.total_tokens = seq->total_tokens;
    seq->gate.table = &seq->routes;
    *out = seq;
    return FS_OK;
}

void fs_sequence_free(fs_sequence *seq)
{
    fs_arena arena = seq->arena; /* it holds the struct itself */
    fs_stop_fini(&seq->stop);
    fs_buffer_free(&seq->piece);
    fs_buffer_free(&seq->text);
    fs_arena_fini(&arena);
}

/* ---- a new token ---- */

static bool ends_text(const fs_sequence *seq, const fs_model_config *config, uint32_t token)
{
    for (uint32_t i = 0; i < seq->num_stop_ids; i++)
        if (seq->stop_ids[i] == token) return true;
    for (uint32_t i = 0; !seq->ignore_eos && i < config->num_eos; i++)
        if (config->eos_token_id[i] >= 0 && (uint32_t)config->eos_token_id[i] == token) return true;
    return false;
}

/* The token's characters into seq->piece. */
static fs_status detokenize(fs_sequence *seq, const fs_tokenizer *tokenizer, uint32_t token)
{
    size_t size = 64;
    for (;;) {
        seq->piece.size = 0;
        fs_status st = fs_buffer_reserve(&seq->piece, size);
        if (st != FS_OK) return st;
        st = fs_detokenizer_next(&seq->detokenizer, tokenizer, token, (char *)seq->piece.data,
                                 seq->piece.capacity, &size);
        if (st == FS_EXHAUSTED) continue; /* size is what it needs */
        /* An id without a piece (a vocabulary smaller than the LM head): a token without text. */
        seq->piece.size = st == FS_OK ? size : 0;
        return st == FS_INVALID ? FS_OK : st;
    }
}

/* No more tokens: what was held back becomes certain. */
static void flush(fs_sequence *seq)
{
    char rest[FS_DETOKENIZER_EXTRA];
    size_t size = fs_detokenizer_finish(&seq->detokenizer, rest);
    if (seq->stop.matched >= 0) return;
    if (size && fs_stop_feed(&seq->stop, rest, size, &seq->text)) return;
    fs_stop_flush(&seq->stop, &seq->text);
}

fs_status fs_sequence_accept(fs_sequence *seq, const fs_model_config *config, const fs_tokenizer *tokenizer)
{
    uint32_t token = seq->sample.token;
    FS_ASSERT(seq->num_tokens < seq->total_tokens);
    seq->token[seq->num_tokens++] = token;
    if (ends_text(seq, config, token)) {
        seq->finish = FS_FINISH_STOP;
    } else {
        fs_status st = detokenize(seq, tokenizer, token);
        if (st != FS_OK) return st;
        if (fs_stop_feed(&seq->stop, (const char *)seq->piece.data, seq->piece.size, &seq->text))
            seq->finish = FS_FINISH_STOP;
        else if (seq->num_tokens == seq->total_tokens)
            seq->finish = FS_FINISH_LENGTH;
    }
    if (seq->finish != FS_FINISH_NONE) flush(seq);
    if (seq->finish == FS_FINISH_LENGTH && seq->stop.matched >= 0) seq->finish = FS_FINISH_STOP;
    return seq->text.failed || seq->stop.held.failed ? FS_NO_MEMORY : FS_OK;
}
