/* What the store promises: it holds what it is given and no more, refuses what is damaged, and takes nothing away under a user. */
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "model/safetensors.h"
#include "store/store.h"
#include "sub1/files.h"

#define DEMO FS_SOURCE_DIR "/models/demo"
enum { LAYERS = 6, EXPERTS = 32, ALL = LAYERS * EXPERTS };

/* A copy of the demo model whose files are links, so that one of them can be replaced. */
typedef struct {
    char dir[64];
    uv_loop_t loop;
    uv_timer_t tick;
    fs_store *store;
    uint32_t changes, keys_told;
    fs_cache_policy policy;
    uint8_t wanted[ALL];
} fixture;

static const char *const files[] = {"config.json",
                                    "generation_config.json",
                                    "model.safetensors.index.json",
                                    "backbone-00001-of-00001.safetensors",
                                    "experts-layer-00000.safetensors",
                                    "experts-layer-00001.safetensors",
                                    "experts-layer-00002.safetensors",
                                    "experts-layer-00003.safetensors",
                                    "experts-layer-00004.safetensors",
                                    "experts-layer-00005.safetensors"};
enum { NUM_FILES = sizeof(files) / sizeof(*files) };

static void on_tick(uv_timer_t *timer)
{
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    snprintf(f->dir, sizeof(f->dir), "/tmp/store_test_XXXXXX");
    if (!f || !mkdtemp(f->dir)) return -1;
    for (int i = 0; i < NUM_FILES; i++) {
        char from[PATH_MAX], to[128];
        snprintf(from, sizeof(from), "%s/%s", DEMO, files[i]);
        snprintf(to, sizeof(to), "%s/%s", f->dir, files[i]);
        if (symlink(from, to) != 0) return -1;
    }
    uv_loop_init(&f->loop);
    uv_timer_init(&f->loop, &f->tick);
    uv_timer_start(&f->tick, on_tick, 5, 5);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    fs_store_destroy(f->store);
    uv_close((uv_handle_t *)&f->tick, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    for (int i = 0; i < NUM_FILES; i++) {
        char path[128];
        snprintf(path, sizeof(path), "%s/%s", f->dir, files[i]);
        unlink(path);
    }
    rmdir(f->dir);
    free(f);
    return 0;
}

static void on_change(void *arg)
{
    ((fixture *)arg)->changes++;
}

static void open_store(fixture *f, uint64_t memory_bytes)
{
    fs_detail detail = {0};
    fs_store_options options = {.dir = f->dir,
                                .memory_bytes = memory_bytes,
                                .policy = f->policy,
                                .load_threads = 2,
                                .on_change = on_change,
                                .arg = f};
    fs_status st = fs_store_create(&f->loop, &options, &f->store, &detail);
    if (st != FS_OK) fail_msg("%s", detail.text);
}

static fs_store_stats stats_of(const fixture *f)
{
    fs_store_stats stats;
    fs_store_get_stats(f->store, &stats);
    return stats;
}

/* Runs the loop until loads settle: so many loaded and so many failed. */
static void settle(fixture *f, uint32_t loaded, uint32_t failed)
{
    int64_t deadline = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    while (stats_of(f).loaded != loaded || stats_of(f).failed != failed) {
        assert_true(fs_clock_now(fs_clock_system()) < deadline);
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    for (int i = 0; i < 3; i++) uv_run(&f->loop, UV_RUN_ONCE); /* nothing more comes */
    assert_int_equal(stats_of(f).loaded, loaded);
}

static uint32_t key_of(const fixture *f, uint32_t layer, uint32_t expert)
{
    uint32_t key;
    assert_int_equal(fs_store_key(f->store, layer, expert, &key), FS_OK);
    return key;
}

/* Replaces an expert file by a copy with one byte of the tensor changed. */
static void damage(fixture *f, uint32_t layer, uint32_t expert, const char *part, size_t at)
{
    char path[128], name[128];
    fs_detail detail = {0};
    fs_tensors *tensors;
    fs_buffer bytes = {0};
    assert_int_equal(fs_tensors_open(f->dir, &tensors, &detail), FS_OK);
    snprintf(name, sizeof(name), "model.layers.%u.mlp.experts.%u.%s.sub1", layer, expert, part);
    const fs_tensor *t = fs_tensors_find(tensors, name);
    assert_non_null(t);
    snprintf(path, sizeof(path), "%s", fs_tensors_file_path(tensors, t->file));
    assert_int_equal(fs_file_read(path, 1 << 24, &bytes, &detail), FS_OK);
    bytes.data[t->file_offset + at] ^= 1;
    fs_tensors_close(tensors);
    unlink(path);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes.data, 1, bytes.size, out), bytes.size);
    fclose(out);
    fs_buffer_free(&bytes);
}

static void what_is_assigned_is_loaded_and_then_ready(void **state)
{
    fixture *f = *state;
    open_store(f, 0);
    assert_int_equal(fs_store_num_experts(f->store), ALL);
    assert_true(fs_store_fingerprint(f->store) != 0);
    fs_held *held;
    assert_int_equal(fs_store_acquire(f->store, key_of(f, 2, 5), &held), FS_MOVED);
    f->wanted[2 * EXPERTS + 5] = f->wanted[0] = 1;
    fs_store_assign(f->store, 7, f->wanted);
    assert_int_equal(stats_of(f).ready_epoch, 0);
    assert_int_equal(fs_store_acquire(f->store, key_of(f, 2, 5), &held), FS_MOVED); /* not loaded yet */
    settle(f, 2, 0);
    fs_store_stats stats = stats_of(f);
    assert_int_equal(stats.ready_epoch, 7);
    assert_int_equal(stats.bytes_loaded, 2 * fs_store_expert_bytes(f->store));
    assert_string_equal(stats.problem, "");
    assert_true(f->changes >= 2);
    assert_int_equal(fs_store_acquire(f->store, key_of(f, 2, 5), &held), FS_OK);
    assert_int_equal(fs_held_expert(held)->hidden_size, 256);
    fs_store_release(held);
    assert_int_equal(fs_store_acquire(f->store, key_of(f, 2, 6), &held), FS_MOVED);
}

static void experts_that_the_model_has_not_have_no_key(void **state)
{
    fixture *f = *state;
    uint32_t key;
    open_store(f, 0);
    assert_int_equal(fs_store_key(f->store, LAYERS, 0, &key), FS_INVALID);
    assert_int_equal(fs_store_key(f->store, UINT32_MAX, 0, &key), FS_INVALID);
    assert_int_equal(fs_store_key(f->store, 0, EXPERTS, &key), FS_INVALID);
}

static void an_expert_in_use_outlives_its_assignment(void **state)
{
    fixture *f = *state;
    fs_held *held, *again;
    open_store(f, 0);
    f->wanted[3] = 1;
    fs_store_assign(f->store, 1, f->wanted);
    settle(f, 1, 0);
    assert_int_equal(fs_store_acquire(f->store, 3, &held), FS_OK);
    f->wanted[3] = 0;
    f->wanted[4] = 1;
    fs_store_assign(f->store, 2, f->wanted);
    assert_int_equal(fs_store_acquire(f->store, 3, &again), FS_MOVED);
    settle(f, 1, 0);
    assert_int_equal(stats_of(f).ready_epoch, 2);
    assert_int_equal(fs_held_expert(held)->intermediate_size, 384); /* still ours to read */
    fs_store_release(held);
}

static void an_assignment_that_comes_back_is_loaded_again(void **state)
{
    fixture *f = *state;
    fs_held *held;
    open_store(f, 0);
    for (uint64_t epoch = 1; epoch <= 5; epoch++) {
        memset(f->wanted, epoch % 2, sizeof(f->wanted)); /* all, none, all, ... while loads are under way */
        fs_store_assign(f->store, epoch, f->wanted);
        if (epoch % 2) uv_run(&f->loop, UV_RUN_ONCE);
    }
    settle(f, ALL, 0);
    assert_int_equal(stats_of(f).ready_epoch, 5);
    assert_int_equal(stats_of(f).bytes_loaded, ALL * fs_store_expert_bytes(f->store));
    assert_int_equal(fs_store_acquire(f->store, ALL - 1, &held), FS_OK);
    fs_store_release(held);
}

static void a_damaged_expert_is_named_and_never_given_out(void **state)
{
    fixture *f = *state;
    fs_held *held;
    damage(f, 1, 9, "up_proj", 5000);
    open_store(f, 0);
    memset(f->wanted, 1, sizeof(f->wanted));
    fs_store_assign(f->store, 1, f->wanted);
    settle(f, ALL - 1, 1);
    fs_store_stats stats = stats_of(f);
    assert_int_equal(stats.ready_epoch, 0);
    assert_non_null(strstr(stats.problem, "layer 1 expert 9"));
    assert_int_equal(fs_store_acquire(f->store, key_of(f, 1, 9), &held), FS_CORRUPT);
    assert_int_equal(fs_store_acquire(f->store, key_of(f, 1, 8), &held), FS_OK);
    fs_store_release(held);
    f->wanted[EXPERTS + 9] = 0; /* another node has it from now on */
    fs_store_assign(f->store, 2, f->wanted);
    assert_int_equal(stats_of(f).ready_epoch, 2);
    assert_string_equal(stats_of(f).problem, "");
    assert_int_equal(fs_store_acquire(f->store, key_of(f, 1, 9), &held), FS_MOVED);
}

/* ---- with a limit of memory ---- */

static void on_key(void *arg, uint32_t key)
{
    ((fixture *)arg)->keys_told++;
}

static uint64_t size_of_one(fixture *f)
{
    open_store(f, 0);
    uint64_t one = fs_store_expert_bytes(f->store);
    fs_store_destroy(f->store);
    f->store = NULL;
    return one;
}

/* Claims, waits until the expert is there or never will be, and says which. */
static fs_status fetch(fixture *f, uint32_t key, fs_held **held)
{
    bool ready;
    fs_status st = fs_store_claim(f->store, 0, key, &ready);
    if (st != FS_OK) return st;
    fs_store_go(f->store);
    int64_t deadline = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    for (uint32_t told = f->keys_told; !ready && f->keys_told == told; uv_run(&f->loop, UV_RUN_ONCE))
        assert_true(fs_clock_now(fs_clock_system()) < deadline);
    st = fs_store_acquire(f->store, key, held);
    fs_store_unclaim(f->store, key);
    return st;
}

static void open_limited(fixture *f, uint32_t experts)
{
    open_store(f, experts * size_of_one(f));
    fs_store_on_key(f->store, on_key, f);
    memset(f->wanted, 1, sizeof(f->wanted));
    fs_store_assign(f->store, 1, f->wanted);
}

static void what_fits_in_memory_is_read_and_verified_before_ready(void **state)
{
    fixture *f = *state;
    fs_held *held;
    open_limited(f, ALL);
    assert_int_equal(stats_of(f).ready_epoch, 0);
    settle(f, ALL, 0);
    assert_int_equal(stats_of(f).ready_epoch, 1);
    assert_int_equal(stats_of(f).bytes_loaded, ALL * fs_store_expert_bytes(f->store));
    assert_false(fs_store_wants_hints(f->store));
    assert_int_equal(fs_store_acquire(f->store, 77, &held), FS_OK);
    fs_store_release(held);
}

static void what_does_not_fit_is_served_and_read_when_it_is_asked_for(void **state)
{
    fixture *f = *state;
    for (int policy = 0; policy < FS_CACHE_NUM_POLICIES; policy++) {
        f->policy = (fs_cache_policy)policy;
        open_limited(f, 5);
        assert_int_equal(stats_of(f).ready_epoch, 1);
        assert_string_equal(stats_of(f).problem, "");
        assert_int_equal(stats_of(f).loaded, 0);
        assert_int_equal(fs_store_wants_hints(f->store), policy == FS_CACHE_LOOKAHEAD);
        for (uint32_t i = 0; i < 60; i++) {
            fs_held *held;
            assert_int_equal(fetch(f, i * 37 % ALL, &held), FS_OK);
            assert_int_equal(fs_held_expert(held)->hidden_size, 256);
            assert_true(stats_of(f).bytes_loaded <= 5 * fs_store_expert_bytes(f->store));
            fs_store_release(held);
        }
        fs_cache_stats cache = stats_of(f).cache;
        assert_int_equal(cache.hits + cache.misses, 60);
        assert_int_equal(cache.loads, cache.misses);
        assert_int_equal(cache.loaded_bytes, cache.misses * fs_store_expert_bytes(f->store));
        fs_store_destroy(f->store);
        f->store = NULL;
    }
}

static void what_is_announced_is_there_when_it_is_asked_for(void **state)
{
    fixture *f = *state;
    f->policy = FS_CACHE_LOOKAHEAD;
    open_limited(f, 8);
    int64_t soon = fs_clock_now(fs_clock_system()) + 100 * FS_NS_PER_MS;
    for (uint32_t key = 40; key < 46; key++) fs_store_hint(f->store, 3, key, soon);
    fs_store_go(f->store);
    settle(f, 6, 0);
    bool ready;
    assert_int_equal(fs_store_claim(f->store, 3, 44, &ready), FS_OK);
    assert_true(ready);
    fs_store_unclaim(f->store, 44);
    assert_int_equal(stats_of(f).cache.prefetches, 6);
    fs_store_hint(f->store, 3, 90, soon);
    fs_store_router_lost(f->store, 3);
    fs_store_go(f->store);
    assert_int_equal(stats_of(f).cache.loading, 0);
}

static void a_damaged_expert_is_refused_when_it_is_asked_for(void **state)
{
    fixture *f = *state;
    fs_held *held;
    damage(f, 1, 9, "up_proj", 5000);
    open_limited(f, 20);
    assert_int_equal(fetch(f, key_of(f, 1, 9), &held), FS_CORRUPT);
    assert_int_equal(fetch(f, key_of(f, 1, 9), &held), FS_CORRUPT);
    assert_non_null(strstr(stats_of(f).problem, "layer 1 expert 9"));
    assert_int_equal(fetch(f, key_of(f, 1, 8), &held), FS_OK);
    fs_store_release(held);
}

/* Nothing of it is mapped: no signal comes, whatever becomes of the file. */
static void a_file_that_was_truncated_is_refused_when_it_is_asked_for(void **state)
{
    fixture *f = *state;
    fs_held *held;
    char path[128];
    damage(f, 2, 0, "up_proj", 100); /* a file of our own */
    open_limited(f, 20);
    snprintf(path, sizeof(path), "%s/experts-layer-00002.safetensors", f->dir);
    assert_int_equal(truncate(path, 100000), 0);
    assert_int_equal(fetch(f, key_of(f, 2, 31), &held), FS_CORRUPT);
    assert_non_null(strstr(stats_of(f).problem, "layer 2 expert 31"));
    assert_non_null(strstr(stats_of(f).problem, path));
    assert_int_equal(fetch(f, key_of(f, 3, 31), &held), FS_OK);
    fs_store_release(held);
}

static void memory_for_less_than_one_expert_is_a_problem(void **state)
{
    fixture *f = *state;
    fs_held *held;
    open_store(f, size_of_one(f) - 1);
    memset(f->wanted, 1, 5);
    fs_store_assign(f->store, 1, f->wanted);
    assert_int_equal(stats_of(f).ready_epoch, 0);
    assert_non_null(strstr(stats_of(f).problem, "5 of 5 assigned experts are larger than the memory"));
    assert_int_equal(fetch(f, 2, &held), FS_EXHAUSTED);
}

static void who_waits_is_told_when_the_expert_is_given_to_another_node(void **state)
{
    fixture *f = *state;
    fs_held *held;
    bool ready;
    open_limited(f, 3);
    for (uint32_t key = 0; key < 9; key++) assert_int_equal(fs_store_claim(f->store, 0, key, &ready), FS_OK);
    memset(f->wanted, 0, sizeof(f->wanted));
    f->wanted[100] = 1;
    fs_store_assign(f->store, 2, f->wanted);
    assert_int_equal(f->keys_told, 9);
    for (uint32_t key = 0; key < 9; key++) {
        assert_int_equal(fs_store_acquire(f->store, key, &held), FS_MOVED);
        fs_store_unclaim(f->store, key);
    }
    settle(f, 1, 0);
    assert_int_equal(stats_of(f).ready_epoch, 2);
}

static void a_limited_store_can_be_destroyed_while_it_loads(void **state)
{
    fixture *f = *state;
    bool ready;
    open_limited(f, 50);
    for (uint32_t key = 0; key < 40; key++) assert_int_equal(fs_store_claim(f->store, 0, key, &ready), FS_OK);
    fs_store_go(f->store);
    uv_run(&f->loop, UV_RUN_NOWAIT); /* tear_down destroys it */
}

static void a_missing_file_is_refused_at_start(void **state)
{
    fixture *f = *state;
    char path[128];
    fs_detail detail = {0};
    snprintf(path, sizeof(path), "%s/experts-layer-00003.safetensors", f->dir);
    unlink(path);
    fs_store_options options = {.dir = f->dir, .load_threads = 1};
    assert_int_equal(fs_store_create(&f->loop, &options, &f->store, &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "experts-layer-00003.safetensors"));
    assert_null(f->store);
}

static void one_damaged_expert_does_not_keep_a_node_from_starting_and_a_wrong_config_does(void **state)
{
    fixture *f = *state;
    fs_detail detail = {0};
    damage(f, 0, 0, "gate_proj", 700);
    open_store(f, 0);
    fs_store_destroy(f->store);
    f->store = NULL;
    damage(f, 5, 31, "down_proj", 700);
    fs_store_options options = {.dir = f->dir, .load_threads = 1};
    assert_int_equal(fs_store_create(&f->loop, &options, &f->store, &detail), FS_CORRUPT);
    assert_non_null(strstr(detail.text, "model.layers.0.mlp.experts.0.gate_proj.sub1"));
}

static void a_store_can_be_destroyed_while_it_loads(void **state)
{
    fixture *f = *state;
    open_store(f, 0);
    memset(f->wanted, 1, sizeof(f->wanted));
    fs_store_assign(f->store, 1, f->wanted);
    uv_run(&f->loop, UV_RUN_ONCE); /* tear_down destroys it */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_assigned_is_loaded_and_then_ready),
        TEST(experts_that_the_model_has_not_have_no_key),
        TEST(an_expert_in_use_outlives_its_assignment),
        TEST(an_assignment_that_comes_back_is_loaded_again),
        TEST(a_damaged_expert_is_named_and_never_given_out),
        TEST(what_fits_in_memory_is_read_and_verified_before_ready),
        TEST(what_does_not_fit_is_served_and_read_when_it_is_asked_for),
        TEST(what_is_announced_is_there_when_it_is_asked_for),
        TEST(a_damaged_expert_is_refused_when_it_is_asked_for),
        TEST(a_file_that_was_truncated_is_refused_when_it_is_asked_for),
        TEST(memory_for_less_than_one_expert_is_a_problem),
        TEST(who_waits_is_told_when_the_expert_is_given_to_another_node),
        TEST(a_limited_store_can_be_destroyed_while_it_loads),
        TEST(a_missing_file_is_refused_at_start),
        TEST(one_damaged_expert_does_not_keep_a_node_from_starting_and_a_wrong_config_does),
        TEST(a_store_can_be_destroyed_while_it_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
