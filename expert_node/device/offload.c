/* expert_node/device/offload.c: see offload.h. */
#include "device/offload.h"

#include <stdlib.h>

#include "base/log.h"

enum { MAX_ITEMS = 64 };

/* An expert that is on the device, in order of use. */
typedef struct {
    fs_device_expert *expert; /* NULL: not there */
    uint64_t used;            /* the run that used it last */
} resident;

struct fs_offload {
    fs_device *device;
    resident *key; /* [num_keys] */
    uint32_t num_keys;
    uint64_t run;   /* the number of the one under way */
    fs_status last; /* of what was waited for last */
    fs_offload_stats stats;
};

/* ---- life ---- */

fs_status fs_offload_create(fs_gpu_driver *driver, const fs_offload_options *options, fs_offload **out,
                            fs_detail *detail)
{
    fs_device *device = NULL;
    const fs_device_options device_options = {.num_runs = 1, .expert_bytes = options->memory_bytes};
    fs_status st = fs_device_open(driver, &device_options, &device, detail);
    if (st != FS_OK) return st;
    fs_offload *o = calloc(1, sizeof *o);
    if (o) o->key = calloc(options->num_keys, sizeof *o->key);
    if (!o || !o->key) {
        fs_device_close(device);
        free(o);
        return fs_fail(detail, FS_NO_MEMORY, "no memory for the experts of a device");
    }
    o->device = device;
    o->num_keys = options->num_keys;
    o->stats.alive = true;
    *out = o;
    return FS_OK;
}

void fs_offload_destroy(fs_offload *o)
{
    if (!o) return;
    fs_device_close(o->device);
    free(o->key);
    free(o);
}

const fs_gpu_driver *fs_offload_driver(const fs_offload *o)
{
    return fs_device_driver(o->device);
}

void fs_offload_get_stats(const fs_offload *o, fs_offload_stats *out)
{
    *out = o->stats;
    out->resident_bytes = fs_device_expert_bytes(o->device);
}

/* ---- waiting ---- */

static void note(void *arg, fs_status status)
{
    fs_offload *o = arg;
    o->last = status;
}

/* Until what was begun has ended, and how. */
static fs_status wait(fs_offload *o)
{
    o->last = FS_OK;
    while (fs_device_wait(o->device) > 0) {
    }
    return o->last;
}

static void fail(fs_offload *o, const char *what)
{
    if (!o->stats.alive) return;
    o->stats.alive = false;
    fs_log_error("device_failed", "device=\"%s\" at=%s text=\"%s\"", fs_offload_driver(o)->name, what,
                 fs_offload_driver(o)->error);
}

/* Experts of one model are of one kind. */
static void refuse(fs_offload *o, const fs_expert *expert)
{
    fs_detail why = {0};
    if (fs_device_supports(expert, &why) == FS_OK) return;
    o->stats.alive = false;
    fs_log_warn("device_unused", "device=\"%s\" text=\"%s\"", fs_offload_driver(o)->name, why.text);
}

/* ---- experts ---- */

/* Lets go of the one that was used longest ago, if this run does not use it. */
static bool make_room(fs_offload *o)
{
    resident *oldest = NULL;
    for (uint32_t i = 0; i < o->num_keys; i++) {
        resident *r = &o->key[i];
        if (r->expert && r->used < o->run && (!oldest || r->used < oldest->used)) oldest = r;
    }
    if (!oldest) return false;
    fs_device_expert_release(o->device, oldest->expert);
    oldest->expert = NULL;
    o->stats.resident--;
    o->stats.evictions++;
    return true;
}

static bool upload(fs_offload *o, resident *r, const fs_expert *expert)
{
    fs_status st;
    while ((st = fs_device_upload(o->device, expert, note, o, &r->expert)) == FS_NO_MEMORY && make_room(o)) {
    }
    if (st == FS_OK) st = wait(o);
    if (st == FS_OK) {
        o->stats.uploads++;
        o->stats.resident++;
        return true;
    }
    if (st == FS_UNAVAILABLE) fail(o, "upload");
    if (st == FS_UNSUPPORTED) refuse(o, expert);
    r->expert = NULL; /* one whose upload ended is gone with it */
    return false;
}

static bool bring(fs_offload *o, const fs_offload_batch *batch)
{
    FS_ASSERT(batch->key < o->num_keys);
    resident *r = &o->key[batch->key];
    r->used = o->run;
    return r->expert || upload(o, r, batch->expert);
}

/* ---- runs ---- */

static void run_items(fs_offload *o, const fs_device_item *items, fs_offload_batch *const *of, uint32_t n)
{
    if (n == 0 || !o->stats.alive) return;
    fs_status st = fs_device_start(o->device, items, n, note, o);
    if (st == FS_OK) st = wait(o);
    if (st == FS_UNAVAILABLE) fail(o, "run");
    if (st != FS_OK) return;
    for (uint32_t i = 0; i < n; i++) of[i]->done = true;
    o->stats.runs++;
    o->stats.batches += n;
}

/* Whether one more fits in the run that is being made. */
static bool has_room(const fs_offload *o, const fs_device_item *items, uint32_t n)
{
    return n < MAX_ITEMS && fs_device_fits(o->device, items, n + 1);
}

void fs_offload_run(fs_offload *o, fs_offload_batch *batches, uint32_t num_batches)
{
    fs_device_item items[MAX_ITEMS + 1] = {0};
    fs_offload_batch *of[MAX_ITEMS + 1] = {0};
    uint32_t n = 0;
    o->run++;
    for (uint32_t i = 0; i < num_batches; i++) {
        fs_offload_batch *batch = &batches[i];
        batch->done = false;
        if (!o->stats.alive || !bring(o, batch)) continue;
        of[n] = batch;
        items[n] = (fs_device_item){.expert = o->key[batch->key].expert, .rows = batch->rows};
        if (n > 0 && !has_room(o, items, n)) {
            run_items(o, items, of, n);
            of[0] = of[n];
            items[0] = items[n];
            n = 0;
        }
        n += has_room(o, items, n); /* one that does not fit alone is the CPU's */
    }
    run_items(o, items, of, n);
    for (uint32_t i = 0; i < num_batches; i++) o->stats.refused += !batches[i].done;
}
