/* common/base/queue.c: a ring under a mutex. Queues carry jobs and requests, not tokens: a lock is cheap enough. */
#include "base/queue.h"

#include <pthread.h>
#include <stdlib.h>

struct fs_queue {
    pthread_mutex_t lock;
    pthread_cond_t not_empty; /* or closed */
    uint32_t capacity, head, length;
    bool closed;
    void *items[];
};

fs_status fs_queue_create(uint32_t capacity, fs_queue **out)
{
    size_t bytes;
    if (capacity == 0) return FS_INVALID;
    if (!fs_mul_size(capacity, sizeof(void *), &bytes)) return FS_NO_MEMORY;
    if (!fs_add_size(bytes, sizeof(fs_queue), &bytes)) return FS_NO_MEMORY;
    fs_queue *queue = calloc(1, bytes);
    if (!queue) return FS_NO_MEMORY;
    queue->capacity = capacity;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->not_empty, NULL);
    *out = queue;
    return FS_OK;
}

void fs_queue_destroy(fs_queue *queue)
{
    if (!queue) return;
    pthread_cond_destroy(&queue->not_empty);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

fs_status fs_queue_push(fs_queue *queue, void *item)
{
    fs_status st = FS_OK;
    FS_ASSERT(item);
    pthread_mutex_lock(&queue->lock);
    if (queue->closed) {
        st = FS_CANCELLED;
    } else if (queue->length == queue->capacity) {
        st = FS_EXHAUSTED;
    } else {
        uint64_t tail = (uint64_t)queue->head + queue->length++;
        queue->items[tail % queue->capacity] = item;
        pthread_cond_signal(&queue->not_empty);
    }
    pthread_mutex_unlock(&queue->lock);
    return st;
}

static void *take_first(fs_queue *queue)
{
    if (queue->length == 0) return NULL;
    void *item = queue->items[queue->head];
    queue->head = (queue->head + 1) % queue->capacity;
    queue->length--;
    return item;
}

void *fs_queue_try_pop(fs_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    void *item = take_first(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void *fs_queue_pop(fs_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    while (queue->length == 0 && !queue->closed) pthread_cond_wait(&queue->not_empty, &queue->lock);
    void *item = take_first(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void fs_queue_close(fs_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    pthread_cond_broadcast(&queue->not_empty);
    pthread_mutex_unlock(&queue->lock);
}

uint32_t fs_queue_length(fs_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    uint32_t length = queue->length;
    pthread_mutex_unlock(&queue->lock);
    return length;
}
