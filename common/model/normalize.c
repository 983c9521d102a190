/* common/model/normalize.c: Unicode normal forms, with the character data of utf8proc. utf8proc_map would
 * do, but it sorts combining marks by exchanging neighbours: a prompt of a megabyte of marks in the wrong
 * order would take minutes. So decomposing and sorting are here, and only composing is utf8proc's. */
#include <stdlib.h>
#include <utf8proc.h>

#include "model/tokenizer_int.h"
#include "model/utf8_int.h"

#define MAX_DECOMPOSED 32 /* the longest decomposition has 18 characters (U+FDFA, NFKD) */
#define NUM_CLASSES    256

typedef struct {
    utf8proc_int32_t *chars, *sorted; /* [capacity] */
    size_t count, capacity;
} decomposed;

static bool has_room(decomposed *d)
{
    if (d->capacity - d->count >= MAX_DECOMPOSED) return true;
    size_t capacity = 2 * d->capacity + MAX_DECOMPOSED;
    utf8proc_int32_t *bigger = realloc(d->chars, capacity * sizeof(*bigger));
    if (!bigger) return false;
    d->chars = bigger;
    d->capacity = capacity;
    return true;
}

static fs_status decompose(const char *text, size_t size, utf8proc_option_t options, decomposed *d)
{
    for (size_t at = 0, length; at < size; at += length) {
        int boundary = 0;
        utf8proc_int32_t c = (utf8proc_int32_t)fs_utf8_decode(text + at, &length);
        if (!has_room(d)) return FS_NO_MEMORY;
        utf8proc_ssize_t n = utf8proc_decompose_char(c, d->chars + d->count, MAX_DECOMPOSED, options,
                                                     &boundary);
        if (n < 0 || n > MAX_DECOMPOSED) return FS_INTERNAL;
        d->count += (size_t)n;
    }
    return FS_OK;
}

static unsigned class_of(utf8proc_int32_t c)
{
    return utf8proc_get_property(c)->combining_class & (NUM_CLASSES - 1);
}

/* Stable sort of chars[begin..end) by combining class, by counting. */
static void sort_run(decomposed *d, size_t begin, size_t end)
{
    size_t start[NUM_CLASSES + 1] = {0};
    for (size_t i = begin; i < end; i++) start[class_of(d->chars[i]) + 1]++;
    for (unsigned c = 0; c < NUM_CLASSES; c++) start[c + 1] += start[c];
    for (size_t i = begin; i < end; i++) d->sorted[start[class_of(d->chars[i])]++] = d->chars[i];
    for (size_t i = begin; i < end; i++) d->chars[i] = d->sorted[i - begin];
}

/* The canonical order: marks between two characters of class 0 by rising class. */
static fs_status reorder(decomposed *d)
{
    size_t begin = 0;
    d->sorted = malloc(d->count * sizeof(*d->sorted) + 1);
    if (!d->sorted) return FS_NO_MEMORY;
    for (size_t i = 0; i <= d->count; i++) {
        if (i < d->count && class_of(d->chars[i]) != 0) continue;
        if (i - begin > 1) sort_run(d, begin, i);
        begin = i + 1;
    }
    return FS_OK;
}

static bool is_ascii(const char *text, size_t size)
{
    uint8_t any = 0;
    for (size_t i = 0; i < size; i++) any |= (uint8_t)text[i];
    return any < 0x80;
}

fs_status fs_normalize(fs_normal_form form, const char *text, size_t size, fs_buffer *out)
{
    static const int options[] = {
        [FS_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [FS_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [FS_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [FS_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    decomposed d = {0};
    if (is_ascii(text, size)) {
        fs_buffer_append(out, text, size);
        return out->failed ? FS_NO_MEMORY : FS_OK;
    }
    utf8proc_option_t with = (utf8proc_option_t)options[form];
    fs_status st = decompose(text, size, with, &d);
    if (st == FS_OK) st = reorder(&d);
    utf8proc_ssize_t n = (utf8proc_ssize_t)d.count;
    if (st == FS_OK && (with & UTF8PROC_COMPOSE)) n = utf8proc_normalize_utf32(d.chars, n, with);
    if (n < 0) st = FS_INTERNAL;
    for (utf8proc_ssize_t i = 0; i < n && st == FS_OK; i++) {
        utf8proc_uint8_t bytes[4];
        fs_buffer_append(out, bytes, (size_t)utf8proc_encode_char(d.chars[i], bytes));
    }
    free(d.chars);
    free(d.sorted);
    return st == FS_OK && out->failed ? FS_NO_MEMORY : st;
}
