/* common/base/worker.h: threads that run jobs for the loop and hand them back to it. */
#ifndef FS_BASE_WORKER_H
#define FS_BASE_WORKER_H

#include <uv.h>

#include "base/status.h"
#include "base/thread.h"

/* A job is the caller's memory (usually the first member of a larger struct). It belongs to the worker from post until
 * done runs; it carries all that it needs. */
typedef struct fs_job fs_job;
struct fs_job {
    void (*run)(fs_job *job);  /* on a worker thread */
    void (*done)(fs_job *job); /* on the loop, after run; may post again or free the job */
    fs_job *next;              /* the worker's */
};

/* num_threads threads beside a loop. Jobs start in the order of posting. */
typedef struct fs_worker fs_worker;

/* name: of the threads (at most 15 bytes), copied. Thread: loop, as all below. */
FS_MUST_USE fs_status fs_worker_create(uv_loop_t *loop, const char *name, uint32_t num_threads,
                                       fs_worker **out);
/* The same; each thread runs the hook (index < num_threads) before its first job, perhaps after this has returned. */
FS_MUST_USE fs_status fs_worker_create_hooked(uv_loop_t *loop, const char *name, uint32_t num_threads,
                                              fs_thread_hook hook, fs_worker **out);
/* Never fails: jobs are linked, not copied. The number in flight is bounded by who owns the jobs. */
void fs_worker_post(fs_worker *worker, fs_job *job);
/* Jobs posted and not yet done. */
uint32_t fs_worker_in_flight(const fs_worker *worker);
/* Waits for running jobs, drops those not started, calls no more done, closes its handle (the loop must run once more)
 * and frees itself then. NULL is allowed. */
void fs_worker_destroy(fs_worker *worker);

/* CPUs this process may really use: affinity and cgroup v2/v1 quota, at least 1. Thread: any. */
uint32_t fs_num_cpus(void);

#endif
