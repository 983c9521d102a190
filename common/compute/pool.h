/* common/compute/pool.h: threads that share one piece of work. */
#ifndef FS_COMPUTE_POOL_H
#define FS_COMPUTE_POOL_H

#include "base/thread.h"
#include "compute/phases.h"

/* num_threads - 1 threads beside the caller. */
typedef struct fs_pool fs_pool;

FS_MUST_USE fs_status fs_pool_create(uint32_t num_threads, fs_pool **out); /* num_threads >= 1 */
/* The same; each thread of its own runs the hook when it starts, with index 1 .. num_threads - 1: 0 is the caller, who sees to itself. */
FS_MUST_USE fs_status fs_pool_create_hooked(uint32_t num_threads, fs_thread_hook hook, fs_pool **out);
void fs_pool_destroy(fs_pool *pool);
uint32_t fs_pool_num_threads(const fs_pool *pool);

/* Runs fn(arg, i) for every i < num_tasks, each once, on the pool's threads and the caller's, and returns when all are done.
 * Tasks are taken one by one (imbalance evens out); a waiting thread spins a bounded time, then sleeps. One run at a time a
 * pool: a second caller waits. pool NULL: all on the caller's thread. Results must not depend on who runs which. Thread: worker. */
void fs_pool_run(fs_pool *pool, void (*fn)(void *arg, uint32_t index), void *arg, uint32_t num_tasks);
/* The same for phases (phases.h), each with a task at least: the threads are called in once for all of them. */
void fs_pool_run_phases(fs_pool *pool, const fs_phase *phase, uint32_t num_phases, void *arg);

#endif
