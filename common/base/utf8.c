/* common/base/utf8.c: one character of text whose encoding nobody has checked. */
#include "base/base_int.h"

size_t fs_utf8_decode(const char *at, uint32_t *out)
{
    const unsigned char *text = (const unsigned char *)at;
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t size = text[0] < 0x80 ? 1 : (text[0] & 0xe0) == 0xc0 ? 2 : (text[0] & 0xf0) == 0xe0 ? 3 : 4;
    if (size == 4 && (text[0] & 0xf8) != 0xf0) return 0;
    uint32_t point = size == 1 ? text[0] : text[0] & (0xffu >> (size + 1));
    for (size_t i = 1; i < size; i++) { /* the terminator is no continuation: this never reads past it */
        if ((text[i] & 0xc0) != 0x80) return 0;
        point = point << 6 | (text[i] & 0x3fu);
    }
    if (point < least[size] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return 0;
    *out = point;
    return size;
}
