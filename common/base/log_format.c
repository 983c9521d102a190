/* common/base/log_format.c: the fields of a log format, their values, and the escaping of what they hold. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/base_int.h"
#include "base/log_int.h"

bool fs_log_next_field(const char **fmt, fs_log_field *out)
{
    const char *p = *fmt + strspn(*fmt, " ");
    if (!*p) return false;
    size_t key_size = strcspn(p, "= \"");
    *out = (fs_log_field){.key = "note", .key_size = 4};
    if (p[key_size] == '=') {
        out->key = p;
        out->key_size = key_size;
        p += key_size + 1;
    }
    if (*p == '"') {
        p++;
        out->value = p;
        out->value_size = strcspn(p, "\"");
        p += out->value_size;
        if (*p) p++;
    } else {
        out->value = p;
        out->value_size = strcspn(p, " ");
        p += out->value_size;
    }
    *fmt = p;
    return true;
}

/* One conversion of a format: "%-8.3lu" */
typedef struct {
    char text[32]; /* as the format has it, terminated */
    size_t size;   /* its bytes in the format */
    char kind;     /* 'd', 's', ...; 0: not one that we know */
    char length;   /* 0, 'h', 'H' (hh), 'l', 'q' (ll), 'j', 'z', 't', 'L' */
    int num_stars; /* '*' widths and precisions, each an int argument */
} conversion;

static conversion parse_conversion(const char *fmt, size_t left)
{
    conversion c = {.size = 1};
    while (c.size < left && strchr("-+ #0'123456789.*", fmt[c.size])) c.num_stars += fmt[c.size++] == '*';
    while (c.size < left && strchr("hlqjztL", fmt[c.size])) {
        char l = fmt[c.size++];
        if (l == c.length)
            c.length = l == 'h' ? 'H' : 'q';
        else
            c.length = l;
    }
    if (c.size < left) c.kind = fmt[c.size++];
    if (c.size >= sizeof c.text || c.num_stars > 2) c.kind = 0;
    if (c.kind) memcpy(c.text, fmt, c.size);
    return c;
}

#define PRINT(value)                                                                                         \
    (c->num_stars == 0   ? snprintf(out, size, c->text, value)                                               \
     : c->num_stars == 1 ? snprintf(out, size, c->text, star[0], value)                                      \
                         : snprintf(out, size, c->text, star[0], star[1], value))

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* the compiler checked the whole format at the call */

static int print_integer(const conversion *c, const int *star, fs_log_args *args, char *out, size_t size)
{
    switch (c->length) {
    case 'l': return PRINT(va_arg(args->list, long));
    case 'q': return PRINT(va_arg(args->list, long long));
    case 'j': return PRINT(va_arg(args->list, intmax_t));
    case 'z': return PRINT(va_arg(args->list, size_t));
    case 't': return PRINT(va_arg(args->list, ptrdiff_t));
    default: return PRINT(va_arg(args->list, int));
    }
}

/* Formats one conversion with its arguments. Returns the bytes it needed, or -1 for one that is not known. */
static int print_conversion(const conversion *c, fs_log_args *args, char *out, size_t size)
{
    int star[2] = {0, 0};
    for (int i = 0; i < c->num_stars && i < 2; i++) star[i] = va_arg(args->list, int);
    switch (c->kind) {
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
    case 'c': return print_integer(c, star, args, out, size);
    case 'f':
    case 'F':
    case 'e':
    case 'E':
    case 'g':
    case 'G':
    case 'a':
    case 'A':
        if (c->length == 'L') return PRINT(va_arg(args->list, long double));
        return PRINT(va_arg(args->list, double));
    case 'p': return PRINT(va_arg(args->list, void *));
    case 's': {
        const char *text = va_arg(args->list, const char *);
        if (!text) text = "(null)";
        return PRINT(text);
    }
    case '%': return snprintf(out, size, "%%");
    default: return -1;
    }
}
#pragma GCC diagnostic pop

/* What a number conversion printed may still be "inf", "0x1f" or " 7", which JSON does not know. */
static bool is_json_number(const char *text)
{
    const char *p = text + (*text == '-');
    size_t digits = strspn(p, "0123456789");
    if (digits == 0 || (digits > 1 && *p == '0')) return false;
    p += digits;
    if (*p == '.') {
        digits = strspn(p + 1, "0123456789");
        if (digits == 0) return false;
        p += 1 + digits;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        p += *p == '+' || *p == '-';
        digits = strspn(p, "0123456789");
        if (digits == 0) return false;
        p += digits;
    }
    return *p == 0;
}

bool fs_log_format_value(const char *value, size_t value_size, fs_log_args *args, char *out, size_t out_size)
{
    size_t size = 0;
    char kind = 0;
    out[0] = 0;
    for (size_t i = 0; i < value_size;) {
        size_t left = out_size - size;
        if (value[i] != '%') {
            if (left > 1) out[size++] = value[i];
            out[size] = 0;
            i++;
            continue;
        }
        conversion c = parse_conversion(value + i, value_size - i);
        int n = print_conversion(&c, args, out + size, left);
        if (n < 0) { /* without its type the arguments behind it are lost as well */
            snprintf(out + size, left, "?");
            return false;
        }
        size += (size_t)n < left ? (size_t)n : left - 1;
        kind = c.kind;
        i += c.size;
    }
    return kind && strchr("diufFeEgG", kind) && is_json_number(out);
}

size_t fs_log_escape(const char *text, char out[16], size_t *used)
{
    uint32_t point = 0xfffd;
    size_t size = fs_utf8_decode(text, &point);
    *used = size ? size : 1;
    static const char plain[] = "\"\\\n\r\t", letter[] = "\"\\nrt";
    const char *found = point && point < 0x80 ? strchr(plain, (int)point) : NULL;
    if (found) {
        out[0] = '\\';
        out[1] = letter[found - plain];
        return 2;
    }
    /* C0 and C1 drive terminals; U+2028 and U+2029 end lines for some readers. */
    bool control = point < 0x20 || (point >= 0x7f && point < 0xa0) || point == 0x2028 || point == 0x2029;
    if (control || size == 0) return (size_t)snprintf(out, 16, "\\u%04x", point);
    memcpy(out, text, size);
    return size;
}

bool fs_log_is_bare(const char *value)
{
    if (!*value) return false;
    for (const unsigned char *p = (const unsigned char *)value; *p; p++)
        if (*p <= ' ' || *p == '"' || *p == '=' || *p == '\\' || *p >= 0x7f) return false;
    return true;
}
