/* router/dispatch/call.c: one micro-batch's rows out and back. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "dispatch/dispatcher_int.h"

fs_status fs_dispatch_call_create(fs_dispatcher *d, fs_dispatch_call **out)
{
    FS_ASSERT(d->num_calls < d->options.max_calls);
    fs_dispatch_call *call = fs_arena_calloc(&d->arena, 1, sizeof *call);
    if (!call) return FS_NO_MEMORY;
    fs_status st = fs_plan_init(&call->plan, &d->arena, d->options.max_rows, d->options.num_experts,
                                d->options.top_k);
    if (st != FS_OK) return st;
    call->kept = fs_arena_calloc(&d->arena, call->plan.max_groups, sizeof(fs_kept *));
    if (!call->kept) return FS_NO_MEMORY;
    call->dispatcher = d;
    d->call[d->num_calls++] = call;
    *out = call;
    return FS_OK;
}

void fs_dispatch_release(fs_dispatch_call *call)
{
    for (uint32_t i = 0; i < call->num_kept; i++) fs_fabric_release(call->kept[i]);
    call->num_kept = 0;
}

/* ---- sending ---- */

static fs_status encode(fs_dispatch_call *call, uint32_t message, fs_buffer *out)
{
    fs_dispatcher *d = call->dispatcher;
    const fs_dispatch_rows *rows = &call->rows;
    const fs_plan_message *m = &call->plan.message[message];
    uint32_t hidden = d->options.hidden_size;
    uint32_t num_rows = fs_plan_layout(&call->plan, message, d->row, d->pair_row, d->expert, d->count);
    bool i8 = d->options.row_format == FS_ROWS_I8;
    for (uint32_t i = 0; i < num_rows; i++) {
        if (i8) {
            d->row_i8[i] = rows->row_i8 + (size_t)d->row[i] * hidden;
            d->scale[i] = rows->scale[d->row[i]];
        } else {
            d->row_f32[i] = rows->row_f32 + (size_t)d->row[i] * hidden;
        }
    }
    fs_dispatch_source source = {.id = m->id,
                                 .epoch = d->assignment_epoch,
                                 .fingerprint = d->options.fingerprint,
                                 .layer = d->options.moe_layer[call->plan.moe_layer],
                                 .hidden_size = hidden,
                                 .num_rows = num_rows,
                                 .num_groups = m->num_groups,
                                 .num_pairs = m->num_pairs,
                                 .row_format = d->options.row_format,
                                 .expert = d->expert,
                                 .count = d->count,
                                 .pair = d->pair_row,
                                 .scale = d->scale,
                                 .row_i8 = d->row_i8,
                                 .row_f32 = d->row_f32};
    return fs_dispatch_encode(&source, out);
}

static fs_status encode_and_send(fs_dispatch_call *call, uint32_t message)
{
    fs_dispatcher *d = call->dispatcher;
    fs_dispatch_node *node = d->node[call->plan.message[message].node];
    fs_buffer block = {0};
    if (!node->peer) return FS_UNAVAILABLE;
    fs_status st = encode(call, message, &block);
    if (st == FS_OK) {
        fs_slice slice = {block.data, block.size};
        st = fs_fabric_send(node->peer, FS_WIRE_DISPATCH, &slice, 1, block.data);
    }
    if (st == FS_OK)
        d->stats.dispatches++; /* the block is the fabric's */
    else
        fs_buffer_free(&block);
    return st;
}

/* Sends a message, or notes why it could not be sent. */
static void send_message(fs_dispatch_call *call, uint32_t message)
{
    fs_dispatcher *d = call->dispatcher;
    fs_plan_message *m = &call->plan.message[message];
    fs_status st = encode_and_send(call, message);
    m->unsent = st == FS_EXHAUSTED;
    if (st == FS_OK || st == FS_EXHAUSTED) return; /* exhausted: on_writable comes */
    if (st == FS_UNAVAILABLE) {
        d->plan_node[m->node].connected = false; /* its on_down is on the way */
        d->stats.redispatches += fs_plan_node_lost(&call->plan, m->node, fs_dispatcher_now());
        return;
    }
    fs_log_error("dispatch_failed", "node=%s cause=%s", d->node[m->node]->name, fs_status_name(st));
    d->stats.redispatches += fs_plan_answer_all(&call->plan, message,
                                                st == FS_NO_MEMORY ? FS_ANSWER_EXHAUSTED : FS_ANSWER_REFUSED,
                                                fs_dispatcher_now());
}

static void finish(fs_dispatch_call *call)
{
    call->active = false;
    fs_plan_fail_rows(&call->plan, call->rows.out, call->rows.failed);
    call->rows.done(call->rows.arg);
}

/* Sends what is pending; done when nothing is unfinished. A send that fails makes its groups pending again,
 * so round we go: each round takes a node out of the choice, so it ends. */
static void advance(fs_dispatch_call *call)
{
    fs_dispatcher *d = call->dispatcher;
    int64_t start = fs_dispatcher_now();
    for (;;) {
        uint32_t n = fs_plan_assign(&call->plan, &d->view, &d->rule, fs_dispatcher_now(), &d->next_id,
                                    d->sent);
        if (n == 0) break;
        for (uint32_t i = 0; i < n; i++)
            if (call->plan.message[d->sent[i]].open) send_message(call, d->sent[i]);
    }
    d->stats.send_ns += fs_dispatcher_now() - start;
    if (call->plan.num_unfinished == 0) finish(call);
}

void fs_dispatch_send(fs_dispatch_call *call, uint32_t moe_layer, const fs_dispatch_rows *rows)
{
    FS_ASSERT(!call->active);
    FS_ASSERT(call->num_kept == 0);
    call->dispatcher->num_visits++;
    call->rows = *rows;
    call->active = true;
    memset(rows->out, 0, (size_t)rows->num_rows * call->plan.top_k * sizeof *rows->out);
    fs_plan_begin(&call->plan, moe_layer, rows->route, rows->num_rows);
    advance(call);
    fs_dispatcher_schedule(call->dispatcher);
}

void fs_calls_on_writable(void *arg, fs_peer *peer)
{
    fs_dispatcher *d = arg;
    fs_dispatch_node *node = fs_peer_user(peer);
    if (!node || d->closing) return;
    for (uint32_t i = 0; i < d->num_calls; i++) {
        fs_dispatch_call *call = d->call[i];
        if (!call->active) continue;
        for (uint32_t m = 0; m < call->plan.num_messages; m++) {
            fs_plan_message *message = &call->plan.message[m];
            if (message->open && message->unsent && message->node == node->slot) send_message(call, m);
        }
        advance(call);
    }
    fs_dispatcher_schedule(d);
}

/* ---- answers ---- */

static fs_plan_answer_kind kind_of(fs_wire_status status)
{
    switch (status) {
    case FS_WIRE_OK: return FS_ANSWER_OK;
    case FS_WIRE_MOVED: return FS_ANSWER_MOVED;
    case FS_WIRE_CORRUPT: return FS_ANSWER_CORRUPT;
    case FS_WIRE_EXHAUSTED: return FS_ANSWER_EXHAUSTED;
    default: return FS_ANSWER_REFUSED;
    }
}

/* The answer is to this message: same layer, sizes and experts. */
static bool fits(const fs_dispatch_call *call, uint32_t message, const fs_result *r)
{
    const fs_dispatcher *d = call->dispatcher;
    const fs_plan_message *m = &call->plan.message[message];
    if (r->layer != d->options.moe_layer[call->plan.moe_layer] || r->hidden_size != d->options.hidden_size)
        return false;
    if (r->num_groups != m->num_groups || r->num_pairs != m->num_pairs) return false;
    uint32_t cursor = 0, expert;
    fs_wire_status status;
    for (uint32_t i = 0; i < r->num_groups; i++) {
        fs_result_group(r, i, &expert, &status);
        uint32_t g = fs_plan_next_group(&call->plan, message, &cursor);
        if (g == FS_PLAN_NONE || call->plan.group[g].expert != expert) return false;
    }
    return true;
}

/* Rows of the groups that worked go to their places. Returns how many groups did not. */
static uint32_t place(fs_dispatch_call *call, uint32_t message, const fs_result *r)
{
    fs_dispatcher *d = call->dispatcher;
    uint32_t cursor = 0, pair = 0, failed = 0, expert;
    fs_wire_status status;
    for (uint32_t i = 0; i < r->num_groups; i++) {
        uint32_t g = fs_plan_next_group(&call->plan, message, &cursor);
        fs_result_group(r, i, &expert, &status);
        d->kind[i] = kind_of(status);
        if (d->kind[i] == FS_ANSWER_OK)
            fs_plan_place(&call->plan, g, r->row + (size_t)pair * r->hidden_size, r->hidden_size,
                          call->rows.out);
        else
            failed++;
        pair += call->plan.group[g].num_pairs;
    }
    return failed;
}

static void on_answer(fs_dispatch_call *call, uint32_t message, fs_peer *peer, const fs_result *r)
{
    fs_dispatcher *d = call->dispatcher;
    int64_t now = fs_dispatcher_now();
    if (!fits(call, message, r)) {
        fs_log_warn("result_misfit", "node=%s layer=%u", fs_peer_name(peer), r->layer);
        d->stats.redispatches += fs_plan_answer_all(&call->plan, message, FS_ANSWER_CORRUPT, now);
    } else {
        uint32_t failed = place(call, message, r);
        if (failed < r->num_groups) call->kept[call->num_kept++] = fs_fabric_keep(peer);
        if (failed > 0)
            fs_log_debug("groups_refused", "node=%s groups=%u of=%u kind=%d", fs_peer_name(peer), failed,
                         r->num_groups, (int)d->kind[0]);
        d->stats.redispatches += fs_plan_answer(&call->plan, message, d->kind, now);
        d->stats.experts_compute_ns += (int64_t)r->compute_ns;
    }
    advance(call);
}

void fs_calls_on_message(void *arg, fs_peer *peer, uint16_t type, const uint8_t *data, size_t size)
{
    fs_dispatcher *d = arg;
    fs_result r;
    fs_detail detail = {0};
    fs_dispatch_node *node = fs_peer_user(peer);
    if (!node || d->closing) return;
    fs_status st = type == FS_WIRE_RESULT ? fs_result_decode(data, size, &r, &detail)
                                          : fs_fail(&detail, FS_CORRUPT, "message of type %u", type);
    if (st != FS_OK) {
        fs_log_warn("result_broken", "node=%s text=\"%s\"", fs_peer_name(peer), detail.text);
        fs_peer_close(peer); /* on_down sends its rows elsewhere */
        return;
    }
    node->wants_hints = (r.flags & FS_WIRE_WANTS_HINTS) != 0;
    for (uint32_t i = 0; i < d->num_calls; i++) {
        fs_dispatch_call *call = d->call[i];
        uint32_t m = call->active ? fs_plan_find(&call->plan, r.id) : FS_PLAN_NONE;
        /* Only from whom it was asked: a peer cannot answer for another. */
        if (m == FS_PLAN_NONE || call->plan.message[m].node != node->slot) continue;
        on_answer(call, m, peer, &r);
        break;
    }
    fs_dispatcher_schedule(d);
}

/* ---- trouble ---- */

void fs_calls_node_lost(fs_dispatcher *d, uint32_t slot)
{
    for (uint32_t i = 0; i < d->num_calls; i++)
        if (d->call[i]->active)
            d->stats.redispatches += fs_plan_node_lost(&d->call[i]->plan, slot, fs_dispatcher_now());
}

void fs_calls_advance(fs_dispatcher *d)
{
    for (uint32_t i = 0; i < d->num_calls; i++)
        if (d->call[i]->active) advance(d->call[i]);
}

void fs_calls_tick(fs_dispatcher *d, int64_t now_ns)
{
    for (uint32_t i = 0; i < d->num_calls; i++) {
        fs_dispatch_call *call = d->call[i];
        if (!call->active) continue;
        uint32_t pairs = fs_plan_tick(&call->plan, &d->rule, now_ns);
        if (pairs) fs_log_warn("dispatch_silent", "layer=%u rows=%u", call->plan.moe_layer, pairs);
        d->stats.redispatches += pairs;
        advance(call);
    }
}

int64_t fs_calls_next_ns(const fs_dispatcher *d, int64_t now_ns)
{
    int64_t next = FS_NEVER;
    for (uint32_t i = 0; i < d->num_calls; i++) {
        if (!d->call[i]->active) continue;
        int64_t t = fs_plan_next_ns(&d->call[i]->plan, &d->rule, now_ns);
        if (t < next) next = t;
    }
    return next;
}

uint32_t fs_calls_in_flight(const fs_dispatcher *d)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->num_calls; i++)
        for (uint32_t m = 0; d->call[i]->active && m < d->call[i]->plan.num_messages; m++)
            n += d->call[i]->plan.message[m].open;
    return n;
}

void fs_calls_forget(fs_dispatcher *d)
{
    for (uint32_t i = 0; i < d->num_calls; i++) {
        d->call[i]->active = false;
        fs_dispatch_release(d->call[i]);
    }
}
