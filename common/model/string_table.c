#include "model/string_table.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* The key's slot, or the free one where it would go. The table is never full, so this ends. */
static fs_string_slot *slot_of(const fs_string_table *table, const char *key, size_t size)
{
    size_t mask = table->capacity - 1, at = XXH3_64bits(key, size) & mask;
    for (;; at = (at + 1) & mask) {
        fs_string_slot *slot = &table->slots[at];
        if (!slot->key || (slot->size == size && memcmp(slot->key, key, size) == 0)) return slot;
    }
}

static fs_status grow(fs_string_table *table)
{
    fs_string_table bigger = {.capacity = table->capacity ? table->capacity * 2 : 64, .count = table->count};
    bigger.slots = calloc(bigger.capacity, sizeof(*bigger.slots));
    if (!bigger.slots) return FS_NO_MEMORY;
    for (size_t i = 0; i < table->capacity; i++) {
        const fs_string_slot *old = &table->slots[i];
        if (old->key) *slot_of(&bigger, old->key, old->size) = *old;
    }
    free(table->slots);
    *table = bigger;
    return FS_OK;
}

fs_status fs_string_table_add(fs_string_table *table, const char *key, size_t size, uint32_t value)
{
    if (size > UINT32_MAX) return FS_NO_MEMORY;
    if (2 * (table->count + 1) > table->capacity && grow(table) != FS_OK) return FS_NO_MEMORY;
    fs_string_slot *slot = slot_of(table, key, size);
    if (slot->key) return FS_INVALID;
    *slot = (fs_string_slot){key, (uint32_t)size, value};
    table->count++;
    return FS_OK;
}

bool fs_string_table_find(const fs_string_table *table, const char *key, size_t size, uint32_t *value)
{
    if (table->count == 0) return false;
    const fs_string_slot *slot = slot_of(table, key, size);
    if (slot->key) *value = slot->value;
    return slot->key != NULL;
}

void fs_string_table_free(fs_string_table *table)
{
    free(table->slots);
    *table = (fs_string_table){0};
}
