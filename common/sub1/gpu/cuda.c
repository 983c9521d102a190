/* common/sub1/gpu/cuda.c: the GPU table by CUDA's driver library, which is looked for at run time: nothing of CUDA is needed to build
 * this file. The declarations are those of cuda.h that are used here; the driver keeps them stable. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/driver.h"
#include "gpu/fatbin.h"

typedef int result;
typedef int device;
typedef void *handle; /* contexts, modules, functions, streams, events: pointers that are the driver's */

enum {
    SUCCESS = 0,
    OUT_OF_MEMORY = 2,
    NO_BINARY = 209,
    NOT_READY = 600,
    ATTRIBUTE_SMS = 16,
    ATTRIBUTE_MAJOR = 75,
    ATTRIBUTE_MINOR = 76,
    STREAM_NON_BLOCKING = 1,
    EVENT_BLOCKING_NO_TIMING = 3,
};

/* Member, symbol, parameters. */
#define FUNCTIONS(X)                                                                                         \
    X(init, "cuInit", (unsigned flags))                                                                      \
    X(device_count, "cuDeviceGetCount", (int *count))                                                        \
    X(device_get, "cuDeviceGet", (device * out, int index))                                                  \
    X(device_name, "cuDeviceGetName", (char *name, int size, device d))                                      \
    X(device_memory, "cuDeviceTotalMem_v2", (size_t * bytes, device d))                                      \
    X(device_attribute, "cuDeviceGetAttribute", (int *out, int attribute, device d))                         \
    X(context_retain, "cuDevicePrimaryCtxRetain", (handle * out, device d))                                  \
    X(context_release, "cuDevicePrimaryCtxRelease_v2", (device d))                                           \
    X(context_set, "cuCtxSetCurrent", (handle context))                                                      \
    X(module_load, "cuModuleLoadData", (handle * out, const void *image))                                    \
    X(module_unload, "cuModuleUnload", (handle module))                                                      \
    X(module_function, "cuModuleGetFunction", (handle * out, handle module, const char *name))               \
    X(alloc, "cuMemAlloc_v2", (fs_gpu_address * out, size_t bytes))                                          \
    X(free, "cuMemFree_v2", (fs_gpu_address address))                                                        \
    X(alloc_host, "cuMemHostAlloc", (void **out, size_t bytes, unsigned flags))                              \
    X(free_host, "cuMemFreeHost", (void *memory))                                                            \
    X(copy_in, "cuMemcpyHtoDAsync_v2", (fs_gpu_address to, const void *from, size_t bytes, handle stream))   \
    X(copy_out, "cuMemcpyDtoHAsync_v2", (void *to, fs_gpu_address from, size_t bytes, handle stream))        \
    X(set_words, "cuMemsetD32Async", (fs_gpu_address at, unsigned value, size_t words, handle stream))       \
    X(stream_create, "cuStreamCreate", (handle * out, unsigned flags))                                       \
    X(stream_destroy, "cuStreamDestroy_v2", (handle stream))                                                 \
    X(stream_synchronize, "cuStreamSynchronize", (handle stream))                                            \
    X(event_create, "cuEventCreate", (handle * out, unsigned flags))                                         \
    X(event_destroy, "cuEventDestroy_v2", (handle event))                                                    \
    X(event_record, "cuEventRecord", (handle event, handle stream))                                          \
    X(event_query, "cuEventQuery", (handle event))                                                           \
    X(event_synchronize, "cuEventSynchronize", (handle event))                                               \
    X(launch, "cuLaunchKernel",                                                                              \
      (handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,                 \
       unsigned block_y, unsigned block_z, unsigned shared_bytes, handle stream, void **params,              \
       void **extra))                                                                                        \
    X(error_name, "cuGetErrorName", (result error, const char **name))

#define MEMBER(name, symbol, parameters) result(*name) parameters;
typedef struct {
    FUNCTIONS(MEMBER)
} functions;

typedef struct {
    fs_gpu_driver driver; /* first */
    functions cu;
    void *library;
    device device;
    handle context, module, kernels[FS_GPU_NUM_KERNELS];
} cuda;

#define KERNEL_SYMBOL(id, symbol) #symbol,
static const char *const kernel_symbols[] = {FS_GPU_KERNELS(KERNEL_SYMBOL)};

static cuda *of(fs_gpu_driver *driver)
{
    return (cuda *)driver;
}

static const char *name_of(const cuda *c, result r)
{
    const char *name = NULL;
    return c->cu.error_name(r, &name) == SUCCESS && name ? name : "unknown error";
}

/* Whatever is not memory is taken for the end of the device: CUDA's errors are asynchronous and stay. */
static fs_status told(cuda *c, result r, const char *what)
{
    if (r == SUCCESS) return FS_OK;
    snprintf(c->driver.error, sizeof(c->driver.error), "%s: %s (%d)", what, name_of(c, r), r);
    return r == OUT_OF_MEMORY ? FS_NO_MEMORY : FS_UNAVAILABLE;
}

/* The context is a property of the calling thread; asking for it again costs nanoseconds. */
static const functions *enter(fs_gpu_driver *driver)
{
    of(driver)->cu.context_set(of(driver)->context);
    return &of(driver)->cu;
}

static fs_status cuda_alloc(fs_gpu_driver *driver, size_t bytes, fs_gpu_address *out)
{
    return told(of(driver), enter(driver)->alloc(out, bytes), "cuMemAlloc");
}

static void cuda_free(fs_gpu_driver *driver, fs_gpu_address address)
{
    if (address) enter(driver)->free(address);
}

static fs_status cuda_alloc_host(fs_gpu_driver *driver, size_t bytes, void **out)
{
    return told(of(driver), enter(driver)->alloc_host(out, bytes, 0), "cuMemHostAlloc");
}

static void cuda_free_host(fs_gpu_driver *driver, void *memory)
{
    if (memory) enter(driver)->free_host(memory);
}

static fs_status cuda_create_stream(fs_gpu_driver *driver, fs_gpu_stream **out)
{
    handle stream = NULL;
    fs_status st = told(of(driver), enter(driver)->stream_create(&stream, STREAM_NON_BLOCKING),
                        "cuStreamCreate");
    if (st == FS_OK) *out = stream;
    return st;
}

static void cuda_destroy_stream(fs_gpu_driver *driver, fs_gpu_stream *stream)
{
    if (!stream) return;
    enter(driver)->stream_synchronize(stream);
    of(driver)->cu.stream_destroy(stream);
}

static fs_status cuda_create_event(fs_gpu_driver *driver, fs_gpu_event **out)
{
    handle event = NULL;
    fs_status st = told(of(driver), enter(driver)->event_create(&event, EVENT_BLOCKING_NO_TIMING),
                        "cuEventCreate");
    if (st == FS_OK) *out = event;
    return st;
}

static void cuda_destroy_event(fs_gpu_driver *driver, fs_gpu_event *event)
{
    if (event) enter(driver)->event_destroy(event);
}

static fs_status cuda_copy_in(fs_gpu_driver *driver, fs_gpu_stream *stream, fs_gpu_address to,
                              const void *from, size_t bytes)
{
    return told(of(driver), enter(driver)->copy_in(to, from, bytes, stream), "cuMemcpyHtoDAsync");
}

static fs_status cuda_copy_out(fs_gpu_driver *driver, fs_gpu_stream *stream, void *to, fs_gpu_address from,
                               size_t bytes)
{
    return told(of(driver), enter(driver)->copy_out(to, from, bytes, stream), "cuMemcpyDtoHAsync");
}

static fs_status cuda_zero(fs_gpu_driver *driver, fs_gpu_stream *stream, fs_gpu_address at, size_t bytes)
{
    return told(of(driver), enter(driver)->set_words(at, 0, bytes / 4, stream), "cuMemsetD32Async");
}

static fs_status cuda_launch(fs_gpu_driver *driver, fs_gpu_stream *stream, fs_gpu_kernel kernel,
                             uint32_t num_blocks, uint32_t shared_bytes, fs_gpu_address list, uint32_t count)
{
    void *params[] = {&list, &count};
    result r = enter(driver)->launch(of(driver)->kernels[kernel], num_blocks, 1, 1, FS_BLOCK_DIM, 1, 1,
                                     shared_bytes, stream, params, NULL);
    return told(of(driver), r, kernel_symbols[kernel]);
}

static fs_status cuda_record(fs_gpu_driver *driver, fs_gpu_event *event, fs_gpu_stream *stream)
{
    return told(of(driver), enter(driver)->event_record(event, stream), "cuEventRecord");
}

static fs_status cuda_query(fs_gpu_driver *driver, fs_gpu_event *event, bool *happened)
{
    result r = enter(driver)->event_query(event);
    *happened = r == SUCCESS;
    return r == NOT_READY ? FS_OK : told(of(driver), r, "cuEventQuery");
}

static fs_status cuda_synchronize(fs_gpu_driver *driver, fs_gpu_event *event)
{
    return told(of(driver), enter(driver)->event_synchronize(event), "cuEventSynchronize");
}

static void cuda_destroy(fs_gpu_driver *driver)
{
    cuda *c = of(driver);
    if (!c) return;
    if (c->context) c->cu.context_set(c->context);
    if (c->module) c->cu.module_unload(c->module);
    if (c->context) c->cu.context_release(c->device);
    if (c->library) dlclose(c->library);
    free(c);
}

static const fs_gpu_driver table = {.destroy = cuda_destroy,
                                    .alloc = cuda_alloc,
                                    .free = cuda_free,
                                    .alloc_host = cuda_alloc_host,
                                    .free_host = cuda_free_host,
                                    .create_stream = cuda_create_stream,
                                    .destroy_stream = cuda_destroy_stream,
                                    .create_event = cuda_create_event,
                                    .destroy_event = cuda_destroy_event,
                                    .copy_in = cuda_copy_in,
                                    .copy_out = cuda_copy_out,
                                    .zero = cuda_zero,
                                    .launch = cuda_launch,
                                    .record = cuda_record,
                                    .query = cuda_query,
                                    .synchronize = cuda_synchronize};

static fs_status load_library(cuda *c, const char *path, fs_detail *detail)
{
    c->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!c->library) return fs_fail(detail, FS_UNAVAILABLE, "no CUDA driver: %s", dlerror());
#define LOOK_UP(name, symbol, parameters)                                                                    \
    *(void **)&c->cu.name = dlsym(c->library, symbol);                                                       \
    if (!c->cu.name)                                                                                         \
        return fs_fail(detail, FS_UNAVAILABLE, "the CUDA driver %s is too old: it has no %s", path, symbol);
    FUNCTIONS(LOOK_UP)
    return FS_OK;
}

static fs_status find_device(cuda *c, uint32_t index, fs_detail *detail)
{
    int count = 0, sms = 0, major = 0, minor = 0;
    size_t bytes = 0;
    result r = c->cu.init(0);
    if (r == SUCCESS) r = c->cu.device_count(&count);
    if (r != SUCCESS)
        return fs_fail(detail, FS_UNAVAILABLE, "the CUDA driver does not start: %s (%d)", name_of(c, r), r);
    if (index >= (uint32_t)count)
        return fs_fail(detail, FS_UNAVAILABLE, "CUDA device %u: the driver has %d", index, count);
    r = c->cu.device_get(&c->device, (int)index);
    if (r == SUCCESS) r = c->cu.device_name(c->driver.name, sizeof(c->driver.name), c->device);
    if (r == SUCCESS) r = c->cu.device_memory(&bytes, c->device);
    if (r == SUCCESS) r = c->cu.device_attribute(&sms, ATTRIBUTE_SMS, c->device);
    if (r == SUCCESS) r = c->cu.device_attribute(&major, ATTRIBUTE_MAJOR, c->device);
    if (r == SUCCESS) r = c->cu.device_attribute(&minor, ATTRIBUTE_MINOR, c->device);
    if (r == SUCCESS) r = c->cu.context_retain(&c->context, c->device);
    if (r == SUCCESS) r = c->cu.context_set(c->context);
    if (r != SUCCESS)
        return fs_fail(detail, FS_UNAVAILABLE, "CUDA device %u: %s (%d)", index, name_of(c, r), r);
    c->driver.memory_bytes = bytes;
    c->driver.num_sms = (uint32_t)sms;
    c->driver.major = (uint32_t)major;
    c->driver.minor = (uint32_t)minor;
    return FS_OK;
}

static fs_status load_kernels(cuda *c, fs_detail *detail)
{
    result r = c->cu.module_load(&c->module, fs_gpu_fatbin);
    if (r == NO_BINARY)
        return fs_fail(detail, FS_UNAVAILABLE,
                       "%s: compute capability %u.%u, the kernels are for 8.0 and later", c->driver.name,
                       c->driver.major, c->driver.minor);
    for (int i = 0; r == SUCCESS && i < FS_GPU_NUM_KERNELS; i++)
        r = c->cu.module_function(&c->kernels[i], c->module, kernel_symbols[i]);
    if (r != SUCCESS)
        return fs_fail(detail, FS_UNAVAILABLE, "%s: its kernels do not load: %s (%d)", c->driver.name,
                       name_of(c, r), r);
    return FS_OK;
}

fs_status fs_gpu_open_cuda(uint32_t index, const char *library, fs_gpu_driver **out, fs_detail *detail)
{
    if (!fs_gpu_has_fatbin)
        return fs_fail(detail, FS_UNAVAILABLE, "this build has no CUDA kernels: nvcc was not there");
    cuda *c = calloc(1, sizeof(*c));
    if (!c) return fs_fail(detail, FS_NO_MEMORY, "CUDA device: out of memory");
    c->driver = table;
    fs_status st = load_library(c, library ? library : "libcuda.so.1", detail);
    if (st == FS_OK) st = find_device(c, index, detail);
    if (st == FS_OK) st = load_kernels(c, detail);
    if (st == FS_OK)
        *out = &c->driver;
    else
        cuda_destroy(&c->driver);
    return st;
}
