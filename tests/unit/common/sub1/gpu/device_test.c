/* What a device promises beside right bits: limits, releases, failures and the end, each with one call of `done`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gpu/device_int.h"
#include "gpu/fatbin.h"
#include "gpu_helper.h"

static const fs_device_options small = {
    .num_runs = 2, .workspace_bytes = 1 << 20, .staging_bytes = 1 << 16, .upload_bytes = 4096};

static void opening_without_memory_says_so_and_keeps_nothing(void **state)
{
    for (uint64_t bytes = 1000; bytes < (3u << 20); bytes += 150000) {
        fs_gpu_driver *driver = NULL;
        assert_int_equal(fs_gpu_open_emulated(&(fs_gpu_emulation){.memory_bytes = bytes}, &driver, NULL),
                         FS_OK);
        fs_device *device = NULL;
        fs_detail detail = {0};
        fs_status st = fs_device_open(driver, &small, &device, &detail);
        assert_true(st == FS_OK || st == FS_NO_MEMORY);
        if (st == FS_OK)
            fs_device_close(device);
        else
            assert_non_null(strstr(detail.text, "out of memory"));
    }
    fs_gpu_driver *driver = NULL;
    assert_int_equal(fs_gpu_open_emulated(&(fs_gpu_emulation){0}, &driver, NULL), FS_OK);
    fs_device *device = NULL;
    assert_int_equal(fs_device_open(driver, &(fs_device_options){.num_runs = 9}, &device, NULL), FS_INVALID);
}

static void experts_are_refused_when_they_do_not_fit(void **state)
{
    fs_random random = {51};
    fs_device_options options = small;
    subject s = new_subject(&random, 256, 256, 1, 0);
    fs_device *probe = new_device(&(fs_gpu_emulation){0}, &options);
    fs_device_expert *e = upload(probe, &s.expert);
    size_t bytes = fs_device_expert_bytes(probe);
    assert_true(bytes > 0);
    fs_device_expert_release(probe, e);
    assert_int_equal(fs_device_expert_bytes(probe), 0);
    fs_device_close(probe);

    options.expert_bytes = 2 * bytes + 10; /* two, and not three */
    fs_device *device = new_device(&(fs_gpu_emulation){0}, &options);
    fs_device_expert *first = upload(device, &s.expert), *third = NULL;
    upload(device, &s.expert);
    outcome o = {0};
    assert_int_equal(fs_device_upload(device, &s.expert, note, &o, &third), FS_NO_MEMORY);
    fs_device_expert_release(device, first);
    assert_int_equal(fs_device_upload(device, &s.expert, note, &o, &third), FS_OK);
    drain(device);
    assert_int_equal(o.status, FS_OK);
    assert_true(fs_device_expert_ready(third));
    fs_device_close(device);
    free_subject(&s);
}

static void what_does_not_fit_in_a_run_is_exhausted(void **state)
{
    fs_random random = {52};
    fs_device *device = new_device(&(fs_gpu_emulation){0}, &small);
    subject s = new_subject(&random, 256, 256, 200, 0), one = new_subject(&random, 64, 64, 1, 0);
    fs_device_item big = item_of(&s, upload(device, &s.expert)),
                   item = item_of(&one, upload(device, &one.expert));
    outcome o[3] = {0};
    assert_false(fs_device_fits(device, &big, 1));
    assert_int_equal(fs_device_start(device, &big, 1, note, &o[0]), FS_EXHAUSTED);
    assert_true(fs_device_fits(device, &item, 1));
    assert_int_equal(fs_device_start(device, &item, 1, note, &o[0]), FS_OK);
    assert_int_equal(fs_device_start(device, &item, 1, note, &o[1]), FS_OK);
    assert_int_equal(fs_device_start(device, &item, 1, note, &o[2]), FS_EXHAUSTED); /* two in flight */
    drain(device);
    assert_int_equal(o[0].calls, 1);
    assert_int_equal(o[1].calls, 1);
    assert_int_equal(o[2].calls, 0);
    assert_int_equal(fs_device_start(device, &item, 1, note, &o[2]), FS_OK);
    drain(device);
    assert_int_equal(o[2].calls, 1);
    free_subject(&s), free_subject(&one);
    fs_device_close(device);
}

static void a_released_expert_stays_until_its_runs_are_over(void **state)
{
    fs_random random = {53};
    fs_device *device = new_device(&(fs_gpu_emulation){0}, &small);
    subject s = new_subject(&random, 128, 128, 3, 0);
    run_on_cpu(&s);
    fs_device_item item = item_of(&s, upload(device, &s.expert));
    outcome o = {0};
    assert_int_equal(fs_device_start(device, &item, 1, note, &o), FS_OK);
    fs_device_expert_release(device, item.expert);
    assert_true(fs_device_expert_bytes(device) > 0);
    drain(device);
    assert_int_equal(o.status, FS_OK);
    assert_true(same_bits(&s));
    assert_int_equal(fs_device_expert_bytes(device), 0);
    free_subject(&s);
    fs_device_close(device);
}

static void an_upload_that_is_released_ends_cancelled(void **state)
{
    fs_random random = {54};
    fs_device *device = new_device(&(fs_gpu_emulation){0}, &small);
    subject s = new_subject(&random, 256, 320, 1, 0);
    for (int polls = 0; polls < 6; polls++) {
        fs_device_expert *e = NULL, *next = NULL;
        outcome o = {0}, other = {0};
        assert_int_equal(fs_device_upload(device, &s.expert, note, &o, &e), FS_OK);
        assert_int_equal(fs_device_upload(device, &s.expert, note, &other, &next), FS_OK);
        for (int i = 0; i < polls; i++) fs_device_poll(device);
        fs_device_expert_release(device, e);
        drain(device);
        assert_int_equal(o.calls, 1);
        assert_int_equal(o.status, FS_CANCELLED);
        assert_int_equal(other.status, FS_OK);
        fs_device_expert_release(device, next);
        assert_int_equal(fs_device_expert_bytes(device), 0);
    }
    free_subject(&s);
    fs_device_close(device);
}

/* Whichever call fails, once or for good: everything ends, and each `done` is called exactly once. */
static void fail_at(uint64_t call, fs_status with, subject *s, bool *did_fail)
{
    fs_gpu_driver *driver = NULL;
    fs_gpu_emulation options = {.fail_after = call, .fail_with = with, .seed = call};
    assert_int_equal(fs_gpu_open_emulated(&options, &driver, NULL), FS_OK);
    fs_device *device = NULL;
    fs_device_options o = small;
    o.upload_bytes = 65536;
    fs_status st = fs_device_open(driver, &o, &device, NULL);
    if (st != FS_OK) {
        *did_fail = true;
        return;
    }
    fs_device_expert *e = NULL;
    outcome up = {0}, ran = {0};
    st = fs_device_upload(device, &s->expert, note, &up, &e);
    bool failed = st != FS_OK;
    if (st == FS_OK) drain(device);
    assert_int_equal(up.calls, st == FS_OK);
    if (up.calls && up.status != FS_OK) assert_int_equal(up.status, FS_UNAVAILABLE), failed = true;
    if (st == FS_OK && up.status == FS_OK) {
        fs_device_item item = item_of(s, e);
        st = fs_device_start(device, &item, 1, note, &ran);
        if (st == FS_OK) drain(device);
        assert_int_equal(ran.calls, st == FS_OK);
        if (st == FS_OK && ran.status == FS_OK)
            assert_true(same_bits(s));
        else
            assert_int_equal(st == FS_OK ? ran.status : st, FS_UNAVAILABLE), failed = true;
        if (failed)
            assert_int_equal(fs_device_start(device, &item, 1, note, &ran), FS_UNAVAILABLE); /* for good */
        fs_device_expert_release(device, e);
    }
    *did_fail = failed;
    fs_device_close(device);
}

static void any_failing_call_ends_everything_once(void **state)
{
    fs_random random = {55};
    subject s = new_subject(&random, 160, 96, 2, 0);
    run_on_cpu(&s);
    for (int once = 0; once < 2; once++) {
        uint64_t failures = 0;
        for (uint64_t call = 1; call <= 70; call++) {
            bool failed = false;
            fail_at(call, once ? FS_NO_MEMORY : FS_UNAVAILABLE, &s, &failed);
            failures += failed;
        }
        assert_true(failures > 20); /* opening, uploading and running have that many calls */
    }
    free_subject(&s);
}

static void closing_cancels_what_is_under_way(void **state)
{
    fs_random random = {56};
    subject s = new_subject(&random, 128, 128, 2, 0);
    for (int polls = 0; polls < 4; polls++) {
        fs_device *device = new_device(&(fs_gpu_emulation){0}, &small);
        fs_device_item item = item_of(&s, upload(device, &s.expert));
        outcome ran = {0}, up = {0};
        fs_device_expert *e = NULL;
        assert_int_equal(fs_device_start(device, &item, 1, note, &ran), FS_OK);
        assert_int_equal(fs_device_upload(device, &s.expert, note, &up, &e), FS_OK);
        for (int i = 0; i < polls; i++) fs_device_poll(device);
        fs_device_close(device);
        assert_int_equal(ran.calls, 1);
        assert_int_equal(up.calls, 1);
        assert_int_equal(up.status, FS_CANCELLED);
    }
    free_subject(&s);
}

typedef struct {
    fs_device *device;
    fs_device_item item;
    int runs;
} chain;

static void start_next(void *arg, fs_status status)
{
    chain *c = arg;
    assert_int_equal(status, FS_OK);
    if (++c->runs < 5) assert_int_equal(fs_device_start(c->device, &c->item, 1, start_next, c), FS_OK);
}

static void done_may_start_the_next_run_and_wait_waits(void **state)
{
    fs_random random = {57};
    fs_device *device = new_device(&(fs_gpu_emulation){0}, &(fs_device_options){.num_runs = 1});
    subject s = new_subject(&random, 64, 64, 1, 0);
    run_on_cpu(&s);
    chain c = {device, item_of(&s, upload(device, &s.expert)), 0};
    assert_int_equal(fs_device_start(device, &c.item, 1, start_next, &c), FS_OK);
    for (int i = 1; i <= 5; i++) {
        fs_device_wait(device); /* one run each */
        assert_int_equal(c.runs, i);
    }
    assert_int_equal(fs_device_wait(device), 0);
    assert_true(same_bits(&s));
    free_subject(&s);
    fs_device_close(device);
}

static void formats_without_a_kernel_are_named(void **state)
{
    fs_random random = {58};
    subject s = new_subject(&random, 64, 64, 1, 0);
    fs_detail detail = {0};
    assert_int_equal(fs_device_supports(&s.expert, &detail), FS_OK);
    fs_expert odd = s.expert;
    odd.sub1[1].format = FS_SUB1_BLOCKED;
    odd.sub1[1].n = 7;
    assert_int_equal(fs_device_supports(&odd, &detail), FS_UNSUPPORTED);
    assert_non_null(strstr(detail.text, "7:16"));
    odd = s.expert;
    odd.storage = FS_EXPERTS_DENSE;
    assert_int_equal(fs_device_supports(&odd, &detail), FS_UNSUPPORTED);
    free_subject(&s);
}

static void a_missing_gpu_is_an_answer(void **state)
{
    fs_gpu_driver *driver = NULL;
    fs_detail detail = {0};
    assert_int_equal(fs_gpu_open_cuda(0, "/nonexistent/libcuda.so.1", &driver, &detail), FS_UNAVAILABLE);
    assert_non_null(strstr(detail.text, fs_gpu_has_fatbin ? "no CUDA driver" : "no CUDA kernels"));
    if (!fs_gpu_has_fatbin) return;
    assert_int_equal(fs_gpu_open_cuda(0, "libm.so.6", &driver, &detail),
                     FS_UNAVAILABLE); /* a library without the symbols */
    assert_non_null(strstr(detail.text, "cuInit"));
    fs_status st = fs_gpu_open_cuda(9999, NULL, &driver,
                                    &detail); /* real, if there is one: it has no such device */
    assert_int_equal(st, FS_UNAVAILABLE);
    assert_true(detail.text[0] != 0);
    /* The toolkit's stand-in has every symbol that is asked for, and refuses to start. */
    st = fs_gpu_open_cuda(0, "/usr/local/cuda/lib64/stubs/libcuda.so", &driver, &detail);
    assert_int_equal(st, FS_UNAVAILABLE);
    assert_null(strstr(detail.text, "too old"));
}

int main(void)
{
    setenv("FORESIGHT_ISA", "scalar", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_without_memory_says_so_and_keeps_nothing),
        cmocka_unit_test(experts_are_refused_when_they_do_not_fit),
        cmocka_unit_test(what_does_not_fit_in_a_run_is_exhausted),
        cmocka_unit_test(a_released_expert_stays_until_its_runs_are_over),
        cmocka_unit_test(an_upload_that_is_released_ends_cancelled),
        cmocka_unit_test(any_failing_call_ends_everything_once),
        cmocka_unit_test(closing_cancels_what_is_under_way),
        cmocka_unit_test(done_may_start_the_next_run_and_wait_waits),
        cmocka_unit_test(formats_without_a_kernel_are_named),
        cmocka_unit_test(a_missing_gpu_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
