/* router/sched/plan.c: which tokens form the next micro-batch, whose pages they take, and what is known after it has run. */
#include "sched/sched_int.h"

/* A plan being made. */
typedef struct {
    fs_sched *sched;
    fs_sched_part *parts;
    uint32_t num_parts, max_parts, rows_left;
    bool is_short; /* one that runs found no page: nobody new is admitted */
} planner;

static bool is_full(const planner *p)
{
    return p->num_parts == p->max_parts || p->rows_left == 0;
}

/* ---- pages ---- */

/* Its pages go back; what it has said is kept, and it waits before its client's others. */
static void preempt(fs_sched *s, uint32_t id)
{
    fs_seq *seq = &s->seq[id];
    FS_ASSERT(s->options.preemption && !seq->in_flight);
    if (seq->most_computed < seq->computed) seq->most_computed = seq->computed;
    fs_list_take(&s->running, id);
    fs_sched_drop_pages(s, id);
    seq->state = SEQ_WAITING;
    seq->computed = seq->passed = 0;
    seq->place = INT64_MIN / 2 + seq->standing;
    fs_clients_line_up(s, id);
    s->counts.preemptions++;
}

/* The last in standing behind id that is not in flight. */
static uint32_t find_victim(const fs_sched *s, uint32_t id)
{
    uint32_t victim = s->running.last;
    while (victim != id && (s->seq[victim].in_flight || s->seq[victim].num_pages == 0))
        victim = fs_list_prev(&s->running, victim);
    return victim == id ? FS_SCHED_NONE : victim;
}

/* Pages for `rows` rows more, or for as many as there are pages; others are preempted for the first row alone. Returns the rows. */
static uint32_t take_pages(fs_sched *s, uint32_t id, uint32_t rows)
{
    fs_seq *seq = &s->seq[id];
    bool needs_one = fs_sched_pages_for(s, seq->computed + 1) > seq->num_pages;
    while (needs_one && fs_pages_num_free(s->pages) == 0) {
        uint32_t victim = find_victim(s, id);
        if (victim == FS_SCHED_NONE) return 0;
        preempt(s, victim);
    }
    uint32_t all = fs_sched_pages_for(s, seq->computed + rows), free = fs_pages_num_free(s->pages);
    uint32_t n = all > seq->num_pages ? all - seq->num_pages : 0;
    if (n > free) n = free;
    fs_pages_take(s->pages, n, seq->request.pages + seq->num_pages);
    seq->num_pages += n;
    uint64_t room = (uint64_t)seq->num_pages * s->options.page_tokens - seq->computed;
    return room < rows ? (uint32_t)room : rows;
}

/* ---- parts ---- */

static void add_part(planner *p, uint32_t id, uint32_t rows, bool admitted)
{
    fs_sched *s = p->sched;
    fs_seq *seq = &s->seq[id];
    FS_ASSERT(!seq->in_flight);
    FS_ASSERT(rows <= p->rows_left && rows <= seq->known - seq->computed);
    rows = take_pages(s, id, rows);
    if (rows == 0) {
        p->is_short = true;
        return;
    }
    bool last = seq->computed + rows == seq->known;
    p->parts[p->num_parts++] = (fs_sched_part){
        .id = id, .first = seq->computed, .count = rows, .admitted = admitted, .last = last};
    p->rows_left -= rows;
    seq->in_flight = true;
    seq->planned = rows;
    s->num_in_flight++;
    if (last) s->client[seq->client].counter += s->options.output_weight;
    uint32_t end = seq->computed + rows < seq->most_computed ? seq->computed + rows : seq->most_computed;
    if (end > seq->computed) s->counts.tokens_again += end - seq->computed;
}

static void note_passed(fs_sched *s, fs_seq *seq)
{
    seq->passed++;
    s->counts.plans_passed++;
    if (seq->passed > s->counts.longest_wait) s->counts.longest_wait = seq->passed;
}

/* Pages that it needs for what is known of it; without preemption, for all that it may become. */
static uint32_t pages_wanted(const fs_sched *s, const fs_seq *seq)
{
    return fs_sched_pages_for(s, s->options.preemption ? seq->known : seq->request.total_tokens);
}

/* Pages that those which run want and do not have; with preemption, and one more for each fourth of them to grow into: an admission that soon
 * costs a preemption gains nothing. */
static uint64_t pages_spoken_for(const fs_sched *s)
{
    uint64_t n = s->options.preemption ? s->running.length / 4 : 0;
    for (uint32_t id = s->running.first; id != FS_LIST_END; id = fs_list_next(&s->running, id)) {
        const fs_seq *seq = &s->seq[id];
        uint32_t wanted = pages_wanted(s, seq);
        if (!seq->removed && wanted > seq->num_pages) n += wanted - seq->num_pages;
    }
    return n;
}

static bool has_rows_to_fill(const fs_seq *seq)
{
    return !seq->removed && !seq->in_flight && seq->known > seq->computed && !fs_seq_is_decoding(seq);
}

/* Where decodes could fill a plan they leave a fourth of it to prompts that could run: those that wait are not to wait for a text to end. */
static uint32_t rows_for_prompts(const fs_sched *s)
{
    uint32_t rows = s->options.max_step_tokens / 4;
    for (uint32_t id = s->running.first; id != FS_LIST_END; id = fs_list_next(&s->running, id))
        if (has_rows_to_fill(&s->seq[id])) return rows;
    if (s->running.length == s->options.max_running) return 0;
    uint32_t id = fs_clients_next(s, s->running.length + s->num_preempted < s->options.max_running);
    if (id == FS_SCHED_NONE) return 0;
    bool has_room = pages_wanted(s, &s->seq[id]) + pages_spoken_for(s) <= fs_pages_num_free(s->pages);
    return has_room ? rows : 0;
}

/* The decodes that could run, into s->candidate; how many may. At most an even share, so that the other micro-batches in flight have decodes too: with
 * all in one, nothing would be computed while it waits for its experts. */
static uint32_t find_decodes(const planner *p, uint32_t *num)
{
    fs_sched *s = p->sched;
    uint32_t batches = s->options.num_micro_batches, num_decoding = 0;
    *num = 0;
    for (uint32_t id = s->running.first; id != FS_LIST_END; id = fs_list_next(&s->running, id)) {
        if (!fs_seq_is_decoding(&s->seq[id])) continue;
        num_decoding++;
        if (!s->seq[id].in_flight) s->candidate[(*num)++] = id;
    }
    uint32_t n = num_decoding / batches + (num_decoding % batches != 0);
    uint32_t rows = p->rows_left - rows_for_prompts(s);
    if (n > rows) n = rows;
    return n > p->max_parts ? p->max_parts : n;
}

/* The chosen run; where one finds no page, somebody else has its turn: the first in standing always finds one, so that there is always
 * progress. */
static void add_decodes(planner *p)
{
    fs_sched *s = p->sched;
    uint32_t num, n = find_decodes(p, &num);
    if (num == 0) return;
    fs_sched_choose(s, num, n);
    for (int turn = 0; turn < 2; turn++) {
        for (uint32_t i = 0; i < num && p->num_parts < n; i++) {
            uint32_t id = s->candidate[i];
            if (s->chosen[i] != (turn == 0) || s->seq[id].state != SEQ_RUNNING)
                continue; /* or preempted now */
            add_part(p, id, 1, false);
        }
    }
    for (uint32_t i = 0; i < num; i++) {
        fs_seq *seq = &s->seq[s->candidate[i]];
        if (seq->in_flight)
            seq->passed = 0;
        else if (!s->chosen[i] && seq->state == SEQ_RUNNING)
            note_passed(s, seq);
    }
}

static uint32_t chunk_rows(const planner *p, const fs_seq *seq)
{
    uint32_t rows = seq->known - seq->computed;
    if (rows > p->sched->options.prefill_chunk) rows = p->sched->options.prefill_chunk;
    return rows < p->rows_left ? rows : p->rows_left;
}

static void add_running_prompts(planner *p)
{
    const fs_sched *s = p->sched;
    for (uint32_t id = s->running.first; id != FS_LIST_END && !is_full(p);
         id = fs_list_next(&s->running, id)) {
        if (has_rows_to_fill(&s->seq[id])) add_part(p, id, chunk_rows(p, &s->seq[id]), false);
    }
}

/* ---- admission ---- */

/* The pages that hold its beginning already, if with them there are enough. Its last known token always runs: its logits are wanted. */
static bool find_room(fs_sched *s, fs_seq *seq, uint32_t *found)
{
    uint32_t full = (seq->known - 1) / s->options.page_tokens;
    uint32_t n = seq->request.token ? fs_pages_match(s->pages, seq->request.token, full, seq->request.pages)
                                    : 0;
    uint64_t wanted = pages_wanted(s, seq) - n + pages_spoken_for(s);
    *found = n;
    if (wanted <= fs_pages_num_free(s->pages)) return true;
    fs_pages_release(s->pages, seq->request.pages, n);
    return false;
}

/* Its first admission: it gets its standing, and its client pays for what of the prompt is to be computed. */
static void enrol(fs_sched *s, fs_seq *seq, uint32_t found_tokens)
{
    fs_client *client = &s->client[seq->client];
    seq->admission = ++s->num_admitted;
    seq->standing = (int64_t)seq->admission - (int64_t)FS_SCHED_BOOST * seq->request.priority;
    s->last_counter = client->counter;
    client->counter += (uint64_t)s->options.input_weight * (seq->request.prompt_tokens - found_tokens);
    s->counts.tokens_found += found_tokens;
}

static void admit(planner *p, uint32_t id, uint32_t found)
{
    fs_sched *s = p->sched;
    fs_seq *seq = &s->seq[id];
    bool is_first = seq->admission == 0;
    fs_clients_leave_line(s, id);
    if (is_first) enrol(s, seq, found * s->options.page_tokens);
    seq->state = SEQ_RUNNING;
    seq->num_pages = seq->num_published = found;
    seq->computed = found * s->options.page_tokens;
    fs_seq_insert(s, &s->running, id, fs_seq_stands_before);
    add_part(p, id, chunk_rows(p, seq), is_first);
    FS_ASSERT(seq->in_flight); /* there was room */
}

/* A sequence is admitted with its first rows and not before. Whose turn it is, and nobody in its stead: a small one that overtook a large one would do
 * so for ever under load. */
static void admit_waiting(planner *p)
{
    fs_sched *s = p->sched;
    while (!is_full(p) && !p->is_short) {
        uint32_t found,
            id = fs_clients_next(s, s->running.length + s->num_preempted < s->options.max_running);
        if (id == FS_SCHED_NONE || !find_room(s, &s->seq[id], &found)) return;
        admit(p, id, found);
    }
}

uint32_t fs_sched_plan(fs_sched *sched, fs_sched_part *out, uint32_t max_parts)
{
    planner p = {sched, out, 0, max_parts, sched->options.max_step_tokens, false};
    if (max_parts == 0) return 0;
    add_decodes(&p);
    add_running_prompts(&p);
    admit_waiting(&p);
    return p.num_parts;
}

/* ---- after it has run ---- */

/* Its full pages can be found from now on. */
static void publish(fs_sched *s, fs_seq *seq)
{
    uint32_t page = s->options.page_tokens, *pages = seq->request.pages;
    if (!s->options.prefix_cache || !seq->request.token) return;
    for (uint32_t at = seq->num_published; seq->computed / page > at; seq->num_published = ++at) {
        uint32_t previous = at == 0 ? FS_PAGES_NONE : pages[at - 1];
        pages[at] = fs_pages_publish(s->pages, pages[at], previous, seq->request.token + (size_t)at * page);
    }
}

void fs_sched_done(fs_sched *sched, uint32_t id, uint32_t new_tokens)
{
    FS_ASSERT(id < sched->num_slots);
    fs_seq *seq = &sched->seq[id];
    FS_ASSERT(seq->in_flight);
    seq->in_flight = false;
    sched->num_in_flight--;
    if (seq->removed) { /* who knows what its rows have left in its pages */
        fs_sched_release(sched, id);
        return;
    }
    seq->computed += seq->planned;
    seq->planned = 0;
    FS_ASSERT(new_tokens == 0 || seq->computed == seq->known); /* only the last row's logits give a token */
    FS_ASSERT(new_tokens <= 1 && new_tokens <= seq->request.total_tokens - seq->known);
    if (seq->computed == seq->known) seq->route = NULL; /* that of a token that has run */
    seq->known += new_tokens;
    publish(sched, seq);
}
