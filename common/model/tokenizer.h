/* common/model/tokenizer.h: tokenizer.json (Hugging Face `tokenizers`) with byte-level BPE: text to ids and back, the same ids
 * as that library gives. */
#ifndef FS_MODEL_TOKENIZER_H
#define FS_MODEL_TOKENIZER_H

#include "base/status.h"

/* Immutable after load; encode and decode may run on several threads at once. Thread: any. */
typedef struct fs_tokenizer fs_tokenizer;

/* Supported: model BPE (string or pair merges, ignore_merges), pre-tokenizers ByteLevel (use_regex, add_prefix_space),
 * Split (regex or plain text; Isolated or Removed, invert) and Sequence of them that ends with ByteLevel, normalizers none, NFC, NFD,
 * NFKC, NFKD and Sequence of them, added tokens (special, lstrip, rstrip, single_word, normalized), decoder ByteLevel,
 * post-processor none, ByteLevel, TemplateProcessing or Sequence of them (ignored: the model's bos_token_id decides). FS_INVALID, FS_CORRUPT
 * (ids not dense or out of range, a merge of pieces that are not in the vocabulary, two tokens with one id), FS_UNSUPPORTED:
 * what it names. name: the file, for details. */
FS_MUST_USE fs_status fs_tokenizer_parse(const char *json, size_t size, const char *name, fs_tokenizer **out,
                                         fs_detail *detail);
FS_MUST_USE fs_status fs_tokenizer_load(const char *dir, fs_tokenizer **out, fs_detail *detail);
void fs_tokenizer_destroy(fs_tokenizer *tokenizer);

/* Largest id + 1, added tokens included. */
uint32_t fs_tokenizer_vocab_size(const fs_tokenizer *tokenizer);

/* Text to ids. text: any bytes; FS_INVALID if they are not UTF-8 (the detail has the offset). allow_special: whether text that spells a
 * special token becomes that token (for chat templates), or plain text (a client's prompt: it cannot forge one).
 * out: heap array, the caller's to free(); NULL when count is 0. */
FS_MUST_USE fs_status fs_tokenizer_encode(const fs_tokenizer *tokenizer, const char *text, size_t size,
                                          bool allow_special, uint32_t **out, size_t *count, fs_detail *detail);

/* The bytes that one id stands for; special tokens stand for none here. Borrowed. FS_INVALID: no such id. */
FS_MUST_USE fs_status fs_tokenizer_piece(const fs_tokenizer *tokenizer, uint32_t id, const uint8_t **bytes,
                                         size_t *size, bool *special);

/* Streaming detokenisation: the bytes of each id in turn, given out only up to the last complete UTF-8 character. Zero is a fresh
 * state. Bytes that can no longer become a character come out as U+FFFD, as the library's decoder does. */
typedef struct {
    uint8_t held[4];
    uint8_t num_held;
} fs_detokenizer;
#define FS_DETOKENIZER_EXTRA 16
/* Appends what id completes to text; at most its piece x3 + FS_DETOKENIZER_EXTRA bytes. Returns FS_EXHAUSTED if capacity
 * is less than needed (nothing changed, *size_out is what is needed), FS_INVALID for no such id. */
FS_MUST_USE fs_status fs_detokenizer_next(fs_detokenizer *state, const fs_tokenizer *tokenizer, uint32_t id, char *text,
                                          size_t capacity, size_t *size_out);
/* What is still held, as U+FFFD; at most FS_DETOKENIZER_EXTRA bytes. Returns the number written. */
size_t fs_detokenizer_finish(fs_detokenizer *state, char *text);

#endif
