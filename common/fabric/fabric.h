/* common/fabric/fabric.h: messages between routers and expert nodes over UCX (shared memory, TCP, RDMA): endpoints, active
 * messages, credits, authentication, loss of a peer. Driven from the process's libuv loop. Thread: loop, everything here. */
#ifndef FS_FABRIC_FABRIC_H
#define FS_FABRIC_FABRIC_H

#include <uv.h>

#include "base/status.h"

#define FS_FABRIC_KEY_BYTES 32u
#define FS_FABRIC_NAME_MAX  63u
#define FS_FABRIC_GOODBYE   "the peer said goodbye"

typedef struct fs_fabric fs_fabric; /* one UCX context and worker a process */
typedef struct fs_peer fs_peer;     /* one connection, either direction; valid until its on_down returned */

/* All callbacks run on the loop, never from inside a call of this header (so that a caller needs no re-entry guard). */
typedef struct {
    /* The peer has proved the cluster key, and we to it; its name is known. */
    void (*on_up)(void *arg, fs_peer *peer);
    /* Once a peer, also for a connect that failed: FS_UNAVAILABLE (lost, refused, silent), FS_DENIED (wrong key), FS_CORRUPT (it
     * spoke nonsense), FS_UNSUPPORTED (protocol version), FS_CANCELLED (closed on purpose: by us, or by the peer, then text is
     * FS_FABRIC_GOODBYE, and what it had sent before was delivered). Nothing is delivered after it, and no send is acknowledged any
     * more: what was outstanding is lost. */
    void (*on_down)(void *arg, fs_peer *peer, fs_status why, const char *text);
    /* A message: type as sent. data is 8-byte aligned, borrowed for the call unless fs_fabric_keep is called. */
    void (*on_message)(void *arg, fs_peer *peer, uint16_t type, const uint8_t *data, size_t size);
    /* After FS_EXHAUSTED from send: there is room again. May be NULL. */
    void (*on_writable)(void *arg, fs_peer *peer);
    void *arg;
} fs_fabric_handlers;

typedef struct {
    const char *name;       /* ours: "router-1"; at most FS_FABRIC_NAME_MAX bytes, copied */
    uint8_t key[FS_FABRIC_KEY_BYTES];
    size_t max_message;     /* bytes; larger ones are refused on both sides. Default 64 MiB */
    uint32_t credits;       /* messages that a peer may have sent us and we have not finished with. Default 64 */
    uint64_t queue_bytes;   /* sent by us to a peer and not yet accepted by it, at most; then send gives FS_EXHAUSTED. Default 256 MiB */
    int64_t connect_ns;     /* for connect and handshake. Default 5 s */
    int64_t ping_ns;        /* a ping is sent to a peer this long silent. Default 200 ms */
    int64_t silent_ns;      /* a peer silent for this long is lost. Default 2 s */
    int64_t spin_ns;        /* a wait begins with polling for this long, unless that rarely paid (spin.h). Default 20 us; 0: never */
    fs_fabric_handlers handlers;
} fs_fabric_options;
void fs_fabric_options_init(fs_fabric_options *options); /* the defaults, no key */

/* UCX_TLS and the like are the operator's; what we set unless the operator did: see ucx.c. Also tells malloc to keep freed blocks of a
 * message's size, in the whole process. FS_UNAVAILABLE: UCX has no usable transport (the detail has its words). */
FS_MUST_USE fs_status fs_fabric_create(uv_loop_t *loop, const fs_fabric_options *options, fs_fabric **out,
                                       fs_detail *detail);
/* Listens on "HOST:PORT" (port 0: any); bound receives the address in the same form. FS_INVALID: not an address;
 * FS_UNAVAILABLE: in use, or UCX would not.
 * A fabric's first address, listened on or connected to, decides how far it reaches: with a loopback address it opens nothing beyond
 * loopback (unless UCX_NET_DEVICES is set), and other addresses give FS_UNSUPPORTED from then on. */
FS_MUST_USE fs_status fs_fabric_listen(fs_fabric *fabric, const char *address, char bound[128], fs_detail *detail);
/* Starts a connection; on_up or on_down follows. user: see fs_peer_user. FS_INVALID: not a numeric address;
 * FS_UNSUPPORTED, FS_UNAVAILABLE: as fs_fabric_listen. */
FS_MUST_USE fs_status fs_fabric_connect(fs_fabric *fabric, const char *address, void *user, fs_peer **out,
                                        fs_detail *detail);
/* Closes every peer, with a goodbye (on_down FS_CANCELLED), and the listener, then calls done once UCX is down; bounded by a second. */
void fs_fabric_close(fs_fabric *fabric, void (*done)(void *arg), void *arg);

const char *fs_peer_name(const fs_peer *peer); /* "" before on_up */
const char *fs_peer_address(const fs_peer *peer);
void *fs_peer_user(const fs_peer *peer);
void fs_peer_set_user(fs_peer *peer, void *user);
bool fs_peer_is_up(const fs_peer *peer);

/* Sends the parts as one message; they are copied (small) or taken as they are and freed by us when sent (owned, a malloc'd
 * block that parts may point into; NULL: copy all). On any status but FS_OK nothing was sent and owned stays the caller's.
 * FS_EXHAUSTED: credits or queue_bytes used up, wait for on_writable; FS_UNAVAILABLE: not up; FS_INVALID: larger than
 * max_message. Messages of one peer arrive in order, each once. */
typedef struct {
    const void *data;
    size_t size;
} fs_slice;
FS_MUST_USE fs_status fs_fabric_send(fs_peer *peer, uint16_t type, const fs_slice *parts, uint32_t num_parts, void *owned);

/* Inside on_message: keeps the message after the callback. Its credit goes back to the peer on release: a receiver that is
 * slow slows the sender, not its own memory. Returns a handle. */
typedef struct fs_kept fs_kept;
fs_kept *fs_fabric_keep(fs_peer *peer);
void fs_fabric_release(fs_kept *kept); /* also valid after the peer is down */

/* Closes, with a goodbye: on_down(FS_CANCELLED) follows, here and there. */
void fs_peer_close(fs_peer *peer);

typedef struct {
    uint32_t peers_up, kept;                 /* kept: messages not yet released */
    uint64_t sent, received, sent_bytes, received_bytes, queued_bytes;
} fs_fabric_stats;
void fs_fabric_get_stats(const fs_fabric *fabric, fs_fabric_stats *out);

#endif
