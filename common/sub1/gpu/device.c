/* common/sub1/gpu/device.c: opening a device, its runs, and what is done. */
#include "gpu/device.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gpu/device_int.h"

static void fill_in(fs_device_options *o)
{
    if (o->num_runs == 0) o->num_runs = 2;
    if (o->max_rows == 0) o->max_rows = 4096;
    if (o->workspace_bytes == 0) o->workspace_bytes = (size_t)64 << 20;
    if (o->staging_bytes == 0) o->staging_bytes = (size_t)8 << 20;
    if (o->upload_bytes == 0) o->upload_bytes = (size_t)2 << 20;
}

static fs_status open_run(fs_gpu_driver *driver, const fs_device_options *o, fs_gpu_run *run)
{
    run->expert = calloc(FS_GPU_MAX_ITEMS, sizeof(fs_device_expert *));
    run->row = calloc(o->max_rows, sizeof(float *));
    run->row_floats = calloc(o->max_rows, sizeof(uint32_t));
    if (!run->expert || !run->row || !run->row_floats) return FS_NO_MEMORY;
    void *staging = NULL;
    fs_status st = driver->create_stream(driver, &run->stream);
    if (st == FS_OK) st = driver->create_event(driver, &run->event);
    if (st == FS_OK) st = driver->alloc(driver, o->workspace_bytes, &run->workspace);
    if (st == FS_OK) st = driver->alloc_host(driver, o->staging_bytes, &staging);
    run->in = staging;
    return st;
}

static void close_run(fs_gpu_driver *driver, fs_gpu_run *run)
{
    driver->destroy_event(driver, run->event);
    driver->free(driver, run->workspace);
    driver->free_host(driver, run->in);
    free(run->expert);
    free(run->row);
    free(run->row_floats);
}

static fs_status open_uploads(fs_device *d)
{
    fs_status st = d->driver->create_stream(d->driver, &d->upload_stream);
    for (int i = 0; st == FS_OK && i < FS_GPU_UPLOAD_BUFFERS; i++) {
        void *memory = NULL;
        st = d->driver->create_event(d->driver, &d->buffer[i].event);
        if (st == FS_OK) st = d->driver->alloc_host(d->driver, d->options.upload_bytes, &memory);
        d->buffer[i].memory = memory;
    }
    return st;
}

fs_status fs_device_open(fs_gpu_driver *driver, const fs_device_options *options, fs_device **out,
                         fs_detail *detail)
{
    fs_device *d = calloc(1, sizeof(*d));
    if (!d) {
        driver->destroy(driver);
        return fs_fail(detail, FS_NO_MEMORY, "GPU: out of memory");
    }
    d->driver = driver;
    d->options = *options;
    fill_in(&d->options);
    fs_status st = FS_OK;
    if (d->options.num_runs > FS_GPU_MAX_RUNS)
        st = fs_fail(detail, FS_INVALID, "GPU: %u runs at once, at most %d", d->options.num_runs,
                     FS_GPU_MAX_RUNS);
    else if ((st = open_uploads(d)) != FS_OK)
        fs_fail(detail, st, "%s: %s", driver->name, driver->error);
    for (uint32_t i = 0; st == FS_OK && i < d->options.num_runs; i++)
        if ((st = open_run(driver, &d->options, &d->run[i])) != FS_OK)
            fs_fail(detail, st, "%s: memory for run %u of %u: %s", driver->name, i, d->options.num_runs,
                    driver->error);
    if (st == FS_OK)
        *out = d;
    else
        fs_device_close(d);
    return st;
}

static void release_experts(fs_device *d, fs_gpu_run *run)
{
    for (uint32_t i = 0; i < run->num_items; i++) {
        fs_device_expert *expert = run->expert[i];
        if (--expert->num_runs == 0 && expert->released) fs_device_free_expert(d, expert);
    }
}

/* The run's place is free before `done` is told: it may start the next one. */
static void end_run(fs_device *d, fs_gpu_run *run, fs_status status)
{
    const float *from = (const float *)(run->in + run->out_at);
    for (uint32_t r = 0; status == FS_OK && r < run->num_rows; r++) {
        memcpy(run->row[r], from, run->row_floats[r] * sizeof(float));
        from += run->row_floats[r];
    }
    release_experts(d, run);
    run->busy = false;
    run->done(run->arg, status);
}

static fs_gpu_run *oldest_run(fs_device *d)
{
    fs_gpu_run *oldest = NULL;
    for (uint32_t i = 0; i < d->options.num_runs; i++) {
        fs_gpu_run *run = &d->run[i];
        if (run->busy && (!oldest || run->order < oldest->order)) oldest = run;
    }
    return oldest;
}

fs_status fs_device_failed(fs_device *d, fs_status status)
{
    if (status != FS_OK && status != FS_NO_MEMORY && !d->lost) {
        d->lost = true;
        fs_log_error("gpu_lost", "device=%s error=%s", d->driver->name, d->driver->error);
    }
    return status;
}

void fs_device_close(fs_device *d)
{
    if (!d) return;
    fs_gpu_driver *driver = d->driver;
    d->lost = true; /* `done` starts nothing new */
    for (int i = 0; i < FS_GPU_MAX_RUNS; i++) driver->destroy_stream(driver, d->run[i].stream); /* waits */
    driver->destroy_stream(driver, d->upload_stream);
    for (fs_gpu_run *run = oldest_run(d); run; run = oldest_run(d)) end_run(d, run, FS_CANCELLED);
    for (int i = 0; i < FS_GPU_MAX_RUNS; i++) close_run(driver, &d->run[i]);
    fs_device_end_uploads(d, FS_CANCELLED);
    while (d->experts) fs_device_free_expert(d, d->experts);
    for (int i = 0; i < FS_GPU_UPLOAD_BUFFERS; i++) {
        driver->destroy_event(driver, d->buffer[i].event);
        driver->free_host(driver, d->buffer[i].memory);
    }
    driver->destroy(driver);
    free(d);
}

const fs_gpu_driver *fs_device_driver(const fs_device *d)
{
    return d->driver;
}

static bool fits(const fs_device *d, const fs_device_item *items, uint32_t num_items, fs_gpu_plan *plan)
{
    if (num_items > FS_GPU_MAX_ITEMS) return false;
    uint64_t rows = 0;
    for (uint32_t i = 0; i < num_items; i++) rows += items[i].rows.num_rows;
    if (rows > d->options.max_rows) return false;
    fs_gpu_plan_sizes(items, num_items, plan);
    return plan->total <= d->options.workspace_bytes &&
           plan->in_bytes + plan->out_bytes <= d->options.staging_bytes;
}

bool fs_device_fits(const fs_device *d, const fs_device_item *items, uint32_t num_items)
{
    fs_gpu_plan plan;
    return fits(d, items, num_items, &plan);
}

static fs_status enqueue(fs_device *d, fs_gpu_run *run, const fs_gpu_plan *plan)
{
    fs_gpu_driver *driver = d->driver;
    fs_status st = driver->copy_in(driver, run->stream, run->workspace, run->in, plan->in_bytes);
    if (st == FS_OK) st = driver->zero(driver, run->stream, run->workspace + plan->zero, plan->zero_bytes);
    for (uint32_t i = 0; st == FS_OK && i < plan->num_launches; i++) {
        const fs_gpu_launch *l = &plan->launch[i];
        st = driver->launch(driver, run->stream, l->kernel, l->num_blocks, l->shared_bytes,
                            run->workspace + l->list, l->count);
    }
    if (st == FS_OK)
        st = driver->copy_out(driver, run->stream, run->in + run->out_at, run->workspace + plan->out,
                              plan->out_bytes);
    if (st == FS_OK) st = driver->record(driver, run->event, run->stream);
    return st;
}

/* What end_run needs; the experts stay until then. */
static void remember(fs_gpu_run *run, const fs_device_item *items, uint32_t num_items)
{
    run->num_items = num_items;
    run->num_rows = 0;
    for (uint32_t i = 0; i < num_items; i++) {
        run->expert[i] = items[i].expert;
        items[i].expert->num_runs++;
        for (uint32_t r = 0; r < items[i].rows.num_rows; r++) {
            run->row[run->num_rows] = items[i].rows.out[r];
            run->row_floats[run->num_rows++] = items[i].expert->shape.hidden_size;
        }
    }
}

fs_status fs_device_start(fs_device *d, const fs_device_item *items, uint32_t num_items,
                          void (*done)(void *arg, fs_status status), void *arg)
{
    if (d->lost) return FS_UNAVAILABLE;
    fs_gpu_run *run = NULL;
    for (uint32_t i = 0; i < d->options.num_runs && !run; i++)
        if (!d->run[i].busy) run = &d->run[i];
    FS_ASSERT(num_items > 0);
    for (uint32_t i = 0; i < num_items; i++)
        FS_ASSERT(items[i].expert->ready && items[i].rows.num_rows >= 1 &&
                  items[i].rows.num_rows <= FS_EXPERT_MAX_ROWS);
    fs_gpu_plan plan;
    if (!run || !fits(d, items, num_items, &plan)) return FS_EXHAUSTED;
    fs_gpu_plan_run(items, num_items, d->driver->num_sms, run->workspace, run->in, &plan);
    run->out_at = plan.in_bytes;
    fs_status st = enqueue(d, run, &plan);
    if (st != FS_OK) { /* half of it may be on its way: this stream is not to be trusted any more */
        if (st == FS_NO_MEMORY) st = FS_UNAVAILABLE;
        return fs_device_failed(d, st);
    }
    remember(run, items, num_items);
    run->done = done;
    run->arg = arg;
    run->order = d->num_started++;
    run->busy = true;
    return FS_OK;
}

static uint32_t under_way(const fs_device *d)
{
    uint32_t n = d->num_uploads;
    for (uint32_t i = 0; i < d->options.num_runs; i++) n += d->run[i].busy;
    return n;
}

uint32_t fs_device_poll(fs_device *d)
{
    fs_device_pump_uploads(d);
    uint64_t before = d->num_started; /* what `done` starts is asked about next time */
    for (fs_gpu_run *run; !d->lost && (run = oldest_run(d)) && run->order < before;) {
        bool happened = false;
        if (fs_device_failed(d, d->driver->query(d->driver, run->event, &happened)) != FS_OK || !happened)
            break;
        end_run(d, run, FS_OK);
    }
    if (d->lost) {
        for (fs_gpu_run *run = oldest_run(d); run; run = oldest_run(d)) end_run(d, run, FS_UNAVAILABLE);
        fs_device_end_uploads(d, FS_UNAVAILABLE);
    }
    return under_way(d);
}

uint32_t fs_device_wait(fs_device *d)
{
    fs_gpu_run *run = oldest_run(d);
    fs_gpu_event *event = run ? run->event : NULL;
    if (!run && d->buffer[d->oldest_buffer].busy) event = d->buffer[d->oldest_buffer].event;
    if (event && !d->lost) (void)fs_device_failed(d, d->driver->synchronize(d->driver, event));
    return fs_device_poll(d);
}
