/* common/fabric/fabric.c: the fabric as a whole, and what can be asked of it and of a peer. */
#include <malloc.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fabric/fabric_int.h"

void fs_fabric_options_init(fs_fabric_options *options)
{
    *options = (fs_fabric_options){.max_message = 64u << 20,
                                   .credits = 64,
                                   .queue_bytes = 256u << 20,
                                   .connect_ns = 5 * FS_NS_PER_S,
                                   .ping_ns = 200 * FS_NS_PER_MS,
                                   .silent_ns = 2 * FS_NS_PER_S,
                                   .spin_ns = 20000};
}

static fs_status check_options(const fs_fabric_options *o, fs_detail *detail)
{
    if (!o->name || !fs_name_is_valid(o->name, strlen(o->name)))
        return fs_fail(detail, FS_INVALID,
                       "fabric: name '%.80s' must be 1 to %u printable characters, no spaces",
                       o->name ? o->name : "", FS_FABRIC_NAME_MAX);
    if (o->credits == 0 || o->credits > FS_CREDITS_MAX)
        return fs_fail(detail, FS_INVALID, "fabric: credits %u are not in 1..%u", o->credits, FS_CREDITS_MAX);
    if (o->max_message == 0 || o->max_message > FS_MAX_MESSAGE_MAX)
        return fs_fail(detail, FS_INVALID, "fabric: max_message %zu is not in 1..2^40", o->max_message);
    if (o->ping_ns <= 0 || o->silent_ns <= o->ping_ns || o->connect_ns <= 0 || o->spin_ns < 0)
        return fs_fail(detail, FS_INVALID,
                       "fabric: needs 0 < ping_ns < silent_ns, 0 < connect_ns, 0 <= spin_ns");
    return FS_OK;
}

/* A message is a block or two, taken and given back. By default malloc returns the top of its heap to the system at 128 KiB and maps
 * larger blocks one by one: half of the time of 32 messages of 17 KiB in flight went to page faults. */
static void keep_freed_memory(void)
{
    if (getenv("GLIBC_TUNABLES")) return;
    if (!getenv("MALLOC_MMAP_THRESHOLD_")) mallopt(M_MMAP_THRESHOLD, 4 << 20);
    if (!getenv("MALLOC_TRIM_THRESHOLD_")) mallopt(M_TRIM_THRESHOLD, 64 << 20);
}

fs_status fs_fabric_create(uv_loop_t *loop, const fs_fabric_options *options, fs_fabric **out,
                           fs_detail *detail)
{
    fs_status st = check_options(options, detail);
    if (st != FS_OK) return st;
    if (sodium_init() < 0) return fs_fail(detail, FS_UNAVAILABLE, "libsodium: no randomness");
    fs_fabric *fabric = calloc(1, sizeof(*fabric));
    if (!fabric) return fs_fail(detail, FS_NO_MEMORY, "fabric: no memory");
    fabric->loop = loop;
    fabric->options = *options;
    memcpy(fabric->name, options->name, strlen(options->name));
    fabric->options.name = fabric->name;
    fabric->ready_tail = &fabric->ready_head;
    keep_freed_memory();
    st = fs_ucx_probe(fabric, detail);
    if (st != FS_OK) {
        free(fabric);
        return st;
    }
    fs_spin_init(&fabric->spin, options->spin_ns);
    fs_loop_init(fabric);
    *out = fabric;
    return FS_OK;
}

void fs_fabric_close(fs_fabric *fabric, void (*done)(void *arg), void *arg)
{
    if (!fabric || fabric->closing) return;
    fabric->closing = true;
    fabric->done = done;
    fabric->done_arg = arg;
    fabric->close_deadline_ns = fs_fabric_now() + FS_FABRIC_CLOSE_MS * FS_NS_PER_MS;
    fs_listen_stop(fabric);
    for (fs_peer *peer = fabric->peers; peer; peer = peer->next)
        fs_peer_fail(peer, FS_CANCELLED, "the fabric was closed");
    if (fabric->worker)
        fs_loop_timer(fabric);
    else
        fs_loop_finish(fabric);
}

const char *fs_peer_name(const fs_peer *peer)
{
    /* Before the proof it is what somebody claims. */
    return peer->state == FS_PEER_UP || peer->was_up ? peer->theirs.name : "";
}

const char *fs_peer_address(const fs_peer *peer)
{
    return peer->address;
}

void *fs_peer_user(const fs_peer *peer)
{
    return peer->user;
}

void fs_peer_set_user(fs_peer *peer, void *user)
{
    peer->user = user;
}

bool fs_peer_is_up(const fs_peer *peer)
{
    return peer->state == FS_PEER_UP;
}

void fs_peer_close(fs_peer *peer)
{
    fs_peer_fail(peer, FS_CANCELLED, "closed");
}

void fs_fabric_get_stats(const fs_fabric *fabric, fs_fabric_stats *out)
{
    *out = fabric->stats;
}
