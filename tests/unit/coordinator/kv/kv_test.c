/* The store's promises, on real files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kv/kv.h"

typedef struct {
    char dir[64], path[96];
} place;

static int setup(void **state)
{
    place *p = calloc(1, sizeof(*p));
    assert_non_null(p);
    strcpy(p->dir, "/tmp/fs-kv-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->path, sizeof(p->path), "%s/store", p->dir);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    place *p = *state;
    char journal[128];
    snprintf(journal, sizeof(journal), "%s-journal", p->path);
    unlink(journal);
    unlink(p->path);
    int rc = rmdir(p->dir);
    free(p);
    return rc;
}

static fs_kv *open_ok(const char *path)
{
    fs_kv *kv = NULL;
    fs_detail detail = {0};
    fs_status st = fs_kv_open(path, &kv, &detail);
    if (st != FS_OK) fail_msg("%s", detail.text);
    return kv;
}

static fs_status put(fs_kv *kv, const char *key, const char *value)
{
    const fs_kv_put p = {key, (const uint8_t *)value, value ? strlen(value) : 0};
    return fs_kv_write(kv, &p, 1, NULL);
}

static void assert_value(fs_kv *kv, const char *key, const char *value)
{
    fs_buffer out = {0};
    fs_status st = fs_kv_get(kv, key, &out, NULL);
    assert_int_equal(st, value ? FS_OK : FS_NOT_FOUND);
    if (value) assert_int_equal(out.size, strlen(value));
    if (value && out.size) assert_memory_equal(out.data, value, out.size);
    fs_buffer_free(&out);
}

static void values_are_there_after_a_restart(void **state)
{
    const place *p = *state;
    fs_kv *kv = open_ok(p->path);
    assert_value(kv, "a", NULL);
    const fs_kv_put puts[] = {
        {"a", (const uint8_t *)"1", 1}, {"b", (const uint8_t *)"", 0}, {"c", (const uint8_t *)"3", 1}};
    assert_int_equal(fs_kv_write(kv, puts, 3, NULL), FS_OK);
    assert_int_equal(put(kv, "a", "one"), FS_OK);
    assert_int_equal(put(kv, "c", NULL), FS_OK);
    fs_kv_close(kv);
    kv = open_ok(p->path);
    assert_value(kv, "a", "one");
    assert_value(kv, "b", "");
    assert_value(kv, "c", NULL);
    fs_kv_close(kv);
}

static void write_is_all_or_none(void **state)
{
    const place *p = *state;
    fs_kv *kv = open_ok(p->path);
    char long_key[FS_KV_MAX_KEY + 2];
    memset(long_key, 'k', sizeof(long_key) - 1);
    long_key[sizeof(long_key) - 1] = 0;
    const fs_kv_put puts[] = {{"a", (const uint8_t *)"1", 1}, {long_key, (const uint8_t *)"2", 1}};
    fs_detail detail = {0};
    assert_int_equal(fs_kv_write(kv, puts, 2, &detail), FS_INVALID);
    assert_value(kv, "a", NULL);
    assert_int_equal(put(kv, "a", "later"), FS_OK);
    fs_kv_close(kv);
}

static void memory_store_works_and_ends(void **state)
{
    fs_kv *kv = open_ok(":memory:");
    assert_int_equal(put(kv, "a", "1"), FS_OK);
    assert_value(kv, "a", "1");
    fs_kv_close(kv);
    kv = open_ok(":memory:");
    assert_value(kv, "a", NULL);
    fs_kv_close(kv);
}

static void second_process_is_refused(void **state)
{
    const place *p = *state;
    fs_kv *kv = open_ok(p->path);
    pid_t pid = fork();
    if (pid == 0) {
        fs_kv *second;
        fs_detail detail = {0};
        bool ok = fs_kv_open(p->path, &second, &detail) == FS_UNAVAILABLE &&
                  strstr(detail.text, "in use by another process");
        _exit(ok ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    fs_kv_close(kv);
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
}

static void other_files_are_refused_with_their_path(void **state)
{
    const place *p = *state;
    fs_kv *kv;
    fs_detail detail = {0};
    char text[4096];
    memset(text, 'x', sizeof(text));
    write_file(p->path, text, sizeof(text));
    assert_int_equal(fs_kv_open(p->path, &kv, &detail), FS_CORRUPT);
    assert_non_null(strstr(detail.text, p->path));
    assert_int_equal(fs_kv_open("/nowhere/at/all/store", &kv, &detail), FS_IO);
    assert_non_null(strstr(detail.text, "/nowhere/at/all/store"));
    assert_int_equal(fs_kv_open(p->dir, &kv, &detail), FS_IO);
}

static void any_flipped_byte_is_noticed_or_harmless(void **state)
{
    const place *p = *state;
    fs_kv *kv = open_ok(p->path);
    char value[3000];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = 0;
    assert_int_equal(put(kv, "cluster", value), FS_OK);
    fs_kv_close(kv);
    fs_buffer file = {0};
    assert_int_equal(fs_file_read(p->path, 1 << 20, &file, NULL), FS_OK);
    uint32_t noticed = 0;
    for (size_t i = 0; i < file.size; i += 13) {
        file.data[i] ^= 0x41;
        write_file(p->path, file.data, file.size);
        file.data[i] ^= 0x41;
        fs_detail detail = {0};
        fs_buffer out = {0};
        fs_status st = fs_kv_open(p->path, &kv, &detail);
        if (st == FS_OK) {
            st = fs_kv_get(kv, "cluster", &out, &detail);
            fs_kv_close(kv);
        }
        if (st == FS_OK) assert_memory_equal(out.data, value, out.size);
        if (st == FS_OK) assert_int_equal(out.size, sizeof(value) - 1);
        noticed += st != FS_OK;
        fs_buffer_free(&out);
    }
    assert_true(noticed > 100);
    fs_buffer_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(values_are_there_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(write_is_all_or_none, setup, teardown),
        cmocka_unit_test(memory_store_works_and_ends),
        cmocka_unit_test_setup_teardown(second_process_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(other_files_are_refused_with_their_path, setup, teardown),
        cmocka_unit_test_setup_teardown(any_flipped_byte_is_noticed_or_harmless, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
