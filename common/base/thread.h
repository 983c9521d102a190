/* common/base/thread.h: what the threads of workers (worker.h) and pools (compute/pool.h) have in common. */
#ifndef FS_BASE_THREAD_H
#define FS_BASE_THREAD_H

#include <stdint.h>

/* What each thread of a worker or a pool does first. on_start NULL: nothing. arg: borrowed until the threads are joined. */
typedef struct {
    void (*on_start)(void *arg, uint32_t index); /* on the thread; every index once */
    void *arg;
} fs_thread_hook;

#endif
