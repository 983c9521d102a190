/* expert_node/exec/job.c: batches become jobs, jobs run on threads, and what they computed is credited to its dispatches. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "exec/exec_int.h"

/* ---- on a worker thread ---- */

/* Grows once to what the model's largest expert needs, at its first job. */
static bool need_scratch(fs_exec_job *job, size_t bytes)
{
    if (bytes <= job->scratch_bytes) return true;
    free(job->scratch);
    job->scratch = fs_alloc_aligned(bytes);
    job->scratch_bytes = job->scratch ? bytes : 0;
    return job->scratch != NULL;
}

static fs_expert_rows rows_of(const fs_exec_job *job, const fs_exec_batch *batch)
{
    return (fs_expert_rows){.num_rows = batch->num_rows,
                            .x_i8 = job->x_i8 + batch->first_row,
                            .x_scale = job->x_scale + batch->first_row,
                            .x_f32 = job->x_f32 + batch->first_row,
                            .out = job->out + batch->first_row};
}

static void run_batch(fs_exec_job *job, fs_exec_batch *batch)
{
    const fs_expert *expert = fs_held_expert(batch->held);
    if (!need_scratch(job, fs_expert_scratch_bytes(expert, FS_EXPERT_MAX_ROWS))) {
        batch->status = FS_WIRE_EXHAUSTED;
        return;
    }
    fs_expert_rows rows = rows_of(job, batch);
    int64_t start = fs_clock_now(fs_clock_system());
    fs_expert_run(expert, &rows, job->scratch, NULL);
    batch->ns = batch->threads_ns = fs_clock_now(fs_clock_system()) - start;
}

static int64_t take_part(fs_exec_job *job)
{
    int64_t start = fs_clock_now(fs_clock_system());
    fs_phases_work(&job->phases);
    return fs_clock_now(fs_clock_system()) - start;
}

/* What the device leaves undone runs here, too: it is little, or the last that the device was asked for. */
static void run_on_device(fs_job *base)
{
    fs_exec_job *job = (fs_exec_job *)base;
    fs_offload_batch batch[FS_EXEC_JOB_BATCHES];
    int64_t start = fs_clock_now(fs_clock_system());
    for (uint32_t i = 0; i < job->num_batches; i++)
        batch[i] = (fs_offload_batch){.key = job->batches[i].key,
                                      .expert = fs_held_expert(job->batches[i].held),
                                      .rows = rows_of(job, &job->batches[i])};
    fs_offload_run(job->exec->device, batch, job->num_batches);
    int64_t ns = fs_clock_now(fs_clock_system()) - start;
    for (uint32_t i = 0; i < job->num_batches; i++) {
        fs_exec_batch *b = &job->batches[i];
        b->on_device = batch[i].done;
        if (b->on_device)
            b->ns = b->threads_ns = ns * b->num_rows / job->num_rows;
        else
            run_batch(job, b);
    }
}

static void run_job(fs_job *base)
{
    fs_exec_job *job = (fs_exec_job *)base;
    if (job->threads > 1)
        job->batches[0].ns = job->batches[0].threads_ns = take_part(job);
    else
        for (uint32_t i = 0; i < job->num_batches; i++) run_batch(job, &job->batches[i]);
}

static void run_helper(fs_job *base)
{
    fs_exec_helper *helper = (fs_exec_helper *)base;
    helper->ns = take_part(helper->of);
}

/* ---- on the loop ---- */

static void credit(fs_exec *exec, const fs_exec_job *job, const fs_exec_batch *batch)
{
    for (uint32_t i = 0; i < batch->num_pieces; i++) {
        const fs_batch_piece *piece = &job->pieces[batch->first_piece + i];
        if (batch->status != FS_WIRE_OK) {
            fs_exec_pairs_failed(exec, piece, batch->status);
            continue;
        }
        exec->pending[piece->tag].compute_ns += (uint64_t)batch->ns * piece->count / batch->num_rows;
        fs_exec_pairs_done(exec, piece->tag, piece->count);
    }
    if (batch->status != FS_WIRE_OK) return;
    /* Over about 16 batches. Never 0 again: that means unknown. */
    uint64_t row_ns = (uint64_t)batch->threads_ns / batch->num_rows;
    exec->row_ns = exec->row_ns ? (15 * exec->row_ns + row_ns) / 16 + 1 : row_ns + 1;
    exec->stats.batches++;
    exec->stats.device_batches += batch->on_device;
    exec->stats.rows_computed += batch->num_rows;
    exec->stats.compute_ns += (uint64_t)batch->ns;
}

static void credit_job(fs_exec *exec, fs_exec_job *job)
{
    if (job->threads > 1) {
        fs_exec_batch *batch = &job->batches[0];
        batch->threads_ns += job->helpers_ns;
        if (batch->ns < job->longest_ns) batch->ns = job->longest_ns;
    }
    for (uint32_t i = 0; i < job->num_batches; i++) {
        fs_store_release(job->batches[i].held);
        credit(exec, job, &job->batches[i]);
    }
}

/* One of the job's threads is done. */
static void thread_done(fs_exec_job *job)
{
    fs_exec *exec = job->exec;
    exec->threads_busy--;
    if (--job->threads_left == 0) {
        exec->stats.jobs++;
        credit_job(exec, job);
        job->next_free = exec->free_job;
        exec->free_job = job;
    }
    fs_exec_start_jobs(exec);
}

static void job_done(fs_job *base)
{
    thread_done((fs_exec_job *)base);
}

/* Helpers come after their job has begun, or before: the times of both count once the last is back. */
static void helper_done(fs_job *base)
{
    fs_exec_helper *helper = (fs_exec_helper *)base;
    fs_exec_job *job = helper->of;
    job->helpers_ns += helper->ns;
    if (helper->ns > job->longest_ns) job->longest_ns = helper->ns;
    helper->next_free = job->exec->free_helper;
    job->exec->free_helper = helper;
    thread_done(job);
}

static void add_rows(fs_exec *exec, fs_exec_job *job, const fs_batch_piece *piece)
{
    const fs_pending *p = &exec->pending[piece->tag];
    const fs_dispatch *d = &p->dispatch;
    for (uint32_t i = piece->first; i < piece->first + piece->count; i++) {
        uint32_t row = fs_dispatch_pair(d, i), at = job->num_rows++;
        job->x_i8[at] = d->row_i8 ? d->row_i8 + (size_t)row * d->row_stride : NULL;
        job->x_scale[at] = d->scale ? d->scale[row] : 0;
        job->x_f32[at] = d->row_f32 ? d->row_f32 + (size_t)row * d->row_stride : NULL;
        job->out[at] = p->row + (size_t)i * d->hidden_size;
    }
}

/* Moves the next batch into the job. false: nothing waits, or what waits would have to be split to fit. */
static bool add_batch(fs_exec *exec, fs_exec_job *job)
{
    uint32_t room = FS_EXEC_JOB_ROWS - job->num_rows, waiting = fs_batcher_peek(exec->batcher);
    if (waiting == 0 || (job->num_batches > 0 && waiting > room)) return false;
    fs_batch_piece *pieces = job->pieces + job->num_pieces;
    uint32_t key, num_pieces = fs_batcher_next(exec->batcher, room, &key, pieces);
    fs_exec_batch batch = {
        .first_row = job->num_rows, .first_piece = job->num_pieces, .num_pieces = num_pieces};
    batch.key = key;
    fs_status st = fs_store_acquire(exec->store, key,
                                    &batch.held); /* before the claim of those who waited goes */
    fs_exec_rows_left(exec, key);
    if (st != FS_OK) { /* dropped since the dispatch came, or it could not be loaded */
        for (uint32_t i = 0; i < num_pieces; i++)
            fs_exec_pairs_failed(exec, &pieces[i], st == FS_CORRUPT ? FS_WIRE_CORRUPT : FS_WIRE_MOVED);
        return true;
    }
    for (uint32_t i = 0; i < num_pieces; i++) add_rows(exec, job, &pieces[i]);
    job->num_pieces += num_pieces;
    batch.num_rows = job->num_rows - batch.first_row;
    job->batches[job->num_batches++] = batch;
    return true;
}

static void fill_job(fs_exec *exec, fs_exec_job *job, uint32_t max_batches)
{
    if (max_batches > FS_EXEC_JOB_BATCHES) max_batches = FS_EXEC_JOB_BATCHES;
    job->num_batches = job->num_rows = job->num_pieces = 0;
    while (job->num_batches < max_batches && add_batch(exec, job)) {
    }
}

/* A decode step's few rows take microseconds: less than waking a thread and being woken by it. */
static bool is_little(const fs_exec *exec)
{
    return exec->row_ns > 0 && exec->threads_busy == 0 &&
           fs_batcher_num_ready_rows(exec->batcher) * exec->row_ns < exec->inline_ns;
}

/* Makes phases of the job's one batch. false: no memory; the job will find that out for itself. */
static bool divide(fs_exec_job *job, uint32_t threads)
{
    const fs_expert *expert = fs_held_expert(job->batches[0].held);
    if (!need_scratch(job, fs_expert_scratch_bytes(expert, FS_EXPERT_MAX_ROWS))) return false;
    fs_phase phase[FS_EXPERT_PHASES];
    job->rows = rows_of(job, &job->batches[0]);
    uint32_t num = fs_expert_plan(expert, &job->rows, job->scratch, threads, phase), most = 1;
    for (uint32_t i = 0; i < num; i++)
        if (phase[i].num_tasks > most) most = phase[i].num_tasks;
    if (most == 1) return false; /* too small a one */
    fs_phases_set(&job->phases, phase, num, job->scratch);
    return true;
}

/* Gives the job to a thread, or its batch to several if they would be idle. */
static void post(fs_exec *exec, fs_exec_job *job, uint32_t idle)
{
    const fs_exec_load load = {.rows = job->num_rows,
                               .row_ns = exec->row_ns,
                               .split_ns = exec->split_ns,
                               .waiting = fs_batcher_num_ready(exec->batcher),
                               .idle = idle};
    uint32_t threads = job->num_batches == 1 ? fs_exec_threads_for(load) : 1;
    if (threads > 1 && !divide(job, threads)) threads = 1;
    job->threads = job->threads_left = threads;
    job->helpers_ns = job->longest_ns = 0;
    exec->threads_busy += threads;
    exec->stats.batches_split += threads > 1;
    fs_worker_post(exec->worker, &job->job);
    for (uint32_t i = 1; i < threads; i++) {
        fs_exec_helper *helper = exec->free_helper;
        exec->free_helper = helper->next_free;
        helper->of = job;
        fs_worker_post(exec->worker, &helper->job);
    }
}

static void device_done(fs_job *base)
{
    fs_exec_job *job = (fs_exec_job *)base;
    fs_exec *exec = job->exec;
    fs_offload_stats stats;
    exec->device_busy = false;
    fs_offload_get_stats(exec->device, &stats);
    if (!stats.alive) exec->device = NULL; /* the CPU goes on alone */
    exec->stats.jobs++;
    credit_job(exec, job);
    fs_exec_start_jobs(exec);
}

/* One job at a time: what comes meanwhile is more rows for each expert of the next one. */
static void start_device(fs_exec *exec)
{
    while (!exec->device_busy && fs_batcher_num_ready(exec->batcher) > 0) {
        fs_exec_job *job = exec->device_job;
        fill_job(exec, job, FS_EXEC_JOB_BATCHES);
        if (job->num_batches == 0) continue; /* all of it was dropped */
        exec->device_busy = true;
        fs_worker_post(exec->device_worker, &job->job);
    }
}

void fs_exec_start_jobs(fs_exec *exec)
{
    if (exec->device) {
        start_device(exec);
        return;
    }
    while (is_little(exec) && fs_batcher_num_ready(exec->batcher) > 0) {
        fill_job(exec, exec->loop_job, FS_EXEC_JOB_BATCHES);
        run_job(&exec->loop_job->job);
        credit_job(exec, exec->loop_job);
    }
    while (exec->threads_busy < exec->threads && fs_batcher_num_ready(exec->batcher) > 0) {
        fs_exec_job *job = exec->free_job;
        /* The experts that wait are divided over the threads that are idle. */
        uint32_t idle = exec->threads - exec->threads_busy, ready = fs_batcher_num_ready(exec->batcher);
        fill_job(exec, job, (ready + idle - 1) / idle);
        if (job->num_batches == 0) continue; /* all of it was dropped */
        exec->free_job = job->next_free;
        post(exec, job, idle);
    }
}

/* calloc's memory would not be aligned as a job's phases are. */
static fs_exec_job *new_jobs(uint32_t count)
{
    size_t bytes;
    if (!fs_mul_size(count, sizeof(fs_exec_job), &bytes)) return NULL;
    fs_exec_job *jobs = fs_alloc_aligned(bytes);
    if (jobs) memset(jobs, 0, bytes);
    return jobs;
}

fs_status fs_exec_create_jobs(fs_exec *exec, uv_loop_t *loop)
{
    exec->jobs = new_jobs(exec->threads);
    exec->helpers = calloc(exec->threads, sizeof(*exec->helpers));
    exec->loop_job = new_jobs(1);
    if (!exec->jobs || !exec->helpers || !exec->loop_job) return FS_NO_MEMORY;
    exec->loop_job->exec = exec;
    exec->loop_job->threads = 1;
    for (uint32_t i = exec->threads; i-- > 0;) {
        fs_exec_job *job = &exec->jobs[i];
        job->job = (fs_job){.run = run_job, .done = job_done};
        job->exec = exec;
        job->next_free = exec->free_job;
        exec->free_job = job;
        fs_phases_init(&job->phases);
        exec->helpers[i].job = (fs_job){.run = run_helper, .done = helper_done};
        exec->helpers[i].next_free = exec->free_helper;
        exec->free_helper = &exec->helpers[i];
    }
    exec->phases_made = true;
    fs_status st = fs_worker_create_hooked(loop, "expert", exec->threads, fs_numa_hook(exec->numa),
                                           &exec->worker);
    if (st != FS_OK || !exec->device) return st;
    exec->device_job = new_jobs(1);
    if (!exec->device_job) return FS_NO_MEMORY;
    exec->device_job->job = (fs_job){.run = run_on_device, .done = device_done};
    exec->device_job->exec = exec;
    exec->device_job->threads = 1;
    return fs_worker_create(loop, "device", 1, &exec->device_worker);
}

void fs_exec_destroy_jobs(fs_exec *exec)
{
    fs_worker_destroy(exec->device_worker);
    fs_worker_destroy(exec->worker); /* joins: no batch is read or written from here on */
    for (uint32_t b = 0; exec->device_busy && b < exec->device_job->num_batches; b++)
        fs_store_release(exec->device_job->batches[b].held);
    if (exec->device_job) free(exec->device_job->scratch);
    free(exec->device_job);
    for (uint32_t i = 0; exec->jobs && i < exec->threads; i++) {
        fs_exec_job *job = &exec->jobs[i];
        bool running = true; /* one that never ran its `done` still holds its experts */
        for (const fs_exec_job *f = exec->free_job; f; f = f->next_free) running &= f != job;
        for (uint32_t b = 0; running && b < job->num_batches; b++) fs_store_release(job->batches[b].held);
        if (exec->phases_made) fs_phases_fini(&job->phases);
        free(job->scratch);
    }
    free(exec->helpers);
    if (exec->loop_job) free(exec->loop_job->scratch);
    free(exec->loop_job);
    free(exec->jobs);
}
