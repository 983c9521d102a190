/* router/sched/pages.c: see pages.h. */
#include "sched/pages.h"

#include <stdlib.h>
#include <string.h>

#include "sched/list.h"

/* serial: what the page holds, with all before it, has this number for as long as it is published; numbers are not used again, so that a page
 * whose predecessor is gone is never found. */
typedef struct {
    uint32_t holders;
    bool published;
    uint64_t serial, previous; /* previous: the serial of the page before; 0: none */
    uint32_t bucket_next;      /* published: in its bucket */
    fs_link idle;              /* nobody holds it: in order of becoming so */
} page_entry;

struct fs_pages {
    uint32_t num_pages, page_tokens, num_blank, num_buckets;
    bool share;
    uint64_t num_serials;
    fs_list idle;     /* the first was left first */
    page_entry *page; /* [num_pages] */
    uint32_t *blank;  /* [num_pages] the last is given out next */
    uint32_t *token;  /* [num_pages][page_tokens] of published ones */
    uint32_t *bucket; /* [num_buckets] a power of two */
};

static fs_status alloc_tables(fs_pages *p)
{
    size_t tokens;
    p->num_buckets = 1;
    while (p->num_buckets < p->num_pages && p->num_buckets < 1u << 30) p->num_buckets *= 2;
    if (!fs_mul_size(p->num_pages, p->page_tokens, &tokens)) return FS_NO_MEMORY;
    p->page = calloc(p->num_pages, sizeof *p->page);
    p->blank = calloc(p->num_pages, sizeof *p->blank);
    p->token = calloc(p->share ? tokens : 1, sizeof *p->token);
    p->bucket = malloc(p->num_buckets * sizeof *p->bucket);
    return p->page && p->blank && p->token && p->bucket ? FS_OK : FS_NO_MEMORY;
}

fs_status fs_pages_create(uint32_t num_pages, uint32_t page_tokens, bool share, fs_pages **out)
{
    if (num_pages == 0 || num_pages == FS_PAGES_NONE || page_tokens == 0) return FS_INVALID;
    fs_pages *p = calloc(1, sizeof *p);
    if (!p) return FS_NO_MEMORY;
    *p = (fs_pages){
        .num_pages = num_pages, .page_tokens = page_tokens, .num_blank = num_pages, .share = share};
    if (alloc_tables(p) != FS_OK) {
        fs_pages_destroy(p);
        return FS_NO_MEMORY;
    }
    p->idle = fs_list_of(&p->page->idle, sizeof *p->page);
    for (uint32_t i = 0; i < num_pages; i++) p->blank[i] = num_pages - 1 - i;
    for (uint32_t i = 0; i < p->num_buckets; i++) p->bucket[i] = FS_PAGES_NONE;
    *out = p;
    return FS_OK;
}

void fs_pages_destroy(fs_pages *p)
{
    if (!p) return;
    free(p->page);
    free(p->blank);
    free(p->token);
    free(p->bucket);
    free(p);
}

/* ---- published pages ---- */

static uint32_t *bucket_of(const fs_pages *p, uint64_t previous, const uint32_t *token)
{
    uint64_t hash = previous * 0x9e3779b97f4a7c15u + 1;
    for (uint32_t i = 0; i < p->page_tokens; i++) {
        hash = (hash ^ token[i]) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
    }
    return &p->bucket[hash & (p->num_buckets - 1)];
}

static uint32_t *tokens_of(const fs_pages *p, uint32_t page)
{
    return p->token + (size_t)page * p->page_tokens;
}

static uint32_t find(const fs_pages *p, uint64_t previous, const uint32_t *token)
{
    uint32_t page = *bucket_of(p, previous, token);
    while (page != FS_PAGES_NONE) {
        const page_entry *entry = &p->page[page];
        if (entry->previous == previous &&
            memcmp(tokens_of(p, page), token, p->page_tokens * sizeof *token) == 0)
            break;
        page = entry->bucket_next;
    }
    return page;
}

static void forget(fs_pages *p, uint32_t page)
{
    page_entry *entry = &p->page[page];
    uint32_t *link = bucket_of(p, entry->previous, tokens_of(p, page));
    while (*link != page) link = &p->page[*link].bucket_next;
    *link = entry->bucket_next;
    entry->published = false;
}

static void hold(fs_pages *p, uint32_t page)
{
    if (p->page[page].holders++ == 0) fs_list_take(&p->idle, page);
}

uint32_t fs_pages_publish(fs_pages *p, uint32_t page, uint32_t previous, const uint32_t *token)
{
    page_entry *entry = &p->page[page];
    FS_ASSERT(page < p->num_pages);
    FS_ASSERT(entry->holders == 1 && !entry->published);
    if (!p->share) return page;
    FS_ASSERT(previous == FS_PAGES_NONE || p->page[previous].published);
    uint64_t serial = previous == FS_PAGES_NONE ? 0 : p->page[previous].serial;
    uint32_t same = find(p, serial, token);
    if (same != FS_PAGES_NONE) {
        hold(p, same);
        fs_pages_release(p, &page, 1);
        return same;
    }
    uint32_t *bucket = bucket_of(p, serial, token);
    memcpy(tokens_of(p, page), token, p->page_tokens * sizeof *token);
    entry->published = true;
    entry->serial = ++p->num_serials;
    entry->previous = serial;
    entry->bucket_next = *bucket;
    *bucket = page;
    return page;
}

uint32_t fs_pages_match(fs_pages *p, const uint32_t *token, uint32_t max_pages, uint32_t *out)
{
    uint64_t previous = 0;
    uint32_t n = 0;
    for (; p->share && n < max_pages; n++) {
        uint32_t page = find(p, previous, token + (size_t)n * p->page_tokens);
        if (page == FS_PAGES_NONE) break;
        hold(p, page);
        out[n] = page;
        previous = p->page[page].serial;
    }
    return n;
}

/* ---- holders ---- */

void fs_pages_take(fs_pages *p, uint32_t n, uint32_t *out)
{
    FS_ASSERT(n <= fs_pages_num_free(p));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t page = p->idle.first;
        if (p->num_blank > 0) {
            page = p->blank[--p->num_blank];
        } else {
            fs_list_take(&p->idle, page);
            forget(p, page);
        }
        FS_ASSERT(p->page[page].holders == 0 && !p->page[page].published);
        p->page[page].holders = 1;
        out[i] = page;
    }
}

void fs_pages_release(fs_pages *p, const uint32_t *page, uint32_t n)
{
    for (uint32_t i = n; i-- > 0;) {
        page_entry *entry = &p->page[page[i]];
        FS_ASSERT(page[i] < p->num_pages);
        FS_ASSERT(entry->holders > 0);
        if (--entry->holders > 0) continue;
        if (entry->published)
            fs_list_push(&p->idle, page[i]);
        else
            p->blank[p->num_blank++] = page[i];
    }
}

uint32_t fs_pages_num_free(const fs_pages *p)
{
    return p->num_blank + p->idle.length;
}

uint32_t fs_pages_num_idle(const fs_pages *p)
{
    return p->idle.length;
}

/* ---- the invariants ---- */

static void check_buckets(const fs_pages *p, uint32_t num_published)
{
    uint32_t found = 0;
    for (uint32_t b = 0; b < p->num_buckets; b++) {
        for (uint32_t page = p->bucket[b]; page != FS_PAGES_NONE; page = p->page[page].bucket_next) {
            FS_ASSERT(p->page[page].published);
            FS_ASSERT(bucket_of(p, p->page[page].previous, tokens_of(p, page)) == &p->bucket[b]);
            FS_ASSERT(++found <= num_published); /* ends a ring, too */
        }
    }
    FS_ASSERT(found == num_published);
}

void fs_pages_check(const fs_pages *p, const uint32_t *holders)
{
    uint32_t held = 0, published = 0;
    for (uint32_t i = 0; i < p->num_pages; i++) {
        const page_entry *entry = &p->page[i];
        FS_ASSERT(entry->holders == holders[i]);
        FS_ASSERT(entry->holders <= 1 || entry->published);
        held += entry->holders > 0;
        published += entry->published;
    }
    for (uint32_t i = 0; i < p->num_blank; i++)
        FS_ASSERT(p->page[p->blank[i]].holders == 0 && !p->page[p->blank[i]].published);
    fs_list_check(&p->idle);
    for (uint32_t page = p->idle.first; page != FS_LIST_END; page = fs_list_next(&p->idle, page))
        FS_ASSERT(p->page[page].holders == 0 && p->page[page].published);
    FS_ASSERT(held + p->num_blank + p->idle.length == p->num_pages);
    check_buckets(p, published);
}
