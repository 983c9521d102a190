/* router/sched/sched_int.h: the scheduler's state, shared by its files. */
#ifndef FS_SCHED_INT_H
#define FS_SCHED_INT_H

#include "sched/sched.h"

typedef enum {
    SEQ_FREE,
    SEQ_WAITING, /* in the queue */
    SEQ_RUNNING, /* admitted: its pages are promised */
} fs_seq_state;

/* One sequence. computed <= known <= total_tokens: tokens that have run, and that are there to run. */
typedef struct {
    fs_seq_state state;
    bool ready, in_flight, removed; /* removed: gone for the caller, but its plan has not come back */
    uint32_t prompt_tokens, total_tokens, known, computed;
    uint32_t planned; /* tokens of the part in flight */
    uint32_t pages;   /* for total_tokens */
    int64_t deadline_ns;
    uint64_t arrival;    /* 1, 2, ... */
    uint32_t prev, next; /* in its list; FS_SCHED_NONE: the end */
} fs_seq;

/* Sequences in order of arrival (or free slots, in any). */
typedef struct {
    uint32_t first, last, length;
} fs_seq_list;

struct fs_sched {
    fs_sched_options options;
    uint32_t num_slots;
    uint64_t num_arrived;
    fs_seq_list waiting, running, free;
    uint32_t pages_promised; /* the running sequences' */
    uint32_t num_in_flight, num_decoding;
    fs_seq seq[];
};

void fs_seq_list_push(fs_sched *sched, fs_seq_list *list, uint32_t id);
void fs_seq_list_take(fs_sched *sched, fs_seq_list *list, uint32_t id);

/* The sequence in its last state: pages back, slot free. */
void fs_sched_release(fs_sched *sched, uint32_t id);

/* Its prompt has run and a sampled token is there: one row a step, until it is removed or its last token was its last. */
static inline bool fs_seq_is_decoding(const fs_seq *seq)
{
    return seq->state == SEQ_RUNNING && !seq->removed && seq->computed >= seq->prompt_tokens &&
           seq->known > seq->computed;
}

#endif
