#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_int.h"
#include "model/utf8_int.h"

/* One encode call. */
typedef struct {
    const fs_tokenizer *t;
    bool allow_special;
    fs_ids ids;
    fs_regex_scratch regex;
    fs_bpe_scratch bpe;
} encoder;

fs_status fs_ids_push(fs_ids *ids, uint32_t id)
{
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity ? 2 * ids->capacity : 32;
        uint32_t *bigger = realloc(ids->data, capacity * sizeof(*bigger));
        if (!bigger) return FS_NO_MEMORY;
        ids->data = bigger;
        ids->capacity = capacity;
    }
    ids->data[ids->count++] = id;
    return FS_OK;
}

/* A piece on its way through splits[step..], then to bytes. */
static fs_status encode_piece(encoder *e, uint32_t step, const char *text, size_t size);

static fs_status encode_part(encoder *e, uint32_t step, const char *text, size_t begin, size_t end,
                             bool match)
{
    const fs_split *split = &e->t->splits[step];
    if (begin == end || (split->remove && match != split->invert)) return FS_OK;
    return encode_piece(e, step + 1, text + begin, end - begin);
}

/* Matches, and what lies between them, are pieces of their own. An empty match cuts where it is. */
static fs_status encode_split(encoder *e, uint32_t step, const char *text, size_t size)
{
    size_t done = 0, from = 0, begin, end, last_end = SIZE_MAX;
    fs_status st = FS_OK;
    while (st == FS_OK && from <= size) {
        st = fs_regex_find(e->t->splits[step].regex, &e->regex, text, size, from, &begin, &end);
        if (st == FS_NOT_FOUND) break;
        if (st != FS_OK) return st;
        from = end;
        if (begin == end) from += end < size ? fs_utf8_length(text + end, size - end) : 1;
        if (begin == end && begin == last_end) continue; /* right behind a match: not one of its own */
        st = encode_part(e, step, text, done, begin, false);
        if (st == FS_OK) st = encode_part(e, step, text, begin, end, true);
        done = last_end = end;
    }
    if (st != FS_OK && st != FS_NOT_FOUND) return st;
    return encode_part(e, step, text, done, size, false);
}

static fs_status encode_prefixed(encoder *e, uint32_t step, const char *text, size_t size)
{
    fs_buffer copy = {0};
    fs_buffer_append_u8(&copy, ' ');
    fs_buffer_append(&copy, text, size);
    fs_status st = FS_NO_MEMORY;
    if (!copy.failed)
        st = step == e->t->num_splits ? fs_bpe_encode(e->t, &e->bpe, copy.data, copy.size, &e->ids)
                                      : encode_split(e, step, (const char *)copy.data, copy.size);
    fs_buffer_free(&copy);
    return st;
}

static fs_status encode_piece(encoder *e, uint32_t step, const char *text, size_t size)
{
    if (step == e->t->prefix_before && text[0] != ' ') return encode_prefixed(e, step, text, size);
    if (step == e->t->num_splits) return fs_bpe_encode(e->t, &e->bpe, (const uint8_t *)text, size, &e->ids);
    return encode_split(e, step, text, size);
}

typedef fs_status (*plain_text)(encoder *e, const char *text, size_t size);

/* Text to ids: the trie's tokens as they are, what lies between them by `plain`. */
static fs_status encode_between(encoder *e, const fs_trie *trie, plain_text plain, const char *text,
                                size_t size)
{
    fs_added_match m;
    size_t from = 0, done = 0;
    fs_status st = FS_OK;
    while (st == FS_OK && fs_added_next(e->t, trie, e->allow_special, text, size, &from, done, &m)) {
        if (done < m.begin) st = plain(e, text + done, m.begin - done);
        if (st == FS_OK) st = fs_ids_push(&e->ids, m.id);
        done = m.end;
    }
    return st == FS_OK && done < size ? plain(e, text + done, size - done) : st;
}

static fs_status encode_words(encoder *e, const char *text, size_t size)
{
    return encode_piece(e, 0, text, size);
}

static fs_status encode_unnormalized(encoder *e, const char *text, size_t size)
{
    fs_buffer now = {0}, next = {0};
    fs_status st = FS_OK;
    if (e->t->num_normalizers == 0) return encode_between(e, &e->t->normalized, encode_words, text, size);
    fs_buffer_append(&now, text, size);
    for (uint32_t i = 0; i < e->t->num_normalizers && st == FS_OK; i++) {
        next.size = 0;
        st = now.failed ? FS_NO_MEMORY
                        : fs_normalize(e->t->normalizers[i], (const char *)now.data, now.size, &next);
        fs_buffer swap = now;
        now = next;
        next = swap;
    }
    if (st == FS_OK)
        st = encode_between(e, &e->t->normalized, encode_words, (const char *)now.data, now.size);
    fs_buffer_free(&now);
    fs_buffer_free(&next);
    return st;
}

static fs_status check_utf8(const char *text, size_t size, fs_detail *detail)
{
    if (size > INT32_MAX) return fs_fail(detail, FS_INVALID, "text of %zu bytes is over 2 GiB", size);
    for (size_t at = 0, n; at < size; at += n) {
        n = fs_utf8_length(text + at, size - at);
        if (n == 0) return fs_fail(detail, FS_INVALID, "the text is not UTF-8 at byte %zu", at);
    }
    return FS_OK;
}

fs_status fs_tokenizer_encode(const fs_tokenizer *tokenizer, const char *text, size_t size,
                              bool allow_special, uint32_t **out, size_t *count, fs_detail *detail)
{
    encoder e = {.t = tokenizer, .allow_special = allow_special};
    fs_status st = check_utf8(text, size, detail);
    if (st != FS_OK) return st;
    st = fs_regex_scratch_init(&e.regex);
    if (st == FS_OK) st = encode_between(&e, &tokenizer->raw, encode_unnormalized, text, size);
    fs_regex_scratch_fini(&e.regex);
    fs_bpe_scratch_free(&e.bpe);
    if (st != FS_OK) {
        free(e.ids.data);
        return fs_fail(detail, st, "the text cannot be tokenised: %s",
                       st == FS_INVALID ? "the pre-tokenizer's regex takes too many steps"
                                        : fs_status_name(st));
    }
    *out = e.ids.data;
    *count = e.ids.count;
    return FS_OK;
}

uint32_t fs_tokenizer_vocab_size(const fs_tokenizer *tokenizer)
{
    return tokenizer->vocab_size;
}

fs_status fs_tokenizer_piece(const fs_tokenizer *tokenizer, uint32_t id, const uint8_t **bytes, size_t *size,
                             bool *special)
{
    if (id >= tokenizer->vocab_size) return FS_INVALID;
    const fs_piece *piece = &tokenizer->pieces[id];
    *bytes = piece->bytes;
    *size = piece->special ? 0 : piece->size;
    *special = piece->special;
    return FS_OK;
}

void fs_tokenizer_destroy(fs_tokenizer *t)
{
    if (!t) return;
    for (uint32_t i = 0; i < t->num_splits; i++) pcre2_code_free(t->splits[i].regex);
    fs_trie_free(&t->raw);
    fs_trie_free(&t->normalized);
    fs_string_table_free(&t->words);
    free(t->merges.slots);
    fs_arena_fini(&t->arena);
    free(t);
}
