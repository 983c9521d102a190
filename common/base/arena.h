/* common/base/arena.h: memory that dies together: a process's, a sequence's, a step's. */
#ifndef FS_BASE_ARENA_H
#define FS_BASE_ARENA_H

#include "base/status.h"

/* A chain of blocks handed out from the front; zero-initialised is a valid empty arena with 64 KiB blocks. Thread: one. */
typedef struct fs_arena_block fs_arena_block;
typedef struct {
    fs_arena_block *first, *current;
    size_t block_bytes; /* 0: 64 KiB */
    size_t limit_bytes; /* total that may be taken from the heap; 0: no limit */
    size_t total_bytes; /* taken from the heap so far */
} fs_arena;

/* Uninitialised memory, aligned to 64 bytes (every vector load is aligned); NULL if the heap or the limit says no.
 * bytes 0 gives a valid pointer. */
void *fs_arena_alloc(fs_arena *arena, size_t bytes);
/* count * bytes zeroed; NULL also if the product overflows. */
void *fs_arena_calloc(fs_arena *arena, size_t count, size_t bytes);
/* A terminated copy of text[0..len). */
char *fs_arena_strndup(fs_arena *arena, const char *text, size_t len);
/* Everything handed out is gone; the blocks are kept for the next use (a step). */
void fs_arena_reset(fs_arena *arena);
/* Everything back to the heap; the arena is empty and may be used again. */
void fs_arena_fini(fs_arena *arena);

/* Heap memory aligned to 64 bytes, for what lives as long as its owner. NULL if there is none. Freed with free(). */
void *fs_alloc_aligned(size_t bytes);

#endif
