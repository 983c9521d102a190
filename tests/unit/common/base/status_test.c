/* tests/unit/common/base/status_test.c: the promises of status.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

static void every_status_has_a_name(void **state)
{
    for (int s = 0; s < FS_NUM_STATUS; s++) {
        assert_non_null(fs_status_name((fs_status)s));
        assert_string_not_equal(fs_status_name((fs_status)s), "unknown status");
    }
    assert_string_equal(fs_status_name((fs_status)-1), "unknown status");
    assert_string_equal(fs_status_name(FS_NUM_STATUS), "unknown status");
}

static void fail_returns_its_status_and_fills_the_detail(void **state)
{
    fs_detail detail;
    memset(&detail, 'x', sizeof detail);
    assert_int_equal(fs_fail(&detail, FS_INVALID, "top_k %u", 9u), FS_INVALID);
    assert_string_equal(detail.text, "top_k 9");
    assert_int_equal(fs_fail(NULL, FS_IO, "nobody listens"), FS_IO);
}

static void long_details_are_cut_and_terminated(void **state)
{
    char text[1000];
    fs_detail detail;
    memset(text, 'a', sizeof text);
    text[999] = 0;
    assert_int_equal(fs_fail(&detail, FS_INVALID, "%s", text), FS_INVALID);
    assert_int_equal(strlen(detail.text), sizeof detail.text - 1);
    assert_int_equal(fs_fail_in(&detail, FS_INVALID, "file"), FS_INVALID);
    assert_int_equal(strlen(detail.text), sizeof detail.text - 1);
    assert_memory_equal(detail.text, "file: aaa", 9);
    assert_int_equal(fs_fail_in(&detail, FS_INVALID, "%s", text), FS_INVALID);
    assert_int_equal(strlen(detail.text), sizeof detail.text - 1);
}

static void fail_in_goes_in_front(void **state)
{
    fs_detail detail;
    (void)fs_fail(&detail, FS_INVALID, "bad");
    assert_int_equal(fs_fail_in(&detail, FS_CORRUPT, "file %d", 3), FS_CORRUPT);
    assert_string_equal(detail.text, "file 3: bad");
    (void)fs_fail(&detail, FS_INVALID, "again: %s", detail.text); /* the old text as an argument */
    assert_string_equal(detail.text, "again: file 3: bad");
}

static void sizes_that_overflow_are_refused_and_leave_the_output(void **state)
{
    size_t out = 7;
    assert_false(fs_mul_size(SIZE_MAX / 2, 3, &out));
    assert_false(fs_add_size(SIZE_MAX, 1, &out));
    assert_int_equal(out, 7);
    assert_true(fs_mul_size(6, 7, &out));
    assert_int_equal(out, 42);
    assert_true(fs_add_size(SIZE_MAX - 1, 1, &out));
    assert_true(out == SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_name),
        cmocka_unit_test(fail_returns_its_status_and_fills_the_detail),
        cmocka_unit_test(long_details_are_cut_and_terminated),
        cmocka_unit_test(fail_in_goes_in_front),
        cmocka_unit_test(sizes_that_overflow_are_refused_and_leave_the_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
