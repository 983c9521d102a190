/* common/fabric/flow.h: credits and liveness of one connection, as a core without input or output: what may be sent, what a peer
 * may send, when to ping and when a silent peer is lost. The driver (peer.c, message.c) turns actions into messages. */
#ifndef FS_FABRIC_FLOW_H
#define FS_FABRIC_FLOW_H

#include "base/status.h"

/* What to do next; a set. */
enum {
    FS_FLOW_PING = 1,     /* send a ping */
    FS_FLOW_CREDIT = 2,   /* send a credit message: no other message will carry the credits soon enough */
    FS_FLOW_WRITABLE = 4, /* a refused send would now succeed */
    FS_FLOW_LOST = 8      /* the peer was silent for too long */
};

/* Credits are counted as totals since the start, never as differences: an old message that overtakes or repeats changes nothing.
 *   sending:   returned <= sent <= returned + peer_credits
 *   receiving: told <= finished <= delivered <= finished + credits */
typedef struct {
    uint32_t credits, peer_credits; /* messages that the peer may have with us, and we with it */
    int64_t ping_ns, silent_ns;
    uint64_t sent, returned;            /* ours, and those of them that the peer has finished with */
    uint64_t delivered, finished, told; /* the peer's: given to the owner, done by it, done and said so */
    int64_t heard_ns, pinged_ns, ticked_ns;
    bool blocked; /* a send was refused since the last WRITABLE */
} fs_flow;

void fs_flow_init(fs_flow *flow, uint32_t credits, uint32_t peer_credits, int64_t ping_ns, int64_t silent_ns,
                  int64_t now_ns);

/* Takes a credit for a message; its number in *seq. FS_EXHAUSTED: there is none, FS_FLOW_WRITABLE follows. */
FS_MUST_USE fs_status fs_flow_send(fs_flow *flow, uint64_t *seq);
/* The message of the last fs_flow_send did not leave after all. */
void fs_flow_unsend(fs_flow *flow);
/* The owner refused a send for a reason of its own (bytes queued) and wants fs_flow_unblock to say WRITABLE. */
void fs_flow_block(fs_flow *flow);
unsigned fs_flow_unblock(fs_flow *flow);
/* The total of finished messages, for the header of a message that leaves now. */
uint64_t fs_flow_tell(fs_flow *flow);

/* A message came whose header returns credits (a total). FS_CORRUPT: more than were used. */
FS_MUST_USE fs_status fs_flow_hear(fs_flow *flow, uint64_t returned, int64_t now_ns, unsigned *actions);
/* Something else showed that the peer lives: it took a queued message. */
void fs_flow_alive(fs_flow *flow, int64_t now_ns);
/* Whether a data message's number is one that the peer may use now. FS_CORRUPT: old, or beyond its credits. */
FS_MUST_USE fs_status fs_flow_receive(const fs_flow *flow, uint64_t seq);
/* The next message in order was given to the owner; later (in any order) it was finished with. */
void fs_flow_deliver(fs_flow *flow);
unsigned fs_flow_finish(fs_flow *flow);

/* Time passes. A long gap between ticks was our own sleep (a stopped process, a suspended machine): it is not held against
 * the peer. */
unsigned fs_flow_tick(fs_flow *flow, int64_t now_ns);

/* The invariants above hold. */
bool fs_flow_check(const fs_flow *flow);

#endif
