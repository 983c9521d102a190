/* common/base/worker.c: threads take jobs from a list, run them, and put them on a list that the loop drains. */
#include "base/worker.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    fs_job *first, *last;
} job_list;

struct fs_worker {
    pthread_mutex_t lock;   /* over waiting, finished, num_begun and stopping */
    pthread_cond_t changed; /* a job waits, or stopping */
    job_list waiting, finished;
    uint32_t num_begun; /* threads that run: each takes it as its index */
    bool stopping;
    fs_thread_hook hook;
    /* the loop's alone: */
    uv_async_t wake_loop; /* coalesces, so each wake-up drains the list */
    uint32_t in_flight, num_threads;
    char name[16];
    pthread_t threads[];
};

static void list_push(job_list *list, fs_job *job)
{
    job->next = NULL;
    if (list->last)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
}

static fs_job *list_pop(job_list *list)
{
    fs_job *job = list->first;
    if (!job) return NULL;
    list->first = job->next;
    if (!list->first) list->last = NULL;
    job->next = NULL;
    return job;
}

static void begin_thread(fs_worker *worker)
{
    pthread_setname_np(pthread_self(), worker->name);
    pthread_mutex_lock(&worker->lock);
    uint32_t index = worker->num_begun++;
    pthread_mutex_unlock(&worker->lock);
    if (worker->hook.on_start) worker->hook.on_start(worker->hook.arg, index);
}

static void *thread_main(void *arg)
{
    fs_worker *worker = arg;
    begin_thread(worker);
    pthread_mutex_lock(&worker->lock);
    for (;;) {
        while (!worker->waiting.first && !worker->stopping)
            pthread_cond_wait(&worker->changed, &worker->lock);
        if (worker->stopping) break;
        fs_job *job = list_pop(&worker->waiting);
        pthread_mutex_unlock(&worker->lock);
        job->run(job);
        pthread_mutex_lock(&worker->lock);
        list_push(&worker->finished, job);
        uv_async_send(&worker->wake_loop);
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

static fs_job *take_finished(fs_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    fs_job *job = worker->stopping ? NULL : list_pop(&worker->finished); /* a done may destroy the worker */
    pthread_mutex_unlock(&worker->lock);
    return job;
}

static void on_wake(uv_async_t *handle)
{
    fs_worker *worker = handle->data;
    for (fs_job *job = take_finished(worker); job; job = take_finished(worker)) {
        worker->in_flight--;
        job->done(job);
    }
}

static void on_closed(uv_handle_t *handle)
{
    fs_worker *worker = handle->data;
    pthread_cond_destroy(&worker->changed);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}

static fs_status start_threads(fs_worker *worker, uint32_t num_threads)
{
    for (; worker->num_threads < num_threads; worker->num_threads++)
        if (pthread_create(&worker->threads[worker->num_threads], NULL, thread_main, worker) != 0)
            return FS_EXHAUSTED;
    return FS_OK;
}

fs_status fs_worker_create(uv_loop_t *loop, const char *name, uint32_t num_threads, fs_worker **out)
{
    return fs_worker_create_hooked(loop, name, num_threads, (fs_thread_hook){0}, out);
}

fs_status fs_worker_create_hooked(uv_loop_t *loop, const char *name, uint32_t num_threads,
                                  fs_thread_hook hook, fs_worker **out)
{
    size_t bytes;
    if (num_threads == 0) return FS_INVALID;
    if (!fs_mul_size(num_threads, sizeof(pthread_t), &bytes)) return FS_NO_MEMORY;
    if (!fs_add_size(bytes, sizeof(fs_worker), &bytes)) return FS_NO_MEMORY;
    fs_worker *worker = calloc(1, bytes);
    if (!worker) return FS_NO_MEMORY;
    if (uv_async_init(loop, &worker->wake_loop, on_wake) != 0) {
        free(worker);
        return FS_EXHAUSTED;
    }
    worker->wake_loop.data = worker;
    worker->hook = hook;
    snprintf(worker->name, sizeof worker->name, "%s", name);
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->changed, NULL);
    fs_status st = start_threads(worker, num_threads);
    if (st != FS_OK) {
        fs_worker_destroy(worker);
        return st;
    }
    *out = worker;
    return FS_OK;
}

void fs_worker_post(fs_worker *worker, fs_job *job)
{
    FS_ASSERT(job->run && job->done);
    worker->in_flight++;
    pthread_mutex_lock(&worker->lock);
    list_push(&worker->waiting, job);
    pthread_cond_signal(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
}

uint32_t fs_worker_in_flight(const fs_worker *worker)
{
    return worker->in_flight;
}

void fs_worker_destroy(fs_worker *worker)
{
    if (!worker) return;
    pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
    for (uint32_t i = 0; i < worker->num_threads; i++) pthread_join(worker->threads[i], NULL);
    uv_close((uv_handle_t *)&worker->wake_loop, on_closed);
}
