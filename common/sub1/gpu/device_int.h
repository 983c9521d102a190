/* common/sub1/gpu/device_int.h: what the files of the device share. */
#ifndef FS_GPU_DEVICE_INT_H
#define FS_GPU_DEVICE_INT_H

#include "gpu/device.h"

enum {
    FS_GPU_PARTS = 3, /* gate, up, down */
    FS_GPU_MAX_RUNS = 8,
    FS_GPU_UPLOAD_BUFFERS = 2,
    FS_GPU_MAX_ITEMS = 1024, /* of a run */
    FS_GPU_ALIGN = 256,      /* of every part of device memory */
};

/* An expert's memory on the device: the payloads of its parts, then, in one range (the tables), their scales and biases by row. */
struct fs_device_expert {
    fs_expert shape; /* its matrices' payloads are the host's: only while it is uploaded */
    fs_gpu_address memory;
    size_t bytes;
    size_t payload_at[FS_GPU_PARTS], tables_at; /* in memory */
    size_t scales_at[FS_GPU_PARTS],
        bias_at[FS_GPU_PARTS]; /* [2][padded rows] bf16, [rows] float32, as far as they are there */
    uint32_t num_runs;         /* that use it */
    bool uploading, ready, released;

    /* while it is uploaded */
    uint8_t *tables; /* from tables_at on */
    size_t sent;     /* bytes of memory that are on their way */
    void (*done)(void *arg, fs_status status);
    void *arg;
    fs_device_expert *next;                /* of those that wait */
    fs_device_expert *all_prev, *all_next; /* of the device's */
};

/* scales.c: the matrix's scales by row: out [2][padded_rows] bf16. */
void fs_gpu_scales(const fs_sub1_matrix *matrix, uint16_t *out);

/* plan.c: what a run needs and does. Offsets are those in the run's workspace:
 *   [0, in_bytes)      lists, rows of x and their scales: filled by the host
 *   [zero, +zero_bytes) sums and maxima
 *   ...                activations
 *   [out, +out_bytes)  the rows of the result, item by item */
typedef struct {
    fs_gpu_kernel kernel;
    uint32_t num_blocks, shared_bytes, count;
    size_t list;
} fs_gpu_launch;
enum { FS_GPU_MAX_LAUNCHES = 2 * FS_GPU_NUM_KERNELS + 3 };
typedef struct {
    size_t in_bytes, zero, zero_bytes, out, out_bytes, total;
    uint32_t num_launches;
    fs_gpu_launch launch[FS_GPU_MAX_LAUNCHES];
} fs_gpu_plan;

/* Sizes alone (no launches). */
void fs_gpu_plan_sizes(const fs_device_item *items, uint32_t num_items, fs_gpu_plan *plan);
/* Sizes, launches, and the host's part, written to in [in_bytes], for a workspace at an address. */
void fs_gpu_plan_run(const fs_device_item *items, uint32_t num_items, uint32_t num_sms,
                     fs_gpu_address workspace, uint8_t *in, fs_gpu_plan *plan);
/* The kernel for a matrix and a number of rows of x, and how many rows a block takes; false: there is none. */
bool fs_gpu_kernel_for(const fs_sub1_matrix *matrix, uint32_t num_x, fs_gpu_kernel *kernel,
                       uint32_t *x_a_tile);

typedef struct {
    bool busy;
    fs_gpu_stream *stream;
    fs_gpu_event *event;
    fs_gpu_address workspace;
    uint8_t *in; /* pinned, staging_bytes: what goes in, then, from out_at, what comes back */
    size_t out_at;
    uint64_t order; /* of starting */
    uint32_t num_items, num_rows;
    fs_device_expert **expert; /* [FS_GPU_MAX_ITEMS] */
    float **row;               /* [max_rows]: where each row of the result goes */
    uint32_t *row_floats;
    void (*done)(void *arg, fs_status status);
    void *arg;
} fs_gpu_run;

typedef struct {
    uint8_t *memory; /* pinned */
    fs_gpu_event *event;
    fs_device_expert *ends; /* the expert whose last bytes are in it, or NULL */
    bool busy;
} fs_gpu_buffer;

struct fs_device {
    fs_gpu_driver *driver;
    fs_device_options options;
    bool lost;
    uint64_t num_started;
    fs_gpu_run run[FS_GPU_MAX_RUNS];

    fs_gpu_stream *upload_stream;
    fs_gpu_buffer buffer[FS_GPU_UPLOAD_BUFFERS]; /* used in turn */
    uint32_t next_buffer, oldest_buffer;
    fs_device_expert *first_upload, *last_upload; /* not wholly sent */
    uint32_t num_uploads;                         /* not ended */
    fs_device_expert *experts;
    size_t expert_bytes;
};

/* device.c: a driver call failed: log it once; if it is the device's end, everything ends. Returns status. */
fs_status fs_device_failed(fs_device *device, fs_status status);
/* upload.c */
void fs_device_pump_uploads(fs_device *device);
void fs_device_end_uploads(fs_device *device, fs_status status); /* all of them */
void fs_device_free_expert(fs_device *device, fs_device_expert *expert);

#endif
