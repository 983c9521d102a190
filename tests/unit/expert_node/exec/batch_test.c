/* What the batching core promises: which rows an expert is run over next, and that none is lost, doubled or starved. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "exec/batch.h"

enum { KEYS = 4, TAGS = 8, MAX_RUNS = 16, MAX_ROWS = 40, MAX_PIECES = 40 };

typedef enum { EVENT_ADD, EVENT_NEXT, EVENT_DROP, EVENT_ROOM } event;
/* ADD: key, tag, first, count. NEXT: a = most rows; then the batch as pieces. DROP: tag, rows. ROOM: runs, rows, answer. */
typedef struct {
    event event;
    uint32_t a, b, c, d;
    uint32_t key;            /* NEXT: of the batch */
    fs_batch_piece piece[4]; /* NEXT: until one with count 0 */
} step;

#define ADD(key_, tag, first, n)                                                                             \
    {                                                                                                        \
        .event = EVENT_ADD, .a = key_, .b = tag, .c = first, .d = n                                          \
    }
#define DROP(tag, rows)                                                                                      \
    {                                                                                                        \
        .event = EVENT_DROP, .a = tag, .b = rows                                                             \
    }
#define ROOM(runs, rows, answer)                                                                             \
    {                                                                                                        \
        .event = EVENT_ROOM, .a = runs, .b = rows, .c = answer                                               \
    }
#define NEXT(max_rows, key_, ...)                                                                            \
    {                                                                                                        \
        .event = EVENT_NEXT, .a = max_rows, .key = key_, .piece = { __VA_ARGS__ }                            \
    }
#define NOTHING                                                                                              \
    {                                                                                                        \
        .event = EVENT_NEXT, .a = 32                                                                         \
    }

static void play(const step *steps, size_t count)
{
    fs_batcher *b;
    fs_batch_piece pieces[MAX_PIECES];
    assert_int_equal(fs_batcher_create(KEYS, TAGS, MAX_RUNS, MAX_ROWS, &b), FS_OK);
    for (size_t i = 0; i < count; i++) {
        const step *s = &steps[i];
        uint32_t key = UINT32_MAX, n = 0, want = 0;
        switch (s->event) {
        case EVENT_ADD: fs_batcher_add(b, s->a, s->b, s->c, s->d); break;
        case EVENT_DROP: assert_int_equal(fs_batcher_drop(b, s->a), s->b); break;
        case EVENT_ROOM: assert_int_equal(fs_batcher_has_room(b, s->a, s->b), s->c); break;
        case EVENT_NEXT:
            while (want < 4 && s->piece[want].count > 0) want++;
            n = fs_batcher_next(b, s->a, &key, pieces);
            assert_int_equal(n, want);
            if (n > 0) assert_int_equal(key, s->key);
            assert_memory_equal(pieces, s->piece, n * sizeof(*pieces));
            break;
        }
        fs_batcher_check(b);
    }
    fs_batcher_destroy(b);
}
#define PLAY(...)                                                                                            \
    do {                                                                                                     \
        const step steps_[] = {__VA_ARGS__};                                                                 \
        play(steps_, sizeof(steps_) / sizeof(*steps_));                                                      \
    } while (0)

static void rows_of_one_expert_from_several_dispatches_are_one_batch(void **state)
{
    PLAY(ADD(2, 0, 0, 3), ADD(2, 5, 7, 2), ADD(2, 1, 4, 1), NEXT(32, 2, {0, 0, 3}, {5, 7, 2}, {1, 4, 1}),
         NOTHING);
}

static void experts_take_turns_in_order_of_their_oldest_rows(void **state)
{
    PLAY(ADD(3, 0, 0, 1), ADD(1, 0, 1, 1), ADD(3, 1, 0, 1), ADD(0, 1, 1, 1),
         NEXT(32, 3, {0, 0, 1}, {1, 0, 1}), NEXT(32, 1, {0, 1, 1}), NEXT(32, 0, {1, 1, 1}), NOTHING);
}

static void a_batch_is_cut_at_its_most_rows_and_the_rest_waits_its_turn(void **state)
{
    PLAY(ADD(0, 0, 0, 5), ADD(0, 1, 0, 4), ADD(1, 2, 0, 1), NEXT(6, 0, {0, 0, 5}, {1, 0, 1}),
         NEXT(6, 1, {2, 0, 1}), NEXT(2, 0, {1, 1, 2}), NEXT(2, 0, {1, 3, 1}), NOTHING);
}

static void a_lost_dispatch_leaves_nothing_behind(void **state)
{
    PLAY(ADD(0, 0, 0, 2), ADD(0, 1, 0, 3), ADD(1, 1, 3, 2), ADD(2, 0, 2, 1), DROP(1, 5), DROP(1, 0),
         NEXT(32, 0, {0, 0, 2}), NEXT(32, 2, {0, 2, 1}), NOTHING);
}

static void a_dispatch_lost_half_way_keeps_what_runs_and_drops_the_rest(void **state)
{
    PLAY(ADD(0, 3, 0, 10), NEXT(4, 0, {3, 0, 4}), DROP(3, 6), NOTHING);
}

static void a_held_key_gets_rows_and_runs_none_until_it_is_let_go(void **state)
{
    fs_batcher *b;
    fs_batch_piece pieces[MAX_PIECES];
    uint32_t key;
    assert_int_equal(fs_batcher_create(KEYS, TAGS, MAX_RUNS, MAX_ROWS, &b), FS_OK);
    fs_batcher_add(b, 1, 0, 0, 2);
    fs_batcher_hold(b, 1, true);
    fs_batcher_hold(b, 2, true);
    fs_batcher_add(b, 2, 1, 0, 3);
    fs_batcher_add(b, 3, 2, 0, 1);
    fs_batcher_check(b);
    assert_int_equal(fs_batcher_num_ready(b), 1);
    assert_int_equal(fs_batcher_num_ready_rows(b), 1);
    assert_int_equal(fs_batcher_num_rows(b), 6);
    assert_int_equal(fs_batcher_rows_of(b, 2), 3);
    assert_int_equal(fs_batcher_next(b, 32, &key, pieces), 1);
    assert_int_equal(key, 3);
    assert_int_equal(fs_batcher_next(b, 32, &key, pieces), 0);
    assert_int_equal(fs_batcher_drop(b, 0), 2);
    fs_batcher_check(b);
    fs_batcher_hold(b, 1, false);
    fs_batcher_hold(b, 2, false);
    fs_batcher_check(b);
    assert_int_equal(fs_batcher_next(b, 32, &key, pieces), 1);
    assert_int_equal(key, 2);
    assert_int_equal(fs_batcher_next(b, 32, &key, pieces), 0);
    fs_batcher_destroy(b);
}

static void room_is_counted_in_runs_and_in_rows(void **state)
{
    PLAY(ROOM(MAX_RUNS, MAX_ROWS, true), ROOM(MAX_RUNS + 1, 1, false), ROOM(1, MAX_ROWS + 1, false),
         ADD(0, 0, 0, 30), ROOM(1, 10, true), ROOM(1, 11, false), ROOM(UINT32_MAX, UINT32_MAX, false),
         NEXT(30, 0, {0, 0, 30}), ROOM(MAX_RUNS, MAX_ROWS, true));
}

/* Every pair that was added comes out once or is dropped, whatever the order of events. */
static void no_row_is_lost_or_doubled_in_a_hundred_thousand_random_events(void **state)
{
    fs_batcher *b;
    fs_random random = {7};
    fs_batch_piece pieces[MAX_PIECES];
    uint32_t waiting[TAGS] = {0}, next_pair[TAGS] = {0};
    static uint8_t out[TAGS][1 << 20];
    assert_int_equal(fs_batcher_create(KEYS, TAGS, MAX_RUNS, MAX_ROWS, &b), FS_OK);
    for (int i = 0; i < 100000; i++) {
        uint32_t what = fs_random_below(&random, 10), tag = fs_random_below(&random, TAGS), key;
        uint32_t count = 1 + fs_random_below(&random, 6);
        if (what < 5 && fs_batcher_has_room(b, 1, count)) {
            fs_batcher_add(b, fs_random_below(&random, KEYS), tag, next_pair[tag], count);
            next_pair[tag] += count;
            waiting[tag] += count;
        } else if (what == 9) {
            assert_int_equal(fs_batcher_drop(b, tag), waiting[tag]);
            waiting[tag] = 0;
        } else {
            uint32_t n = fs_batcher_next(b, count, &key, pieces), rows = 0;
            for (uint32_t p = 0; p < n; p++) {
                rows += pieces[p].count;
                waiting[pieces[p].tag] -= pieces[p].count;
                for (uint32_t r = 0; r < pieces[p].count; r++)
                    assert_int_equal(out[pieces[p].tag][pieces[p].first + r]++, 0);
            }
            assert_true(rows <= count);
        }
        uint32_t all = 0;
        for (int t = 0; t < TAGS; t++) all += waiting[t];
        assert_int_equal(fs_batcher_num_rows(b), all);
        if (i % 64 == 0) fs_batcher_check(b);
    }
    fs_batcher_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_one_expert_from_several_dispatches_are_one_batch),
        cmocka_unit_test(experts_take_turns_in_order_of_their_oldest_rows),
        cmocka_unit_test(a_batch_is_cut_at_its_most_rows_and_the_rest_waits_its_turn),
        cmocka_unit_test(a_lost_dispatch_leaves_nothing_behind),
        cmocka_unit_test(a_dispatch_lost_half_way_keeps_what_runs_and_drops_the_rest),
        cmocka_unit_test(a_held_key_gets_rows_and_runs_none_until_it_is_let_go),
        cmocka_unit_test(room_is_counted_in_runs_and_in_rows),
        cmocka_unit_test(no_row_is_lost_or_doubled_in_a_hundred_thousand_random_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
