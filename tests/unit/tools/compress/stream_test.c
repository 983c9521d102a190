/* tests/unit/tools/compress/stream_test.c: the residual stream of a small model, saved and gone on with. Its experts give nothing here: their
 * rows stay zero. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/random.h"
#include "compress/calibrate.h"

#define GOLDEN FS_SOURCE_DIR "/tests/golden/readme_moe_dense"
enum { LENGTH = 16, WINDOWS = 5, CALIBRATION = 3, LAYERS = 2 };

typedef struct {
    char dir[64];
    fs_input in;
    fs_windows windows;
    fs_pool *pool;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    fs_random random = {3};
    fs_detail detail;
    snprintf(f->dir, sizeof(f->dir), "/tmp/stream_test_XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->in.dir = GOLDEN;
    assert_int_equal(fs_model_config_load(GOLDEN, &f->in.config, &detail), FS_OK);
    assert_int_equal(fs_tensors_open(GOLDEN, &f->in.tensors, &detail), FS_OK);
    assert_int_equal(fs_pool_create(1, &f->pool), FS_OK);
    f->windows = (fs_windows){LENGTH, CALIBRATION, WINDOWS, malloc(WINDOWS * LENGTH * sizeof(uint32_t))};
    for (int i = 0; i < WINDOWS * LENGTH; i++)
        f->windows.token[i] = fs_random_below(&random, f->in.config.vocab_size);
    *state = f;
    return 0;
}

static uint32_t num_files(const fixture *f)
{
    uint32_t count = 0;
    DIR *dir = opendir(f->dir);
    for (struct dirent *e; (e = readdir(dir));) count += e->d_name[0] != '.';
    closedir(dir);
    return count;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    assert_int_equal(rmdir(f->dir), 0); /* nothing was left */
    fs_windows_free(&f->windows);
    fs_pool_destroy(f->pool);
    fs_tensors_close(f->in.tensors);
    free(f);
    return 0;
}

static fs_status begin(fixture *f, uint32_t num_done, const uint64_t *saved, fs_stream *out,
                       fs_detail *detail)
{
    return fs_stream_open(&f->in, &f->windows, f->dir, f->pool, num_done, saved, out, detail);
}

static void go_through(fs_stream *s, uint32_t layer, uint64_t sum[FS_NUM_PLANES])
{
    fs_detail detail = {0};
    if (fs_stream_attend(s, layer, &detail) != FS_OK || fs_stream_combine(s, layer, sum, &detail) != FS_OK)
        fail_msg("%s", detail.text);
    fs_stream_advance(s);
}

/* Leaves the stream behind the first layer in files. */
static void save_one_layer(fixture *f, uint64_t sum[FS_NUM_PLANES])
{
    fs_stream s;
    fs_detail detail;
    assert_int_equal(begin(f, 0, NULL, &s, &detail), FS_OK);
    go_through(&s, 0, sum);
    fs_stream_close(&s, true);
    assert_int_equal(num_files(f), FS_NUM_PLANES);
}

static void a_saved_stream_goes_on_as_if_it_had_never_stopped(void **state)
{
    fixture *f = *state;
    fs_stream s;
    fs_detail detail = {0};
    uint64_t whole[FS_NUM_PLANES], first[FS_NUM_PLANES], second[FS_NUM_PLANES], tokens[2];
    double loss[2][FS_NUM_PLANES];
    assert_int_equal(begin(f, 0, NULL, &s, &detail), FS_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++) go_through(&s, layer, whole);
    assert_int_equal(fs_stream_loss(&s, loss[0], &tokens[0], &detail), FS_OK);
    fs_stream_close(&s, false);
    assert_int_equal(num_files(f), 0);

    save_one_layer(f, first);
    assert_int_equal(begin(f, 1, first, &s, &detail), FS_OK);
    go_through(&s, 1, second);
    assert_memory_equal(second, whole, sizeof(whole));
    assert_int_equal(fs_stream_loss(&s, loss[1], &tokens[1], &detail), FS_OK);
    assert_memory_equal(loss[0], loss[1], sizeof(loss[0]));
    assert_int_equal(tokens[1], (WINDOWS - CALIBRATION) * (LENGTH - 1));
    fs_stream_close(&s, false);
}

/* Without experts there is nothing that two planes could differ in. */
static void both_planes_are_one_model_until_experts_differ(void **state)
{
    fixture *f = *state;
    fs_stream s;
    fs_detail detail;
    uint64_t sum[FS_NUM_PLANES], tokens;
    double loss[FS_NUM_PLANES];
    assert_int_equal(begin(f, 0, NULL, &s, &detail), FS_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        go_through(&s, layer, sum);
        assert_int_equal(sum[FS_PLANE_SERVED], sum[FS_PLANE_DENSE]);
    }
    assert_int_equal(fs_stream_loss(&s, loss, &tokens, &detail), FS_OK);
    assert_true(loss[0] == loss[1] && loss[0] > 1 && loss[0] < 20);
    fs_stream_close(&s, false);
}

static void saved_path(const fixture *f, const char *plane, char out[128])
{
    snprintf(out, 128, "%s/work-x-%s-1", f->dir, plane);
}

static void refused(fixture *f, const uint64_t sum[FS_NUM_PLANES], fs_status st, const char *path)
{
    fs_stream s;
    fs_detail detail = {0};
    assert_int_equal(begin(f, 1, sum, &s, &detail), st);
    if (!strstr(detail.text, path)) fail_msg("'%s' does not name %s", detail.text, path);
    fs_stream_close(&s, true);
}

static void a_saved_stream_that_is_not_whole_is_refused(void **state)
{
    static const char *const planes[] = {"served", "dense"};
    fixture *f = *state;
    uint64_t sum[FS_NUM_PLANES];
    save_one_layer(f, sum);
    for (int p = 0; p < FS_NUM_PLANES; p++) {
        char path[128];
        saved_path(f, planes[p], path);
        FILE *file = fopen(path, "r+b");
        assert_int_equal(fseek(file, 1001, SEEK_SET), 0);
        const int byte = fgetc(file);
        fseek(file, 1001, SEEK_SET);
        fputc(byte ^ 4, file);
        fflush(file);
        refused(f, sum, FS_CORRUPT, path);
        fseek(file, 1001, SEEK_SET);
        fputc(byte, file);
        fclose(file);
    }
    char path[128];
    saved_path(f, "dense", path);
    assert_int_equal(truncate(path, 1000), 0);
    refused(f, sum, FS_CORRUPT, path);
    assert_int_equal(unlink(path), 0);
    refused(f, sum, FS_NOT_FOUND, path);
    saved_path(f, "served", path);
    assert_int_equal(unlink(path), 0);
    refused(f, sum, FS_NOT_FOUND, path);
}

static void what_it_takes_is_what_was_told(void **state)
{
    fixture *f = *state;
    fs_stream s;
    fs_detail detail;
    assert_int_equal(begin(f, 0, NULL, &s, &detail), FS_OK);
    assert_int_equal(fs_stream_disk_bytes(&f->in.config, &f->windows), (uint64_t)WINDOWS * LENGTH *
                                                                           f->in.config.hidden_size * 4 * 2 *
                                                                           (4 + f->in.config.top_k));
    assert_int_equal(num_files(f),
                     4 * FS_NUM_PLANES); /* the stream, behind attention, for the experts, of the experts */
    fs_stream_close(&s, false);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_saved_stream_goes_on_as_if_it_had_never_stopped),
        TEST(both_planes_are_one_model_until_experts_differ),
        TEST(a_saved_stream_that_is_not_whole_is_refused),
        TEST(what_it_takes_is_what_was_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
