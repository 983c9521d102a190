/* common/model/added_tokens.c: tokens that are found in the text itself, before it is cut into words. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_int.h"
#include "model/utf8_int.h"

/* The node's child for byte; 0: none (the root is nobody's child). */
static uint32_t child_of(const fs_trie *trie, uint32_t node, uint8_t byte)
{
    uint32_t child = trie->nodes[node].child;
    while (child && trie->nodes[child].byte != byte) child = trie->nodes[child].sibling;
    return child;
}

static fs_status new_node(fs_trie *trie, uint8_t byte)
{
    if (trie->count == trie->capacity) {
        uint32_t capacity = trie->capacity ? trie->capacity * 2 : 64;
        fs_trie_node *bigger = capacity > trie->capacity ? realloc(trie->nodes, capacity * sizeof(*bigger))
                                                         : NULL;
        if (!bigger) return FS_NO_MEMORY;
        trie->nodes = bigger;
        trie->capacity = capacity;
    }
    trie->nodes[trie->count++] = (fs_trie_node){.token = FS_NO_ID, .byte = byte};
    return FS_OK;
}

fs_status fs_trie_add(fs_trie *trie, const char *text, size_t size, uint32_t token)
{
    uint32_t node = 0;
    if (trie->count == 0 && new_node(trie, 0) != FS_OK) return FS_NO_MEMORY;
    for (size_t i = 0; i < size; i++) {
        uint32_t child = child_of(trie, node, (uint8_t)text[i]);
        if (!child) {
            if (new_node(trie, (uint8_t)text[i]) != FS_OK) return FS_NO_MEMORY;
            child = trie->count - 1;
            trie->nodes[child].sibling = trie->nodes[node].child;
            trie->nodes[node].child = child;
        }
        node = child;
    }
    /* Two tokens may read the same once they are normalised: the first keeps the place. */
    if (trie->nodes[node].token == FS_NO_ID) trie->nodes[node].token = token;
    return FS_OK;
}

void fs_trie_free(fs_trie *trie)
{
    free(trie->nodes);
    *trie = (fs_trie){0};
}

/* The longest token that begins at text[at]; FS_NO_ID: none. */
static uint32_t longest(const fs_trie *trie, const char *text, size_t size, size_t at, size_t *end)
{
    uint32_t token = FS_NO_ID, node = 0;
    for (size_t i = at; i < size && (node = child_of(trie, node, (uint8_t)text[i])) != 0; i++) {
        if (trie->nodes[node].token == FS_NO_ID) continue;
        token = trie->nodes[node].token;
        *end = i + 1;
    }
    return token;
}

static bool stands_alone(const char *text, size_t size, size_t begin, size_t end)
{
    size_t length;
    if (begin > 0 && fs_is_word_char(fs_utf8_decode(text + fs_utf8_before(text, begin), &length)))
        return false;
    return end == size || !fs_is_word_char(fs_utf8_decode(text + end, &length));
}

/* Blanks on the sides that the token asks for go with it, but not those that the match before took. */
static void take_blanks(const fs_added_token *token, const char *text, size_t size, size_t plain_from,
                        fs_added_match *match)
{
    size_t length;
    while (token->lstrip && match->begin > plain_from) {
        size_t before = fs_utf8_before(text, match->begin);
        if (!fs_is_white_space(fs_utf8_decode(text + before, &length))) break;
        match->begin = before;
    }
    if (token->lstrip && match->begin < plain_from) match->begin = plain_from;
    while (token->rstrip && match->end < size &&
           fs_is_white_space(fs_utf8_decode(text + match->end, &length)))
        match->end += length;
}

bool fs_added_next(const fs_tokenizer *t, const fs_trie *trie, bool allow_special, const char *text,
                   size_t size, size_t *from, size_t plain_from, fs_added_match *out)
{
    if (trie->count == 0) return false;
    for (size_t end = 0; *from < size;) {
        size_t begin = *from;
        uint32_t index = longest(trie, text, size, begin, &end);
        *from = index == FS_NO_ID ? begin + 1 : end;
        if (index == FS_NO_ID) continue;
        const fs_added_token *token = &t->added[index];
        if (token->special && !allow_special) continue;
        if (token->single_word && !stands_alone(text, size, begin, end)) continue;
        *out = (fs_added_match){begin, end, token->id};
        take_blanks(token, text, size, plain_from, out);
        return true;
    }
    return false;
}
