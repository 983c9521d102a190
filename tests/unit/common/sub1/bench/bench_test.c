/* What the benchmark promises whatever the speed: reads that read everything, sizes counted truly, options refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/random.h"
#include "bench/bench.h"
#include "bench/memory.h"
#include "compute/kernels.h"

static uint32_t usable_readers(fs_bench_reader *out[3])
{
    uint32_t count = 0;
    out[count++] = fs_bench_read_plain;
#if defined(__x86_64__)
    if (fs_isa_best() >= FS_ISA_AVX2) out[count++] = fs_bench_read_avx2;
    if (fs_isa_best() >= FS_ISA_AVX512) out[count++] = fs_bench_read_avx512;
#endif
    return count;
}

static uint64_t words_of(const uint8_t *bytes, size_t size)
{
    uint64_t all = 0, word;
    for (size_t i = 0; i < size; i += sizeof(word)) {
        memcpy(&word, bytes + i, sizeof(word));
        all ^= word;
    }
    return all;
}

static void every_pattern_on_every_isa_reads_each_word_once(void **state)
{
    enum { MOST = 40 * 1024 };
    uint8_t *bytes = fs_alloc_aligned(MOST);
    fs_bench_reader *reader[3];
    fs_random random = {3};
    uint32_t readers = usable_readers(reader);
    for (size_t i = 0; i < MOST; i++) bytes[i] = (uint8_t)fs_random_next(&random);
    for (size_t size = 0; size <= MOST; size += size < 4096 ? 64 : 1600 / 64 * 64) {
        uint64_t want = words_of(bytes, size);
        for (uint32_t pattern = 0; pattern < FS_BENCH_READ_PATTERNS; pattern++) {
            for (uint32_t k = 0; k < readers; k++) assert_int_equal(reader[k](bytes, size, pattern), want);
        }
        for (uint32_t way = 0; way < fs_bench_read_ways(); way++)
            assert_int_equal(fs_bench_read(bytes, size, way), want);
    }
    free(bytes);
}

static void flushed_memory_keeps_what_it_holds(void **state)
{
    uint8_t *bytes = fs_bench_map(100000);
    assert_non_null(bytes);
    memset(bytes, 7, 100000);
    fs_bench_flush(bytes, 100000);
    for (size_t i = 0; i < 100000; i++) assert_int_equal(bytes[i], 7);
    fs_bench_unmap(bytes, 100000);
    fs_bench_unmap(NULL, 0);
}

static const fs_sub1_bench_options small = {.rows = 64,
                                            .cols = 256,
                                            .batch = 3,
                                            .threads = 2,
                                            .rounds = 1,
                                            .memory = 1 << 17,
                                            .l2 = true,
                                            .dram = true};

static const fs_sub1_bench_row *find(const fs_sub1_bench_result *result, const char *where,
                                     const char *format)
{
    for (uint32_t i = 0; i < result->num_rows; i++)
        if (strcmp(result->row[i].where, where) == 0 && strcmp(result->row[i].format, format) == 0)
            return &result->row[i];
    fail_msg("no row %s %s", where, format);
    return NULL;
}

static void each_format_has_a_row_in_each_place_and_is_as_large_as_it_is(void **state)
{
    static const struct {
        const char *format;
        double bits;
    } want[] = {
        /* docs/formats.md: a header of 64 bytes, then for 64 rows scales of 4 (symmetric 2) bytes and the blocks' codes and signs */
        {"memory read", 0},
        {"bf16", 16},
        {"blocked 1:16", 8.0 * (64 + 64 * 4 + 64 * 16 * 5 / 8.0) / (64 * 256)},
        {"blocked 1:16 symmetric", 8.0 * (64 + 64 * 2 + 64 * 16 * 5 / 8.0) / (64 * 256)},
        {"blocked 2:16", 8.0 * (64 + 64 * 4 + 64 * 16 * 9 / 8.0) / (64 * 256)},
        {"blocked 2:16 symmetric", 8.0 * (64 + 64 * 2 + 64 * 16 * 9 / 8.0) / (64 * 256)},
        {"blocked 3:16", 8.0 * (64 + 64 * 4 + 64 * 16 * 13 / 8.0) / (64 * 256)},
        {"blocked 3:16 symmetric", 8.0 * (64 + 64 * 2 + 64 * 16 * 13 / 8.0) / (64 * 256)},
        {"free", -1},
        {"three products", -1},
        {"expert", -1},
    };
    const uint32_t num = sizeof(want) / sizeof(*want);
    fs_sub1_bench_result result;
    fs_detail detail = {0};
    assert_int_equal(fs_sub1_bench(&small, &result, &detail), FS_OK);
    assert_int_equal(result.num_rows, 2 * num);
    assert_string_equal(result.left_out, "");
    for (uint32_t i = 0; i < 2 * num; i++) {
        const fs_sub1_bench_row *row = find(&result, i < num ? "l2" : "dram", want[i % num].format);
        assert_true(row->rows == 64 && row->cols == 256 && row->batch == 3 && row->threads == 2);
        assert_true(row->bytes_per_s > 0 && row->share_of_memory_read > 0);
        if (want[i % num].bits >= 0) assert_float_equal(row->bits_per_weight, want[i % num].bits, 1e-9);
        double counted = row->bits_per_weight * row->gweights_per_s * 1e9 / row->batch;
        assert_float_equal(counted / row->bytes_per_s, (i % num ? 8 : 0), 1e-9);
    }
    assert_true(find(&result, "l2", "memory read")->share_of_memory_read == 1);
}

static void options_that_cannot_be_are_refused_by_name(void **state)
{
    fs_sub1_bench_result result;
    fs_sub1_bench_options o[] = {small, small, small, small, small, small};
    static const char *const word[] = {"shape", "shape", "shape", "batch", "batch", "threads"};
    o[0].rows = 0;
    o[1].cols = 250;
    o[2].rows = 65552;
    o[3].batch = 0;
    o[4].batch = 257;
    o[5].threads = 0;
    for (int i = 0; i < 6; i++) {
        fs_detail detail = {0};
        assert_int_equal(fs_sub1_bench(&o[i], &result, &detail), FS_INVALID);
        assert_non_null(strstr(detail.text, word[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_on_every_isa_reads_each_word_once),
        cmocka_unit_test(flushed_memory_keeps_what_it_holds),
        cmocka_unit_test(each_format_has_a_row_in_each_place_and_is_as_large_as_it_is),
        cmocka_unit_test(options_that_cannot_be_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
