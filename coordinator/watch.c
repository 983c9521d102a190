/* coordinator/watch.c: the placement as a message, and those who want to know it. */
#include <stdlib.h>

#include "base/arena.h"
#include "base/log.h"
#include "coordinator.h"
#include "rpc/message.h"

struct fs_watcher {
    fs_watcher *prev, *next;
    fs_coordinator *co;
    fs_rpc_call *call;
};

/* ---- the message ---- */

static bool add_node(fs_arena *arena, Foresight__V1__Placement *p, const fs_cluster_member *m)
{
    Foresight__V1__Placement__Node *node = fs_arena_alloc(arena, sizeof(*node));
    if (!node) return false;
    foresight__v1__placement__node__init(node);
    node->id = m->id;
    node->name = (char *)m->name;
    node->address = (char *)m->address;
    node->rack = (char *)m->rack;
    node->state = (Foresight__V1__NodeState)m->state;
    node->instance = m->instance;
    p->nodes[p->n_nodes++] = node;
    return true;
}

static bool is_spare(const fs_cluster_member *m)
{
    return m->kind == FS_KIND_EXPERT_NODE && m->node == FS_CLUSTER_NO_NODE && fs_cluster_is_shown(m);
}

/* Placed nodes first, at the indices that `replica` names; then the spares. */
static bool add_nodes(fs_arena *arena, Foresight__V1__Placement *p, const fs_cluster *c)
{
    p->nodes = fs_arena_calloc(arena, c->num_members + 1, sizeof(*p->nodes));
    bool ok = p->nodes != NULL;
    for (uint32_t i = 0; i < c->num_placed && ok; i++) ok = add_node(arena, p, c->placed[i]);
    for (uint32_t i = 0; i < c->num_members && ok; i++)
        if (is_spare(c->members[i])) ok = add_node(arena, p, c->members[i]);
    return ok;
}

fs_status fs_watch_pack(const fs_cluster *c, uint8_t **out, size_t *size)
{
    fs_arena arena = {0};
    Foresight__V1__Placement p = FORESIGHT__V1__PLACEMENT__INIT;
    p.epoch = c->epoch;
    p.assignment_epoch = c->assignment_epoch;
    p.model_fingerprint = c->model.fingerprint;
    p.num_moe_layers = c->model.num_moe_layers;
    p.num_experts = c->model.num_experts;
    p.num_replicas = c->options.num_replicas;
    p.replica = c->replica;
    p.n_replica = c->replica ? (size_t)fs_cluster_num_experts(c) * c->options.num_replicas : 0;
    fs_status st = add_nodes(&arena, &p, c) ? fs_message_pack(&p.base, out, size) : FS_NO_MEMORY;
    fs_arena_fini(&arena);
    return st;
}

/* ---- watchers ---- */

static void remove_watcher(fs_watcher *w)
{
    if (w->prev)
        w->prev->next = w->next;
    else
        w->co->watchers = w->next;
    if (w->next) w->next->prev = w->prev;
    free(w);
}

static void on_watch_end(void *arg, fs_rpc_call *call, bool cancelled)
{
    remove_watcher(arg);
}

/* A watcher that does not read is cut off by the call's bound; it watches again when it can. */
static void send_published(const fs_coordinator *co, const fs_watcher *w)
{
    fs_status st = fs_rpc_call_send(w->call, co->published, co->published_size);
    if (st != FS_OK)
        fs_log_debug("placement_unsent", "peer=\"%s\" status=%s", fs_rpc_call_peer(w->call),
                     fs_status_name(st));
}

void fs_watch_add(fs_coordinator *co, fs_rpc_call *call)
{
    fs_watcher *w = calloc(1, sizeof(*w));
    if (!w) {
        fs_rpc_call_finish(call, FS_RPC_RESOURCE_EXHAUSTED, "no memory");
        return;
    }
    w->co = co;
    w->call = call;
    w->next = co->watchers;
    if (w->next) w->next->prev = w;
    co->watchers = w;
    fs_rpc_call_on_end(call, on_watch_end, w);
    send_published(co, w);
}

void fs_watch_publish(fs_coordinator *co, uint8_t *packed, size_t size, uint64_t epoch)
{
    free(co->published);
    co->published = packed;
    co->published_size = size;
    co->published_epoch = epoch;
    for (fs_watcher *w = co->watchers; w; w = w->next) send_published(co, w);
}
