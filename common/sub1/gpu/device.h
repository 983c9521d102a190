/* common/sub1/gpu/device.h: compressed experts on a GPU: they are uploaded once, stay in its memory, and are run there many times.
 *
 * A device belongs to one thread, which starts work and asks from time to time what is done (fs_device_poll); nothing here waits for the
 * device but fs_device_wait and the closing functions. Results are those of fs_expert_run, to the bit. When a device fails, everything
 * that it had to do ends with FS_UNAVAILABLE, and so does every later call: its owner computes on the CPU instead. */
#ifndef FS_GPU_DEVICE_H
#define FS_GPU_DEVICE_H

#include "gpu/driver.h"
#include "sub1/expert.h"

typedef struct fs_device fs_device;
typedef struct fs_device_expert fs_device_expert;

/* Everything is taken at opening: running takes nothing from the heap. 0 stands for the value in brackets. */
typedef struct {
    uint32_t num_runs;      /* in flight at once, each with a stream of its own [2], at most 8 */
    uint32_t max_rows;      /* of a run, all its items together [4096] */
    size_t workspace_bytes; /* device memory for what a run needs beside the experts, each run [64 MiB] */
    size_t staging_bytes;   /* pinned memory for a run's rows, there and back, each run [8 MiB] */
    size_t upload_bytes;    /* pinned memory for uploads, in two buffers that take turns [2 MiB] */
    size_t expert_bytes;    /* device memory for experts, in sum [no limit but the device's] */
} fs_device_options;

/* Takes the driver, also when it fails. FS_NO_MEMORY: not enough for the options. */
FS_MUST_USE fs_status fs_device_open(fs_gpu_driver *driver, const fs_device_options *options, fs_device **out,
                                     fs_detail *detail);
/* Waits for the device; what has not ended ends with FS_CANCELLED (its `done` runs). Experts that were not released are gone. NULL is allowed. */
void fs_device_close(fs_device *device);
/* For people: name, multiprocessors, memory. Borrowed from the device. */
const fs_gpu_driver *fs_device_driver(const fs_device *device);
/* Device memory that experts take now. */
size_t fs_device_expert_bytes(const fs_device *device);

/* Whether experts of this kind can run there: sub1 storage in formats that have a kernel. The detail says why not. */
FS_MUST_USE fs_status fs_device_supports(const fs_expert *expert, fs_detail *detail);

/* Begins to bring an expert to the device; its bytes (as fs_expert_open checked them) are borrowed until done(arg, status) has
 * run, from fs_device_poll. Uploads follow each other in the order of these calls. FS_NO_MEMORY: it does not fit beside the
 * others (release one and ask again); FS_UNSUPPORTED. */
FS_MUST_USE fs_status fs_device_upload(fs_device *device, const fs_expert *expert,
                                       void (*done)(void *arg, fs_status status), void *arg,
                                       fs_device_expert **out);
/* It may be run. */
bool fs_device_expert_ready(const fs_device_expert *expert);
/* Its memory is given back when the runs that use it are over. An upload that has not ended ends with FS_CANCELLED. NULL is allowed. */
void fs_device_expert_release(fs_device *device, fs_device_expert *expert);

/* One expert and its rows (x_i8 and x_scale; out as in fs_expert_run). */
typedef struct {
    fs_device_expert *expert; /* ready */
    fs_expert_rows rows;
} fs_device_item;

/* Starts several experts at once: a GPU needs many to be busy. x, scales and the items are copied; out must live until done(arg,
 * status) has run, from fs_device_poll, and is written only for FS_OK. Runs may end in any order.
 * FS_EXHAUSTED: num_runs are in flight, or this one needs more than the options give (fs_device_fits tells). */
FS_MUST_USE fs_status fs_device_start(fs_device *device, const fs_device_item *items, uint32_t num_items,
                                      void (*done)(void *arg, fs_status status), void *arg);
/* Whether these items fit in one run. */
bool fs_device_fits(const fs_device *device, const fs_device_item *items, uint32_t num_items);

/* Goes on with uploads, and calls `done` of what has ended. Returns how many runs and uploads still are under way. Bounded: at most
 * two upload buffers are filled. */
uint32_t fs_device_poll(fs_device *device);
/* Blocks until one run or upload has ended (or none is under way), then polls. Thread: a worker. */
uint32_t fs_device_wait(fs_device *device);

#endif
