/* router/engine/stop.h: stop strings over text that comes in pieces: what is certain goes out, what may be the beginning of a stop string
 * is held back, nothing of a stop string is ever shown. */
#ifndef FS_ENGINE_STOP_H
#define FS_ENGINE_STOP_H

#include "base/buffer.h"

#define FS_MAX_STOPS      16u
#define FS_MAX_STOP_BYTES 256u

typedef struct {
    uint32_t num_stops;
    const char *stop[FS_MAX_STOPS]; /* borrowed, non-empty UTF-8 */
    size_t stop_bytes[FS_MAX_STOPS];
    fs_buffer held; /* owned */
    int matched;    /* index of the stop string found, or -1 */
} fs_stop;

void fs_stop_init(fs_stop *stop, const char *const *strings, const size_t *bytes, uint32_t num);
void fs_stop_fini(fs_stop *stop);
/* Takes more text; appends to out what is certain. Returns true if a stop string is complete: out ends before the earliest one (of those that
 * begin at the same place the longest), and nothing more may be fed. */
bool fs_stop_feed(fs_stop *stop, const char *text, size_t size, fs_buffer *out);
/* The text ends without a stop string: what was held goes out. */
void fs_stop_flush(fs_stop *stop, fs_buffer *out);

#endif
