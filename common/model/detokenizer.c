/* common/model/detokenizer.c: ids to text, a token at a time. */
#include <string.h>

#include "model/tokenizer_int.h"
#include "model/utf8_int.h"

static const char replacement[] = "\xef\xbf\xbd";

/* text may be NULL: then only the size is counted. */
static size_t put(char *text, size_t at, const void *bytes, size_t size)
{
    if (text) memcpy(text + at, bytes, size);
    return at + size;
}

/* One more byte: what is complete is put out; what can become nothing is one U+FFFD for its longest
 * well-begun part (as String::from_utf8_lossy of the library's language). */
static size_t feed(fs_detokenizer *state, uint8_t byte, char *text, size_t at)
{
    size_t length;
    state->held[state->num_held++] = byte;
    size_t prefix = fs_utf8_prefix(state->held, state->num_held, &length);
    if (prefix == state->num_held) {
        if (prefix < length) return at;
        state->num_held = 0;
        return put(text, at, state->held, length);
    }
    bool again = state->num_held > 1; /* the byte broke what was held, but may begin something itself */
    state->num_held = 0;
    at = put(text, at, replacement, 3);
    return again ? feed(state, byte, text, at) : at;
}

static size_t feed_all(fs_detokenizer *state, const uint8_t *bytes, size_t size, char *text)
{
    size_t at = 0;
    for (size_t i = 0; i < size; i++) at = feed(state, bytes[i], text, at);
    return at;
}

fs_status fs_detokenizer_next(fs_detokenizer *state, const fs_tokenizer *tokenizer, uint32_t id, char *text,
                              size_t capacity, size_t *size_out)
{
    const uint8_t *bytes;
    size_t size;
    bool special;
    fs_detokenizer after = *state;
    fs_status st = fs_tokenizer_piece(tokenizer, id, &bytes, &size, &special);
    if (st != FS_OK) return st;
    FS_ASSERT(state->num_held < sizeof(state->held));
    *size_out = feed_all(&after, bytes, size, NULL);
    if (*size_out > capacity) return FS_EXHAUSTED;
    feed_all(state, bytes, size, text);
    return FS_OK;
}

size_t fs_detokenizer_finish(fs_detokenizer *state, char *text)
{
    size_t size = state->num_held ? put(text, 0, replacement, 3) : 0;
    *state = (fs_detokenizer){0};
    return size;
}
