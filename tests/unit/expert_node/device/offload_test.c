/* tests/unit/expert_node/device/offload_test.c: batches on an emulated GPU give the CPU's bytes, or are left to the CPU.
 * links: device
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/random.h"
#include "device/offload.h"

enum { KEYS = 6, HIDDEN = 128, INTER = 64, MOST_ROWS = 5 };

typedef struct {
    fs_expert expert;
    uint8_t *blob[3];
    int8_t *x;
    const int8_t *x_row[MOST_ROWS];
    float scale[MOST_ROWS], *out, *want, *out_row[MOST_ROWS], *want_row[MOST_ROWS];
    fs_expert_rows rows;
} subject;

/* Two nonzeros in every 16 columns, of random places and signs. */
static void new_matrix(fs_random *random, uint32_t rows, uint32_t cols, uint8_t **blob, fs_sub1_matrix *out)
{
    float *w = calloc((size_t)rows * cols, sizeof *w);
    size_t bytes = fs_sub1_blob_bytes(FS_SUB1_BLOCKED, 2, 16, rows, cols);
    for (size_t i = 0; i < (size_t)rows * cols; i += 16) {
        uint32_t a = fs_random_below(random, 16), b = (a + 1 + fs_random_below(random, 15)) % 16;
        w[i + a] = fs_random_below(random, 2) ? 0.5f : -0.25f;
        w[i + b] = fs_random_below(random, 2) ? 0.5f : -0.25f;
    }
    *blob = fs_alloc_aligned(bytes);
    assert_int_equal(fs_sub1_encode_blocked(w, rows, cols, 2, 16, *blob, NULL), FS_OK);
    assert_int_equal(fs_sub1_open(*blob, bytes, out, NULL), FS_OK);
    free(w);
}

static void new_subject(fs_random *random, subject *s, uint32_t num_rows)
{
    *s = (subject){.expert = {.storage = FS_EXPERTS_SUB1,
                              .activation = FS_ACT_SILU,
                              .hidden_size = HIDDEN,
                              .intermediate_size = INTER}};
    new_matrix(random, INTER, HIDDEN, &s->blob[0], &s->expert.sub1[0]);
    new_matrix(random, INTER, HIDDEN, &s->blob[1], &s->expert.sub1[1]);
    new_matrix(random, HIDDEN, INTER, &s->blob[2], &s->expert.sub1[2]);
    s->x = fs_alloc_aligned((size_t)MOST_ROWS * HIDDEN);
    s->out = fs_alloc_aligned(sizeof(float) * MOST_ROWS * HIDDEN);
    s->want = fs_alloc_aligned(sizeof(float) * MOST_ROWS * HIDDEN);
    for (uint32_t i = 0; i < MOST_ROWS * HIDDEN; i++)
        s->x[i] = (int8_t)((int)fs_random_below(random, 255) - 127);
    for (uint32_t r = 0; r < MOST_ROWS; r++) {
        s->x_row[r] = s->x + (size_t)r * HIDDEN;
        s->out_row[r] = s->out + (size_t)r * HIDDEN;
        s->want_row[r] = s->want + (size_t)r * HIDDEN;
        s->scale[r] = 0.01f + fs_random_unit(random);
    }
    s->rows = (fs_expert_rows){
        .num_rows = num_rows, .x_i8 = s->x_row, .x_scale = s->scale, .out = s->want_row};
    void *scratch = fs_alloc_aligned(fs_expert_scratch_bytes(&s->expert, MOST_ROWS));
    fs_expert_run(&s->expert, &s->rows, scratch, NULL);
    free(scratch);
    s->rows.out = s->out_row;
}

static void free_subject(subject *s)
{
    for (int i = 0; i < 3; i++) free(s->blob[i]);
    free(s->x);
    free(s->out);
    free(s->want);
}

static void new_subjects(subject s[KEYS])
{
    fs_random random = {9};
    for (uint32_t i = 0; i < KEYS; i++) new_subject(&random, &s[i], 1 + i % MOST_ROWS);
}

static fs_offload *open_offload(const fs_gpu_emulation *emulation, uint64_t memory_bytes)
{
    fs_gpu_driver *driver = NULL;
    fs_offload *o = NULL;
    const fs_offload_options options = {.num_keys = KEYS, .memory_bytes = memory_bytes};
    assert_int_equal(fs_gpu_open_emulated(emulation, &driver, NULL), FS_OK);
    fs_status st = fs_offload_create(driver, &options, &o, NULL);
    assert_true(st == FS_OK || emulation->fail_after > 0);
    return st == FS_OK ? o : NULL;
}

/* Runs all of them; what is done has the CPU's bytes. Returns how many are. */
static uint32_t run_all(fs_offload *o, subject s[KEYS])
{
    fs_offload_batch batches[KEYS];
    uint32_t done = 0;
    for (uint32_t i = 0; i < KEYS; i++) {
        memset(s[i].out, 0x7f, sizeof(float) * MOST_ROWS * HIDDEN);
        batches[i] = (fs_offload_batch){.key = i, .expert = &s[i].expert, .rows = s[i].rows};
    }
    fs_offload_run(o, batches, KEYS);
    for (uint32_t i = 0; i < KEYS; i++) {
        if (!batches[i].done) continue;
        assert_memory_equal(s[i].out, s[i].want, sizeof(float) * s[i].rows.num_rows * HIDDEN);
        done++;
    }
    return done;
}

static void batches_have_the_cpus_bytes_and_experts_stay(void **state)
{
    subject s[KEYS];
    fs_offload_stats stats;
    new_subjects(s);
    fs_offload *o = open_offload(&(fs_gpu_emulation){.seed = 3}, 0);
    for (int i = 0; i < 3; i++) assert_int_equal(run_all(o, s), KEYS);
    fs_offload_get_stats(o, &stats);
    assert_true(stats.alive && stats.uploads == KEYS && stats.resident == KEYS && stats.evictions == 0);
    assert_true(stats.batches == 3 * KEYS && stats.refused == 0);
    fs_offload_destroy(o);
    for (int i = 0; i < KEYS; i++) free_subject(&s[i]);
}

static void what_does_not_fit_makes_room_or_is_left_to_the_cpu(void **state)
{
    subject s[KEYS];
    fs_offload_stats stats;
    new_subjects(s);
    fs_offload *o = open_offload(&(fs_gpu_emulation){0}, 0);
    assert_int_equal(run_all(o, s), KEYS);
    fs_offload_get_stats(o, &stats);
    uint64_t one = stats.resident_bytes / KEYS;
    fs_offload_destroy(o);
    o = open_offload(&(fs_gpu_emulation){0}, 2 * one + one / 2);                /* two at a time */
    for (int round = 0; round < 2; round++) assert_int_equal(run_all(o, s), 2); /* a run's own experts stay */
    for (uint32_t i = 0; i < KEYS; i++) {
        fs_offload_batch batch = {.key = i, .expert = &s[i].expert, .rows = s[i].rows};
        fs_offload_run(o, &batch, 1);
        assert_true(batch.done);
        assert_memory_equal(s[i].out, s[i].want, sizeof(float) * s[i].rows.num_rows * HIDDEN);
    }
    fs_offload_get_stats(o, &stats);
    assert_true(stats.alive && stats.resident == 2 && stats.evictions > 0);
    assert_in_range(stats.resident_bytes, one, 2 * one + one / 2);
    fs_offload_destroy(o);
    for (int i = 0; i < KEYS; i++) free_subject(&s[i]);
}

static void any_failing_call_leaves_the_rest_to_the_cpu(void **state)
{
    subject s[KEYS];
    uint32_t failures = 0;
    new_subjects(s);
    for (uint64_t call = 1; call < 200; call++) {
        const fs_gpu_emulation emulation = {.fail_after = call, .fail_with = FS_UNAVAILABLE, .seed = call};
        fs_offload *o = open_offload(&emulation, 0);
        if (!o) continue; /* opening failed */
        fs_offload_stats stats;
        uint32_t done = run_all(o, s) + run_all(o, s);
        fs_offload_get_stats(o, &stats);
        failures += !stats.alive;
        assert_true(stats.alive ? done == 2 * KEYS : done < 2 * KEYS);
        assert_int_equal(stats.refused, 2 * KEYS - done);
        fs_offload_destroy(o);
    }
    assert_true(failures > 20);
    for (int i = 0; i < KEYS; i++) free_subject(&s[i]);
}

static void experts_without_a_kernel_are_left_to_the_cpu(void **state)
{
    subject s;
    fs_random random = {4};
    fs_offload_stats stats;
    new_subject(&random, &s, 1);
    fs_offload *o = open_offload(&(fs_gpu_emulation){0}, 0);
    fs_expert dense = s.expert;
    dense.storage = FS_EXPERTS_DENSE;
    fs_offload_batch batch = {.expert = &dense, .rows = s.rows};
    fs_offload_run(o, &batch, 1);
    fs_offload_get_stats(o, &stats);
    assert_true(!batch.done && !stats.alive && stats.refused == 1);
    fs_offload_destroy(o);
    free_subject(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_have_the_cpus_bytes_and_experts_stay),
        cmocka_unit_test(what_does_not_fit_makes_room_or_is_left_to_the_cpu),
        cmocka_unit_test(any_failing_call_leaves_the_rest_to_the_cpu),
        cmocka_unit_test(experts_without_a_kernel_are_left_to_the_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
