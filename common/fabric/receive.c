/* common/fabric/receive.c: active messages that come. UCX calls fs_receive in the middle of its progress; what is for the owner waits
 * in the peer's window until its turn, in the order of sending. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/log.h"
#include "fabric/fabric_int.h"

static void link_message(fs_kept *m)
{
    m->next = m->fabric->messages;
    if (m->next) m->next->prev = m;
    m->fabric->messages = m;
}

void fs_receive_free(fs_kept *m)
{
    if (m->next) m->next->prev = m->prev;
    if (m->prev)
        m->prev->next = m->next;
    else if (m->fabric)
        m->fabric->messages = m->next;
    free(m);
}

static fs_kept **slot_of(const fs_peer *peer, uint64_t seq)
{
    return &peer->window[seq % peer->fabric->options.credits];
}

static void complete(fs_kept *m)
{
    fs_peer *peer = m->peer;
    if (fs_header_checksum(m->data, m->size, peer->mine.id, m->seq) != m->checksum) {
        fs_peer_fail(peer, FS_CORRUPT, "message %llu of type %u: wrong checksum", (unsigned long long)m->seq,
                     m->type);
        return;
    }
    m->complete = true;
    peer->fabric->stats.received++;
    peer->fabric->stats.received_bytes += m->size;
    fs_peer_ready(peer);
}

/* A large message has come, or never will. */
static void on_received(void *request, ucs_status_t status, size_t size, void *arg)
{
    fs_kept *m = arg;
    fs_peer *peer = m->peer;
    if (request) ucp_request_free(request);
    m->receiving = false;
    peer->requests--;
    fs_peer_ready(peer);
    if (peer->state == FS_PEER_DOWN) {
        fs_receive_free(m);
        return;
    }
    fs_flow_alive(&peer->flow, fs_fabric_now());
    if (status != UCS_OK || size != m->size)
        fs_peer_fail(peer, FS_UNAVAILABLE, "receive: %s, %zu of %zu bytes", ucs_status_string(status), size,
                     m->size);
    else
        complete(m);
}

static void fetch(fs_peer *peer, fs_kept *m, void *data)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                                                 UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
                                 .cb.recv_am = on_received,
                                 .user_data = m};
    m->receiving = true;
    peer->requests++;
    ucs_status_ptr_t request = ucp_am_recv_data_nbx(peer->fabric->worker, data, m->data, m->size, &param);
    if (UCS_PTR_IS_PTR(request)) return;
    on_received(NULL, UCS_PTR_STATUS(request), UCS_PTR_STATUS(request) == UCS_OK ? m->size : 0, m);
}

static void receive_data(fs_peer *peer, const fs_header *h, void *data, size_t size, bool rendezvous)
{
    fs_fabric *fabric = peer->fabric;
    if (size > fabric->options.max_message) {
        fs_peer_fail(peer, FS_CORRUPT, "message of %zu bytes, at most %zu", size,
                     fabric->options.max_message);
        return;
    }
    if (fs_flow_receive(&peer->flow, h->seq) != FS_OK || *slot_of(peer, h->seq)) {
        fs_peer_fail(peer, FS_CORRUPT, "message number %llu is out of turn", (unsigned long long)h->seq);
        return;
    }
    fs_kept *m = fs_alloc_aligned(sizeof(*m) + size);
    if (!m) {
        fs_peer_fail(peer, FS_UNAVAILABLE, "no memory for a message of %zu bytes", size);
        return;
    }
    *m = (fs_kept){.fabric = fabric,
                   .peer = peer,
                   .seq = h->seq,
                   .checksum = h->checksum,
                   .size = size,
                   .type = h->type};
    link_message(m);
    *slot_of(peer, h->seq) = m;
    if (rendezvous) {
        fetch(peer, m, data);
    } else {
        if (size) memcpy(m->data, data, size);
        complete(m);
    }
}

/* Takes effect when what it sent before has been delivered: in the peer's turn. */
static void receive_bye(fs_peer *peer, const fs_header *h)
{
    const fs_flow *flow = &peer->flow;
    if (h->seq < flow->delivered || h->seq - flow->finished > flow->credits) {
        fs_peer_fail(peer, FS_CORRUPT, "goodbye after %llu messages", (unsigned long long)h->seq);
        return;
    }
    peer->bye = true;
    peer->bye_after = h->seq;
    fs_peer_ready(peer);
}

static void receive_up(fs_peer *peer, const fs_header *h, void *data, size_t size, bool rendezvous)
{
    unsigned actions = 0;
    bool known = h->type >= FS_MSG_PING || (h->type == FS_MSG_READY && peer->connector);
    if (h->version != FS_FABRIC_VERSION || !known || (h->type < FS_MSG_DATA && size != 0)) {
        fs_peer_fail(peer, FS_CORRUPT, "message of type %u, version %u, %zu bytes", h->type, h->version,
                     size);
    } else if (fs_flow_hear(&peer->flow, h->returned, fs_fabric_now(), &actions) != FS_OK) {
        fs_peer_fail(peer, FS_CORRUPT, "%llu credits returned, %llu used", (unsigned long long)h->returned,
                     (unsigned long long)peer->flow.sent);
    } else {
        fs_peer_act(peer, actions);
        if (h->type >= FS_MSG_DATA) receive_data(peer, h, data, size, rendezvous);
        if (h->type == FS_MSG_BYE) receive_bye(peer, h);
        if (h->type == FS_MSG_PING) fs_send_control(peer, FS_MSG_PONG, NULL, 0);
    }
}

/* Before the proof: a small message in one piece, whatever its header says. */
static void receive_unproven(fs_peer *peer, const fs_header *h, const void *data, size_t size,
                             bool rendezvous)
{
    uint8_t text[FS_CONTROL_MAX];
    if (size > sizeof(text) || rendezvous) {
        fs_peer_fail(peer, FS_CORRUPT, "message of %zu bytes before the proof", size);
        return;
    }
    if (size) memcpy(text, data, size);
    fs_auth_receive(peer, h, text, size);
}

/* HELLO names no connection yet: it belongs to the endpoint that it came by, if that one still waits for it. */
static fs_peer *find_by_endpoint(fs_fabric *fabric, ucp_ep_h ep)
{
    for (fs_peer *peer = fabric->peers; ep && peer; peer = peer->next)
        if (peer->ep == ep && peer->state == FS_PEER_WAIT_HELLO) return peer;
    return NULL;
}

/* The listener has proved the key and speaks: it was satisfied, and its READY took a slower lane. */
static bool overtakes_ready(fs_peer *peer, const fs_header *h)
{
    if (peer->state != FS_PEER_WAIT_READY || h->type < FS_MSG_PING) return false;
    fs_peer_up(peer);
    return true;
}

ucs_status_t fs_receive(void *arg, const void *header, size_t header_size, void *data, size_t size,
                        const ucp_am_recv_param_t *param)
{
    fs_fabric *fabric = arg;
    fs_header h = {0};
    fs_detail detail = {0};
    bool rendezvous = param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV;
    ucp_ep_h ep = param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP ? param->reply_ep : NULL;
    fs_status st = fs_header_decode(header, header_size, &h, &detail);
    fs_peer *peer = st == FS_OK && h.to != 0 ? fs_peer_find(fabric, h.to) : find_by_endpoint(fabric, ep);
    if (!peer) {
        fs_log_debug("fabric_stray_message", "bytes=%zu text=\"%s\"", size, detail.text);
    } else if (st != FS_OK) {
        fs_peer_fail(peer, FS_CORRUPT, "%s", detail.text);
    } else if (peer->state == FS_PEER_UP || overtakes_ready(peer, &h)) {
        receive_up(peer, &h, data, size, rendezvous);
    } else {
        if (peer->state == FS_PEER_WAIT_HELLO) peer->theirs.id = h.seq; /* a refusal can be addressed */
        receive_unproven(peer, &h, data, size, rendezvous);
    }
    return UCS_OK;
}

bool fs_receive_pending(const fs_peer *peer)
{
    if (peer->state != FS_PEER_UP) return false;
    const fs_kept *m = *slot_of(peer, peer->flow.delivered);
    return m && m->complete;
}

static void finish(fs_peer *peer)
{
    if (peer->state == FS_PEER_UP) fs_peer_act(peer, fs_flow_finish(&peer->flow));
}

void fs_receive_deliver(fs_peer *peer, uint32_t most)
{
    const fs_fabric_handlers *h = &peer->fabric->options.handlers;
    for (uint32_t i = 0; i < most && fs_receive_pending(peer); i++) {
        fs_kept **slot = slot_of(peer, peer->flow.delivered), *m = *slot;
        *slot = NULL;
        fs_flow_deliver(&peer->flow);
        peer->current = m;
        if (h->on_message) h->on_message(h->arg, peer, m->type, m->data, m->size);
        if (!peer->current) continue; /* kept, and maybe released already */
        peer->current = NULL;
        fs_receive_free(m);
        finish(peer);
    }
}

void fs_receive_drop_all(fs_peer *peer)
{
    for (fs_kept *m = peer->fabric->messages, *next; m; m = next) {
        next = m->next;
        if (m->peer != peer || m->receiving) continue; /* UCX still writes to it: freed by on_received */
        if (m->kept)
            m->peer = NULL;
        else
            fs_receive_free(m);
    }
    memset(peer->window, 0, peer->fabric->options.credits * sizeof(*peer->window));
}

fs_kept *fs_fabric_keep(fs_peer *peer)
{
    fs_kept *m = peer->current;
    FS_ASSERT(m != NULL);
    m->kept = true;
    peer->current = NULL;
    peer->fabric->stats.kept++;
    return m;
}

void fs_fabric_release(fs_kept *m)
{
    if (!m) return;
    FS_ASSERT(m->kept);
    fs_fabric *fabric = m->fabric;
    fs_peer *peer = m->peer;
    if (!fabric) { /* it left no list behind */
        free(m);
        return;
    }
    fabric->stats.kept--;
    fs_receive_free(m);
    if (peer) finish(peer);
}
