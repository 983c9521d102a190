/* tests/unit/router/sched/property_test.c: the scheduler under random events, beside a plain model of what it must keep. Each
 * seed makes its own options and events; a failing one is printed. */
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

enum { NUM_SEEDS = 60, EVENTS_A_SEED = 5000, MAX_SLOTS = 64 };

/* What the test knows of a slot. */
typedef struct {
    bool live, removed, ready, admitted, in_flight, last;
    uint32_t prompt, total, known, computed, planned, pages;
    uint64_t arrival;
    int64_t deadline_ns;
} model_seq;

typedef struct {
    fs_sched *sched;
    fs_sched_options options;
    fs_random random;
    model_seq seq[MAX_SLOTS];
    uint64_t num_arrived, last_admitted, trace; /* trace: a hash of all that was planned */
    int64_t now_ns;
    uint64_t num_finished;
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
        .num_pages = 1 + below(m, 60),
        .page_tokens = 1 + below(m, 16),
        .max_step_tokens = step,
        .prefill_chunk = 1 + below(m, step),
        .num_micro_batches = 1 + below(m, 4),
    };
    CHECK(fs_sched_create(&m->options, &m->sched) == FS_OK);
}

static uint32_t num_slots(const model *m)
{
    return m->options.max_waiting + m->options.max_running;
}

static uint32_t count_waiting(const model *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < num_slots(m); i++) n += m->seq[i].live && !m->seq[i].admitted;
    return n;
}

static void event_add(model *m)
{
    uint32_t capacity = m->options.num_pages * m->options.page_tokens, id = FS_SCHED_NONE;
    uint32_t prompt = below(m, 30), total = prompt + below(m, 30);
    int64_t deadline = below(m, 3) ? FS_NEVER : m->now_ns + below(m, 2000);
    uint32_t pages = (total + m->options.page_tokens - 1) / m->options.page_tokens;
    bool is_full = count_waiting(m) == m->options.max_waiting;
    fs_status st = fs_sched_add(m->sched, prompt, total, deadline, m->now_ns, &id);
    if (prompt == 0 || total > capacity) {
        CHECK(st == FS_INVALID);
    } else if (is_full) {
        CHECK(st == FS_EXHAUSTED);
    } else {
        CHECK(st == FS_OK && id < num_slots(m) && !m->seq[id].live);
        m->seq[id] = (model_seq){.live = true,
                                 .prompt = prompt,
                                 .total = total,
                                 .known = prompt,
                                 .pages = pages,
                                 .arrival = ++m->num_arrived,
                                 .deadline_ns = deadline};
    }
    if (st != FS_OK) CHECK(id == FS_SCHED_NONE);
}

/* A live sequence chosen at random that fulfils want, or FS_SCHED_NONE. */
static uint32_t choose(model *m, bool (*want)(const model_seq *))
{
    uint32_t start = below(m, num_slots(m));
    for (uint32_t i = 0; i < num_slots(m); i++) {
        uint32_t id = (start + i) % num_slots(m);
        if (m->seq[id].live && want(&m->seq[id])) return id;
    }
    return FS_SCHED_NONE;
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

static void make_ready(model *m, uint32_t id)
{
    fs_sched_ready(m->sched, id);
    m->seq[id].ready = true;
}

static void remove_seq(model *m, uint32_t id)
{
    fs_sched_remove(m->sched, id);
    m->seq[id].removed = true;
    m->seq[id].live = m->seq[id].in_flight;
}

static bool is_decoding(const model_seq *s)
{
    return s->live && !s->removed && s->admitted && s->computed >= s->prompt && s->known > s->computed;
}

static uint32_t share_of_decodes(const model *m)
{
    uint32_t n = 0, batches = m->options.num_micro_batches;
    for (uint32_t i = 0; i < num_slots(m); i++) n += is_decoding(&m->seq[i]);
    return (n + batches - 1) / batches;
}

static void check_part(model *m, const fs_sched_part *p)
{
    CHECK(p->id < num_slots(m));
    model_seq *s = &m->seq[p->id];
    CHECK(s->live && !s->removed && s->ready);
    CHECK(!s->in_flight); /* nobody is in two plans */
    CHECK(p->first == s->computed && p->count >= 1 && p->first + p->count <= s->known);
    CHECK(p->last == (p->first + p->count == s->known));
    CHECK(p->admitted == !s->admitted);
    if (s->computed < s->prompt)
        CHECK(p->count <= m->options.prefill_chunk);
    else
        CHECK(p->count == 1);
    if (p->admitted) {
        CHECK(s->arrival > m->last_admitted); /* in order of arrival */
        m->last_admitted = s->arrival;
    }
    s->admitted = s->in_flight = true;
    s->planned = p->count;
    s->last = p->last;
    m->trace = (m->trace ^ (p->id * 31u + p->first * 7u + p->count)) * 0x100000001b3u;
}

static void check_pages(const model *m)
{
    uint32_t pages = 0, running = 0, waiting = count_waiting(m), in_flight = 0;
    for (uint32_t i = 0; i < num_slots(m); i++) {
        const model_seq *s = &m->seq[i];
        if (!s->live || !s->admitted) continue;
        pages += s->pages;
        running++;
        in_flight += s->in_flight;
    }
    fs_sched_counts c = fs_sched_get_counts(m->sched);
    CHECK(c.pages_promised == pages && pages <= m->options.num_pages);
    CHECK(c.running == running && running <= m->options.max_running);
    CHECK(c.waiting == waiting && c.in_flight == in_flight);
}

/* With room left in the plan, nothing that could have run was left out. */
static void check_nothing_left(const model *m)
{
    uint32_t running = 0, pages = 0;
    const model_seq *head = NULL;
    for (uint32_t i = 0; i < num_slots(m); i++) {
        const model_seq *s = &m->seq[i];
        if (!s->live) continue;
        running += s->admitted;
        pages += s->admitted ? s->pages : 0;
        if (!s->admitted && (!head || s->arrival < head->arrival)) head = s;
        CHECK(!s->admitted || s->in_flight || s->removed || s->computed >= s->prompt);
    }
    bool fits = head && running < m->options.max_running && head->pages <= m->options.num_pages - pages;
    CHECK(!(fits && head->ready));
}

static uint32_t event_plan(model *m, uint32_t max_parts)
{
    fs_sched_part parts[MAX_SLOTS];
    uint32_t rows = 0, decodes = 0, share = share_of_decodes(m), free_decodes = 0;
    uint64_t oldest[2] = {0, 0};
    for (uint32_t i = 0; i < num_slots(m); i++)
        free_decodes += is_decoding(&m->seq[i]) && !m->seq[i].in_flight;
    uint32_t n = fs_sched_plan(m->sched, m->now_ns, parts, max_parts);
    CHECK(n <= max_parts);
    for (uint32_t i = 0; i < n; i++) {
        bool decode = is_decoding(&m->seq[parts[i].id]);
        uint64_t arrival = m->seq[parts[i].id].arrival;
        check_part(m, &parts[i]);
        rows += parts[i].count;
        decodes += decode;
        CHECK(!decode || decodes == i + 1); /* decodes first */
        CHECK(arrival > oldest[decode]);    /* each in order of arrival */
        oldest[decode] = arrival;
    }
    CHECK(rows <= m->options.max_step_tokens);
    CHECK(decodes <= share);
    uint32_t wanted = share < free_decodes ? share : free_decodes;
    if (wanted > max_parts) wanted = max_parts;
    if (wanted > m->options.max_step_tokens) wanted = m->options.max_step_tokens;
    CHECK(decodes == wanted);
    if (n < max_parts && rows < m->options.max_step_tokens) check_nothing_left(m);
    check_pages(m);
    return n;
}

/* The part in flight comes back. Once in a while its sequence stops early; it is removed when it has all its tokens. */
static void event_done(model *m, uint32_t id, bool may_stop)
{
    model_seq *s = &m->seq[id];
    bool stops = s->known == s->total || (may_stop && below(m, 20) == 0);
    uint32_t new_tokens = s->last && !stops;
    fs_sched_done(m->sched, id, new_tokens);
    s->in_flight = false;
    if (s->removed) {
        s->live = false;
        return;
    }
    s->computed += s->planned;
    s->known += new_tokens;
    if (!s->last || new_tokens) return;
    m->num_finished++;
    remove_seq(m, id);
}

static void event_expired(model *m)
{
    uint32_t out[MAX_SLOTS], max = below(m, num_slots(m) + 1), due = 0;
    int64_t next, first = FS_NEVER;
    uint64_t last = 0;
    uint32_t n = fs_sched_expired(m->sched, m->now_ns, out, max, &next);
    for (uint32_t i = 0; i < num_slots(m); i++) {
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
        const model_seq *s = &m->seq[out[i]];
        CHECK(s->live && !s->removed && s->deadline_ns <= m->now_ns && s->arrival > last);
        last = s->arrival;
    }
    for (uint32_t i = 0; i < n; i++) remove_seq(m, out[i]);
}

static void one_event(model *m)
{
    uint32_t id, kind = below(m, 100);
    m->now_ns += below(m, 10);
    if (kind < 20) {
        event_add(m);
    } else if (kind < 40) {
        id = choose(m, is_unready);
        if (id != FS_SCHED_NONE) make_ready(m, id);
    } else if (kind < 43) {
        id = choose(m, is_kept);
        if (id != FS_SCHED_NONE) remove_seq(m, id);
    } else if (kind < 65) {
        event_plan(m, below(m, 4) ? num_slots(m) : below(m, num_slots(m) + 1));
    } else if (kind < 97) {
        for (uint32_t n = 1 + below(m, 8); n > 0; n--) {
            id = choose(m, is_in_flight);
            if (id != FS_SCHED_NONE) event_done(m, id, true);
        }
    } else {
        event_expired(m);
    }
    fs_sched_check(m->sched);
    check_pages(m);
}

/* With no more events from outside, everybody finishes and everything comes back. */
static void drain(model *m)
{
    uint32_t id, rounds = 0;
    while ((id = choose(m, is_unready)) != FS_SCHED_NONE) make_ready(m, id);
    for (bool busy = true; busy; rounds++) {
        CHECK(rounds < 100000);
        busy = event_plan(m, num_slots(m)) > 0;
        while ((id = choose(m, is_in_flight)) != FS_SCHED_NONE) {
            event_done(m, id, false);
            busy = true;
        }
        fs_sched_check(m->sched);
    }
    fs_sched_counts c = fs_sched_get_counts(m->sched);
    CHECK(c.waiting == 0 && c.running == 0 && c.in_flight == 0 && c.pages_promised == 0);
}

static uint64_t run_seed(uint64_t seed, uint64_t *num_finished)
{
    static model m;
    begin(&m, seed);
    for (int i = 0; i < EVENTS_A_SEED; i++) one_event(&m);
    drain(&m);
    fs_sched_destroy(m.sched);
    *num_finished += m.num_finished;
    return m.trace;
}

static uint64_t first_seed(void)
{
    const char *text = getenv("FORESIGHT_TEST_SEED");
    return text ? strtoull(text, NULL, 10) : 1;
}

static void invariants_hold_under_random_events_and_everybody_finishes(void **state)
{
    uint64_t num_finished = 0, first = first_seed();
    print_message("seeds %llu to %llu, %d events each\n", (unsigned long long)first,
                  (unsigned long long)first + NUM_SEEDS - 1, EVENTS_A_SEED);
    for (uint64_t seed = first; seed < first + NUM_SEEDS; seed++) {
        fprintf(stderr, "\rseed %llu ",
                (unsigned long long)seed); /* the last one printed is the one that failed */
        run_seed(seed, &num_finished);
    }
    fprintf(stderr, "\n");
    assert_true(num_finished > 1000); /* or the events never let one run to its end */
}

static void the_same_events_give_the_same_plans(void **state)
{
    uint64_t num_finished = 0;
    uint64_t a = run_seed(7, &num_finished), b = run_seed(7, &num_finished), c = run_seed(8, &num_finished);
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
