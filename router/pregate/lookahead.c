/* router/pregate/lookahead.c: a line for pages, prompts in chunks, new tokens in one batch. */
#include "pregate/lookahead.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "sched/pages.h"

struct fs_lookahead {
    fs_lookahead_options options;
    fs_kv_pool *kv; /* memory alone; its pages are given out by: */
    fs_pages *pages;
    /* The loop's, options.share: routes of the tokens of pages that can be found, by page: [num_pages][FS_KV_PAGE_TOKENS][num_moe_layers][top_k] */
    uint16_t *page_expert;
    float *page_weight;
    uint64_t tokens_found;
    fs_lookahead_item *first, *last; /* waiting for pages, by arrival */
    atomic_llong busy_ns;
    /* the worker's: one call's rows */
    uint32_t max_rows;
    uint32_t *token, *position;
    const uint32_t **row_pages;
    uint16_t *expert;
    float *weight;
};

static void line_push(fs_lookahead *l, fs_lookahead_item *item)
{
    item->waiting = true;
    item->next = NULL;
    item->previous = l->last;
    if (l->last)
        l->last->next = item;
    else
        l->first = item;
    l->last = item;
}

static void line_remove(fs_lookahead *l, fs_lookahead_item *item)
{
    item->waiting = false;
    if (item->previous)
        item->previous->next = item->next;
    else
        l->first = item->next;
    if (item->next)
        item->next->previous = item->previous;
    else
        l->last = item->previous;
}

static fs_status alloc_rows(fs_lookahead *l)
{
    size_t rows = l->max_rows, entries;
    if (!fs_mul_size(rows, (size_t)l->options.num_moe_layers * l->options.top_k, &entries))
        return FS_NO_MEMORY;
    l->token = calloc(rows, sizeof *l->token);
    l->position = calloc(rows, sizeof *l->position);
    l->row_pages = calloc(rows, sizeof *l->row_pages);
    l->expert = calloc(entries, sizeof *l->expert);
    l->weight = calloc(entries, sizeof *l->weight);
    return l->token && l->position && l->row_pages && l->expert && l->weight ? FS_OK : FS_NO_MEMORY;
}

/* Entries of a token's routes, and of a page's; 0: they do not fit in memory. */
static size_t entries_of(const fs_lookahead_options *o, size_t tokens)
{
    size_t n;
    return fs_mul_size((size_t)o->num_moe_layers * o->top_k, tokens, &n) ? n : 0;
}

size_t fs_lookahead_page_bytes(const fs_lookahead_options *o)
{
    size_t bytes = fs_kv_page_bytes(fs_pregate_kv_shape(o->pregate)), routes = 0;
    size_t entries = entries_of(o, FS_KV_PAGE_TOKENS);
    if (o->share && !fs_mul_size(entries, sizeof(uint16_t) + sizeof(float), &routes)) return 0;
    return bytes > 0 && entries > 0 && fs_add_size(bytes, routes, &bytes) ? bytes : 0;
}

static fs_status alloc_pages(fs_lookahead *l)
{
    const fs_lookahead_options *o = &l->options;
    size_t entries;
    fs_status st = fs_kv_pool_create(fs_pregate_kv_shape(o->pregate), o->num_pages, &l->kv);
    if (st == FS_OK) st = fs_pages_create(o->num_pages, FS_KV_PAGE_TOKENS, o->share, &l->pages);
    if (st != FS_OK || !o->share) return st;
    if (!fs_mul_size(entries_of(o, FS_KV_PAGE_TOKENS), o->num_pages, &entries)) return FS_NO_MEMORY;
    l->page_expert = calloc(entries, sizeof *l->page_expert);
    l->page_weight = calloc(entries, sizeof *l->page_weight);
    return l->page_expert && l->page_weight ? FS_OK : FS_NO_MEMORY;
}

fs_status fs_lookahead_create(const fs_lookahead_options *options, fs_lookahead **out)
{
    FS_ASSERT(options->chunk_tokens > 0);
    fs_lookahead *l = calloc(1, sizeof *l);
    if (!l) return FS_NO_MEMORY;
    l->options = *options;
    l->max_rows = options->chunk_tokens > options->max_extend ? options->chunk_tokens : options->max_extend;
    fs_status st = alloc_rows(l);
    if (st == FS_OK) st = alloc_pages(l);
    if (st != FS_OK) {
        fs_lookahead_destroy(l);
        return st;
    }
    *out = l;
    return FS_OK;
}

void fs_lookahead_destroy(fs_lookahead *l)
{
    if (!l) return;
    fs_kv_pool_destroy(l->kv);
    fs_pages_destroy(l->pages);
    free(l->page_expert);
    free(l->page_weight);
    free(l->token);
    free(l->position);
    free(l->row_pages);
    free(l->expert);
    free(l->weight);
    free(l);
}

static fs_status run_rows(fs_lookahead *l, uint32_t n)
{
    int64_t start = fs_clock_now(fs_clock_system());
    fs_status st = fs_pregate_run(l->options.pregate, l->token, l->position, l->row_pages, n, l->kv,
                                  l->options.pool, l->expert, l->weight);
    atomic_fetch_add_explicit(&l->busy_ns, fs_clock_now(fs_clock_system()) - start, memory_order_relaxed);
    return st;
}

/* Worker: the next chunk of the prompt. */
static void run_chunk(fs_job *job)
{
    fs_lookahead_item *item = (fs_lookahead_item *)((char *)job - offsetof(fs_lookahead_item, job));
    fs_lookahead *l = item->lookahead;
    uint32_t at = item->table->num_tokens, n = item->num_prompt - at;
    if (n > l->options.chunk_tokens) n = l->options.chunk_tokens;
    for (uint32_t i = 0; i < n; i++) {
        l->token[i] = item->token[at + i];
        l->position[i] = at + i;
        l->row_pages[i] = item->pages;
    }
    item->status = run_rows(l, n);
    if (item->status == FS_OK) item->status = fs_route_table_append(item->table, l->expert, l->weight, n);
}

/* ---- loop: pages ---- */

/* The full pages of what has run can be found from now on, with their tokens' routes. No job has the item. */
static void publish(fs_lookahead *l, fs_lookahead_item *item)
{
    size_t a_page = entries_of(&l->options, FS_KV_PAGE_TOKENS);
    uint32_t full = item->table->num_tokens / FS_KV_PAGE_TOKENS, *pages = item->pages;
    for (uint32_t at = item->num_published; l->options.share && at < full; item->num_published = ++at) {
        uint32_t first = at * FS_KV_PAGE_TOKENS;
        memcpy(l->page_expert + pages[at] * a_page, fs_route_experts(item->table, first, 0),
               a_page * sizeof *l->page_expert);
        memcpy(l->page_weight + pages[at] * a_page, fs_route_weights(item->table, first, 0),
               a_page * sizeof *l->page_weight);
        pages[at] = fs_pages_publish(l->pages, pages[at], at ? pages[at - 1] : FS_PAGES_NONE,
                                     item->token + first);
    }
}

/* Pages for the whole length: those that hold its beginning already, whose routes go to its table, and others. At least a token is left to run.
 * false: there are too few. */
static bool acquire_pages(fs_lookahead *l, fs_lookahead_item *item)
{
    size_t a_page = entries_of(&l->options, FS_KV_PAGE_TOKENS);
    uint32_t all = fs_kv_pages_for(item->total_tokens);
    uint32_t found = fs_pages_match(l->pages, item->token, (item->num_prompt - 1) / FS_KV_PAGE_TOKENS,
                                    item->pages);
    if (all - found > fs_pages_num_free(l->pages)) {
        fs_pages_release(l->pages, item->pages, found);
        return false;
    }
    for (uint32_t i = 0; i < found; i++) {
        fs_status st = fs_route_table_append(item->table, l->page_expert + item->pages[i] * a_page,
                                             l->page_weight + item->pages[i] * a_page, FS_KV_PAGE_TOKENS);
        FS_ASSERT(st == FS_OK); /* another table has taken them, and this one is empty */
    }
    fs_pages_take(l->pages, all - found, item->pages + found);
    item->tokens_found = found * FS_KV_PAGE_TOKENS;
    l->tokens_found += item->tokens_found;
    item->num_pages = all;
    item->num_published = found;
    return true;
}

static void start_waiting(fs_lookahead *l);

static void release_pages(fs_lookahead *l, fs_lookahead_item *item)
{
    if (item->num_pages == 0) return;
    publish(l, item);
    fs_pages_release(l->pages, item->pages, item->num_pages);
    item->num_pages = 0;
    start_waiting(l);
}

static void chunk_done(fs_job *job)
{
    fs_lookahead_item *item = (fs_lookahead_item *)((char *)job - offsetof(fs_lookahead_item, job));
    fs_lookahead *l = item->lookahead;
    publish(l, item);
    bool more = item->status == FS_OK && !item->cancelled && item->table->num_tokens < item->num_prompt;
    if (more) {
        fs_worker_post(l->options.worker, &item->job);
        return;
    }
    item->running = false;
    if (item->cancelled) {
        item->status = FS_CANCELLED;
        release_pages(l, item);
    }
    item->done(item, item->status);
}

/* Strictly in order: a long prompt is not overtaken for ever by short ones. */
static void start_waiting(fs_lookahead *l)
{
    while (l->first) {
        fs_lookahead_item *item = l->first;
        if (!acquire_pages(l, item)) return;
        line_remove(l, item);
        item->running = true;
        fs_worker_post(l->options.worker, &item->job);
    }
}

fs_status fs_lookahead_begin(fs_lookahead *l, fs_lookahead_item *item)
{
    FS_ASSERT(item->num_prompt > 0 && item->num_prompt <= item->total_tokens);
    if (fs_kv_pages_for(item->total_tokens) > fs_kv_pool_num_pages(l->kv)) return FS_INVALID;
    item->lookahead = l;
    item->job = (fs_job){.run = run_chunk, .done = chunk_done};
    item->running = item->cancelled = false;
    item->num_pages = item->num_published = 0;
    line_push(l, item);
    start_waiting(l);
    return FS_OK;
}

bool fs_lookahead_end(fs_lookahead_item *item)
{
    fs_lookahead *l = item->lookahead;
    if (!l) return true; /* never begun */
    if (item->running) {
        item->cancelled = true;
        return false;
    }
    if (item->waiting) {
        line_remove(l, item);
        start_waiting(l); /* it may have held up those behind it */
    }
    release_pages(l, item);
    return true;
}

bool fs_lookahead_is_full(const fs_lookahead *l)
{
    return l->first != NULL;
}

void fs_lookahead_get_pages(const fs_lookahead *l, uint32_t *used, uint32_t *total)
{
    *total = fs_kv_pool_num_pages(l->kv);
    *used = *total - fs_pages_num_free(l->pages);
}

uint64_t fs_lookahead_tokens_found(const fs_lookahead *l)
{
    return l->tokens_found;
}

void fs_lookahead_extend(fs_lookahead *l, fs_lookahead_item *const *items, uint32_t n, fs_status *status)
{
    FS_ASSERT(n <= l->max_rows);
    if (n == 0) return;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = items[i]->table->num_tokens;
        FS_ASSERT(at < items[i]->total_tokens);
        l->token[i] = items[i]->token[at];
        l->position[i] = at;
        l->row_pages[i] = items[i]->pages;
    }
    fs_status st = run_rows(l, n);
    size_t entries = (size_t)l->options.num_moe_layers * l->options.top_k;
    for (uint32_t i = 0; i < n; i++)
        status[i] = st != FS_OK ? st
                                : fs_route_table_append(items[i]->table, l->expert + i * entries,
                                                        l->weight + i * entries, 1);
}

int64_t fs_lookahead_busy_ns(const fs_lookahead *l)
{
    return atomic_load_explicit(&((fs_lookahead *)l)->busy_ns, memory_order_relaxed);
}
