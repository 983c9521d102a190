/* router/dispatch/dispatcher.c: creation, the placement in slots, the timer, closing. */
#include "dispatch/dispatcher.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "dispatch/dispatcher_int.h"

int64_t fs_dispatcher_now(void)
{
    return fs_clock_now(fs_clock_system());
}

/* ---- timer ---- */

static void on_timer(uv_timer_t *timer)
{
    fs_dispatcher *d = timer->data;
    int64_t now = fs_dispatcher_now();
    fs_nodes_connect_due(d, now);
    fs_calls_tick(d, now);
    fs_dispatcher_schedule(d);
}

void fs_dispatcher_schedule(fs_dispatcher *d)
{
    if (d->closing) return;
    int64_t now = fs_dispatcher_now();
    int64_t next = fs_calls_next_ns(d, now), connect = fs_nodes_next_ns(d);
    if (connect < next) next = connect;
    if (next == FS_NEVER) {
        uv_timer_stop(&d->timer);
        return;
    }
    /* Rounded up: a timer that fires early would find nothing due and spin. */
    uint64_t ms = next <= now ? 0 : (uint64_t)((next - now + FS_NS_PER_MS - 1) / FS_NS_PER_MS);
    uv_update_time(d->loop);
    uv_timer_start(&d->timer, on_timer, ms, 0);
}

/* ---- creation ---- */

static uint32_t fnv1a(const char *text)
{
    uint32_t h = 2166136261u;
    for (; *text; text++) h = (h ^ (uint8_t)*text) * 16777619u;
    return h;
}

/* The largest message that a call can make or get, to be refused at start rather than in the middle of a
 * request. */
static fs_status check_options(const fs_dispatcher_options *o, size_t max_message, fs_detail *detail)
{
    size_t pairs, bytes;
    if (o->max_rows == 0 || o->max_rows > FS_WIRE_MAX_ROWS)
        return fs_fail(detail, FS_INVALID, "step-tokens: %u is not in 1..%u", o->max_rows, FS_WIRE_MAX_ROWS);
    if (!fs_mul_size(o->max_rows, o->top_k, &pairs) || pairs > FS_WIRE_MAX_PAIRS)
        return fs_fail(detail, FS_INVALID, "step-tokens: %u rows of %u experts each are over %u", o->max_rows,
                       o->top_k, FS_WIRE_MAX_PAIRS);
    if (!fs_mul_size(pairs, o->hidden_size * sizeof(float), &bytes) || bytes > max_message - 65536)
        return fs_fail(detail, FS_INVALID,
                       "step-tokens: answers for %u rows may be over a message's %zu bytes", o->max_rows,
                       max_message);
    return FS_OK;
}

static fs_status copy_options(fs_dispatcher *d, const fs_dispatcher_options *o)
{
    d->options = *o;
    uint16_t *layers = fs_arena_calloc(&d->arena, o->num_moe_layers, sizeof *layers);
    d->options.name = fs_arena_strndup(&d->arena, o->name, strlen(o->name));
    d->options.rack = fs_arena_strndup(&d->arena, o->rack ? o->rack : "", o->rack ? strlen(o->rack) : 0);
    if (!layers || !d->options.name || !d->options.rack) return FS_NO_MEMORY;
    memcpy(layers, o->moe_layer, o->num_moe_layers * sizeof *layers);
    d->options.moe_layer = layers;
    d->rule = (fs_plan_rule){.answer_ns = o->answer_ns, .unavailable_ns = o->unavailable_ns};
    d->view.num_moe_layers = o->num_moe_layers;
    d->view.num_experts = o->num_experts;
    d->view.spread = fnv1a(o->name);
    d->num_missing = o->num_moe_layers * o->num_experts;
    d->missing_ns = fs_arena_calloc(&d->arena, d->num_missing, sizeof *d->missing_ns);
    if (!d->missing_ns) return FS_NO_MEMORY;
    for (uint32_t i = 0; i < d->num_missing; i++) d->missing_ns[i] = fs_dispatcher_now();
    d->view.missing_ns = d->missing_ns;
    return FS_OK;
}

static fs_status alloc_scratch(fs_dispatcher *d)
{
    size_t rows = d->options.max_rows, pairs = rows * d->options.top_k, experts = d->options.num_experts;
    d->row = fs_arena_calloc(&d->arena, rows, sizeof *d->row);
    d->scale = fs_arena_calloc(&d->arena, rows, sizeof *d->scale);
    d->row_i8 = fs_arena_calloc(&d->arena, rows, sizeof *d->row_i8);
    d->row_f32 = fs_arena_calloc(&d->arena, rows, sizeof *d->row_f32);
    d->pair_row = fs_arena_calloc(&d->arena, pairs, sizeof *d->pair_row);
    d->expert = fs_arena_calloc(&d->arena, experts, sizeof *d->expert);
    d->count = fs_arena_calloc(&d->arena, experts, sizeof *d->count);
    d->sent = fs_arena_calloc(&d->arena, experts, sizeof *d->sent);
    d->kind = fs_arena_calloc(&d->arena, experts, sizeof *d->kind);
    d->visited = fs_arena_calloc(&d->arena, d->options.num_experts, sizeof *d->visited);
    d->call = fs_arena_calloc(&d->arena, d->options.max_calls, sizeof(fs_dispatch_call *));
    bool ok = d->row && d->scale && d->row_i8 && d->row_f32 && d->pair_row && d->expert && d->count &&
              d->sent && d->kind && d->visited && d->call;
    return ok ? FS_OK : FS_NO_MEMORY;
}

static fs_status start_fabric(fs_dispatcher *d, fs_detail *detail)
{
    fs_fabric_options fo;
    fs_fabric_options_init(&fo);
    fo.name = d->options.name;
    memcpy(fo.key, d->options.key, sizeof fo.key);
    fo.handlers = (fs_fabric_handlers){.on_up = fs_nodes_on_up,
                                       .on_down = fs_nodes_on_down,
                                       .on_message = fs_calls_on_message,
                                       .on_writable = fs_calls_on_writable,
                                       .arg = d};
    fs_status st = check_options(&d->options, fo.max_message, detail);
    return st == FS_OK ? fs_fabric_create(d->loop, &fo, &d->fabric, detail) : st;
}

static void free_dispatcher(fs_dispatcher *d)
{
    for (uint32_t i = 0; i < d->view.num_nodes; i++) {
        fs_node_free_hints(d->node[i]);
        free(d->node[i]);
    }
    free(d->node);
    free(d->plan_node);
    free(d->replica);
    fs_arena_fini(&d->arena);
    free(d);
}

fs_status fs_dispatcher_create(uv_loop_t *loop, const fs_dispatcher_options *options, fs_dispatcher **out,
                               fs_detail *detail)
{
    fs_dispatcher *d = calloc(1, sizeof *d);
    if (!d) return fs_fail(detail, FS_NO_MEMORY, "dispatcher: no memory");
    d->loop = loop;
    d->next_id = 1;
    fs_status st = copy_options(d, options);
    if (st == FS_OK) st = alloc_scratch(d);
    if (st != FS_OK) fs_fail(detail, st, "dispatcher: no memory");
    if (st == FS_OK) st = start_fabric(d, detail);
    if (st != FS_OK) {
        free_dispatcher(d);
        return st;
    }
    uv_timer_init(loop, &d->timer);
    d->timer.data = d;
    *out = d;
    return FS_OK;
}

/* ---- placement ---- */

static fs_status check_placement(const fs_dispatcher *d, const fs_placement *p, fs_detail *detail)
{
    if (p->fingerprint != d->options.fingerprint)
        return fs_fail(detail, FS_INVALID,
                       "placement: it is of another model (fingerprint %016llx, ours %016llx)",
                       (unsigned long long)p->fingerprint, (unsigned long long)d->options.fingerprint);
    if (p->num_moe_layers != d->options.num_moe_layers || p->num_experts != d->options.num_experts)
        return fs_fail(detail, FS_INVALID, "placement: %u layers of %u experts, the model has %u of %u",
                       p->num_moe_layers, p->num_experts, d->options.num_moe_layers, d->options.num_experts);
    size_t n = (size_t)p->num_moe_layers * p->num_experts;
    if (p->num_replicas == 0 || p->num_replicas > 64)
        return fs_fail(detail, FS_INVALID, "placement: num_replicas %u is not in 1..64", p->num_replicas);
    n *= p->num_replicas;
    for (size_t i = 0; i < n; i++)
        if (p->replica[i] != FS_NO_REPLICA && p->replica[i] >= p->num_nodes)
            return fs_fail(detail, FS_INVALID, "placement: replica %zu is on node %u of %u", i, p->replica[i],
                           p->num_nodes);
    return FS_OK;
}

/* The replica table with slots in place of the placement's node numbers. */
static uint32_t *in_slots(const fs_placement *p, const uint32_t *slot_of)
{
    size_t n = (size_t)p->num_moe_layers * p->num_experts * p->num_replicas;
    uint32_t *replica = malloc(n * sizeof *replica);
    for (size_t i = 0; replica && i < n; i++)
        replica[i] = p->replica[i] == FS_NO_REPLICA ? FS_NO_REPLICA : slot_of[p->replica[i]];
    return replica;
}

fs_status fs_dispatcher_set_placement(fs_dispatcher *d, const fs_placement *p, fs_detail *detail)
{
    fs_status st = check_placement(d, p, detail);
    if (st != FS_OK) return st;
    uint32_t *slot_of = calloc(p->num_nodes + 1, sizeof *slot_of), *replica = NULL;
    if (slot_of && fs_nodes_update(d, p, slot_of) == FS_OK) replica = in_slots(p, slot_of);
    free(slot_of);
    if (!replica) return fs_fail(detail, FS_NO_MEMORY, "placement: no memory");
    free(d->replica);
    d->replica = replica;
    d->view.replica = replica;
    d->view.num_replicas = p->num_replicas;
    d->epoch = p->epoch;
    d->assignment_epoch = p->assignment_epoch;
    for (uint32_t i = 0; i < d->num_calls; i++) fs_plan_forgive(&d->call[i]->plan);
    fs_log_info("placement", "epoch=%llu assignment_epoch=%llu nodes=%u", (unsigned long long)p->epoch,
                (unsigned long long)p->assignment_epoch, p->num_nodes);
    fs_nodes_connect_due(d, fs_dispatcher_now());
    fs_dispatcher_changed(d);
    return FS_OK;
}

static bool has_node(const fs_dispatcher *d, size_t expert)
{
    for (uint32_t r = 0; r < d->view.num_replicas; r++) {
        uint32_t slot = d->replica[expert * d->view.num_replicas + r];
        if (slot == FS_NO_REPLICA || !d->plan_node[slot].connected) continue;
        if (d->plan_node[slot].state >= FS_NODE_READY) return true;
    }
    return false;
}

void fs_dispatcher_changed(fs_dispatcher *d)
{
    if (d->closing) return;
    size_t n = (size_t)d->view.num_moe_layers * d->view.num_experts;
    d->num_missing = 0;
    int64_t now = fs_dispatcher_now();
    for (size_t i = 0; i < n; i++) {
        bool missing = !d->replica || !has_node(d, i);
        d->num_missing += missing;
        d->missing_ns[i] = !missing ? 0 : d->missing_ns[i] ? d->missing_ns[i] : now;
    }
    fs_calls_advance(d);
    fs_dispatcher_schedule(d);
    if (d->options.on_change) d->options.on_change(d->options.arg);
}

bool fs_dispatcher_is_serving(const fs_dispatcher *d, fs_detail *why)
{
    if (d->num_missing == 0) return true;
    if (!d->replica)
        fs_fail(why, FS_UNAVAILABLE, "the coordinator has given no placement yet");
    else
        fs_fail(why, FS_UNAVAILABLE, "%u of %u experts are on no connected, ready node", d->num_missing,
                d->view.num_moe_layers * d->view.num_experts);
    return false;
}

void fs_dispatcher_get_stats(const fs_dispatcher *d, fs_dispatcher_stats *out)
{
    *out = d->stats;
    out->epoch = d->epoch;
    out->in_flight = fs_calls_in_flight(d);
    out->nodes_connected = 0;
    for (uint32_t i = 0; i < d->view.num_nodes; i++) out->nodes_connected += d->plan_node[i].connected;
}

/* ---- closing ---- */

static void on_timer_closed(uv_handle_t *handle)
{
    fs_dispatcher *d = handle->data;
    void (*closed)(void *) = d->closed;
    void *arg = d->closed_arg;
    free_dispatcher(d);
    if (closed) closed(arg);
}

static void on_fabric_closed(void *arg)
{
    fs_dispatcher *d = arg;
    uv_close((uv_handle_t *)&d->timer, on_timer_closed);
}

void fs_dispatcher_close(fs_dispatcher *d, void (*done)(void *arg), void *arg)
{
    d->closing = true;
    d->closed = done;
    d->closed_arg = arg;
    fs_calls_forget(d);
    uv_timer_stop(&d->timer);
    fs_fabric_close(d->fabric, on_fabric_closed, d);
}
