/* tests/fuzz/base_log_fuzz.c: a log value of any bytes comes out as one JSON string on one line, without control characters. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/log_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fs_buffer text = {0}, line = {0};
    fs_buffer_append(&text, data, size);
    fs_buffer_append_u8(&text, 0); /* values are C strings */
    fs_buffer_append_u8(&line, '"');
    for (const char *p = (const char *)text.data; *p;) {
        char piece[16];
        size_t used, n = fs_log_escape(p, piece, &used);
        if (n == 0 || n > sizeof piece || used == 0) abort();
        fs_buffer_append(&line, piece, n);
        p += used;
    }
    fs_buffer_append_u8(&line, '"');
    for (size_t i = 0; i < line.size; i++)
        if (line.data[i] < ' ' || line.data[i] == 0x7f) abort();
    if (fs_log_is_bare((const char *)text.data) && (line.size - 2 != strlen((const char *)text.data)))
        abort();
    json_t *value = json_loadb((const char *)line.data, line.size, JSON_DECODE_ANY, NULL);
    if (!value) abort();
    json_decref(value);
    fs_buffer_free(&text);
    fs_buffer_free(&line);
    return 0;
}
