/* expert_node/device/offload.h: batches of experts on a GPU. An expert is uploaded when it is first used and stays while the device has room for it; when a
 * device fails, the CPU goes on alone. The bytes of a result are the CPU's. */
#ifndef FS_DEVICE_OFFLOAD_H
#define FS_DEVICE_OFFLOAD_H

#include "gpu/device.h"

typedef struct fs_offload fs_offload;

typedef struct {
    uint32_t num_keys;     /* experts of the model; a key is below it */
    uint64_t memory_bytes; /* of the device, for experts; 0: as much as it has */
} fs_offload_options;

/* Takes the driver, also when it fails. FS_NO_MEMORY; FS_UNAVAILABLE: the device failed. */
FS_MUST_USE fs_status fs_offload_create(fs_gpu_driver *driver, const fs_offload_options *options,
                                        fs_offload **out, fs_detail *detail);
/* Nothing is running. NULL is allowed. */
void fs_offload_destroy(fs_offload *offload);
const fs_gpu_driver *fs_offload_driver(const fs_offload *offload);

/* One expert and its rows (at most FS_EXPERT_MAX_ROWS). The expert's bytes are borrowed for the call. */
typedef struct {
    uint32_t key;
    const fs_expert *expert;
    fs_expert_rows rows;
    bool done; /* out is written; else the CPU has to do it */
} fs_offload_batch;

/* Runs as many of them as it can, each key once, and waits for them. Thread: one at a time, not always the same. */
void fs_offload_run(fs_offload *offload, fs_offload_batch *batches, uint32_t num_batches);

typedef struct {
    bool alive; /* it has not failed, and there are kernels for the model's experts */
    uint64_t runs, batches, uploads, evictions, refused; /* refused: batches that were left to the CPU */
    uint64_t resident_bytes;
    uint32_t resident; /* experts */
} fs_offload_stats;
/* Thread: the one that runs, or when nothing runs. */
void fs_offload_get_stats(const fs_offload *offload, fs_offload_stats *out);

#endif
