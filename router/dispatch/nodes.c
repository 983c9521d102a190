/* router/dispatch/nodes.c: a connection to every node of the placement, made again with growing pauses when
 * it is lost. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "dispatch/dispatcher_int.h"

enum { BACKOFF_FIRST_MS = 50, BACKOFF_MAX_MS = 2000 };

static fs_dispatch_node *find_node(const fs_dispatcher *d, const char *name)
{
    for (uint32_t i = 0; i < d->view.num_nodes; i++)
        if (strcmp(d->node[i]->name, name) == 0) return d->node[i];
    return NULL;
}

static fs_status grow(fs_dispatcher *d)
{
    uint32_t max = d->max_nodes ? d->max_nodes * 2 : 16;
    fs_dispatch_node **node = realloc(d->node, max * sizeof(fs_dispatch_node *));
    if (!node) return FS_NO_MEMORY;
    d->node = node;
    fs_plan_node *plan_node = realloc(d->plan_node, max * sizeof *plan_node);
    if (!plan_node) return FS_NO_MEMORY;
    d->plan_node = plan_node;
    d->view.node = plan_node;
    d->max_nodes = max;
    return FS_OK;
}

/* A slot for a name not seen before: one that nobody uses any more, or a new one. NULL: no memory. */
static fs_dispatch_node *new_node(fs_dispatcher *d)
{
    for (uint32_t i = 0; i < d->view.num_nodes; i++)
        if (!d->node[i]->wanted && !d->node[i]->peer) return d->node[i];
    if (d->view.num_nodes == d->max_nodes && grow(d) != FS_OK) return NULL;
    fs_dispatch_node *node = calloc(1, sizeof *node);
    if (!node) return NULL;
    node->dispatcher = d;
    node->slot = d->view.num_nodes++;
    d->node[node->slot] = node;
    d->plan_node[node->slot] = (fs_plan_node){0};
    return node;
}

void fs_node_lost(fs_dispatch_node *node)
{
    fs_dispatcher *d = node->dispatcher;
    d->plan_node[node->slot].connected = false;
    fs_calls_node_lost(d, node->slot);
}

/* Lets go of the connection without waiting for its end: what it still says is not for this node any more. */
static void detach(fs_dispatch_node *node)
{
    if (!node->peer) return;
    fs_peer_set_user(node->peer, NULL);
    fs_peer_close(node->peer);
    node->peer = NULL;
    fs_node_lost(node);
}

static void connect_soon(fs_dispatch_node *node)
{
    node->backoff_ns = BACKOFF_FIRST_MS * FS_NS_PER_MS;
    node->reconnect_ns = 0;
    node->complained = false;
}

/* Another process under this name is another peer, even at the same address. */
static void update_node(fs_dispatch_node *node, const fs_placement_node *p, const char *rack)
{
    bool same = node->wanted && node->instance == p->instance && strcmp(node->address, p->address) == 0;
    if (!same) {
        detach(node);
        snprintf(node->name, sizeof node->name, "%s", p->name);
        snprintf(node->address, sizeof node->address, "%s", p->address);
        node->instance = p->instance;
        connect_soon(node);
    }
    node->wanted = true;
    fs_plan_node *plan = &node->dispatcher->plan_node[node->slot];
    plan->state = p->state;
    plan->near = strcmp(rack, p->rack ? p->rack : "") == 0;
}

static void drop_unnamed(fs_dispatcher *d, const fs_placement *p, const uint32_t *slot_of)
{
    for (uint32_t i = 0; i < d->view.num_nodes; i++) {
        bool named = false;
        for (uint32_t n = 0; n < p->num_nodes && !named; n++) named = slot_of[n] == i;
        if (named || !d->node[i]->wanted) continue;
        fs_log_info("node_left", "node=%s", d->node[i]->name);
        d->node[i]->wanted = false;
        detach(d->node[i]);
    }
}

fs_status fs_nodes_update(fs_dispatcher *d, const fs_placement *p, uint32_t *slot_of)
{
    for (uint32_t n = 0; n < p->num_nodes; n++) {
        fs_dispatch_node *node = find_node(d, p->node[n].name);
        if (!node) node = new_node(d);
        if (!node) return FS_NO_MEMORY;
        update_node(node, &p->node[n], d->options.rack);
        slot_of[n] = node->slot;
    }
    drop_unnamed(d, p, slot_of);
    return FS_OK;
}

/* ---- connecting ---- */

static void back_off(fs_dispatch_node *node)
{
    node->reconnect_ns = fs_dispatcher_now() + node->backoff_ns;
    node->backoff_ns *= 2;
    if (node->backoff_ns > BACKOFF_MAX_MS * FS_NS_PER_MS) node->backoff_ns = BACKOFF_MAX_MS * FS_NS_PER_MS;
}

static void complain(fs_dispatch_node *node, fs_status why, const char *text)
{
    if (node->complained) return;
    node->complained = true;
    /* It left on purpose: its rows go elsewhere all the same. */
    fs_log_at(why == FS_CANCELLED ? FS_LOG_INFO : FS_LOG_WARN, "node_lost",
              "node=%s address=%s cause=%s text=\"%s\"", node->name, node->address, fs_status_name(why),
              text ? text : "");
}

static void connect_node(fs_dispatch_node *node)
{
    fs_detail detail = {0};
    fs_status st = fs_fabric_connect(node->dispatcher->fabric, node->address, node, &node->peer, &detail);
    if (st == FS_OK) return;
    node->peer = NULL;
    complain(node, st, detail.text);
    back_off(node);
}

void fs_nodes_connect_due(fs_dispatcher *d, int64_t now_ns)
{
    for (uint32_t i = 0; i < d->view.num_nodes; i++) {
        fs_dispatch_node *node = d->node[i];
        if (node->wanted && !node->peer && node->reconnect_ns <= now_ns) connect_node(node);
    }
}

int64_t fs_nodes_next_ns(const fs_dispatcher *d)
{
    int64_t next = FS_NEVER;
    for (uint32_t i = 0; i < d->view.num_nodes; i++) {
        const fs_dispatch_node *node = d->node[i];
        if (node->wanted && !node->peer && node->reconnect_ns < next) next = node->reconnect_ns;
    }
    return next;
}

void fs_nodes_on_up(void *arg, fs_peer *peer)
{
    fs_dispatcher *d = arg;
    fs_dispatch_node *node = fs_peer_user(peer);
    if (!node || d->closing) return; /* let go of; its end is under way */
    if (strcmp(fs_peer_name(peer), node->name) != 0) {
        fs_log_warn("node_wrong", "address=%s wanted=%s found=%s", node->address, node->name,
                    fs_peer_name(peer));
        fs_peer_close(peer);
        return;
    }
    fs_log_info("node_up", "node=%s address=%s", node->name, node->address);
    node->backoff_ns = BACKOFF_FIRST_MS * FS_NS_PER_MS;
    node->complained = node->wants_hints = false;
    d->plan_node[node->slot].connected = true;
    fs_dispatcher_changed(d);
}

void fs_nodes_on_down(void *arg, fs_peer *peer, fs_status why, const char *text)
{
    fs_dispatcher *d = arg;
    fs_dispatch_node *node = fs_peer_user(peer);
    if (!node || d->closing) return;
    node->peer = NULL;
    complain(node, why, text);
    back_off(node);
    fs_node_lost(node);
    fs_dispatcher_changed(d);
}
