/* common/compute/phases.c: two counters, of tasks taken and tasks done, and a mark up to which tasks may run. */
#include "compute/phases.h"

/* About ten microseconds. Longer waits are for a thread that lost its processor, and sleeping gives it one back. */
#define SPIN_ROUNDS 500

void fs_phases_init(fs_phases *phases)
{
    *phases = (fs_phases){0};
    pthread_mutex_init(&phases->sleep_lock, NULL);
    pthread_cond_init(&phases->opened, NULL);
}

void fs_phases_fini(fs_phases *phases)
{
    pthread_cond_destroy(&phases->opened);
    pthread_mutex_destroy(&phases->sleep_lock);
}

void fs_phases_set(fs_phases *p, const fs_phase *phase, uint32_t num_phases, void *arg)
{
    FS_ASSERT(num_phases >= 1 && num_phases <= FS_MAX_PHASES);
    uint32_t tasks = 0, counted = 0;
    for (uint32_t i = 0; i < num_phases; i++) {
        FS_ASSERT(phase[i].num_tasks >= 1);
        bool after = i > 0 && phase[i].num_tasks == 1; /* the first has nobody that ends before it */
        p->phase[i].run = phase[i].run;
        p->phase[i].first = tasks;
        p->phase[i].num_after = 0;
        if (after)
            p->phase[counted].num_after++;
        else
            tasks += phase[i].num_tasks, counted = i;
        p->phase[i].end = tasks;
    }
    p->arg = arg;
    p->num_tasks = tasks;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->open, p->phase[0].end, memory_order_release);
}

static void await_open(fs_phases *p, uint32_t task)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (atomic_load_explicit(&p->open, memory_order_acquire) > task) return;
        fs_relax();
    }
    pthread_mutex_lock(&p->sleep_lock);
    /* Counted before the last look: who opens looks at the count afterwards. Both sequentially consistent. */
    atomic_fetch_add(&p->num_asleep, 1);
    while (atomic_load(&p->open) <= task) pthread_cond_wait(&p->opened, &p->sleep_lock);
    atomic_fetch_sub(&p->num_asleep, 1);
    pthread_mutex_unlock(&p->sleep_lock);
}

/* The last task of phase i is done: what is to be run after it, then the next phase. */
static void end_phase(fs_phases *p, uint32_t i)
{
    uint32_t after = p->phase[i].num_after, end = p->num_tasks;
    for (uint32_t k = 1; k <= after; k++) p->phase[i + k].run(p->arg, 0);
    if (p->phase[i].end == end) return;
    atomic_store(&p->open, p->phase[i + after + 1].end);
    if (atomic_load(&p->num_asleep) == 0) return;
    pthread_mutex_lock(&p->sleep_lock);
    pthread_cond_broadcast(&p->opened);
    pthread_mutex_unlock(&p->sleep_lock);
}

void fs_phases_work(fs_phases *p)
{
    for (uint32_t i = 0;;) {
        uint32_t task = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (task >= p->num_tasks) return;
        while (task >= p->phase[i].end) i += p->phase[i].num_after + 1;
        if (p->phase[i].first > 0) await_open(p, task);
        p->phase[i].run(p->arg, task - p->phase[i].first);
        uint32_t done = atomic_fetch_add_explicit(&p->done, 1, memory_order_acq_rel) + 1;
        if (done == p->phase[i].end) end_phase(p, i);
    }
}

void fs_phases_work_alone(const fs_phase *phase, uint32_t num_phases, void *arg)
{
    for (uint32_t p = 0; p < num_phases; p++)
        for (uint32_t i = 0; i < phase[p].num_tasks; i++) phase[p].run(arg, i);
}
