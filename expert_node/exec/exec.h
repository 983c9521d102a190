/* expert_node/exec/exec.h: dispatches in, results out: rows wait by expert, run in batches on worker threads, and each dispatch
 * is answered when all its pairs are done. Thread: loop, everything here. */
#ifndef FS_EXEC_EXEC_H
#define FS_EXEC_EXEC_H

#include "device/offload.h"
#include "fabric/fabric.h"
#include "numa/numa.h"
#include "store/store.h"

typedef struct fs_exec fs_exec;

/* What the executor needs of the fabric; a test puts its own in. fs_exec_fabric is the real one. */
typedef struct {
    /* As fs_fabric_send of one RESULT: block is taken on FS_OK. */
    fs_status (*send)(fs_peer *peer, uint8_t *block, size_t size);
    fs_kept *(*keep)(fs_peer *peer);
    void (*release)(fs_kept *kept);
    void (*close)(fs_peer *peer);
} fs_exec_port;
extern const fs_exec_port fs_exec_fabric;

typedef struct {
    const fs_exec_port *port;  /* borrowed for the executor's life */
    fs_store *store;           /* the same */
    uint32_t threads;          /* that compute, at least 1 */
    fs_numa *numa;             /* where they run; borrowed; may be NULL */
    uint32_t queue_rows;       /* pairs that may wait; a dispatch beyond them is answered FS_WIRE_EXHAUSTED */
    uint32_t queue_dispatches; /* dispatches not yet answered, of all routers; the same */
    uint64_t
        inline_ns; /* what waits and should take less than this runs on the loop; 0: threads compute everything */
    uint64_t split_ns;  /* a batch is divided over idle threads if each has so much to do; 0: never */
    fs_offload *device; /* what it can do it does; NULL: none. Borrowed; it is run on a thread of its own */
    size_t max_message; /* of the fabric: a dispatch whose result would be larger is refused */
} fs_exec_options;

/* FS_NO_MEMORY; FS_EXHAUSTED: no threads. */
FS_MUST_USE fs_status fs_exec_create(uv_loop_t *loop, const fs_exec_options *options, fs_exec **out);
/* Waits for the batches under way, discards the rest, gives back every message. No peer is touched any more; the loop must run
 * once more. NULL is allowed. */
void fs_exec_destroy(fs_exec *exec);

/* The fabric's callbacks. A message that breaks the format, or is of a size that no result can be made for, closes its peer:
 * it is logged, and never computed with. What is well-formed but cannot be done is answered, group by group:
 *   FS_WIRE_INVALID    another model's fingerprint or row format, a layer or expert that the model has not, a scale that is not finite
 *   FS_WIRE_MOVED      not assigned to this node, whatever the dispatch's epoch: an expert that is held is right in every epoch, since
 *                      its bytes never change
 *   FS_WIRE_CORRUPT    its bytes failed the check, or could not be read
 *   FS_WIRE_EXHAUSTED  the queue is full, no memory, or less memory for experts than this one takes
 * Rows of an expert that is not in memory wait until it is. */
void fs_exec_on_message(fs_exec *exec, fs_peer *peer, uint16_t type, const uint8_t *data, size_t size);
void fs_exec_on_writable(fs_exec *exec, fs_peer *peer);
void fs_exec_on_down(fs_exec *exec, fs_peer *peer);

/* Calls idle(arg) once, when every dispatch has been answered; at once if that is so. */
void fs_exec_when_idle(fs_exec *exec, void (*idle)(void *arg), void *arg);

typedef struct {
    uint64_t dispatches, rows_computed, batches, batches_split, jobs, refused_groups, compute_ns;
    uint64_t device_batches;       /* of batches: computed by the device */
    uint64_t hints;                /* messages */
    uint32_t pending, queued_rows; /* now */
} fs_exec_stats;
void fs_exec_get_stats(const fs_exec *exec, fs_exec_stats *out);

#endif
