/* router/engine/engine.h: the step loop. Sequences come in as token ids and go out as tokens and text; in
 * between routes are computed ahead, the scheduler forms micro-batches, and each of them ("lane") runs layer
 * by layer: attention here, experts elsewhere. While one lane waits for its experts, another one's attention
 * is computed. Thread: loop, everything here, callbacks included. Callbacks never come from inside a call of
 * this header but fs_engine_end_all and fs_engine_destroy. */
#ifndef FS_ENGINE_ENGINE_H
#define FS_ENGINE_ENGINE_H

#include <uv.h>

#include "backbone/backbone.h"
#include "backbone/pregate.h"
#include "base/status.h"
#include "dispatch/dispatcher.h"
#include "engine/sampler.h"
#include "engine/stop.h"
#include "model/tokenizer.h"
#include "numa/numa.h"
#include "sched/sched.h"
#include "trace/trace.h"

#define FS_ENGINE_MAX_LANES 4u

/* What nodes are told of the visits to come: nothing; those of each micro-batch as it is planned; and those of prompts that wait, as
 * soon as their routes are known. */
typedef enum { FS_LOOKAHEAD_OFF, FS_LOOKAHEAD_HINTS, FS_LOOKAHEAD_FULL } fs_lookahead_mode;

typedef struct fs_engine fs_engine;
typedef struct fs_sequence fs_sequence; /* one request; dead after its on_end or fs_engine_cancel */

typedef struct {
    const fs_model_config *config; /* all borrowed; they outlive the engine */
    const fs_backbone *backbone;
    const fs_pregate *pregate;
    const fs_tokenizer *tokenizer;
    fs_dispatcher *dispatcher;
    uint32_t threads;  /* that compute */
    fs_numa *numa;     /* where they run; borrowed; may be NULL */
    uint64_t kv_bytes; /* for both KV caches, the backbone's and the pre-gating network's */
    uint32_t max_running, max_waiting;
    uint32_t step_tokens;   /* rows of a micro-batch at most */
    uint32_t prefill_chunk; /* prompt tokens of one sequence in a micro-batch at most */
    uint32_t micro_batches; /* in flight, 1..FS_ENGINE_MAX_LANES */
    fs_lookahead_mode lookahead;
    fs_batching batching;
    uint32_t batch_wait; /* turns (sched.h) */
    bool preemption, prefix_cache;
    fs_trace_writer *trace; /* what is done and known is written to it; may be NULL */
} fs_engine_options;

/* FS_INVALID: an option does not go with the others or the model (the detail names it); FS_NO_MEMORY,
 * FS_EXHAUSTED (threads). */
FS_MUST_USE fs_status fs_engine_create(uv_loop_t *loop, const fs_engine_options *options, fs_engine **out,
                                       fs_detail *detail);
/* Every sequence left ends with FS_UNAVAILABLE "shutting down". Waits for the job that runs. The dispatcher
 * must be closed right afterwards, before the loop runs again (it may know a lane), and the loop must run
 * once more. NULL is allowed. */
void fs_engine_destroy(fs_engine *engine);
/* Ends every sequence with this status and text, as for an error of its own. */
void fs_engine_end_all(fs_engine *engine, fs_status status, const char *text);
/* Tokens that one sequence may have, prompt and text together: the model's context, or what the KV cache
 * holds if that is less. */
uint32_t fs_engine_context(const fs_engine *engine);

typedef enum { FS_FINISH_NONE, FS_FINISH_STOP, FS_FINISH_LENGTH } fs_finish;

/* One token more. All borrowed for the call. */
typedef struct {
    const fs_sample *sample;
    const char *text; /* what became certain; whole UTF-8 characters */
    size_t text_size;
    fs_finish finish; /* not NONE: the last one; on_end(FS_OK) follows */
    int stop_matched; /* index of the stop string that ended it, or -1 */
} fs_engine_output;

/* Times on fs_clock_system; 0: not reached. */
typedef struct {
    int64_t arrival_ns, first_step_ns, first_token_ns, last_token_ns;
    uint32_t prompt_tokens, generated_tokens;
} fs_engine_timing;

typedef struct {
    void (*on_output)(void *arg, const fs_engine_output *output, const fs_engine_timing *timing);
    /* Once, the last: FS_OK after a finish; FS_UNAVAILABLE (experts on no living node, shutting down),
     * FS_DEADLINE, FS_INTERNAL. */
    void (*on_end)(void *arg, fs_status status, const char *text);
    void *arg;
} fs_engine_handlers;

/* All copied. Checked by the caller: token ids < vocab_size, fs_sampling_check, stop strings' limits. */
typedef struct {
    const uint32_t *prompt;
    uint32_t prompt_tokens, max_tokens; /* each >= 1; together at most fs_engine_context */
    fs_sampling sampling;
    uint32_t num_stops;
    const char *const *stop;
    const uint32_t *stop_ids;
    uint32_t num_stop_ids;
    bool ignore_eos;
    bool want_logprob;
    uint32_t num_top; /* with each token, this many of the most probable */
    int64_t arrival_ns, deadline_ns;
    uint64_t client;  /* whose it is: clients share by work done */
    int32_t priority; /* -FS_SCHED_MAX_PRIORITY..FS_SCHED_MAX_PRIORITY */
} fs_engine_request;

/* FS_EXHAUSTED: the queue is full (fs_engine_retry_ms says when to try again); FS_INVALID: over the context;
 * FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_engine_submit(fs_engine *engine, const fs_engine_request *request,
                                       const fs_engine_handlers *handlers, fs_sequence **out,
                                       fs_detail *detail);
/* No callback comes any more. Its memory and pages are back within one step. */
void fs_engine_cancel(fs_sequence *sequence);
/* When a refused client should try again, estimated from how fast sequences end. */
uint32_t fs_engine_retry_ms(const fs_engine *engine);

typedef struct {
    uint32_t waiting, running, sequences; /* sequences: whose memory is not yet back, ended ones included */
    uint32_t kv_pages_used, kv_pages_total, pregate_pages_used, pregate_pages_total;
    uint32_t kv_pages_idle; /* not used, but what they hold may be found again */
    uint64_t accepted, refused, finished, cancelled, failed; /* sequences, since the start */
    uint64_t prompt_tokens, generated_tokens, steps;
    uint64_t preemptions,
        tokens_again;      /* sequences that gave up their pages; rows that ran once more for it */
    uint64_t tokens_found; /* of prompts: in the cache, and not run */
    uint64_t routes_found; /* the same for the pre-gating network */
    /* Worker time. experts_wait: no job, and a lane waits for experts; idle: neither. */
    int64_t pregate_ns, attention_ns, head_ns, sample_ns, experts_wait_ns, idle_ns;
} fs_engine_stats;
void fs_engine_get_stats(fs_engine *engine, fs_engine_stats *out);

#endif
