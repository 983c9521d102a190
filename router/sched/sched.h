/* router/sched/sched.h: which tokens run next. A core without input and output: (state, event, now) -> actions.
 * Continuous batching with chunked prefill, first come first served; KV pages are promised for a sequence's whole length when it
 * is admitted, so that an admitted sequence always finishes. Two or more micro-batches are in flight: each asks for its own plan. */
#ifndef FS_SCHED_SCHED_H
#define FS_SCHED_SCHED_H

#include "base/status.h"

typedef struct {
    uint32_t max_waiting;       /* accepted and not yet admitted; more is FS_EXHAUSTED */
    uint32_t max_running;       /* admitted at once */
    uint32_t num_pages;         /* of the KV cache */
    uint32_t page_tokens;       /* tokens a page */
    uint32_t max_step_tokens;   /* rows of one plan, >= 1 */
    uint32_t prefill_chunk;     /* prompt tokens of one sequence in one plan, 1..max_step_tokens */
    uint32_t num_micro_batches; /* plans in flight, 1..4: running decodes are shared out evenly over them */
} fs_sched_options;

typedef struct fs_sched fs_sched; /* sized at creation; nothing is taken from the heap afterwards. Thread: loop */

#define FS_SCHED_NONE UINT32_MAX

/* FS_INVALID: an option is out of range. */
FS_MUST_USE fs_status fs_sched_create(const fs_sched_options *options, fs_sched **out);
void fs_sched_destroy(fs_sched *sched);

/* A new sequence of prompt_tokens (>= 1) that may grow to total_tokens. id_out: a slot number below max_waiting + max_running,
 * reused after the sequence has left. FS_EXHAUSTED: the queue is full; FS_INVALID: total_tokens needs more pages than there are, or is less than
 * prompt_tokens. */
FS_MUST_USE fs_status fs_sched_add(fs_sched *sched, uint32_t prompt_tokens, uint32_t total_tokens, int64_t deadline_ns,
                                   int64_t now_ns, uint32_t *id_out);
/* Its routes are known: it may be admitted. Sequences are admitted strictly in order of arrival; one that is not ready holds up
 * those behind it. */
void fs_sched_ready(fs_sched *sched, uint32_t id);
/* The sequence leaves: finished, cancelled or failed. Its promised pages are free at once; if it is in flight, when that plan is done.
 * id is dead for the caller from here on (if in flight: from done on). */
void fs_sched_remove(fs_sched *sched, uint32_t id);

/* One sequence's part of a plan. Tokens [first, first + count) of it run. */
typedef struct {
    uint32_t id;
    uint32_t first, count;
    bool admitted; /* its first part: take pages for total_tokens now (there are enough) */
    bool last;     /* reaches the end of what is known: its last row's logits give the next token */
} fs_sched_part;

/* The next plan: decodes first, oldest first, then prompt chunks. Every sequence is in one plan at a time. out [max_parts]; at most
 * max_step_tokens rows. Returns the number of parts; 0: nothing to do now. max_parts >= max_running gives all. */
uint32_t fs_sched_plan(fs_sched *sched, int64_t now_ns, fs_sched_part *out, uint32_t max_parts);
/* A planned part has run. new_tokens: 1 if part.last and a token was sampled and the sequence goes on, else 0. */
void fs_sched_done(fs_sched *sched, uint32_t id, uint32_t new_tokens);

/* Ids whose deadline has passed, oldest first, up to max; they stay until removed. next_ns: when to ask again (FS_NEVER). */
uint32_t fs_sched_expired(const fs_sched *sched, int64_t now_ns, uint32_t *out, uint32_t max, int64_t *next_ns);

typedef struct {
    uint32_t waiting, running, in_flight, pages_promised;
} fs_sched_counts;
fs_sched_counts fs_sched_get_counts(const fs_sched *sched);

/* Asserts every invariant: pages promised = sum over admitted <= num_pages; counts; order; nobody in two plans. For tests. */
void fs_sched_check(const fs_sched *sched);

#endif
