/* tests/unit/router/sched/property_test.c: the scheduler under a million random events, beside a plain model of what it must keep. The model also
 * has a memory of keys and values: a row leaves in its page what stands for all tokens up to it, and finds there, for each position before it, what
 * it must find. Each seed makes its own options and events; a failing one is printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/random.h"
#include "sched/sched.h"

enum {
    NUM_SEEDS = 200,
    EVENTS_A_SEED = 5000,
    MAX_SLOTS = 64,
    MAX_TOTAL = 64,
    MAX_PAGES = 64,
    MAX_PAGE = 16,
    LAYERS = 2,
    EXPERTS = 8,
    TOP_K = 2,
    CLIENTS = 4
};

/* What the test knows of a sequence. Its place in the model is its own, so that its arrays stay where they are. */
typedef struct {
    bool live, removed, ready, admitted, in_flight, last;
    uint32_t id, prompt, total, known, computed, planned, first, most; /* most: computed at most so far */
    uint64_t arrival, client;
    int64_t deadline_ns;
    uint32_t token[MAX_TOTAL], pages[MAX_TOTAL];
    uint16_t route[LAYERS * TOP_K];
} model_seq;

typedef struct {
    fs_sched *sched;
    fs_sched_options options;
    fs_random random;
    model_seq seq[MAX_SLOTS];
    uint64_t memory[MAX_PAGES][MAX_PAGE];
    uint64_t num_arrived, trace; /* trace: a hash of all that was planned */
    int64_t now_ns;
    uint64_t num_finished, num_preempted, num_found, num_merged;
} model;

#define CHECK(cond)                                                                                          \
    do {                                                                                                     \
        if (!(cond)) fail_msg("%s at line %d", #cond, __LINE__);                                             \
    } while (0)

static uint32_t below(model *m, uint32_t n)
{
    return fs_random_below(&m->random, n);
}

static void begin(model *m, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    m->random.state = seed;
    uint32_t step = 1 + below(m, 40);
    m->options = (fs_sched_options){
        .max_waiting = 1 + below(m, 20),
        .max_running = 1 + below(m, 20),
        .num_pages = 1 + below(m, MAX_PAGES),
        .page_tokens = 1 + below(m, MAX_PAGE),
        .max_step_tokens = step,
        .prefill_chunk = 1 + below(m, step),
        .num_micro_batches = 1 + below(m, 4),
        .preemption = below(m, 3) > 0,
        .prefix_cache = below(m, 3) > 0,
        .route_ahead = 1 + below(m, 8),
        .input_weight = 1,
        .output_weight = 2,
        .batching = below(m, 2) ? FS_BATCHING_EXPERT_AWARE : FS_BATCHING_FCFS,
        .batch_wait = below(m, 6),
        .num_moe_layers = LAYERS,
        .num_experts = EXPERTS,
        .top_k = TOP_K,
    };
    CHECK(fs_sched_create(&m->options, &m->sched) == FS_OK);
}

static uint32_t num_slots(const model *m)
{
    return m->options.max_waiting + m->options.max_running;
}

static model_seq *by_id(model *m, uint32_t id)
{
    CHECK(id < num_slots(m));
    for (uint32_t i = 0; i < MAX_SLOTS; i++)
        if (m->seq[i].live && m->seq[i].id == id) return &m->seq[i];
    fail_msg("no sequence has id %u", id);
    return NULL;
}

/* ---- tokens and memory ---- */

static uint64_t add_to_digest(uint64_t digest, uint32_t token)
{
    return (digest ^ (token + 1)) * 0x9e3779b97f4a7c15u;
}

/* The token after the first n: of the text alone, and often what others have said, too. */
static uint32_t next_token(const model_seq *s, uint32_t n)
{
    uint64_t digest = 1;
    for (uint32_t i = 0; i < n; i++) digest = add_to_digest(digest, s->token[i]);
    return (uint32_t)(digest >> 40) % 3;
}

/* What rows [from, to) leave, and what must be there below `from`. */
static void visit_memory(model *m, const model_seq *s, uint32_t from, uint32_t to)
{
    uint64_t digest = 1;
    for (uint32_t i = 0; i < to; i++) {
        uint32_t page = s->pages[i / m->options.page_tokens];
        CHECK(page < m->options.num_pages);
        uint64_t *cell = &m->memory[page][i % m->options.page_tokens];
        digest = add_to_digest(digest, s->token[i]);
        if (i < from)
            CHECK(*cell == digest);
        else
            *cell = digest;
    }
}

static void set_experts(model *m, model_seq *s)
{
    for (int i = 0; i < LAYERS * TOP_K; i++) s->route[i] = (uint16_t)below(m, EXPERTS);
    fs_sched_set_experts(m->sched, s->id, s->route);
}

/* ---- events ---- */

static uint32_t count_fresh(const model *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < MAX_SLOTS; i++) n += m->seq[i].live && !m->seq[i].admitted;
    return n;
}

static bool queue_is_full(const model *m, uint64_t client)
{
    uint32_t own = 0, max = m->options.max_waiting;
    for (uint32_t i = 0; i < MAX_SLOTS; i++)
        own += m->seq[i].live && !m->seq[i].admitted && m->seq[i].client == client;
    return count_fresh(m) >= (own ? max - max / 16 : max);
}

static void event_add(model *m)
{
    uint32_t id = FS_SCHED_NONE, at = 0;
    while (m->seq[at].live) at++; /* more places than slots */
    model_seq *s = &m->seq[at];
    *s = (model_seq){.client = below(m, CLIENTS), .prompt = below(m, 30)};
    s->total = s->prompt + below(m, 30);
    s->deadline_ns = below(m, 3) ? FS_NEVER : m->now_ns + below(m, 2000);
    s->known = s->prompt;
    /* Few tokens and few ways to begin, so that many begin alike. */
    for (uint32_t i = 0; i < s->prompt; i++) s->token[i] = below(m, 8) ? 1 : below(m, 3);
    const fs_sched_request r = {.prompt_tokens = s->prompt,
                                .total_tokens = s->total,
                                .client = s->client,
                                .priority = below(m, 4) ? 0 : (int32_t)below(m, 19) - 9,
                                .deadline_ns = s->deadline_ns,
                                .token = s->token,
                                .pages = s->pages};
    uint32_t pages = (s->total + m->options.page_tokens - 1) / m->options.page_tokens;
    bool is_valid = s->prompt > 0 && pages <= m->options.num_pages && r.priority >= -8 && r.priority <= 8;
    bool is_full = queue_is_full(m, s->client);
    fs_status st = fs_sched_add(m->sched, &r, &id);
    CHECK(st == (!is_valid ? FS_INVALID : is_full ? FS_EXHAUSTED : FS_OK));
    CHECK((st == FS_OK) == (id != FS_SCHED_NONE));
    if (st != FS_OK) return;
    s->arrival = ++m->num_arrived;
    s->id = id;
    s->live = true;
}

/* A live sequence chosen at random that fulfils want, or NULL. */
static model_seq *choose(model *m, bool (*want)(const model_seq *))
{
    uint32_t start = below(m, MAX_SLOTS);
    for (uint32_t i = 0; i < MAX_SLOTS; i++) {
        model_seq *s = &m->seq[(start + i) % MAX_SLOTS];
        if (s->live && want(s)) return s;
    }
    return NULL;
}

static bool is_unready(const model_seq *s)
{
    return !s->ready;
}

static bool is_kept(const model_seq *s)
{
    return !s->removed;
}

static bool is_in_flight(const model_seq *s)
{
    return s->in_flight;
}

/* Most routes come when they are asked for, some unasked. */
static void event_routes(model *m)
{
    uint32_t id = below(m, 8) ? fs_sched_next_route(m->sched) : FS_SCHED_NONE;
    model_seq *s = id == FS_SCHED_NONE ? choose(m, is_unready) : by_id(m, id);
    if (!s) return;
    CHECK(!s->ready && !s->removed);
    fs_sched_ready(m->sched, s->id);
    s->ready = true;
}

static void remove_seq(model *m, model_seq *s)
{
    fs_sched_remove(m->sched, s->id);
    s->removed = true;
    s->live = s->in_flight;
}

static void check_part(model *m, const fs_sched_part *p)
{
    model_seq *s = by_id(m, p->id);
    CHECK(!s->removed && s->ready);
    CHECK(!s->in_flight); /* nobody is in two plans */
    CHECK(p->admitted == !s->admitted);
    CHECK(p->count >= 1 && p->count <= m->options.prefill_chunk && p->first + p->count <= s->known);
    CHECK(p->last == (p->first + p->count == s->known));
    if (p->admitted || p->first != s->computed) { /* it begins, or begins again */
        CHECK(p->first % m->options.page_tokens == 0);
        CHECK(p->first == 0 || m->options.prefix_cache);
        CHECK(p->admitted || m->options.preemption);
        m->num_preempted += !p->admitted;
        m->num_found += p->first > 0;
    }
    visit_memory(m, s, p->first, p->first + p->count);
    s->admitted = s->in_flight = true;
    s->computed = s->first = p->first;
    s->planned = p->count;
    s->last = p->last;
    m->trace = (m->trace ^ (p->id * 31u + p->first * 7u + p->count)) * 0x100000001b3u;
}

static void check_counts(const model *m)
{
    uint32_t all = 0, in_flight = 0;
    for (uint32_t i = 0; i < MAX_SLOTS; i++) {
        all += m->seq[i].live;
        in_flight += m->seq[i].live && m->seq[i].in_flight;
    }
    fs_sched_counts c = fs_sched_get_counts(m->sched);
    CHECK(c.running + c.waiting == all && c.in_flight == in_flight);
    CHECK(c.running <= m->options.max_running);
    CHECK(c.pages_held + c.pages_idle <= m->options.num_pages);
    uint32_t step = m->options.max_step_tokens, rows = step - step / 4,
             turns = (m->options.max_running + rows - 1) / rows;
    if (turns < m->options.num_micro_batches) turns = m->options.num_micro_batches;
    CHECK(c.longest_wait <= (m->options.batch_wait + 1) * turns + 1); /* nobody is held back for longer */
}

static uint32_t event_plan(model *m)
{
    fs_sched_part parts[MAX_SLOTS];
    uint32_t rows = 0, n = fs_sched_plan(m->sched, parts, MAX_SLOTS);
    for (uint32_t i = 0; i < n; i++) {
        check_part(m, &parts[i]);
        rows += parts[i].count;
    }
    CHECK(rows <= m->options.max_step_tokens);
    return n;
}

/* The part in flight comes back. Once in a while its sequence stops early; it is removed when it has all its tokens. */
static void event_done(model *m, model_seq *s, bool may_stop)
{
    uint32_t end = s->first + s->planned;
    bool stops = s->known == s->total || (may_stop && below(m, 20) == 0);
    uint32_t new_tokens = s->last && !stops, page = s->pages[s->first / m->options.page_tokens];
    visit_memory(m, s, end, end); /* nobody else wrote there meanwhile */
    if (new_tokens && !s->removed) s->token[s->known] = next_token(s, s->known);
    fs_sched_done(m->sched, s->id, new_tokens);
    m->num_merged += s->pages[s->first / m->options.page_tokens] != page;
    s->in_flight = false;
    if (s->removed) {
        s->live = false;
        return;
    }
    s->computed = end;
    if (s->most < end) s->most = end;
    s->known += new_tokens;
    if (new_tokens && below(m, 8)) set_experts(m, s);
    if (!s->last || new_tokens) return;
    m->num_finished++;
    for (uint32_t i = s->prompt; i < s->known; i++) CHECK(s->token[i] == next_token(s, i));
    remove_seq(m, s);
}

static void event_expired(model *m)
{
    uint32_t out[MAX_SLOTS], max = below(m, num_slots(m) + 1), due = 0;
    int64_t next, first = FS_NEVER;
    uint64_t last = 0;
    uint32_t n = fs_sched_expired(m->sched, m->now_ns, out, max, &next);
    for (uint32_t i = 0; i < MAX_SLOTS; i++) {
        const model_seq *s = &m->seq[i];
        if (!s->live || s->removed || s->deadline_ns == FS_NEVER) continue;
        if (s->deadline_ns <= m->now_ns)
            due++;
        else if (s->deadline_ns < first)
            first = s->deadline_ns;
    }
    CHECK(n == (due < max ? due : max));
    CHECK(next == (due > max ? m->now_ns : first));
    for (uint32_t i = 0; i < n; i++) {
        const model_seq *s = by_id(m, out[i]);
        CHECK(!s->removed && s->deadline_ns <= m->now_ns && s->arrival > last);
        last = s->arrival;
    }
    for (uint32_t i = 0; i < n; i++) remove_seq(m, by_id(m, out[i]));
}

static void one_event(model *m)
{
    model_seq *s;
    uint32_t kind = below(m, 100);
    m->now_ns += below(m, 10);
    if (kind < 20) {
        event_add(m);
    } else if (kind < 40) {
        event_routes(m);
    } else if (kind < 43) {
        s = choose(m, is_kept);
        if (s) remove_seq(m, s);
    } else if (kind < 65) {
        event_plan(m);
    } else if (kind < 97) {
        for (uint32_t n = 1 + below(m, 8); n > 0; n--) {
            s = choose(m, is_in_flight);
            if (s) event_done(m, s, true);
        }
    } else {
        event_expired(m);
    }
    fs_sched_check(m->sched);
    check_counts(m);
}

/* With no more events from outside, everybody finishes and everything comes back. As no row is lost but to preemption, and the first in standing is never
 * preempted, each round runs at least one row that it needs: more rounds than tokens would be a starved one. */
static void drain(model *m)
{
    model_seq *s;
    uint32_t rounds = 0, tokens = 0;
    while ((s = choose(m, is_unready))) {
        fs_sched_ready(m->sched, s->id);
        s->ready = true;
    }
    for (uint32_t i = 0; i < MAX_SLOTS; i++) tokens += m->seq[i].live ? m->seq[i].total : 0;
    for (bool busy = true; busy; rounds++) {
        CHECK(rounds <= 2 * tokens + 4);
        busy = event_plan(m) > 0;
        while ((s = choose(m, is_in_flight))) {
            event_done(m, s, false);
            busy = true;
        }
        fs_sched_check(m->sched);
    }
    fs_sched_counts c = fs_sched_get_counts(m->sched);
    CHECK(c.waiting == 0 && c.running == 0 && c.in_flight == 0 && c.pages_held == 0);
}

typedef struct {
    uint64_t finished, preempted, found, merged;
} totals;

static uint64_t run_seed(uint64_t seed, totals *t)
{
    static model m;
    begin(&m, seed);
    for (int i = 0; i < EVENTS_A_SEED; i++) one_event(&m);
    drain(&m);
    fs_sched_destroy(m.sched);
    t->finished += m.num_finished;
    t->preempted += m.num_preempted;
    t->found += m.num_found;
    t->merged += m.num_merged;
    return m.trace;
}

static uint64_t first_seed(void)
{
    const char *text = getenv("FORESIGHT_TEST_SEED");
    return text ? strtoull(text, NULL, 10) : 1;
}

static void invariants_hold_under_random_events_and_everybody_finishes(void **state)
{
    uint64_t first = first_seed();
    totals t = {0};
    print_message("seeds %llu to %llu, %d events each\n", (unsigned long long)first,
                  (unsigned long long)first + NUM_SEEDS - 1, EVENTS_A_SEED);
    for (uint64_t seed = first; seed < first + NUM_SEEDS; seed++) {
        fprintf(stderr, "\rseed %llu ",
                (unsigned long long)seed); /* the last one printed is the one that failed */
        run_seed(seed, &t);
    }
    fprintf(stderr, "\n");
    print_message("%llu finished, %llu begun again, %llu beginnings found, %llu pages became one\n",
                  (unsigned long long)t.finished, (unsigned long long)t.preempted,
                  (unsigned long long)t.found, (unsigned long long)t.merged);
    /* or the events never let such a thing happen */
    assert_true(t.finished > 1000 && t.preempted > 1000 && t.found > 1000 && t.merged > 100);
}

static void the_same_events_give_the_same_plans(void **state)
{
    totals t = {0};
    uint64_t a = run_seed(7, &t), b = run_seed(7, &t), c = run_seed(8, &t);
    assert_true(a == b);
    assert_true(a != c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(invariants_hold_under_random_events_and_everybody_finishes),
        cmocka_unit_test(the_same_events_give_the_same_plans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
