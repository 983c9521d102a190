/* common/sub1/gpu/emulated.c: a GPU that is not there: memory from the heap, streams that do their work late, kernels as loops. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "gpu/blocked_kernels.h"
#include "gpu/driver.h"
#include "gpu/float_kernels.h"
#include "gpu/free_kernels.h"

#define KERNEL_ENTRY(id, symbol) symbol,
static fs_grid_kernel *const kernels[] = {FS_GPU_KERNELS(KERNEL_ENTRY)};

enum {
    ALIGN = 256,
    MAX_WORK = 64 /* a stream's, not yet done; more makes the host wait, as on a GPU */,
    MAX_STREAMS = 16
};

typedef enum { COPY_IN, COPY_OUT, ZERO, LAUNCH, RECORD } work_kind;
typedef struct {
    work_kind kind;
    void *to;
    const void *from; /* or the list of a kernel */
    size_t bytes;
    fs_gpu_kernel kernel;
    uint32_t num_blocks, shared_bytes, count;
    fs_gpu_event *event;
    uint64_t ticket; /* of the event: which of its recordings */
} work;

struct fs_gpu_stream {
    work queue[MAX_WORK];
    uint32_t first, count;
};
struct fs_gpu_event {
    uint64_t recorded, happened; /* tickets */
};

/* What lies in front of memory that was given. */
typedef struct {
    size_t bytes;
} allocation;

typedef struct {
    fs_gpu_driver driver; /* first */
    fs_gpu_emulation options;
    fs_random random;
    uint64_t bytes_used, calls;
    bool lost;
    fs_gpu_stream *streams[MAX_STREAMS];
    uint32_t num_streams;
} emulation;

static emulation *of(fs_gpu_driver *driver)
{
    return (emulation *)driver;
}

static fs_status fail(emulation *e, fs_status status, const char *what)
{
    snprintf(e->driver.error, sizeof(e->driver.error), "%s: %s", what,
             status == FS_NO_MEMORY ? "out of memory" : "the device failed");
    return status;
}

/* Counts a call that can fail; the options say which one does. */
static fs_status enter(emulation *e, const char *what)
{
    if (!e->lost && e->options.fail_after && ++e->calls == e->options.fail_after) {
        e->lost = e->options.fail_with != FS_NO_MEMORY;
        return fail(e, e->options.fail_with, what);
    }
    return e->lost ? fail(e, FS_UNAVAILABLE, what) : FS_OK;
}

static fs_status take(emulation *e, size_t bytes, const char *what, void **out)
{
    fs_status st = enter(e, what);
    if (st != FS_OK) return st;
    if (bytes > e->options.memory_bytes - e->bytes_used) return fail(e, FS_NO_MEMORY, what);
    uint8_t *memory = aligned_alloc(ALIGN, ALIGN + (bytes + ALIGN - 1) / ALIGN * ALIGN);
    if (!memory) return fail(e, FS_NO_MEMORY, what);
    memcpy(memory, &(allocation){bytes}, sizeof(allocation));
    memset(memory + ALIGN, 0xcd, bytes); /* fresh memory holds nothing that one could rely on */
    e->bytes_used += bytes;
    *out = memory + ALIGN;
    return FS_OK;
}

static void give_back(emulation *e, void *memory)
{
    if (!memory) return;
    allocation a;
    memcpy(&a, (uint8_t *)memory - ALIGN, sizeof(a));
    e->bytes_used -= a.bytes;
    free((uint8_t *)memory - ALIGN);
}

static fs_status emulated_alloc(fs_gpu_driver *driver, size_t bytes, fs_gpu_address *out)
{
    void *memory = NULL;
    fs_status st = take(of(driver), bytes, "alloc", &memory);
    if (st == FS_OK) *out = (uintptr_t)memory;
    return st;
}

static fs_status emulated_alloc_host(fs_gpu_driver *driver, size_t bytes, void **out)
{
    return take(of(driver), bytes, "alloc_host", out);
}

static void emulated_free_host(fs_gpu_driver *driver, void *memory)
{
    give_back(of(driver), memory);
}

static fs_status emulated_create_stream(fs_gpu_driver *driver, fs_gpu_stream **out)
{
    emulation *e = of(driver);
    fs_status st = enter(e, "create_stream");
    if (st != FS_OK) return st;
    FS_ASSERT(e->num_streams < MAX_STREAMS);
    fs_gpu_stream *stream = calloc(1, sizeof(*stream));
    if (!stream) return fail(e, FS_NO_MEMORY, "create_stream");
    e->streams[e->num_streams++] = stream;
    *out = stream;
    return FS_OK;
}

static fs_status emulated_create_event(fs_gpu_driver *driver, fs_gpu_event **out)
{
    fs_status st = enter(of(driver), "create_event");
    if (st != FS_OK) return st;
    fs_gpu_event *event = calloc(1, sizeof(*event));
    if (!event) return fail(of(driver), FS_NO_MEMORY, "create_event");
    *out = event;
    return FS_OK;
}

static void emulated_destroy_event(fs_gpu_driver *driver, fs_gpu_event *event)
{
    free(event);
}

static void perform(emulation *e, const work *w)
{
    if (w->kind == RECORD) w->event->happened = w->ticket;
    if (e->lost) return; /* time goes on, but nothing is done any more */
    if (w->kind == COPY_IN || w->kind == COPY_OUT) memcpy(w->to, w->from, w->bytes);
    if (w->kind == ZERO) memset(w->to, 0, w->bytes);
    if (w->kind == LAUNCH)
        e->lost = !fs_grid_run(kernels[w->kernel], w->num_blocks, w->shared_bytes, e->options.order, w->from,
                               w->count);
}

static bool perform_next(emulation *e, fs_gpu_stream *stream)
{
    if (stream->count == 0) return false;
    perform(e, &stream->queue[stream->first]);
    stream->first = (stream->first + 1) % MAX_WORK;
    stream->count--;
    return true;
}

/* One piece of work from some stream. False: there is none. */
static bool step(emulation *e)
{
    uint32_t begin = e->num_streams ? fs_random_below(&e->random, e->num_streams) : 0;
    for (uint32_t i = 0; i < e->num_streams; i++)
        if (perform_next(e, e->streams[(begin + i) % e->num_streams])) return true;
    return false;
}

static void emulated_free(fs_gpu_driver *driver, fs_gpu_address address)
{
    while (address && step(of(driver))) continue; /* as cuMemFree: it may wait for what runs */
    give_back(of(driver), (void *)(uintptr_t)address);
}

static void emulated_destroy_stream(fs_gpu_driver *driver, fs_gpu_stream *stream)
{
    emulation *e = of(driver);
    if (!stream) return;
    while (stream->count && step(e)) continue;
    for (uint32_t i = 0; i < e->num_streams; i++)
        if (e->streams[i] == stream) e->streams[i] = e->streams[--e->num_streams];
    free(stream);
}

static fs_status post(fs_gpu_driver *driver, fs_gpu_stream *stream, const char *what, work w)
{
    emulation *e = of(driver);
    fs_status st = enter(e, what);
    if (st != FS_OK) return st;
    while (stream->count == MAX_WORK) step(e);
    if (w.kind == RECORD) w.ticket = ++w.event->recorded;
    stream->queue[(stream->first + stream->count++) % MAX_WORK] = w;
    return FS_OK;
}

static fs_status emulated_copy_in(fs_gpu_driver *driver, fs_gpu_stream *stream, fs_gpu_address to,
                                  const void *from, size_t bytes)
{
    return post(driver, stream, "copy_in",
                (work){.kind = COPY_IN, .to = (void *)(uintptr_t)to, .from = from, .bytes = bytes});
}

static fs_status emulated_copy_out(fs_gpu_driver *driver, fs_gpu_stream *stream, void *to,
                                   fs_gpu_address from, size_t bytes)
{
    return post(driver, stream, "copy_out",
                (work){.kind = COPY_OUT, .to = to, .from = (const void *)(uintptr_t)from, .bytes = bytes});
}

static fs_status emulated_zero(fs_gpu_driver *driver, fs_gpu_stream *stream, fs_gpu_address at, size_t bytes)
{
    FS_ASSERT(bytes % 4 == 0);
    return post(driver, stream, "zero", (work){.kind = ZERO, .to = (void *)(uintptr_t)at, .bytes = bytes});
}

static fs_status emulated_launch(fs_gpu_driver *driver, fs_gpu_stream *stream, fs_gpu_kernel kernel,
                                 uint32_t num_blocks, uint32_t shared_bytes, fs_gpu_address list,
                                 uint32_t count)
{
    FS_ASSERT(kernel < FS_GPU_NUM_KERNELS && num_blocks > 0 && count > 0 && shared_bytes <= 48 * 1024);
    return post(driver, stream, "launch",
                (work){.kind = LAUNCH,
                       .kernel = kernel,
                       .num_blocks = num_blocks,
                       .shared_bytes = shared_bytes,
                       .from = (const void *)(uintptr_t)list,
                       .count = count});
}

static fs_status emulated_record(fs_gpu_driver *driver, fs_gpu_event *event, fs_gpu_stream *stream)
{
    return post(driver, stream, "record", (work){.kind = RECORD, .event = event});
}

static fs_status emulated_query(fs_gpu_driver *driver, fs_gpu_event *event, bool *happened)
{
    fs_status st = enter(of(driver), "query");
    if (st != FS_OK) return st;
    *happened = event->happened >= event->recorded;
    if (!*happened) step(of(driver)); /* so that who asks again and again gets an answer */
    return of(driver)->lost ? fail(of(driver), FS_UNAVAILABLE, "query") : FS_OK;
}

static fs_status emulated_synchronize(fs_gpu_driver *driver, fs_gpu_event *event)
{
    fs_status st = enter(of(driver), "synchronize");
    if (st != FS_OK) return st;
    while (event->happened < event->recorded) FS_ASSERT(step(of(driver)));
    return of(driver)->lost ? fail(of(driver), FS_UNAVAILABLE, "synchronize") : FS_OK;
}

static void emulated_destroy(fs_gpu_driver *driver)
{
    if (!driver) return;
    FS_ASSERT(of(driver)->num_streams == 0);
    free(driver);
}

static const fs_gpu_driver table = {.name = "emulated GPU",
                                    .major = 8,
                                    .destroy = emulated_destroy,
                                    .alloc = emulated_alloc,
                                    .free = emulated_free,
                                    .alloc_host = emulated_alloc_host,
                                    .free_host = emulated_free_host,
                                    .create_stream = emulated_create_stream,
                                    .destroy_stream = emulated_destroy_stream,
                                    .create_event = emulated_create_event,
                                    .destroy_event = emulated_destroy_event,
                                    .copy_in = emulated_copy_in,
                                    .copy_out = emulated_copy_out,
                                    .zero = emulated_zero,
                                    .launch = emulated_launch,
                                    .record = emulated_record,
                                    .query = emulated_query,
                                    .synchronize = emulated_synchronize};

fs_status fs_gpu_open_emulated(const fs_gpu_emulation *options, fs_gpu_driver **out, fs_detail *detail)
{
    emulation *e = calloc(1, sizeof(*e));
    if (!e) return fs_fail(detail, FS_NO_MEMORY, "emulated GPU: out of memory");
    e->options = *options;
    if (e->options.memory_bytes == 0) e->options.memory_bytes = 1u << 30;
    e->random = (fs_random){options->seed + 1};
    e->driver = table;
    e->driver.num_sms = options->num_sms ? options->num_sms : 8;
    e->driver.memory_bytes = e->options.memory_bytes;
    *out = &e->driver;
    return FS_OK;
}

uint64_t fs_gpu_emulated_bytes(const fs_gpu_driver *driver)
{
    return ((const emulation *)driver)->bytes_used;
}
