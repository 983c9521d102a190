/* What the emulated grid promises: blocks, threads, shared memory, barriers, shuffles and byte permutes as a GPU has them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "gpu/grid.h"

typedef struct {
    const int32_t *in;
    int32_t *out;
    uint32_t cols;
} rows;

static const fs_grid_order orders[] = {FS_GRID_FORWARD, FS_GRID_BACKWARD, FS_GRID_MIXED};

/* The kernel of the style guide: a block a row. */
FS_KERNEL(sum_rows, rows)
{
    FS_SHARED int32_t part[FS_BLOCK_DIM];
    FS_EACH_THREAD(t)
    {
        part[t] = 0;
        for (uint32_t c = t; c < list->cols; c += FS_BLOCK_DIM)
            part[t] += list->in[FS_BLOCK * list->cols + c];
    }
    FS_EACH_THREAD(t)
    {
        if (t != 0) continue;
        for (int i = 1; i < FS_BLOCK_DIM; i++) part[0] += part[i];
        list->out[FS_BLOCK] = part[0];
    }
}

static void phases_meet_at_their_barrier_in_every_order(void **state)
{
    enum { ROWS = 16, COLS = 1000 };
    int32_t *in = malloc(sizeof(int32_t) * ROWS * COLS), out[ROWS];
    for (int i = 0; i < ROWS * COLS; i++) in[i] = i * 7 % 1001 - 500;
    for (int o = 0; o < 3; o++) {
        rows list = {in, out, COLS};
        memset(out, 0, sizeof(out));
        assert_true(fs_grid_run(sum_rows, ROWS, 0, orders[o], &list, 1));
        for (int r = 0; r < ROWS; r++) {
            int32_t sum = 0;
            for (int c = 0; c < COLS; c++) sum += in[r * COLS + c];
            assert_int_equal(out[r], sum);
        }
    }
    free(in);
}

/* Thread t reads what t + 1 writes in the same phase: a race, on purpose. */
FS_KERNEL(race, rows)
{
    FS_SHARED int32_t seen[FS_BLOCK_DIM + 1];
    FS_EACH_THREAD(t)
    {
        seen[t] = -1;
        seen[FS_BLOCK_DIM] = -1;
    }
    FS_EACH_THREAD(t)
    {
        seen[t] = (int32_t)t;
        list->out[t] = seen[t + 1];
    }
}

static void a_race_depends_on_the_order(void **state)
{
    int32_t forward[FS_BLOCK_DIM], backward[FS_BLOCK_DIM];
    rows list = {NULL, forward, 0};
    assert_true(fs_grid_run(race, 1, 0, FS_GRID_FORWARD, &list, 1));
    list.out = backward;
    assert_true(fs_grid_run(race, 1, 0, FS_GRID_BACKWARD, &list, 1));
    assert_memory_not_equal(forward, backward, sizeof(forward));
}

FS_KERNEL(count_threads, rows)
{
    FS_EACH_THREAD(t)
    {
        if (t % 3 == 0) continue; /* leaves this phase alone */
        list->out[t]++;
    }
    FS_EACH_THREAD_ALONE(t)
    {
        list->out[t] += 10;
    }
}

static void every_thread_runs_once_a_phase(void **state)
{
    for (int o = 0; o < 3; o++) {
        int32_t out[FS_BLOCK_DIM] = {0};
        rows list = {NULL, out, 0};
        assert_true(fs_grid_run(count_threads, 1, 0, orders[o], &list, 1));
        for (int t = 0; t < FS_BLOCK_DIM; t++) assert_int_equal(out[t], t % 3 ? 11 : 10);
    }
}

FS_KERNEL(count_blocks, rows)
{
    FS_EACH_THREAD(t)
    {
        fs_atomic_add(list->out + FS_BLOCK, t < FS_BLOCK_DIM);
    }
}

static void every_block_runs_once(void **state)
{
    for (int o = 0; o < 3; o++)
        for (uint32_t n = 1; n <= 40; n++) {
            int32_t out[40] = {0};
            rows list = {NULL, out, 0};
            assert_true(fs_grid_run(count_blocks, n, 0, orders[o], &list, 1));
            for (uint32_t b = 0; b < 40; b++) assert_int_equal(out[b], b < n ? FS_BLOCK_DIM : 0);
        }
}

FS_KERNEL(shuffle, rows)
{
    FS_REGISTER(uint32_t, mine);
    FS_REGISTER(uint32_t, theirs);
    FS_EACH_THREAD_ALONE(t)
    {
        FS_MINE(mine, t) = 1000 + t;
    }
    FS_SHUFFLE_XOR(theirs, mine, list->cols);
    FS_SHUFFLE_XOR(mine, mine, 1); /* onto itself */
    FS_EACH_THREAD_ALONE(t)
    {
        list->out[t] = (int32_t)(FS_MINE(theirs, t) * 10000 + FS_MINE(mine, t));
    }
}

static void a_shuffle_brings_the_value_of_the_other_lane(void **state)
{
    for (int o = 0; o < 3; o++)
        for (uint32_t mask = 1; mask < FS_WARP; mask++) {
            int32_t out[FS_BLOCK_DIM];
            rows list = {NULL, out, mask};
            assert_true(fs_grid_run(shuffle, 1, 0, orders[o], &list, 1));
            for (uint32_t t = 0; t < FS_BLOCK_DIM; t++)
                assert_int_equal(out[t], (1000 + (t ^ mask)) * 10000 + 1000 + (t ^ 1));
        }
}

FS_KERNEL(read_shared, rows)
{
    FS_EACH_THREAD(t)
    {
        if (t == 0) list->out[FS_BLOCK] = FS_SHARED_BYTES[list->cols - 1];
    }
    FS_EACH_THREAD(t)
    {
        if (t == 0) FS_SHARED_BYTES[list->cols - 1] = 1;
    }
}

static void a_block_finds_nothing_of_another_in_shared_memory(void **state)
{
    int32_t out[8];
    rows list = {NULL, out, 48 * 1024};
    assert_true(fs_grid_run(read_shared, 8, list.cols, FS_GRID_FORWARD, &list, 1));
    for (int b = 0; b < 8; b++) assert_int_equal(out[b], 0xcc);
}

static void byte_permute_is_the_instruction(void **state)
{
    assert_int_equal(fs_byte_permute(0x33221100, 0x77665544, 0x3210), 0x33221100);
    assert_int_equal(fs_byte_permute(0x33221100, 0x77665544, 0x7654), 0x77665544);
    assert_int_equal(fs_byte_permute(0x33221100, 0x77665544, 0x0527), 0x00552277);
    assert_int_equal(fs_byte_permute(0x00800000, 0, 0xaaaa), 0xffffffff); /* sign of byte 2 */
    assert_int_equal(fs_byte_permute(0x007f0000, 0, 0xaaaa), 0);
    assert_int_equal(fs_byte_permute(0x80, 0x80000000, 0xf804), 0xffff8000u | 0); /* mixed */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phases_meet_at_their_barrier_in_every_order),
        cmocka_unit_test(a_race_depends_on_the_order),
        cmocka_unit_test(every_thread_runs_once_a_phase),
        cmocka_unit_test(every_block_runs_once),
        cmocka_unit_test(a_shuffle_brings_the_value_of_the_other_lane),
        cmocka_unit_test(a_block_finds_nothing_of_another_in_shared_memory),
        cmocka_unit_test(byte_permute_is_the_instruction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
