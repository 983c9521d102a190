/* router/sched/sched.h: which tokens run next. A core without input and output: (state, event, now) -> actions.
 * Continuous batching with chunked prefill; clients share by the work done for them (virtual token counters, arXiv 2401.00588); KV pages are
 * taken as sequences grow and shared between equal beginnings; rows that visit the same experts run together (Read-ME, arXiv 2410.19123, section 4). */
#ifndef FS_SCHED_SCHED_H
#define FS_SCHED_SCHED_H

#include "base/status.h"

#define FS_SCHED_NONE         UINT32_MAX
#define FS_SCHED_MAX_PRIORITY 8  /* priorities: -8..8 */
#define FS_SCHED_BOOST        32 /* places in line that a step of priority is worth */

typedef enum { FS_BATCHING_FCFS, FS_BATCHING_EXPERT_AWARE } fs_batching;

typedef struct {
    uint32_t max_waiting;       /* accepted and never admitted; more is FS_EXHAUSTED */
    uint32_t max_running;       /* admitted at once, those that gave up their pages included */
    uint32_t num_pages;         /* of the KV cache */
    uint32_t page_tokens;       /* tokens a page */
    uint32_t max_step_tokens;   /* rows of one plan, >= 1 */
    uint32_t prefill_chunk;     /* rows of one sequence in one plan, 1..max_step_tokens */
    uint32_t num_micro_batches; /* plans in flight, 1..4: running decodes are shared out evenly over them */
    bool
        preemption; /* pages are taken as sequences grow; false: promised for their whole length at admission */
    bool prefix_cache;    /* full pages are shared, and found again */
    uint32_t route_ahead; /* waiting sequences of one client whose routes are known or on their way, >= 1 */
    uint32_t input_weight, output_weight; /* of a prompt's token and of a row that gives one: 1..1000 */
    fs_batching batching;
    /* Turns that a decode may be passed over for others; a turn is as many plans as all that could run need to run once. Nobody is passed over by more than
     * (batch_wait + 1) * max(num_micro_batches, max_running over the rows that decodes have) + 1 plans in a row. */
    uint32_t batch_wait;
    uint32_t num_moe_layers, num_experts, top_k; /* of the routes; EXPERT_AWARE: each at least 1 */
} fs_sched_options;

typedef struct fs_sched
    fs_sched; /* sized at creation; nothing is taken from the heap afterwards. Thread: loop */

/* FS_INVALID: an option is out of range; FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_sched_create(const fs_sched_options *options, fs_sched **out);
void fs_sched_destroy(fs_sched *sched); /* NULL is allowed */

/* A new sequence. token and pages are borrowed until it is removed (in flight: until done). */
typedef struct {
    uint32_t prompt_tokens, total_tokens; /* 1..total_tokens, and what it may grow to */
    uint64_t client;                      /* whose it is: clients share by work done */
    /* Each step counts as FS_SCHED_BOOST places in the line of its client and among those that run, and no more: of one client's, at most
     * FS_SCHED_BOOST * (p - q) that come later with priority p overtake one with q. A client takes nothing from others by it. */
    int32_t priority;
    int64_t deadline_ns;
    const uint32_t
        *token; /* [total_tokens] the known ones are read in calls here; NULL: it shares no pages */
    uint32_t *
        pages; /* [ceil(total_tokens / page_tokens)] its pages by position, filled and changed here while it is not in flight */
} fs_sched_request;
/* id_out: a slot number below max_waiting + max_running, reused after the sequence has left. FS_EXHAUSTED: the queue is full (its last sixteenth is kept for
 * clients that have nothing in it); FS_INVALID: total_tokens needs more pages than there are, or is less than prompt_tokens; priority. */
FS_MUST_USE fs_status fs_sched_add(fs_sched *sched, const fs_sched_request *request, uint32_t *id_out);
/* Whose routes should be computed next: the client's that is served next, in the order of its line. It is told once; fs_sched_ready
 * follows. FS_SCHED_NONE: nobody's now. */
uint32_t fs_sched_next_route(fs_sched *sched);
/* Its routes are known: it may be admitted. */
void fs_sched_ready(fs_sched *sched, uint32_t id);
/* The experts of the token that it runs next: route [num_moe_layers][top_k], below num_experts; borrowed until the next call for this sequence, or until it is removed.
 * For decodes; without it a sequence is taken as one that visits none. */
void fs_sched_set_experts(fs_sched *sched, uint32_t id, const uint16_t *route);
/* The sequence leaves: finished, cancelled or failed. Its pages are free at once; if it is in flight, when that plan is done.
 * id is dead for the caller from here on (if in flight: from done on). */
void fs_sched_remove(fs_sched *sched, uint32_t id);

/* One sequence's part of a plan. Tokens [first, first + count) of it run; its pages have room for them. */
typedef struct {
    uint32_t id;
    uint32_t first,
        count; /* first: > 0 in its first part where the beginning was found in the cache; again less than what has run
                            * when it had given up its pages */
    bool admitted; /* its first part */
    bool last;     /* reaches the end of what is known: its last row's logits give the next token */
} fs_sched_part;

/* The next plan: decodes first (they leave a fourth of the rows to prompts that could run), then parts of what is known (prompts, or what is to be
 * computed again). Every sequence is in one plan at a time. out [max_parts]; at
 * most max_step_tokens rows. Returns the number of parts; 0: nothing to do now. max_parts >= max_running gives all.
 *   Who runs is in an order of standing: by admission, a step of priority as FS_SCHED_BOOST places. One that finds no page takes those of the last
 * in this order (behind itself, not in flight), which waits again, before its client's others, and computes its tokens again later. The first is never
 * preempted, so that it finishes, and then the next is first; one that was preempted is so again only after those ahead of it have taken a page more, and
 * they need only so many: nobody is preempted for ever. */
uint32_t fs_sched_plan(fs_sched *sched, fs_sched_part *out, uint32_t max_parts);
/* A planned part has run. new_tokens: 1 if part.last and a token was sampled (it is in request.token) and the sequence goes on, else 0. */
void fs_sched_done(fs_sched *sched, uint32_t id, uint32_t new_tokens);

/* Ids whose deadline has passed, oldest first, up to max; they stay until removed. next_ns: when to ask again (FS_NEVER). */
uint32_t fs_sched_expired(const fs_sched *sched, int64_t now_ns, uint32_t *out, uint32_t max,
                          int64_t *next_ns);

typedef struct {
    uint32_t waiting;                /* never admitted, or preempted */
    uint32_t running, in_flight;     /* admitted and with pages; of these, in a plan */
    uint32_t pages_held, pages_idle; /* idle: nobody's, but may be found again */
    uint64_t preemptions;
    uint64_t tokens_again; /* rows that had run before */
    uint64_t tokens_found; /* prompts' tokens that were found in the cache, and not run */
    uint64_t plans_passed; /* times that a decode was passed over by a plan that was full */
    uint32_t longest_wait; /* plans in a row that passed one over */
} fs_sched_counts;
fs_sched_counts fs_sched_get_counts(const fs_sched *sched);
/* What was done for a client: input_weight a prompt's token (not those found in the cache, nor those computed again), output_weight a row that gave a token, and
 * what it was lifted by when it came back. 0: not known. */
uint64_t fs_sched_client_counter(const fs_sched *sched, uint64_t client);

/* Asserts every invariant: pages conserved; counts; order; nobody in two plans. For tests. */
void fs_sched_check(const fs_sched *sched);

#endif
