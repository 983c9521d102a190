/* common/base/log_int.h: how a log line's fields are taken apart, formatted and escaped (log_format.c). */
#ifndef FS_BASE_LOG_INT_H
#define FS_BASE_LOG_INT_H

#include "base/status.h"

/* A va_list that can be handed on by address, whatever type it is. */
typedef struct {
    va_list list;
} fs_log_args;

/* A field of a format: key="value", with the quotes taken off the value; borrowed from the format. */
typedef struct {
    const char *key, *value;
    size_t key_size, value_size;
} fs_log_field;

/* The next field of *fmt, which moves behind it; false at the end. A word without '=' is the value of the key "note". */
bool fs_log_next_field(const char **fmt, fs_log_field *out);

/* Formats a field's value (a format of value_size bytes) with the arguments it needs, cut to out_size - 1 bytes.
 * Returns whether the value is one number that JSON can hold as it is. */
bool fs_log_format_value(const char *value, size_t value_size, fs_log_args *args, char *out, size_t out_size);

/* Escapes the character at text (not the terminator) into out, unterminated: returns the bytes written, *used those read.
 * Control characters, line separators, quotes and bytes that are not UTF-8 never come through as they are. */
size_t fs_log_escape(const char *text, char out[16], size_t *used);

/* Whether logfmt can hold the value without quotes. */
bool fs_log_is_bare(const char *value);

#endif
