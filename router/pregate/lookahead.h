/* router/pregate/lookahead.h: routes for whole prompts while they wait, and for each new token as soon as it
 * is sampled. The pre-gating network's jobs and its own KV pages. */
#ifndef FS_PREGATE_LOOKAHEAD_H
#define FS_PREGATE_LOOKAHEAD_H

#include "backbone/pregate.h"
#include "base/worker.h"
#include "pregate/route_table.h"

typedef struct fs_lookahead fs_lookahead;

typedef struct {
    const fs_pregate *pregate; /* borrowed */
    fs_worker *worker;  /* one thread: prompts' jobs and fs_lookahead_extend never run at once. Borrowed */
    fs_pool *pool;      /* borrowed */
    uint32_t num_pages; /* of the pre-gating network's KV pool */
    uint32_t
        chunk_tokens; /* a job's tokens at most, so that a long prompt does not hold up the micro-batches */
    uint32_t max_extend; /* sequences of one fs_lookahead_extend at most */
    uint32_t num_moe_layers, top_k;
    bool
        share; /* full pages, and the routes of their tokens, between sequences that begin alike (sched/pages.h) */
} fs_lookahead_options;

/* A page's keys and values, and its tokens' routes if they are shared; 0: it does not fit in memory. */
size_t fs_lookahead_page_bytes(const fs_lookahead_options *options);
FS_MUST_USE fs_status fs_lookahead_create(const fs_lookahead_options *options, fs_lookahead **out);
void fs_lookahead_destroy(
    fs_lookahead *lookahead); /* after the worker has ended; items must be gone or never looked at again */

/* One sequence's part; a member of it. The owner sets the first block before begin and nothing else. */
typedef struct fs_lookahead_item fs_lookahead_item;
struct fs_lookahead_item {
    const uint32_t *token; /* [total_tokens] prompt first; borrowed while the item lives */
    uint32_t num_prompt, total_tokens;
    fs_route_table *table; /* filled */
    uint32_t *pages;       /* [fs_kv_pages_for(total_tokens)] room for page numbers */
    /* The prompt's routes are in the table (FS_OK), or the network failed (FS_NO_MEMORY, FS_INTERNAL), or the
     * item was cancelled while its job ran (FS_CANCELLED). Once, on the loop, never from within begin. */
    void (*done)(fs_lookahead_item *item, fs_status status);

    fs_job job;
    fs_lookahead *lookahead;
    fs_lookahead_item *next, *previous; /* in the line for pages */
    uint32_t num_pages, num_published;  /* held; of these, the first that others can find */
    uint32_t tokens_found;              /* of the prompt: their routes were found */
    bool waiting, running, cancelled;
    fs_status status;
};

/* Takes pages for total_tokens, in order of arrival (waits for them if there are none), then computes the
 * prompt's routes. FS_INVALID: more pages than the pool has. Thread: loop, as end and get_pages. */
FS_MUST_USE fs_status fs_lookahead_begin(fs_lookahead *lookahead, fs_lookahead_item *item);
/* The sequence is over: its pages go back, now or when its job has run. Returns true if the item is free now,
 * false if done comes once more (FS_CANCELLED) and the item must live until then. */
bool fs_lookahead_end(fs_lookahead_item *item);
/* One waits for pages: whoever begins now waits behind it. Thread: loop. */
bool fs_lookahead_is_full(const fs_lookahead *lookahead);
/* Tokens whose routes were found with pages of earlier sequences, since creation. */
uint64_t fs_lookahead_tokens_found(const fs_lookahead *lookahead);
void fs_lookahead_get_pages(const fs_lookahead *lookahead, uint32_t *used, uint32_t *total);

/* The routes of one token more for each of n items: the token at table->num_tokens. status [n]. Thread: the
 * worker. */
void fs_lookahead_extend(fs_lookahead *lookahead, fs_lookahead_item *const *items, uint32_t n,
                         fs_status *status);
/* Time the network took since creation, ns. Thread: loop (read) while the worker adds. */
int64_t fs_lookahead_busy_ns(const fs_lookahead *lookahead);

#endif
