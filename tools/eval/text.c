/* tools/eval/text.c: a text file as windows of a model's tokens. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "eval/eval.h"

enum { MAX_TEXT_BYTES = 1 << 30 };

static fs_status encode_file(const fs_tokenizer *tokenizer, const char *path, uint32_t **ids, size_t *count,
                             fs_detail *detail)
{
    fs_buffer text = {0};
    fs_status st = fs_file_read(path, MAX_TEXT_BYTES, &text, detail);
    if (st == FS_OK) {
        st = fs_tokenizer_encode(tokenizer, (const char *)text.data, text.size, false, ids, count, detail);
        if (st != FS_OK) st = fs_fail_in(detail, st, "%s", path);
    }
    fs_buffer_free(&text);
    return st;
}

static fs_status check_tokens(const fs_model_config *config, const char *path, const uint32_t *ids,
                              size_t count, fs_detail *detail)
{
    if (count < 2)
        return fs_fail(detail, FS_INVALID,
                       "%s: %zu token%s, at least 2 are needed: one to foretell from, one to foretell", path,
                       count, count == 1 ? "" : "s");
    for (size_t i = 0; i < count; i++)
        if (ids[i] >= config->vocab_size)
            return fs_fail(detail, FS_INVALID,
                           "%s: token %u of the text (number %zu) is not in the model's vocabulary of %u: "
                           "tokenizer.json is another model's",
                           path, ids[i], i, config->vocab_size);
    return FS_OK;
}

static uint64_t bytes_of(const fs_tokenizer *tokenizer, const fs_eval_text *text)
{
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < (uint64_t)text->num_windows * text->length; i++) {
        const uint8_t *piece;
        size_t size = 0;
        bool special;
        if (i % text->length != 0 &&
            fs_tokenizer_piece(tokenizer, text->token[i], &piece, &size, &special) == FS_OK)
            bytes += size;
    }
    return bytes;
}

/* Takes ids. */
static void cut(uint32_t *ids, size_t count, uint64_t max_tokens, uint32_t window, fs_eval_text *out)
{
    const uint64_t usable = max_tokens && max_tokens < count ? max_tokens : count;
    out->length = usable < window ? (uint32_t)usable : window;
    out->num_windows = (uint32_t)(usable / out->length);
    out->num_tokens = count;
    out->token = ids;
}

fs_status fs_eval_text_load(const char *dir, const fs_model_config *config, const char *path,
                            uint64_t max_tokens, uint32_t window, fs_eval_text *out, fs_detail *detail)
{
    fs_tokenizer *tokenizer = NULL;
    uint32_t *ids = NULL;
    size_t count = 0;
    if (window > config->max_positions)
        return fs_fail(detail, FS_INVALID, "--window: %u tokens are more than the model's context of %u",
                       window, config->max_positions);
    fs_status st = fs_tokenizer_load(dir, &tokenizer, detail);
    if (st == FS_OK) st = encode_file(tokenizer, path, &ids, &count, detail);
    if (st == FS_OK) st = check_tokens(config, path, ids, count, detail);
    if (st == FS_OK) {
        cut(ids, count, max_tokens, window, out);
        out->num_bytes = bytes_of(tokenizer, out);
        ids = NULL;
    }
    free(ids);
    fs_tokenizer_destroy(tokenizer);
    return st;
}

void fs_eval_text_free(fs_eval_text *text)
{
    free(text->token);
    *text = (fs_eval_text){0};
}
