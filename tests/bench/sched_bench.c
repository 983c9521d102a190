/* tests/bench/sched_bench.c: TRACE: how many distinct experts a step visits, first come first served and expert-aware, when more texts run than a step has rows. The routes
 * are those of a recorded trace (foresight trace record); the scheduler's own core decides. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "sched/sched.h"
#include "trace/trace.h"

enum { MAX_TEXTS = 4096, MAX_PARTS = 4096 };

/* One sequence of the trace: the experts of its tokens [num_tokens][entries]. */
typedef struct {
    uint32_t prompt, num_tokens;
    uint16_t *expert;
} text;

typedef struct {
    fs_trace_model model;
    uint32_t num, entries;
    text text[MAX_TEXTS];
} texts;

static void add_routes(texts *t, const fs_trace_event *e)
{
    text *x = &t->text[e->sequence];
    size_t row = t->entries * sizeof *x->expert;
    x->expert = realloc(x->expert, (x->num_tokens + e->count) * row);
    if (!x->expert) exit(1);
    memcpy((char *)x->expert + x->num_tokens * row, e->expert, e->count * row);
    x->num_tokens += e->count;
}

static bool read_texts(const char *path, texts *out)
{
    fs_detail detail = {0};
    fs_trace_reader *reader = NULL;
    fs_trace_event e;
    bool cut = false;
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) return false;
    size_t size = (size_t)ftell(file);
    uint8_t *data = malloc(size + 1);
    rewind(file);
    if (!data || fread(data, 1, size, file) != size) return false;
    fclose(file);
    if (fs_trace_open(data, size, path, &reader, &detail) != FS_OK) return false;
    out->model = *fs_trace_reader_model(reader);
    out->entries = out->model.num_moe_layers * out->model.top_k;
    while (fs_trace_next(reader, &e, &cut, &detail) == FS_OK) {
        if (e.sequence >= MAX_TEXTS) continue;
        if (e.kind == FS_TRACE_ARRIVE) {
            out->text[e.sequence].prompt = e.first;
            if (out->num <= e.sequence) out->num = e.sequence + 1;
        } else if (e.kind == FS_TRACE_ROUTES) {
            add_routes(out, &e);
        }
    }
    fs_trace_reader_free(reader);
    free(data);
    return out->num > 0;
}

typedef struct {
    uint64_t steps, rows, distinct; /* of steps of decodes alone that are full */
    uint32_t longest_wait;
    double plan_us;
} result;

static uint64_t count_distinct(const texts *t, const fs_sched_part *part, uint32_t n, const uint32_t *of_id)
{
    static uint8_t seen[1 << 20];
    uint64_t distinct = 0;
    memset(seen, 0, (size_t)t->model.num_moe_layers * t->model.num_experts);
    for (uint32_t i = 0; i < n; i++) {
        const uint16_t *route = t->text[of_id[part[i].id] % t->num].expert +
                                (size_t)part[i].first * t->entries;
        for (uint32_t k = 0; k < t->entries; k++) {
            uint8_t *cell = &seen[k / t->model.top_k * t->model.num_experts + route[k]];
            distinct += *cell == 0;
            *cell = 1;
        }
    }
    return distinct;
}

static void done(fs_sched *sched, const texts *t, const fs_sched_part *p, uint32_t *of_id)
{
    const text *x = &t->text[of_id[p->id] % t->num];
    bool goes_on = p->last && p->first + p->count + 1 < x->num_tokens;
    fs_sched_done(sched, p->id, goes_on);
    if (goes_on)
        fs_sched_set_experts(sched, p->id, x->expert + (size_t)(p->first + p->count) * t->entries);
    else if (p->last)
        fs_sched_remove(sched, p->id);
}

/* `live` texts from the first to the last token, `rows` a step. */
static result run(const texts *t, fs_batching batching, uint32_t live, uint32_t rows, uint32_t batch_wait)
{
    static uint32_t pages[MAX_TEXTS][256], of_id[MAX_TEXTS];
    static fs_sched_part part[MAX_PARTS];
    result r = {0};
    int64_t ns = 0;
    fs_sched *sched = NULL;
    fs_sched_options o = {.max_waiting = 2 * live,
                          .max_running = live,
                          .num_pages = 256 * live,
                          .page_tokens = 16,
                          .max_step_tokens = rows,
                          .prefill_chunk = rows,
                          .num_micro_batches = 1,
                          .route_ahead = live,
                          .input_weight = 1,
                          .output_weight = 2,
                          .batching = batching,
                          .batch_wait = batch_wait,
                          .num_moe_layers = t->model.num_moe_layers,
                          .num_experts = t->model.num_experts,
                          .top_k = t->model.top_k};
    if (fs_sched_create(&o, &sched) != FS_OK) exit(1);
    for (uint32_t i = 0; i < live; i++) {
        const text *x = &t->text[i % t->num];
        fs_sched_request q = {.prompt_tokens = x->prompt,
                              .total_tokens = x->num_tokens + 1,
                              .deadline_ns = FS_NEVER,
                              .pages = pages[i]};
        uint32_t id;
        if (fs_sched_add(sched, &q, &id) != FS_OK) exit(1);
        of_id[id] = i;
        fs_sched_ready(sched, id);
    }
    for (;;) {
        int64_t start = fs_clock_now(fs_clock_system());
        uint32_t n = fs_sched_plan(sched, part, MAX_PARTS);
        ns += fs_clock_now(fs_clock_system()) - start;
        if (n == 0) break;
        if (n == rows) { /* each a decode */
            r.steps++;
            r.rows += n;
            r.distinct += count_distinct(t, part, n, of_id);
        }
        for (uint32_t i = 0; i < n; i++) done(sched, t, &part[i], of_id);
    }
    r.longest_wait = fs_sched_get_counts(sched).longest_wait;
    r.plan_us = r.steps ? (double)ns / 1e3 / (double)r.steps : 0;
    fs_sched_destroy(sched);
    return r;
}

int main(int argc, char **argv)
{
    static texts t;
    if (argc != 2 || !read_texts(argv[1], &t)) return fprintf(stderr, "usage: sched_bench TRACE\n"), 1;
    printf("%u texts, %u layers of %u experts, %u a token; experts: distinct (layer, expert) a step\n", t.num,
           t.model.num_moe_layers, t.model.num_experts, t.model.top_k);
    printf("%7s %5s %10s %8s %12s %8s %12s %12s %8s\n", "running", "rows", "batch-wait", "fcfs",
           "expert-aware", "fewer", "longest wait", "its bound", "plan us");
    static const uint32_t live[] = {32, 128}, rows[] = {8, 16}, waits[] = {1, 2, 4};
    for (int l = 0; l < 2; l++) {
        for (int k = 0; k < 6; k++) {
            uint32_t n = rows[k / 3], wait = waits[k % 3];
            result a = run(&t, FS_BATCHING_FCFS, live[l], n, wait);
            result b = run(&t, FS_BATCHING_EXPERT_AWARE, live[l], n, wait);
            double first = (double)a.distinct / (double)a.steps, aware = (double)b.distinct / (double)b.steps;
            printf("%7u %5u %10u %8.1f %12.1f %7.1f%% %5u, %5u %12u %8.1f\n", live[l], n, wait, first, aware,
                   100 * (1 - aware / first), a.longest_wait, b.longest_wait,
                   (wait + 1) * ((live[l] + n - n / 4 - 1) / (n - n / 4)) + 1, b.plan_us);
        }
    }
    for (uint32_t i = 0; i < t.num; i++) free(t.text[i].expert);
    return 0;
}
