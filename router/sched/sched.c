/* router/sched/sched.c: sequences come, wait in order and leave; plan.c decides what runs. */
#include "sched/sched.h"

#include <stdlib.h>

#include "base/clock.h"
#include "sched/sched_int.h"

void fs_seq_list_push(fs_sched *sched, fs_seq_list *list, uint32_t id)
{
    fs_seq *seq = &sched->seq[id];
    seq->prev = list->last;
    seq->next = FS_SCHED_NONE;
    if (list->last == FS_SCHED_NONE)
        list->first = id;
    else
        sched->seq[list->last].next = id;
    list->last = id;
    list->length++;
}

void fs_seq_list_take(fs_sched *sched, fs_seq_list *list, uint32_t id)
{
    fs_seq *seq = &sched->seq[id];
    if (seq->prev == FS_SCHED_NONE)
        list->first = seq->next;
    else
        sched->seq[seq->prev].next = seq->next;
    if (seq->next == FS_SCHED_NONE)
        list->last = seq->prev;
    else
        sched->seq[seq->next].prev = seq->prev;
    list->length--;
}

static bool options_are_valid(const fs_sched_options *o)
{
    uint32_t slots;
    if (!o->max_waiting || !o->max_running || !o->num_pages || !o->page_tokens || !o->max_step_tokens)
        return false;
    if (o->prefill_chunk < 1 || o->prefill_chunk > o->max_step_tokens) return false;
    if (o->num_micro_batches < 1 || o->num_micro_batches > 4) return false;
    return !__builtin_add_overflow(o->max_waiting, o->max_running, &slots) && slots != FS_SCHED_NONE;
}

fs_status fs_sched_create(const fs_sched_options *options, fs_sched **out)
{
    const fs_seq_list empty = {FS_SCHED_NONE, FS_SCHED_NONE, 0};
    size_t bytes;
    if (!options_are_valid(options)) return FS_INVALID;
    uint32_t num_slots = options->max_waiting + options->max_running;
    if (!fs_mul_size(num_slots, sizeof(fs_seq), &bytes)) return FS_NO_MEMORY;
    if (!fs_add_size(bytes, sizeof(fs_sched), &bytes)) return FS_NO_MEMORY;
    fs_sched *sched = calloc(1, bytes);
    if (!sched) return FS_NO_MEMORY;
    sched->options = *options;
    sched->num_slots = num_slots;
    sched->waiting = sched->running = sched->free = empty;
    for (uint32_t id = 0; id < num_slots; id++) fs_seq_list_push(sched, &sched->free, id);
    *out = sched;
    return FS_OK;
}

void fs_sched_destroy(fs_sched *sched)
{
    free(sched);
}

fs_status fs_sched_add(fs_sched *sched, uint32_t prompt_tokens, uint32_t total_tokens, int64_t deadline_ns,
                       int64_t now_ns, uint32_t *id_out)
{
    uint32_t page = sched->options.page_tokens;
    uint32_t pages = total_tokens / page + (total_tokens % page != 0);
    if (prompt_tokens == 0 || total_tokens < prompt_tokens || pages > sched->options.num_pages)
        return FS_INVALID;
    if (sched->waiting.length == sched->options.max_waiting) return FS_EXHAUSTED;
    uint32_t id = sched->free.first; /* there is one: waiting and running are both bounded */
    FS_ASSERT(id != FS_SCHED_NONE);
    fs_seq_list_take(sched, &sched->free, id);
    sched->seq[id] = (fs_seq){
        .state = SEQ_WAITING,
        .prompt_tokens = prompt_tokens,
        .total_tokens = total_tokens,
        .known = prompt_tokens,
        .pages = pages,
        .deadline_ns = deadline_ns,
        .arrival = ++sched->num_arrived,
    };
    fs_seq_list_push(sched, &sched->waiting, id);
    *id_out = id;
    return FS_OK;
}

/* The caller's sequence of that id: names one that is there and not removed. */
static fs_seq *live(fs_sched *sched, uint32_t id)
{
    FS_ASSERT(id < sched->num_slots);
    FS_ASSERT(sched->seq[id].state != SEQ_FREE);
    FS_ASSERT(!sched->seq[id].removed);
    return &sched->seq[id];
}

void fs_sched_ready(fs_sched *sched, uint32_t id)
{
    live(sched, id)->ready = true;
}

void fs_sched_release(fs_sched *sched, uint32_t id)
{
    fs_seq *seq = &sched->seq[id];
    if (seq->state == SEQ_RUNNING) sched->pages_promised -= seq->pages;
    fs_seq_list_take(sched, seq->state == SEQ_RUNNING ? &sched->running : &sched->waiting, id);
    seq->state = SEQ_FREE;
    fs_seq_list_push(sched, &sched->free, id); /* at the end: a dead id is not seen again soon */
}

void fs_sched_remove(fs_sched *sched, uint32_t id)
{
    fs_seq *seq = live(sched, id);
    if (fs_seq_is_decoding(seq)) sched->num_decoding--;
    if (seq->in_flight)
        seq->removed = true; /* its rows still read and write its pages: done releases it */
    else
        fs_sched_release(sched, id);
}

/* Both lists are in order of arrival, and all that run arrived before all that wait. */
uint32_t fs_sched_expired(const fs_sched *sched, int64_t now_ns, uint32_t *out, uint32_t max,
                          int64_t *next_ns)
{
    const fs_seq_list *const lists[] = {&sched->running, &sched->waiting};
    uint32_t found = 0;
    int64_t next = FS_NEVER;
    for (int i = 0; i < 2; i++) {
        for (uint32_t id = lists[i]->first; id != FS_SCHED_NONE; id = sched->seq[id].next) {
            const fs_seq *seq = &sched->seq[id];
            if (seq->removed || seq->deadline_ns == FS_NEVER) continue;
            bool is_due = seq->deadline_ns <= now_ns;
            if (is_due && found < max)
                out[found++] = id;
            else if (is_due)
                next = now_ns; /* no room for it: ask again at once */
            else if (seq->deadline_ns < next)
                next = seq->deadline_ns;
        }
    }
    *next_ns = next;
    return found;
}

fs_sched_counts fs_sched_get_counts(const fs_sched *sched)
{
    return (fs_sched_counts){sched->waiting.length, sched->running.length, sched->num_in_flight,
                             sched->pages_promised};
}
