/* expert_node/exec/hint.c: what routers announce, in the times of this node's clock. */
#include "base/clock.h"
#include "base/log.h"
#include "exec/exec_int.h"

uint32_t fs_exec_router_of(const fs_exec *exec, const fs_peer *peer)
{
    for (uint32_t i = 0; i < FS_EXEC_MAX_ROUTERS; i++)
        if (exec->routers[i].peer == peer) return i;
    return FS_CACHE_NO_ROUTER;
}

/* Beyond the last slot a router's hints are not kept: only advice. */
static uint32_t add_router(fs_exec *exec, const fs_peer *peer)
{
    uint32_t i = fs_exec_router_of(exec, NULL);
    if (i != FS_CACHE_NO_ROUTER) exec->routers[i] = (fs_exec_router){.peer = peer};
    return i;
}

static void take_visit(fs_exec *exec, uint32_t router, const fs_hint *hint, uint32_t i, uint32_t first)
{
    fs_hint_visit visit = fs_hint_get_visit(hint, i);
    int64_t at_ns = visit.distance == FS_WIRE_HINT_NEVER
                        ? FS_NEVER
                        : fs_cache_pace_when(&exec->routers[router].pace, visit.distance);
    for (uint32_t u = first; u < first + visit.count; u++) {
        uint32_t key;
        if (fs_store_key(exec->store, visit.layer, fs_hint_get_expert(hint, u), &key) == FS_OK)
            fs_store_hint(exec->store, router, key, at_ns);
    }
}

void fs_exec_on_hint(fs_exec *exec, fs_peer *peer, const fs_hint *hint)
{
    if (hint->fingerprint != exec->fingerprint || !fs_store_wants_hints(exec->store)) return;
    uint32_t router = fs_exec_router_of(exec, peer);
    if (router == FS_CACHE_NO_ROUTER) router = add_router(exec, peer);
    if (router == FS_CACHE_NO_ROUTER) return;
    fs_cache_pace_tell(&exec->routers[router].pace, hint->position, fs_clock_now(fs_clock_system()));
    for (uint32_t i = 0, first = 0; i < hint->num_visits; first += fs_hint_get_visit(hint, i++).count)
        take_visit(exec, router, hint, i, first);
    exec->stats.hints++;
    fs_store_go(exec->store);
}

void fs_exec_router_down(fs_exec *exec, const fs_peer *peer)
{
    uint32_t router = fs_exec_router_of(exec, peer);
    if (router == FS_CACHE_NO_ROUTER) return;
    fs_store_router_lost(exec->store, router);
    exec->routers[router] = (fs_exec_router){0};
}
