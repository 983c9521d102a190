/* tests/unit/common/sub1/gpu/gpu_helper.h: random experts and rows, and what they give by the CPU's definition. */
#ifndef GPU_HELPER_H
#define GPU_HELPER_H

#include "../sub1_helper.h"
#include "gpu/device.h"

/* An expert, its blobs, and rows of x for it. */
typedef struct {
    fs_expert expert;
    uint8_t *blob[3];
    uint32_t num_rows;
    int8_t **x;
    float *x_scale, **out, **expected;
} subject;

/* rows of x: random, or (extreme 1 to 3) all 127, all -127, only those two. Padding beyond the row is the callee's affair. */
subject new_subject(fs_random *random, uint32_t hidden, uint32_t inter, uint32_t num_rows, int extreme);
void free_subject(subject *s);
/* Fills expected by fs_expert_run. */
void run_on_cpu(subject *s);
/* Whether out has expected's bits. */
bool same_bits(const subject *s);
fs_device_item item_of(const subject *s, fs_device_expert *expert);

/* An opened device on an emulated GPU; fails the test if that fails. */
fs_device *new_device(const fs_gpu_emulation *emulation, const fs_device_options *options);

/* What a `done` was told. */
typedef struct {
    int calls;
    fs_status status;
} outcome;
void note(void *arg, fs_status status);
/* Polls until nothing is under way; fails if that takes long. */
void drain(fs_device *device);
/* Uploads and waits. */
fs_device_expert *upload(fs_device *device, const fs_expert *expert);

#endif
