/* common/base/conf_value.c: values as text: parsed, checked against their limits, and written back. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_int.h"
#include "base/clock.h"
#include "base/conf_int.h"

typedef struct {
    const char *name;
    uint64_t factor;
} unit;

/* The largest first, so that writing picks the largest that divides; of two names the first is written. */
static const unit byte_units[] = {{"TiB", 1ull << 40},
                                  {"GiB", 1ull << 30},
                                  {"MiB", 1ull << 20},
                                  {"KiB", 1ull << 10},
                                  {"T", 1ull << 40},
                                  {"G", 1ull << 30},
                                  {"M", 1ull << 20},
                                  {"K", 1ull << 10},
                                  {"", 1},
                                  {0}};
static const unit time_units[] = {{"h", 3600ull * FS_NS_PER_S},
                                  {"m", 60ull * FS_NS_PER_S},
                                  {"s", FS_NS_PER_S},
                                  {"ms", FS_NS_PER_MS},
                                  {"us", 1000},
                                  {"ns", 1},
                                  {0}};

static const unit *find_unit(const unit *units, const char *name)
{
    for (; units->name; units++)
        if (strcmp(units->name, name) == 0) return units;
    return NULL;
}

/* The digits at *text as a number; *text moves behind them. false: none, or more than 64 bits. */
static bool parse_digits(const char **text, uint64_t *out)
{
    const char *p = *text;
    uint64_t value = 0;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            return false;
    if (p == *text) return false;
    *text = p;
    *out = value;
    return true;
}

/* ".25" times factor, exact down to one part of the factor; false: no digit behind the point. */
static bool parse_fraction(const char **text, uint64_t factor, uint64_t *out)
{
    const char *p = *text + 1;
    uint64_t sum = 0;
    for (uint64_t scale = factor; *p >= '0' && *p <= '9'; p++) {
        uint64_t digit = (uint64_t)(*p - '0');
        if (digit && scale % 10 != 0) return false; /* finer than a nanosecond */
        scale /= 10;
        sum += digit * scale;
    }
    if (p == *text + 1) return false;
    *text = p;
    *out = sum;
    return true;
}

static fs_status check_limits(const fs_conf_option *option, const char *text, uint64_t value,
                              uint64_t type_max, fs_detail *detail)
{
    uint64_t max = option->max || option->min ? option->max : type_max;
    if (max > type_max) max = type_max;
    if (value >= option->min && value <= max) return FS_OK;
    fs_buffer limits = {0};
    uint64_t ends[2] = {option->min, max};
    for (int i = 0; i < 2; i++) {
        fs_buffer_printf(&limits, "%s", i ? " to " : "");
        uint32_t narrow = (uint32_t)ends[i];
        fs_conf_format_value(option, option->type == FS_CONF_U32 ? (void *)&narrow : (void *)&ends[i],
                             &limits);
    }
    fs_status st = fs_fail(detail, FS_INVALID, "'%.64s' is out of range (%.*s)", text, (int)limits.size,
                           limits.failed ? "" : (char *)limits.data);
    fs_buffer_free(&limits);
    return st;
}

static fs_status parse_u32(const fs_conf_option *option, const char *text, void *field, fs_detail *detail)
{
    uint64_t value = 0;
    const char *p = text;
    if (text[strspn(text, "0123456789")] != 0 || !*text)
        return fs_fail(detail, FS_INVALID, "'%.64s' is not a whole number", text);
    if (!parse_digits(&p, &value)) value = UINT64_MAX; /* too long: out of any range */
    fs_status st = check_limits(option, text, value, UINT32_MAX, detail);
    if (st == FS_OK) *(uint32_t *)field = (uint32_t)value;
    return st;
}

static fs_status parse_bytes(const fs_conf_option *option, const char *text, void *field, fs_detail *detail)
{
    const char *p = text;
    uint64_t value = 0;
    const unit *u = find_unit(byte_units, text + strspn(text, "0123456789"));
    if (!u || u->name == text) u = NULL;
    if (!u || *text < '0' || *text > '9')
        return fs_fail(detail, FS_INVALID, "'%.64s' is not a number of bytes (as 512, 64KiB, 8GiB)", text);
    if (!parse_digits(&p, &value) || __builtin_mul_overflow(value, u->factor, &value))
        return fs_fail(detail, FS_INVALID, "'%.64s' is out of range (more than 64 bits)", text);
    fs_status st = check_limits(option, text, value, UINT64_MAX, detail);
    if (st == FS_OK) *(uint64_t *)field = value;
    return st;
}

static fs_status parse_duration(const fs_conf_option *option, const char *text, void *field,
                                fs_detail *detail)
{
    const char *p = text;
    uint64_t value = 0, part = 0;
    const unit *u = find_unit(time_units, text + strspn(text, "0123456789."));
    if (strcmp(text, "0") == 0) u = &time_units[5]; /* nothing needs no unit */
    if (!u || *text < '0' || *text > '9')
        return fs_fail(detail, FS_INVALID, "'%.64s' is not a duration (as 250us, 10ms, 1.5s, 2m, 1h)", text);
    if (!parse_digits(&p, &value) || __builtin_mul_overflow(value, u->factor, &value))
        value = UINT64_MAX;
    else if (*p == '.' && !parse_fraction(&p, u->factor, &part))
        p = "!";
    else if (__builtin_add_overflow(value, part, &value))
        value = UINT64_MAX;
    if (value != UINT64_MAX && strcmp(text, "0") != 0 && strcmp(p, u->name) != 0)
        return fs_fail(detail, FS_INVALID, "'%.64s' is not a duration of whole nanoseconds", text);
    fs_status st = check_limits(option, text, value, INT64_MAX, detail);
    if (st == FS_OK) *(int64_t *)field = (int64_t)value;
    return st;
}

static fs_status parse_float(const fs_conf_option *option, const char *text, void *field, fs_detail *detail)
{
    char *end;
    bool plain = *text && text[strspn(text, "0123456789+-.eE")] == 0; /* no nan, inf, hexadecimal, spaces */
    double value = plain ? strtod(text, &end) : NAN;
    if (!plain || *end || end == text) return fs_fail(detail, FS_INVALID, "'%.64s' is not a number", text);
    if (!isfinite(value)) return fs_fail(detail, FS_INVALID, "'%.64s' is out of range (not finite)", text);
    bool limited = option->fmin != 0 || option->fmax != 0;
    if (limited && !(value >= option->fmin && value <= option->fmax))
        return fs_fail(detail, FS_INVALID, "'%.64s' is out of range (%g to %g)", text, option->fmin,
                       option->fmax);
    *(double *)field = value;
    return FS_OK;
}

static fs_status parse_bool(const fs_conf_option *option, const char *text, void *field, fs_detail *detail)
{
    static const char *const words[2][3] = {{"false", "no", "off"}, {"true", "yes", "on"}};
    for (int value = 0; value < 2; value++)
        for (int i = 0; i < 3; i++)
            if (strcmp(text, words[value][i]) == 0) {
                *(bool *)field = value;
                return FS_OK;
            }
    return fs_fail(detail, FS_INVALID, "'%.64s' is not true or false", text);
}

static fs_status parse_enum(const fs_conf_option *option, const char *text, void *field, fs_detail *detail)
{
    size_t len = strlen(text);
    uint32_t index = 0;
    for (const char *p = option->words; *p; index++) {
        size_t n = strcspn(p, "|");
        if (n == len && memcmp(p, text, n) == 0) {
            *(uint32_t *)field = index;
            return FS_OK;
        }
        p += n;
        p += *p == '|';
    }
    return fs_fail(detail, FS_INVALID, "'%.64s' is not one of %s", text, option->words);
}

fs_status fs_conf_parse_value(const fs_conf_option *option, const char *text, void *field, fs_detail *detail)
{
    switch (option->type) {
    case FS_CONF_BOOL: return parse_bool(option, text, field, detail);
    case FS_CONF_U32: return parse_u32(option, text, field, detail);
    case FS_CONF_BYTES: return parse_bytes(option, text, field, detail);
    case FS_CONF_DURATION: return parse_duration(option, text, field, detail);
    case FS_CONF_FLOAT: return parse_float(option, text, field, detail);
    case FS_CONF_ENUM: return parse_enum(option, text, field, detail);
    case FS_CONF_STRING: *(const char **)field = text; return FS_OK;
    }
    return fs_fail(detail, FS_INTERNAL, "option '%s' has no known type", option->name);
}

static void format_with_unit(const unit *units, uint64_t value, fs_buffer *out)
{
    const unit *u = units;
    while (value % u->factor != 0) u++; /* ends at the unit of one */
    if (value == 0)
        while (u->factor != 1) u++;
    fs_buffer_printf(out, "%" PRIu64 "%s", value / u->factor, u->name);
}

static void format_float(double value, fs_buffer *out)
{
    char text[32];
    for (int digits = 6; digits <= 17; digits++) { /* the shortest that reads back as the same */
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    fs_buffer_printf(out, "%s", text);
}

/* As YAML's double-quoted strings, which hold any text: what YAML does not take as it is, or folds as the end of a line,
 * is escaped. Bytes that are not UTF-8 cannot be written in YAML at all. */
static void format_string(const char *text, fs_buffer *out)
{
    fs_buffer_append_u8(out, '"');
    for (const char *p = text; *p;) {
        uint32_t point = 0xfffd;
        size_t size = fs_utf8_decode(p, &point);
        bool control = point < 0x20 || (point >= 0x7f && point < 0xa0) || point == 0x2028 || point == 0x2029;
        if (size == 0 || control || point == 0xfeff || point == 0xfffe || point == 0xffff)
            fs_buffer_printf(out, "\\u%04x", point);
        else if (point == '"' || point == '\\')
            fs_buffer_printf(out, "\\%c", (int)point);
        else
            fs_buffer_append(out, p, size);
        p += size ? size : 1;
    }
    fs_buffer_append_u8(out, '"');
}

static void format_enum(const char *words, uint32_t index, fs_buffer *out)
{
    for (; index > 0 && *words; index--) {
        words += strcspn(words, "|");
        words += *words == '|';
    }
    fs_buffer_append(out, words, strcspn(words, "|"));
}

void fs_conf_format_value(const fs_conf_option *option, const void *field, fs_buffer *out)
{
    switch (option->type) {
    case FS_CONF_BOOL: fs_buffer_printf(out, "%s", *(const bool *)field ? "true" : "false"); break;
    case FS_CONF_U32: fs_buffer_printf(out, "%" PRIu32, *(const uint32_t *)field); break;
    case FS_CONF_BYTES: format_with_unit(byte_units, *(const uint64_t *)field, out); break;
    case FS_CONF_DURATION: format_with_unit(time_units, (uint64_t) * (const int64_t *)field, out); break;
    case FS_CONF_FLOAT: format_float(*(const double *)field, out); break;
    case FS_CONF_ENUM: format_enum(option->words, *(const uint32_t *)field, out); break;
    case FS_CONF_STRING: format_string(*(const char *const *)field, out); break;
    }
}
