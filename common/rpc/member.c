/* common/rpc/member.c: register, heartbeat, watch, and begin again. Two things run beside each other from the first registration on: the
 * heartbeats (with a new registration when the coordinator no longer knows us) and the watch (opened again whenever it ends). */
#include "rpc/member.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "rpc/member_int.h"
#include "rpc/message.h"

enum {
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MOST_MS = 2000,
    CALL_MS = 2000,       /* a coordinator that does not answer for so long is away */
    STALE_HEARTBEATS = 3, /* so often behind the coordinator's epoch, and the watch is opened again */
};

struct fs_member {
    uv_loop_t *loop;
    fs_member_options options;
    Foresight__V1__RegisterRequest *self;
    fs_rpc_channel *channel;
    uv_timer_t call_timer, watch_timer; /* the next registration or heartbeat; the next watch */
    fs_rpc_request *call, *watch;       /* NULL: none under way */
    uint32_t calls_out, handles_open;

    bool must_register; /* the next call is Register rather than Heartbeat */
    bool answered;      /* the call's response came and was understood */
    bool touched;       /* one more heartbeat after the one that is under way */
    bool registered, told, destroying;
    fs_rpc_code told_code;
    uint32_t id, heartbeat_ms;
    uint32_t call_backoff_ms, watch_backoff_ms;
    uint64_t coordinator_epoch; /* of the last heartbeat's answer */
    uint32_t behind;            /* heartbeats in a row that were answered with a newer epoch than ours */
    Foresight__V1__Placement *placement;
    void (*destroyed)(void *arg);
    void *destroyed_arg;
};

static void on_call_timer(uv_timer_t *timer);
static void finish_destroy(fs_member *m);

/* Doubles the pause. Members that lost the coordinator together come back a little apart. */
static uint64_t next_pause(const fs_member *m, uint32_t *backoff_ms)
{
    uint32_t pause = *backoff_ms;
    *backoff_ms = pause * 2 > BACKOFF_MOST_MS ? BACKOFF_MOST_MS : pause * 2;
    return pause + (m->self->instance ^ m->self->instance >> 32) % (pause / 4 + 1);
}

static void tell(fs_member *m, bool registered, fs_rpc_code code, const char *text)
{
    m->registered = registered;
    bool same = m->told && (registered ? m->told_code == FS_RPC_OK : m->told_code == code);
    m->told = true;
    m->told_code = registered ? FS_RPC_OK : code;
    if (same) return;
    if (registered)
        fs_log_info("member_registered", "coordinator=\"%s\" id=%u", m->options.coordinator, m->id);
    else
        fs_log_warn("member_unregistered", "coordinator=\"%s\" code=%s text=\"%s\"", m->options.coordinator,
                    fs_rpc_code_name(code), text);
    if (m->options.on_state) m->options.on_state(m->options.arg, registered, code, text);
}

/* ---- calls ---- */

static fs_status start_call(fs_member *m, const char *path, const ProtobufCMessage *message,
                            int64_t deadline_ns, const fs_rpc_client_handlers *handlers, fs_rpc_request **out)
{
    uint8_t *data = NULL;
    size_t size = 0;
    fs_status st = fs_message_pack(message, &data, &size);
    if (st == FS_OK) st = fs_rpc_start(m->channel, path, data, size, deadline_ns, handlers, out);
    free(data);
    if (st == FS_OK) m->calls_out++;
    return st;
}

static int64_t after_ms(uint64_t ms)
{
    return fs_clock_now(fs_clock_system()) + (int64_t)ms * FS_NS_PER_MS;
}

static void call_again(fs_member *m, uint64_t pause_ms)
{
    if (!m->destroying) uv_timer_start(&m->call_timer, on_call_timer, pause_ms, 0);
}

/* ---- watch ---- */

static void on_watch_timer(uv_timer_t *timer);

/* The watch brings what is newer than what we have; an assignment is never replaced by none. */
static bool is_news(const fs_member *m, const Foresight__V1__Placement *p)
{
    if (!m->placement) return true;
    if (p->epoch <= m->placement->epoch) return false;
    return p->n_replica > 0 || m->placement->n_replica == 0;
}

static void on_placement(void *arg, fs_rpc_request *request, const uint8_t *message, size_t size)
{
    fs_member *m = arg;
    if (m->destroying) return;
    fs_detail detail = {0};
    ProtobufCMessage *unpacked = fs_message_unpack(&foresight__v1__placement__descriptor, message, size,
                                                   &detail);
    Foresight__V1__Placement *p = (Foresight__V1__Placement *)unpacked;
    if (!p || fs_placement_check(p, &detail) != FS_OK) {
        fs_log_error("placement_malformed", "coordinator=\"%s\" cause=\"%s\"", m->options.coordinator,
                     detail.text);
        fs_message_free(unpacked);
        return;
    }
    m->watch_backoff_ms = BACKOFF_FIRST_MS;
    if (!is_news(m, p)) {
        fs_message_free(unpacked);
        return;
    }
    Foresight__V1__Placement *old = m->placement;
    m->placement = p;
    m->behind = 0;
    if (m->options.on_placement) m->options.on_placement(m->options.arg, p);
    if (old) fs_message_free(&old->base);
}

static void on_watch_end(void *arg, fs_rpc_request *request, fs_rpc_code code, const char *text)
{
    fs_member *m = arg;
    m->watch = NULL;
    m->calls_out--;
    if (m->destroying) {
        finish_destroy(m);
        return;
    }
    fs_log_debug("watch_ended", "code=%s text=\"%s\"", fs_rpc_code_name(code), text);
    uv_timer_start(&m->watch_timer, on_watch_timer, next_pause(m, &m->watch_backoff_ms), 0);
}

static void on_watch_timer(uv_timer_t *timer)
{
    fs_member *m = timer->data;
    if (m->watch || m->destroying) return;
    Foresight__V1__WatchPlacementRequest request = FORESIGHT__V1__WATCH_PLACEMENT_REQUEST__INIT;
    request.name = m->self->name;
    const fs_rpc_client_handlers handlers = {on_placement, on_watch_end, m};
    fs_status st = start_call(m, "/foresight.v1.Control/WatchPlacement", &request.base, FS_NEVER, &handlers,
                              &m->watch);
    if (st != FS_OK) uv_timer_start(&m->watch_timer, on_watch_timer, next_pause(m, &m->watch_backoff_ms), 0);
}

/* ---- register ---- */

static void on_registered_message(void *arg, fs_rpc_request *request, const uint8_t *message, size_t size)
{
    fs_member *m = arg;
    ProtobufCMessage *unpacked = fs_message_unpack(&foresight__v1__register_response__descriptor, message,
                                                   size, NULL);
    if (!unpacked) return;
    const Foresight__V1__RegisterResponse *r = (const Foresight__V1__RegisterResponse *)unpacked;
    m->id = r->member_id;
    m->heartbeat_ms = r->heartbeat_ms < 10 ? 10 : r->heartbeat_ms > 60000 ? 60000 : r->heartbeat_ms;
    m->answered = true;
    fs_message_free(unpacked);
}

static void on_register_end(void *arg, fs_rpc_request *request, fs_rpc_code code, const char *text)
{
    fs_member *m = arg;
    m->call = NULL;
    m->calls_out--;
    if (m->destroying) {
        finish_destroy(m);
        return;
    }
    if (code == FS_RPC_OK && m->answered) {
        m->must_register = false;
        m->call_backoff_ms = BACKOFF_FIRST_MS;
        if (!m->watch && !uv_is_active((uv_handle_t *)&m->watch_timer))
            uv_timer_start(&m->watch_timer, on_watch_timer, 0, 0);
        call_again(m, 0); /* the first heartbeat says at once what is loaded */
        tell(m, true, FS_RPC_OK, "");
        return;
    }
    call_again(m, next_pause(m, &m->call_backoff_ms));
    if (code == FS_RPC_OK)
        tell(m, false, FS_RPC_INTERNAL, "the answer to Register cannot be read");
    else
        tell(m, false, code, text);
}

/* ---- heartbeat ---- */

static void on_heartbeat_message(void *arg, fs_rpc_request *request, const uint8_t *message, size_t size)
{
    fs_member *m = arg;
    ProtobufCMessage *unpacked = fs_message_unpack(&foresight__v1__heartbeat_response__descriptor, message,
                                                   size, NULL);
    if (!unpacked) return;
    m->coordinator_epoch = ((const Foresight__V1__HeartbeatResponse *)unpacked)->epoch;
    m->answered = true;
    fs_message_free(unpacked);
}

/* A watch whose connection died silently would leave us with an old placement until keepalive notices. */
static void check_watch(fs_member *m)
{
    bool behind = m->watch && m->coordinator_epoch > (m->placement ? m->placement->epoch : 0);
    m->behind = behind ? m->behind + 1 : 0;
    if (m->behind < STALE_HEARTBEATS) return;
    m->behind = 0;
    fs_log_info("watch_behind", "epoch=%llu", (unsigned long long)m->coordinator_epoch);
    fs_rpc_cancel(m->watch);
}

static void on_heartbeat_end(void *arg, fs_rpc_request *request, fs_rpc_code code, const char *text)
{
    fs_member *m = arg;
    m->call = NULL;
    m->calls_out--;
    if (m->destroying) {
        finish_destroy(m);
        return;
    }
    if (code == FS_RPC_OK && m->answered) {
        m->call_backoff_ms = BACKOFF_FIRST_MS;
        call_again(m, m->touched ? 0 : m->heartbeat_ms);
        check_watch(m);
        tell(m, true, FS_RPC_OK, "");
    } else if (code == FS_RPC_NOT_FOUND) {
        m->must_register = true;
        call_again(m, 0);
        m->registered = false; /* told only if registering fails */
    } else {
        call_again(m, next_pause(m, &m->call_backoff_ms));
        tell(m, false, code == FS_RPC_OK ? FS_RPC_INTERNAL : code, text);
    }
}

static fs_status send_heartbeat(fs_member *m, bool leaving, int64_t deadline_ns)
{
    Foresight__V1__HeartbeatRequest heartbeat = FORESIGHT__V1__HEARTBEAT_REQUEST__INIT;
    heartbeat.name = m->self->name;
    heartbeat.instance = m->self->instance;
    heartbeat.leaving = leaving;
    if (m->options.fill_heartbeat && !leaving) m->options.fill_heartbeat(m->options.arg, &heartbeat);
    m->touched = false;
    m->answered = false;
    const fs_rpc_client_handlers handlers = {on_heartbeat_message, on_heartbeat_end, m};
    return start_call(m, "/foresight.v1.Control/Heartbeat", &heartbeat.base, deadline_ns, &handlers,
                      &m->call);
}

static void on_call_timer(uv_timer_t *timer)
{
    fs_member *m = timer->data;
    if (m->call || m->destroying) return;
    fs_status st;
    if (m->must_register) {
        m->answered = false;
        const fs_rpc_client_handlers handlers = {on_registered_message, on_register_end, m};
        st = start_call(m, "/foresight.v1.Control/Register", &m->self->base, after_ms(CALL_MS), &handlers,
                        &m->call);
    } else {
        st = send_heartbeat(m, false, after_ms(CALL_MS));
    }
    if (st != FS_OK) call_again(m, next_pause(m, &m->call_backoff_ms));
}

void fs_member_touch(fs_member *m)
{
    if (m->destroying || m->must_register) return; /* a registration is followed by a heartbeat */
    if (m->call)
        m->touched = true;
    else
        call_again(m, 0);
}

/* ---- begin and end ---- */

static Foresight__V1__RegisterRequest *copy_self(const Foresight__V1__RegisterRequest *from)
{
    Foresight__V1__RegisterRequest self = *from;
    if (!self.version || !self.version[0]) self.version = FS_VERSION;
    while (self.instance == 0)
        if (uv_random(NULL, NULL, &self.instance, sizeof(self.instance), 0, NULL) != 0)
            self.instance = uv_hrtime();
    uint8_t *data = NULL;
    size_t size = 0;
    if (fs_message_pack(&self.base, &data, &size) != FS_OK) return NULL;
    ProtobufCMessage *copy = protobuf_c_message_unpack(&foresight__v1__register_request__descriptor, NULL,
                                                       size, data);
    free(data);
    return (Foresight__V1__RegisterRequest *)copy;
}

static fs_status check_self(const Foresight__V1__RegisterRequest *self, fs_detail *detail)
{
    if (!fs_member_name_is_valid(self->name))
        return fs_fail(detail, FS_INVALID, "member name '%.80s': not 1 to 63 of [a-z0-9-]",
                       self->name ? self->name : "");
    if (self->kind == FORESIGHT__V1__MEMBER_KIND__MEMBER_KIND_UNSPECIFIED)
        return fs_fail(detail, FS_INVALID, "member %s: kind is not set", self->name);
    if (!self->address || !self->address[0])
        return fs_fail(detail, FS_INVALID, "member %s: no address", self->name);
    return FS_OK;
}

fs_status fs_member_create(uv_loop_t *loop, const fs_member_options *options, fs_member **out,
                           fs_detail *detail)
{
    fs_status st = check_self(options->self, detail);
    if (st != FS_OK) return st;
    fs_member *m = calloc(1, sizeof(*m));
    if (!m) return FS_NO_MEMORY;
    m->loop = loop;
    m->options = *options;
    m->self = copy_self(options->self);
    m->options.coordinator = options->coordinator ? strdup(options->coordinator) : NULL;
    st = FS_NO_MEMORY;
    if (!m->self || (options->coordinator && !m->options.coordinator)) goto fail;
    st = fs_rpc_channel_create(options->rpc, options->coordinator, &options->credentials, 0, &m->channel,
                               detail);
    if (st != FS_OK) goto fail;
    uv_timer_init(loop, &m->call_timer);
    uv_timer_init(loop, &m->watch_timer);
    m->call_timer.data = m->watch_timer.data = m;
    m->handles_open = 2;
    m->must_register = true;
    m->heartbeat_ms = 500;
    m->call_backoff_ms = m->watch_backoff_ms = BACKOFF_FIRST_MS;
    call_again(m, 0);
    *out = m;
    return FS_OK;
fail:
    if (m->self) fs_message_free(&m->self->base);
    free((char *)m->options.coordinator);
    free(m);
    return st;
}

static void on_timer_closed(uv_handle_t *handle)
{
    fs_member *m = handle->data;
    if (--m->handles_open > 0) return;
    void (*destroyed)(void *) = m->destroyed;
    void *arg = m->destroyed_arg;
    fs_rpc_channel_destroy(m->channel);
    if (m->placement) fs_message_free(&m->placement->base);
    fs_message_free(&m->self->base);
    free((char *)m->options.coordinator);
    free(m);
    if (destroyed) destroyed(arg);
}

/* Once the last call has come back nothing of gRPC's points to the member. */
static void finish_destroy(fs_member *m)
{
    if (m->calls_out > 0) return;
    uv_close((uv_handle_t *)&m->call_timer, on_timer_closed);
    uv_close((uv_handle_t *)&m->watch_timer, on_timer_closed);
}

void fs_member_destroy(fs_member *m, int64_t leave_ns, void (*done)(void *arg), void *arg)
{
    if (!m) {
        if (done) done(arg);
        return;
    }
    FS_ASSERT(!m->destroying);
    m->destroying = true;
    m->destroyed = done;
    m->destroyed_arg = arg;
    uv_timer_stop(&m->call_timer);
    uv_timer_stop(&m->watch_timer);
    fs_rpc_cancel(m->call);
    fs_rpc_cancel(m->watch);
    if (leave_ns > 0 && m->registered &&
        send_heartbeat(m, true, fs_clock_now(fs_clock_system()) + leave_ns) != FS_OK)
        fs_log_debug("leave_unsent", "coordinator=\"%s\"", m->options.coordinator);
    finish_destroy(m);
}

const Foresight__V1__Placement *fs_member_placement(const fs_member *m)
{
    return m->placement;
}

bool fs_member_is_registered(const fs_member *m)
{
    return m->registered;
}

uint32_t fs_member_id(const fs_member *m)
{
    return m->id;
}

uint64_t fs_member_instance(const fs_member *m)
{
    return m->self->instance;
}
