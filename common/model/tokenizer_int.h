/* common/model/tokenizer_int.h: a tokenizer's parts, in the order in which text passes them:
 * added tokens -> normalizer -> pre-tokenizer -> bytes -> BPE. */
#ifndef FS_MODEL_TOKENIZER_INT_H
#define FS_MODEL_TOKENIZER_INT_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "model/string_table.h"
#include "model/tokenizer.h"

#define FS_NO_ID           UINT32_MAX
#define FS_MAX_SPLITS      16
#define FS_MAX_NORMALIZERS 8

/* Ids on their way out. */
typedef struct {
    uint32_t *data;
    size_t count, capacity;
} fs_ids;
FS_MUST_USE fs_status fs_ids_push(fs_ids *ids, uint32_t id);

/* --- regex.c: the regular expressions of Oniguruma (what the reference library uses) by PCRE2 --- */

/* FS_UNSUPPORTED: a construct that PCRE2 reads in another way, or not at all; FS_NO_MEMORY. literal:
 * pattern is plain text. */
FS_MUST_USE fs_status fs_regex_compile(const char *pattern, bool literal, pcre2_code **out,
                                       fs_detail *detail);

/* What searching needs beside the regex, of one thread. Zero is valid before init and for fini. */
typedef struct {
    pcre2_match_data *match;
    pcre2_match_context *context;
} fs_regex_scratch;
FS_MUST_USE fs_status fs_regex_scratch_init(fs_regex_scratch *scratch);
void fs_regex_scratch_fini(fs_regex_scratch *scratch);
/* The leftmost match in text[from..size). FS_NOT_FOUND; FS_INVALID: too many steps; FS_NO_MEMORY. text is
 * well-formed UTF-8. */
FS_MUST_USE fs_status fs_regex_find(const pcre2_code *regex, const fs_regex_scratch *scratch,
                                    const char *text, size_t size, size_t from, size_t *begin, size_t *end);
/* Whether c is a word character as Rust's \w has it. */
bool fs_is_word_char(uint32_t c);
/* Unicode's White_Space. */
bool fs_is_white_space(uint32_t c);

/* --- normalize.c --- */

typedef enum { FS_NFC, FS_NFD, FS_NFKC, FS_NFKD } fs_normal_form;
/* Appends the form of text to out. Linear also for long runs of combining marks. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_normalize(fs_normal_form form, const char *text, size_t size, fs_buffer *out);

/* --- added_tokens.c --- */

typedef struct {
    const char *content; /* in the tokenizer's arena */
    uint32_t size, id;
    bool single_word, lstrip, rstrip, normalized, special;
} fs_added_token;

/* A trie over bytes: children of a node are a linked list. Node 0 is the root. */
typedef struct {
    uint32_t child, sibling; /* 0: none */
    uint32_t token;          /* the added token that ends here, or FS_NO_ID */
    uint8_t byte;
} fs_trie_node;
typedef struct {
    fs_trie_node *nodes;
    uint32_t count, capacity;
} fs_trie;

FS_MUST_USE fs_status fs_trie_add(fs_trie *trie, const char *text, size_t size, uint32_t token);
void fs_trie_free(fs_trie *trie);

/* One found token, as the library's AddedVocabulary finds it: leftmost, then longest, then the flags. */
typedef struct {
    size_t begin, end; /* of the text that it takes, stripped blanks included */
    uint32_t id;
} fs_added_match;
/* The next one at or behind *from, which moves. plain_from: the end of the last match. False: none. */
bool fs_added_next(const fs_tokenizer *t, const fs_trie *trie, bool allow_special, const char *text,
                   size_t size, size_t *from, size_t plain_from, fs_added_match *out);

/* --- bpe.c --- */

typedef struct {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: free */
    uint32_t rank, id;
} fs_merge;
typedef struct {
    fs_merge *slots; /* open addressing, at most half full */
    size_t capacity; /* a power of two */
} fs_merge_table;

FS_MUST_USE fs_status fs_merge_table_init(fs_merge_table *table, size_t num_merges);
/* A pair that is there already takes the later rank, as in the library. */
void fs_merge_table_set(fs_merge_table *table, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);

typedef struct {
    uint32_t id, prev, next; /* FS_NO_ID in prev and next: none; in id: merged into its left neighbour */
} fs_bpe_symbol;
typedef struct {
    uint32_t rank, at, id;
} fs_bpe_candidate;
/* Scratch memory of one encode call, grown to the longest word so far. */
typedef struct {
    fs_bpe_symbol *symbols;
    fs_bpe_candidate *heap;
    size_t capacity, heap_size;
} fs_bpe_scratch;

/* word's ids, appended. Time n log n. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_bpe_encode(const fs_tokenizer *t, fs_bpe_scratch *scratch, const uint8_t *word,
                                    size_t size, fs_ids *out);
void fs_bpe_scratch_free(fs_bpe_scratch *scratch);

/* --- the whole --- */

typedef struct {
    pcre2_code *regex;
    bool remove; /* drop what is a delimiter; else it is a piece of its own */
    bool invert; /* what lies between matches is the delimiter */
} fs_split;

typedef struct {
    const uint8_t *bytes; /* in the arena; what the id decodes to, special or not */
    uint32_t size;
    bool special, taken; /* taken: some token has this id */
} fs_piece;

struct fs_tokenizer {
    fs_arena arena;
    fs_piece *pieces; /* [vocab_size], in the arena */
    uint32_t vocab_size;
    uint32_t byte_id[256]; /* the id of a single byte, or FS_NO_ID: then the byte is dropped */
    fs_merge_table merges;
    bool ignore_merges;    /* a word that is in the vocabulary is taken whole */
    fs_string_table words; /* bytes to ids, for ignore_merges; no special tokens: text cannot spell one */

    fs_normal_form normalizers[FS_MAX_NORMALIZERS];
    uint32_t num_normalizers;
    fs_split splits[FS_MAX_SPLITS];
    uint32_t num_splits;
    uint32_t prefix_before; /* add_prefix_space: before which split; FS_NO_ID: never */

    fs_added_token *added; /* in the arena */
    uint32_t num_added;
    fs_trie raw, normalized; /* looked for before and after normalisation */
};

#endif
