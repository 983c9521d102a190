/* common/base/queue.h: a bounded queue of pointers between threads. */
#ifndef FS_BASE_QUEUE_H
#define FS_BASE_QUEUE_H

#include "base/status.h"

/* Any number of producers and consumers; first in, first out. Sized once; full means FS_EXHAUSTED. Thread: any. */
typedef struct fs_queue fs_queue;

FS_MUST_USE fs_status fs_queue_create(uint32_t capacity, fs_queue **out);
/* Items still in it are not freed. NULL is allowed. */
void fs_queue_destroy(fs_queue *queue);
/* FS_EXHAUSTED: full. FS_CANCELLED: closed. item: taken on success, not NULL. */
FS_MUST_USE fs_status fs_queue_push(fs_queue *queue, void *item);
/* NULL: empty. */
void *fs_queue_try_pop(fs_queue *queue);
/* Waits for an item; NULL once the queue is closed and empty. */
void *fs_queue_pop(fs_queue *queue);
/* No more pushes; waiting consumers drain it and end. */
void fs_queue_close(fs_queue *queue);
uint32_t fs_queue_length(fs_queue *queue);

#endif
