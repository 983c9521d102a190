/* router/engine/stop.c: stop strings over streamed text. */
#include "engine/stop.h"

#include <string.h>

void fs_stop_init(fs_stop *stop, const char *const *strings, const size_t *bytes, uint32_t num)
{
    FS_ASSERT(num <= FS_MAX_STOPS);
    *stop = (fs_stop){.num_stops = num, .matched = -1};
    for (uint32_t i = 0; i < num; i++) {
        FS_ASSERT(bytes[i] > 0 && bytes[i] <= FS_MAX_STOP_BYTES);
        stop->stop[i] = strings[i];
        stop->stop_bytes[i] = bytes[i];
    }
}

void fs_stop_fini(fs_stop *stop)
{
    fs_buffer_free(&stop->held);
}

/* The longest stop string that begins at text, or -1. */
static int longest_at(const fs_stop *stop, const uint8_t *text, size_t size)
{
    int best = -1;
    for (uint32_t i = 0; i < stop->num_stops; i++) {
        size_t bytes = stop->stop_bytes[i];
        if (bytes > size || memcmp(text, stop->stop[i], bytes) != 0) continue;
        if (best < 0 || bytes > stop->stop_bytes[best]) best = (int)i;
    }
    return best;
}

/* Whether text[0..size) may be the beginning of a stop string. */
static bool may_begin(const fs_stop *stop, const uint8_t *text, size_t size)
{
    for (uint32_t i = 0; i < stop->num_stops; i++)
        if (size < stop->stop_bytes[i] && memcmp(text, stop->stop[i], size) == 0) return true;
    return false;
}

/* Where the earliest stop string begins (matched is set), or else where the part begins that must be held back. */
static size_t find_end(fs_stop *stop)
{
    const uint8_t *text = stop->held.data;
    size_t size = stop->held.size, end = size;
    for (size_t i = 0; i < size; i++) {
        stop->matched = longest_at(stop, text + i, size - i);
        if (stop->matched >= 0) return i;
        if (end == size && size - i < FS_MAX_STOP_BYTES && may_begin(stop, text + i, size - i)) end = i;
    }
    return end;
}

bool fs_stop_feed(fs_stop *stop, const char *text, size_t size, fs_buffer *out)
{
    FS_ASSERT(stop->matched < 0);
    if (stop->num_stops == 0) {
        fs_buffer_append(out, text, size);
        return false;
    }
    fs_buffer *held = &stop->held;
    fs_buffer_append(held, text, size);
    if (held->failed) { /* text is lost: whoever checks the output must know */
        out->failed = true;
        return false;
    }
    size_t end = find_end(stop);
    fs_buffer_append(out, held->data, end);
    if (stop->matched >= 0) {
        held->size = 0; /* nothing of a stop string is shown, nor what is behind it */
        return true;
    }
    held->size -= end;
    if (end > 0 && held->size > 0) memmove(held->data, held->data + end, held->size);
    return false;
}

void fs_stop_flush(fs_stop *stop, fs_buffer *out)
{
    fs_buffer_append(out, stop->held.data, stop->held.size);
    stop->held.size = 0;
}
