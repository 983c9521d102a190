/* common/fabric/listen.c: who may connect, and connecting. */
#include <string.h>

#include "base/log.h"
#include "fabric/fabric_int.h"

/* In UCX's progress: only kept for later, so that the endpoint is not made from inside a callback. */
static void on_request(ucp_conn_request_h request, void *arg)
{
    fs_fabric *fabric = arg;
    if (fabric->closing || fabric->num_unproven + fabric->num_requests >= FS_MAX_UNPROVEN) {
        fs_log_warn("fabric_connection_refused", "unproven=%u", fabric->num_unproven);
        ucp_listener_reject(fabric->listener, request);
        return;
    }
    fabric->requests[fabric->num_requests++] = request;
}

static void accept_one(fs_fabric *fabric, ucp_conn_request_h request)
{
    ucp_conn_request_attr_t attr = {.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR};
    char address[128] = "?";
    if (ucp_conn_request_query(request, &attr) == UCS_OK) fs_address_format(&attr.client_address, address);
    fs_peer *peer;
    if (fs_peer_create(fabric, false, address, &peer) != FS_OK) {
        ucp_listener_reject(fabric->listener, request);
        return;
    }
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST, .conn_request = request};
    fs_detail detail = {0};
    if (fs_peer_open(peer, &params, &detail) != FS_OK) fs_peer_fail(peer, FS_UNAVAILABLE, "%s", detail.text);
}

void fs_listen_accept(fs_fabric *fabric)
{
    for (uint32_t i = 0; i < fabric->num_requests; i++) accept_one(fabric, fabric->requests[i]);
    fabric->num_requests = 0;
}

void fs_listen_stop(fs_fabric *fabric)
{
    for (uint32_t i = 0; i < fabric->num_requests; i++)
        ucp_listener_reject(fabric->listener, fabric->requests[i]);
    fabric->num_requests = 0;
    if (fabric->listener) ucp_listener_destroy(fabric->listener);
    fabric->listener = NULL;
}

/* The TCP transport of UCX 1.13 writes an IPv6 address into room for an IPv4 one when it accepts (seen under ASan, with every
 * setting of UCX_TLS and UCX_TCP_AF_PRIO): better no IPv6 than a corrupt heap. */
static fs_status parse_usable(const char *text, struct sockaddr_storage *out, socklen_t *size,
                              fs_detail *detail)
{
    fs_status st = fs_address_parse(text, out, size, detail);
    unsigned major, minor, release;
    ucp_get_version(&major, &minor, &release);
    if (st == FS_OK && out->ss_family == AF_INET6 && major == 1 && minor < 14)
        return fs_fail(detail, FS_UNSUPPORTED, "address %s: IPv6 is not safe with UCX %s", text,
                       ucp_get_version_string());
    return st;
}

/* UCX is opened with the first address, which says how far it must reach: its TCP transport listens on every device that it may use,
 * whatever the address of our own listener. */
static fs_status reach(fs_fabric *fabric, const char *text, const struct sockaddr_storage *address,
                       fs_detail *detail)
{
    bool loopback = fs_address_is_loopback(address);
    if (!fabric->worker) {
        fs_status st = fs_ucx_open(fabric, loopback, detail);
        if (st != FS_OK) return st;
        st = fs_loop_start(fabric, detail);
        if (st != FS_OK) fs_ucx_close(fabric);
        return st;
    }
    if (loopback || !fabric->loopback_only) return FS_OK;
    return fs_fail(
        detail, FS_UNSUPPORTED,
        "address %s: this process's fabric keeps to loopback, as its first address; set UCX_NET_DEVICES",
        text);
}

fs_status fs_fabric_listen(fs_fabric *fabric, const char *address, char bound[128], fs_detail *detail)
{
    if (fabric->listener || fabric->closing)
        return fs_fail(detail, FS_INVALID, "listen: already listening, or closed");
    struct sockaddr_storage at;
    socklen_t size;
    fs_status st = parse_usable(address, &at, &size, detail);
    if (st == FS_OK) st = reach(fabric, address, &at, detail);
    if (st != FS_OK) return st;
    ucp_listener_params_t params = {.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR |
                                                  UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
                                    .sockaddr = {.addr = (struct sockaddr *)&at, .addrlen = size},
                                    .conn_handler = {.cb = on_request, .arg = fabric}};
    ucs_status_t status = ucp_listener_create(fabric->worker, &params, &fabric->listener);
    if (status != UCS_OK) {
        fabric->listener = NULL;
        return fs_fail(detail, FS_UNAVAILABLE, "listen on %s: %s", address, ucs_status_string(status));
    }
    ucp_listener_attr_t attr = {.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR};
    status = ucp_listener_query(fabric->listener, &attr);
    if (status != UCS_OK) {
        fs_listen_stop(fabric);
        return fs_fail(detail, FS_UNAVAILABLE, "listen on %s: %s", address, ucs_status_string(status));
    }
    fs_address_format(&attr.sockaddr, bound);
    return FS_OK;
}

fs_status fs_fabric_connect(fs_fabric *fabric, const char *address, void *user, fs_peer **out,
                            fs_detail *detail)
{
    struct sockaddr_storage at;
    socklen_t size;
    fs_status st = parse_usable(address, &at, &size, detail);
    if (st != FS_OK) return st;
    if (fabric->closing) return fs_fail(detail, FS_CANCELLED, "connect to %s: the fabric is closed", address);
    st = reach(fabric, address, &at, detail);
    if (st != FS_OK) return st;
    fs_peer *peer;
    st = fs_peer_create(fabric, true, address, &peer);
    if (st != FS_OK) return fs_fail(detail, st, "connect to %s: no memory", address);
    peer->user = user;
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR,
                              .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
                              .sockaddr = {.addr = (struct sockaddr *)&at, .addrlen = size}};
    fs_detail why = {0};
    if (fs_peer_open(peer, &params, &why) == FS_OK)
        fs_auth_start(peer);
    else
        fs_peer_fail(peer, FS_UNAVAILABLE, "%s", why.text); /* told by on_down, as every failure to connect */
    *out = peer;
    return FS_OK;
}
