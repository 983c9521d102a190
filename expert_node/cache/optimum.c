/* expert_node/cache/optimum.c: Belady's optimum, with a heap of what is in memory by its next use. */
#include "cache/optimum.h"

#include <stdlib.h>

#define NOWHERE UINT32_MAX
#define NEVER   SIZE_MAX

typedef struct {
    const uint64_t *key_bytes;
    size_t *next;      /* [num_accesses] the next access of the same key */
    size_t *next_use;  /* [num_keys] of what is in memory; before that, the access seen last */
    uint32_t *heap_at; /* [num_keys] NOWHERE: not in memory */
    uint32_t *heap;    /* the furthest first */
    uint32_t size;
    uint64_t bytes;
} state;

static void put(state *s, uint32_t at, uint32_t key)
{
    s->heap[at] = key;
    s->heap_at[key] = at;
}

static void sift_up(state *s, uint32_t at)
{
    uint32_t key = s->heap[at];
    for (; at > 0 && s->next_use[s->heap[(at - 1) / 2]] < s->next_use[key]; at = (at - 1) / 2)
        put(s, at, s->heap[(at - 1) / 2]);
    put(s, at, key);
}

static void sift_down(state *s, uint32_t at)
{
    uint32_t key = s->heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= s->size) break;
        if (child + 1 < s->size && s->next_use[s->heap[child + 1]] > s->next_use[s->heap[child]]) child++;
        if (s->next_use[s->heap[child]] <= s->next_use[key]) break;
        put(s, at, s->heap[child]);
        at = child;
    }
    put(s, at, key);
}

static void pop(state *s)
{
    uint32_t key = s->heap[0], last = s->heap[--s->size];
    s->bytes -= s->key_bytes[key];
    s->heap_at[key] = NOWHERE;
    if (last == key) return;
    put(s, 0, last);
    sift_down(s, 0);
}

static void find_next_uses(state *s, const uint32_t *access, size_t num_accesses, uint32_t num_keys)
{
    for (uint32_t k = 0; k < num_keys; k++) {
        s->next_use[k] = NEVER;
        s->heap_at[k] = NOWHERE;
    }
    for (size_t i = num_accesses; i-- > 0;) {
        s->next[i] = s->next_use[access[i]];
        s->next_use[access[i]] = i;
    }
}

static void run(state *s, const uint32_t *access, size_t num_accesses, uint64_t budget_bytes,
                fs_cache_optimum *out)
{
    for (size_t i = 0; i < num_accesses; i++) {
        uint32_t key = access[i];
        s->next_use[key] = s->next[i];
        if (s->heap_at[key] != NOWHERE) {
            out->hits++;
            sift_up(s, s->heap_at[key]); /* its next use can only have become later */
            continue;
        }
        while (budget_bytes - s->bytes < s->key_bytes[key]) pop(s);
        out->misses++;
        out->loaded_bytes += s->key_bytes[key];
        s->bytes += s->key_bytes[key];
        s->heap[s->size] = key;
        sift_up(s, s->size++);
    }
}

fs_status fs_cache_optimum_run(const uint32_t *access, size_t num_accesses, const uint64_t *key_bytes,
                               uint32_t num_keys, uint64_t budget_bytes, fs_cache_optimum *out)
{
    for (size_t i = 0; i < num_accesses; i++)
        if (access[i] >= num_keys || key_bytes[access[i]] > budget_bytes) return FS_INVALID;
    fs_cache_optimum result = {0};
    state s = {.key_bytes = key_bytes,
               .next = calloc(num_accesses + 1, sizeof(*s.next)),
               .next_use = calloc(num_keys, sizeof(*s.next_use)),
               .heap_at = calloc(num_keys, sizeof(*s.heap_at)),
               .heap = calloc(num_keys, sizeof(*s.heap))};
    bool ok = s.next && s.next_use && s.heap_at && s.heap;
    if (ok) {
        find_next_uses(&s, access, num_accesses, num_keys);
        run(&s, access, num_accesses, budget_bytes, &result);
        *out = result;
    }
    free(s.next);
    free(s.next_use);
    free(s.heap_at);
    free(s.heap);
    return ok ? FS_OK : FS_NO_MEMORY;
}
