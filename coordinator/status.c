/* coordinator/status.c: the answer to Status. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "coordinator.h"
#include "rpc/message.h"

static Foresight__V1__CacheStats *make_cache(fs_arena *arena, const fs_cluster_cache *cache)
{
    Foresight__V1__CacheStats *out = fs_arena_alloc(arena, sizeof(*out));
    if (!out) return NULL;
    foresight__v1__cache_stats__init(out);
    out->memory_bytes = cache->memory_bytes;
    out->hits = cache->hits;
    out->misses = cache->misses;
    out->loaded_bytes = cache->loaded_bytes;
    out->prefetched_bytes = cache->prefetched_bytes;
    out->wasted_bytes = cache->wasted_bytes;
    return out;
}

static Foresight__V1__ClusterStatus__Member *make_member(fs_arena *arena, const fs_cluster_member *m,
                                                         const fs_cluster_share *shares, int64_t now_ns)
{
    Foresight__V1__ClusterStatus__Member *out = fs_arena_alloc(arena, sizeof(*out));
    if (!out) return NULL;
    foresight__v1__cluster_status__member__init(out);
    out->name = (char *)m->name;
    out->kind = (Foresight__V1__MemberKind)m->kind;
    out->address = (char *)m->address;
    out->rack = (char *)m->rack;
    out->state = (Foresight__V1__NodeState)m->state;
    out->experts_assigned = m->node == FS_CLUSTER_NO_NODE ? 0 : shares[m->node].assigned;
    out->experts_loaded = m->experts_loaded;
    out->bytes_loaded = m->bytes_loaded;
    out->rows_computed = m->rows_computed;
    out->silent_s = (double)(now_ns - m->heard_ns) / 1e9;
    out->problem = (char *)m->problem;
    out->version = (char *)m->version;
    out->id = m->id;
    if (m->cache.memory_bytes == 0) return out;
    out->cache = make_cache(arena, &m->cache);
    return out->cache ? out : NULL;
}

static bool add_members(fs_arena *arena, Foresight__V1__ClusterStatus *s, const fs_cluster *c,
                        const fs_cluster_share *shares)
{
    int64_t now_ns = fs_clock_now(fs_clock_system());
    s->members = fs_arena_calloc(arena, c->num_members + 1, sizeof(*s->members));
    if (!s->members) return false;
    for (uint32_t i = 0; i < c->num_members; i++) {
        if (!fs_cluster_is_shown(c->members[i])) continue;
        s->members[s->n_members] = make_member(arena, c->members[i], shares, now_ns);
        if (!s->members[s->n_members++]) return false;
    }
    return true;
}

/* lines: terminated texts, one behind the other. */
static bool add_problems(fs_arena *arena, Foresight__V1__ClusterStatus *s, const fs_buffer *lines)
{
    size_t count = 0;
    for (size_t i = 0; i < lines->size; i++) count += lines->data[i] == 0;
    s->problems = fs_arena_calloc(arena, count + 1, sizeof(*s->problems));
    if (!s->problems) return false;
    for (size_t at = 0; at < lines->size; at += strlen((char *)lines->data + at) + 1)
        s->problems[s->n_problems++] = (char *)lines->data + at;
    return true;
}

static void fill(Foresight__V1__ClusterStatus *s, fs_coordinator *co)
{
    fs_cluster *c = &co->cluster;
    s->coordinator_version = FS_VERSION;
    s->uptime_s = (double)(fs_clock_now(fs_clock_system()) - co->started_ns) / 1e9;
    s->epoch = co->published_epoch;
    s->model_name = c->model.name;
    s->model_fingerprint = c->model.fingerprint;
    s->nodes_expected = c->options.nodes_expected;
    s->num_replicas = c->options.num_replicas;
    s->experts_total = fs_cluster_num_experts(c);
    s->experts_unavailable = fs_cluster_unavailable(c);
    s->serving = s->experts_total > 0 && s->experts_unavailable == 0;
}

void fs_status_answer(fs_coordinator *co, fs_rpc_call *call)
{
    fs_arena arena = {0};
    fs_buffer lines = {0};
    Foresight__V1__ClusterStatus s = FORESIGHT__V1__CLUSTER_STATUS__INIT;
    fs_status st = FS_NO_MEMORY;
    fs_cluster_share *shares = fs_arena_calloc(&arena, co->cluster.num_placed + 1, sizeof(*shares));
    if (shares) {
        fs_cluster_shares(&co->cluster, shares);
        fs_cluster_problems(&co->cluster, shares, &lines);
        if (co->store_problem.text[0]) {
            fs_buffer_printf(&lines, "the coordinator cannot keep its state: %s", co->store_problem.text);
            fs_buffer_append_u8(&lines, 0);
        }
        fill(&s, co);
        if (!lines.failed && add_problems(&arena, &s, &lines) &&
            add_members(&arena, &s, &co->cluster, shares))
            st = fs_rpc_send_message(call, &s.base);
    }
    fs_rpc_call_finish(call, fs_rpc_code_of(st), st == FS_OK ? NULL : fs_status_name(st));
    fs_arena_fini(&arena);
    fs_buffer_free(&lines);
}
