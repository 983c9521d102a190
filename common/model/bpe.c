/* common/model/bpe.c: byte pair encoding of one word: always the pair of lowest rank, the leftmost of
 * equals. Candidates wait in a heap, symbols are a linked list: a word of a megabyte is no different from
 * a short one. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_int.h"

#define NO_PAIR UINT64_MAX

static uint64_t pair_of(uint32_t left, uint32_t right)
{
    return (uint64_t)left << 32 | right;
}

static fs_merge *slot_of(const fs_merge_table *table, uint64_t pair)
{
    uint64_t h = (pair ^ pair >> 29) * 0x9e3779b97f4a7c15u;
    size_t mask = table->capacity - 1, at = (size_t)(h >> 20) & mask;
    while (table->slots[at].pair != pair && table->slots[at].pair != NO_PAIR) at = (at + 1) & mask;
    return &table->slots[at];
}

fs_status fs_merge_table_init(fs_merge_table *table, size_t num_merges)
{
    size_t capacity = 16, bytes;
    while (capacity < 2 * num_merges) capacity *= 2;
    if (!fs_mul_size(capacity, sizeof(fs_merge), &bytes)) return FS_NO_MEMORY;
    table->slots = malloc(bytes);
    if (!table->slots) return FS_NO_MEMORY;
    table->capacity = capacity;
    for (size_t i = 0; i < capacity; i++) table->slots[i].pair = NO_PAIR;
    return FS_OK;
}

void fs_merge_table_set(fs_merge_table *table, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    *slot_of(table, pair_of(left, right)) = (fs_merge){pair_of(left, right), rank, id};
}

static bool before(const fs_bpe_candidate *a, const fs_bpe_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(fs_bpe_scratch *s, fs_bpe_candidate candidate)
{
    size_t i = s->heap_size++;
    for (; i > 0 && before(&candidate, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = candidate;
}

static fs_bpe_candidate pop(fs_bpe_scratch *s)
{
    fs_bpe_candidate top = s->heap[0], last = s->heap[--s->heap_size];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < s->heap_size; i = child) {
        if (child + 1 < s->heap_size && before(&s->heap[child + 1], &s->heap[child])) child++;
        if (!before(&s->heap[child], &last)) break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = last;
    return top;
}

/* The pair that begins at symbol `at`, if it can be merged, becomes a candidate. */
static void consider(const fs_tokenizer *t, fs_bpe_scratch *s, uint32_t at)
{
    if (at == FS_NO_ID || s->symbols[at].next == FS_NO_ID) return;
    const fs_merge *m = slot_of(&t->merges, pair_of(s->symbols[at].id, s->symbols[s->symbols[at].next].id));
    if (m->pair != NO_PAIR) push(s, (fs_bpe_candidate){m->rank, at, m->id});
}

/* Room for n symbols, and for their n - 1 pairs and the two that each of at most n - 1 merges makes. */
static fs_status reserve(fs_bpe_scratch *s, size_t n)
{
    if (n <= s->capacity) return FS_OK;
    size_t capacity = n < 64 ? 64 : n + n / 2;
    fs_bpe_symbol *symbols = realloc(s->symbols, capacity * sizeof(*symbols));
    if (symbols) s->symbols = symbols;
    fs_bpe_candidate *heap = realloc(s->heap, 3 * capacity * sizeof(*heap));
    if (heap) s->heap = heap;
    if (!symbols || !heap) return FS_NO_MEMORY;
    s->capacity = capacity;
    return FS_OK;
}

/* Bytes to symbols; those that the vocabulary lacks are dropped, as the library does without an unknown
 * token. */
static uint32_t begin(const fs_tokenizer *t, fs_bpe_scratch *s, const uint8_t *word, size_t size)
{
    uint32_t n = 0;
    for (size_t i = 0; i < size; i++) {
        uint32_t id = t->byte_id[word[i]];
        if (id == FS_NO_ID) continue;
        s->symbols[n] = (fs_bpe_symbol){id, n == 0 ? FS_NO_ID : n - 1, n + 1};
        n++;
    }
    if (n > 0) s->symbols[n - 1].next = FS_NO_ID;
    return n;
}

static void merge_all(const fs_tokenizer *t, fs_bpe_scratch *s, uint32_t n)
{
    s->heap_size = 0;
    for (uint32_t i = 0; i + 1 < n; i++) consider(t, s, i);
    while (s->heap_size > 0) {
        fs_bpe_candidate c = pop(s);
        fs_bpe_symbol *left = &s->symbols[c.at];
        if (left->id == FS_NO_ID || left->next == FS_NO_ID) continue;
        fs_bpe_symbol *right = &s->symbols[left->next];
        const fs_merge *m = slot_of(&t->merges, pair_of(left->id, right->id));
        if (m->pair == NO_PAIR || m->id != c.id) continue; /* one of the two has been merged since */
        left->id = c.id;
        left->next = right->next;
        right->id = FS_NO_ID;
        if (left->next != FS_NO_ID) s->symbols[left->next].prev = c.at;
        consider(t, s, left->prev);
        consider(t, s, c.at);
    }
}

fs_status fs_bpe_encode(const fs_tokenizer *t, fs_bpe_scratch *s, const uint8_t *word, size_t size,
                        fs_ids *out)
{
    uint32_t whole;
    if (t->ignore_merges && fs_string_table_find(&t->words, (const char *)word, size, &whole))
        return fs_ids_push(out, whole);
    fs_status st = reserve(s, size);
    if (st != FS_OK) return st;
    uint32_t n = begin(t, s, word, size);
    merge_all(t, s, n);
    /* Symbol 0 is never merged into another, so the list begins there. */
    for (uint32_t i = n ? 0 : FS_NO_ID; i != FS_NO_ID && st == FS_OK; i = s->symbols[i].next)
        st = fs_ids_push(out, s->symbols[i].id);
    return st;
}

void fs_bpe_scratch_free(fs_bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (fs_bpe_scratch){0};
}
