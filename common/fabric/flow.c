/* common/fabric/flow.c: credits and liveness; see flow.h. */
#include "fabric/flow.h"

void fs_flow_init(fs_flow *flow, uint32_t credits, uint32_t peer_credits, int64_t ping_ns, int64_t silent_ns,
                  int64_t now_ns)
{
    FS_ASSERT(credits > 0 && peer_credits > 0);
    *flow = (fs_flow){.credits = credits,
                      .peer_credits = peer_credits,
                      .ping_ns = ping_ns,
                      .silent_ns = silent_ns,
                      .heard_ns = now_ns,
                      .pinged_ns = now_ns,
                      .ticked_ns = now_ns};
}

static bool has_credit(const fs_flow *flow)
{
    return flow->sent - flow->returned < flow->peer_credits;
}

fs_status fs_flow_send(fs_flow *flow, uint64_t *seq)
{
    if (!has_credit(flow)) {
        flow->blocked = true;
        return FS_EXHAUSTED;
    }
    *seq = flow->sent++;
    return FS_OK;
}

void fs_flow_unsend(fs_flow *flow)
{
    FS_ASSERT(flow->sent > flow->returned);
    flow->sent--;
}

void fs_flow_block(fs_flow *flow)
{
    flow->blocked = true;
}

unsigned fs_flow_unblock(fs_flow *flow)
{
    if (!flow->blocked || !has_credit(flow)) return 0;
    flow->blocked = false;
    return FS_FLOW_WRITABLE;
}

uint64_t fs_flow_tell(fs_flow *flow)
{
    flow->told = flow->finished;
    return flow->told;
}

fs_status fs_flow_hear(fs_flow *flow, uint64_t returned, int64_t now_ns, unsigned *actions)
{
    if (returned > flow->sent) return FS_CORRUPT;
    fs_flow_alive(flow, now_ns);
    *actions = 0;
    if (returned <= flow->returned) return FS_OK; /* said before: messages on several lanes may overtake */
    flow->returned = returned;
    *actions = fs_flow_unblock(flow);
    return FS_OK;
}

void fs_flow_alive(fs_flow *flow, int64_t now_ns)
{
    if (now_ns > flow->heard_ns) flow->heard_ns = now_ns;
}

fs_status fs_flow_receive(const fs_flow *flow, uint64_t seq)
{
    return seq >= flow->delivered && seq - flow->finished < flow->credits ? FS_OK : FS_CORRUPT;
}

void fs_flow_deliver(fs_flow *flow)
{
    flow->delivered++;
    FS_ASSERT(fs_flow_check(flow));
}

unsigned fs_flow_finish(fs_flow *flow)
{
    FS_ASSERT(flow->finished < flow->delivered);
    flow->finished++;
    /* Half of them untold: the peer can never be out of credits while we hold back more than it waits for. */
    return flow->finished - flow->told >= (flow->credits + 1) / 2 ? FS_FLOW_CREDIT : 0;
}

unsigned fs_flow_tick(fs_flow *flow, int64_t now_ns)
{
    int64_t gap = now_ns - flow->ticked_ns;
    flow->ticked_ns = now_ns;
    if (gap > flow->silent_ns / 2) {
        fs_flow_alive(flow, flow->heard_ns + gap);
        if (flow->heard_ns > now_ns) flow->heard_ns = now_ns;
    }
    if (now_ns - flow->heard_ns >= flow->silent_ns) return FS_FLOW_LOST;
    if (now_ns - flow->heard_ns < flow->ping_ns || now_ns - flow->pinged_ns < flow->ping_ns) return 0;
    flow->pinged_ns = now_ns;
    return FS_FLOW_PING;
}

bool fs_flow_check(const fs_flow *flow)
{
    return flow->returned <= flow->sent && flow->sent - flow->returned <= flow->peer_credits &&
           flow->told <= flow->finished && flow->finished <= flow->delivered &&
           flow->delivered - flow->finished <= flow->credits;
}
