/* coordinator/store.c: what happened is on disk before it is told to anybody. One save at a time, by a worker thread; what happens meanwhile
 * goes into the next one. A store that cannot be written is a problem that Status shows; the cluster goes on. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator.h"
#include "rpc/message.h"

static const char KEY_CLUSTER[] = "cluster", KEY_ASSIGNMENT[] = "assignment";

struct fs_reply {
    fs_reply *next;
    fs_rpc_call *call; /* NULL: the caller has left */
    uint8_t *message;
    size_t size;
};

struct fs_save {
    fs_job job; /* first */
    fs_coordinator *co;
    unsigned bits;
    fs_buffer cluster, assignment;
    uint8_t *placement;
    size_t placement_size;
    uint64_t epoch;
    fs_reply *replies;
    fs_status status;
    fs_detail detail;
};

/* ---- replies ---- */

static void on_reply_call_end(void *arg, fs_rpc_call *call, bool cancelled)
{
    ((fs_reply *)arg)->call = NULL;
}

static void send_reply(fs_reply *reply)
{
    if (reply->call) {
        fs_rpc_call_on_end(reply->call, NULL, NULL);
        fs_status st = fs_rpc_call_send(reply->call, reply->message, reply->size);
        fs_rpc_call_finish(reply->call, fs_rpc_code_of(st), NULL);
    }
    free(reply->message);
    free(reply);
}

static void send_replies(fs_reply **list)
{
    while (*list) {
        fs_reply *reply = *list;
        *list = reply->next;
        send_reply(reply);
    }
}

void fs_store_reply(fs_coordinator *co, fs_rpc_call *call, const ProtobufCMessage *message)
{
    fs_reply *reply = calloc(1, sizeof(*reply));
    if (!reply || fs_message_pack(message, &reply->message, &reply->size) != FS_OK) {
        free(reply);
        fs_rpc_call_finish(call, FS_RPC_RESOURCE_EXHAUSTED, "no memory");
        return;
    }
    reply->call = call;
    fs_rpc_call_on_end(call, on_reply_call_end, reply);
    fs_reply **end = &co->replies;
    while (*end) end = &(*end)->next;
    *end = reply;
}

/* ---- one save ---- */

static void free_save(fs_save *save)
{
    if (!save) return;
    fs_buffer_free(&save->cluster);
    fs_buffer_free(&save->assignment);
    free(save->placement);
    send_replies(&save->replies);
    free(save);
}

/* Everything that the thread needs, as it is now. NULL: no memory. */
static fs_save *make_save(fs_coordinator *co)
{
    fs_save *save = calloc(1, sizeof(*save));
    if (!save) return NULL;
    save->co = co;
    save->bits = co->unsaved;
    save->epoch = co->cluster.epoch;
    fs_cluster_save(&co->cluster, &save->cluster);
    if (save->bits & FS_CLUSTER_STORE_ASSIGNMENT) fs_cluster_save_assignment(&co->cluster, &save->assignment);
    fs_status st = save->cluster.failed || save->assignment.failed ? FS_NO_MEMORY : FS_OK;
    if (st == FS_OK && (save->bits & FS_CLUSTER_PUBLISH))
        st = fs_watch_pack(&co->cluster, &save->placement, &save->placement_size);
    if (st != FS_OK) {
        free_save(save);
        return NULL;
    }
    save->replies = co->replies;
    co->replies = NULL;
    co->unsaved = 0;
    return save;
}

static void run_save(fs_job *job)
{
    fs_save *save = (fs_save *)job;
    const fs_kv_put puts[] = {{KEY_CLUSTER, save->cluster.data, save->cluster.size},
                              {KEY_ASSIGNMENT, save->assignment.data, save->assignment.size}};
    save->status = fs_kv_write(save->co->kv, puts, save->bits & FS_CLUSTER_STORE_ASSIGNMENT ? 2 : 1,
                               &save->detail);
}

/* Whether it was written. */
static bool take_result(fs_coordinator *co, const fs_save *save)
{
    bool written = save->status == FS_OK;
    if (!written && !co->store_problem.text[0])
        fs_log_error("store_failed", "cause=\"%s\"", save->detail.text);
    if (written && co->store_problem.text[0])
        fs_log_info("store_works_again", "data=\"%s\"", co->options.data);
    co->store_problem = save->detail;
    if (!written)
        co->unsaved |= save->bits & ~(unsigned)FS_CLUSTER_PUBLISH; /* tried again with the next tick */
    return written;
}

static void on_saved(fs_job *job)
{
    fs_save *save = (fs_save *)job;
    fs_coordinator *co = save->co;
    co->save = NULL;
    bool written = take_result(co, save);
    if (save->placement) {
        fs_watch_publish(co, save->placement, save->placement_size, save->epoch);
        save->placement = NULL;
    }
    free_save(save); /* and replies */
    if (written) fs_store_begin(co);
}

void fs_store_begin(fs_coordinator *co)
{
    if (co->save || co->stopping || (!co->unsaved && !co->replies)) return;
    co->save = make_save(co);
    if (!co->save) {
        fs_log_error("store_failed", "cause=\"no memory\""); /* tried again with the next tick */
        return;
    }
    co->save->job.run = run_save;
    co->save->job.done = on_saved;
    fs_worker_post(co->saver, &co->save->job);
}

/* ---- begin and end ---- */

static fs_status save_now(fs_coordinator *co, fs_detail *detail)
{
    fs_save *save = make_save(co);
    if (!save) return FS_NO_MEMORY;
    run_save(&save->job);
    fs_status st = save->status;
    if (detail) *detail = save->detail;
    if (save->placement) {
        fs_watch_publish(co, save->placement, save->placement_size, save->epoch);
        save->placement = NULL;
    }
    free_save(save);
    return st;
}

static fs_status load(fs_coordinator *co, fs_detail *detail)
{
    fs_buffer cluster = {0}, assignment = {0};
    fs_status st = fs_kv_get(co->kv, KEY_CLUSTER, &cluster, detail);
    bool is_new = st == FS_NOT_FOUND;
    if (st == FS_OK) st = fs_kv_get(co->kv, KEY_ASSIGNMENT, &assignment, detail);
    if (st == FS_NOT_FOUND) st = FS_OK;
    if (st == FS_OK && !is_new)
        st = fs_cluster_load(&co->cluster, cluster.data, cluster.size, assignment.data, assignment.size,
                             fs_clock_now(fs_clock_system()), detail);
    if (st != FS_OK) st = fs_fail_in(detail, st, "--data %s", co->options.data);
    if (st == FS_OK && !is_new)
        fs_log_info("cluster_restored", "members=%u epoch=%llu placed=%u", co->cluster.num_members,
                    (unsigned long long)co->cluster.epoch, co->cluster.num_placed);
    fs_buffer_free(&cluster);
    fs_buffer_free(&assignment);
    return st;
}

fs_status fs_store_open(fs_coordinator *co, fs_detail *detail)
{
    fs_status st = fs_kv_open(co->options.data, &co->kv, detail);
    if (st != FS_OK) return fs_fail_in(detail, st, "--data");
    st = load(co, detail);
    if (st != FS_OK) return st;
    st = fs_worker_create(&co->loop, "store", 1, &co->saver);
    if (st != FS_OK) return fs_fail(detail, st, "cannot start a thread");
    *detail = (fs_detail){0};
    co->unsaved = fs_cluster_take_changes(&co->cluster) | FS_CLUSTER_STORE | FS_CLUSTER_PUBLISH;
    return save_now(co, detail);
}

void fs_store_close(fs_coordinator *co)
{
    fs_worker_destroy(co->saver); /* waits for a save that runs; none begins any more */
    co->saver = NULL;
    if (co->save) co->unsaved |= co->save->bits; /* it may not have been begun */
    free_save(co->save);
    co->save = NULL;
    fs_detail detail = {0};
    if (co->kv && co->unsaved && save_now(co, &detail) != FS_OK)
        fs_log_error("store_failed", "cause=\"%s\"", detail.text);
    send_replies(&co->replies);
    fs_kv_close(co->kv);
    co->kv = NULL;
    free(co->published);
    co->published = NULL;
}
