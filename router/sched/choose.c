/* router/sched/choose.c: which decodes run together. A step costs its experts' weights: each distinct one is read once, however many rows visit
 * it, so that rows which visit the same ones should run in the same step (Read-ME, arXiv 2410.19123, section 4, expert-aware batching). */
#include <string.h>

#include "sched/sched_int.h"

/* Those that were passed over for batch_wait turns, the longest waiting first. A turn is as many plans as all need to run once. Returns how many. */
static uint32_t choose_overdue(fs_sched *s, uint32_t num, uint32_t n)
{
    uint64_t limit = (uint64_t)s->options.batch_wait * ((num + n - 1) / n);
    uint32_t found = 0;
    for (; found < n; found++) {
        uint32_t best = FS_SCHED_NONE;
        for (uint32_t i = 0; i < num; i++) {
            uint32_t passed = s->seq[s->candidate[i]].passed;
            if (s->chosen[i] || passed < limit || passed == 0) continue;
            if (best == FS_SCHED_NONE || passed > s->seq[s->candidate[best]].passed) best = i;
        }
        if (best == FS_SCHED_NONE) break;
        s->chosen[best] = true;
    }
    return found;
}

static void build_set(fs_sched *s, uint32_t at)
{
    const fs_sched_options *o = &s->options;
    const uint16_t *route = s->seq[s->candidate[at]].route;
    uint64_t *set = s->set + (size_t)at * s->words;
    memset(set, 0, s->words * sizeof *set);
    s->new_experts[at] = 0;
    for (uint32_t i = 0; route && i < o->num_moe_layers * o->top_k; i++) {
        uint32_t bit = i / o->top_k * o->num_experts + route[i];
        set[bit / 64] |= 1ull << bit % 64;
    }
    for (uint32_t w = 0; w < s->words; w++) s->new_experts[at] += (uint32_t)__builtin_popcountll(set[w]);
}

/* A chosen one's experts are there from now on: the others bring so many fewer new ones. */
static void add_set(fs_sched *s, uint32_t num, uint32_t at)
{
    const uint64_t *set = s->set + (size_t)at * s->words;
    uint32_t num_words = 0;
    for (uint32_t w = 0; w < s->words; w++)
        if (set[w] & ~s->all[w]) s->new_word[num_words++] = w;
    for (uint32_t i = 0; i < num; i++) {
        const uint64_t *other = s->set + (size_t)i * s->words;
        for (uint32_t k = 0; k < num_words && !s->chosen[i]; k++) {
            uint32_t w = s->new_word[k];
            s->new_experts[i] -= (uint32_t)__builtin_popcountll(other[w] & set[w] & ~s->all[w]);
        }
    }
    for (uint32_t k = 0; k < num_words; k++) s->all[s->new_word[k]] |= set[s->new_word[k]];
}

/* Greedily the one that brings the fewest new experts; the first in standing where they are equal, and where nobody is chosen yet. */
static void choose_by_experts(fs_sched *s, uint32_t num, uint32_t have, uint32_t n)
{
    memset(s->all, 0, s->words * sizeof *s->all);
    for (uint32_t i = 0; i < num; i++) build_set(s, i);
    for (uint32_t i = 0; i < num; i++)
        if (s->chosen[i]) add_set(s, num, i);
    for (; have < n; have++) {
        uint32_t best = FS_SCHED_NONE;
        for (uint32_t i = 0; i < num; i++) {
            if (s->chosen[i]) continue;
            if (best == FS_SCHED_NONE || s->new_experts[i] < s->new_experts[best]) best = i;
            if (have == 0) break;
        }
        s->chosen[best] = true;
        add_set(s, num, best);
    }
}

void fs_sched_choose(fs_sched *s, uint32_t num, uint32_t n)
{
    for (uint32_t i = 0; i < num; i++) s->chosen[i] = n >= num;
    if (n >= num) return;
    uint32_t have = choose_overdue(s, num, n);
    if (s->options.batching == FS_BATCHING_EXPERT_AWARE) {
        choose_by_experts(s, num, have, n);
        return;
    }
    for (uint32_t i = 0; have < n; i++) {
        have += !s->chosen[i];
        s->chosen[i] = true;
    }
}
