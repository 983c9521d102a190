/* tests/unit/router/sched/fairness_test.c: what clients get of the work, under random loads: nobody who always has something waiting gets less than another by
 * more than the bound of virtual token counters (arXiv 2401.00588, theorem 4.4): the service of two clients in any interval in which both have
 * requests waiting differs by at most 2 U. In the paper U = max(w_p * longest prompt, w_q * tokens of a batch). Here a prompt is charged beside what its client still has running,
 * and pages are taken as sequences grow: U = w_p * longest prompt + w_q * what max_running sequences can still say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/clock.h"
#include "base/random.h"
#include "sched/sched.h"

enum {
    NUM_SEEDS = 40,
    PLANS = 3000,
    MAX_CLIENTS = 5,
    MAX_SLOTS = 256,
    MAX_PROMPT = 40,
    MAX_TEXT = 24,
    W_P = 1,
    W_Q = 2
};

typedef struct {
    bool live, in_flight, last;
    uint32_t id, client, total, known;
    uint32_t pages[MAX_PROMPT + MAX_TEXT];
} job;

typedef struct {
    fs_sched *sched;
    fs_sched_options options;
    fs_random random;
    job job[MAX_SLOTS];
    uint32_t prompt[MAX_SLOTS]; /* of each job */
    uint32_t num_clients, waiting[MAX_CLIENTS];
    int64_t service[MAX_CLIENTS];
    int64_t least[MAX_CLIENTS][MAX_CLIENTS], most[MAX_CLIENTS][MAX_CLIENTS]; /* of the difference so far */
    uint64_t preemptions;
} rig;

static uint32_t below(rig *r, uint32_t n)
{
    return fs_random_below(&r->random, n);
}

static void begin(rig *r, uint64_t seed)
{
    memset(r, 0, sizeof *r);
    r->random.state = seed;
    r->num_clients = 2 + below(r, MAX_CLIENTS - 1);
    r->options = (fs_sched_options){.max_waiting = 200,
                                    .max_running = 2 + below(r, 12),
                                    .num_pages = 20 + below(r, 100),
                                    .page_tokens = 4,
                                    .max_step_tokens = 8 + below(r, 40),
                                    .prefill_chunk = 8,
                                    .num_micro_batches = 1 + below(r, 2),
                                    .preemption = below(r, 3) > 0,
                                    .route_ahead = 8,
                                    .input_weight = W_P,
                                    .output_weight = W_Q};
    assert_int_equal(fs_sched_create(&r->options, &r->sched), FS_OK);
}

static void add(rig *r, uint32_t client)
{
    uint32_t at = 0;
    while (r->job[at].live) at++;
    job *j = &r->job[at];
    *j = (job){.live = true, .client = client};
    /* Some clients send short prompts and want long texts, others the other way round. */
    r->prompt[at] = j->known = 1 + below(r, client % 2 ? MAX_PROMPT : 6);
    j->total = j->known + 1 + below(r, client % 2 ? 2 : MAX_TEXT - 1);
    const fs_sched_request q = {.prompt_tokens = j->known,
                                .total_tokens = j->total,
                                .client = client,
                                .priority = (int32_t)(client % 3), /* gains nothing from others */
                                .deadline_ns = FS_NEVER,
                                .pages = j->pages};
    assert_int_equal(fs_sched_add(r->sched, &q, &j->id), FS_OK);
    fs_sched_ready(r->sched, j->id);
    r->waiting[client]++;
}

static job *by_id(rig *r, uint32_t id)
{
    uint32_t at = 0;
    while (!r->job[at].live || r->job[at].id != id) at++;
    return &r->job[at];
}

static void note_service(rig *r)
{
    for (uint32_t f = 0; f < r->num_clients; f++) {
        for (uint32_t g = 0; g < r->num_clients; g++) {
            int64_t difference = r->service[f] - r->service[g];
            if (difference < r->least[f][g]) r->least[f][g] = difference;
            if (difference > r->most[f][g]) r->most[f][g] = difference;
        }
    }
}

static void plan(rig *r)
{
    fs_sched_part part[MAX_SLOTS];
    uint32_t n = fs_sched_plan(r->sched, part, MAX_SLOTS);
    for (uint32_t i = 0; i < n; i++) {
        job *j = by_id(r, part[i].id);
        j->in_flight = true;
        j->last = part[i].last;
        if (part[i].admitted) {
            r->service[j->client] += W_P * r->prompt[j - r->job];
            r->waiting[j->client]--;
        }
        if (part[i].last) r->service[j->client] += W_Q;
    }
}

static void finish_some(rig *r)
{
    for (uint32_t at = 0; at < MAX_SLOTS; at++) {
        job *j = &r->job[at];
        if (!j->live || !j->in_flight || below(r, 4) == 0) continue;
        bool ends = j->last && j->known + 1 == j->total;
        j->known += j->last && !ends;
        fs_sched_done(r->sched, j->id, j->last && !ends);
        j->in_flight = false;
        if (!ends) continue;
        fs_sched_remove(r->sched, j->id);
        j->live = false;
    }
}

/* The largest difference of two clients' service in any interval, beside 2 U. */
static double run_seed(uint64_t seed, uint64_t *preemptions)
{
    static rig r;
    int64_t worst = 0;
    begin(&r, seed);
    int64_t u = W_P * MAX_PROMPT + (int64_t)W_Q * r.options.max_running * MAX_TEXT;
    for (int i = 0; i < PLANS; i++) {
        for (uint32_t c = 0; c < r.num_clients; c++)
            while (r.waiting[c] < 16) add(&r, c);
        plan(&r);
        finish_some(&r);
        note_service(&r);
    }
    fs_sched_check(r.sched);
    *preemptions += fs_sched_get_counts(r.sched).preemptions;
    for (uint32_t f = 0; f < r.num_clients; f++) {
        assert_true(r.service[f] > PLANS / MAX_CLIENTS); /* everybody is served */
        for (uint32_t g = 0; g < r.num_clients; g++)
            if (r.most[f][g] - r.least[f][g] > worst) worst = r.most[f][g] - r.least[f][g];
    }
    if (worst > 2 * u) fail_msg("seed %d: %d is over 2 U = %d", (int)seed, (int)worst, (int)(2 * u));
    fs_sched_destroy(r.sched);
    return (double)worst / (double)(2 * u);
}

static void service_of_clients_that_wait_differs_by_at_most_the_bound(void **state)
{
    double worst = 0;
    uint64_t preemptions = 0;
    for (uint64_t seed = 1; seed <= NUM_SEEDS; seed++) {
        double share = run_seed(seed, &preemptions);
        if (share > worst) worst = share;
    }
    print_message("largest difference: %.2f of the bound; %d preemptions\n", worst, (int)preemptions);
    assert_true(preemptions > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(service_of_clients_that_wait_differs_by_at_most_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
