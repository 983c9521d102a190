/* common/sub1/bench/bench.c: the contestants take turns, round after round, and each one's best run counts: so that other load on the
 * machine, and its clock, hit all of them alike. */
#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "bench/bench_int.h"
#include "bench/memory.h"

enum { ROUNDS = 200, TASKS_PER_THREAD = 8, MAX_COPIES_A_RUN = 10000, TRIES = 3 };
enum {
    READ_EVERY = 5
}; /* the limit takes a turn after so many others: it has three ways to read, and should not be missed */
#define RUN_S    0.4e-3
#define GATHER_S 1e-3

static double seconds(void)
{
    return (double)fs_clock_now(fs_clock_system()) * 1e-9;
}

/* ---- a run ---- */

/* Which rows of y are this thread's. */
static _Thread_local struct {
    const fs_bench *of;
    uint32_t index;
} place;

static void take_place(fs_bench *b)
{
    if (place.of == b) return;
    place.of = b;
    place.index = atomic_fetch_add(&b->num_placed, 1);
}

/* All threads are awake, each on a CPU, when a run begins; or, on a machine that others keep busy, not. */
static void arrive(void *arg, uint32_t index)
{
    fs_bench *b = arg;
    double end = seconds() + GATHER_S;
    take_place(b);
    atomic_fetch_add(&b->num_arrived, 1);
    while (atomic_load(&b->num_arrived) < b->options->threads && seconds() < end) {
    }
}

static void gather(fs_bench *b)
{
    atomic_store(&b->num_arrived, 0);
    fs_pool_run(b->pool, arrive, b, b->options->threads);
}

/* Whole ranges of units: a thread goes forward in memory for long, and comes to the pool's counter seldom. */
static void run_task(void *arg, uint32_t index)
{
    fs_bench *b = arg;
    const fs_bench_contestant *c = b->now;
    size_t units = c->a_run * c->parts;
    float *y[FS_BENCH_MAX_BATCH];
    take_place(b);
    for (uint32_t r = 0; r < b->options->batch; r++)
        y[r] = b->y + ((size_t)place.index * b->options->batch + r) * b->width;
    fs_bench_work(b, units * index / b->tasks, units * (index + 1) / b->tasks, y);
}

static void flush_task(void *arg, uint32_t index)
{
    fs_bench *b = arg;
    const fs_bench_contestant *c = b->now;
    take_place(b);
    for (size_t i = c->a_run * index / b->tasks; i < c->a_run * (index + 1) / b->tasks; i++)
        fs_bench_flush(c->bytes + (c->next + i) % c->copies * c->stride, c->stride);
}

static void set_tasks(fs_bench *b, size_t units)
{
    size_t most = b->options->threads == 1 ? 1 : (size_t)b->options->threads * TASKS_PER_THREAD;
    b->tasks = (uint32_t)(units < most ? units : most);
}

/* Goes through a_run copies, from where the last run ended, and keeps the time if it is the best. dram: none of them is in a cache, as the
 * last run that had them has thrown them out. Else they are one, and are gone through once before. */
static void run(fs_bench *b, fs_bench_contestant *c, bool dram)
{
    b->now = c;
    for (int i = dram ? 1 : 0; i < 2; i++) {
        set_tasks(b, c->a_run * c->parts);
        gather(b);
        double start = seconds();
        if (c->kind == FS_BENCH_EXPERT)
            fs_bench_run_experts(b);
        else
            fs_pool_run(b->pool, run_task, b, b->tasks);
        double took = (seconds() - start) / (double)c->a_run;
        if (i == 1 && took < c->best_s) c->best_s = took;
    }
    if (dram) {
        set_tasks(b, c->a_run);
        fs_pool_run(b->pool, flush_task, b, b->tasks);
    }
    c->next = (c->next + c->a_run) % c->copies;
    c->way = (c->way + 1) % fs_bench_read_ways();
}

/* Where copies are fewer than the tasks, threads share a matrix by ranges of rows. */
static void set_parts(const fs_bench *b, fs_bench_contestant *c)
{
    const size_t tasks = (size_t)b->options->threads * TASKS_PER_THREAD;
    bool whole = b->options->threads == 1 || c->kind == FS_BENCH_READ;
    c->parts = whole ? 1 : (tasks + c->a_run - 1) / c->a_run;
}

/* So many copies that a run takes RUN_S: long enough for threads to be awake, short enough to fall between other processes' turns. Tried
 * again, as a longer run is a faster one where threads share it. */
static void choose_length(fs_bench *b, fs_bench_contestant *c, bool dram)
{
    const size_t most = dram ? c->copies : MAX_COPIES_A_RUN;
    c->best_s = 1e30;
    c->next = 0;
    c->a_run = 1;
    set_parts(b, c);
    for (int i = 0; i < TRIES; i++) {
        for (int k = 0; k < TRIES; k++) run(b, c, dram);
        double copies = RUN_S / c->best_s;
        c->a_run = copies < 1 ? 1 : copies > (double)most ? most : (size_t)copies;
        set_parts(b, c);
    }
}

/* Cycles a second now: additions that wait for each other take one each. (Of constants they would not, where a processor adds those up while
 * it renames.) */
static double clock_hz(void)
{
#if defined(__x86_64__) || defined(__aarch64__)
    enum { TURNS = 2000, CHAIN = 10 };
    uint64_t v = 1, step = 3;
    double start = seconds();
    for (int i = 0; i < TURNS; i++)
#if defined(__x86_64__)
        __asm__ volatile("add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n"
                         "add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n"
                         : "+r"(v)
                         : "r"(step));
#else
        __asm__ volatile(
            "add %0, %0, %1\n add %0, %0, %1\n add %0, %0, %1\n add %0, %0, %1\n add %0, %0, %1\n"
            "add %0, %0, %1\n add %0, %0, %1\n add %0, %0, %1\n add %0, %0, %1\n add %0, %0, %1\n"
            : "+r"(v)
            : "r"(step));
#endif
    return TURNS * CHAIN / (seconds() - start);
#else
    return 0;
#endif
}

static void run_rounds(fs_bench *b, bool dram, uint32_t rounds)
{
    size_t all[FS_BENCH_MAX_CONTESTANTS];
    for (uint32_t i = 0; i < b->count; i++) {
        all[i] = b->list[i].copies;
        if (!dram) b->list[i].copies = 1;
        choose_length(b, &b->list[i], dram);
        b->list[i].best_s = 1e30;
    }
    b->clock_hz = 0;
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t i = 0; i < b->count; i++) {
            run(b, &b->list[i], dram);
            if (i % READ_EVERY == READ_EVERY - 1) run(b, &b->list[0], dram);
        }
        double hz = clock_hz();
        if (hz > b->clock_hz) b->clock_hz = hz;
    }
    for (uint32_t i = 0; i < b->count; i++) b->list[i].copies = all[i];
}

/* ---- results ---- */

static void tell_row(const fs_bench *b, const fs_bench_contestant *c, double read, fs_sub1_bench_row *row)
{
    const double weights = (double)c->weights;
    row->bytes_per_s = (double)c->size / c->best_s;
    row->share_of_memory_read = row->bytes_per_s / read;
    snprintf(row->format, sizeof(row->format), "%s", c->name);
    if (c->kind == FS_BENCH_READ) return;
    row->bits_per_weight = 8 * (double)c->size / weights;
    row->gweights_per_s = weights * b->options->batch / c->best_s * 1e-9;
    if (b->clock_hz > 0)
        row->weights_per_cycle = row->gweights_per_s * 1e9 / b->clock_hz / b->options->threads;
}

static void tell(const fs_bench *b, const char *where, fs_sub1_bench_result *out)
{
    const fs_bench_contestant *read = &b->list[0];
    for (uint32_t i = 0; i < b->count; i++) {
        fs_sub1_bench_row *row = &out->row[out->num_rows++];
        *row = (fs_sub1_bench_row){.where = where,
                                   .rows = b->options->rows,
                                   .cols = b->options->cols,
                                   .batch = b->options->batch,
                                   .threads = b->options->threads};
        tell_row(b, &b->list[i], (double)read->size / read->best_s, row);
    }
}

static fs_status check(const fs_sub1_bench_options *o, fs_detail *detail)
{
    if (o->rows == 0 || o->cols == 0 || o->rows > FS_SUB1_MAX_DIM || o->cols > FS_SUB1_MAX_DIM ||
        o->rows % 16 || o->cols % 16)
        return fs_fail(detail, FS_INVALID, "shape: %ux%u: both are multiples of 16 up to %u", o->rows,
                       o->cols, FS_SUB1_MAX_DIM);
    if (o->batch == 0 || o->batch > FS_BENCH_MAX_BATCH)
        return fs_fail(detail, FS_INVALID, "batch: %u is not from 1 to %d", o->batch, FS_BENCH_MAX_BATCH);
    if (o->threads == 0 || o->threads > 1024)
        return fs_fail(detail, FS_INVALID, "threads: %u is not from 1 to 1024", o->threads);
    return FS_OK;
}

static fs_status run_all(fs_bench *b, fs_sub1_bench_result *out)
{
    const fs_sub1_bench_options *o = b->options;
    *out = (fs_sub1_bench_result){.rounds = o->rounds ? o->rounds : ROUNDS, .isa = b->sub1->name};
    fs_status st = fs_pool_create(o->threads, &b->pool);
    if (st != FS_OK) return fs_fail(b->detail, st, "threads: %u cannot be started", o->threads);
    st = fs_bench_add_contestants(b, out->left_out);
    if (st != FS_OK) return st;
    if (o->l2) run_rounds(b, false, out->rounds), tell(b, "l2", out);
    if (o->dram) run_rounds(b, true, out->rounds), tell(b, "dram", out);
    return FS_OK;
}

fs_status fs_sub1_bench(const fs_sub1_bench_options *options, fs_sub1_bench_result *out, fs_detail *detail)
{
    fs_status st = check(options, detail);
    if (st != FS_OK) return st;
    fs_bench *b = calloc(1, sizeof(*b));
    if (!b) return fs_fail(detail, FS_NO_MEMORY, "no memory");
    *b = (fs_bench){.options = options,
                    .kernels = fs_kernels_best(),
                    .sub1 = fs_sub1_kernels_best(),
                    .detail = detail,
                    .random = {1}};
    st = run_all(b, out);
    if (st == FS_NO_MEMORY)
        fs_fail(detail, st, "%ux%u: no memory for all formats", options->rows, options->cols);
    fs_bench_free_contestants(b);
    fs_pool_destroy(b->pool);
    free(b);
    place.of = NULL; /* another run may be where this one was */
    return st;
}
