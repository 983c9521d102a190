/* expert_node/exec/batch.c: a list of runs for each key, and a line of the keys that have any. */
#include "exec/batch.h"

#include <stdlib.h>

#define NONE UINT32_MAX

/* In its key's list (doubly linked, in order of arrival) and in its dispatch's (so that a lost one is dropped without a search). */
typedef struct {
    uint32_t key, tag, first, count;
    uint32_t next, prev;         /* of the key; next also links the free ones */
    uint32_t tag_next, tag_prev; /* of the dispatch */
} run;

typedef struct {
    uint32_t head, tail; /* runs */
    uint32_t rows;
    uint32_t next, prev; /* the line of ready keys; in it exactly while rows > 0 and not held */
    bool held;
} key_queue;

struct fs_batcher {
    uint32_t num_keys, num_tags, max_runs, max_rows;
    uint32_t num_runs, num_rows, num_ready, held_rows;
    uint32_t line_head, line_tail, free_run;
    run *runs;
    key_queue *keys;
    uint32_t *tag_head; /* [num_tags] */
};

fs_status fs_batcher_create(uint32_t num_keys, uint32_t num_tags, uint32_t max_runs, uint32_t max_rows,
                            fs_batcher **out)
{
    fs_batcher *b = calloc(1, sizeof(*b));
    if (!b) return FS_NO_MEMORY;
    *b = (fs_batcher){.num_keys = num_keys,
                      .num_tags = num_tags,
                      .max_runs = max_runs,
                      .max_rows = max_rows,
                      .line_head = NONE,
                      .line_tail = NONE,
                      .free_run = NONE};
    b->runs = calloc(max_runs, sizeof(*b->runs));
    b->keys = calloc(num_keys, sizeof(*b->keys));
    b->tag_head = calloc(num_tags, sizeof(*b->tag_head));
    if (!b->runs || !b->keys || !b->tag_head) {
        fs_batcher_destroy(b);
        return FS_NO_MEMORY;
    }
    for (uint32_t i = max_runs; i-- > 0;) {
        b->runs[i].next = b->free_run;
        b->free_run = i;
    }
    for (uint32_t k = 0; k < num_keys; k++) b->keys[k] = (key_queue){NONE, NONE, 0, NONE, NONE, false};
    for (uint32_t t = 0; t < num_tags; t++) b->tag_head[t] = NONE;
    *out = b;
    return FS_OK;
}

void fs_batcher_destroy(fs_batcher *b)
{
    if (!b) return;
    free(b->runs);
    free(b->keys);
    free(b->tag_head);
    free(b);
}

bool fs_batcher_has_room(const fs_batcher *b, uint32_t num_runs, uint32_t num_rows)
{
    return num_runs <= b->max_runs - b->num_runs && num_rows <= b->max_rows - b->num_rows;
}

/* ---- the line of ready keys ---- */

static void line_append(fs_batcher *b, uint32_t key)
{
    key_queue *q = &b->keys[key];
    q->prev = b->line_tail;
    q->next = NONE;
    if (b->line_tail != NONE)
        b->keys[b->line_tail].next = key;
    else
        b->line_head = key;
    b->line_tail = key;
    b->num_ready++;
}

static void line_remove(fs_batcher *b, uint32_t key)
{
    key_queue *q = &b->keys[key];
    if (q->prev != NONE)
        b->keys[q->prev].next = q->next;
    else
        b->line_head = q->next;
    if (q->next != NONE)
        b->keys[q->next].prev = q->prev;
    else
        b->line_tail = q->prev;
    b->num_ready--;
}

/* ---- runs ---- */

static void link_run(fs_batcher *b, uint32_t i)
{
    run *r = &b->runs[i];
    key_queue *q = &b->keys[r->key];
    r->next = NONE;
    r->prev = q->tail;
    if (q->tail != NONE)
        b->runs[q->tail].next = i;
    else
        q->head = i;
    q->tail = i;
    r->tag_prev = NONE;
    r->tag_next = b->tag_head[r->tag];
    if (r->tag_next != NONE) b->runs[r->tag_next].tag_prev = i;
    b->tag_head[r->tag] = i;
}

static void unlink_run(fs_batcher *b, uint32_t i)
{
    run *r = &b->runs[i];
    key_queue *q = &b->keys[r->key];
    if (r->prev != NONE)
        b->runs[r->prev].next = r->next;
    else
        q->head = r->next;
    if (r->next != NONE)
        b->runs[r->next].prev = r->prev;
    else
        q->tail = r->prev;
    if (r->tag_prev != NONE)
        b->runs[r->tag_prev].tag_next = r->tag_next;
    else
        b->tag_head[r->tag] = r->tag_next;
    if (r->tag_next != NONE) b->runs[r->tag_next].tag_prev = r->tag_prev;
    r->next = b->free_run;
    b->free_run = i;
    b->num_runs--;
}

/* Takes rows away from a run's front and, if none are left, the run from its lists. Does not touch the line. */
static void take_rows(fs_batcher *b, uint32_t i, uint32_t count)
{
    run *r = &b->runs[i];
    b->keys[r->key].rows -= count;
    b->num_rows -= count;
    if (b->keys[r->key].held) b->held_rows -= count;
    r->first += count;
    r->count -= count;
    if (r->count == 0) unlink_run(b, i);
}

void fs_batcher_add(fs_batcher *b, uint32_t key, uint32_t tag, uint32_t first, uint32_t count)
{
    FS_ASSERT(key < b->num_keys && tag < b->num_tags && count >= 1);
    FS_ASSERT(fs_batcher_has_room(b, 1, count));
    uint32_t i = b->free_run;
    b->free_run = b->runs[i].next;
    b->runs[i] = (run){.key = key, .tag = tag, .first = first, .count = count};
    link_run(b, i);
    key_queue *q = &b->keys[key];
    if (q->rows == 0 && !q->held) line_append(b, key);
    if (q->held) b->held_rows += count;
    q->rows += count;
    b->num_rows += count;
    b->num_runs++;
}

void fs_batcher_hold(fs_batcher *b, uint32_t key, bool held)
{
    FS_ASSERT(key < b->num_keys);
    key_queue *q = &b->keys[key];
    if (q->held == held) return;
    q->held = held;
    b->held_rows = held ? b->held_rows + q->rows : b->held_rows - q->rows;
    if (q->rows == 0) return;
    if (held)
        line_remove(b, key);
    else
        line_append(b, key);
}

uint32_t fs_batcher_num_ready(const fs_batcher *b)
{
    return b->num_ready;
}

uint32_t fs_batcher_num_rows(const fs_batcher *b)
{
    return b->num_rows;
}

uint32_t fs_batcher_num_ready_rows(const fs_batcher *b)
{
    return b->num_rows - b->held_rows;
}

uint32_t fs_batcher_rows_of(const fs_batcher *b, uint32_t key)
{
    FS_ASSERT(key < b->num_keys);
    return b->keys[key].rows;
}

uint32_t fs_batcher_peek(const fs_batcher *b)
{
    return b->line_head == NONE ? 0 : b->keys[b->line_head].rows;
}

uint32_t fs_batcher_next(fs_batcher *b, uint32_t max_rows, uint32_t *key, fs_batch_piece *pieces)
{
    FS_ASSERT(max_rows >= 1);
    if (b->line_head == NONE) return 0;
    uint32_t k = b->line_head, num_pieces = 0;
    key_queue *q = &b->keys[k];
    line_remove(b, k);
    for (uint32_t room = max_rows; q->head != NONE && room > 0;) {
        const run *r = &b->runs[q->head];
        uint32_t count = r->count < room ? r->count : room;
        pieces[num_pieces++] = (fs_batch_piece){r->tag, r->first, count};
        room -= count;
        take_rows(b, q->head, count);
    }
    if (q->rows > 0) line_append(b, k);
    *key = k;
    return num_pieces;
}

uint32_t fs_batcher_drop(fs_batcher *b, uint32_t tag)
{
    FS_ASSERT(tag < b->num_tags);
    uint32_t dropped = 0;
    while (b->tag_head[tag] != NONE) {
        uint32_t i = b->tag_head[tag], k = b->runs[i].key;
        dropped += b->runs[i].count;
        take_rows(b, i, b->runs[i].count);
        if (b->keys[k].rows == 0 && !b->keys[k].held) line_remove(b, k);
    }
    return dropped;
}

void fs_batcher_check(const fs_batcher *b)
{
    uint32_t rows = 0, runs = 0, ready = 0, held_rows = 0;
    for (uint32_t k = 0; k < b->num_keys; k++) {
        uint32_t of_key = 0, last = NONE;
        for (uint32_t i = b->keys[k].head; i != NONE; last = i, i = b->runs[i].next) {
            FS_ASSERT(b->runs[i].key == k && b->runs[i].count >= 1 && b->runs[i].prev == last);
            of_key += b->runs[i].count;
            runs++;
        }
        FS_ASSERT(b->keys[k].tail == last && b->keys[k].rows == of_key);
        rows += of_key;
        ready += of_key > 0 && !b->keys[k].held;
        held_rows += b->keys[k].held ? of_key : 0;
    }
    uint32_t in_line = 0;
    for (uint32_t k = b->line_head; k != NONE; k = b->keys[k].next, in_line++)
        FS_ASSERT(b->keys[k].rows > 0 && !b->keys[k].held);
    FS_ASSERT(in_line == ready && b->num_ready == ready && b->num_rows == rows && b->num_runs == runs);
    FS_ASSERT(b->held_rows == held_rows);
    uint32_t by_tag = 0;
    for (uint32_t t = 0; t < b->num_tags; t++)
        for (uint32_t i = b->tag_head[t]; i != NONE; i = b->runs[i].tag_next, by_tag++)
            FS_ASSERT(b->runs[i].tag == t);
    FS_ASSERT(by_tag == runs);
}
