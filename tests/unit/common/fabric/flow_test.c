/* tests/unit/common/fabric/flow_test.c: credits and liveness as tables of (event, now, actions). */
#include "node_helper.h"

#include "base/random.h"
#include "fabric/flow.h"

enum { SEND, HEAR, DELIVER, FINISH, TELL, TICK, BLOCK, UNBLOCK, ALIVE };

typedef struct {
    int event;
    int64_t now; /* or the credits returned, for HEAR */
    fs_status status;
    unsigned actions;
} step;

/* Returns the index of the first step that went another way, or -1. */
static int play(fs_flow *f, const step *steps, int count)
{
    for (int i = 0; i < count; i++) {
        const step *s = &steps[i];
        fs_status st = FS_OK;
        unsigned actions = 0;
        uint64_t seq;
        switch (s->event) {
        case SEND: st = fs_flow_send(f, &seq); break;
        case HEAR: st = fs_flow_hear(f, (uint64_t)s->now, f->ticked_ns, &actions); break;
        case DELIVER: fs_flow_deliver(f); break;
        case FINISH: actions = fs_flow_finish(f); break;
        case TELL: fs_flow_tell(f); break;
        case TICK: actions = fs_flow_tick(f, s->now); break;
        case BLOCK: fs_flow_block(f); break;
        case UNBLOCK: actions = fs_flow_unblock(f); break;
        case ALIVE: fs_flow_alive(f, s->now); break;
        }
        if (st != s->status || actions != s->actions || !fs_flow_check(f)) return i;
    }
    return -1;
}

#define PLAY(flow, steps) assert_int_equal(play(flow, steps, sizeof(steps) / sizeof(steps[0])), -1)

static void a_sender_without_credits_waits_for_them(void **state)
{
    static const step steps[] = {
        {SEND, 0, FS_OK, 0},
        {SEND, 0, FS_OK, 0},
        {SEND, 0, FS_EXHAUSTED, 0},
        {HEAR, 0, FS_OK, 0},
        {HEAR, 1, FS_OK, FS_FLOW_WRITABLE},
        {HEAR, 1, FS_OK, 0}, /* said twice */
        {SEND, 0, FS_OK, 0},
        {SEND, 0, FS_EXHAUSTED, 0},
        {HEAR, 3, FS_OK, FS_FLOW_WRITABLE},
        {HEAR, 1, FS_OK, 0}, /* an older message that was overtaken */
        {HEAR, 4, FS_CORRUPT, 0},
    };
    fs_flow f;
    fs_flow_init(&f, 4, 2, 10, 100, 0);
    PLAY(&f, steps);
}

static void credits_are_told_when_half_are_back(void **state)
{
    static const step steps[] = {
        {DELIVER, 0, FS_OK, 0},
        {DELIVER, 0, FS_OK, 0},
        {DELIVER, 0, FS_OK, 0},
        {FINISH, 0, FS_OK, 0},
        {FINISH, 0, FS_OK, FS_FLOW_CREDIT},
        {TELL, 0, FS_OK, 0},
        {FINISH, 0, FS_OK, 0},
        {DELIVER, 0, FS_OK, 0},
        {FINISH, 0, FS_OK, FS_FLOW_CREDIT},
    };
    fs_flow f;
    fs_flow_init(&f, 4, 2, 10, 100, 0);
    PLAY(&f, steps);
    fs_flow_init(&f, 1, 1, 10, 100, 0); /* a single credit is told at once */
    fs_flow_deliver(&f);
    assert_int_equal(fs_flow_finish(&f), FS_FLOW_CREDIT);
}

static void silence_is_pinged_and_then_lost(void **state)
{
    static const step steps[] = {
        {TICK, 5, FS_OK, 0},
        {TICK, 10, FS_OK, FS_FLOW_PING},
        {TICK, 15, FS_OK, 0},
        {TICK, 20, FS_OK, FS_FLOW_PING},
        {ALIVE, 24, FS_OK, 0},
        {TICK, 30, FS_OK, 0},
        {TICK, 34, FS_OK, FS_FLOW_PING},
        {TICK, 80, FS_OK, FS_FLOW_PING},
        {TICK, 123, FS_OK, FS_FLOW_PING},
        {TICK, 124, FS_OK, FS_FLOW_LOST},
    };
    fs_flow f;
    fs_flow_init(&f, 4, 2, 10, 100, 0);
    PLAY(&f, steps);
}

static void our_own_sleep_is_not_the_peers_silence(void **state)
{
    static const step steps[] = {
        {TICK, 40, FS_OK, FS_FLOW_PING},
        {TICK, 5000, FS_OK, FS_FLOW_PING}, /* the machine was suspended */
        {TICK, 5040, FS_OK, FS_FLOW_PING},
        {TICK, 5060, FS_OK, FS_FLOW_LOST},
    };
    fs_flow f;
    fs_flow_init(&f, 4, 2, 10, 100, 0);
    PLAY(&f, steps);
}

static void a_full_queue_is_told_once_it_drained(void **state)
{
    static const step steps[] = {
        {UNBLOCK, 0, FS_OK, 0},
        {BLOCK, 0, FS_OK, 0},
        {UNBLOCK, 0, FS_OK, FS_FLOW_WRITABLE},
        {UNBLOCK, 0, FS_OK, 0},
        {SEND, 0, FS_OK, 0},
        {SEND, 0, FS_OK, 0},
        {BLOCK, 0, FS_OK, 0},
        {UNBLOCK, 0, FS_OK, 0}, /* it drained, but there are no credits */
        {HEAR, 1, FS_OK, FS_FLOW_WRITABLE},
    };
    fs_flow f;
    fs_flow_init(&f, 4, 2, 10, 100, 0);
    PLAY(&f, steps);
}

static void numbers_outside_of_the_window_are_refused(void **state)
{
    fs_flow f;
    fs_flow_init(&f, 4, 2, 10, 100, 0);
    assert_int_equal(fs_flow_receive(&f, 0), FS_OK);
    assert_int_equal(fs_flow_receive(&f, 3), FS_OK);
    assert_int_equal(fs_flow_receive(&f, 4), FS_CORRUPT);
    assert_int_equal(fs_flow_receive(&f, UINT64_MAX), FS_CORRUPT);
    fs_flow_deliver(&f);
    assert_int_equal(fs_flow_receive(&f, 0), FS_CORRUPT);
    assert_int_equal(fs_flow_receive(&f, 4), FS_CORRUPT); /* not finished yet */
    fs_flow_finish(&f);
    assert_int_equal(fs_flow_receive(&f, 4), FS_OK);
}

static void a_message_that_did_not_leave_gives_its_credit_back(void **state)
{
    fs_flow f;
    uint64_t seq;
    fs_flow_init(&f, 1, 1, 10, 100, 0);
    assert_int_equal(fs_flow_send(&f, &seq), FS_OK);
    fs_flow_unsend(&f);
    assert_int_equal(fs_flow_send(&f, &seq), FS_OK);
    assert_int_equal(seq, 0);
}

/* Two cores and a lossless wire that reorders credit messages: whatever the order of events, all messages get through. */
static void two_ends_never_block_each_other(void **state)
{
    for (uint64_t seed = 1; seed <= 200; seed++) {
        fs_random r = {seed};
        uint32_t credits = 1 + fs_random_below(&r, 9), held = 0, sent = 0;
        uint64_t wire[64], seq;
        uint32_t on_wire = 0;
        fs_flow a, b;
        fs_flow_init(&a, 1, credits, 10, 1000, 0);
        fs_flow_init(&b, credits, 1, 10, 1000, 0);
        for (uint32_t turn = 0; sent < 300; turn++) {
            assert_true(turn < 100000);
            uint32_t what = fs_random_below(&r, 3);
            if (what == 0 && fs_flow_send(&a, &seq) == FS_OK) {
                assert_int_equal(fs_flow_receive(&b, seq), FS_OK);
                fs_flow_deliver(&b);
                held++;
                sent++;
            } else if (what == 1 && held > 0) {
                held--;
                if (fs_flow_finish(&b) & FS_FLOW_CREDIT) wire[on_wire++] = fs_flow_tell(&b);
            } else if (what == 2 && on_wire > 0) {
                uint32_t pick = fs_random_below(&r, on_wire);
                unsigned actions;
                assert_int_equal(fs_flow_hear(&a, wire[pick], 0, &actions), FS_OK);
                wire[pick] = wire[--on_wire];
            }
            assert_true(fs_flow_check(&a) && fs_flow_check(&b));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sender_without_credits_waits_for_them),
        cmocka_unit_test(credits_are_told_when_half_are_back),
        cmocka_unit_test(silence_is_pinged_and_then_lost),
        cmocka_unit_test(our_own_sleep_is_not_the_peers_silence),
        cmocka_unit_test(a_full_queue_is_told_once_it_drained),
        cmocka_unit_test(numbers_outside_of_the_window_are_refused),
        cmocka_unit_test(a_message_that_did_not_leave_gives_its_credit_back),
        cmocka_unit_test(two_ends_never_block_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
