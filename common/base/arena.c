/* common/base/arena.c: blocks in a chain, handed out from the front, kept over a reset. */
#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, DEFAULT_BLOCK_BYTES = 64 * 1024 };

struct fs_arena_block {
    fs_arena_block *next;
    size_t capacity, used; /* of the bytes behind the header; multiples of ALIGN */
};

/* The header takes a whole unit of alignment, so that what follows it is aligned. */
_Static_assert(sizeof(fs_arena_block) <= ALIGN, "a block's header fits its unit");

static bool round_up(size_t bytes, size_t *out)
{
    if (bytes == 0) bytes = 1;
    if (!fs_add_size(bytes, ALIGN - 1, &bytes)) return false;
    *out = bytes & ~(size_t)(ALIGN - 1);
    return true;
}

static void *take(fs_arena_block *block, size_t bytes)
{
    void *p = (char *)block + ALIGN + block->used;
    block->used += bytes;
    return p;
}

/* Large blocks come in few sizes (at most eight an octave): rounds of many different sizes then share their blocks after a while, instead
 * of each size keeping its own. */
static bool size_class(size_t bytes, size_t *out)
{
    size_t step = ALIGN;
    while (step < bytes / 8) step *= 2;
    if (!fs_add_size(bytes, step - 1, &bytes)) return false;
    *out = bytes & ~(step - 1);
    return true;
}

/* Puts a new block of at least bytes behind the current one. */
static fs_arena_block *add_block(fs_arena *arena, size_t bytes)
{
    size_t capacity, total, all;
    if (!round_up(arena->block_bytes ? arena->block_bytes : DEFAULT_BLOCK_BYTES, &capacity)) return NULL;
    if (capacity < bytes && !size_class(bytes, &capacity)) return NULL;
    if (!fs_add_size(capacity, ALIGN, &total)) return NULL;
    if (!fs_add_size(arena->total_bytes, total, &all)) return NULL;
    if (arena->limit_bytes && all > arena->limit_bytes) return NULL;
    fs_arena_block *block = fs_alloc_aligned(total);
    if (!block) return NULL;
    fs_arena_block **link = arena->current ? &arena->current->next : &arena->first;
    *block = (fs_arena_block){.next = *link, .capacity = capacity};
    *link = block;
    arena->total_bytes = all;
    return block;
}

/* Of the blocks kept from before a reset, the smallest that fits, moved behind the current one; NULL: none fits. The others
 * stay in the chain for later: a new block is made only where all that are left are too small. */
static fs_arena_block *reuse_block(fs_arena *arena, size_t bytes)
{
    fs_arena_block **behind = arena->current ? &arena->current->next : &arena->first, **best = NULL;
    for (fs_arena_block **link = behind; *link; link = &(*link)->next)
        if ((*link)->capacity >= bytes && (!best || (*link)->capacity < (*best)->capacity)) best = link;
    if (!best) return NULL;
    fs_arena_block *block = *best;
    *best = block->next;
    block->next = *behind;
    *behind = block;
    block->used = 0;
    return block;
}

void *fs_arena_alloc(fs_arena *arena, size_t bytes)
{
    if (!round_up(bytes, &bytes)) return NULL;
    fs_arena_block *block = arena->current;
    if (block && block->capacity - block->used >= bytes) return take(block, bytes);
    block = reuse_block(arena, bytes);
    if (!block) block = add_block(arena, bytes);
    if (!block) return NULL;
    arena->current = block;
    return take(block, bytes);
}

void *fs_arena_calloc(fs_arena *arena, size_t count, size_t bytes)
{
    size_t total;
    if (!fs_mul_size(count, bytes, &total)) return NULL;
    void *p = fs_arena_alloc(arena, total);
    if (p) memset(p, 0, total);
    return p;
}

char *fs_arena_strndup(fs_arena *arena, const char *text, size_t len)
{
    size_t total;
    if (!fs_add_size(len, 1, &total)) return NULL;
    char *copy = fs_arena_alloc(arena, total);
    if (!copy) return NULL;
    if (len) memcpy(copy, text, len);
    copy[len] = 0;
    return copy;
}

void fs_arena_reset(fs_arena *arena)
{
    arena->current = NULL; /* each block's `used` is cleared when it is reached again */
}

void fs_arena_fini(fs_arena *arena)
{
    for (fs_arena_block *block = arena->first, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    arena->first = arena->current = NULL;
    arena->total_bytes = 0;
}

void *fs_alloc_aligned(size_t bytes)
{
    if (!round_up(bytes, &bytes)) return NULL;
    return aligned_alloc(ALIGN, bytes);
}
