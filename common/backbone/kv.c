/* common/backbone/kv.c: pages of the KV cache on a free list. */
#include "backbone/kv.h"

#include <stdlib.h>

#include "base/arena.h"

struct fs_kv_pool {
    fs_kv_shape shape;
    uint32_t num_pages, num_free;
    uint32_t *free_page; /* [num_pages] the first num_free are free; the last is given out next */
    bool *taken;         /* [num_pages] a page released twice would be two sequences' */
    size_t page_floats, plane_floats; /* plane: k or v of one layer in one page */
    float *data;
};

/* Floats of k or of v of one layer in a page; 0 if the product overflows. */
static size_t plane_floats(fs_kv_shape shape)
{
    size_t n;
    if (!fs_mul_size(shape.num_kv_heads, shape.head_dim, &n) || !fs_mul_size(n, FS_KV_PAGE_TOKENS, &n))
        return 0;
    return n;
}

size_t fs_kv_page_bytes(fs_kv_shape shape)
{
    size_t bytes = plane_floats(shape);
    if (!fs_mul_size(bytes, (size_t)shape.num_layers * 2, &bytes) ||
        !fs_mul_size(bytes, sizeof(float), &bytes))
        return 0;
    return bytes;
}

fs_status fs_kv_pool_create(fs_kv_shape shape, uint32_t num_pages, fs_kv_pool **out)
{
    size_t page_bytes = fs_kv_page_bytes(shape), total;
    if (page_bytes == 0 || num_pages == 0 || !fs_mul_size(page_bytes, num_pages, &total)) return FS_INVALID;
    fs_kv_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) return FS_NO_MEMORY;
    *pool = (fs_kv_pool){.shape = shape,
                         .num_pages = num_pages,
                         .num_free = num_pages,
                         .free_page = calloc(num_pages, sizeof *pool->free_page),
                         .taken = calloc(num_pages, sizeof *pool->taken),
                         .page_floats = page_bytes / sizeof(float),
                         .plane_floats = plane_floats(shape),
                         .data = fs_alloc_aligned(total)};
    if (pool->free_page == NULL || pool->taken == NULL || pool->data == NULL) {
        fs_kv_pool_destroy(pool);
        return FS_NO_MEMORY;
    }
    for (uint32_t i = 0; i < num_pages; i++) pool->free_page[i] = num_pages - 1 - i;
    *out = pool;
    return FS_OK;
}

void fs_kv_pool_destroy(fs_kv_pool *pool)
{
    if (pool == NULL) return;
    free(pool->free_page);
    free(pool->taken);
    free(pool->data);
    free(pool);
}

uint32_t fs_kv_pool_num_pages(const fs_kv_pool *pool)
{
    return pool->num_pages;
}

uint32_t fs_kv_pool_num_free(const fs_kv_pool *pool)
{
    return pool->num_free;
}

fs_kv_shape fs_kv_pool_shape(const fs_kv_pool *pool)
{
    return pool->shape;
}

fs_status fs_kv_acquire(fs_kv_pool *pool, uint32_t n, uint32_t *pages)
{
    if (n > pool->num_free) return FS_EXHAUSTED;
    for (uint32_t i = 0; i < n; i++) {
        pages[i] = pool->free_page[--pool->num_free];
        pool->taken[pages[i]] = true;
    }
    return FS_OK;
}

void fs_kv_release(fs_kv_pool *pool, const uint32_t *pages, uint32_t n)
{
    for (uint32_t i = n;
         i-- > 0;) { /* backwards: the next sequence gets the warmest pages in the same order */
        FS_ASSERT(pages[i] < pool->num_pages && pool->taken[pages[i]]);
        pool->taken[pages[i]] = false;
        pool->free_page[pool->num_free++] = pages[i];
    }
}

float *fs_kv_at(const fs_kv_pool *pool, uint32_t page, uint32_t layer, uint32_t which)
{
    return pool->data + page * pool->page_floats + ((size_t)layer * 2 + which) * pool->plane_floats;
}
