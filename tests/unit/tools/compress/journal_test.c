/* tests/unit/tools/compress/journal_test.c: what a journal says after any end that a run may come to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/random.h"
#include "compress/journal.h"

enum { LAYERS = 2, EXPERTS = 3, PRINT = 77 };

typedef struct {
    char dir[64], path[80];
    fs_model_config config;
    fs_buffer whole; /* a journal of everything */
} fixture;

static fs_expert_result result_of(uint32_t moe, uint32_t expert)
{
    fs_expert_result r = {.num_rows = 1000 * moe + expert, .borrowed = expert};
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++)
        r.part[i] = (fs_matrix_result){
            {FS_SUB1_BLOCKED, 2, 16}, 1.0 / (3 + i + expert), 0.125, 0.1, 4096u * (uint32_t)(i + 1)};
    return r;
}

static fs_status open_journal(const fixture *f, uint64_t print, fs_journal *out, fs_detail *detail)
{
    return fs_journal_open(f->dir, &f->config, print, out, detail);
}

static void write_file(const fixture *f, const void *data, size_t size)
{
    FILE *file = fopen(f->path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    fs_journal j;
    fs_detail detail;
    snprintf(f->dir, sizeof(f->dir), "/tmp/journal_test_XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/journal", f->dir);
    f->config = (fs_model_config){.num_moe_layers = LAYERS, .num_experts = EXPERTS};
    assert_int_equal(open_journal(f, PRINT, &j, &detail), FS_OK);
    assert_true(j.begun_now);
    for (uint32_t moe = 0; moe < LAYERS; moe++) {
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const fs_expert_result r = result_of(moe, e);
            assert_int_equal(fs_journal_add_expert(&j, moe, e, 100 * moe + e, &r, &detail), FS_OK);
        }
        assert_int_equal(fs_journal_add_layer(&j, moe, (uint64_t[]){moe + 1, moe + 2}, &detail), FS_OK);
    }
    fs_journal_close(&j);
    assert_int_equal(fs_file_read(f->path, 1 << 20, &f->whole, &detail), FS_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    unlink(f->path);
    rmdir(f->dir);
    fs_buffer_free(&f->whole);
    free(f);
    return 0;
}

/* Facts in the order in which set_up wrote them. */
static uint32_t count_facts(const fs_journal *j)
{
    uint32_t facts = j->num_layers_done;
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) facts += j->expert[i].done;
    return facts;
}

static void what_was_written_comes_back_to_the_bit(void **state)
{
    fixture *f = *state;
    fs_journal j;
    fs_detail detail;
    assert_int_equal(open_journal(f, PRINT, &j, &detail), FS_OK);
    assert_false(j.begun_now);
    assert_int_equal(j.num_layers_done, LAYERS);
    assert_int_equal(j.stream[0], LAYERS);
    assert_int_equal(j.stream[1], LAYERS + 1);
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
        const fs_expert_result r = result_of(i / EXPERTS, i % EXPERTS);
        assert_true(j.expert[i].done);
        assert_int_equal(j.expert[i].checksum, 100 * (i / EXPERTS) + i % EXPERTS);
        assert_memory_equal(&j.expert[i].result.part[2].error, &r.part[2].error, sizeof(double));
        assert_int_equal(j.expert[i].result.part[1].bytes, r.part[1].bytes);
        assert_int_equal(j.expert[i].result.borrowed, r.borrowed);
    }
    fs_journal_close(&j);
}

static void a_journal_cut_off_at_any_byte_keeps_its_whole_lines(void **state)
{
    fixture *f = *state;
    uint32_t lines = 0;
    for (size_t size = 0; size <= f->whole.size; size++) {
        fs_journal j;
        fs_detail detail = {0};
        if (size > 0 && f->whole.data[size - 1] == '\n') lines++;
        write_file(f, f->whole.data, size);
        if (open_journal(f, PRINT, &j, &detail) != FS_OK) fail_msg("%zu bytes: %s", size, detail.text);
        assert_int_equal(j.begun_now, lines == 0);
        assert_int_equal(count_facts(&j), lines ? lines - 1 : 0);
        fs_journal_close(&j);
    }
    assert_int_equal(lines, 1 + LAYERS * (EXPERTS + 1));
}

/* The line that was cut off is gone for good: what is written next stands on a line of its own. */
static void writing_goes_on_behind_a_line_that_was_cut_off(void **state)
{
    fixture *f = *state;
    for (size_t cut = 1; cut < 200; cut += 37) {
        fs_journal j;
        fs_detail detail;
        const fs_expert_result r = result_of(1, 2);
        write_file(f, f->whole.data, f->whole.size - cut);
        assert_int_equal(open_journal(f, PRINT, &j, &detail), FS_OK);
        const uint32_t facts = count_facts(&j);
        const bool known = j.expert[1 * EXPERTS + 2].done;
        assert_int_equal(fs_journal_add_expert(&j, 1, 2, 9, &r, &detail), FS_OK);
        fs_journal_close(&j);
        assert_int_equal(open_journal(f, PRINT, &j, &detail), FS_OK);
        assert_int_equal(count_facts(&j), facts + !known);
        assert_int_equal(j.expert[1 * EXPERTS + 2].checksum, 9);
        fs_journal_close(&j);
    }
}

/* A changed byte is told, or hides what stands on the last line: never is anything else read than was written. */
static void a_changed_byte_adds_nothing(void **state)
{
    fixture *f = *state;
    static const uint8_t changes[] = {1, 0x20, 0x80, 0xff};
    uint8_t *bytes = malloc(f->whole.size);
    const uint32_t all = LAYERS * (EXPERTS + 1);
    for (size_t at = 0; at < f->whole.size; at++)
        for (size_t c = 0; c < sizeof(changes); c++) {
            fs_journal j;
            fs_detail detail = {0};
            memcpy(bytes, f->whole.data, f->whole.size);
            bytes[at] ^= changes[c];
            write_file(f, bytes, f->whole.size);
            fs_status st = open_journal(f, PRINT, &j, &detail);
            if (st == FS_OK) {
                assert_true(count_facts(&j) < all);
                fs_journal_close(&j);
            } else {
                assert_int_equal(st, FS_CORRUPT);
                assert_non_null(strstr(detail.text, f->path));
            }
        }
    free(bytes);
}

static void garbage_is_no_journal(void **state)
{
    fixture *f = *state;
    fs_random random = {4};
    for (int i = 0; i < 200; i++) {
        uint8_t bytes[300];
        fs_journal j;
        fs_detail detail = {0};
        for (size_t k = 0; k < sizeof(bytes); k++) bytes[k] = (uint8_t)(1 + fs_random_below(&random, 255));
        bytes[10 + i] = '\n';
        write_file(f, bytes, sizeof(bytes));
        assert_int_equal(open_journal(f, PRINT, &j, &detail), FS_CORRUPT);
    }
}

/* As another version of the program could write it: with a checksum that is right. */
static void append_line(fs_buffer *out, const char *text)
{
    fs_buffer_printf(out, "%s #%016llx\n", text, (unsigned long long)XXH3_64bits(text, strlen(text)));
}

static void lines_that_cannot_be_are_refused(void **state)
{
    fixture *f = *state;
    const char *const lines[] = {
        "",
        "expert",
        "layer 0 1 2",                     /* none of its experts is done */
        "layer 7 1 2",                     /* there is none */
        "expert 0 0 00000000000000ff 5 0", /* without its matrices */
        "expert 2 0 ff 5 0 1 2 16 0x1p-1 0x1p-3 0x1p-4 64 1 2 16 0x1p-1 0x1p-3 0x1p-4 64 1 2 16 0x1p-1 "
        "0x1p-3 0x1p-4 64",
        "expert 0 3 ff 5 0 1 2 16 0x1p-1 0x1p-3 0x1p-4 64 1 2 16 0x1p-1 0x1p-3 0x1p-4 64 1 2 16 0x1p-1 "
        "0x1p-3 0x1p-4 64",
        "foresight-compress journal 1 000000000000004d",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
        fs_buffer text = {0};
        fs_journal j;
        fs_detail detail = {0};
        append_line(&text, "foresight-compress journal 1 000000000000004d");
        append_line(&text, lines[i]);
        write_file(f, text.data, text.size);
        if (open_journal(f, PRINT, &j, &detail) != FS_CORRUPT) fail_msg("'%s' was read", lines[i]);
        assert_non_null(strstr(detail.text, ":2"));
        fs_buffer_free(&text);
    }
}

static void another_input_or_other_options_are_refused(void **state)
{
    fixture *f = *state;
    fs_journal j;
    fs_detail detail = {0};
    assert_int_equal(open_journal(f, PRINT + 1, &j, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "other options"));
}

static void two_runs_do_not_share_a_journal(void **state)
{
    fixture *f = *state;
    fs_journal first, second;
    fs_detail detail = {0};
    assert_int_equal(open_journal(f, PRINT, &first, &detail), FS_OK);
    assert_int_equal(open_journal(f, PRINT, &second, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "another run"));
    fs_journal_close(&first);
    assert_int_equal(open_journal(f, PRINT, &second, &detail), FS_OK);
    fs_journal_close(&second);
}

static void layers_can_be_gone_through_again(void **state)
{
    fixture *f = *state;
    fs_journal j;
    fs_detail detail = {0};
    assert_int_equal(open_journal(f, PRINT, &j, &detail), FS_OK);
    fs_journal_rewind(&j);
    assert_int_equal(j.num_layers_done, 0);
    assert_int_equal(fs_journal_add_layer(&j, 0, (uint64_t[]){5, 6}, &detail), FS_OK);
    fs_journal_close(&j);
    assert_int_equal(open_journal(f, PRINT, &j, &detail), FS_OK);
    assert_int_equal(j.num_layers_done, 1);
    assert_int_equal(j.stream[0], 5);
    assert_int_equal(count_facts(&j), 1 + LAYERS * EXPERTS);
    fs_journal_close(&j);
}

static void a_removed_journal_is_gone_and_what_it_knew_is_not(void **state)
{
    fixture *f = *state;
    fs_journal j;
    fs_detail detail = {0};
    assert_int_equal(open_journal(f, PRINT, &j, &detail), FS_OK);
    assert_int_equal(fs_journal_remove(&j, &detail), FS_OK);
    assert_int_equal(access(f->path, F_OK), -1);
    assert_int_equal(count_facts(&j), LAYERS * (EXPERTS + 1));
    fs_journal_close(&j);
}

static void a_folder_that_is_not_there_is_named(void **state)
{
    fixture *f = *state;
    fixture none = *f;
    fs_journal j;
    fs_detail detail = {0};
    strcpy(none.dir, "/tmp/journal_test_none");
    assert_int_equal(open_journal(&none, PRINT, &j, &detail), FS_IO);
    assert_non_null(strstr(detail.text, none.dir));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_written_comes_back_to_the_bit),
        TEST(a_journal_cut_off_at_any_byte_keeps_its_whole_lines),
        TEST(writing_goes_on_behind_a_line_that_was_cut_off),
        TEST(a_changed_byte_adds_nothing),
        TEST(garbage_is_no_journal),
        TEST(lines_that_cannot_be_are_refused),
        TEST(another_input_or_other_options_are_refused),
        TEST(two_runs_do_not_share_a_journal),
        TEST(layers_can_be_gone_through_again),
        TEST(a_removed_journal_is_gone_and_what_it_knew_is_not),
        TEST(a_folder_that_is_not_there_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
