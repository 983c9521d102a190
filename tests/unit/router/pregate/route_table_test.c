/* The route table: what goes in comes out at its place, and nothing that is not a route goes in. */
#include "pregate/route_table.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { LAYERS = 3, EXPERTS = 5, TOP_K = 2, ENTRIES = LAYERS * TOP_K };

static void fill(uint16_t *expert, float *weight, uint32_t num_tokens, uint32_t first)
{
    for (uint32_t i = 0; i < num_tokens * ENTRIES; i++) {
        expert[i] = (uint16_t)((i + first * ENTRIES) % EXPERTS);
        weight[i] = (float)(i + first * ENTRIES) / 64;
    }
}

static void rows_come_back_at_their_token_and_layer(void **state)
{
    fs_arena arena = {0};
    fs_route_table table;
    uint16_t expert[4 * ENTRIES];
    float weight[4 * ENTRIES];
    assert_int_equal(fs_route_table_init(&table, &arena, LAYERS, EXPERTS, TOP_K, 5), FS_OK);
    fill(expert, weight, 4, 0);
    assert_int_equal(fs_route_table_append(&table, expert, weight, 4), FS_OK);
    fill(expert, weight, 1, 4);
    assert_int_equal(fs_route_table_append(&table, expert, weight, 1), FS_OK);
    for (uint32_t token = 0; token < 5; token++)
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t k = 0; k < TOP_K; k++) {
                uint32_t i = (token * LAYERS + layer) * TOP_K + k;
                assert_int_equal(fs_route_experts(&table, token, layer)[k], i % EXPERTS);
                assert_true(fs_route_weights(&table, token, layer)[k] == (float)i / 64);
            }
    fs_arena_fini(&arena);
}

static void what_is_no_route_is_refused_and_changes_nothing(void **state)
{
    const struct {
        uint32_t tokens, at;
        uint16_t expert;
        float weight;
        fs_status want;
    } rows[] = {
        {1, 0, EXPERTS, 0.5f, FS_INTERNAL},
        {1, ENTRIES - 1, UINT16_MAX, 0.5f, FS_INTERNAL},
        {1, 3, 0, NAN, FS_INTERNAL},
        {1, 3, 0, INFINITY, FS_INTERNAL},
        {1, 3, 0, -INFINITY, FS_INTERNAL},
        {3, 0, 0, 0.5f, FS_EXHAUSTED},
        {UINT32_MAX, 0, 0, 0.5f, FS_EXHAUSTED},
        {2, 0, EXPERTS - 1, 0, FS_OK},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fs_arena arena = {0};
        fs_route_table table;
        uint16_t expert[3 * ENTRIES];
        float weight[3 * ENTRIES];
        assert_int_equal(fs_route_table_init(&table, &arena, LAYERS, EXPERTS, TOP_K, 3), FS_OK);
        fill(expert, weight, 1, 0);
        assert_int_equal(fs_route_table_append(&table, expert, weight, 1), FS_OK);
        fill(expert, weight, 3, 1);
        expert[rows[i].at] = rows[i].expert;
        weight[rows[i].at] = rows[i].weight;
        assert_int_equal(fs_route_table_append(&table, expert, weight, rows[i].tokens), rows[i].want);
        assert_int_equal(table.num_tokens, rows[i].want == FS_OK ? 1 + rows[i].tokens : 1);
        assert_int_equal(fs_route_experts(&table, 0, 2)[1], 5 % EXPERTS);
        fs_arena_fini(&arena);
    }
}

static void too_little_memory_is_said(void **state)
{
    fs_arena arena = {.block_bytes = 1024, .limit_bytes = 4096};
    fs_route_table table;
    assert_int_equal(fs_route_table_init(&table, &arena, LAYERS, EXPERTS, TOP_K, 1u << 20), FS_NO_MEMORY);
    assert_int_equal(fs_route_table_init(&table, &arena, UINT32_MAX, EXPERTS, UINT32_MAX, UINT32_MAX),
                     FS_NO_MEMORY);
    fs_arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_at_their_token_and_layer),
        cmocka_unit_test(what_is_no_route_is_refused_and_changes_nothing),
        cmocka_unit_test(too_little_memory_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
