/* coordinator/kv/kv.h: the embedded store of one coordinator: keys and blobs in an SQLite file, written all or none, each with a checksum.
 * It is for the small, slow state of a cluster. Thread: one at a time. */
#ifndef FS_KV_KV_H
#define FS_KV_KV_H

#include "base/buffer.h"
#include "base/status.h"

typedef struct fs_kv fs_kv;

enum { FS_KV_MAX_KEY = 255, FS_KV_MAX_VALUE = 64 << 20 };

/* Opens or makes the file and locks it for this process; ":memory:" is a store that ends with the process. FS_UNAVAILABLE: another process
 * has it; FS_CORRUPT: not a store of ours, or damaged; FS_UNSUPPORTED: of a later version; FS_IO: it cannot be opened. The detail names the
 * path. */
FS_MUST_USE fs_status fs_kv_open(const char *path, fs_kv **out, fs_detail *detail);
void fs_kv_close(fs_kv *kv); /* NULL is allowed */

/* Appends the value to out. FS_NOT_FOUND; FS_CORRUPT: its checksum is wrong; FS_IO; FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_kv_get(fs_kv *kv, const char *key, fs_buffer *out, fs_detail *detail);

typedef struct {
    const char *key;
    const uint8_t *value; /* NULL: the key is deleted */
    size_t size;
} fs_kv_put;
/* All of them or none, on disk when it returns. FS_IO: not written (disk full, ...); FS_INVALID: a key or value is too long. */
FS_MUST_USE fs_status fs_kv_write(fs_kv *kv, const fs_kv_put *puts, uint32_t num_puts, fs_detail *detail);

#endif
