/* What the executor promises: every dispatch is answered once and rightly, whatever else runs, fails or leaves. The fabric is a
 * fake: peers are marks, results are collected. Rows are compared with the expert run alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/random.h"
#include "exec/exec.h"
#include "fabric/wire.h"

#define DEMO FS_SOURCE_DIR "/models/demo"
enum { HIDDEN = 256, EXPERTS = 32, LAYERS = 6, MAX_RESULTS = 512, MAX_MESSAGE = 4 << 20 };

/* A result as it was sent: borrowed block, freed in tear_down. */
typedef struct {
    fs_peer *peer;
    uint8_t *block;
    fs_result result;
} sent;

static struct {
    uv_loop_t loop;
    uv_timer_t tick;
    fs_store *store;
    fs_exec *exec;
    sent sent[MAX_RESULTS];
    uint32_t num_sent, kept, closed, idle;
    bool full; /* the port answers FS_EXHAUSTED */
    fs_offload *device;
} rig;

static char marks[4];
#define PEER(i) ((fs_peer *)&marks[i])

static fs_status fake_send(fs_peer *peer, uint8_t *block, size_t size)
{
    fs_detail detail = {0};
    if (rig.full) return FS_EXHAUSTED;
    assert_true(rig.num_sent < MAX_RESULTS);
    sent *s = &rig.sent[rig.num_sent++];
    s->peer = peer;
    s->block = block;
    if (fs_result_decode(block, size, &s->result, &detail) != FS_OK) fail_msg("%s", detail.text);
    return FS_OK;
}

static fs_kept *fake_keep(fs_peer *peer)
{
    rig.kept++;
    return (fs_kept *)peer;
}

static void fake_release(fs_kept *kept)
{
    assert_non_null(kept);
    rig.kept--;
}

static void fake_close(fs_peer *peer)
{
    rig.closed++;
}

static const fs_exec_port fake = {fake_send, fake_keep, fake_release, fake_close};

static void on_tick(uv_timer_t *timer)
{
}

/* Holds all experts of the even layers, in memory for so many bytes (0: no limit). */
static int set_up_with(uint64_t memory_bytes)
{
    static uint8_t wanted[LAYERS * EXPERTS];
    fs_detail detail = {0};
    memset(&rig, 0, sizeof(rig));
    uv_loop_init(&rig.loop);
    uv_timer_init(&rig.loop, &rig.tick);
    uv_timer_start(&rig.tick, on_tick, 5, 5);
    fs_store_options options = {
        .dir = DEMO, .memory_bytes = memory_bytes, .policy = FS_CACHE_LOOKAHEAD, .load_threads = 2};
    if (fs_store_create(&rig.loop, &options, &rig.store, &detail) != FS_OK) fail_msg("%s", detail.text);
    for (int i = 0; i < LAYERS * EXPERTS; i++) wanted[i] = i / EXPERTS % 2 == 0;
    fs_store_assign(rig.store, 3, wanted);
    fs_store_stats stats;
    int64_t deadline = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    for (fs_store_get_stats(rig.store, &stats); stats.ready_epoch != 3;
         fs_store_get_stats(rig.store, &stats)) {
        assert_true(fs_clock_now(fs_clock_system()) < deadline);
        uv_run(&rig.loop, UV_RUN_ONCE);
    }
    return 0;
}

static int set_up(void **state)
{
    return set_up_with(0);
}

/* Of 96 experts of some 25 KB about 8 are in memory. */
enum { LITTLE_MEMORY = 210000 };
static int set_up_little(void **state)
{
    return set_up_with(LITTLE_MEMORY);
}

static int tear_down(void **state)
{
    fs_exec_destroy(rig.exec);
    fs_offload_destroy(rig.device);
    assert_int_equal(rig.kept, 0);
    fs_store_destroy(rig.store);
    uv_close((uv_handle_t *)&rig.tick, NULL);
    uv_run(&rig.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&rig.loop), 0);
    for (uint32_t i = 0; i < rig.num_sent; i++) free(rig.sent[i].block);
    return 0;
}

static void start_split(uint32_t threads, uint32_t queue_rows, uint32_t queue_dispatches, uint64_t inline_ns,
                        uint64_t split_ns)
{
    fs_exec_options options = {.port = &fake,
                               .store = rig.store,
                               .threads = threads,
                               .queue_rows = queue_rows,
                               .queue_dispatches = queue_dispatches,
                               .inline_ns = inline_ns,
                               .split_ns = split_ns,
                               .device = rig.device,
                               .max_message = MAX_MESSAGE};
    assert_int_equal(fs_exec_create(&rig.loop, &options, &rig.exec), FS_OK);
}

static void start_with(uint32_t threads, uint32_t queue_rows, uint32_t queue_dispatches, uint64_t inline_ns)
{
    start_split(threads, queue_rows, queue_dispatches, inline_ns, 0);
}

/* Threads compute everything. */
static void start(uint32_t threads, uint32_t queue_rows, uint32_t queue_dispatches)
{
    start_with(threads, queue_rows, queue_dispatches, 0);
}

/* ---- dispatches ---- */

typedef struct {
    uint64_t id;
    uint32_t layer, num_rows, num_groups, expert[EXPERTS], count[EXPERTS], pair[4096], num_pairs;
    fs_buffer message;
    fs_dispatch decoded;
} dispatch;

static void add_group(dispatch *d, uint32_t expert, uint32_t count, fs_random *random)
{
    d->expert[d->num_groups] = expert;
    d->count[d->num_groups++] = count;
    for (uint32_t i = 0; i < count; i++) d->pair[d->num_pairs++] = fs_random_below(random, d->num_rows);
}

static void encode(dispatch *d, uint64_t fingerprint, float scale, fs_random *random)
{
    int8_t *rows = calloc(d->num_rows, HIDDEN);
    const int8_t **row = calloc(d->num_rows, sizeof(*row));
    float *scales = calloc(d->num_rows, sizeof(*scales));
    for (uint32_t r = 0; r < d->num_rows; r++) {
        row[r] = rows + r * HIDDEN;
        scales[r] = scale * (1 + fs_random_unit(random));
        for (int i = 0; i < HIDDEN; i++)
            rows[r * HIDDEN + i] = (int8_t)((int)fs_random_below(random, 255) - 127);
    }
    const fs_dispatch_source source = {.id = d->id,
                                       .epoch = 1,
                                       .fingerprint = fingerprint,
                                       .layer = d->layer,
                                       .hidden_size = HIDDEN,
                                       .num_rows = d->num_rows,
                                       .num_groups = d->num_groups,
                                       .num_pairs = d->num_pairs,
                                       .row_format = FS_ROWS_I8,
                                       .expert = d->expert,
                                       .count = d->count,
                                       .pair = d->pair,
                                       .scale = scales,
                                       .row_i8 = row};
    assert_int_equal(fs_dispatch_encode(&source, &d->message), FS_OK);
    assert_int_equal(fs_dispatch_decode(d->message.data, d->message.size, &d->decoded, NULL), FS_OK);
    free(rows);
    free(row);
    free(scales);
}

static dispatch *make(uint64_t id, uint32_t layer, uint32_t num_groups, uint32_t rows_each, fs_random *random)
{
    dispatch *d = calloc(1, sizeof(*d));
    *d = (dispatch){.id = id, .layer = layer, .num_rows = 7};
    for (uint32_t g = 0; g < num_groups; g++) add_group(d, g * 2, rows_each, random);
    return d;
}

static dispatch *ready(uint64_t id, uint32_t layer, uint32_t num_groups, uint32_t rows_each,
                       fs_random *random)
{
    dispatch *d = make(id, layer, num_groups, rows_each, random);
    encode(d, fs_store_fingerprint(rig.store), 0.01f, random);
    return d;
}

static void give(const dispatch *d, fs_peer *peer)
{
    fs_exec_on_message(rig.exec, peer, FS_WIRE_DISPATCH, d->message.data, d->message.size);
}

static void end(dispatch *d)
{
    fs_buffer_free(&d->message);
    free(d);
}

static void wait_sent(uint32_t count)
{
    int64_t deadline = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    while (rig.num_sent < count) {
        assert_true(fs_clock_now(fs_clock_system()) < deadline);
        uv_run(&rig.loop, UV_RUN_ONCE);
    }
}

static const sent *result_of(const dispatch *d)
{
    const sent *found = NULL;
    for (uint32_t i = 0; i < rig.num_sent; i++) {
        if (rig.sent[i].result.id != d->id) continue;
        assert_null(found); /* answered once */
        found = &rig.sent[i];
    }
    assert_non_null(found);
    assert_int_equal(found->result.num_pairs, d->num_pairs);
    assert_int_equal(found->result.num_groups, d->num_groups);
    return found;
}

static fs_wire_status group_status(const dispatch *d, uint32_t group)
{
    uint32_t expert;
    fs_wire_status status;
    fs_result_group(&result_of(d)->result, group, &expert, &status);
    assert_int_equal(expert, d->expert[group]);
    return status;
}

/* In little memory it has to be brought. */
static void acquire(uint32_t key, fs_held **held)
{
    bool ready;
    int64_t deadline = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    assert_int_equal(fs_store_claim(rig.store, FS_CACHE_NO_ROUTER, key, &ready), FS_OK);
    fs_store_go(rig.store);
    while (fs_store_acquire(rig.store, key, held) != FS_OK) {
        assert_true(fs_clock_now(fs_clock_system()) < deadline);
        uv_run(&rig.loop, UV_RUN_ONCE);
    }
    fs_store_unclaim(rig.store, key);
}

/* The expert alone, row by row. */
static void compute_alone(const dispatch *d, uint32_t expert, uint32_t row, float out[HIDDEN])
{
    uint32_t key;
    fs_held *held;
    assert_int_equal(fs_store_key(rig.store, d->layer, expert, &key), FS_OK);
    acquire(key, &held);
    const int8_t *x = d->decoded.row_i8 + (size_t)row * d->decoded.row_stride;
    const fs_expert_rows rows = {.num_rows = 1, .x_i8 = &x, .x_scale = &d->decoded.scale[row], .out = &out};
    void *scratch = fs_alloc_aligned(fs_expert_scratch_bytes(fs_held_expert(held), 1));
    fs_expert_run(fs_held_expert(held), &rows, scratch, NULL);
    free(scratch);
    fs_store_release(held);
}

static void check_right(const dispatch *d)
{
    const sent *s = result_of(d);
    for (uint32_t g = 0, at = 0; g < d->num_groups; g++) {
        assert_int_equal(group_status(d, g), FS_WIRE_OK);
        for (uint32_t i = 0; i < d->count[g]; i++, at++) {
            float want[HIDDEN];
            compute_alone(d, d->expert[g], d->pair[at], want);
            assert_memory_equal(s->result.row + (size_t)at * HIDDEN, want, sizeof(want));
        }
    }
    assert_int_equal(s->result.epoch, 3);
    assert_true(s->result.compute_ns > 0);
}

/* ---- promises ---- */

static void on_idle(void *arg)
{
    rig.idle++;
}

static uint32_t result_flags(void)
{
    return rig.sent[rig.num_sent - 1].result.flags;
}

static void check_same_bits(uint64_t inline_ns)
{
    fs_random random = {1};
    enum { N = 12 };
    dispatch *d[N];
    start_with(2, 10000, 100, inline_ns);
    dispatch *first = ready(N, 0, 1, 1, &random); /* from here on it is known what a row takes */
    give(first, PEER(2));
    wait_sent(1);
    end(first);
    for (int i = 0; i < N; i++) {
        d[i] = ready((uint64_t)i, i % 3 * 2, 1 + (uint32_t)i, 1 + (uint32_t)i % 4, &random);
        give(d[i], PEER(i % 2));
    }
    wait_sent(N + 1);
    for (int i = 0; i < N; i++) {
        check_right(d[i]);
        assert_ptr_equal(result_of(d[i])->peer, PEER(i % 2));
        end(d[i]);
    }
    fs_exec_stats stats;
    fs_exec_get_stats(rig.exec, &stats);
    assert_int_equal(stats.pending, 0);
    assert_true(stats.batches < stats.rows_computed);
    if (inline_ns) assert_int_equal(stats.jobs, 1); /* the first */
}

static void rows_have_the_same_bits_in_a_batch_as_alone(void **state)
{
    check_same_bits(0);
}

static void little_work_is_done_on_the_loop_with_the_same_bits(void **state)
{
    check_same_bits(UINT64_MAX);
}

static dispatch *large(uint64_t id, uint32_t layer, uint32_t num_groups, fs_random *random)
{
    dispatch *d = make(id, layer, 0, 0, random);
    for (uint32_t g = 0; g < num_groups; g++) add_group(d, g * 3, FS_EXPERT_MAX_ROWS - g * 50, random);
    encode(d, fs_store_fingerprint(rig.store), 0.01f, random);
    return d;
}

static void stop(void)
{
    fs_exec_destroy(rig.exec);
    rig.exec = NULL;
    for (uint32_t i = 0; i < rig.num_sent; i++) free(rig.sent[i].block);
    rig.num_sent = 0;
}

static void open_device(uint64_t fail_after)
{
    fs_gpu_driver *driver = NULL;
    const fs_gpu_emulation emulation = {
        .seed = fail_after, .fail_after = fail_after, .fail_with = FS_UNAVAILABLE};
    const fs_offload_options options = {.num_keys = fs_store_num_experts(rig.store)};
    assert_int_equal(fs_gpu_open_emulated(&emulation, &driver, NULL), FS_OK);
    assert_int_equal(fs_offload_create(driver, &options, &rig.device, NULL), FS_OK);
}

static void a_device_computes_with_the_same_bits(void **state)
{
    fs_exec_stats stats;
    open_device(0);
    check_same_bits(0);
    fs_exec_get_stats(rig.exec, &stats);
    assert_true(stats.batches > 0);
    assert_int_equal(stats.device_batches, stats.batches);
}

static void a_device_that_fails_is_followed_by_the_cpu(void **state)
{
    fs_exec_stats stats;
    open_device(60); /* after it was opened, and while it works */
    check_same_bits(0);
    fs_exec_get_stats(rig.exec, &stats);
    assert_true(stats.device_batches < stats.batches);
}

static void it_can_be_destroyed_while_a_device_runs(void **state)
{
    fs_random random = {6};
    open_device(0);
    start(2, 10000, 100);
    dispatch *d = ready(0, 0, 3, 20, &random);
    give(d, PEER(0));
    uv_run(&rig.loop, UV_RUN_NOWAIT);
    uv_run(&rig.loop, UV_RUN_NOWAIT);
    stop();
    assert_int_equal(rig.kept, 0);
    end(d);
}

/* Three large batches one after the other, each while all threads are idle, then several at once. */
static void a_batch_that_is_divided_over_idle_threads_has_the_same_bits(void **state)
{
    enum { N = 6 };
    for (uint32_t threads = 1; threads <= 4; threads *= 2) {
        fs_random random = {threads};
        dispatch *d[N];
        start_split(threads, 10000, 100, 0, 1);
        for (uint32_t i = 0; i < N; i++) {
            d[i] = large(i, i % 3 * 2, 1 + i / 2, &random);
            give(d[i], PEER(i % 2));
            if (i < 3) wait_sent(i + 1);
        }
        wait_sent(N);
        fs_exec_stats stats;
        fs_exec_get_stats(rig.exec, &stats);
        assert_int_equal(stats.pending, 0);
        if (threads == 1) assert_int_equal(stats.batches_split, 0);
        if (threads > 1) assert_true(stats.batches_split >= 1); /* the second: what a row takes is known */
        for (uint32_t i = 0; i < N; i++) check_right(d[i]), end(d[i]);
        stop();
    }
}

static void it_can_be_destroyed_while_a_divided_batch_runs(void **state)
{
    fs_random random = {5};
    start_split(3, 10000, 100, 0, 1);
    dispatch *d = large(0, 0, 1, &random);
    give(d, PEER(0));
    wait_sent(1);
    give(d, PEER(0));
    uv_run(&rig.loop, UV_RUN_NOWAIT);
    uv_run(&rig.loop, UV_RUN_NOWAIT);
    stop();
    assert_int_equal(rig.kept, 0);
    end(d);
}

static void rows_wait_for_experts_that_are_not_in_memory(void **state)
{
    check_same_bits(0);
    fs_store_stats stats;
    fs_store_get_stats(rig.store, &stats);
    assert_true(stats.cache.misses > 12 && stats.cache.evictions > 12);
    assert_true(stats.bytes_loaded <= LITTLE_MEMORY);
    assert_int_equal(result_flags(), FS_WIRE_WANTS_HINTS);
}

static void a_hint_brings_experts_before_their_rows(void **state)
{
    static const fs_hint_visit visit[] = {{3, 2, 2}, {FS_WIRE_HINT_NEVER, 0, 1}, {4, 77, 1}};
    static const uint16_t expert[] = {4, 9, 1, 0}; /* no layer 77: passed over */
    fs_random random = {14};
    fs_buffer message = {0};
    fs_store_stats stats;
    start(1, 1000, 10);
    const fs_hint_source source = {100, fs_store_fingerprint(rig.store), 3, visit, expert};
    assert_int_equal(fs_hint_encode(&source, &message), FS_OK);
    fs_exec_on_message(rig.exec, PEER(1), FS_WIRE_HINT, message.data, message.size);
    int64_t deadline = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    do {
        assert_true(fs_clock_now(fs_clock_system()) < deadline);
        uv_run(&rig.loop, UV_RUN_ONCE);
        fs_store_get_stats(rig.store, &stats);
    } while (stats.loaded < 2);
    dispatch *d = make(1, 2, 0, 0, &random);
    add_group(d, 4, 1, &random);
    add_group(d, 9, 1, &random);
    encode(d, fs_store_fingerprint(rig.store), 0.01f, &random);
    give(d, PEER(1));
    wait_sent(1);
    fs_store_get_stats(rig.store, &stats);
    assert_int_equal(stats.cache.hits, 2);
    assert_int_equal(stats.cache.misses, 0);
    assert_int_equal(stats.cache.wasted_bytes, 0);
    check_right(d);
    fs_exec_on_down(rig.exec, PEER(1));
    message.data[0] ^= 0x40; /* version */
    fs_exec_on_message(rig.exec, PEER(2), FS_WIRE_HINT, message.data, message.size);
    assert_int_equal(rig.closed, 1);
    fs_buffer_free(&message);
    end(d);
}

static void rows_that_wait_for_an_expert_go_with_their_lost_peer(void **state)
{
    fs_random random = {15};
    dispatch *d[6];
    start(1, 10000, 100);
    for (int i = 0; i < 6; i++) {
        d[i] = ready((uint64_t)i, i % 3 * 2, 16, 2, &random);
        give(d[i], PEER(i % 2));
    }
    fs_exec_on_down(rig.exec, PEER(0));
    fs_exec_when_idle(rig.exec, on_idle, NULL);
    int64_t deadline = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    while (rig.idle == 0) {
        assert_true(fs_clock_now(fs_clock_system()) < deadline);
        uv_run(&rig.loop, UV_RUN_ONCE);
    }
    assert_int_equal(rig.num_sent, 3);
    for (int i = 1; i < 6; i += 2) check_right(d[i]);
    for (int i = 0; i < 6; i++) end(d[i]);
    rig.idle = 0;
}

static void it_can_be_destroyed_while_rows_wait_for_experts(void **state)
{
    fs_random random = {16};
    start(2, 10000, 100);
    dispatch *d = ready(1, 0, 16, 20, &random);
    give(d, PEER(0));
    uv_run(&rig.loop, UV_RUN_NOWAIT);
    fs_exec_destroy(rig.exec);
    rig.exec = NULL;
    end(d);
}

static void an_expert_with_more_rows_than_a_call_takes_several(void **state)
{
    fs_random random = {2};
    start(2, 10000, 100);
    dispatch *d = make(1, 0, 0, 0, &random);
    add_group(d, 4, 3 * FS_EXPERT_MAX_ROWS + 5, &random);
    add_group(d, 9, 2, &random);
    encode(d, fs_store_fingerprint(rig.store), 0.02f, &random);
    give(d, PEER(0));
    wait_sent(1);
    check_right(d);
    end(d);
}

static void experts_that_are_not_held_are_moved_and_the_others_computed(void **state)
{
    fs_random random = {3};
    static uint8_t wanted[LAYERS * EXPERTS];
    start(1, 1000, 10);
    memset(wanted, 0, sizeof(wanted));
    wanted[2] = 1;
    fs_store_assign(rig.store, 3, wanted);
    dispatch *d = ready(1, 0, 2, 3, &random), *whole = ready(2, 1, 2, 1, &random);
    give(d, PEER(0)); /* experts 0 and 2 */
    give(whole, PEER(0));
    wait_sent(2);
    assert_int_equal(group_status(d, 0), FS_WIRE_MOVED);
    assert_int_equal(group_status(d, 1), FS_WIRE_OK);
    static const float zeros[3 * HIDDEN];
    assert_memory_equal(result_of(d)->result.row, zeros, sizeof(zeros));
    assert_int_equal(group_status(whole, 0), FS_WIRE_MOVED);
    assert_int_equal(group_status(whole, 1), FS_WIRE_MOVED);
    end(d);
    end(whole);
}

static void an_expert_dropped_while_its_rows_wait_is_moved(void **state)
{
    fs_random random = {4};
    static const uint8_t none[LAYERS * EXPERTS];
    start(1, 10000, 10);
    dispatch *first = ready(1, 0, 16, 16, &random), *second = ready(2, 2, 4, 2, &random);
    give(first, PEER(0)); /* the one thread has it; the second waits */
    give(second, PEER(0));
    uv_run(&rig.loop, UV_RUN_NOWAIT);
    fs_store_assign(rig.store, 4, none);
    wait_sent(2);
    for (uint32_t g = 0; g < 4; g++) assert_int_equal(group_status(second, g), FS_WIRE_MOVED);
    end(first);
    end(second);
}

static void what_another_model_would_ask_is_invalid(void **state)
{
    fs_random random = {5};
    start(1, 1000, 10);
    dispatch *stranger = make(1, 0, 2, 1, &random), *layer = ready(3, 6, 2, 1, &random);
    encode(stranger, fs_store_fingerprint(rig.store) + 1, 0.01f, &random);
    dispatch *expert = make(4, 0, 0, 0, &random);
    add_group(expert, 5, 1, &random);
    add_group(expert, EXPERTS, 1, &random);
    encode(expert, fs_store_fingerprint(rig.store), 0.01f, &random);
    const dispatch *all[] = {stranger, layer, expert};
    for (int i = 0; i < 3; i++) give(all[i], PEER(0));
    wait_sent(3);
    for (int i = 0; i < 2; i++)
        for (uint32_t g = 0; g < 2; g++) assert_int_equal(group_status(all[i], g), FS_WIRE_INVALID);
    assert_int_equal(group_status(expert, 0), FS_WIRE_OK);
    assert_int_equal(group_status(expert, 1), FS_WIRE_INVALID);
    assert_int_equal(rig.closed, 0);
    end(stranger);
    end(layer);
    end(expert);
}

static void a_message_that_breaks_the_format_closes_its_peer(void **state)
{
    fs_random random = {6};
    start(1, 1000, 10);
    dispatch *d = ready(1, 0, 2, 1, &random);
    fs_exec_on_message(rig.exec, PEER(0), FS_WIRE_DISPATCH, d->message.data, d->message.size - 1);
    fs_exec_on_message(rig.exec, PEER(1), FS_WIRE_RESULT, d->message.data, d->message.size);
    d->message.data[0] ^= 0x40; /* version */
    give(d, PEER(2));
    assert_int_equal(rig.closed, 3);
    assert_int_equal(rig.num_sent, 0);
    end(d);
}

static void a_result_that_could_not_be_sent_is_refused_before_it_is_made(void **state)
{
    fs_random random = {7};
    start(1, 100000, 10);
    dispatch *d = make(1, 0, 0, 0, &random);
    add_group(d, 0, 4096, &random); /* 4096 x 256 float32 = 4 MiB and a header */
    encode(d, fs_store_fingerprint(rig.store), 0.01f, &random);
    give(d, PEER(0));
    assert_int_equal(rig.closed, 1);
    end(d);
}

static void a_full_queue_is_said_so(void **state)
{
    fs_random random = {8};
    start(1, 20, 10);
    dispatch *first = ready(1, 0, 8, 2, &random), *second = ready(2, 0, 11, 2, &random);
    give(second, PEER(0)); /* 22 rows never fit */
    give(first, PEER(0));
    wait_sent(2);
    check_right(first);
    for (uint32_t g = 0; g < 11; g++) assert_int_equal(group_status(second, g), FS_WIRE_EXHAUSTED);
    end(first);
    end(second);
}

static void more_dispatches_than_slots_are_refused_at_once(void **state)
{
    fs_random random = {9};
    dispatch *d[4];
    start(1, 1000, 2);
    for (int i = 0; i < 4; i++) {
        d[i] = ready((uint64_t)i, 0, 2, 1, &random);
        give(d[i], PEER(0));
    }
    wait_sent(4);
    check_right(d[0]);
    check_right(d[1]);
    assert_int_equal(group_status(d[2], 0), FS_WIRE_EXHAUSTED);
    assert_int_equal(group_status(d[3], 1), FS_WIRE_EXHAUSTED);
    for (int i = 0; i < 4; i++) end(d[i]);
}

static void a_result_waits_for_its_peer_and_holds_its_credit(void **state)
{
    fs_random random = {10};
    start(2, 1000, 10);
    rig.full = true;
    dispatch *d = ready(1, 0, 4, 2, &random);
    give(d, PEER(0));
    fs_exec_stats stats;
    do {
        uv_run(&rig.loop, UV_RUN_ONCE);
        fs_exec_get_stats(rig.exec, &stats);
    } while (stats.rows_computed < 8);
    assert_int_equal(rig.num_sent, 0);
    assert_int_equal(rig.kept, 1);
    rig.full = false;
    fs_exec_on_writable(rig.exec, PEER(1));
    assert_int_equal(rig.num_sent, 0);
    fs_exec_on_writable(rig.exec, PEER(0));
    assert_int_equal(rig.num_sent, 1);
    assert_int_equal(rig.kept, 0);
    check_right(d);
    end(d);
}

static void a_lost_peer_takes_its_rows_along_and_nobody_elses(void **state)
{
    fs_random random = {11};
    enum { N = 20 };
    dispatch *d[N];
    start(1, 10000, 100);
    for (int i = 0; i < N; i++) {
        d[i] = ready((uint64_t)i, i % 3 * 2, 8, 4, &random);
        give(d[i], PEER(i % 2));
    }
    uv_run(&rig.loop, UV_RUN_NOWAIT);
    fs_exec_on_down(rig.exec, PEER(0)); /* before a batch came back: its first runs, the rest waits */
    fs_exec_when_idle(rig.exec, on_idle, NULL);
    int64_t deadline = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    while (rig.idle == 0) {
        assert_true(fs_clock_now(fs_clock_system()) < deadline);
        uv_run(&rig.loop, UV_RUN_ONCE);
    }
    uint32_t to_the_other = 0; /* the lost one may have had answers before */
    for (uint32_t i = 0; i < rig.num_sent; i++) to_the_other += rig.sent[i].peer == PEER(1);
    assert_int_equal(to_the_other, N / 2);
    assert_int_equal(rig.kept, 0);
    for (int i = 1; i < N; i += 2) check_right(d[i]);
    for (int i = 0; i < N; i++) end(d[i]);
    assert_int_equal(rig.idle, 1);
}

static void a_blocked_result_goes_with_its_lost_peer(void **state)
{
    fs_random random = {12};
    start(1, 1000, 10);
    rig.full = true;
    dispatch *d = ready(1, 1, 2, 1, &random); /* moved: answered at once, but the peer takes nothing */
    give(d, PEER(0));
    assert_int_equal(rig.kept, 1);
    fs_exec_on_down(rig.exec, PEER(0));
    assert_int_equal(rig.kept, 0);
    end(d);
}

static void it_can_be_destroyed_with_rows_under_way(void **state)
{
    fs_random random = {13};
    enum { N = 8 };
    dispatch *d[N];
    start(2, 10000, 100);
    for (int i = 0; i < N; i++) {
        d[i] = ready((uint64_t)i, 0, 10, 20, &random);
        give(d[i], PEER(0));
        if (i == N / 2) uv_run(&rig.loop, UV_RUN_NOWAIT);
    }
    fs_exec_destroy(rig.exec);
    rig.exec = NULL;
    assert_int_equal(rig.kept, 0);
    for (int i = 0; i < N; i++) end(d[i]);
}

#define TEST(name)        cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define TEST_LITTLE(name) cmocka_unit_test_setup_teardown(name, set_up_little, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rows_have_the_same_bits_in_a_batch_as_alone),
        TEST(little_work_is_done_on_the_loop_with_the_same_bits),
        TEST(a_device_computes_with_the_same_bits),
        TEST(a_device_that_fails_is_followed_by_the_cpu),
        TEST(it_can_be_destroyed_while_a_device_runs),
        TEST(a_batch_that_is_divided_over_idle_threads_has_the_same_bits),
        TEST(it_can_be_destroyed_while_a_divided_batch_runs),
        TEST(an_expert_with_more_rows_than_a_call_takes_several),
        TEST(experts_that_are_not_held_are_moved_and_the_others_computed),
        TEST(an_expert_dropped_while_its_rows_wait_is_moved),
        TEST(what_another_model_would_ask_is_invalid),
        TEST(a_message_that_breaks_the_format_closes_its_peer),
        TEST(a_result_that_could_not_be_sent_is_refused_before_it_is_made),
        TEST(a_full_queue_is_said_so),
        TEST(more_dispatches_than_slots_are_refused_at_once),
        TEST(a_result_waits_for_its_peer_and_holds_its_credit),
        TEST(a_lost_peer_takes_its_rows_along_and_nobody_elses),
        TEST(a_blocked_result_goes_with_its_lost_peer),
        TEST(it_can_be_destroyed_with_rows_under_way),
        TEST_LITTLE(rows_wait_for_experts_that_are_not_in_memory),
        TEST_LITTLE(a_hint_brings_experts_before_their_rows),
        TEST_LITTLE(rows_that_wait_for_an_expert_go_with_their_lost_peer),
        TEST_LITTLE(it_can_be_destroyed_while_rows_wait_for_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
