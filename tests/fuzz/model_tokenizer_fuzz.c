/* tests/fuzz/model_tokenizer_fuzz.c: tokenizer.json, a zero byte, text for it; or, after a first byte 1,
 * text for a tokenizer that is at hand: what it cuts into ids, the stream puts together again. */
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "model/tokenizer.h"

#define MAX_TEXT 512 /* a pattern from the file may be as slow as it likes */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ids to text; what is at hand decodes to what went in. */
static void decode(const fs_tokenizer *t, const uint32_t *ids, size_t count, fs_buffer *out)
{
    fs_detokenizer state = {0};
    for (size_t i = 0; i < count; i++) {
        char none[1];
        size_t needed = 0, size = 0;
        FS_ASSERT(ids[i] < fs_tokenizer_vocab_size(t));
        fs_status st = fs_detokenizer_next(&state, t, ids[i], none, 0, &needed);
        FS_ASSERT(st == FS_EXHAUSTED || (st == FS_OK && needed == 0));
        if (st == FS_OK) continue;
        char *text = malloc(needed);
        FS_ASSERT(text && fs_detokenizer_next(&state, t, ids[i], text, needed, &size) == FS_OK &&
                  size == needed);
        fs_buffer_append(out, text, size);
        free(text);
    }
    char rest[FS_DETOKENIZER_EXTRA];
    fs_buffer_append(out, rest, fs_detokenizer_finish(&state, rest));
}

/* A byte alphabet, some merges, a special token. */
static fs_tokenizer *make_tokenizer(void)
{
    fs_buffer json = {0};
    fs_tokenizer *t = NULL;
    unsigned next = 256;
    fs_buffer_printf(
        &json, "{\"added_tokens\":[{\"id\":262,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
               "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
               "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (unsigned b = 0; b < 256; b++) {
        bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        fs_buffer_printf(&json, "\"\\u%04x\":%u,", prints ? b : next, b);
        next += !prints;
    }
    fs_buffer_printf(
        &json,
        "\"aa\":256,\"aaaa\":257,\"ab\":258,\"aab\":259,\"he\":260,\"\\u0120he\":261},\"merges\":[[\"a\","
        "\"a\"],"
        "[\"aa\",\"aa\"],[\"a\",\"b\"],[\"a\",\"ab\"],[\"aa\",\"b\"],[\"h\",\"e\"],[\"\\u0120\",\"he\"]]}}");
    fs_status st = fs_tokenizer_parse((const char *)json.data, json.size, "built in", &t, NULL);
    FS_ASSERT(st == FS_OK);
    fs_buffer_free(&json);
    return t;
}

static void round_trip(const char *text, size_t size)
{
    static fs_tokenizer *at_hand; /* for good: it takes longer than a run */
    uint32_t *ids = NULL;
    size_t count = 0;
    fs_buffer back = {0};
    if (!at_hand) at_hand = make_tokenizer();
    if (fs_tokenizer_encode(at_hand, text, size, false, &ids, &count, NULL) == FS_OK) {
        decode(at_hand, ids, count, &back);
        FS_ASSERT(back.size == size && (size == 0 || memcmp(back.data, text, size) == 0));
    }
    fs_buffer_free(&back);
    free(ids);
}

static void try_file(const char *json, size_t json_size, const char *text, size_t size)
{
    fs_tokenizer *t = NULL;
    fs_detail detail = {0};
    if (fs_tokenizer_parse(json, json_size, "fuzz", &t, &detail) != FS_OK) {
        FS_ASSERT(detail.text[0] != '\0' && !t);
        return;
    }
    for (int allow = 0; allow < 2; allow++) {
        uint32_t *ids = NULL;
        size_t count = 0;
        fs_buffer back = {0};
        if (fs_tokenizer_encode(t, text, size, allow, &ids, &count, &detail) == FS_OK)
            decode(t, ids, count, &back);
        fs_buffer_free(&back);
        free(ids);
    }
    fs_tokenizer_destroy(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    if (size > 0 && data[0] == 1) return round_trip(text + 1, size - 1), 0;
    const char *zero = size ? memchr(text, 0, size) : NULL;
    size_t json_size = zero ? (size_t)(zero - text) : size, rest = zero ? size - json_size - 1 : 0;
    try_file(text, json_size, zero ? zero + 1 : "", rest < MAX_TEXT ? rest : MAX_TEXT);
    return 0;
}
