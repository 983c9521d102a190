/* tools/sim/visits.c: see visits.h. */
#include "sim/visits.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_FILE_BYTES = 1 << 30,
    MAX_ROUTE_ENTRIES = 1 << 30 /* a few bytes of a step can name many tokens */
};

/* A sequence's routes as they became known. */
typedef struct {
    uint16_t *route; /* [num_tokens][num_moe_layers][top_k] */
    size_t num_tokens, capacity;
    bool ended;
} sequence;

typedef struct {
    bool busy;
    uint32_t step, num_rows, next_layer;
    size_t last_visit; /* of the step, once next_layer > 0 */
    size_t first_row;  /* of fs_visits.route */
} lane;

typedef struct {
    fs_visits *out;
    const char *name;
    fs_detail *detail;
    size_t row_entries; /* experts of one token in all layers */
    sequence *seq;
    size_t num_seqs, seq_capacity;
    lane lane[FS_TRACE_MAX_LANES];
    uint8_t *seen; /* [num_experts] scratch */
} reading;

/* Room for count + more elements; false: no memory. */
static bool grow(void **data, size_t *capacity, size_t count, size_t more, size_t bytes)
{
    size_t wanted, total;
    if (more <= *capacity - count) return true;
    wanted = count + more < 2 * *capacity ? 2 * *capacity : count + more + 64;
    if (wanted < count || !fs_mul_size(wanted, bytes, &total)) return false;
    void *grown = realloc(*data, total);
    if (!grown) return false;
    *data = grown;
    *capacity = wanted;
    return true;
}

static fs_status no_memory(const reading *r)
{
    return fs_fail(r->detail, FS_NO_MEMORY, "%s: no memory for a trace of this size", r->name);
}

static fs_status wrong(const reading *r, const char *what, uint32_t number)
{
    return fs_fail(r->detail, FS_CORRUPT, "%s: %s (%u)", r->name, what, number);
}

static fs_status on_arrive(reading *r, const fs_trace_event *e)
{
    if (e->sequence != r->num_seqs) return wrong(r, "requests are not numbered as they arrive", e->sequence);
    if (!grow((void **)&r->seq, &r->seq_capacity, r->num_seqs, 1, sizeof *r->seq)) return no_memory(r);
    r->seq[r->num_seqs++] = (sequence){0};
    r->out->num_arrivals++;
    return FS_OK;
}

static fs_status on_routes(reading *r, const fs_trace_event *e)
{
    if (e->sequence >= r->num_seqs || r->seq[e->sequence].ended)
        return wrong(r, "routes of a request that is not there", e->sequence);
    sequence *s = &r->seq[e->sequence];
    if (e->first != s->num_tokens)
        return wrong(r, "routes are not in the order of tokens, request", e->sequence);
    size_t entries = e->count * r->row_entries;
    if (!grow((void **)&s->route, &s->capacity, s->num_tokens * r->row_entries, entries, sizeof *s->route))
        return no_memory(r);
    memcpy(s->route + s->num_tokens * r->row_entries, e->expert, entries * sizeof *s->route);
    s->num_tokens += e->count;
    return FS_OK;
}

static fs_status add_rows(reading *r, const fs_trace_part *part)
{
    fs_visits *v = r->out;
    if (part->sequence >= r->num_seqs ||
        (uint64_t)part->first + part->count > r->seq[part->sequence].num_tokens)
        return wrong(r, "a step of tokens without routes, request", part->sequence);
    size_t entries = part->count * r->row_entries, have = v->num_tokens * r->row_entries;
    if (entries > MAX_ROUTE_ENTRIES - have)
        return wrong(r, "too long: its rows' routes are over 2^30, request", part->sequence);
    if (!grow((void **)&v->route, &v->route_capacity, have, entries, sizeof *v->route)) return no_memory(r);
    memcpy(v->route + have, r->seq[part->sequence].route + part->first * r->row_entries,
           entries * sizeof *v->route);
    v->num_tokens += part->count;
    return FS_OK;
}

static fs_status on_step(reading *r, const fs_trace_event *e)
{
    fs_visits *v = r->out;
    lane *l = &r->lane[e->lane];
    if (l->busy) return wrong(r, "a step begins before the last one is over, lane", e->lane);
    if (v->num_steps == UINT32_MAX) return wrong(r, "too many steps", e->lane);
    *l = (lane){.busy = true, .step = (uint32_t)v->num_steps, .first_row = v->num_tokens};
    fs_status st = FS_OK;
    for (uint32_t i = 0; st == FS_OK && i < e->num_parts; i++) st = add_rows(r, &e->part[i]);
    if (st != FS_OK) return st;
    if (v->num_tokens - l->first_row > UINT32_MAX) return wrong(r, "too many rows in a step, lane", e->lane);
    l->num_rows = (uint32_t)(v->num_tokens - l->first_row);
    if (!grow((void **)&v->step, &v->step_capacity, v->num_steps, 1, sizeof *v->step)) return no_memory(r);
    v->step[v->num_steps++] = (fs_visit_step){.time_ns = e->time_ns,
                                              .lane = e->lane,
                                              .num_parts = e->num_parts,
                                              .num_rows = l->num_rows,
                                              .next_visit = v->num_visits,
                                              .first_visit = FS_NO_VISIT};
    return FS_OK;
}

static fs_status on_experts(reading *r, const fs_trace_event *e)
{
    fs_visits *v = r->out;
    lane *l = &r->lane[e->lane];
    const fs_trace_model *m = &v->model;
    if (!l->busy || e->layer != l->next_layer) return wrong(r, "a visit that no step makes, lane", e->lane);
    memset(r->seen, 0, m->num_experts);
    for (uint32_t i = 0; i < l->num_rows; i++) {
        const uint16_t *route = v->route + (l->first_row + i) * r->row_entries + (size_t)e->layer * m->top_k;
        for (uint32_t k = 0; k < m->top_k; k++) r->seen[route[k]] = 1;
    }
    if (!grow((void **)&v->visit, &v->visit_capacity, v->num_visits, 1, sizeof *v->visit) ||
        !grow((void **)&v->key, &v->key_capacity, v->num_keys, m->num_experts, sizeof *v->key))
        return no_memory(r);
    fs_visit visit = {.time_ns = e->time_ns,
                      .lane = e->lane,
                      .layer = e->layer,
                      .step = l->step,
                      .num_rows = l->num_rows,
                      .first = v->num_keys,
                      .following = FS_NO_VISIT};
    for (uint32_t x = 0; x < m->num_experts; x++)
        if (r->seen[x]) v->key[v->num_keys++] = e->layer * m->num_experts + x;
    visit.num_keys = (uint32_t)(v->num_keys - visit.first);
    *(l->next_layer++ ? &v->visit[l->last_visit].following : &v->step[l->step].first_visit) = v->num_visits;
    l->last_visit = v->num_visits;
    v->visit[v->num_visits++] = visit;
    if (e->lane >= v->num_lanes) v->num_lanes = e->lane + 1;
    return FS_OK;
}

static fs_status on_end(reading *r, const fs_trace_event *e)
{
    if (e->sequence >= r->num_seqs || r->seq[e->sequence].ended)
        return wrong(r, "the end of a request that is not there", e->sequence);
    r->seq[e->sequence].ended = true;
    r->out->num_ended++;
    return FS_OK;
}

static fs_status on_event(reading *r, const fs_trace_event *e)
{
    r->out->duration_ns = e->time_ns;
    switch (e->kind) {
    case FS_TRACE_ARRIVE: return on_arrive(r, e);
    case FS_TRACE_ROUTES: return on_routes(r, e);
    case FS_TRACE_STEP: return on_step(r, e);
    case FS_TRACE_EXPERTS: return on_experts(r, e);
    case FS_TRACE_RESULTS: return FS_OK;
    case FS_TRACE_DONE: r->lane[e->lane].busy = false; return FS_OK;
    case FS_TRACE_END: return on_end(r, e);
    }
    return FS_OK;
}

static fs_status read_events(reading *r, fs_trace_reader *reader)
{
    fs_trace_event event;
    fs_status st;
    r->out->model = *fs_trace_reader_model(reader);
    r->row_entries = (size_t)r->out->model.num_moe_layers * r->out->model.top_k;
    r->seen = malloc(r->out->model.num_experts);
    if (!r->seen) return no_memory(r);
    while ((st = fs_trace_next(reader, &event, &r->out->cut, r->detail)) == FS_OK) {
        st = on_event(r, &event);
        if (st != FS_OK) return st;
    }
    return st == FS_NOT_FOUND ? FS_OK : st;
}

fs_status fs_visits_read(const uint8_t *data, size_t size, const char *name, fs_visits *out,
                         fs_detail *detail)
{
    fs_trace_reader *reader = NULL;
    fs_visits visits = {0};
    reading r = {.out = &visits, .name = name, .detail = detail};
    fs_status st = fs_trace_open(data, size, name, &reader, detail);
    if (st == FS_OK) st = read_events(&r, reader);
    for (size_t i = 0; i < r.num_seqs; i++) free(r.seq[i].route);
    free(r.seq);
    free(r.seen);
    fs_trace_reader_free(reader);
    if (st == FS_OK)
        *out = visits;
    else
        fs_visits_free(&visits);
    return st;
}

fs_status fs_visits_load(const char *path, fs_visits *out, fs_detail *detail)
{
    fs_buffer bytes = {0};
    fs_status st = fs_file_read(path, MAX_FILE_BYTES, &bytes, detail);
    if (st == FS_OK) st = fs_visits_read(bytes.data, bytes.size, path, out, detail);
    fs_buffer_free(&bytes);
    return st;
}

void fs_visits_free(fs_visits *v)
{
    free(v->visit);
    free(v->key);
    free(v->step);
    free(v->route);
    *v = (fs_visits){0};
}
