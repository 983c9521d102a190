/* What an expert on a GPU promises: the bits of the CPU, whatever the shape, the batch, the split and the order of threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gpu_helper.h"

/* Several experts in one run on a device of its own. */
static void check_run(fs_random *random, const uint32_t (*shape)[3], uint32_t num_experts, int extreme,
                      uint32_t num_sms)
{
    fs_gpu_emulation emulation = {
        .order = (fs_grid_order)fs_random_below(random, 3), .num_sms = num_sms, .seed = random->state};
    fs_device *device = new_device(&emulation, &(fs_device_options){.upload_bytes = 5000, .num_runs = 1});
    subject *s = calloc(num_experts, sizeof(*s));
    fs_device_item *items = calloc(num_experts, sizeof(*items));
    for (uint32_t i = 0; i < num_experts; i++) {
        s[i] = new_subject(random, shape[i][0], shape[i][1], shape[i][2], extreme);
        items[i] = item_of(&s[i], upload(device, &s[i].expert));
        run_on_cpu(&s[i]);
    }
    outcome o = {0};
    assert_int_equal(fs_device_start(device, items, num_experts, note, &o), FS_OK);
    drain(device);
    assert_int_equal(o.calls, 1);
    assert_int_equal(o.status, FS_OK);
    for (uint32_t i = 0; i < num_experts; i++) {
        if (!same_bits(&s[i]))
            fail_msg("expert %u of %u differs: %u x %u, %u rows, extreme %d", i, num_experts, shape[i][0],
                     shape[i][1], shape[i][2], extreme);
        free_subject(&s[i]);
    }
    fs_device_close(device);
    free(s), free(items);
}

static void a_run_gives_the_bits_of_the_cpu(void **state)
{
    fs_random random = {31};
    for (int i = 0; i < 60; i++) {
        uint32_t shape[6][3], n = 1 + fs_random_below(&random, 6);
        for (uint32_t k = 0; k < n; k++) {
            shape[k][0] = 16 * (1 + fs_random_below(&random, 40));
            shape[k][1] = 16 * (1 + fs_random_below(&random, 40));
            shape[k][2] = fs_random_below(&random, 3) ? 1 + fs_random_below(&random, 12) : 1;
        }
        check_run(&random, shape, n, i % 4, 1 + fs_random_below(&random, 30));
    }
}

static void every_number_of_rows_gives_the_same(void **state)
{
    fs_random random = {32};
    for (uint32_t rows = 1; rows <= 18; rows++)
        check_run(&random, (const uint32_t[][3]){{96, 160, rows}}, 1, 0, 3);
    check_run(&random, (const uint32_t[][3]){{64, 64, FS_EXPERT_MAX_ROWS}}, 1, 0, 3);
}

static void real_shapes_are_right(void **state)
{
    fs_random random = {33};
    check_run(&random, (const uint32_t[][3]){{2048, 768, 1}, {2048, 768, 3}}, 2, 0, 108);
    check_run(&random, (const uint32_t[][3]){{768, 2048, 9}}, 1, 1, 1);
    check_run(&random, (const uint32_t[][3]){{2880, 2880, 2}}, 1, 2, 132);
    check_run(&random, (const uint32_t[][3]){{4096, 1040, 8}}, 1, 3,
              2); /* few multiprocessors: the longest splits */
}

/* Rows of x that are not finite, or whose results are not: as visible as on the CPU, in the same bits. */
static void a_broken_row_stays_broken(void **state)
{
    fs_random random = {34};
    fs_device *device = new_device(&(fs_gpu_emulation){0}, &(fs_device_options){0});
    subject s = new_subject(&random, 64, 48, 5, 0);
    s.x_scale[0] = (float)NAN;
    s.x_scale[1] = (float)INFINITY;
    s.x_scale[2] = 3e38f;
    s.x_scale[3] = 0;
    run_on_cpu(&s);
    fs_device_item item = item_of(&s, upload(device, &s.expert));
    outcome o = {0};
    assert_int_equal(fs_device_start(device, &item, 1, note, &o), FS_OK);
    drain(device);
    assert_int_equal(o.status, FS_OK);
    assert_true(same_bits(&s));
    assert_true(s.out[0][0] != s.out[0][0] && s.out[4][0] == s.out[4][0]);
    free_subject(&s);
    fs_device_close(device);
}

static void many_runs_in_flight_do_not_touch_each_other(void **state)
{
    fs_random random = {35};
    for (uint64_t seed = 0; seed < 20; seed++) {
        fs_device *device = new_device(&(fs_gpu_emulation){.seed = seed, .order = FS_GRID_MIXED},
                                       &(fs_device_options){.num_runs = 4, .upload_bytes = 3000});
        subject s[4];
        fs_device_expert *e[4];
        outcome o[4] = {0};
        for (int i = 0; i < 4; i++) {
            s[i] = new_subject(&random, 160, 96, 1 + (uint32_t)i, 0);
            run_on_cpu(&s[i]);
            e[i] = upload(device, &s[i].expert);
        }
        subject coming = new_subject(&random, 320, 320, 1, 0);
        fs_device_expert *late = NULL;
        outcome arrived = {0};
        assert_int_equal(fs_device_upload(device, &coming.expert, note, &arrived, &late), FS_OK);
        for (int i = 0; i < 4; i++) {
            fs_device_item item = item_of(&s[i], e[i]);
            assert_int_equal(fs_device_start(device, &item, 1, note, &o[i]), FS_OK);
            memset(s[i].x[0], 99, 160); /* x was copied */
            if (i % 2) fs_device_poll(device);
        }
        drain(device);
        assert_int_equal(arrived.calls, 1);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(o[i].calls, 1);
            assert_true(same_bits(&s[i]));
            free_subject(&s[i]);
        }
        free_subject(&coming);
        fs_device_close(device);
    }
}

int main(void)
{
    setenv("FORESIGHT_ISA", "scalar",
           1); /* the definition; that the others equal it is their own tests' affair */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_gives_the_bits_of_the_cpu),
        cmocka_unit_test(every_number_of_rows_gives_the_same),
        cmocka_unit_test(real_shapes_are_right),
        cmocka_unit_test(a_broken_row_stays_broken),
        cmocka_unit_test(many_runs_in_flight_do_not_touch_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
