/* expert_node/exec/exec.c: what a dispatch asks for is checked, queued by expert and, when its pairs are done, answered. */
#include "exec/exec.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "exec/exec_int.h"

#define NO_SLOT UINT32_MAX

static fs_status send_block(fs_peer *peer, uint8_t *block, size_t size)
{
    fs_slice part = {block, size};
    return fs_fabric_send(peer, FS_WIRE_RESULT, &part, 1, block);
}

const fs_exec_port fs_exec_fabric = {send_block, fs_fabric_keep, fs_fabric_release, fs_peer_close};

/* ---- pending dispatches ---- */

static void tell_idle(fs_exec *exec)
{
    void (*idle)(void *arg) = exec->idle;
    if (exec->num_pending > 0 || !idle) return;
    exec->idle = NULL;
    idle(exec->idle_arg);
}

/* block: still ours, or NULL when it was sent. */
static void forget(fs_exec *exec, fs_pending *p, uint8_t *block)
{
    free(block);
    exec->port->release(p->kept);
    *p = (fs_pending){.next_free = exec->free_slot};
    exec->free_slot = (uint32_t)(p - exec->pending);
    exec->num_pending--;
    tell_idle(exec);
}

/* A group that was given up half way has rows already: a failed group's are zeros. */
static void zero_failed(fs_pending *p)
{
    fs_result r;
    if (fs_result_decode(p->block, p->size, &r, NULL) != FS_OK) return;
    const fs_dispatch *d = &p->dispatch;
    for (uint32_t g = 0, first = 0; g < d->num_groups; g++) {
        uint32_t expert, num_rows;
        fs_wire_status status;
        fs_dispatch_group(d, g, &expert, &num_rows);
        fs_result_group(&r, g, &expert, &status);
        if (status != FS_WIRE_OK)
            memset(p->row + (size_t)first * d->hidden_size, 0,
                   (size_t)num_rows * d->hidden_size * sizeof(float));
        first += num_rows;
    }
}

static void answer(fs_exec *exec, fs_pending *p)
{
    fs_status st = exec->port->send(p->peer, p->block, p->size);
    p->blocked =
        st ==
        FS_EXHAUSTED; /* the message stays kept meanwhile: a router that does not read gets no more credits */
    if (p->blocked) return;
    if (st != FS_OK)
        fs_log_debug("result_dropped", "id=%" PRIu64 " status=%s", p->dispatch.id, fs_status_name(st));
    forget(exec, p, st == FS_OK ? NULL : p->block);
}

static void finish(fs_exec *exec, fs_pending *p)
{
    if (!p->peer) {
        forget(exec, p, p->block);
        return;
    }
    if (p->any_failed) zero_failed(p);
    fs_result_set_compute(p->block, p->compute_ns);
    answer(exec, p);
}

void fs_exec_pairs_done(fs_exec *exec, uint32_t tag, uint32_t count)
{
    fs_pending *p = &exec->pending[tag];
    FS_ASSERT(p->block && count <= p->pairs_left);
    p->pairs_left -= count;
    if (p->pairs_left == 0) finish(exec, p);
}

static void fail_group(fs_exec *exec, fs_pending *p, uint32_t group, fs_wire_status status)
{
    fs_result_set_group(p->block, group, status);
    p->any_failed = true;
    exec->stats.refused_groups++;
}

void fs_exec_pairs_failed(fs_exec *exec, const fs_batch_piece *piece, fs_wire_status status)
{
    fs_pending *p = &exec->pending[piece->tag];
    uint32_t end = 0;
    for (uint32_t g = 0; g < p->dispatch.num_groups; g++) {
        uint32_t expert, num_rows;
        fs_dispatch_group(&p->dispatch, g, &expert, &num_rows);
        end += num_rows;
        if (piece->first >= end) continue;
        fail_group(exec, p, g, status);
        break;
    }
    fs_exec_pairs_done(exec, piece->tag, piece->count);
}

/* ---- a dispatch comes in ---- */

static void refuse_peer(fs_exec *exec, fs_peer *peer, fs_status why, const char *text)
{
    fs_log_error("message_refused", "status=%s detail=\"%s\"", fs_status_name(why), text);
    exec->port->close(peer);
}

/* Whether a result of the right size can be made at all. */
static fs_status check_size(const fs_exec *exec, const fs_dispatch *d, fs_detail *detail)
{
    if (d->hidden_size != exec->config->hidden_size)
        return fs_fail(detail, FS_INVALID, "dispatch: hidden_size %u, the model's is %u", d->hidden_size,
                       exec->config->hidden_size);
    uint64_t bytes = (uint64_t)d->num_pairs * d->hidden_size * sizeof(float) + (uint64_t)d->num_groups * 8 +
                     128;
    if (bytes > exec->max_message)
        return fs_fail(detail, FS_INVALID, "dispatch: %u pairs: a result of %" PRIu64 " bytes is over %zu",
                       d->num_pairs, bytes, exec->max_message);
    return FS_OK;
}

/* What stands against the dispatch as a whole. */
static fs_wire_status judge(const fs_exec *exec, const fs_dispatch *d)
{
    fs_row_format format = exec->config->expert_storage == FS_EXPERTS_SUB1 ? FS_ROWS_I8 : FS_ROWS_F32;
    const char *why = NULL;
    if (d->fingerprint != exec->fingerprint)
        why = "fingerprint of another model";
    else if (d->row_format != format)
        why = "row format of another expert storage";
    if (why) fs_log_warn("dispatch_invalid", "id=%" PRIu64 " layer=%u why=\"%s\"", d->id, d->layer, why);
    return why ? FS_WIRE_INVALID : FS_WIRE_OK;
}

static fs_wire_status wire_status_of(fs_status st)
{
    switch (st) {
    case FS_OK: return FS_WIRE_OK;
    case FS_CORRUPT: return FS_WIRE_CORRUPT;
    case FS_EXHAUSTED: return FS_WIRE_EXHAUSTED;
    default: return FS_WIRE_MOVED;
    }
}

/* One claim a key, for all its rows that wait: then it stays in memory, or comes there and lets them run. */
static fs_status claim(fs_exec *exec, uint32_t router, uint32_t key)
{
    bool ready;
    fs_status st = fs_store_claim(exec->store, router, key, &ready);
    if (st != FS_OK) return st;
    if (exec->claimed[key]) fs_store_unclaim(exec->store, key);
    exec->claimed[key] = true;
    fs_batcher_hold(exec->batcher, key, !ready);
    return FS_OK;
}

void fs_exec_rows_left(fs_exec *exec, uint32_t key)
{
    if (!exec->claimed[key] || fs_batcher_rows_of(exec->batcher, key) > 0) return;
    exec->claimed[key] = false;
    fs_batcher_hold(exec->batcher, key, false);
    fs_store_unclaim(exec->store, key);
}

static fs_wire_status judge_group(fs_exec *exec, uint32_t router, uint32_t layer, uint32_t expert,
                                  uint32_t *key)
{
    if (fs_store_key(exec->store, layer, expert, key) != FS_OK) {
        fs_log_warn("dispatch_invalid", "layer=%u expert=%u why=\"the model has no such expert\"", layer,
                    expert);
        return FS_WIRE_INVALID;
    }
    return wire_status_of(claim(exec, router, *key));
}

/* Queues what can be computed and marks what cannot. The pending has all its pairs left, plus one so that it cannot end meanwhile. */
static void queue_groups(fs_exec *exec, fs_pending *p, fs_wire_status all)
{
    const fs_dispatch *d = &p->dispatch;
    uint32_t tag = (uint32_t)(p - exec->pending), router = fs_exec_router_of(exec, p->peer);
    if (all == FS_WIRE_OK) fs_store_visit(exec->store, d->layer);
    for (uint32_t g = 0, first = 0; g < d->num_groups; g++) {
        uint32_t expert, num_rows, key = 0;
        fs_dispatch_group(d, g, &expert, &num_rows);
        fs_wire_status status = all != FS_WIRE_OK ? all : judge_group(exec, router, d->layer, expert, &key);
        if (status == FS_WIRE_OK) {
            fs_batcher_add(exec->batcher, key, tag, first, num_rows);
        } else {
            fail_group(exec, p, g, status);
            p->pairs_left -= num_rows;
        }
        first += num_rows;
    }
    fs_store_go(exec->store);
}

/* No slot is free to wait in: refused at once, or not at all. */
static void refuse_at_once(fs_exec *exec, fs_peer *peer, fs_pending *p)
{
    for (uint32_t g = 0; g < p->dispatch.num_groups; g++) fs_result_set_group(p->block, g, FS_WIRE_EXHAUSTED);
    exec->stats.refused_groups += p->dispatch.num_groups;
    fs_status st = exec->port->send(peer, p->block, p->size);
    if (st == FS_OK) return;
    free(p->block);
    refuse_peer(exec, peer, st, "dispatch: neither a slot for it nor room to say so");
}

/* A turn of the loop later: messages that came together, from several routers, are one batch an expert. */
static void begin(uv_idle_t *handle)
{
    uv_idle_stop(handle);
    fs_exec_start_jobs(handle->data);
}

static void begin_later(fs_exec *exec)
{
    if (fs_batcher_num_ready(exec->batcher) > 0) uv_idle_start(&exec->begin, begin);
}

/* An expert that rows wait for is in memory, or will not be: then they fail when it is their turn. */
static void on_key(void *arg, uint32_t key)
{
    fs_exec *exec = arg;
    fs_batcher_hold(exec->batcher, key, false);
    begin_later(exec);
}

static void accept_dispatch(fs_exec *exec, fs_pending p)
{
    fs_pending *slot = &exec->pending[exec->free_slot];
    exec->free_slot = slot->next_free;
    exec->num_pending++;
    fs_wire_status all = judge(exec, &p.dispatch);
    if (all == FS_WIRE_OK && !fs_batcher_has_room(exec->batcher, p.dispatch.num_groups, p.dispatch.num_pairs))
        all = FS_WIRE_EXHAUSTED;
    *slot = p;
    slot->kept = exec->port->keep(p.peer);
    slot->pairs_left = p.dispatch.num_pairs + 1;
    queue_groups(exec, slot, all);
    fs_exec_pairs_done(exec, (uint32_t)(slot - exec->pending), 1);
    begin_later(exec);
}

static void on_dispatch(fs_exec *exec, fs_pending *p)
{
    exec->stats.dispatches++;
    fs_store_stats store;
    fs_store_get_stats(exec->store, &store);
    p->block = fs_result_create(&p->dispatch, store.epoch, &p->size, &p->row);
    if (!p->block) {
        refuse_peer(exec, p->peer, FS_NO_MEMORY, "dispatch: no memory for its result");
        return;
    }
    if (fs_store_wants_hints(exec->store)) fs_result_set_flags(p->block, FS_WIRE_WANTS_HINTS);
    if (exec->free_slot == NO_SLOT)
        refuse_at_once(exec, p->peer, p);
    else
        accept_dispatch(exec, *p);
}

void fs_exec_on_message(fs_exec *exec, fs_peer *peer, uint16_t type, const uint8_t *data, size_t size)
{
    fs_detail detail = {0};
    fs_pending p = {.peer = peer};
    fs_hint hint;
    fs_status st;
    switch (type) {
    case FS_WIRE_DISPATCH:
        st = fs_dispatch_decode(data, size, &p.dispatch, &detail);
        if (st == FS_OK) st = check_size(exec, &p.dispatch, &detail);
        if (st == FS_OK) on_dispatch(exec, &p);
        break;
    case FS_WIRE_HINT:
        st = fs_hint_decode(data, size, &hint, &detail);
        if (st == FS_OK) fs_exec_on_hint(exec, peer, &hint);
        break;
    default: st = fs_fail(&detail, FS_UNSUPPORTED, "message type %u", type);
    }
    if (st != FS_OK) refuse_peer(exec, peer, st, detail.text);
}

void fs_exec_on_writable(fs_exec *exec, fs_peer *peer)
{
    for (uint32_t i = 0; i < exec->num_slots; i++)
        if (exec->pending[i].blocked && exec->pending[i].peer == peer) answer(exec, &exec->pending[i]);
}

/* Nobody waits any more for experts that only this dispatch waited for. */
static void leave_keys(fs_exec *exec, const fs_dispatch *d)
{
    for (uint32_t g = 0; g < d->num_groups; g++) {
        uint32_t expert, num_rows, key;
        fs_dispatch_group(d, g, &expert, &num_rows);
        if (fs_store_key(exec->store, d->layer, expert, &key) == FS_OK) fs_exec_rows_left(exec, key);
    }
}

/* What runs goes on and is discarded; what waits is taken out. */
void fs_exec_on_down(fs_exec *exec, fs_peer *peer)
{
    fs_exec_router_down(exec, peer);
    for (uint32_t i = 0; i < exec->num_slots; i++) {
        fs_pending *p = &exec->pending[i];
        if (p->peer != peer) continue;
        p->peer = NULL;
        p->blocked = false;
        p->pairs_left -= fs_batcher_drop(exec->batcher, i);
        leave_keys(exec, &p->dispatch);
        if (p->pairs_left == 0) finish(exec, p);
    }
}

/* ---- life ---- */

static fs_status create_parts(fs_exec *exec, uv_loop_t *loop, const fs_exec_options *options)
{
    exec->pending = calloc(exec->num_slots, sizeof(*exec->pending));
    exec->claimed = calloc(fs_store_num_experts(exec->store), sizeof(*exec->claimed));
    if (!exec->pending || !exec->claimed) return FS_NO_MEMORY;
    exec->free_slot = NO_SLOT;
    for (uint32_t i = exec->num_slots; i-- > 0;) {
        exec->pending[i].next_free = exec->free_slot;
        exec->free_slot = i;
    }
    fs_status st = fs_batcher_create(fs_store_num_experts(exec->store), exec->num_slots, options->queue_rows,
                                     options->queue_rows, &exec->batcher);
    return st == FS_OK ? fs_exec_create_jobs(exec, loop) : st;
}

fs_status fs_exec_create(uv_loop_t *loop, const fs_exec_options *options, fs_exec **out)
{
    fs_exec *exec = calloc(1, sizeof(*exec));
    if (!exec) return FS_NO_MEMORY;
    exec->port = options->port;
    exec->store = options->store;
    exec->config = fs_store_config(options->store);
    exec->fingerprint = fs_store_fingerprint(options->store);
    exec->max_message = options->max_message;
    exec->threads = options->threads;
    exec->numa = options->numa;
    exec->inline_ns = options->inline_ns;
    exec->split_ns = options->split_ns;
    exec->device = options->device;
    FS_ASSERT(uv_idle_init(loop, &exec->begin) == 0);
    exec->begin.data = exec;
    exec->num_slots = options->queue_dispatches;
    fs_status st = create_parts(exec, loop, options);
    fs_store_on_key(exec->store, on_key, exec);
    if (st != FS_OK) {
        fs_exec_destroy(exec);
        return st;
    }
    *out = exec;
    return FS_OK;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void fs_exec_destroy(fs_exec *exec)
{
    if (!exec) return;
    fs_exec_destroy_jobs(exec);
    for (uint32_t i = 0; exec->pending && i < exec->num_slots; i++) {
        if (!exec->pending[i].block) continue;
        exec->port->release(exec->pending[i].kept);
        free(exec->pending[i].block);
    }
    fs_store_on_key(exec->store, NULL, NULL);
    for (uint32_t key = 0; exec->claimed && key < fs_store_num_experts(exec->store); key++)
        if (exec->claimed[key]) fs_store_unclaim(exec->store, key);
    fs_batcher_destroy(exec->batcher);
    free(exec->pending);
    free(exec->claimed);
    uv_close((uv_handle_t *)&exec->begin, on_closed);
}

void fs_exec_when_idle(fs_exec *exec, void (*idle)(void *arg), void *arg)
{
    exec->idle = idle;
    exec->idle_arg = arg;
    tell_idle(exec);
}

void fs_exec_get_stats(const fs_exec *exec, fs_exec_stats *out)
{
    *out = exec->stats;
    out->pending = exec->num_pending;
    out->queued_rows = fs_batcher_num_rows(exec->batcher);
}
