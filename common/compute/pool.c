/* common/compute/pool.c: threads that share one piece of work (phases.h).
 * A run is open while its gate says so. Threads enter through the gate, which counts them; the caller closes it when no task
 * is left and waits until the last one is out: then nobody can still see the run's phases, and the next run may set them. */
#include "compute/pool.h"

#include <stdlib.h>

#define MAX_THREADS 1024u
#define SPIN_ROUNDS 2000 /* some tens of microseconds: about what a wake-up from sleep costs */

/* gate: run number << 32 | open << 31 | threads inside */
#define GATE_OPEN   (UINT64_C(1) << 31)
#define GATE_INSIDE (GATE_OPEN - 1)
#define GATE_RUN    (UINT64_C(1) << 32)

struct fs_pool {
    uint32_t num_threads;     /* the caller counts */
    pthread_t *thread;        /* [num_threads - 1] */
    fs_thread_hook hook;      /* of the threads */
    atomic_uint num_begun;    /* threads that run: each takes the next as its index */
    pthread_mutex_t run_lock; /* held by the caller whose run it is */

    fs_phases phases; /* of the open run. Set by the caller while the gate is closed and nobody is inside */
    _Alignas(64) atomic_ullong gate;
    atomic_uint num_asleep;    /* threads in, or on their way into, the wait for a run */
    atomic_bool caller_asleep; /* the caller in, or on its way into, the wait for the last thread */
    atomic_bool stop;
    pthread_mutex_t sleep_lock;
    pthread_cond_t run_opened, all_out;
};

/* False: the run was closed meanwhile. */
static bool enter(fs_pool *pool)
{
    unsigned long long gate = atomic_load(&pool->gate);
    while (gate & GATE_OPEN)
        if (atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1)) return true;
    return false;
}

static void leave(fs_pool *pool)
{
    unsigned long long before = atomic_fetch_sub(&pool->gate, 1);
    if ((before & GATE_OPEN) || (before & GATE_INSIDE) != 1 || !atomic_load(&pool->caller_asleep)) return;
    pthread_mutex_lock(&pool->sleep_lock);
    pthread_cond_signal(&pool->all_out);
    pthread_mutex_unlock(&pool->sleep_lock);
}

static bool run_differs(fs_pool *pool, uint32_t seen)
{
    return (uint32_t)(atomic_load(&pool->gate) >> 32) != seen || atomic_load(&pool->stop);
}

/* Waits for a run other than `seen` and returns its number. */
static uint32_t await_run(fs_pool *pool, uint32_t seen)
{
    for (int i = 0; i < SPIN_ROUNDS && !run_differs(pool, seen); i++) fs_relax();
    if (!run_differs(pool, seen)) {
        pthread_mutex_lock(&pool->sleep_lock);
        /* Counted before the last look at the gate: the caller opens the gate before it looks at the count. */
        atomic_fetch_add(&pool->num_asleep, 1);
        while (!run_differs(pool, seen)) pthread_cond_wait(&pool->run_opened, &pool->sleep_lock);
        atomic_fetch_sub(&pool->num_asleep, 1);
        pthread_mutex_unlock(&pool->sleep_lock);
    }
    return (uint32_t)(atomic_load(&pool->gate) >> 32);
}

static void *thread_main(void *arg)
{
    fs_pool *pool = arg;
    uint32_t seen = 0, index = atomic_fetch_add(&pool->num_begun, 1) + 1;
    if (pool->hook.on_start) pool->hook.on_start(pool->hook.arg, index);
    for (;;) {
        seen = await_run(pool, seen);
        if (atomic_load(&pool->stop)) return NULL;
        if (!enter(pool)) continue;
        fs_phases_work(&pool->phases);
        leave(pool);
    }
}

static void wake_threads(fs_pool *pool, uint32_t wanted)
{
    uint32_t asleep = atomic_load(&pool->num_asleep);
    if (asleep == 0) return;
    pthread_mutex_lock(&pool->sleep_lock);
    if (wanted >= asleep)
        pthread_cond_broadcast(&pool->run_opened);
    else
        for (uint32_t i = 0; i < wanted; i++) pthread_cond_signal(&pool->run_opened);
    pthread_mutex_unlock(&pool->sleep_lock);
}

static bool anyone_inside(fs_pool *pool)
{
    return (atomic_load(&pool->gate) & GATE_INSIDE) != 0;
}

static void close_run(fs_pool *pool)
{
    atomic_fetch_and(&pool->gate, ~GATE_OPEN);
    for (int i = 0; i < SPIN_ROUNDS && anyone_inside(pool); i++) fs_relax();
    if (!anyone_inside(pool)) return;
    pthread_mutex_lock(&pool->sleep_lock);
    atomic_store(&pool->caller_asleep, true);
    while (anyone_inside(pool)) pthread_cond_wait(&pool->all_out, &pool->sleep_lock);
    atomic_store(&pool->caller_asleep, false);
    pthread_mutex_unlock(&pool->sleep_lock);
}

void fs_pool_run_phases(fs_pool *pool, const fs_phase *phase, uint32_t num_phases, void *arg)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < num_phases; i++)
        if (phase[i].num_tasks > most) most = phase[i].num_tasks;
    if (pool == NULL || pool->num_threads == 1 || most <= 1) {
        fs_phases_work_alone(phase, num_phases, arg);
        return;
    }
    pthread_mutex_lock(&pool->run_lock);
    fs_phases_set(&pool->phases, phase, num_phases, arg);
    atomic_fetch_add(&pool->gate, GATE_RUN | GATE_OPEN); /* publishes the phases; was closed and empty */
    wake_threads(pool, most - 1);
    fs_phases_work(&pool->phases);
    close_run(pool);
    pthread_mutex_unlock(&pool->run_lock);
}

void fs_pool_run(fs_pool *pool, void (*fn)(void *arg, uint32_t index), void *arg, uint32_t num_tasks)
{
    fs_pool_run_phases(pool, &(fs_phase){fn, num_tasks}, 1, arg);
}

static void stop_threads(fs_pool *pool, uint32_t num_started)
{
    atomic_store(&pool->stop, true);
    pthread_mutex_lock(&pool->sleep_lock);
    pthread_cond_broadcast(&pool->run_opened);
    pthread_mutex_unlock(&pool->sleep_lock);
    for (uint32_t i = 0; i < num_started; i++) pthread_join(pool->thread[i], NULL);
}

static void free_pool(fs_pool *pool)
{
    pthread_cond_destroy(&pool->run_opened);
    pthread_cond_destroy(&pool->all_out);
    pthread_mutex_destroy(&pool->sleep_lock);
    pthread_mutex_destroy(&pool->run_lock);
    fs_phases_fini(&pool->phases);
    free(pool->thread);
    free(pool);
}

fs_status fs_pool_create(uint32_t num_threads, fs_pool **out)
{
    return fs_pool_create_hooked(num_threads, (fs_thread_hook){0}, out);
}

fs_status fs_pool_create_hooked(uint32_t num_threads, fs_thread_hook hook, fs_pool **out)
{
    if (num_threads == 0 || num_threads > MAX_THREADS) return FS_INVALID;
    fs_pool *pool = aligned_alloc(_Alignof(fs_pool), sizeof *pool);
    pthread_t *thread = calloc(num_threads, sizeof *thread);
    if (pool == NULL || thread == NULL) {
        free(pool);
        free(thread);
        return FS_NO_MEMORY;
    }
    *pool = (fs_pool){.num_threads = num_threads, .thread = thread, .hook = hook};
    fs_phases_init(&pool->phases);
    pthread_mutex_init(&pool->run_lock, NULL);
    pthread_mutex_init(&pool->sleep_lock, NULL);
    pthread_cond_init(&pool->run_opened, NULL);
    pthread_cond_init(&pool->all_out, NULL);
    for (uint32_t i = 0; i + 1 < num_threads; i++) {
        if (pthread_create(&thread[i], NULL, thread_main, pool) == 0) continue;
        stop_threads(pool, i);
        free_pool(pool);
        return FS_EXHAUSTED;
    }
    *out = pool;
    return FS_OK;
}

void fs_pool_destroy(fs_pool *pool)
{
    if (pool == NULL) return;
    stop_threads(pool, pool->num_threads - 1);
    free_pool(pool);
}

uint32_t fs_pool_num_threads(const fs_pool *pool)
{
    return pool->num_threads;
}
