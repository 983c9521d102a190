/* expert_node/exec/exec_int.h: what the two halves of the executor share: exec.c knows messages, job.c knows batches. */
#ifndef FS_EXEC_EXEC_INT_H
#define FS_EXEC_EXEC_INT_H

#include "base/worker.h"
#include "cache/pace.h"
#include "exec/batch.h"
#include "exec/exec.h"
#include "exec/share.h"
#include "fabric/wire.h"

/* A job carries several small batches, so that a thread is woken once for them. */
enum { FS_EXEC_JOB_BATCHES = 16, FS_EXEC_JOB_ROWS = FS_EXPERT_MAX_ROWS };

/* A dispatch that is not answered yet. Its index is its tag in the batcher. */
typedef struct {
    fs_peer *peer; /* NULL: lost, or the slot is free */
    fs_kept *kept; /* the message: rows are read where they lie in it */
    fs_dispatch dispatch;
    uint8_t *block; /* the result, filled in place; NULL: the slot is free */
    size_t size;
    float *row;          /* [num_pairs][hidden_size] in block */
    uint32_t pairs_left; /* not yet computed nor given up */
    uint64_t compute_ns;
    bool any_failed; /* a group has a status: its rows are zeroed before the result goes */
    bool blocked;    /* done, and waits until its peer takes it */
    uint32_t next_free;
} fs_pending;

/* A router whose hints are taken: its index is its number in the cache. */
typedef struct {
    const fs_peer *peer; /* NULL: the slot is free */
    fs_cache_pace pace;
} fs_exec_router;
enum { FS_EXEC_MAX_ROUTERS = 256 };

/* One expert over rows [first_row, first_row + num_rows) of its job. */
typedef struct {
    fs_held *held;
    uint32_t key;
    bool on_device;
    uint32_t first_row, num_rows, first_piece, num_pieces;
    fs_wire_status status;
    int64_t ns, threads_ns; /* as the clock says; of all threads together */
} fs_exec_batch;

typedef struct fs_exec_job fs_exec_job;

/* A thread beside the job's own at a batch that is divided. The worker's from post until done. */
typedef struct fs_exec_helper {
    fs_job job; /* first */
    fs_exec_job *of;
    int64_t ns;
    struct fs_exec_helper *next_free;
} fs_exec_helper;

/* The worker's from post until done; a divided one's until its helpers are done too. */
struct fs_exec_job {
    fs_job job; /* first */
    fs_exec *exec;
    struct fs_exec_job *next_free;
    uint32_t threads, threads_left; /* at work on it; of them not done. More than one: it has one batch */
    fs_phases phases;               /* of the divided batch */
    fs_expert_rows rows;
    int64_t helpers_ns, longest_ns; /* of the helpers: sum and most */
    uint32_t num_batches, num_rows, num_pieces;
    fs_exec_batch batches[FS_EXEC_JOB_BATCHES];
    fs_batch_piece pieces[FS_EXEC_JOB_ROWS];
    const int8_t *x_i8[FS_EXEC_JOB_ROWS];
    const float *x_f32[FS_EXEC_JOB_ROWS];
    float x_scale[FS_EXEC_JOB_ROWS];
    float *out[FS_EXEC_JOB_ROWS];
    void *scratch;
    size_t scratch_bytes;
};

struct fs_exec {
    const fs_exec_port *port;
    fs_store *store;
    const fs_model_config *config;
    uint64_t fingerprint;
    size_t max_message;
    fs_batcher *batcher;
    fs_pending *pending; /* [num_slots] */
    uint32_t num_slots, num_pending, free_slot;
    bool *claimed; /* [num_experts] in the store, for the rows that wait in the batcher */
    fs_exec_router routers[FS_EXEC_MAX_ROUTERS];
    fs_worker *worker;
    fs_exec_job *jobs, *free_job; /* [threads] */
    fs_exec_job *loop_job;        /* the loop's own */
    bool phases_made;
    fs_offload *device;       /* NULL: there is none, or it failed */
    fs_worker *device_worker; /* one thread, if there was one */
    fs_exec_job *device_job;
    bool device_busy;
    fs_exec_helper *helpers, *free_helper; /* [threads] */
    fs_numa *numa;
    uint32_t threads, threads_busy;
    uint64_t inline_ns, split_ns;
    uint64_t row_ns; /* what a row took a thread lately; 0: not known yet */
    uv_idle_t begin; /* runs once after messages have come */
    void (*idle)(void *arg);
    void *idle_arg;
    fs_exec_stats stats;
};

/* exec.c: count pairs of the pending are done, or given up with a status; answers it when none are left. */
void fs_exec_pairs_done(fs_exec *exec, uint32_t tag, uint32_t count);
void fs_exec_pairs_failed(fs_exec *exec, const fs_batch_piece *piece, fs_wire_status status);

/* After rows of the key left the batcher, to run or because their peer is lost: nobody waits for it any more if they were the last. */
void fs_exec_rows_left(fs_exec *exec, uint32_t key);

/* hint.c */
void fs_exec_on_hint(fs_exec *exec, fs_peer *peer, const fs_hint *hint);
/* The number of the peer, or FS_CACHE_NO_ROUTER: it told nothing yet, or there are too many. */
uint32_t fs_exec_router_of(const fs_exec *exec, const fs_peer *peer);
void fs_exec_router_down(fs_exec *exec, const fs_peer *peer);

/* job.c */
FS_MUST_USE fs_status fs_exec_create_jobs(fs_exec *exec, uv_loop_t *loop);
void fs_exec_destroy_jobs(fs_exec *exec);
/* Computes what waits here if it is little, or hands it to idle threads. */
void fs_exec_start_jobs(fs_exec *exec);

#endif
