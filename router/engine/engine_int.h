/* router/engine/engine_int.h: what the engine's files share: sequences, lanes, and where time goes. */
#ifndef FS_ENGINE_INT_H
#define FS_ENGINE_INT_H

#include "base/arena.h"
#include "base/buffer.h"
#include "base/worker.h"
#include "engine/engine.h"
#include "pregate/lookahead.h"
#include "sched/sched.h"
#include "trace/trace.h"

/* One request from arrival to end. The loop's, but for the middle block, which a job that runs it owns
 * meanwhile. Its memory is its arena's, which also holds the struct. */
struct fs_sequence {
    fs_engine *engine;
    fs_arena arena;
    fs_sequence *next, *previous; /* all that have memory */
    fs_engine_handlers handlers;
    fs_engine_timing timing;
    uint32_t id; /* the scheduler's; dead once ended (in flight: once the step is done) */
    bool in_flight, ended;
    uint32_t trace_number, traced_routes; /* tokens whose routes the trace has */
    fs_lookahead_item gate;
    uint32_t *pages; /* of the backbone's KV pool; the scheduler's while it knows the sequence */

    /* a job's while in flight: */
    uint32_t *token; /* [total_tokens] */
    uint32_t num_prompt, num_tokens, total_tokens;
    fs_route_table routes;
    fs_sampler sampler;
    fs_detokenizer detokenizer;
    fs_stop stop;
    fs_buffer piece, text; /* text: certain since the last output */
    fs_sample sample;
    fs_finish finish;
    fs_status status; /* of the last step */

    /* fixed: */
    uint32_t num_top, num_stop_ids;
    const uint32_t *stop_ids;
    bool want_logprob, ignore_eos;
};

/* FS_NO_MEMORY. Copies the request; nothing is acquired yet. */
fs_status fs_sequence_create(fs_engine *engine, const fs_engine_request *request,
                             const fs_engine_handlers *handlers, fs_sequence **out);
void fs_sequence_free(fs_sequence *seq); /* memory alone */
/* Takes sequence->sample as the next token: text, stop, finish. Thread: worker. */
fs_status fs_sequence_accept(fs_sequence *seq, const fs_model_config *config, const fs_tokenizer *tokenizer);

typedef enum { FS_LANE_IDLE, FS_LANE_COMPUTING, FS_LANE_WAITING } fs_lane_state;

/* One sequence's rows in a micro-batch. */
typedef struct {
    fs_sequence *seq;
    uint32_t first, count, row; /* tokens [first, first + count) are rows [row, row + count) */
    bool last, dead;            /* dead: ended meanwhile; its rows go on without experts and without effect */
} fs_lane_part;

/* A micro-batch. The loop's while IDLE or WAITING, the job's while COMPUTING. */
typedef struct {
    fs_engine *engine;
    fs_job job;
    fs_lane_state state;
    fs_batch *batch;
    fs_dispatch_call *call;
    fs_lane_part *part; /* [max_running] */
    uint32_t num_parts;
    uint32_t layer;         /* next to compute */
    uint32_t moe_layer;     /* next to dispatch */
    bool combine;           /* experts' outputs wait to be added */
    bool at_experts;        /* the job ended before a layer's experts, not at the end */
    const uint16_t **route; /* [step_tokens] */
    float *weight;          /* [step_tokens][top_k] */
    const float **out;      /* [step_tokens][top_k] */
    bool *failed;           /* [step_tokens] */
    uint32_t *head_row;     /* [max_heads] rows whose logits are wanted, and whose they are */
    fs_sequence **head_seq;
    float *logits;  /* [max_heads][vocab_size] */
    float *scratch; /* [threads][2 * vocab_size] */
    uint32_t num_heads;
    fs_lookahead_item **extend; /* [max_heads] */
    fs_status *extend_status;
    int64_t attention_ns, head_ns, sample_ns; /* of the last job */
} fs_lane;

FS_MUST_USE fs_status fs_lane_init(fs_lane *lane, fs_engine *engine);
void fs_lane_fini(fs_lane *lane);
/* Plans and begins, if the lane is idle and there is something to do. */
void fs_lane_start(fs_lane *lane);

struct fs_engine {
    uv_loop_t *loop;
    uv_timer_t timer; /* deadlines */
    fs_engine_options options;
    fs_arena arena;
    fs_worker *worker;
    fs_pool *pool;
    fs_kv_pool *kv; /* its pages are given out by the scheduler, not by it */
    fs_lookahead *lookahead;
    fs_sched *sched;
    fs_sequence *first;         /* all that have memory */
    fs_sequence **slot;         /* by the scheduler's id */
    fs_sched_part *plan;        /* [max_running] scratch */
    fs_trace_part *trace_part;  /* [max_running] scratch */
    const uint16_t **announced; /* [step_tokens] scratch */
    uint32_t num_traced;        /* sequences */
    uint32_t *expired;          /* [max_running + max_waiting] scratch */
    fs_lane lane[FS_ENGINE_MAX_LANES];
    uint32_t num_lanes, max_heads, context;
    bool closing;
    fs_engine_stats stats;
    int64_t meter_since_ns; /* the time since then belongs to meter_state */
    enum { FS_METER_BUSY, FS_METER_EXPERTS, FS_METER_IDLE } meter_state;
    int64_t last_end_ns, mean_end_ns; /* time between ends of sequences, smoothed */
};

/* A trace of it (record.c); nothing without options.trace. */
void fs_record(fs_engine *engine, const fs_trace_event *event);
void fs_record_arrival(fs_sequence *seq);
void fs_record_routes(fs_sequence *seq); /* those that came since the last call; no job has it */
void fs_record_step(fs_lane *lane);
void fs_record_lane(fs_lane *lane, fs_trace_kind kind); /* EXPERTS, RESULTS, DONE */
void fs_record_end(fs_sequence *seq);

/* Tells the nodes what a micro-batch that begins, or a prompt whose routes have become known, will visit (announce.c). */
void fs_announce_step(fs_lane *lane);
void fs_announce_prompt(fs_sequence *seq);

/* Ends a sequence: it leaves the scheduler, on_end comes, memory goes back now or when its job is done.
 * kind: what is counted. */
typedef enum { FS_END_FINISHED, FS_END_CANCELLED, FS_END_FAILED } fs_end_kind;
void fs_engine_end(fs_sequence *seq, fs_end_kind kind, fs_status status, const char *text);
void fs_engine_release(fs_sequence *seq); /* ended, and no job has it */
void fs_engine_kick(fs_engine *engine);   /* idle lanes look for work */
void fs_engine_meter(fs_engine *engine);  /* what the worker and the lanes do has changed */
int64_t fs_engine_now(void);

#endif
