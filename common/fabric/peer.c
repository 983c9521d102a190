/* common/fabric/peer.c: the life of a connection, from its endpoint to its last request. UCX calls back in the middle of its progress:
 * there we only note what happened; endpoints are closed and the owner is called in fs_peer_turn. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fabric/fabric_int.h"

static fs_peer **bucket_of(fs_fabric *fabric, uint64_t id)
{
    return &fabric->buckets[id % (sizeof(fabric->buckets) / sizeof(fabric->buckets[0]))];
}

fs_peer *fs_peer_find(fs_fabric *fabric, uint64_t id)
{
    for (fs_peer *peer = *bucket_of(fabric, id); peer; peer = peer->bucket_next)
        if (peer->mine.id == id) return peer;
    return NULL;
}

static void unlink_id(fs_peer *peer)
{
    for (fs_peer **at = bucket_of(peer->fabric, peer->mine.id); *at; at = &(*at)->bucket_next)
        if (*at == peer) {
            *at = peer->bucket_next;
            return;
        }
}

static void link_peer(fs_peer *peer)
{
    fs_fabric *fabric = peer->fabric;
    fs_peer **bucket = bucket_of(fabric, peer->mine.id);
    peer->bucket_next = *bucket;
    *bucket = peer;
    peer->next = fabric->peers;
    if (peer->next) peer->next->prev = peer;
    fabric->peers = peer;
    fabric->num_peers++;
    if (!peer->connector) fabric->num_unproven++;
}

fs_status fs_peer_create(fs_fabric *fabric, bool connector, const char *address, fs_peer **out)
{
    fs_peer *peer = calloc(1, sizeof(*peer));
    fs_kept **window = calloc(fabric->options.credits, sizeof(*window));
    if (!peer || !window) {
        free(peer);
        free(window);
        return FS_NO_MEMORY;
    }
    peer->fabric = fabric;
    peer->window = window;
    peer->connector = connector;
    peer->state = connector ? FS_PEER_WAIT_CHALLENGE : FS_PEER_WAIT_HELLO;
    peer->deadline_ns = fs_fabric_now() + fabric->options.connect_ns;
    snprintf(peer->address, sizeof(peer->address), "%s", address);
    do {
        randombytes_buf(&peer->mine.id, sizeof(peer->mine.id));
    } while (peer->mine.id == 0 || fs_peer_find(fabric, peer->mine.id));
    randombytes_buf(peer->mine.nonce, sizeof(peer->mine.nonce));
    memcpy(peer->mine.name, fabric->name, sizeof(peer->mine.name));
    peer->mine.credits = fabric->options.credits;
    peer->mine.max_message = fabric->options.max_message;
    link_peer(peer);
    fs_loop_timer(fabric);
    *out = peer;
    return FS_OK;
}

static void on_ep_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    fs_peer *peer = arg;
    peer->ep_failed = true;
    fs_peer_ready(peer);
    fs_peer_fail(peer, FS_UNAVAILABLE, "%s: %s",
                 peer->state == FS_PEER_UP ? "connection lost" : "cannot connect", ucs_status_string(status));
}

fs_status fs_peer_open(fs_peer *peer, ucp_ep_params_t *params, fs_detail *detail)
{
    params->field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params->err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params->err_handler = (ucp_err_handler_t){.cb = on_ep_error, .arg = peer};
    ucs_status_t status = ucp_ep_create(peer->fabric->worker, params, &peer->ep);
    if (status == UCS_OK) return FS_OK;
    peer->ep = NULL;
    return fs_fail(detail, FS_UNAVAILABLE, "cannot connect: %s", ucs_status_string(status));
}

void fs_peer_ready(fs_peer *peer)
{
    if (peer->ready) return;
    peer->ready = true;
    peer->ready_next = NULL;
    *peer->fabric->ready_tail = peer;
    peer->fabric->ready_tail = &peer->ready_next;
}

void fs_peer_up(fs_peer *peer)
{
    const fs_fabric_options *o = &peer->fabric->options;
    int64_t now_ns = fs_fabric_now();
    fs_flow_init(&peer->flow, o->credits, peer->theirs.credits, o->ping_ns, o->silent_ns, now_ns);
    if (!peer->connector) peer->fabric->num_unproven--;
    peer->state = FS_PEER_UP;
    peer->was_up = peer->tell_up = true;
    peer->fabric->stats.peers_up++;
    fs_log_info("fabric_peer_up", "peer=%s address=%s", peer->theirs.name, peer->address);
    fs_peer_ready(peer);
}

static fs_closing closing_of(const fs_peer *peer, fs_status why)
{
    if (!peer->ep) return FS_CLOSING_FORCED;
    if (peer->ep_failed || peer->bye) return FS_CLOSING_FORCE;
    if (peer->refusing) return FS_CLOSING_LINGER;
    return why == FS_CANCELLED && peer->state == FS_PEER_UP ? FS_CLOSING_FLUSH : FS_CLOSING_FORCE;
}

void fs_peer_fail(fs_peer *peer, fs_status why, const char *fmt, ...)
{
    if (peer->state == FS_PEER_DOWN) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(peer->why_text, sizeof(peer->why_text), fmt, ap);
    va_end(ap);
    if (peer->bye && why == FS_UNAVAILABLE) { /* the end that it announced, seen from below */
        why = FS_CANCELLED;
        snprintf(peer->why_text, sizeof(peer->why_text), "%s", FS_FABRIC_GOODBYE);
    }
    if (why == FS_CANCELLED && peer->state == FS_PEER_UP && !peer->bye) fs_send_bye(peer);
    peer->why = why;
    peer->closing = closing_of(peer, why);
    int64_t ms = peer->closing == FS_CLOSING_LINGER ? FS_CLOSE_LINGER_MS : FS_CLOSE_FLUSH_MS;
    peer->deadline_ns = fs_fabric_now() + ms * 1000000;
    if (peer->state == FS_PEER_UP)
        peer->fabric->stats.peers_up--;
    else if (!peer->connector)
        peer->fabric->num_unproven--;
    fs_log_at(why == FS_CANCELLED ? FS_LOG_INFO : FS_LOG_WARN, "fabric_peer_down",
              "peer=%s address=%s status=%s text=\"%s\"", peer->theirs.name, peer->address,
              fs_status_name(why), peer->why_text);
    peer->state = FS_PEER_DOWN;
    peer->tell_down = true;
    unlink_id(peer);
    fs_peer_ready(peer);
}

void fs_peer_act(fs_peer *peer, unsigned actions)
{
    if (peer->state != FS_PEER_UP) return;
    if (actions & FS_FLOW_LOST) {
        fs_peer_fail(peer, FS_UNAVAILABLE, "silent for %lld ms", (long long)(peer->flow.silent_ns / 1000000));
        return;
    }
    if (actions & FS_FLOW_PING) fs_send_control(peer, FS_MSG_PING, NULL, 0);
    if (actions & FS_FLOW_CREDIT) fs_send_control(peer, FS_MSG_CREDIT, NULL, 0);
    if (actions & FS_FLOW_WRITABLE) {
        peer->tell_writable = true;
        fs_peer_ready(peer);
    }
}

void fs_peer_tick(fs_peer *peer, int64_t now_ns)
{
    if (peer->state == FS_PEER_UP) {
        fs_peer_act(peer, fs_flow_tick(&peer->flow, now_ns));
    } else if (peer->state != FS_PEER_DOWN && now_ns >= peer->deadline_ns) {
        fs_peer_fail(peer, FS_UNAVAILABLE, "no answer within %lld ms",
                     (long long)(peer->fabric->options.connect_ns / 1000000));
    } else if (peer->state == FS_PEER_DOWN && now_ns >= peer->deadline_ns) {
        fs_peer_ready(peer); /* its closing may be overdue */
    }
}

static void on_closed(void *request, ucs_status_t status, void *arg)
{
    fs_peer *peer = arg;
    ucp_request_free(request);
    peer->requests--;
    fs_peer_ready(peer);
}

static void on_flushed(void *request, ucs_status_t status, void *arg)
{
    ((fs_peer *)arg)->flushed = true;
    on_closed(request, status, arg);
}

static void start_request(fs_peer *peer, ucs_status_ptr_t request)
{
    if (UCS_PTR_IS_PTR(request)) peer->requests++;
}

static void flush(fs_peer *peer)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                 .cb.send = on_flushed,
                                 .user_data = peer};
    ucs_status_ptr_t request = ucp_ep_flush_nbx(peer->ep, &param);
    start_request(peer, request);
    peer->flushed = !UCS_PTR_IS_PTR(request);
    peer->closing = FS_CLOSING_FLUSHING;
}

static void force(fs_peer *peer)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                                                 UCP_OP_ATTR_FIELD_FLAGS,
                                 .flags = UCP_EP_CLOSE_FLAG_FORCE,
                                 .cb.send = on_closed,
                                 .user_data = peer};
    peer->closing = FS_CLOSING_FORCED;
    start_request(peer, ucp_ep_close_nbx(peer->ep, &param));
    peer->ep = NULL;
}

static void close_step(fs_peer *peer, int64_t now_ns)
{
    bool overdue = peer->ep_failed || now_ns >= peer->deadline_ns;
    if (peer->closing == FS_CLOSING_FLUSH) {
        if (overdue)
            peer->closing = FS_CLOSING_FORCE;
        else
            flush(peer);
    }
    if (peer->closing == FS_CLOSING_FLUSHING && (peer->flushed || overdue)) peer->closing = FS_CLOSING_FORCE;
    if (peer->closing == FS_CLOSING_LINGER && overdue) peer->closing = FS_CLOSING_FORCE;
    if (peer->closing == FS_CLOSING_FORCE) force(peer);
}

static void tell_down(fs_peer *peer)
{
    fs_fabric *fabric = peer->fabric;
    fs_receive_drop_all(peer);
    const fs_fabric_handlers *h = &fabric->options.handlers;
    if (h->on_down) h->on_down(h->arg, peer, peer->why, peer->why_text);
    peer->tell_down = false;
    peer->user = NULL;
}

static void tell(fs_peer *peer)
{
    const fs_fabric_handlers *h = &peer->fabric->options.handlers;
    if (peer->tell_up && peer->state == FS_PEER_UP) {
        peer->tell_up = false;
        if (h->on_up) h->on_up(h->arg, peer);
    }
    if (peer->state == FS_PEER_UP) fs_receive_deliver(peer, FS_DELIVER_BATCH);
    if (peer->state == FS_PEER_UP && peer->bye && peer->flow.delivered >= peer->bye_after)
        fs_peer_fail(peer, FS_CANCELLED, "%s", FS_FABRIC_GOODBYE);
    if (peer->state == FS_PEER_UP && peer->tell_writable) {
        peer->tell_writable = false;
        if (h->on_writable) h->on_writable(h->arg, peer);
    }
    if (peer->tell_down) tell_down(peer);
}

bool fs_peer_turn(fs_peer *peer, int64_t now_ns)
{
    tell(peer);
    if (peer->state != FS_PEER_DOWN) return fs_receive_pending(peer);
    close_step(peer, now_ns);
    /* Ready again already (a request came back while its endpoint was closed): the list must not hold a freed peer. */
    if (peer->closing == FS_CLOSING_FORCED && peer->requests == 0 && !peer->ready) fs_peer_free(peer);
    return false;
}

void fs_peer_free(fs_peer *peer)
{
    fs_fabric *fabric = peer->fabric;
    FS_ASSERT(peer->state == FS_PEER_DOWN && !peer->tell_down);
    fs_send_drop_all(peer);
    if (peer->next) peer->next->prev = peer->prev;
    if (peer->prev)
        peer->prev->next = peer->next;
    else
        fabric->peers = peer->next;
    fabric->num_peers--;
    free(peer->window);
    free(peer);
}
