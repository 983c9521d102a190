/* router/sched/sched_int.h: the scheduler's state, shared by its files. */
#ifndef FS_SCHED_INT_H
#define FS_SCHED_INT_H

#include "sched/list.h"
#include "sched/pages.h"
#include "sched/sched.h"

_Static_assert(FS_LIST_END == FS_SCHED_NONE && FS_PAGES_NONE == FS_SCHED_NONE, "one number for nobody");

typedef enum {
    SEQ_FREE,
    SEQ_WAITING, /* in its client's line: never admitted, or preempted */
    SEQ_RUNNING, /* admitted: takes pages as it grows */
} fs_seq_state;

/* One sequence. computed <= known <= total_tokens: tokens whose keys and values are in its pages, and that are there to run. */
typedef struct {
    fs_seq_state state;
    bool asked, ready;       /* its routes are on their way or known; known */
    bool in_flight, removed; /* removed: gone for the caller, but its plan has not come back */
    fs_sched_request request;
    uint32_t known, computed, planned; /* planned: rows of the part in flight */
    uint32_t num_pages, num_published; /* held; of these, the first that can be found by others */
    uint32_t most_computed;            /* before it was preempted: what is below is computed again */
    uint32_t passed;                   /* plans in a row that were full without it */
    const uint16_t *route;
    uint32_t client;
    uint64_t arrival;   /* 1, 2, ... */
    int64_t place;      /* in its client's line; preempted ones are before all others */
    int64_t standing;   /* once admitted: the less, the more it may keep its pages */
    uint64_t admission; /* 1, 2, ...; 0: not yet; settles equal standing */
    fs_link link;       /* in its client's line, among those that run, or free */
    fs_link age;        /* among all that are there, by arrival */
} fs_seq;

/* Whose sequences they are. It is remembered for some time after its last sequence has left, so that nobody sheds what was done for it. */
typedef struct {
    uint64_t name, counter;
    uint64_t num_arrived;
    uint32_t num_seqs;  /* waiting, running and removed in flight */
    uint32_t num_fresh; /* waiting and never admitted */
    uint32_t num_asked; /* of these, whose routes are on their way or known */
    fs_list line;       /* waiting, by place */
    fs_link link;       /* among those with a line, or without sequences */
    uint32_t bucket_next;
} fs_client;

struct fs_sched {
    fs_sched_options options;
    uint32_t num_slots, num_clients, num_buckets;
    uint64_t num_arrived, num_admitted;
    fs_seq *seq;       /* [num_slots] */
    fs_client *client; /* [num_clients] */
    uint32_t *bucket;  /* [num_buckets] of clients, by name */
    fs_pages *pages;
    fs_list running, free; /* running: by standing */
    fs_list by_age;        /* all sequences, by arrival */
    fs_list lined, gone;   /* with a line; without sequences, the one that left first before others */
    uint64_t last_counter; /* of the client that was admitted from last */
    uint32_t num_fresh, num_preempted, num_in_flight;
    fs_sched_counts counts; /* the totals in it */
    uint32_t words;         /* of a set of experts: a bit for each (layer, expert) */
    uint32_t *candidate;    /* [max_running] scratch of a plan */
    bool *chosen;           /* [max_running] */
    uint32_t *new_experts;  /* [max_running] */
    uint64_t *set, *all;    /* [max_running][words], [words] */
    uint32_t *new_word;     /* [words] */
    uint32_t *holders;      /* [num_pages] scratch of check */
};

/* Into a list of sequences (by their links), behind those that `before` does not put behind it. */
void fs_seq_insert(fs_sched *sched, fs_list *list, uint32_t id,
                   bool (*before)(const fs_seq *a, const fs_seq *b));

/* Clients (clients.c). */
void fs_clients_init(fs_sched *sched);
/* The client of that name, remembered or new; there is always room. */
uint32_t fs_clients_find(fs_sched *sched, uint64_t name);
/* A sequence into and out of its client's line; an arrival lifts the counter of a client that had none waiting (2401.00588, algorithm 2). */
void fs_clients_line_up(fs_sched *sched, uint32_t id);
void fs_clients_leave_line(fs_sched *sched, uint32_t id);
void fs_clients_enter(fs_sched *sched, uint32_t client); /* a sequence more */
void fs_clients_leave(fs_sched *sched, uint32_t client); /* a sequence less */
/* The first ready sequence of the client with the smallest counter that has one. fresh: never admitted ones count too. FS_SCHED_NONE. */
uint32_t fs_clients_next(const fs_sched *sched, bool fresh);

/* Pages of a running sequence go back (preempted, or over). */
void fs_sched_drop_pages(fs_sched *sched, uint32_t id);
/* The sequence in its last state: pages back, slot free. */
void fs_sched_release(fs_sched *sched, uint32_t id);

/* Which n of the num candidates run (choose.c): sched->candidate, by standing; sets sched->chosen. */
void fs_sched_choose(fs_sched *sched, uint32_t num, uint32_t n);

static inline bool fs_seq_stands_before(const fs_seq *a, const fs_seq *b)
{
    return a->standing < b->standing || (a->standing == b->standing && a->admission < b->admission);
}

/* Its last known token is sampled, and all before it has run: one row a step, until it is removed or its last token was its last. */
static inline bool fs_seq_is_decoding(const fs_seq *seq)
{
    return seq->state == SEQ_RUNNING && !seq->removed && seq->known > seq->request.prompt_tokens &&
           seq->known - seq->computed == 1;
}

static inline uint32_t fs_sched_pages_for(const fs_sched *sched, uint32_t tokens)
{
    return tokens / sched->options.page_tokens + (tokens % sched->options.page_tokens != 0);
}

#endif
