/* tests/unit/common/sub1/gpu/gpu_helper.h: random experts and rows, and what they give by the CPU's definition. */
#ifndef GPU_HELPER_H
#define GPU_HELPER_H

#include "base/random.h"
#include "gpu/device.h"

/* Which format a matrix has: blocked n:16, or (n 0) free with so many nonzeros in 1000, in runs or evenly. */
typedef struct {
    uint32_t n;
    bool symmetric;
    uint32_t permille;
    bool clustered;
} kind;
kind random_kind(fs_random *random);
/* A random matrix as an opened blob, which *blob owns (free()). */
fs_sub1_matrix random_matrix(fs_random *random, kind k, uint32_t rows, uint32_t cols, uint8_t **blob);

/* An expert, its blobs, and rows of x for it. */
typedef struct {
    fs_expert expert;
    uint8_t *blob[3];
    void *bias[3];
    uint32_t num_rows;
    int8_t **x;
    float *x_scale, **out, **expected;
} subject;

/* Its matrices, activation and biases are of random kinds. rows of x: random, or (extreme 1 to 3) all 127, all -127, only those two. Padding beyond the row is the callee's affair. */
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
