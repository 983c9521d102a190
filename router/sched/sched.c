/* router/sched/sched.c: sequences come, wait and leave; clients.c says whose turn it is, plan.c what runs. */
#include "sched/sched.h"

#include <stdlib.h>

#include "base/clock.h"
#include "sched/sched_int.h"

enum { REMEMBERED_CLIENTS = 1024 }; /* besides those that have sequences */

void fs_seq_insert(fs_sched *s, fs_list *list, uint32_t id, bool (*before)(const fs_seq *a, const fs_seq *b))
{
    uint32_t prev = list->last;
    while (prev != FS_LIST_END && before(&s->seq[id], &s->seq[prev])) prev = fs_list_prev(list, prev);
    fs_list_insert(list, prev, id);
}

/* ---- creation ---- */

static bool is_in(uint32_t value, uint32_t min, uint32_t max)
{
    return value >= min && value <= max;
}

static bool options_are_valid(const fs_sched_options *o)
{
    uint32_t slots;
    if (o->max_waiting < 1 || o->max_running < 1 || o->num_pages < 1 || o->page_tokens < 1) return false;
    if (o->max_step_tokens < 1 || !is_in(o->prefill_chunk, 1, o->max_step_tokens)) return false;
    if (!is_in(o->num_micro_batches, 1, 4) || o->route_ahead < 1 || o->num_pages == FS_PAGES_NONE)
        return false;
    if (!is_in(o->input_weight, 1, 1000) || !is_in(o->output_weight, 1, 1000)) return false;
    if (o->batching == FS_BATCHING_EXPERT_AWARE &&
        (!is_in(o->num_moe_layers, 1, 65536) || !is_in(o->num_experts, 1, 65536) ||
         !is_in(o->top_k, 1, o->num_experts) || o->num_moe_layers > (1u << 26) / o->num_experts))
        return false;
    if (__builtin_add_overflow(o->max_waiting, o->max_running, &slots)) return false;
    return slots < FS_SCHED_NONE - REMEMBERED_CLIENTS;
}

static fs_status alloc_tables(fs_sched *s)
{
    const fs_sched_options *o = &s->options;
    size_t set_words;
    s->num_slots = o->max_waiting + o->max_running;
    s->num_clients = s->num_slots + REMEMBERED_CLIENTS;
    s->num_buckets = 1;
    while (s->num_buckets < s->num_clients && s->num_buckets < 1u << 31) s->num_buckets *= 2;
    if (o->batching == FS_BATCHING_EXPERT_AWARE) s->words = (o->num_moe_layers * o->num_experts + 63) / 64;
    if (!fs_mul_size(o->max_running, s->words, &set_words)) return FS_NO_MEMORY;
    s->seq = calloc(s->num_slots, sizeof *s->seq);
    s->client = calloc(s->num_clients, sizeof *s->client);
    s->bucket = calloc(s->num_buckets, sizeof *s->bucket);
    s->candidate = calloc(o->max_running, sizeof *s->candidate);
    s->chosen = calloc(o->max_running, sizeof *s->chosen);
    s->new_experts = calloc(o->max_running, sizeof *s->new_experts);
    s->set = calloc(set_words + 1, sizeof *s->set);
    s->all = calloc(s->words + 1, sizeof *s->all);
    s->new_word = calloc(s->words + 1, sizeof *s->new_word);
    s->holders = calloc(o->num_pages, sizeof *s->holders);
    if (!s->seq || !s->client || !s->bucket || !s->candidate || !s->chosen || !s->new_experts || !s->set ||
        !s->all || !s->new_word || !s->holders)
        return FS_NO_MEMORY;
    return fs_pages_create(o->num_pages, o->page_tokens, o->prefix_cache, &s->pages);
}

fs_status fs_sched_create(const fs_sched_options *options, fs_sched **out)
{
    if (!options_are_valid(options)) return FS_INVALID;
    fs_sched *s = calloc(1, sizeof *s);
    if (!s) return FS_NO_MEMORY;
    s->options = *options;
    fs_status st = alloc_tables(s);
    if (st != FS_OK) {
        fs_sched_destroy(s);
        return st;
    }
    s->running = s->free = fs_list_of(&s->seq->link, sizeof *s->seq);
    s->by_age = fs_list_of(&s->seq->age, sizeof *s->seq);
    fs_clients_init(s);
    for (uint32_t id = 0; id < s->num_slots; id++) fs_list_push(&s->free, id);
    *out = s;
    return FS_OK;
}

void fs_sched_destroy(fs_sched *s)
{
    if (!s) return;
    fs_pages_destroy(s->pages);
    free(s->seq);
    free(s->client);
    free(s->bucket);
    free(s->candidate);
    free(s->chosen);
    free(s->new_experts);
    free(s->set);
    free(s->all);
    free(s->new_word);
    free(s->holders);
    free(s);
}

/* ---- coming ---- */

static bool request_is_valid(const fs_sched *s, const fs_sched_request *r)
{
    if (r->prompt_tokens == 0 || r->total_tokens < r->prompt_tokens) return false;
    if (r->priority < -FS_SCHED_MAX_PRIORITY || r->priority > FS_SCHED_MAX_PRIORITY) return false;
    return fs_sched_pages_for(s, r->total_tokens) <= s->options.num_pages;
}

static bool has_place(const fs_sched *s, const fs_client *client)
{
    uint32_t max = s->options.max_waiting;
    return s->num_fresh < (client->num_fresh == 0 ? max : max - max / 16);
}

fs_status fs_sched_add(fs_sched *s, const fs_sched_request *request, uint32_t *id_out)
{
    if (!request_is_valid(s, request)) return FS_INVALID;
    uint32_t at = fs_clients_find(s, request->client);
    fs_client *client = &s->client[at];
    if (!has_place(s, client)) return FS_EXHAUSTED;
    uint32_t id = s->free.first; /* there is one: those that wait and those that were admitted are bounded */
    FS_ASSERT(id != FS_SCHED_NONE);
    fs_list_take(&s->free, id);
    s->seq[id] = (fs_seq){
        .state = SEQ_WAITING,
        .request = *request,
        .known = request->prompt_tokens,
        .client = at,
        .arrival = ++s->num_arrived,
        .place = (int64_t)++client->num_arrived - (int64_t)FS_SCHED_BOOST * request->priority,
    };
    fs_list_push(&s->by_age, id);
    fs_clients_enter(s, at);
    fs_clients_line_up(s, id);
    *id_out = id;
    return FS_OK;
}

/* The caller's sequence of that id: names one that is there and not removed. */
static fs_seq *live(fs_sched *s, uint32_t id)
{
    FS_ASSERT(id < s->num_slots);
    FS_ASSERT(s->seq[id].state != SEQ_FREE);
    FS_ASSERT(!s->seq[id].removed);
    return &s->seq[id];
}

void fs_sched_ready(fs_sched *s, uint32_t id)
{
    fs_seq *seq = live(s, id);
    if (!seq->asked) s->client[seq->client].num_asked++; /* its routes came unasked */
    seq->asked = seq->ready = true;
}

void fs_sched_set_experts(fs_sched *s, uint32_t id, const uint16_t *route)
{
    live(s, id)->route = route;
}

/* ---- leaving ---- */

void fs_sched_drop_pages(fs_sched *s, uint32_t id)
{
    fs_seq *seq = &s->seq[id];
    fs_pages_release(s->pages, seq->request.pages, seq->num_pages);
    seq->num_pages = seq->num_published = 0;
}

void fs_sched_release(fs_sched *s, uint32_t id)
{
    fs_seq *seq = &s->seq[id];
    if (seq->state == SEQ_RUNNING) {
        fs_sched_drop_pages(s, id);
        fs_list_take(&s->running, id);
    } else {
        fs_clients_leave_line(s, id);
    }
    fs_list_take(&s->by_age, id);
    fs_clients_leave(s, seq->client);
    seq->state = SEQ_FREE;
    fs_list_push(&s->free, id); /* at the end: a dead id is not seen again soon */
}

void fs_sched_remove(fs_sched *s, uint32_t id)
{
    fs_seq *seq = live(s, id);
    if (seq->in_flight)
        seq->removed = true; /* its rows still read and write its pages: done releases it */
    else
        fs_sched_release(s, id);
}

/* ---- what is asked ---- */

uint32_t fs_sched_expired(const fs_sched *s, int64_t now_ns, uint32_t *out, uint32_t max, int64_t *next_ns)
{
    uint32_t found = 0;
    int64_t next = FS_NEVER;
    for (uint32_t id = s->by_age.first; id != FS_LIST_END; id = fs_list_next(&s->by_age, id)) {
        const fs_seq *seq = &s->seq[id];
        int64_t deadline = seq->request.deadline_ns;
        if (seq->removed || deadline == FS_NEVER) continue;
        if (deadline <= now_ns && found < max)
            out[found++] = id;
        else if (deadline <= now_ns)
            next = now_ns; /* no room for it: ask again at once */
        else if (deadline < next)
            next = deadline;
    }
    *next_ns = next;
    return found;
}

fs_sched_counts fs_sched_get_counts(const fs_sched *s)
{
    fs_sched_counts c = s->counts;
    c.waiting = s->num_fresh + s->num_preempted;
    c.running = s->running.length;
    c.in_flight = s->num_in_flight;
    c.pages_held = s->options.num_pages - fs_pages_num_free(s->pages);
    c.pages_idle = fs_pages_num_idle(s->pages);
    return c;
}
