/* expert_node/exec/batch.h: which rows an expert is run over next. Rows of one expert that came in different dispatches, from
 * whichever routers, wait in one queue and run as one batch: its weights are read once for all of them. A core without input
 * and output: no clock, thread or memory after create. Thread: one. */
#ifndef FS_EXEC_BATCH_H
#define FS_EXEC_BATCH_H

#include "base/status.h"

/* A run: adjacent pairs of one dispatch (`tag`) that visit one expert (`key`). Runs of a key wait in order of arrival; keys
 * take turns in order of their oldest waiting run, so nobody starves; a key with more rows than a batch holds goes to the
 * end of the line with what is left. */
typedef struct fs_batcher fs_batcher;

/* keys and tags are below these. max_runs, max_rows: waiting at once. */
FS_MUST_USE fs_status fs_batcher_create(uint32_t num_keys, uint32_t num_tags, uint32_t max_runs,
                                        uint32_t max_rows, fs_batcher **out);
void fs_batcher_destroy(fs_batcher *b);

/* Whether a dispatch of so many groups and pairs can be added wholly. */
bool fs_batcher_has_room(const fs_batcher *b, uint32_t num_runs, uint32_t num_rows);
/* first: the run's first pair in its dispatch; count >= 1. There must be room. */
void fs_batcher_add(fs_batcher *b, uint32_t key, uint32_t tag, uint32_t first, uint32_t count);

/* A held key gets rows as others do, and none of them runs until it is not held any more (its expert is not in memory yet); then it goes
 * to the end of the line. Setting what is set is allowed. */
void fs_batcher_hold(fs_batcher *b, uint32_t key, bool held);

/* Keys that have rows waiting and are not held; all rows that wait, and those of keys that are not held. */
uint32_t fs_batcher_num_ready(const fs_batcher *b);
uint32_t fs_batcher_num_rows(const fs_batcher *b);
uint32_t fs_batcher_num_ready_rows(const fs_batcher *b);
/* Rows that wait for the key, held or not. */
uint32_t fs_batcher_rows_of(const fs_batcher *b, uint32_t key);
/* Rows that wait for the key whose turn is next; 0: none can run. */
uint32_t fs_batcher_peek(const fs_batcher *b);

/* One piece of a batch: pairs first .. first + count of dispatch tag. */
typedef struct {
    uint32_t tag, first, count;
} fs_batch_piece;
/* Takes the next batch: at most max_rows (>= 1) rows of one key, oldest runs first, as at most max_rows pieces. Returns their
 * number; 0: none can run. */
uint32_t fs_batcher_next(fs_batcher *b, uint32_t max_rows, uint32_t *key, fs_batch_piece *pieces);

/* Forgets what still waits of a dispatch (its router is lost). Returns the number of rows. */
uint32_t fs_batcher_drop(fs_batcher *b, uint32_t tag);

/* Asserts what always holds; for tests. */
void fs_batcher_check(const fs_batcher *b);

#endif
