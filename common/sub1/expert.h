/* common/sub1/expert.h: one expert, compressed or not, over a batch of rows: down(act(gate x) * up x). */
#ifndef FS_SUB1_EXPERT_H
#define FS_SUB1_EXPERT_H

#include "compute/matmul.h"
#include "model/config.h"
#include "sub1/sub1.h"

#define FS_EXPERT_MAX_ROWS 256u /* a call */
enum { FS_EXPERT_PHASES = 4 };

/* A bias of one of the three products, [rows of its matrix], bf16 or float32. data NULL: none. */
typedef struct {
    const void *data;
    bool is_bf16;
} fs_expert_bias;

/* Borrows the matrices' bytes (a mapping or a cache slot). Plain data. */
typedef struct {
    fs_expert_storage storage;
    fs_activation activation;
    float swiglu_limit; /* FS_ACT_SWIGLU_CLAMPED */
    bool no_gate;       /* down(act(up x)); the gate's matrix and bias are not looked at */
    uint32_t hidden_size, intermediate_size;
    fs_expert_bias bias[3];
    fs_sub1_matrix sub1[3]; /* gate, up, down (FS_PART_* order); FS_EXPERTS_SUB1 */
    fs_matrix dense[3]; /* FS_EXPERTS_DENSE: bf16 or float32 (a float16 file is widened by who loads it) */
} fs_expert;

/* The rows of a call. Every pointer array has num_rows entries. Rows need not be adjacent: they come from different dispatches. */
typedef struct {
    uint32_t num_rows;         /* 1..FS_EXPERT_MAX_ROWS */
    const int8_t *const *x_i8; /* sub1: [hidden_size] int8 */
    const float *x_scale;      /* sub1: its scales */
    const float *const *x_f32; /* dense: [hidden_size] float32 */
    float *const *out;         /* [hidden_size] float32 */
} fs_expert_rows;

/* Scratch for up to max_rows rows, 64-byte aligned by the caller. */
size_t fs_expert_scratch_bytes(const fs_expert *expert, uint32_t max_rows);

/* sub1: g = gate x + bias and u = up x + bias by fs_sub1_matmul, a = act(g) * u (no_gate: act(u)), a quantised by row
 * (fs_kernels.quantize_i8), down a by fs_sub1_matmul, + bias; all of it float32, each step rounded. dense: the same with fs_matmul's fixed
 * order, no quantisation. act:
 *   SILU             x / (1 + exp(-x))
 *   GELU             x * Phi(x), Phi by a fixed approximation of erfc, within 2e-7
 *   GELU_TANH        x / (1 + exp(-2 u)), u = sqrt(2 / pi) * (x + 0.044715 x^3), which is the tanh form
 *   RELU
 *   SWIGLU_CLAMPED   gpt-oss: g = min(g, limit), u = clamp(u, +-limit); a = g / (1 + exp(-1.702 g)) * (u + 1). With a gate only.
 * A matrix that is large enough is divided over the pool by ranges of rows. Each row's bits depend on that row alone. pool may be NULL
 * (one thread). Thread: worker. */
void fs_expert_run(const fs_expert *expert, const fs_expert_rows *rows, void *scratch, fs_pool *pool);

/* The same as phases, for threads that are no pool: fs_phases_set(phases, phase, the number returned, scratch), then fs_phases_work
 * by each of them. threads: how many are expected; fewer or more may come. expert, rows and scratch must live until all is done. */
uint32_t fs_expert_plan(const fs_expert *expert, const fs_expert_rows *rows, void *scratch, uint32_t threads,
                        fs_phase phase[FS_EXPERT_PHASES]);

/* a[i] = act(gate[i]) * up[i], gate NULL: act(up[i]); a may be either. The same bits with every table. */
void fs_expert_activate(const fs_expert *expert, const fs_kernels *kernels, const float *gate,
                        const float *up, float *a, size_t n);

#endif
