/* tests/unit/tools/compress/rows_file_test.c: rows in files: what was written comes back, and nothing else does. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "compress/calibrate.h"

enum { COLS = 5, ROWS = 100 };

typedef struct {
    char dir[64];
    fs_rows_file file;
    float rows[ROWS][COLS];
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    fs_detail detail;
    snprintf(f->dir, sizeof(f->dir), "/tmp/rows_file_test_XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) f->rows[r][c] = (float)r + (float)c / 8;
    assert_int_equal(fs_rows_create(f->dir, "rows", COLS, ROWS, &f->file, &detail), FS_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    fs_rows_close(&f->file, true);
    assert_int_equal(rmdir(f->dir), 0); /* nothing else was left */
    free(f);
    return 0;
}

static void write_all(fixture *f)
{
    fs_detail detail;
    assert_int_equal(fs_rows_write(&f->file, 0, ROWS, f->rows[0], &detail), FS_OK);
}

static void rows_come_back_from_where_they_were_put(void **state)
{
    fixture *f = *state;
    float out[7][COLS];
    fs_detail detail;
    for (int r = ROWS - 1; r >= 0; r--)
        assert_int_equal(fs_rows_write(&f->file, (uint64_t)r, 1, f->rows[r], &detail), FS_OK);
    for (int r = 0; r + 7 <= ROWS; r += 3) {
        assert_int_equal(fs_rows_read(&f->file, (uint64_t)r, 7, out[0], &detail), FS_OK);
        assert_memory_equal(out, f->rows[r], sizeof(out));
    }
    assert_int_equal(fs_rows_read(&f->file, ROWS, 0, out[0], &detail), FS_OK);
}

static void rows_are_zero_until_they_are_written(void **state)
{
    fixture *f = *state;
    float out[COLS] = {1}, zero[COLS] = {0};
    fs_detail detail;
    assert_int_equal(fs_rows_read(&f->file, ROWS - 1, 1, out, &detail), FS_OK);
    assert_memory_equal(out, zero, sizeof(out));
}

static void a_sealed_file_is_known_again_by_its_checksum(void **state)
{
    fixture *f = *state;
    uint64_t before, after;
    fs_rows_file again = {0};
    fs_detail detail;
    write_all(f);
    assert_int_equal(fs_rows_seal(&f->file, ROWS, &before, &detail), FS_OK);
    assert_int_equal(fs_rows_open(f->dir, "rows", COLS, ROWS, &again, &detail), FS_OK);
    assert_int_equal(fs_rows_seal(&again, ROWS, &after, &detail), FS_OK);
    assert_int_equal(before, after);
    for (int r = 0; r < ROWS; r += 33) {
        float changed[COLS];
        memcpy(changed, f->rows[r], sizeof(changed));
        changed[COLS - 1] += 1;
        assert_int_equal(fs_rows_write(&again, (uint64_t)r, 1, changed, &detail), FS_OK);
        assert_int_equal(fs_rows_seal(&again, ROWS, &after, &detail), FS_OK);
        assert_int_not_equal(before, after);
        assert_int_equal(fs_rows_write(&again, (uint64_t)r, 1, f->rows[r], &detail), FS_OK);
    }
    fs_rows_close(&again, false);
}

static void a_file_of_another_size_is_refused(void **state)
{
    fixture *f = *state;
    fs_rows_file again = {0};
    fs_detail detail = {0};
    static const off_t sizes[] = {0, 1, ROWS * COLS * 4 - 1, ROWS * COLS * 4 + 1};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        assert_int_equal(truncate(f->file.path, sizes[i]), 0);
        assert_int_equal(fs_rows_open(f->dir, "rows", COLS, ROWS, &again, &detail), FS_CORRUPT);
        assert_non_null(strstr(detail.text, "2000 are expected"));
        assert_int_equal(again.fd, 0);
    }
}

static void a_file_that_becomes_shorter_is_told(void **state)
{
    fixture *f = *state;
    float out[2][COLS];
    uint64_t sum = 3;
    fs_detail detail = {0};
    write_all(f);
    assert_int_equal(truncate(f->file.path, 11 * COLS * 4 - 1), 0);
    assert_int_equal(fs_rows_read(&f->file, 8, 2, out[0], &detail), FS_OK);
    assert_int_equal(fs_rows_read(&f->file, 9, 2, out[0], &detail), FS_CORRUPT);
    assert_non_null(strstr(detail.text, f->file.path));
    assert_int_equal(fs_rows_seal(&f->file, ROWS, &sum, &detail), FS_CORRUPT);
    assert_int_equal(sum, 3);
}

static void what_is_not_there_is_not_found(void **state)
{
    fixture *f = *state;
    fs_rows_file none = {0};
    fs_detail detail = {0};
    assert_int_equal(fs_rows_open(f->dir, "others", COLS, ROWS, &none, &detail), FS_NOT_FOUND);
    assert_int_equal(fs_rows_create("/tmp/rows_file_test_none", "rows", COLS, ROWS, &none, &detail),
                     FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "/tmp/rows_file_test_none/rows"));
    assert_int_equal(none.fd, 0);
    fs_rows_close(&none, true); /* none */
}

static void a_path_that_is_too_long_is_refused(void **state)
{
    fs_rows_file file = {0};
    fs_detail detail = {0};
    char name[5000];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    assert_int_equal(fs_rows_create("/tmp", name, COLS, ROWS, &file, &detail), FS_INVALID);
}

/* A disk with too little room, as far as a process can have one: a limit on the size of files. */
static void too_little_room_is_told_before_anything_is_written(void **state)
{
    fixture *f = *state;
    fs_rows_file file = {0};
    fs_detail detail = {0};
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = (struct rlimit){1000, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    fs_status st = fs_rows_create(f->dir, "more", COLS, ROWS, &file, &detail);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(st, FS_IO);
    assert_non_null(strstr(detail.text, "no room"));
    assert_int_equal(file.fd, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rows_come_back_from_where_they_were_put),
        TEST(rows_are_zero_until_they_are_written),
        TEST(a_sealed_file_is_known_again_by_its_checksum),
        TEST(a_file_of_another_size_is_refused),
        TEST(a_file_that_becomes_shorter_is_told),
        TEST(what_is_not_there_is_not_found),
        TEST(a_path_that_is_too_long_is_refused),
        TEST(too_little_room_is_told_before_anything_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
