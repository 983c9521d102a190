/* common/fabric/send.c: active messages that go. */
#include <stdlib.h>
#include <string.h>

#include "fabric/fabric_int.h"

enum {
    ZERO_COPY_BYTES = 8192, /* a smaller message is copied: cheaper than to track another's block */
    /* Up to here a message goes at once, larger ones by rendezvous. UCX would begin it at some KiB, because it has no shared-memory or
     * TCP transport that reports failures and reads remote memory: three TCP round trips (17 KiB: 391 us instead of 45). */
    EAGER_BYTES = 256 << 10
};

/* What UCX needs until it is done: the header, and the bytes or the block that holds them. */
struct fs_send_op {
    fs_peer *peer;
    fs_send_op *prev, *next;
    void *owned;
    size_t size;
    bool control;
    uint8_t header[FS_HEADER_BYTES];
    uint8_t data[];
};

static void free_op(fs_send_op *op)
{
    free(op->owned);
    free(op);
}

static void unlink_op(fs_send_op *op)
{
    fs_peer *peer = op->peer;
    if (op->next) op->next->prev = op->prev;
    if (op->prev)
        op->prev->next = op->next;
    else
        peer->ops = op->next;
    peer->requests--;
    peer->fabric->num_ops--;
    if (op->control) {
        peer->control_ops--;
    } else {
        peer->queued_bytes -= op->size;
        peer->fabric->stats.queued_bytes -= op->size;
    }
}

static void link_op(fs_send_op *op)
{
    fs_peer *peer = op->peer;
    op->next = peer->ops;
    if (op->next) op->next->prev = op;
    peer->ops = op;
    peer->requests++;
    peer->fabric->num_ops++;
    if (op->control) {
        peer->control_ops++;
    } else {
        peer->queued_bytes += op->size;
        peer->fabric->stats.queued_bytes += op->size;
    }
}

static void on_sent(void *request, ucs_status_t status, void *arg)
{
    fs_send_op *op = arg;
    fs_peer *peer = op->peer;
    ucp_request_free(request);
    unlink_op(op);
    free_op(op);
    fs_peer_ready(peer);
    if (peer->state != FS_PEER_UP) return;
    if (status != UCS_OK) {
        fs_peer_fail(peer, FS_UNAVAILABLE, "send: %s", ucs_status_string(status));
        return;
    }
    fs_flow_alive(&peer->flow, fs_fabric_now());
    fs_peer_act(peer, fs_flow_unblock(&peer->flow));
}

/* Hands op to UCX; false: UCX would not, and op is still the caller's. */
static bool post(fs_send_op *op, const void *data, uint32_t flags)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                                                 UCP_OP_ATTR_FIELD_FLAGS,
                                 .flags = flags,
                                 .cb.send = on_sent,
                                 .user_data = op};
    ucs_status_ptr_t request = ucp_am_send_nbx(op->peer->ep, FS_FABRIC_AM_ID, op->header, FS_HEADER_BYTES,
                                               data, op->size, &param);
    if (UCS_PTR_IS_ERR(request)) return false;
    if (request)
        link_op(op);
    else
        free_op(op);
    return true;
}

static void write_header(fs_send_op *op, uint16_t type, uint64_t seq, const void *data)
{
    fs_peer *peer = op->peer;
    fs_header h = {.version = FS_FABRIC_VERSION, .type = type, .to = peer->theirs.id, .seq = seq};
    if (type == FS_MSG_HELLO) {
        h.to = 0;
        h.seq = peer->mine.id;
    }
    if (peer->state == FS_PEER_UP) h.returned = fs_flow_tell(&peer->flow);
    h.checksum = fs_header_checksum(data, op->size, h.to, h.seq);
    fs_header_encode(&h, op->header);
}

/* Returns why it could not be sent, or NULL. */
static const char *control(fs_peer *peer, uint16_t type, uint64_t seq, const void *data, size_t size)
{
    if (peer->state == FS_PEER_DOWN || !peer->ep || peer->ep_failed) return NULL;
    if (peer->control_ops >= FS_MAX_CONTROL) return "the peer does not read";
    fs_send_op *op = calloc(1, sizeof(*op) + size);
    if (!op) return "no memory";
    op->peer = peer;
    op->size = size;
    op->control = true;
    if (size) memcpy(op->data, data, size);
    write_header(op, type, seq, op->data);
    uint32_t flags = UCP_AM_SEND_FLAG_EAGER | (type == FS_MSG_HELLO ? UCP_AM_SEND_FLAG_REPLY : 0);
    if (post(op, op->data, flags)) return NULL;
    free_op(op);
    return "UCX cannot send";
}

void fs_send_control(fs_peer *peer, uint16_t type, const void *data, size_t size)
{
    const char *problem = control(peer, type, 0, data, size);
    if (problem) fs_peer_fail(peer, FS_UNAVAILABLE, "%s", problem);
}

void fs_send_bye(fs_peer *peer)
{
    (void)control(peer, FS_MSG_BYE, peer->flow.sent, NULL, 0); /* it ends in any case */
}

void fs_send_drop_all(fs_peer *peer)
{
    while (peer->ops) {
        fs_send_op *op = peer->ops;
        unlink_op(op);
        free_op(op);
    }
}

static bool sum_parts(const fs_slice *parts, uint32_t num_parts, size_t *size)
{
    size_t sum = 0;
    for (uint32_t i = 0; i < num_parts; i++)
        if (!fs_add_size(sum, parts[i].size, &sum)) return false;
    *size = sum;
    return true;
}

/* FS_OK: peer, size and queue allow it. */
static fs_status may_send(fs_peer *peer, uint16_t type, size_t size)
{
    if (peer->state != FS_PEER_UP || peer->ep_failed || peer->bye) return FS_UNAVAILABLE;
    if (type < FS_MSG_DATA || size > peer->fabric->options.max_message || size > peer->theirs.max_message)
        return FS_INVALID;
    /* A message that is larger than the whole queue may go alone. */
    if (peer->queued_bytes > 0 && peer->queued_bytes + size > peer->fabric->options.queue_bytes) {
        fs_flow_block(&peer->flow);
        return FS_EXHAUSTED;
    }
    return FS_OK;
}

static fs_send_op *make_op(fs_peer *peer, const fs_slice *parts, uint32_t num_parts, size_t size, bool copy)
{
    fs_send_op *op = malloc(sizeof(*op) + (copy ? size : 0));
    if (!op) return NULL;
    *op = (fs_send_op){.peer = peer, .size = size};
    size_t at = 0;
    for (uint32_t i = 0; copy && i < num_parts; i++) {
        if (parts[i].size) memcpy(op->data + at, parts[i].data, parts[i].size);
        at += parts[i].size;
    }
    return op;
}

fs_status fs_fabric_send(fs_peer *peer, uint16_t type, const fs_slice *parts, uint32_t num_parts, void *owned)
{
    size_t size;
    if (!sum_parts(parts, num_parts, &size)) return FS_INVALID;
    fs_status st = may_send(peer, type, size);
    if (st != FS_OK) return st;
    bool copy = !owned || num_parts != 1 || size < ZERO_COPY_BYTES;
    fs_send_op *op = make_op(peer, parts, num_parts, size, copy);
    if (!op) return FS_NO_MEMORY;
    uint64_t seq;
    st = fs_flow_send(&peer->flow, &seq);
    if (st != FS_OK) {
        free_op(op);
        return st;
    }
    const void *data = copy ? op->data : parts[0].data;
    write_header(op, type, seq, data);
    if (!copy) op->owned = owned;
    if (!post(op, data, size <= EAGER_BYTES ? UCP_AM_SEND_FLAG_EAGER : 0)) {
        op->owned = NULL;
        free_op(op);
        fs_flow_unsend(&peer->flow);
        fs_peer_fail(peer, FS_UNAVAILABLE, "UCX cannot send");
        return FS_UNAVAILABLE;
    }
    if (copy) free(owned);
    peer->fabric->stats.sent++;
    peer->fabric->stats.sent_bytes += size;
    return FS_OK;
}
