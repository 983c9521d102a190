/* router/sched/check.c: every invariant of the scheduler, asserted. For tests and the simulator. */
#include "sched/sched_int.h"

static void check_sequence(const fs_sched *s, const fs_seq *seq)
{
    uint32_t page = s->options.page_tokens;
    FS_ASSERT(seq->prompt_tokens >= 1);
    FS_ASSERT(seq->computed <= seq->known);
    FS_ASSERT(seq->prompt_tokens <= seq->known);
    FS_ASSERT(seq->known <= seq->total_tokens);
    FS_ASSERT(seq->known - seq->computed <= 1 ||
              seq->computed < seq->prompt_tokens); /* tokens come one by one */
    FS_ASSERT(seq->known == seq->prompt_tokens || seq->computed >= seq->prompt_tokens);
    FS_ASSERT(seq->pages == ((uint64_t)seq->total_tokens + page - 1) / page);
    FS_ASSERT(seq->in_flight == (seq->planned > 0));
    FS_ASSERT(seq->planned <= seq->known - seq->computed);
    FS_ASSERT(seq->planned <= s->options.prefill_chunk);
    FS_ASSERT(!seq->removed || seq->in_flight);
    if (seq->state == SEQ_RUNNING)
        FS_ASSERT(seq->ready);
    else
        FS_ASSERT(!seq->in_flight && seq->computed == 0);
}

/* The list's links, states and order; returns the arrival of its last. */
static uint64_t check_list(const fs_sched *s, const fs_seq_list *list, fs_seq_state state, uint64_t after)
{
    uint32_t length = 0, prev = FS_SCHED_NONE;
    for (uint32_t id = list->first; id != FS_SCHED_NONE; prev = id, id = s->seq[id].next) {
        const fs_seq *seq = &s->seq[id];
        FS_ASSERT(id < s->num_slots);
        FS_ASSERT(++length <= list->length); /* ends a ring, too */
        FS_ASSERT(seq->prev == prev);
        FS_ASSERT(seq->state == state);
        if (state == SEQ_FREE) continue;
        FS_ASSERT(seq->arrival > after);
        after = seq->arrival;
        check_sequence(s, seq);
    }
    FS_ASSERT(list->last == prev);
    FS_ASSERT(length == list->length);
    return after;
}

void fs_sched_check(const fs_sched *s)
{
    uint32_t in_flight = 0, decoding = 0;
    uint64_t pages = 0;
    /* Running before waiting: admission is in order of arrival. Being in one list, nobody is in two plans. */
    uint64_t last = check_list(s, &s->running, SEQ_RUNNING, 0);
    last = check_list(s, &s->waiting, SEQ_WAITING, last);
    check_list(s, &s->free, SEQ_FREE, 0);
    FS_ASSERT(last <= s->num_arrived);
    for (uint32_t id = s->running.first; id != FS_SCHED_NONE; id = s->seq[id].next) {
        pages += s->seq[id].pages;
        in_flight += s->seq[id].in_flight;
        decoding += fs_seq_is_decoding(&s->seq[id]);
    }
    FS_ASSERT(pages == s->pages_promised);
    FS_ASSERT(pages <= s->options.num_pages);
    FS_ASSERT(in_flight == s->num_in_flight);
    FS_ASSERT(decoding == s->num_decoding);
    FS_ASSERT(s->running.length <= s->options.max_running);
    FS_ASSERT(s->waiting.length <= s->options.max_waiting);
    FS_ASSERT((uint64_t)s->waiting.length + s->running.length + s->free.length == s->num_slots);
}
