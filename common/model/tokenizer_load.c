/* common/model/tokenizer_load.c: tokenizer.json, read whole and checked, so that encode and decode need
 * not doubt. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "model/json_int.h"
#include "model/tokenizer_int.h"
#include "model/utf8_int.h"

#define MAX_TOKENIZER_BYTES (256u << 20)
#define NUM_BYTE_CHARS      324 /* the characters that stand for bytes lie below */

/* GPT-2's words: letters, then digits, then the rest, each with its blank in front. */
static const char byte_level_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef struct {
    fs_tokenizer *t;
    const char *file;
    fs_detail *detail;
    const json_t *vocab;                  /* of the model */
    int16_t byte_of_char[NUM_BYTE_CHARS]; /* -1: stands for none */
} loader;

static fs_status no_memory(const loader *l)
{
    return fs_fail(l->detail, FS_NO_MEMORY, "%s: no memory", l->file);
}

static fs_status unsupported(const loader *l, const char *what, const json_t *value)
{
    char found[80];
    return fs_fail(l->detail, FS_UNSUPPORTED, "%s: %s %s is not supported", l->file, what,
                   fs_json_describe(value, found));
}

/* A boolean, or `absent` where there is none. */
static fs_status read_bool(const loader *l, const json_t *object, const char *key, bool absent, bool *out)
{
    char found[80];
    const json_t *value = fs_json_get(object, key);
    if (value && !json_is_boolean(value))
        return fs_fail(l->detail, FS_INVALID, "%s: %s is %s, not true or false", l->file, key,
                       fs_json_describe(value, found));
    *out = value ? json_is_true(value) : absent;
    return FS_OK;
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(fs_json_get(object, "type"));
    return type ? type : "";
}

/* --- the vocabulary --- */

/* Bytes that print stand for themselves, the others for characters from U+0100, in order (GPT-2's
 * bytes_to_unicode). */
static void init_byte_chars(loader *l)
{
    int16_t next = 256;
    memset(l->byte_of_char, -1, sizeof(l->byte_of_char));
    for (int16_t b = 0; b < 256; b++) {
        bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        l->byte_of_char[prints ? b : next++] = b;
    }
}

/* The bytes that a token's text stands for; the text itself if a character of it stands for none, as the
 * library decodes. *mapped tells which. NULL: no memory. */
static const uint8_t *bytes_of(const loader *l, const char *text, size_t size, uint32_t *out_size,
                               bool *mapped)
{
    uint8_t *bytes = fs_arena_alloc(&l->t->arena, size + 1);
    uint32_t n = 0;
    if (!bytes) return NULL;
    for (size_t at = 0, length; at < size; at += length) {
        uint32_t c = fs_utf8_decode(text + at, &length);
        if (c >= NUM_BYTE_CHARS || l->byte_of_char[c] < 0) {
            memcpy(bytes, text, size);
            *out_size = (uint32_t)size;
            *mapped = false;
            return bytes;
        }
        bytes[n++] = (uint8_t)l->byte_of_char[c];
    }
    *out_size = n;
    *mapped = true;
    return bytes;
}

static fs_status check_id(const loader *l, const char *token, const json_t *id)
{
    char found[80];
    if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < l->t->vocab_size)
        return FS_OK;
    return fs_fail(l->detail, FS_CORRUPT, "%s: token '%.60s' has id %s, ids must be 0 to %u without gaps",
                   l->file, token, fs_json_describe(id, found), l->t->vocab_size - 1);
}

static fs_status add_piece(loader *l, const char *text, size_t size, const json_t *id_value, bool in_vocab)
{
    bool mapped = false;
    fs_status st = check_id(l, text, id_value);
    if (st != FS_OK) return st;
    uint32_t id = (uint32_t)json_integer_value(id_value);
    fs_piece *piece = &l->t->pieces[id];
    if (piece->taken)
        return fs_fail(l->detail, FS_CORRUPT, "%s: two tokens have id %u, one is '%.60s'", l->file, id, text);
    piece->taken = true;
    piece->bytes = bytes_of(l, text, size, &piece->size, &mapped);
    if (!piece->bytes) return no_memory(l);
    if (in_vocab && mapped && piece->size == 1) l->t->byte_id[piece->bytes[0]] = id;
    return FS_OK;
}

static uint32_t count_ids(const json_t *vocab, const json_t *added)
{
    size_t i, n = json_object_size(vocab);
    json_t *token;
    json_array_foreach((json_t *)added, i, token)
    {
        const char *content = json_string_value(fs_json_get(token, "content"));
        if (content && !json_object_get(vocab, content)) n++;
    }
    return n > FS_MAX_VOCAB ? FS_MAX_VOCAB + 1 : (uint32_t)n;
}

static fs_status read_vocab(loader *l, const json_t *model, const json_t *added)
{
    const char *text;
    json_t *id;
    fs_tokenizer *t = l->t;
    l->vocab = fs_json_get(model, "vocab");
    if (!json_is_object(l->vocab))
        return fs_fail(l->detail, FS_INVALID, "%s: model.vocab is not an object", l->file);
    t->vocab_size = count_ids(l->vocab, added);
    if (t->vocab_size == 0 || t->vocab_size > FS_MAX_VOCAB)
        return fs_fail(l->detail, FS_INVALID, "%s: the vocabulary is empty or over %u tokens", l->file,
                       FS_MAX_VOCAB);
    t->pieces = fs_arena_calloc(&t->arena, t->vocab_size, sizeof(*t->pieces));
    if (!t->pieces) return no_memory(l);
    memset(t->byte_id, 0xff, sizeof(t->byte_id));
    json_object_foreach((json_t *)l->vocab, text, id)
    {
        fs_status st = add_piece(l, text, strlen(text), id, true);
        if (st != FS_OK) return st;
    }
    return FS_OK;
}

/* --- added tokens --- */

static fs_status read_added(loader *l, const json_t *token, fs_added_token *out)
{
    const json_t *content = fs_json_get(token, "content"), *id = fs_json_get(token, "id");
    const json_t *known = json_is_string(content) ? json_object_get(l->vocab, json_string_value(content))
                                                  : NULL;
    if (!json_is_string(content) || json_string_length(content) == 0)
        return fs_fail(l->detail, FS_INVALID, "%s: an added token has no content", l->file);
    const char *text = json_string_value(content);
    size_t size = json_string_length(content);
    fs_status st = FS_OK;
    if (!known)
        st = add_piece(l, text, size, id, false);
    else if (!json_equal(known, id))
        st = fs_fail(l->detail, FS_CORRUPT,
                     "%s: token '%.60s' has one id as added token and another in model.vocab", l->file, text);
    if (st == FS_OK) st = read_bool(l, token, "single_word", false, &out->single_word);
    if (st == FS_OK) st = read_bool(l, token, "lstrip", false, &out->lstrip);
    if (st == FS_OK) st = read_bool(l, token, "rstrip", false, &out->rstrip);
    if (st == FS_OK) st = read_bool(l, token, "normalized", true, &out->normalized);
    if (st == FS_OK) st = read_bool(l, token, "special", false, &out->special);
    if (st != FS_OK) return st;
    out->id = (uint32_t)json_integer_value(id);
    out->size = (uint32_t)size;
    out->content = fs_arena_strndup(&l->t->arena, text, size);
    if (out->special) l->t->pieces[out->id].special = true;
    return out->content ? FS_OK : no_memory(l);
}

/* Special tokens first: of two that read the same they win, as in the library. */
static fs_status read_all_added(loader *l, const json_t *added)
{
    size_t i;
    json_t *token;
    fs_tokenizer *t = l->t;
    if (added && !json_is_array(added))
        return fs_fail(l->detail, FS_INVALID, "%s: added_tokens is not an array", l->file);
    t->added = fs_arena_calloc(&t->arena, json_array_size(added) + 1, sizeof(*t->added));
    if (!t->added) return no_memory(l);
    bool *seen = calloc(t->vocab_size, sizeof(*seen));
    if (!seen) return no_memory(l);
    fs_status st = FS_OK;
    json_array_foreach((json_t *)added, i, token)
    {
        fs_added_token *a = &t->added[t->num_added];
        st = read_added(l, token, a);
        if (st != FS_OK) break;
        if (seen[a->id]) {
            st = fs_fail(l->detail, FS_CORRUPT, "%s: id %u is added twice, once as '%.60s'", l->file, a->id,
                         a->content);
            break;
        }
        seen[a->id] = true;
        t->num_added++;
    }
    free(seen);
    return st;
}

/* A token with `normalized` is looked for in normalised text, so its own text is normalised too; and so
 * the library decodes it. */
static fs_status add_to_trie(loader *l, uint32_t index)
{
    bool mapped;
    fs_tokenizer *t = l->t;
    fs_buffer now = {0};
    const fs_added_token *a = &t->added[index];
    fs_piece *piece = &t->pieces[a->id];
    if (!a->normalized) return fs_trie_add(&t->raw, a->content, a->size, index);
    fs_buffer_append(&now, a->content, a->size);
    fs_status st = now.failed ? FS_NO_MEMORY : FS_OK;
    for (uint32_t i = 0; i < t->num_normalizers && st == FS_OK; i++) {
        fs_buffer next = {0};
        st = fs_normalize(t->normalizers[i], (const char *)now.data, now.size, &next);
        fs_buffer_free(&now);
        now = next;
    }
    if (st == FS_OK) st = fs_trie_add(&t->normalized, (const char *)now.data, now.size, index);
    if (st == FS_OK) piece->bytes = bytes_of(l, (const char *)now.data, now.size, &piece->size, &mapped);
    fs_buffer_free(&now);
    return st == FS_OK && !piece->bytes ? FS_NO_MEMORY : st;
}

static fs_status build_tries(loader *l)
{
    fs_status st = FS_OK;
    for (int special = 1; special >= 0; special--)
        for (uint32_t i = 0; i < l->t->num_added && st == FS_OK; i++)
            if (l->t->added[i].special == special) st = add_to_trie(l, i);
    return st == FS_OK ? FS_OK : no_memory(l);
}

/* --- merges --- */

static bool id_of(const loader *l, const char *text, size_t size, uint32_t *out)
{
    const json_t *id = json_object_getn(l->vocab, text, size);
    if (id) *out = (uint32_t)json_integer_value(id);
    return id != NULL;
}

/* The two halves: "a b" in older files, ["a", "b"] in newer ones. */
static bool halves_of(const json_t *merge, const char **left, size_t *left_size, const char **right,
                      size_t *right_size)
{
    const char *text = json_string_value(merge);
    if (text) {
        const char *blank = strchr(text, ' ');
        if (!blank || strchr(blank + 1, ' ')) return false;
        *left = text;
        *left_size = (size_t)(blank - text);
        *right = blank + 1;
    } else {
        *left = json_string_value(json_array_get(merge, 0));
        *right = json_string_value(json_array_get(merge, 1));
        if (json_array_size(merge) != 2 || !*left || !*right) return false;
        *left_size = strlen(*left);
    }
    *right_size = strlen(*right);
    return true;
}

static fs_status read_merge(loader *l, uint32_t rank, const json_t *merge, fs_buffer *joined)
{
    const char *left, *right;
    size_t left_size, right_size;
    uint32_t a, b, both;
    if (!halves_of(merge, &left, &left_size, &right, &right_size))
        return fs_fail(l->detail, FS_CORRUPT, "%s: merge %u is not a pair of pieces", l->file, rank);
    joined->size = 0;
    fs_buffer_append(joined, left, left_size);
    fs_buffer_append(joined, right, right_size);
    if (joined->failed) return no_memory(l);
    if (!id_of(l, left, left_size, &a) || !id_of(l, right, right_size, &b) ||
        !id_of(l, joined->data ? (const char *)joined->data : "", joined->size, &both))
        return fs_fail(l->detail, FS_CORRUPT,
                       "%s: merge %u ('%.40s' and '%.40s') has pieces that are not in the vocabulary",
                       l->file, rank, left, right);
    if (l->t->pieces[both].special)
        return fs_fail(l->detail, FS_UNSUPPORTED, "%s: merge %u spells the special token '%.40s%.40s'",
                       l->file, rank, left, right);
    fs_merge_table_set(&l->t->merges, a, b, rank, both);
    return FS_OK;
}

static fs_status read_merges(loader *l, const json_t *model)
{
    size_t i;
    json_t *merge;
    const json_t *merges = fs_json_get(model, "merges");
    fs_buffer joined = {0};
    if (!json_is_array(merges))
        return fs_fail(l->detail, FS_INVALID, "%s: model.merges is not an array", l->file);
    if (json_array_size(merges) > UINT32_MAX - 1 ||
        fs_merge_table_init(&l->t->merges, json_array_size(merges)) != FS_OK)
        return no_memory(l);
    fs_status st = FS_OK;
    json_array_foreach((json_t *)merges, i, merge)
    {
        st = read_merge(l, (uint32_t)i, merge, &joined);
        if (st != FS_OK) break;
    }
    fs_buffer_free(&joined);
    return st;
}

/* --- the rest of the model --- */

/* Settings that change ids and that byte-level models do not use. */
static fs_status check_model(const loader *l, const json_t *model)
{
    if (strcmp(type_of(model), "BPE") != 0) return unsupported(l, "model type", fs_json_get(model, "type"));
    const json_t *dropout = fs_json_get(model, "dropout");
    if (dropout && json_number_value(dropout) != 0) return unsupported(l, "model.dropout", dropout);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const json_t *affix = fs_json_get(model, affixes[i]);
        if (affix && json_string_length(affix) > 0) return unsupported(l, affixes[i], affix);
    }
    return FS_OK;
}

/* With a piece for every byte nothing is ever unknown; only then unk_token and byte_fallback mean nothing. */
static fs_status check_bytes(const loader *l, const json_t *model)
{
    bool fallback = false, complete = true;
    const json_t *unknown = fs_json_get(model, "unk_token");
    fs_status st = read_bool(l, model, "byte_fallback", false, &fallback);
    if (st != FS_OK) return st;
    for (int b = 0; b < 256; b++) {
        uint32_t id = l->t->byte_id[b];
        complete = complete && id != FS_NO_ID;
        if (id != FS_NO_ID && l->t->pieces[id].special)
            return fs_fail(l->detail, FS_UNSUPPORTED, "%s: the piece of byte 0x%02x is a special token",
                           l->file, (unsigned)b);
    }
    if (!complete && unknown) return unsupported(l, "an incomplete byte alphabet with unk_token", unknown);
    if (!complete && fallback)
        return unsupported(l, "an incomplete byte alphabet with byte_fallback", json_true());
    return FS_OK;
}

static fs_status read_words(loader *l, const json_t *model)
{
    const char *text;
    json_t *id;
    fs_status st = read_bool(l, model, "ignore_merges", false, &l->t->ignore_merges);
    if (st != FS_OK || !l->t->ignore_merges) return st;
    json_object_foreach((json_t *)l->vocab, text, id)
    {
        uint32_t number = (uint32_t)json_integer_value(id), size = 0;
        bool mapped = false;
        const fs_piece *piece = &l->t->pieces[number];
        const uint8_t *bytes = bytes_of(l, text, strlen(text), &size, &mapped);
        if (!bytes) return no_memory(l);
        if (!mapped || piece->special || size == 0) continue;
        if (fs_string_table_add(&l->t->words, (const char *)bytes, size, number) != FS_OK)
            return no_memory(l);
    }
    return FS_OK;
}

/* --- normalizer, pre-tokenizer, decoder, post-processor --- */

/* A step, or a Sequence's steps (under `key`) one after the other; null: none. Nested sequences are not
 * written by anybody. */
typedef fs_status (*step)(loader *l, const json_t *one);
static fs_status each_step(loader *l, const json_t *value, const char *key, step read)
{
    size_t i;
    json_t *one;
    if (!value) return FS_OK;
    if (strcmp(type_of(value), "Sequence") != 0) return read(l, value);
    const json_t *steps = fs_json_get(value, key);
    if (!json_is_array(steps))
        return fs_fail(l->detail, FS_INVALID, "%s: a Sequence has no %s", l->file, key);
    json_array_foreach((json_t *)steps, i, one)
    {
        fs_status st = read(l, one);
        if (st != FS_OK) return st;
    }
    return FS_OK;
}

static fs_status read_normalizer(loader *l, const json_t *one)
{
    static const char *const names[] = {
        [FS_NFC] = "NFC", [FS_NFD] = "NFD", [FS_NFKC] = "NFKC", [FS_NFKD] = "NFKD"};
    for (unsigned form = FS_NFC; form <= FS_NFKD; form++) {
        if (strcmp(type_of(one), names[form]) != 0) continue;
        if (l->t->num_normalizers == FS_MAX_NORMALIZERS)
            return fs_fail(l->detail, FS_UNSUPPORTED, "%s: over %d normalizers", l->file, FS_MAX_NORMALIZERS);
        l->t->normalizers[l->t->num_normalizers++] = (fs_normal_form)form;
        return FS_OK;
    }
    return unsupported(l, "normalizer", fs_json_get(one, "type"));
}

static fs_status add_split(loader *l, const char *pattern, bool literal, bool remove, bool invert)
{
    fs_tokenizer *t = l->t;
    if (t->num_splits == FS_MAX_SPLITS)
        return fs_fail(l->detail, FS_UNSUPPORTED, "%s: over %d pre-tokenizers", l->file, FS_MAX_SPLITS);
    fs_split *split = &t->splits[t->num_splits];
    *split = (fs_split){NULL, remove, invert};
    fs_status st = fs_regex_compile(pattern, literal, &split->regex, l->detail);
    if (st != FS_OK) return fs_fail_in(l->detail, st, "%s", l->file);
    t->num_splits++;
    return FS_OK;
}

static fs_status read_split(loader *l, const json_t *one)
{
    bool invert = false;
    const json_t *pattern = fs_json_get(one, "pattern"), *behavior = fs_json_get(one, "behavior");
    const char *regex = json_string_value(fs_json_get(pattern, "Regex"));
    const char *literal = json_string_value(fs_json_get(pattern, "String"));
    const char *word = json_is_string(behavior) ? json_string_value(behavior) : "";
    fs_status st = read_bool(l, one, "invert", false, &invert);
    if (st != FS_OK) return st;
    if (!regex && (!literal || !*literal)) return unsupported(l, "the pattern of a Split", pattern);
    if (strcmp(word, "Isolated") != 0 && strcmp(word, "Removed") != 0)
        return unsupported(l, "Split behavior", behavior);
    return add_split(l, regex ? regex : literal, !regex, strcmp(word, "Removed") == 0, invert);
}

static fs_status read_byte_level(loader *l, const json_t *one)
{
    bool prefix = true, use_regex = true;
    fs_status st = read_bool(l, one, "add_prefix_space", true, &prefix);
    if (st == FS_OK) st = read_bool(l, one, "use_regex", true, &use_regex);
    if (st != FS_OK) return st;
    if (prefix) l->t->prefix_before = l->t->num_splits;
    return use_regex ? add_split(l, byte_level_regex, false, false, false) : FS_OK;
}

/* Splits, then one ByteLevel: what came behind it would see bytes written as characters. */
static fs_status read_pre_tokenizer(loader *l, const json_t *value)
{
    const json_t *steps = strcmp(type_of(value), "Sequence") == 0 ? fs_json_get(value, "pretokenizers")
                                                                  : NULL;
    size_t n = steps ? json_array_size(steps) : 1;
    fs_status st = FS_OK;
    for (size_t i = 0; i < n && st == FS_OK; i++) {
        const json_t *one = steps ? json_array_get(steps, i) : value;
        bool last = i + 1 == n, bytes = strcmp(type_of(one), "ByteLevel") == 0;
        if (bytes != last)
            return unsupported(l, bytes ? "a step behind ByteLevel" : "a pre_tokenizer without ByteLevel",
                               one);
        if (!bytes && strcmp(type_of(one), "Split") != 0)
            return unsupported(l, "pre_tokenizer", fs_json_get(one, "type"));
        st = bytes ? read_byte_level(l, one) : read_split(l, one);
    }
    return n ? st : unsupported(l, "an empty pre_tokenizer", steps);
}

static fs_status read_decoder(loader *l, const json_t *one)
{
    return strcmp(type_of(one), "ByteLevel") == 0 ? FS_OK
                                                  : unsupported(l, "decoder", fs_json_get(one, "type"));
}

static fs_status read_post_processor(loader *l, const json_t *one)
{
    bool known = strcmp(type_of(one), "ByteLevel") == 0 || strcmp(type_of(one), "TemplateProcessing") == 0;
    return known ? FS_OK : unsupported(l, "post_processor", fs_json_get(one, "type"));
}

static fs_status read_all(loader *l, const json_t *root)
{
    const json_t *model = fs_json_get(root, "model"), *added = fs_json_get(root, "added_tokens");
    const json_t *decoder = fs_json_get(root, "decoder");
    fs_status st = check_model(l, model);
    if (st == FS_OK) st = read_vocab(l, model, added);
    if (st == FS_OK) st = read_all_added(l, added);
    if (st == FS_OK) st = check_bytes(l, model);
    if (st == FS_OK) st = read_merges(l, model);
    if (st == FS_OK) st = read_words(l, model);
    if (st == FS_OK) st = each_step(l, fs_json_get(root, "normalizer"), "normalizers", read_normalizer);
    if (st == FS_OK) st = read_pre_tokenizer(l, fs_json_get(root, "pre_tokenizer"));
    if (st == FS_OK)
        st = decoder ? each_step(l, decoder, "decoders", read_decoder) : unsupported(l, "decoder", NULL);
    if (st == FS_OK)
        st = each_step(l, fs_json_get(root, "post_processor"), "processors", read_post_processor);
    return st == FS_OK ? build_tries(l) : st;
}

fs_status fs_tokenizer_parse(const char *json, size_t size, const char *name, fs_tokenizer **out,
                             fs_detail *detail)
{
    json_t *root = NULL;
    loader l = {.t = calloc(1, sizeof(fs_tokenizer)), .file = name, .detail = detail};
    if (!l.t) return no_memory(&l);
    l.t->prefix_before = FS_NO_ID;
    init_byte_chars(&l);
    fs_status st = fs_json_parse(json, size, name, FS_INVALID, &root, detail);
    if (st == FS_OK) st = read_all(&l, root);
    json_decref(root);
    if (st != FS_OK) return fs_tokenizer_destroy(l.t), st;
    *out = l.t;
    return FS_OK;
}

fs_status fs_tokenizer_load(const char *dir, fs_tokenizer **out, fs_detail *detail)
{
    char path[4096];
    fs_buffer text = {0};
    if (snprintf(path, sizeof(path), "%s/tokenizer.json", dir) >= (int)sizeof(path))
        return fs_fail(detail, FS_INVALID, "%.200s...: the path is too long", dir);
    fs_status st = fs_file_read(path, MAX_TOKENIZER_BYTES, &text, detail);
    if (st == FS_OK) st = fs_tokenizer_parse((const char *)text.data, text.size, path, out, detail);
    fs_buffer_free(&text);
    return st;
}
