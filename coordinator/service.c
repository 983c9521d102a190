/* coordinator/service.c: the Control service: requests into events of the membership core, its answers back. */
#include "base/clock.h"
#include "base/log.h"
#include "coordinator.h"
#include "rpc/message.h"

/* The core's statuses, as control.proto promises them. */
static void refuse(fs_rpc_call *call, const char *method, fs_status st, const fs_detail *detail)
{
    fs_rpc_code code = st == FS_DENIED ? FS_RPC_FAILED_PRECONDITION : fs_rpc_code_of(st);
    fs_log_info("refused", "method=%s peer=\"%s\" code=%s text=\"%s\"", method, fs_rpc_call_peer(call),
                fs_rpc_code_name(code), detail->text);
    fs_rpc_call_finish(call, code, detail->text[0] ? detail->text : fs_status_name(st));
}

/* NULL: the call has been answered. */
static void *unpack(fs_rpc_call *call, const char *method, const ProtobufCMessageDescriptor *type,
                    const uint8_t *request, size_t size)
{
    fs_detail detail = {0};
    void *message = fs_message_unpack(type, request, size, &detail);
    if (!message) refuse(call, method, FS_INVALID, &detail);
    return message;
}

static void answer(fs_rpc_call *call, const ProtobufCMessage *message)
{
    fs_status st = fs_rpc_send_message(call, message);
    fs_rpc_call_finish(call, fs_rpc_code_of(st), st == FS_OK ? NULL : fs_status_name(st));
}

static int64_t now(void)
{
    return fs_clock_now(fs_clock_system());
}

static void handle_register(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    fs_coordinator *co = arg;
    Foresight__V1__RegisterRequest *r = unpack(call, "Register", &foresight__v1__register_request__descriptor,
                                               request, size);
    if (!r) return;
    const fs_cluster_joining who = {.name = r->name,
                                    .address = r->address,
                                    .rack = r->rack,
                                    .version = r->version,
                                    .model_name = r->model_name,
                                    .instance = r->instance,
                                    .model_fingerprint = r->model_fingerprint,
                                    .capacity_bytes = r->capacity_bytes,
                                    .expert_bytes = r->expert_bytes,
                                    .kind = (uint32_t)r->kind,
                                    .num_moe_layers = r->num_moe_layers,
                                    .num_experts = r->num_experts};
    Foresight__V1__RegisterResponse response = FORESIGHT__V1__REGISTER_RESPONSE__INIT;
    response.heartbeat_ms = (uint32_t)(co->options.heartbeat_ns / FS_NS_PER_MS);
    response.expire_ms = (uint32_t)(co->options.expire_ns / FS_NS_PER_MS);
    fs_detail detail = {0};
    fs_status st = fs_cluster_register(&co->cluster, &who, now(), &response.member_id, &detail);
    if (st == FS_OK)
        fs_store_reply(co, call, &response.base);
    else
        refuse(call, "Register", st, &detail);
    fs_coordinator_changed(co);
    fs_message_free(&r->base);
}

static fs_cluster_cache cache_of(const Foresight__V1__CacheStats *s)
{
    if (!s) return (fs_cluster_cache){0};
    return (fs_cluster_cache){.memory_bytes = s->memory_bytes,
                              .hits = s->hits,
                              .misses = s->misses,
                              .loaded_bytes = s->loaded_bytes,
                              .prefetched_bytes = s->prefetched_bytes,
                              .wasted_bytes = s->wasted_bytes};
}

static void handle_heartbeat(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    fs_coordinator *co = arg;
    Foresight__V1__HeartbeatRequest *r = unpack(call, "Heartbeat",
                                                &foresight__v1__heartbeat_request__descriptor, request, size);
    if (!r) return;
    const fs_cluster_heartbeat heartbeat = {.name = r->name,
                                            .problem = r->problem,
                                            .instance = r->instance,
                                            .ready_epoch = r->ready_epoch,
                                            .bytes_loaded = r->bytes_loaded,
                                            .rows_computed = r->rows_computed,
                                            .experts_loaded = r->experts_loaded,
                                            .cache = cache_of(r->cache),
                                            .leaving = r->leaving};
    fs_detail detail = {0};
    fs_status st = fs_cluster_beat(&co->cluster, &heartbeat, now(), &detail);
    if (st == FS_OK) {
        Foresight__V1__HeartbeatResponse response = FORESIGHT__V1__HEARTBEAT_RESPONSE__INIT;
        response.epoch = co->published_epoch;
        answer(call, &response.base);
    } else {
        refuse(call, "Heartbeat", st, &detail);
    }
    fs_coordinator_changed(co);
    fs_message_free(&r->base);
}

static void handle_watch(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    Foresight__V1__WatchPlacementRequest *r = unpack(
        call, "WatchPlacement", &foresight__v1__watch_placement_request__descriptor, request, size);
    if (!r) return;
    fs_log_debug("watch", "name=\"%s\" peer=\"%s\"", r->name, fs_rpc_call_peer(call));
    fs_message_free(&r->base);
    fs_watch_add(arg, call);
}

static void handle_status(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    Foresight__V1__StatusRequest *r = unpack(call, "Status", &foresight__v1__status_request__descriptor,
                                             request, size);
    if (!r) return;
    fs_message_free(&r->base);
    fs_status_answer(arg, call);
}

static void handle_drain(void *arg, fs_rpc_call *call, const uint8_t *request, size_t size)
{
    fs_coordinator *co = arg;
    Foresight__V1__DrainRequest *r = unpack(call, "Drain", &foresight__v1__drain_request__descriptor, request,
                                            size);
    if (!r) return;
    const Foresight__V1__DrainResponse response = FORESIGHT__V1__DRAIN_RESPONSE__INIT;
    fs_detail detail = {0};
    fs_status st = fs_cluster_drain(&co->cluster, r->name, r->undo, &detail);
    if (st == FS_OK)
        fs_store_reply(co, call, &response.base);
    else
        refuse(call, "Drain", st, &detail);
    fs_coordinator_changed(co);
    fs_message_free(&r->base);
}

void fs_control_methods(fs_coordinator *co, fs_rpc_method methods[FS_CONTROL_METHODS])
{
    methods[0] = (fs_rpc_method){"/foresight.v1.Control/Register", handle_register, co};
    methods[1] = (fs_rpc_method){"/foresight.v1.Control/Heartbeat", handle_heartbeat, co};
    methods[2] = (fs_rpc_method){"/foresight.v1.Control/WatchPlacement", handle_watch, co};
    methods[3] = (fs_rpc_method){"/foresight.v1.Control/Status", handle_status, co};
    methods[4] = (fs_rpc_method){"/foresight.v1.Control/Drain", handle_drain, co};
}
