/* router/sched/clients.c: fairness between clients by the work done for them: virtual token counters (Sheng et al., OSDI 2024, arXiv 2401.00588,
 * algorithm 2). */
#include "sched/sched_int.h"

/* ---- names ---- */

static uint32_t *bucket_of(const fs_sched *s, uint64_t name)
{
    return &s->bucket[((name * 0x9e3779b97f4a7c15u) >> 32) & (s->num_buckets - 1)];
}

static void hang_in(fs_sched *s, uint32_t at)
{
    uint32_t *bucket = bucket_of(s, s->client[at].name);
    s->client[at].bucket_next = *bucket;
    *bucket = at;
}

/* All are without sequences at first, under names of their own. */
void fs_clients_init(fs_sched *s)
{
    s->lined = s->gone = fs_list_of(&s->client->link, sizeof *s->client);
    for (uint32_t b = 0; b < s->num_buckets; b++) s->bucket[b] = FS_SCHED_NONE;
    for (uint32_t i = 0; i < s->num_clients; i++) {
        s->client[i] = (fs_client){.name = UINT64_MAX - i, .line = fs_list_of(&s->seq->link, sizeof *s->seq)};
        hang_in(s, i);
        fs_list_push(&s->gone, i);
    }
}

static uint32_t look_up(const fs_sched *s, uint64_t name)
{
    uint32_t at = *bucket_of(s, name);
    while (at != FS_SCHED_NONE && s->client[at].name != name) at = s->client[at].bucket_next;
    return at;
}

uint32_t fs_clients_find(fs_sched *s, uint64_t name)
{
    uint32_t at = look_up(s, name);
    if (at != FS_SCHED_NONE) return at;
    at = s->gone.first; /* there is one: more clients than sequences */
    FS_ASSERT(at != FS_SCHED_NONE);
    uint32_t *link = bucket_of(s, s->client[at].name);
    while (*link != at) link = &s->client[*link].bucket_next;
    *link = s->client[at].bucket_next;
    s->client[at].name = name;
    s->client[at].counter = s->client[at].num_arrived = 0;
    hang_in(s, at);
    fs_list_take(&s->gone, at);
    fs_list_push(&s->gone, at); /* the last to be forgotten */
    return at;
}

uint64_t fs_sched_client_counter(const fs_sched *s, uint64_t name)
{
    uint32_t at = look_up(s, name);
    return at == FS_SCHED_NONE ? 0 : s->client[at].counter;
}

/* ---- lines ---- */

/* A client that comes back has no credit for the time that it was away: it begins where the least served of those that wait stands, or, if
 * nobody waits, where the last one stood. */
static void lift(fs_sched *s, fs_client *client)
{
    uint64_t least = s->lined.length == 0 ? s->last_counter : UINT64_MAX;
    for (uint32_t at = s->lined.first; at != FS_LIST_END; at = fs_list_next(&s->lined, at))
        if (s->client[at].counter < least) least = s->client[at].counter;
    if (client->counter < least) client->counter = least;
}

static bool is_ahead(const fs_seq *a, const fs_seq *b)
{
    return a->place < b->place || (a->place == b->place && a->arrival < b->arrival);
}

void fs_clients_line_up(fs_sched *s, uint32_t id)
{
    uint32_t at = s->seq[id].client;
    fs_client *client = &s->client[at];
    bool is_fresh = s->seq[id].admission == 0;
    if (client->line.length == 0) {
        if (is_fresh) lift(s, client);
        fs_list_push(&s->lined, at);
    }
    fs_seq_insert(s, &client->line, id, is_ahead);
    client->num_fresh += is_fresh;
    s->num_fresh += is_fresh;
    s->num_preempted += !is_fresh;
}

void fs_clients_leave_line(fs_sched *s, uint32_t id)
{
    const fs_seq *seq = &s->seq[id];
    fs_client *client = &s->client[seq->client];
    bool is_fresh = seq->admission == 0;
    fs_list_take(&client->line, id);
    if (client->line.length == 0) fs_list_take(&s->lined, seq->client);
    client->num_fresh -= is_fresh;
    client->num_asked -= is_fresh && seq->asked;
    s->num_fresh -= is_fresh;
    s->num_preempted -= !is_fresh;
}

void fs_clients_enter(fs_sched *s, uint32_t at)
{
    if (s->client[at].num_seqs++ == 0) fs_list_take(&s->gone, at);
}

void fs_clients_leave(fs_sched *s, uint32_t at)
{
    if (--s->client[at].num_seqs == 0) fs_list_push(&s->gone, at);
}

/* ---- whose turn it is ---- */

static uint32_t first_ready(const fs_sched *s, const fs_client *client, bool fresh)
{
    uint32_t preempted = client->line.length - client->num_fresh; /* they come first */
    uint32_t left = preempted + (fresh ? client->num_asked : 0);  /* those that may be ready */
    for (uint32_t id = client->line.first; left > 0; id = fs_list_next(&client->line, id)) {
        if (s->seq[id].ready) return id;
        left -= s->seq[id].asked;
    }
    return FS_SCHED_NONE;
}

uint32_t fs_clients_next(const fs_sched *s, bool fresh)
{
    uint32_t best = FS_SCHED_NONE;
    for (uint32_t at = s->lined.first; at != FS_LIST_END; at = fs_list_next(&s->lined, at)) {
        const fs_client *client = &s->client[at];
        if (best != FS_SCHED_NONE && s->client[s->seq[best].client].counter <= client->counter) continue;
        uint32_t id = first_ready(s, client, fresh);
        if (id != FS_SCHED_NONE) best = id;
    }
    return best;
}

static uint32_t first_unasked(const fs_sched *s, const fs_client *client)
{
    uint32_t id = client->line.first;
    while (id != FS_LIST_END && s->seq[id].asked) id = fs_list_next(&client->line, id);
    return id;
}

/* Routes are computed in the order in which they will be wanted, and only so far ahead: they hold pages of the pre-gating network, which a client with
 * a long line must not take from the others. */
uint32_t fs_sched_next_route(fs_sched *s)
{
    uint32_t best = FS_SCHED_NONE;
    for (uint32_t at = s->lined.first; at != FS_LIST_END; at = fs_list_next(&s->lined, at)) {
        const fs_client *client = &s->client[at];
        if (client->num_asked >= s->options.route_ahead || client->num_asked == client->num_fresh) continue;
        if (best == FS_SCHED_NONE || client->counter < s->client[s->seq[best].client].counter)
            best = first_unasked(s, client);
    }
    if (best == FS_SCHED_NONE) return best;
    s->seq[best].asked = true;
    s->client[s->seq[best].client].num_asked++;
    return best;
}
