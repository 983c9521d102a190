/* tools/compress/text.c: text as windows of tokens. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/random.h"
#include "calibrate.h"
#include "model/tokenizer.h"

enum { MAX_TEXT_BYTES = 1 << 30, HELD_BACK_EVERY = 8 };

typedef struct {
    uint32_t *token;
    size_t count;
} tokens;

static fs_status check_vocabulary(const fs_input *in, const char *path, const tokens *t, fs_detail *detail)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->token[i] >= in->config.vocab_size)
            return fs_fail(detail, FS_INVALID,
                           "%s: token %u of the text (number %zu) is not in the model's vocabulary of %u: "
                           "tokenizer.json is "
                           "another model's",
                           path, t->token[i], i, in->config.vocab_size);
    return FS_OK;
}

static fs_status encode_file(const fs_input *in, const fs_tokenizer *tokenizer, const char *path, tokens *out,
                             fs_detail *detail)
{
    fs_buffer text = {0};
    fs_status st = fs_file_read(path, MAX_TEXT_BYTES, &text, detail);
    if (st == FS_OK) {
        st = fs_tokenizer_encode(tokenizer, (const char *)text.data, text.size, false, &out->token,
                                 &out->count, detail);
        if (st != FS_OK) st = fs_fail_in(detail, st, "%s", path);
    }
    if (st == FS_OK) st = check_vocabulary(in, path, out, detail);
    fs_buffer_free(&text);
    return st;
}

static fs_status too_few(const char *path, uint64_t count, uint32_t least, fs_detail *detail)
{
    return fs_fail(detail, FS_INVALID, "%s: %" PRIu64 " tokens are too few, at least %u are needed", path,
                   count, least);
}

/* Without a text of its own to measure on, every eighth window is held back. */
static bool is_held_back(const fs_text_choice *choice, uint64_t i)
{
    return !choice->held_back && i % HELD_BACK_EVERY == HELD_BACK_EVERY / 2;
}

/* As prompts are served: behind the token that begins a text, where the model has one. */
static void begin_text(const fs_model_config *config, uint32_t *window, uint32_t length)
{
    if (config->bos_token_id < 0) return;
    memmove(window + 1, window, (length - 1) * sizeof(*window));
    window[0] = (uint32_t)config->bos_token_id;
}

static fs_status cut(const fs_model_config *config, const fs_text_choice *choice, const tokens *t,
                     const tokens *held, fs_windows *w, fs_detail *detail)
{
    const uint32_t length = choice->length;
    uint64_t all = t->count / length, take = all, apart = held->count / length, split = 0;
    if (choice->max_tokens && choice->max_tokens / length < take) take = choice->max_tokens / length;
    for (uint64_t i = 0; i < take; i++) split += is_held_back(choice, i);
    uint32_t least = choice->held_back ? 1 : HELD_BACK_EVERY / 2 + 1;
    if (take < least) return too_few(choice->calibration, take * length, least * length, detail);
    if (choice->held_back && apart == 0) return too_few(choice->held_back, held->count, length, detail);
    *w = (fs_windows){length, (uint32_t)(take - split), (uint32_t)(take + apart), NULL};
    w->token = malloc(fs_windows_rows(w) * sizeof(*w->token));
    if (!w->token) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory for its tokens", choice->calibration);
    fs_random random = {choice->seed};
    uint32_t *used = w->token, *back = w->token + (size_t)w->num_calibration * length;
    for (uint64_t i = 0; i < take; i++) {
        uint32_t **to = is_held_back(choice, i) ? &back : &used;
        uint64_t from = i * all / take, among = (i + 1) * all / take - from; /* evenly from all of the text */
        from += fs_random_below(&random, (uint32_t)among);
        memcpy(*to, t->token + from * length, length * sizeof(**to));
        if (to == &used) begin_text(config, used, length);
        *to += length;
    }
    if (apart) memcpy(back, held->token, apart * length * sizeof(*back));
    return FS_OK;
}

fs_status fs_windows_load(const fs_input *in, const fs_text_choice *choice, fs_windows *out,
                          fs_detail *detail)
{
    fs_tokenizer *tokenizer = NULL;
    tokens text = {0}, held = {0};
    fs_status st = fs_tokenizer_load(in->dir, &tokenizer, detail);
    if (st == FS_OK) st = encode_file(in, tokenizer, choice->calibration, &text, detail);
    if (st == FS_OK && choice->held_back) st = encode_file(in, tokenizer, choice->held_back, &held, detail);
    if (st == FS_OK) st = cut(&in->config, choice, &text, &held, out, detail);
    free(text.token);
    free(held.token);
    fs_tokenizer_destroy(tokenizer);
    return st;
}

void fs_windows_free(fs_windows *w)
{
    free(w->token);
    *w = (fs_windows){0};
}
