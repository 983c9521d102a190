/* tests/unit/common/trace/trace_test.c: what is written is read, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "trace/trace.h"

enum { LAYERS = 2, TOP_K = 2 };
static const fs_trace_model small = {LAYERS, 8, TOP_K, 0x1234567890abcdefull, 4096};
static const fs_trace_model wide = {LAYERS, 300, TOP_K, 7, 0};

static const fs_trace_part parts[] = {{0, 0, 5}, {1, 300, 1}};
static const uint16_t experts[] = {0, 7, 1, 6, 2, 5, 3, 4};
static const uint16_t wide_experts[] = {0, 299, 1, 256, 2, 255, 3, 4};

static uint32_t events_of(const fs_trace_model *model, fs_trace_event out[8])
{
    const fs_trace_event list[] = {
        {.kind = FS_TRACE_ARRIVE, .time_ns = 0, .sequence = 0, .first = 5, .count = 100000},
        {.kind = FS_TRACE_ROUTES,
         .time_ns = 127,
         .sequence = 0,
         .first = 3,
         .count = 2,
         .expert = model == &wide ? wide_experts : experts},
        {.kind = FS_TRACE_STEP, .time_ns = 128, .lane = 1, .num_parts = 2, .part = parts},
        {.kind = FS_TRACE_EXPERTS, .time_ns = 1000000, .lane = 1, .layer = 1},
        {.kind = FS_TRACE_RESULTS, .time_ns = 1000000, .lane = 1, .layer = 1},
        {.kind = FS_TRACE_DONE, .time_ns = 1ll << 40, .lane = 1},
        {.kind = FS_TRACE_END, .time_ns = (1ll << 40) + 1, .sequence = UINT32_MAX},
    };
    memcpy(out, list, sizeof list);
    return sizeof list / sizeof *list;
}

static void write_all(const fs_trace_model *model, fs_buffer *out)
{
    fs_trace_event event[8];
    uint32_t n = events_of(model, event);
    fs_trace_append_header(out, model);
    for (uint32_t i = 0; i < n; i++) fs_trace_append(out, model, &event[i], i ? event[i - 1].time_ns : 0);
    assert_false(out->failed);
}

static void expect_event(const fs_trace_event *got, const fs_trace_event *want)
{
    assert_int_equal(got->kind, want->kind);
    assert_int_equal(got->time_ns, want->time_ns);
    assert_int_equal(got->sequence, want->sequence);
    assert_int_equal(got->first, want->first);
    assert_int_equal(got->count, want->count);
    assert_int_equal(got->lane, want->lane);
    assert_int_equal(got->layer, want->layer);
    assert_int_equal(got->num_parts, want->num_parts);
    if (want->part) assert_memory_equal(got->part, want->part, want->num_parts * sizeof *want->part);
    if (want->expert)
        assert_memory_equal(got->expert, want->expert, want->count * LAYERS * TOP_K * sizeof *want->expert);
}

static void events_come_back_as_they_were(void **state)
{
    const fs_trace_model *const models[] = {&small, &wide};
    for (int m = 0; m < 2; m++) {
        fs_buffer bytes = {0};
        write_all(models[m], &bytes);
        fs_trace_reader *r = NULL;
        assert_int_equal(fs_trace_open(bytes.data, bytes.size, "t", &r, NULL), FS_OK);
        assert_memory_equal(fs_trace_reader_model(r), models[m], sizeof(fs_trace_model));
        fs_trace_event want[8], got;
        uint32_t n = events_of(models[m], want);
        bool cut = true;
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(fs_trace_next(r, &got, &cut, NULL), FS_OK);
            expect_event(&got, &want[i]);
        }
        assert_int_equal(fs_trace_next(r, &got, &cut, NULL), FS_NOT_FOUND);
        assert_false(cut);
        fs_trace_reader_free(r);
        fs_buffer_free(&bytes);
    }
}

/* Reads to the end; returns how it ended, and how many events came. */
static fs_status read_all(const uint8_t *data, size_t size, uint32_t *count, bool *cut)
{
    uint8_t *exact = malloc(size ? size : 1); /* a read past the end is seen */
    memcpy(exact, data, size);
    fs_trace_reader *r = NULL;
    fs_detail detail = {0};
    fs_trace_event event;
    *count = 0;
    fs_status st = fs_trace_open(exact, size, "t", &r, &detail);
    while (st == FS_OK && (st = fs_trace_next(r, &event, cut, &detail)) == FS_OK) ++*count;
    assert_true(st == FS_NOT_FOUND || detail.text[0] == 't');
    fs_trace_reader_free(r);
    free(exact);
    return st;
}

static void a_trace_cut_off_anywhere_ends_before_the_cut(void **state)
{
    fs_buffer bytes = {0};
    write_all(&small, &bytes);
    uint32_t count, last = 0;
    bool cut = false;
    for (size_t size = 0; size < bytes.size; size++) {
        fs_status st = read_all(bytes.data, size, &count, &cut);
        assert_int_equal(st, size < 32 ? FS_CORRUPT : FS_NOT_FOUND);
        assert_true(count >= last && count < 7);
        last = count;
    }
    fs_buffer_free(&bytes);
}

static void every_changed_byte_is_read_or_refused(void **state)
{
    fs_buffer bytes = {0};
    write_all(&small, &bytes);
    uint32_t count;
    bool cut;
    for (size_t i = 0; i < bytes.size; i++)
        for (int v = 0; v < 256; v++) {
            uint8_t was = bytes.data[i];
            bytes.data[i] = (uint8_t)v;
            (void)read_all(bytes.data, bytes.size, &count, &cut);
            bytes.data[i] = was;
        }
    bytes.data[4] = 2;
    assert_int_equal(read_all(bytes.data, bytes.size, &count, &cut), FS_UNSUPPORTED);
    bytes.data[0] = 'X';
    assert_int_equal(read_all(bytes.data, bytes.size, &count, &cut), FS_CORRUPT);
    fs_buffer_free(&bytes);
}

static void an_expert_that_there_is_not_is_refused(void **state)
{
    fs_buffer bytes = {0};
    const uint16_t wrong[] = {0, 8, 1, 6};
    const fs_trace_event e = {.kind = FS_TRACE_ROUTES, .count = 1, .expert = wrong};
    fs_trace_append_header(&bytes, &small);
    fs_trace_append(&bytes, &small, &e, 0);
    uint32_t count;
    bool cut;
    assert_int_equal(read_all(bytes.data, bytes.size, &count, &cut), FS_CORRUPT);
    fs_buffer_free(&bytes);
}

static void a_file_holds_what_was_written(void **state)
{
    char path[] = "/tmp/fs-trace-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    fs_trace_writer *w = NULL;
    assert_int_equal(fs_trace_create(path, &small, &w, NULL), FS_OK);
    enum { MANY = 20000 }; /* more than is written at a time */
    for (uint32_t i = 0; i < MANY; i++) {
        const fs_trace_event e = {
            .kind = FS_TRACE_ROUTES, .sequence = i, .first = 1, .count = 2, .expert = experts};
        fs_trace_write(w, &e);
    }
    assert_int_equal(fs_trace_close(w, NULL), FS_OK);
    fs_buffer bytes = {0};
    assert_int_equal(fs_file_read(path, 16u << 20, &bytes, NULL), FS_OK);
    uint32_t count;
    bool cut = true;
    assert_int_equal(read_all(bytes.data, bytes.size, &count, &cut), FS_NOT_FOUND);
    assert_int_equal(count, MANY);
    assert_false(cut);
    fs_buffer_free(&bytes);
    unlink(path);
}

static void what_cannot_be_written_is_told(void **state)
{
    fs_trace_writer *w = NULL;
    fs_detail detail = {0};
    assert_int_equal(fs_trace_create("/nowhere/at/all", &small, &w, &detail), FS_IO);
    assert_non_null(strstr(detail.text, "/nowhere/at/all"));
    const fs_trace_model none = {0};
    assert_int_equal(fs_trace_create("/tmp/fs-trace-none", &none, &w, &detail), FS_INVALID);
    if (access("/dev/full", W_OK) != 0) return;
    assert_int_equal(fs_trace_create("/dev/full", &small, &w, &detail), FS_OK);
    const fs_trace_event e = {.kind = FS_TRACE_END};
    for (int i = 0; i < 100000; i++) fs_trace_write(w, &e);
    assert_int_equal(fs_trace_close(w, &detail), FS_IO);
    assert_non_null(strstr(detail.text, "No space left"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_come_back_as_they_were),
        cmocka_unit_test(a_trace_cut_off_anywhere_ends_before_the_cut),
        cmocka_unit_test(every_changed_byte_is_read_or_refused),
        cmocka_unit_test(an_expert_that_there_is_not_is_refused),
        cmocka_unit_test(a_file_holds_what_was_written),
        cmocka_unit_test(what_cannot_be_written_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
