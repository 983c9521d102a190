/* router/sched/plan.c: which tokens form the next micro-batch, and what is known after it has run. */
#include "sched/sched_int.h"

/* A plan being made. */
typedef struct {
    fs_sched *sched;
    fs_sched_part *parts;
    uint32_t num_parts, max_parts, rows_left;
} planner;

static bool is_full(const planner *p)
{
    return p->num_parts == p->max_parts || p->rows_left == 0;
}

static void add_part(planner *p, uint32_t id, uint32_t count, bool admitted)
{
    fs_seq *seq = &p->sched->seq[id];
    FS_ASSERT(!seq->in_flight);
    FS_ASSERT(count > 0 && count <= p->rows_left && count <= seq->known - seq->computed);
    p->parts[p->num_parts++] = (fs_sched_part){
        .id = id,
        .first = seq->computed,
        .count = count,
        .admitted = admitted,
        .last = seq->computed + count == seq->known,
    };
    p->rows_left -= count;
    seq->in_flight = true;
    seq->planned = count;
    p->sched->num_in_flight++;
}

/* At most an even share, so that the other micro-batches in flight have decodes too: with all in one, nothing would be
 * computed while it waits for its experts. */
static void add_decodes(planner *p)
{
    const fs_sched *s = p->sched;
    uint32_t batches = s->options.num_micro_batches;
    uint32_t share = s->num_decoding / batches + (s->num_decoding % batches != 0);
    for (uint32_t id = s->running.first; id != FS_SCHED_NONE && share > 0 && !is_full(p);
         id = s->seq[id].next) {
        if (s->seq[id].in_flight || !fs_seq_is_decoding(&s->seq[id])) continue;
        add_part(p, id, 1, false);
        share--;
    }
}

static uint32_t chunk_rows(const planner *p, const fs_seq *seq)
{
    uint32_t rows = seq->prompt_tokens - seq->computed;
    if (rows > p->sched->options.prefill_chunk) rows = p->sched->options.prefill_chunk;
    return rows < p->rows_left ? rows : p->rows_left;
}

static void add_running_prompts(planner *p)
{
    const fs_sched *s = p->sched;
    for (uint32_t id = s->running.first; id != FS_SCHED_NONE && !is_full(p); id = s->seq[id].next) {
        const fs_seq *seq = &s->seq[id];
        if (seq->in_flight || seq->computed >= seq->prompt_tokens) continue;
        add_part(p, id, chunk_rows(p, seq), false);
    }
}

static bool may_admit(const fs_sched *s)
{
    uint32_t id = s->waiting.first;
    if (id == FS_SCHED_NONE || !s->seq[id].ready || s->running.length == s->options.max_running) return false;
    return s->seq[id].pages <= s->options.num_pages - s->pages_promised;
}

/* A sequence is admitted with its first rows and not before: pages are promised when they are needed. Strictly in order: a
 * small one that overtook a large one would do so for ever under load. */
static void admit_prompts(planner *p)
{
    fs_sched *s = p->sched;
    while (!is_full(p) && may_admit(s)) {
        uint32_t id = s->waiting.first;
        fs_seq_list_take(s, &s->waiting, id);
        fs_seq_list_push(s, &s->running, id);
        s->seq[id].state = SEQ_RUNNING;
        s->pages_promised += s->seq[id].pages;
        add_part(p, id, chunk_rows(p, &s->seq[id]), true);
    }
}

uint32_t fs_sched_plan(fs_sched *sched, int64_t now_ns, fs_sched_part *out, uint32_t max_parts)
{
    planner p = {sched, out, 0, max_parts, sched->options.max_step_tokens};
    add_decodes(&p);
    add_running_prompts(&p);
    admit_prompts(&p);
    return p.num_parts;
}

void fs_sched_done(fs_sched *sched, uint32_t id, uint32_t new_tokens)
{
    FS_ASSERT(id < sched->num_slots);
    fs_seq *seq = &sched->seq[id];
    FS_ASSERT(seq->in_flight);
    seq->in_flight = false;
    sched->num_in_flight--;
    if (seq->removed) {
        fs_sched_release(sched, id);
        return;
    }
    if (fs_seq_is_decoding(seq)) sched->num_decoding--;
    seq->computed += seq->planned;
    seq->planned = 0;
    FS_ASSERT(new_tokens == 0 || seq->computed == seq->known); /* only the last row's logits give a token */
    FS_ASSERT(new_tokens <= 1 && new_tokens <= seq->total_tokens - seq->known);
    seq->known += new_tokens;
    if (fs_seq_is_decoding(seq)) sched->num_decoding++;
}
