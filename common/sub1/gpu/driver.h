/* common/sub1/gpu/driver.h: what the host part needs of a GPU, as a table: CUDA's driver fills it, and so does an emulation that runs
 * the same kernels as loops. Everything above this table is the same code for both. */
#ifndef FS_GPU_DRIVER_H
#define FS_GPU_DRIVER_H

#include "base/status.h"
#include "gpu/tasks.h"

typedef uint64_t fs_gpu_address; /* of device memory; multiples of 256 from alloc. 0 is none */
typedef struct fs_gpu_stream fs_gpu_stream;
typedef struct fs_gpu_event fs_gpu_event;
typedef struct fs_gpu_driver fs_gpu_driver;

/* Work in a stream runs in order, beside other streams and beside the host; what it names must live until it is done. Every failure
 * leaves words in `error`. FS_NO_MEMORY: none is left, and nothing happened. FS_UNAVAILABLE: the device failed; it stays so.
 * Thread: one, the owner's. */
struct fs_gpu_driver {
    char name[128];
    uint32_t num_sms, major, minor; /* multiprocessors, compute capability */
    uint64_t memory_bytes;          /* of the device */
    char error[160];                /* of the last call that failed */

    void (*destroy)(fs_gpu_driver *driver); /* after everything that came from it */

    fs_status (*alloc)(fs_gpu_driver *driver, size_t bytes, fs_gpu_address *out);
    void (*free)(fs_gpu_driver *driver,
                 fs_gpu_address address); /* 0 is allowed, as NULL below. May wait for running work */
    fs_status (*alloc_host)(fs_gpu_driver *driver, size_t bytes, void **out); /* pinned */
    void (*free_host)(fs_gpu_driver *driver, void *memory);

    fs_status (*create_stream)(fs_gpu_driver *driver, fs_gpu_stream **out);
    void (*destroy_stream)(fs_gpu_driver *driver, fs_gpu_stream *stream); /* waits for its work */
    fs_status (*create_event)(fs_gpu_driver *driver, fs_gpu_event **out);
    void (*destroy_event)(fs_gpu_driver *driver, fs_gpu_event *event);

    fs_status (*copy_in)(fs_gpu_driver *driver, fs_gpu_stream *stream, fs_gpu_address to, const void *from,
                         size_t bytes);
    fs_status (*copy_out)(fs_gpu_driver *driver, fs_gpu_stream *stream, void *to, fs_gpu_address from,
                          size_t bytes);
    fs_status (*zero)(fs_gpu_driver *driver, fs_gpu_stream *stream, fs_gpu_address at,
                      size_t bytes); /* of 4 */
    fs_status (*launch)(fs_gpu_driver *driver, fs_gpu_stream *stream, fs_gpu_kernel kernel,
                        uint32_t num_blocks, uint32_t shared_bytes, fs_gpu_address list, uint32_t count);

    fs_status (*record)(fs_gpu_driver *driver, fs_gpu_event *event,
                        fs_gpu_stream *stream); /* happens when all before it is done */
    fs_status (*query)(fs_gpu_driver *driver, fs_gpu_event *event, bool *happened); /* never blocks */
    fs_status (*synchronize)(fs_gpu_driver *driver,
                             fs_gpu_event *event); /* blocks the host until it happened */
};

/* CUDA's, by dlopen of libcuda.so.1, device number `index`. FS_UNAVAILABLE with the reason: no library, no device, no kernels in
 * this build, a device that they were not compiled for. Absence is an answer, not a fault: nothing is logged. library: NULL, or another
 * path (tests). */
FS_MUST_USE fs_status fs_gpu_open_cuda(uint32_t index, const char *library, fs_gpu_driver **out,
                                       fs_detail *detail);

/* The emulation. It is lazy: work waits in its streams until an event is queried or waited for, and runs one piece at a time, from a
 * stream that a seed picks, so that host code that touches memory too early, or forgets to make a stream wait, shows. */
typedef struct {
    uint64_t memory_bytes; /* alloc and alloc_host give no more in sum; 0: 1 GiB */
    uint32_t num_sms;      /* 0: 8 */
    fs_grid_order order;
    uint64_t seed;
    uint64_t fail_after; /* the call that fails after this many that could have; 0: none */
    fs_status fail_with; /* FS_NO_MEMORY: that call alone; FS_UNAVAILABLE: it and all later ones */
} fs_gpu_emulation;
FS_MUST_USE fs_status fs_gpu_open_emulated(const fs_gpu_emulation *options, fs_gpu_driver **out,
                                           fs_detail *detail);
/* Bytes that alloc and alloc_host have given and not got back. */
uint64_t fs_gpu_emulated_bytes(const fs_gpu_driver *driver);

#endif
