/* tests/unit/common/base/buffer_test.c: the promises of buffer.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buffer.h"

static void fields_come_back_as_written(void **state)
{
    fs_buffer buffer = {0};
    fs_buffer_append_u8(&buffer, 0x12);
    fs_buffer_append_u16(&buffer, 0x3456);
    fs_buffer_append_u32(&buffer, 0x789abcde);
    fs_buffer_append_u64(&buffer, 0x0123456789abcdefull);
    fs_buffer_append_f32(&buffer, -1.5f);
    fs_buffer_append(&buffer, "tail", 4);
    fs_buffer_append(&buffer, NULL, 0);
    assert_int_equal(buffer.size, 23);
    assert_memory_equal(buffer.data, "\x12\x56\x34\xde\xbc\x9a\x78", 7); /* little-endian */
    fs_reader r = fs_reader_of(buffer.data, buffer.size);
    assert_int_equal(fs_read_u8(&r), 0x12);
    assert_int_equal(fs_read_u16(&r), 0x3456);
    assert_int_equal(fs_read_u32(&r), 0x789abcde);
    assert_true(fs_read_u64(&r) == 0x0123456789abcdefull);
    assert_true(fs_read_f32(&r) == -1.5f);
    assert_memory_equal(fs_read_bytes(&r, 4), "tail", 4);
    assert_int_equal(fs_reader_left(&r), 0);
    assert_false(r.short_read);
    fs_buffer_free(&buffer);
    assert_null(buffer.data);
}

static void a_short_read_gives_zero_and_stays(void **state)
{
    fs_reader r = fs_reader_of("\x01\x02\x03", 3);
    assert_int_equal(fs_read_u32(&r), 0);
    assert_true(r.short_read);
    assert_int_equal(fs_read_u8(&r), 0); /* though there is a byte */
    assert_null(fs_read_bytes(&r, 1));
    fs_reader huge = fs_reader_of("abc", 3);
    (void)fs_read_u8(&huge);
    assert_null(fs_read_bytes(&huge, SIZE_MAX));
}

static void a_failed_growth_stays_failed(void **state)
{
    fs_buffer buffer = {0};
    fs_buffer_append(&buffer, "ab", 2);
    assert_int_equal(fs_buffer_reserve(&buffer, SIZE_MAX - 1), FS_NO_MEMORY);
    assert_true(buffer.failed);
    fs_buffer_append(&buffer, "cd", 2);
    fs_buffer_printf(&buffer, "ef");
    assert_int_equal(buffer.size, 2);
    assert_memory_equal(buffer.data, "ab", 2);
    fs_buffer_free(&buffer);
    fs_buffer_free(NULL);
}

static void printf_appends_without_its_terminator(void **state)
{
    fs_buffer buffer = {0};
    for (int i = 0; i < 1000; i++) fs_buffer_printf(&buffer, "%03d,", i);
    assert_int_equal(buffer.size, 4000);
    assert_memory_equal(buffer.data + 3996, "999,", 4);
    fs_buffer_free(&buffer);
}

static void make_file(char *path, size_t size)
{
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    for (size_t i = 0; i < size; i++) fputc('a' + (int)(i % 26), file);
    assert_int_equal(fclose(file), 0);
}

static void a_file_is_read_whole_and_terminated(void **state)
{
    static const size_t sizes[] = {0, 1, 4095, 4096, 100000};
    for (size_t i = 0; i < 5; i++) {
        char path[] = "/tmp/fs-buffer-XXXXXX";
        make_file(path, sizes[i]);
        fs_buffer data = {0};
        assert_int_equal(fs_file_read(path, sizes[i], &data, NULL), FS_OK);
        assert_int_equal(data.size, sizes[i]);
        assert_int_equal(data.data[data.size], 0);
        if (sizes[i]) assert_int_equal(data.data[data.size - 1], 'a' + (int)((sizes[i] - 1) % 26));
        fs_buffer_free(&data);
        unlink(path);
    }
}

static void a_file_that_is_too_large_is_refused_by_name(void **state)
{
    char path[] = "/tmp/fs-buffer-XXXXXX";
    fs_detail detail = {{0}};
    fs_buffer data = {0};
    make_file(path, 11);
    assert_int_equal(fs_file_read(path, 10, &data, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, path));
    assert_null(data.data);
    unlink(path);
    assert_int_equal(fs_file_read("/proc/self/status", 10, &data, &detail),
                     FS_INVALID); /* says it has 0 bytes */
    assert_int_equal(fs_file_read("/proc/self/status", 1 << 20, &data, &detail), FS_OK);
    assert_true(data.size > 10);
    fs_buffer_free(&data);
}

static void missing_files_and_folders_are_told_apart(void **state)
{
    fs_detail detail = {{0}};
    fs_buffer data = {0};
    assert_int_equal(fs_file_read("/nonexistent/x", 10, &data, &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "/nonexistent/x: "));
    assert_int_equal(fs_file_read("/tmp", 10, &data, &detail), FS_IO);
    assert_non_null(strstr(detail.text, "/tmp: "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_come_back_as_written),
        cmocka_unit_test(a_short_read_gives_zero_and_stays),
        cmocka_unit_test(a_failed_growth_stays_failed),
        cmocka_unit_test(printf_appends_without_its_terminator),
        cmocka_unit_test(a_file_is_read_whole_and_terminated),
        cmocka_unit_test(a_file_that_is_too_large_is_refused_by_name),
        cmocka_unit_test(missing_files_and_folders_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
