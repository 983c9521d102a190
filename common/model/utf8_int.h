/* common/model/utf8_int.h: UTF-8, one character at a time. */
#ifndef FS_MODEL_UTF8_INT_H
#define FS_MODEL_UTF8_INT_H

#include "base/status.h"

/* How many of bytes[0..size) are the beginning of a well-formed character: *length is that character's
 * full length. 0: the first byte begins none. Unicode 15, table 3-7: no surrogates, nothing overlong,
 * nothing above U+10FFFF. */
static inline size_t fs_utf8_prefix(const uint8_t *bytes, size_t size, size_t *length)
{
    uint8_t lead = bytes[0], low = 0x80, high = 0xbf;
    size_t n = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    *length = n;
    if (n < 2 || size < 2) return n ? 1 : 0;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
    if (bytes[1] < low || bytes[1] > high) return 1;
    size_t i = 2;
    while (i < n && i < size && (bytes[i] & 0xc0) == 0x80) i++;
    return i;
}

/* The length of the character at text[0]; 0 if it is not well-formed. */
static inline size_t fs_utf8_length(const char *text, size_t size)
{
    size_t length;
    return fs_utf8_prefix((const uint8_t *)text, size, &length) == length ? length : 0;
}

/* The character at text[0], which is known to be well-formed; *length receives its length. */
static inline uint32_t fs_utf8_decode(const char *text, size_t *length)
{
    const uint8_t *b = (const uint8_t *)text;
    *length = b[0] < 0x80 ? 1 : b[0] < 0xe0 ? 2 : b[0] < 0xf0 ? 3 : 4;
    uint32_t c = *length == 1 ? b[0] : b[0] & (0x7fu >> *length);
    for (size_t i = 1; i < *length; i++) c = c << 6 | (b[i] & 0x3fu);
    return c;
}

/* Where the character that ends before text[at] begins. text is well-formed and at > 0. */
static inline size_t fs_utf8_before(const char *text, size_t at)
{
    do at--;
    while (at > 0 && ((uint8_t)text[at] & 0xc0) == 0x80);
    return at;
}

#endif
