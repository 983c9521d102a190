#include "node_helper.h"

#include <stdio.h>

int64_t node_now(void)
{
    return (int64_t)uv_hrtime();
}

static void on_wake(uv_timer_t *timer)
{
    (void)timer;
}

void node_step(uv_loop_t *loop)
{
    uv_timer_t *timer = malloc(sizeof(*timer));
    uv_timer_init(loop, timer);
    uv_timer_start(timer, on_wake, 5, 0);
    uv_run(loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)timer, (uv_close_cb)free);
}

void node_run_for(uv_loop_t *loop, int64_t ns)
{
    for (int64_t end = node_now() + ns; node_now() < end;) node_step(loop);
}

static void on_up(void *arg, fs_peer *peer)
{
    node *n = arg;
    n->ups++;
    n->peer = peer;
    snprintf(n->peer_name, sizeof(n->peer_name), "%s", fs_peer_name(peer));
    assert_true(fs_peer_is_up(peer));
}

static void on_down(void *arg, fs_peer *peer, fs_status why, const char *text)
{
    node *n = arg;
    n->downs++;
    n->why = why;
    snprintf(n->text, sizeof(n->text), "%s", text);
    if (n->peer == peer) n->peer = NULL;
    assert_false(fs_peer_is_up(peer));
}

enum {
    PATTERN = 4096
}; /* every so many bytes a stamp of number and place; between them one byte: quick to make and to check */

static uint64_t stamp(uint64_t number, size_t at)
{
    return at == 0 ? number : number * 0x9e3779b97f4a7c15u + at;
}

static void fill(uint8_t *data, uint64_t number, size_t size)
{
    memset(data, (int)(number % 251), size);
    for (size_t at = 0; at + 8 <= size; at += PATTERN) {
        uint64_t s = stamp(number, at);
        memcpy(data + at, &s, 8);
    }
}

static bool matches(const uint8_t *data, uint64_t number, size_t size)
{
    uint8_t want[PATTERN];
    memset(want, (int)(number % 251), sizeof(want));
    for (size_t at = 0; at < size; at += PATTERN) {
        size_t part = size - at < PATTERN ? size - at : PATTERN;
        uint64_t s = stamp(number, at);
        if (part >= 8)
            memcpy(want, &s, 8);
        else
            memset(want, (int)(number % 251), 8);
        if (memcmp(data + at, want, part) != 0) return false;
    }
    return true;
}

static void on_message(void *arg, fs_peer *peer, uint16_t type, const uint8_t *data, size_t size)
{
    node *n = arg;
    assert_int_equal((uintptr_t)data % 8, 0);
    n->messages++;
    n->bytes += size;
    if (!matches(data, n->next++, size)) n->in_order = false;
    if (n->echo) {
        fs_slice part = {data, size};
        assert_int_equal(fs_fabric_send(peer, type, &part, 1, NULL), FS_OK);
    }
    if (n->keep) n->kept[n->num_kept++] = fs_fabric_keep(peer);
    if (n->on_message) n->on_message(n, type, data, size);
}

static void on_writable(void *arg, fs_peer *peer)
{
    ((node *)arg)->writable++;
}

void node_init(node *n, const char *name)
{
    *n = (node){.in_order = true};
    fs_fabric_options_init(&n->options);
    n->options.name = name;
    memset(n->options.key, 7, sizeof(n->options.key));
    n->options.handlers = (fs_fabric_handlers){on_up, on_down, on_message, on_writable, n};
}

void node_start(node *n, uv_loop_t *loop)
{
    fs_detail detail = {0};
    if (fs_fabric_create(loop, &n->options, &n->fabric, &detail) != FS_OK) fail_msg("%s", detail.text);
}

void node_listen(node *n, const char *address)
{
    fs_detail detail = {0};
    if (fs_fabric_listen(n->fabric, address, n->address, &detail) != FS_OK) fail_msg("%s", detail.text);
}

void node_connect(node *n, const char *address)
{
    fs_detail detail = {0};
    fs_peer *peer;
    if (fs_fabric_connect(n->fabric, address, n, &peer, &detail) != FS_OK) fail_msg("%s", detail.text);
    assert_ptr_equal(fs_peer_user(peer), n);
    assert_string_equal(fs_peer_name(peer), "");
}

fs_status node_send(node *n, uint64_t number, size_t size)
{
    uint8_t *data = malloc(size);
    fill(data, number, size);
    fs_slice parts[2] = {{data, size / 2}, {data + size / 2, size - size / 2}};
    fs_status st = n->peer ? fs_fabric_send(n->peer, 20, parts, 2, NULL) : FS_UNAVAILABLE;
    free(data);
    return st;
}

fs_status node_send_owned(node *n, uint64_t number, size_t size)
{
    uint8_t *data = malloc(size);
    fill(data, number, size);
    fs_slice part = {data, size};
    fs_status st = fs_fabric_send(n->peer, 20, &part, 1, data);
    if (st != FS_OK) free(data);
    return st;
}

static void on_closed(void *arg)
{
    ((node *)arg)->closed = true;
}

void node_stop(node *n, uv_loop_t *loop)
{
    for (uint32_t i = 0; i < n->num_kept; i++) fs_fabric_release(n->kept[i]);
    n->num_kept = 0;
    fs_fabric_close(n->fabric, on_closed, n);
    RUN_UNTIL(loop, n->closed);
    n->fabric = NULL;
}
