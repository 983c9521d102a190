/* common/backbone/kv.h: the KV cache in pages, and its accounting. */
#ifndef FS_BACKBONE_KV_H
#define FS_BACKBONE_KV_H

#include "base/status.h"

#define FS_KV_PAGE_TOKENS 16u   /* divides FS_ATTENTION_SPLIT */
#define FS_ATTENTION_SPLIT 256u /* keys a part: long contexts are summed part by part, in order (docs/design.md) */

/* What is stored a token: for each layer, k and v [num_kv_heads][head_dim] float32. */
typedef struct {
    uint32_t num_layers, num_kv_heads, head_dim;
} fs_kv_shape;

/* A fixed number of pages, taken at creation. A page holds FS_KV_PAGE_TOKENS tokens of every layer:
 *   [num_layers][2 (k, v)][num_kv_heads][FS_KV_PAGE_TOKENS][head_dim] float32
 * Thread: acquire and release: loop; the pages' bytes: whoever computes with the sequence. */
typedef struct fs_kv_pool fs_kv_pool;

FS_MUST_USE fs_status fs_kv_pool_create(fs_kv_shape shape, uint32_t num_pages, fs_kv_pool **out);
void fs_kv_pool_destroy(fs_kv_pool *pool);
size_t fs_kv_page_bytes(fs_kv_shape shape); /* 0 if the product overflows */
uint32_t fs_kv_pool_num_pages(const fs_kv_pool *pool);
uint32_t fs_kv_pool_num_free(const fs_kv_pool *pool);
/* Appends n page numbers to pages; all or none. FS_EXHAUSTED. */
FS_MUST_USE fs_status fs_kv_acquire(fs_kv_pool *pool, uint32_t n, uint32_t *pages);
void fs_kv_release(fs_kv_pool *pool, const uint32_t *pages, uint32_t n);
/* [num_kv_heads][FS_KV_PAGE_TOKENS][head_dim] of one page and layer. which: 0 keys (rope applied), 1 values. */
float *fs_kv_at(const fs_kv_pool *pool, uint32_t page, uint32_t layer, uint32_t which);
fs_kv_shape fs_kv_pool_shape(const fs_kv_pool *pool);

/* Pages that hold n tokens. */
static inline uint32_t fs_kv_pages_for(uint32_t tokens)
{
    return tokens / FS_KV_PAGE_TOKENS + (tokens % FS_KV_PAGE_TOKENS != 0);
}

#endif
