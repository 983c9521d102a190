/* common/fabric/fabric_int.h: what the files of this folder share: the fabric, its peers, their messages. */
#ifndef FS_FABRIC_INT_H
#define FS_FABRIC_INT_H

#include <ucp/api/ucp.h>

#include "fabric/fabric.h"
#include "fabric/flow.h"
#include "fabric/header.h"
#include "fabric/spin.h"

enum {
    FS_FABRIC_AM_ID = 1,
    FS_MAX_UNPROVEN = 64, /* accepted connections that have not proved the key yet; more are turned away */
    FS_MAX_CONTROL =
        64, /* the fabric's own messages to a peer that it has not taken; more: it does not read */
    FS_DELIVER_BATCH = 64,    /* messages given to the owner before the loop gets its turn */
    FS_CLOSE_FLUSH_MS = 200,  /* for what is still on its way to a peer that we close */
    FS_CLOSE_LINGER_MS = 300, /* for a refused peer to read why, and close first */
    FS_FABRIC_CLOSE_MS = 900, /* for everything, at fs_fabric_close */
};

typedef enum {
    FS_PEER_WAIT_HELLO,     /* accepted */
    FS_PEER_WAIT_PROOF,     /* accepted, and we proved the key to it */
    FS_PEER_WAIT_CHALLENGE, /* connecting */
    FS_PEER_WAIT_READY,     /* connecting; it proved the key to us */
    FS_PEER_UP,
    FS_PEER_DOWN
} fs_peer_state;

/* How the endpoint of a peer that is down goes away. */
typedef enum {
    FS_CLOSING_NOT,
    FS_CLOSING_FLUSH,    /* flush it first */
    FS_CLOSING_FLUSHING, /* until done, failed or the deadline */
    FS_CLOSING_LINGER,   /* until it closes or the deadline */
    FS_CLOSING_FORCE,    /* now */
    FS_CLOSING_FORCED    /* gone once UCX has given back every request */
} fs_closing;

typedef struct fs_send_op fs_send_op;

struct fs_peer {
    fs_fabric *fabric;
    fs_peer *prev, *next; /* of the fabric */
    fs_peer *bucket_next; /* by id, while it is not down */
    fs_peer *ready_next;  /* of the list of those with something to do outside of UCX */
    ucp_ep_h ep;          /* NULL once closed */
    fs_peer_state state;
    fs_closing closing;
    bool connector, ready, was_up, refusing, ep_failed, flushed;
    bool bye;                               /* it said goodbye, */
    uint64_t bye_after;                     /* after so many messages */
    bool tell_up, tell_down, tell_writable; /* callbacks that are due */
    fs_status why;
    char why_text[192];
    int64_t deadline_ns; /* of the handshake, then of closing */
    fs_hello mine, theirs;
    fs_flow flow;      /* once up */
    fs_kept **window;  /* [fabric credits]: came, in order or not, and not delivered; at seq % credits */
    fs_kept *current;  /* inside on_message */
    fs_send_op *ops;   /* UCX has them */
    uint32_t requests; /* of UCX, whatever for */
    uint32_t control_ops;
    uint64_t queued_bytes;
    void *user;
    char address[128];
};

/* A message that came. */
struct fs_kept {
    fs_fabric *fabric; /* NULL: it is closed */
    fs_peer *peer;     /* NULL: it is down */
    fs_kept *prev, *next;
    uint64_t seq, checksum;
    size_t size;
    uint16_t type;
    bool receiving; /* UCX writes to it */
    bool complete, kept;
    _Alignas(64) uint8_t data[];
};

struct fs_fabric {
    uv_loop_t *loop;
    fs_fabric_options options;
    char name[FS_FABRIC_NAME_MAX + 1];
    ucp_context_h context; /* as the worker: NULL until the first address */
    ucp_worker_h worker;
    bool loopback_only;
    ucp_listener_h listener;
    ucp_conn_request_h requests[FS_MAX_UNPROVEN]; /* to be accepted outside of UCX's callback */
    uint32_t num_requests;
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_idle_t idle;
    uv_timer_t timer;
    uv_timer_t nudge; /* wakes us while UCX holds sends: see loop.c */
    uint32_t num_ops; /* sends that UCX holds */
    uint32_t open_handles;
    bool timer_on, idle_on;
    fs_peer *peers, *buckets[256], *ready_head, **ready_tail;
    fs_kept *messages;
    uint32_t num_peers, num_unproven;
    fs_spin spin;
    bool closing, finished;
    int64_t close_deadline_ns;
    void (*done)(void *arg);
    void *done_arg;
    fs_fabric_stats stats;
};

static inline int64_t fs_fabric_now(void)
{
    return (int64_t)uv_hrtime();
}

/* loop.c: UCX in the process's loop. */
void fs_loop_init(fs_fabric *fabric);
FS_MUST_USE fs_status fs_loop_start(fs_fabric *fabric, fs_detail *detail); /* the worker is there */
void fs_loop_finish(fs_fabric *fabric); /* every on_down was delivered: gives back all, then calls done */
void fs_loop_timer(fs_fabric *fabric);  /* runs while there are peers */

/* peer.c */
FS_MUST_USE fs_status fs_peer_create(fs_fabric *fabric, bool connector, const char *address, fs_peer **out);
/* Makes the endpoint; FS_UNAVAILABLE: UCX would not. */
FS_MUST_USE fs_status fs_peer_open(fs_peer *peer, ucp_ep_params_t *params, fs_detail *detail);
fs_peer *fs_peer_find(fs_fabric *fabric, uint64_t id);
void fs_peer_ready(fs_peer *peer); /* fs_peer_turn will be called */
void fs_peer_up(fs_peer *peer);
void fs_peer_fail(fs_peer *peer, fs_status why, const char *fmt, ...) FS_PRINTF(3, 4);
void fs_peer_tick(fs_peer *peer, int64_t now_ns);
/* Everything that is due for a peer, callbacks included; may free it. Returns whether more is left. */
bool fs_peer_turn(fs_peer *peer, int64_t now_ns);
void fs_peer_free(fs_peer *peer);                  /* UCX holds nothing of it any more */
void fs_peer_act(fs_peer *peer, unsigned actions); /* of fs_flow */

/* listen.c */
void fs_listen_accept(fs_fabric *fabric); /* those who asked to connect */
void fs_listen_stop(fs_fabric *fabric);

/* auth.c: the handshake. */
void fs_auth_start(fs_peer *peer); /* the connector's side */
void fs_auth_receive(fs_peer *peer, const fs_header *header, const uint8_t *data, size_t size);
void fs_auth_refuse(fs_peer *peer, fs_refusal why);

/* receive.c */
ucs_status_t fs_receive(void *arg, const void *header, size_t header_size, void *data, size_t size,
                        const ucp_am_recv_param_t *param);
/* The next message in order is there. */
bool fs_receive_pending(const fs_peer *peer);
void fs_receive_deliver(fs_peer *peer, uint32_t most);
void fs_receive_drop_all(fs_peer *peer); /* of a peer that goes down */
void fs_receive_free(fs_kept *message);

/* send.c */
void fs_send_control(fs_peer *peer, uint16_t type, const void *data, size_t size);
void fs_send_bye(fs_peer *peer);
void fs_send_drop_all(fs_peer *peer); /* UCX is gone */

/* address.c: "127.0.0.1:80", "[::1]:80". */
FS_MUST_USE fs_status fs_address_parse(const char *text, struct sockaddr_storage *out, socklen_t *size,
                                       fs_detail *detail);
void fs_address_format(const struct sockaddr_storage *address, char out[128]);
bool fs_address_is_loopback(const struct sockaddr_storage *address);

/* ucx.c: the context, quietly: no signal handlers, no words on standard output. */
FS_MUST_USE fs_status fs_ucx_probe(fs_fabric *fabric, fs_detail *detail); /* it could be opened */
FS_MUST_USE fs_status fs_ucx_open(fs_fabric *fabric, bool loopback_only, fs_detail *detail);
void fs_ucx_close(fs_fabric *fabric);

#endif
