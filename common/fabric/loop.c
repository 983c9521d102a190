/* common/fabric/loop.c: UCX in the process's libuv loop. Before each poll: progress until nothing moves, callbacks, then either keep
 * the loop from sleeping (there is more to do, or something happened just now) or arm the worker and sleep on its descriptor. */
#include <stdlib.h>

#include "base/log.h"
#include "fabric/fabric_int.h"

enum { PROGRESS_BATCH = 256, TICK_MIN_MS = 2, TICK_MAX_MS = 250, NUDGE_MS = 1 };

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* while it is started the loop polls without waiting; the work is done before the poll */
}

static void kick(fs_fabric *fabric)
{
    if (fabric->idle_on) return;
    uv_idle_start(&fabric->idle, on_idle);
    fabric->idle_on = true;
}

static void calm(fs_fabric *fabric)
{
    if (!fabric->idle_on) return;
    uv_idle_stop(&fabric->idle);
    fabric->idle_on = false;
}

static void on_handle_closed(uv_handle_t *handle)
{
    fs_fabric *fabric = handle->data;
    if (--fabric->open_handles > 0) return;
    void (*done)(void *) = fabric->done;
    void *arg = fabric->done_arg;
    free(fabric);
    if (done) done(arg);
}

/* Messages that the owner still keeps outlive us. */
void fs_loop_finish(fs_fabric *fabric)
{
    calm(fabric);
    fabric->finished = true;
    if (fabric->peers) /* UCX did not give back their requests in time */
        fs_log_warn("fabric_close_overdue", "peers=%u requests=%u", fabric->num_peers,
                    fabric->peers->requests);
    if (fabric->worker) {
        uv_close((uv_handle_t *)&fabric->poll, on_handle_closed);
        fs_ucx_close(fabric);
    }
    while (fabric->peers) fs_peer_free(fabric->peers);
    for (fs_kept *m = fabric->messages, *next; m; m = next) {
        next = m->next;
        m->fabric = NULL;
        if (!m->kept) free(m);
    }
    uv_close((uv_handle_t *)&fabric->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&fabric->idle, on_handle_closed);
    uv_close((uv_handle_t *)&fabric->timer, on_handle_closed);
    uv_close((uv_handle_t *)&fabric->nudge, on_handle_closed);
}

/* Gives each ready peer one turn; those that become ready meanwhile wait for the next round. */
static bool run_ready(fs_fabric *fabric, int64_t now_ns)
{
    fs_peer *peer = fabric->ready_head;
    fabric->ready_head = NULL;
    fabric->ready_tail = &fabric->ready_head;
    bool any = peer != NULL;
    while (peer) {
        fs_peer *next = peer->ready_next;
        peer->ready = false;
        if (fs_peer_turn(peer, now_ns)) fs_peer_ready(peer);
        peer = next;
    }
    return any;
}

static bool undelivered_down(const fs_fabric *fabric)
{
    for (const fs_peer *peer = fabric->peers; peer; peer = peer->next)
        if (peer->tell_down) return true;
    return false;
}

/* Returns whether something happened. */
static bool pump(fs_fabric *fabric)
{
    unsigned steps = 0;
    while (steps < PROGRESS_BATCH && ucp_worker_progress(fabric->worker) > 0) steps++;
    fs_listen_accept(fabric);
    int64_t now_ns = fs_fabric_now();
    bool any = run_ready(fabric, now_ns) || steps > 0;
    if (any) fs_spin_active(&fabric->spin, now_ns);
    if (fabric->closing && (!fabric->peers || now_ns >= fabric->close_deadline_ns) &&
        !undelivered_down(fabric))
        fs_loop_finish(fabric);
    return any;
}

static void on_nudge(uv_timer_t *nudge)
{
    (void)nudge; /* the work is done before the poll */
}

/* A sender whose shared-memory queue is full is not woken when the receiver makes room: UCX's descriptor tells of what comes, not of
 * what may go again. So we look ourselves while UCX holds sends. */
static void sleep_lightly(fs_fabric *fabric)
{
    calm(fabric);
    if (fabric->num_ops > 0 && !uv_is_active((uv_handle_t *)&fabric->nudge))
        uv_timer_start(&fabric->nudge, on_nudge, NUDGE_MS, 0);
}

static void on_prepare(uv_prepare_t *prepare)
{
    fs_fabric *fabric = prepare->data;
    if (fabric->finished) return;
    bool any = pump(fabric);
    if (fabric->finished) return;
    bool spin = any || fabric->ready_head || fs_spin_idle(&fabric->spin, fs_fabric_now());
    /* BUSY: something came between the last progress and now. */
    if (spin || ucp_worker_arm(fabric->worker) != UCS_OK)
        kick(fabric);
    else
        sleep_lightly(fabric);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    fs_fabric *fabric = poll->data;
    if (!fabric->finished) pump(fabric);
}

static void on_timer(uv_timer_t *timer)
{
    fs_fabric *fabric = timer->data;
    int64_t now_ns = fs_fabric_now();
    for (fs_peer *peer = fabric->peers; peer; peer = peer->next) fs_peer_tick(peer, now_ns);
    if (!fabric->peers && !fabric->closing) {
        uv_timer_stop(&fabric->timer);
        fabric->timer_on = false;
    }
}

void fs_loop_timer(fs_fabric *fabric)
{
    if (fabric->timer_on || fabric->finished) return;
    const fs_fabric_options *o = &fabric->options;
    int64_t shortest = o->ping_ns < o->connect_ns ? o->ping_ns : o->connect_ns;
    int64_t ms = shortest / 4 / 1000000;
    uint64_t tick = ms < TICK_MIN_MS ? TICK_MIN_MS : ms > TICK_MAX_MS ? TICK_MAX_MS : (uint64_t)ms;
    uv_timer_start(&fabric->timer, on_timer, tick, tick);
    fabric->timer_on = true;
}

void fs_loop_init(fs_fabric *fabric)
{
    uv_prepare_init(fabric->loop, &fabric->prepare);
    uv_idle_init(fabric->loop, &fabric->idle);
    uv_timer_init(fabric->loop, &fabric->timer);
    uv_timer_init(fabric->loop, &fabric->nudge);
    fabric->open_handles = 4;
    fabric->prepare.data = fabric->idle.data = fabric->timer.data = fabric->nudge.data = fabric;
    /* The descriptor alone keeps the loop alive. */
    uv_unref((uv_handle_t *)&fabric->prepare);
    uv_unref((uv_handle_t *)&fabric->idle);
    uv_unref((uv_handle_t *)&fabric->timer);
    uv_unref((uv_handle_t *)&fabric->nudge);
}

fs_status fs_loop_start(fs_fabric *fabric, fs_detail *detail)
{
    int fd;
    ucs_status_t status = ucp_worker_get_efd(fabric->worker, &fd);
    if (status != UCS_OK)
        return fs_fail(detail, FS_UNAVAILABLE, "UCX event descriptor: %s", ucs_status_string(status));
    int err = uv_poll_init(fabric->loop, &fabric->poll, fd);
    if (err) return fs_fail(detail, FS_UNAVAILABLE, "UCX event descriptor: %s", uv_strerror(err));
    fabric->open_handles++;
    fabric->poll.data = fabric;
    uv_poll_start(&fabric->poll, UV_READABLE, on_poll);
    uv_prepare_start(&fabric->prepare, on_prepare);
    return FS_OK;
}
