/* common/compute/phases.h: one piece of work in phases that any number of threads share, whoever they are and whenever they come. */
#ifndef FS_COMPUTE_PHASES_H
#define FS_COMPUTE_PHASES_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/status.h"

enum { FS_MAX_PHASES = 8 };

/* run(arg, i) for every i < num_tasks, each once. */
typedef struct {
    void (*run)(void *arg, uint32_t index);
    uint32_t num_tasks;
} fs_phase;

/* Tasks are taken one by one (imbalance evens out), phase after phase; none begins before all of the phase before are done. A phase of
 * one task is run by who ends the one before it: its data is in that thread's cache, and the others wait once instead of twice.
 * Who waits spins for some microseconds, then sleeps. Nobody is waited for who has not taken a task: a thread that comes late, or
 * never, only does not help. Caller's memory. */
typedef struct {
    struct {
        void (*run)(void *arg, uint32_t index);
        uint32_t first, end; /* its tasks, counted through all phases */
        uint32_t num_after;  /* phases of one task behind it, which are not counted */
    } phase[FS_MAX_PHASES];
    void *arg;
    uint32_t num_tasks;
    _Alignas(64) atomic_uint next; /* to be taken; may run past num_tasks, by one a thread */
    _Alignas(64) atomic_uint done; /* of those counted */
    _Alignas(64) atomic_uint open; /* tasks below it may run */
    atomic_uint num_asleep;        /* threads in, or on their way into, the wait for open to grow */
    pthread_mutex_t sleep_lock;
    pthread_cond_t opened;
} fs_phases;

void fs_phases_init(fs_phases *phases);
void fs_phases_fini(fs_phases *phases);

/* Sets what is to be done; arg and what it names must live until it is. No thread may be in fs_phases_work. Thread: any. */
void fs_phases_set(fs_phases *phases, const fs_phase *phase, uint32_t num_phases, void *arg);
/* Takes tasks until none is left. Others may still be running theirs: all is done when every thread that called it is back.
 * Thread: any number. */
void fs_phases_work(fs_phases *phases);

/* All on the caller's thread. */
void fs_phases_work_alone(const fs_phase *phase, uint32_t num_phases, void *arg);

/* One round of a bounded spin. */
static inline void fs_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

#endif
