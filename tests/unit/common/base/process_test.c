/* tests/unit/common/base/process_test.c: the cluster key is taken as it is meant, or refused with the reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/process.h"

#define KEY "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"

static void key_as_text_is_read(void **state)
{
    uint8_t key[FS_CLUSTER_KEY_BYTES];
    fs_detail detail = {0};
    assert_int_equal(fs_cluster_key_load(KEY, NULL, key, &detail), FS_OK);
    for (int i = 0; i < 32; i++) assert_int_equal(key[i], i);
}

static void write_key(char *path, const char *text, mode_t mode)
{
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void key_file_is_read_if_others_cannot(void **state)
{
    uint8_t key[FS_CLUSTER_KEY_BYTES];
    fs_detail detail = {0};
    char path[] = "/tmp/fs-key-XXXXXX", open_path[] = "/tmp/fs-key-XXXXXX";
    write_key(path, KEY "\n", 0600);
    assert_int_equal(fs_cluster_key_load(NULL, path, key, &detail), FS_OK);
    assert_int_equal(key[31], 31);
    write_key(open_path, KEY "\n", 0644);
    assert_int_equal(fs_cluster_key_load(NULL, open_path, key, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "0644"));
    unlink(path);
    unlink(open_path);
}

static void bad_keys_are_refused_with_the_reason(void **state)
{
    static const struct { const char *hex, *path, *says; } bad[] = {
        {NULL, NULL, "none given"},
        {KEY, "/tmp/x", "both"},
        {"", NULL, "64 hexadecimal"},
        {"0011", NULL, "not 4 characters"},
        {KEY "00", NULL, "not 66 characters"},
        {"g" KEY, NULL, "64 hexadecimal"},
        {"0x0102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F", NULL, "character 2"},
        {NULL, "/nonexistent/key", "/nonexistent/key"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint8_t key[FS_CLUSTER_KEY_BYTES] = {7};
        fs_detail detail = {0};
        assert_int_not_equal(fs_cluster_key_load(bad[i].hex, bad[i].path, key, &detail), FS_OK);
        assert_non_null(strstr(detail.text, bad[i].says));
        assert_int_equal(key[0], 7);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(key_as_text_is_read),
        cmocka_unit_test(key_file_is_read_if_others_cannot),
        cmocka_unit_test(bad_keys_are_refused_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
