/* common/trace/trace.h: what a router did and knew, in a compact file: which tokens ran when, and which experts they visit. A replay
 * drives schedulers and caches with it, without a cluster. The bytes: docs/formats.md. */
#ifndef FS_TRACE_TRACE_H
#define FS_TRACE_TRACE_H

#include "base/buffer.h"

#define FS_TRACE_MAX_PARTS  65536u /* of a step */
#define FS_TRACE_MAX_TOKENS 65536u /* of one ROUTES event; more are several events */
#define FS_TRACE_MAX_LANES  16u

/* The model that ran. */
typedef struct {
    uint32_t num_moe_layers, num_experts, top_k; /* each at least 1 */
    uint64_t fingerprint;
    uint64_t expert_bytes; /* of the largest expert as it is stored; 0: not known */
} fs_trace_model;

typedef enum {
    FS_TRACE_ARRIVE = 1, /* sequence; first: prompt tokens, count: tokens that it may have in all */
    FS_TRACE_ROUTES,     /* sequence; the experts of tokens [first, first + count) are known from now on */
    FS_TRACE_STEP,       /* lane; parts: a micro-batch begins */
    FS_TRACE_EXPERTS,    /* lane, layer: the step's rows visit that MoE layer's experts from now on */
    FS_TRACE_RESULTS,    /* lane, layer: they are back */
    FS_TRACE_DONE,       /* lane: the step is over */
    FS_TRACE_END,        /* sequence */
} fs_trace_kind;

/* Tokens [first, first + count) of a sequence are rows of a step. */
typedef struct {
    uint32_t sequence, first, count;
} fs_trace_part;

/* Members that the kind does not name are 0. */
typedef struct {
    fs_trace_kind kind;
    int64_t time_ns;   /* since the trace began; never less than the one before */
    uint32_t sequence; /* numbered as they arrive, from 0 */
    uint32_t first, count;
    uint32_t lane, layer; /* layer: index among the MoE layers */
    uint32_t num_parts;
    const fs_trace_part *part; /* [num_parts], borrowed */
    const uint16_t *expert;    /* ROUTES: [count][num_moe_layers][top_k], borrowed */
} fs_trace_event;

/* ---- writing. Thread: one. Writes happen on that thread, 64 KiB at a time ---- */

typedef struct fs_trace_writer fs_trace_writer;
/* Creates the file, or empties it. FS_IO: the detail names it; FS_INVALID: the model; FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_trace_create(const char *path, const fs_trace_model *model, fs_trace_writer **out,
                                      fs_detail *detail);
/* Adds an event whose limits (above) hold; time_ns is set by the writer, on the system's clock. After a failed write nothing more is written. */
void fs_trace_write(fs_trace_writer *writer, const fs_trace_event *event);
/* Writes the rest. FS_IO or FS_NO_MEMORY: this or an earlier write failed, the detail says how. NULL is allowed. */
FS_MUST_USE fs_status fs_trace_close(fs_trace_writer *writer, fs_detail *detail);

/* An event's bytes after one at previous_ns, appended. For tests and for traces that are made, not recorded. */
void fs_trace_append(fs_buffer *out, const fs_trace_model *model, const fs_trace_event *event,
                     int64_t previous_ns);
void fs_trace_append_header(fs_buffer *out, const fs_trace_model *model);

/* ---- reading. Thread: one ---- */

typedef struct fs_trace_reader fs_trace_reader;
/* data is borrowed while the reader lives; name: what it is called in errors, copied. FS_CORRUPT: not a trace; FS_UNSUPPORTED: of a newer
 * version; FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_trace_open(const uint8_t *data, size_t size, const char *name, fs_trace_reader **out,
                                    fs_detail *detail);
void fs_trace_reader_free(fs_trace_reader *reader);
const fs_trace_model *fs_trace_reader_model(const fs_trace_reader *reader);
/* The next event, borrowed until the next call. FS_NOT_FOUND: the end; FS_CORRUPT: the detail says where and what. A file that was cut off in the middle of
 * an event (the router was killed) ends before it: *cut is set. */
FS_MUST_USE fs_status fs_trace_next(fs_trace_reader *reader, fs_trace_event *out, bool *cut,
                                    fs_detail *detail);

#endif
