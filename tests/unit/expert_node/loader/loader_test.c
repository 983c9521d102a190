/* What the loader promises: the bytes of the file, wherever they lie and however the kernel lets us read; and errors that name the
 * place. Every test runs with and without io_uring and O_DIRECT. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/random.h"
#include "loader/loader.h"

enum { FILE_BYTES = 1000 * 1000 + 77, READ_BYTES = 64 * 1024, MOST_LOADS = 64 };

typedef struct {
    fs_load load; /* first */
    struct fixture *f;
    uint8_t *memory;
    uint32_t order; /* of its end, from 1; 0: not ended */
    int verified;
    bool refuse;
} item;

typedef struct fixture {
    char dir[64], path[128];
    uint8_t *content;
    uv_loop_t loop;
    uv_timer_t tick;
    fs_loader *loader;
    item items[MOST_LOADS];
    uint32_t num_items, num_ended;
} fixture;

static void on_tick(uv_timer_t *timer)
{
}

static void write_file(const char *path, const uint8_t *data, size_t size)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
}

static void begin(fixture *f, const char *parent)
{
    fs_random random = {3};
    memset(f, 0, sizeof(*f));
    snprintf(f->dir, sizeof(f->dir), "%s/loader_test_XXXXXX", parent);
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/file", f->dir);
    f->content = malloc(FILE_BYTES);
    for (size_t i = 0; i < FILE_BYTES; i++) f->content[i] = (uint8_t)fs_random_next(&random);
    write_file(f->path, f->content, FILE_BYTES);
    uv_loop_init(&f->loop);
    uv_timer_init(&f->loop, &f->tick);
    uv_timer_start(&f->tick, on_tick, 5, 5);
}

static void open_loader(fixture *f, int mode, uint32_t num_reads)
{
    fs_loader_options options = {num_reads, READ_BYTES, 2, (mode & 1) != 0, (mode & 2) != 0};
    assert_int_equal(fs_loader_create(&f->loop, &options, &f->loader, NULL), FS_OK);
    assert_int_equal(fs_loader_add_file(f->loader, f->path, NULL), FS_OK);
}

/* What a mode has loaded is forgotten. */
static void close_loader(fixture *f)
{
    fs_loader_destroy(f->loader);
    uv_run(&f->loop, UV_RUN_ONCE);
    uv_run(&f->loop, UV_RUN_ONCE);
    for (uint32_t i = 0; i < f->num_items; i++) free(f->items[i].memory);
    memset(f->items, 0, sizeof(f->items));
    f->num_items = f->num_ended = 0;
    f->loader = NULL;
}

static void end(fixture *f)
{
    uv_close((uv_handle_t *)&f->tick, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    unlink(f->path);
    rmdir(f->dir);
    free(f->content);
}

static void on_done(fs_load *load)
{
    item *it = (item *)load;
    assert_int_equal(it->order, 0);
    it->order = ++it->f->num_ended;
}

static fs_status verify(fs_load *load, fs_detail *detail)
{
    item *it = (item *)load;
    it->verified++;
    return it->refuse ? fs_fail(detail, FS_CORRUPT, "not to our liking") : FS_OK;
}

static item *add_ranges(fixture *f, uint32_t num, const uint64_t (*range)[2], bool urgent)
{
    item *it = &f->items[f->num_items++];
    size_t total = 0, at = 0;
    for (uint32_t i = 0; i < num; i++) total += range[i][1];
    it->f = f;
    it->memory = malloc(total);
    it->load = (fs_load){.num_ranges = num, .verify = verify, .done = on_done};
    for (uint32_t i = 0; i < num; at += range[i++][1])
        it->load.range[i] = (fs_load_range){0, range[i][0], range[i][1], it->memory + at};
    fs_loader_start(f->loader, &it->load, urgent);
    return it;
}

static item *add(fixture *f, uint64_t offset, uint64_t bytes, bool urgent)
{
    const uint64_t range[1][2] = {{offset, bytes}};
    return add_ranges(f, 1, range, urgent);
}

static void run_all(fixture *f)
{
    int64_t deadline = fs_clock_now(fs_clock_system()) + 60 * FS_NS_PER_S;
    fs_loader_go(f->loader);
    while (f->num_ended < f->num_items) {
        assert_true(fs_clock_now(fs_clock_system()) < deadline);
        uv_run(&f->loop, UV_RUN_ONCE);
    }
}

static void check(const fixture *f, const item *it)
{
    const uint8_t *at = it->memory;
    assert_int_equal(it->load.status, FS_OK);
    assert_int_equal(it->verified, 1);
    for (uint32_t i = 0; i < it->load.num_ranges; at += it->load.range[i++].bytes)
        assert_memory_equal(at, f->content + it->load.range[i].offset, it->load.range[i].bytes);
}

static fs_loader_stats stats_of(const fixture *f)
{
    fs_loader_stats stats;
    fs_loader_get_stats(f->loader, &stats);
    return stats;
}

static void any_range_comes_as_it_is_in_the_file(void **state)
{
    fixture f;
    fs_random random = {5};
    begin(&f, "/tmp");
    for (int mode = 0; mode < 4; mode++) {
        open_loader(&f, mode, 3);
        for (int round = 0; round < 10; round++) {
            add(&f, 0, 1, false);
            add(&f, FILE_BYTES - 1, 1, false);
            add(&f, FILE_BYTES - 5000, 5000, false);
            add(&f, 512 * 7, 512 * 50, true);
            add(&f, 4096, READ_BYTES, false);
            add(&f, 0, FILE_BYTES, round % 2);
            while (f.num_items < MOST_LOADS) {
                uint64_t offset = fs_random_below(&random, FILE_BYTES), left = FILE_BYTES - offset;
                uint64_t most = round % 3 == 0 ? 3 * READ_BYTES : 9000;
                add(&f, offset, 1 + fs_random_below(&random, (uint32_t)(left < most ? left : most)),
                    round & 1);
            }
            run_all(&f);
            for (uint32_t i = 0; i < f.num_items; i++) {
                check(&f, &f.items[i]);
                free(f.items[i].memory);
            }
            memset(f.items, 0, sizeof(f.items));
            f.num_items = f.num_ended = 0;
        }
        assert_int_equal(stats_of(&f).in_flight, 0);
        assert_int_equal(stats_of(&f).failed_loads, 0);
        close_loader(&f);
    }
    end(&f);
}

static void several_ranges_are_one_load(void **state)
{
    static const uint64_t ranges[3][2] = {{100, 3000}, {3200, 1000}, {500000, 100000}};
    fixture f;
    begin(&f, "/tmp");
    for (int mode = 0; mode < 4; mode++) {
        open_loader(&f, mode, 2);
        item *it = add_ranges(&f, 3, ranges, false);
        run_all(&f);
        check(&f, it);
        assert_int_equal(stats_of(&f).loads, 1);
        assert_int_equal(stats_of(&f).reads,
                         3); /* the first two lie together, the last is larger than a read */
        close_loader(&f);
    }
    end(&f);
}

static void what_lies_side_by_side_is_one_read(void **state)
{
    fixture f;
    begin(&f, "/tmp");
    for (int mode = 0; mode < 4; mode++) {
        open_loader(&f, mode, 8);
        for (uint32_t i = 0; i < 10; i++) add(&f, 8192 + 512 * 9 * (uint64_t)i, 512 * 9, false);
        item *far_off = add(&f, 900000, 1000, false);
        run_all(&f);
        for (uint32_t i = 0; i < f.num_items; i++) check(&f, &f.items[i]);
        check(&f, far_off);
        assert_int_equal(stats_of(&f).reads, 2);
        assert_int_equal(stats_of(&f).joined_loads, 10);
        close_loader(&f);
    }
    end(&f);
}

/* With one read at a time the order of the ends is the order of the reads. */
static void urgent_loads_overtake(void **state)
{
    fixture f;
    begin(&f, "/tmp");
    for (int mode = 0; mode < 4; mode++) {
        open_loader(&f, mode, 1);
        item *first = add(&f, 0, 1000, false);
        fs_loader_go(f.loader); /* is being read by now */
        item *second = add(&f, 200000, 1000, false), *third = add(&f, 400000, 1000, false);
        item *urgent = add(&f, 600000, 1000, true);
        fs_loader_hurry(f.loader, &third->load);
        fs_loader_hurry(f.loader, &first->load);
        run_all(&f);
        assert_int_equal(first->order, 1);
        assert_int_equal(urgent->order, 2);
        assert_int_equal(third->order, 3);
        assert_int_equal(second->order, 4);
        close_loader(&f);
    }
    end(&f);
}

static void a_truncated_file_is_an_error_with_its_place(void **state)
{
    fixture f;
    begin(&f, "/tmp");
    for (int mode = 0; mode < 4; mode++) {
        write_file(f.path, f.content, FILE_BYTES);
        open_loader(&f, mode, 2);
        assert_int_equal(truncate(f.path, 300100), 0);
        item *inside = add(&f, 299000, 1000, false), *over = add(&f, 300000, 1000, false);
        item *beyond = add(&f, 301000, 1000, false), *large = add(&f, 100000, 400000, false);
        item *end_of_it = add(&f, 300000, 100, true);
        run_all(&f);
        check(&f, inside);
        check(&f, end_of_it);
        item *bad[] = {over, beyond, large};
        for (int i = 0; i < 3; i++) {
            assert_int_equal(bad[i]->load.status, FS_CORRUPT);
            assert_int_equal(bad[i]->verified, 0);
            assert_non_null(strstr(bad[i]->load.detail.text, f.path));
        }
        assert_non_null(strstr(over->load.detail.text, "offset 300000"));
        assert_non_null(strstr(over->load.detail.text, "ends at 300100"));
        assert_int_equal(stats_of(&f).failed_loads, 3);
        close_loader(&f);
    }
    end(&f);
}

static void a_read_that_fails_is_an_error_with_its_place(void **state)
{
    fixture f;
    begin(&f, "/tmp");
    for (int mode = 0; mode < 4; mode++) {
        open_loader(&f, mode, 2);
        assert_int_equal(fs_loader_add_file(f.loader, "/tmp", NULL), FS_OK); /* opens, and cannot be read */
        item *good = add(&f, 5000, 600, false), *bad = add(&f, 5600, 600, false),
             *worse = add(&f, 6200, 600, false);
        bad->load.range[0].file = worse->load.range[0].file = 1;
        run_all(&f);
        check(&f, good);
        assert_int_equal(bad->load.status, FS_IO);
        assert_int_equal(worse->load.status, FS_IO);
        assert_string_equal(bad->load.detail.text,
                            "/tmp: cannot read 600 bytes at offset 5600: Is a directory");
        assert_string_equal(worse->load.detail.text,
                            "/tmp: cannot read 600 bytes at offset 6200: Is a directory");
        close_loader(&f);
    }
    end(&f);
}

static void what_the_check_refuses_is_refused_alone(void **state)
{
    fixture f;
    begin(&f, "/tmp");
    for (int mode = 0; mode < 4; mode++) {
        open_loader(&f, mode, 2);
        item *good = add(&f, 0, 512, false), *bad = add(&f, 512, 512, false),
             *large = add(&f, 1024, 300000, false);
        bad->refuse = large->refuse = true;
        run_all(&f);
        check(&f, good);
        assert_int_equal(bad->load.status, FS_CORRUPT);
        assert_string_equal(bad->load.detail.text, "not to our liking");
        assert_int_equal(large->load.status, FS_CORRUPT);
        assert_int_equal(large->verified, 1);
        close_loader(&f);
    }
    end(&f);
}

static void a_file_that_was_replaced_is_read_as_it_was(void **state)
{
    fixture f;
    begin(&f, "/tmp");
    for (int mode = 0; mode < 4; mode++) {
        char other[160];
        snprintf(other, sizeof(other), "%s.new", f.path);
        write_file(f.path, f.content, FILE_BYTES);
        open_loader(&f, mode, 2);
        write_file(other, (const uint8_t *)"short", 5);
        assert_int_equal(rename(other, f.path), 0);
        item *it = add(&f, 300000, 10000, false);
        run_all(&f);
        check(&f, it);
        close_loader(&f);
    }
    end(&f);
}

static void memory_files_are_read_too(void **state)
{
    fixture f;
    begin(&f, "/dev/shm");
    for (int mode = 0; mode < 4; mode++) {
        open_loader(&f, mode, 2);
        item *it = add(&f, 77, FILE_BYTES - 77, false);
        run_all(&f);
        check(&f, it);
        close_loader(&f);
    }
    end(&f);
}

static void closing_waits_for_the_reads_under_way(void **state)
{
    fixture f;
    begin(&f, "/tmp");
    for (int mode = 0; mode < 4; mode++)
        for (int turns = 0; turns < 4; turns++) {
            open_loader(&f, mode, 4);
            for (uint32_t i = 0; i < 20; i++) add(&f, 40000 * (uint64_t)i, 39000, i % 2);
            fs_loader_go(f.loader);
            for (int i = 0; i < turns; i++) uv_run(&f.loop, UV_RUN_NOWAIT);
            close_loader(&f);
        }
    end(&f);
}

static void a_missing_file_is_not_found(void **state)
{
    fixture f;
    fs_detail detail = {0};
    begin(&f, "/tmp");
    open_loader(&f, 0, 1);
    assert_int_equal(fs_loader_add_file(f.loader, "/tmp/there is no such file", &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "/tmp/there is no such file"));
    close_loader(&f);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_range_comes_as_it_is_in_the_file),
        cmocka_unit_test(several_ranges_are_one_load),
        cmocka_unit_test(what_lies_side_by_side_is_one_read),
        cmocka_unit_test(urgent_loads_overtake),
        cmocka_unit_test(a_truncated_file_is_an_error_with_its_place),
        cmocka_unit_test(a_read_that_fails_is_an_error_with_its_place),
        cmocka_unit_test(what_the_check_refuses_is_refused_alone),
        cmocka_unit_test(a_file_that_was_replaced_is_read_as_it_was),
        cmocka_unit_test(memory_files_are_read_too),
        cmocka_unit_test(closing_waits_for_the_reads_under_way),
        cmocka_unit_test(a_missing_file_is_not_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
