/* router/sched/check.c: every invariant of the scheduler, asserted. For tests and the simulator. */
#include <string.h>

#include "sched/sched_int.h"

static void check_progress(const fs_sched *s, const fs_seq *seq)
{
    const fs_sched_request *r = &seq->request;
    uint64_t page = s->options.page_tokens;
    FS_ASSERT(r->prompt_tokens >= 1 && r->prompt_tokens <= seq->known && seq->known <= r->total_tokens);
    FS_ASSERT(seq->computed <= seq->known);
    FS_ASSERT(seq->in_flight == (seq->planned > 0));
    FS_ASSERT(seq->planned <= seq->known - seq->computed);
    FS_ASSERT(seq->planned <= s->options.prefill_chunk);
    FS_ASSERT(!seq->removed || seq->in_flight);
    FS_ASSERT(seq->num_pages * page >= (uint64_t)seq->computed + seq->planned);
    FS_ASSERT(seq->num_pages <= fs_sched_pages_for(s, r->total_tokens));
    FS_ASSERT(seq->num_published * page <= seq->computed);
}

static void check_sequence(const fs_sched *s, const fs_seq *seq)
{
    check_progress(s, seq);
    FS_ASSERT(!seq->ready || seq->asked);
    if (seq->state == SEQ_RUNNING) {
        FS_ASSERT(seq->ready && seq->admission > 0);
        return;
    }
    FS_ASSERT(!seq->in_flight && seq->computed == 0 && seq->num_pages == 0);
    FS_ASSERT(seq->admission == 0 || (seq->ready && s->options.preemption));
}

/* The list's links, states and order. */
static void check_list(const fs_sched *s, const fs_list *list, fs_seq_state state)
{
    fs_list_check(list);
    for (uint32_t id = list->first; id != FS_LIST_END; id = fs_list_next(list, id)) {
        const fs_seq *seq = &s->seq[id], *prev = &s->seq[fs_list_prev(list, id)];
        FS_ASSERT(seq->state == state);
        if (state == SEQ_FREE) continue;
        check_sequence(s, seq);
        if (id == list->first) continue;
        if (state == SEQ_RUNNING)
            FS_ASSERT(fs_seq_stands_before(prev, seq));
        else
            FS_ASSERT(prev->place <= seq->place);
    }
}

static void check_line(const fs_sched *s, uint32_t at, uint32_t *fresh, uint32_t *preempted)
{
    const fs_client *client = &s->client[at];
    uint32_t num_fresh = 0, num_asked = 0;
    check_list(s, &client->line, SEQ_WAITING);
    for (uint32_t id = client->line.first; id != FS_LIST_END; id = fs_list_next(&client->line, id)) {
        FS_ASSERT(s->seq[id].client == at);
        num_fresh += s->seq[id].admission == 0;
        num_asked += s->seq[id].admission == 0 && s->seq[id].asked;
    }
    FS_ASSERT(num_fresh == client->num_fresh && num_asked == client->num_asked);
    FS_ASSERT(client->line.length <= client->num_seqs);
    *fresh += num_fresh;
    *preempted += client->line.length - num_fresh;
}

static void check_clients(const fs_sched *s)
{
    uint32_t fresh = 0, preempted = 0, lined = 0, gone = 0, seqs = 0;
    for (uint32_t at = 0; at < s->num_clients; at++) {
        seqs += s->client[at].num_seqs;
        gone += s->client[at].num_seqs == 0;
        lined += s->client[at].line.length > 0;
        if (s->client[at].line.length > 0) check_line(s, at, &fresh, &preempted);
    }
    FS_ASSERT(seqs + s->free.length == s->num_slots);
    FS_ASSERT(gone == s->gone.length && lined == s->lined.length);
    FS_ASSERT(fresh == s->num_fresh && fresh <= s->options.max_waiting);
    FS_ASSERT(preempted == s->num_preempted);
    FS_ASSERT(preempted + s->running.length <= s->options.max_running);
    FS_ASSERT(fresh + preempted + s->running.length + s->free.length == s->num_slots);
}

static void check_pages(const fs_sched *s)
{
    uint64_t promised = 0;
    memset(s->holders, 0, s->options.num_pages * sizeof *s->holders);
    for (uint32_t id = s->running.first; id != FS_LIST_END; id = fs_list_next(&s->running, id)) {
        const fs_seq *seq = &s->seq[id];
        for (uint32_t i = 0; i < seq->num_pages; i++) {
            FS_ASSERT(seq->request.pages[i] < s->options.num_pages);
            s->holders[seq->request.pages[i]]++;
        }
        if (!seq->removed) promised += fs_sched_pages_for(s, seq->request.total_tokens) - seq->num_pages;
    }
    fs_pages_check(s->pages, s->holders);
    FS_ASSERT(s->options.preemption || promised <= fs_pages_num_free(s->pages));
}

void fs_sched_check(const fs_sched *s)
{
    uint32_t in_flight = 0;
    uint64_t arrival = 0;
    check_list(s, &s->running, SEQ_RUNNING); /* being in one list, nobody is in two plans */
    check_list(s, &s->free, SEQ_FREE);
    check_clients(s);
    check_pages(s);
    for (uint32_t id = s->running.first; id != FS_LIST_END; id = fs_list_next(&s->running, id))
        in_flight += s->seq[id].in_flight;
    FS_ASSERT(in_flight == s->num_in_flight);
    fs_list_check(&s->by_age);
    fs_list_check(&s->lined);
    fs_list_check(&s->gone);
    for (uint32_t id = s->by_age.first; id != FS_LIST_END; id = fs_list_next(&s->by_age, id)) {
        FS_ASSERT(s->seq[id].arrival > arrival);
        arrival = s->seq[id].arrival;
    }
    FS_ASSERT(s->by_age.length + s->free.length == s->num_slots && arrival <= s->num_arrived);
}
