/* common/model/string_table.h: byte strings to numbers, for tensor names and vocabularies of any size. */
#ifndef FS_MODEL_STRING_TABLE_H
#define FS_MODEL_STRING_TABLE_H

#include "base/status.h"

/* Open addressing over xxh3, at most half full; the strings are borrowed and must outlive it. Zero is
 * empty. Thread: one while it grows, then any. */
typedef struct {
    const char *key;
    uint32_t size, value;
} fs_string_slot;
typedef struct {
    fs_string_slot *slots; /* [capacity]; a free slot's key is NULL */
    size_t capacity, count;
} fs_string_table;

/* FS_INVALID: the key is there already. FS_NO_MEMORY (also for keys of 4 GiB and more). */
FS_MUST_USE fs_status fs_string_table_add(fs_string_table *table, const char *key, size_t size,
                                          uint32_t value);
/* False: not there. */
bool fs_string_table_find(const fs_string_table *table, const char *key, size_t size, uint32_t *value);
void fs_string_table_free(fs_string_table *table);

#endif
