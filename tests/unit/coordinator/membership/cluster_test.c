/* The membership core: one story each, then random events with everything checked after each, then bytes and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "membership/cluster.h"

#define MS(n) ((int64_t)(n)*1000000)

static const fs_cluster_options two_nodes = {2, 1, MS(2000), MS(60000), 1000};

static fs_cluster make(const fs_cluster_options *options)
{
    fs_cluster c;
    assert_int_equal(fs_cluster_init(&c, options, 0, NULL), FS_OK);
    return c;
}

static fs_cluster_joining who(const char *name, uint64_t instance)
{
    return (fs_cluster_joining){.name = name,
                                .instance = instance,
                                .address = "127.0.0.1:1",
                                .rack = "",
                                .version = "1",
                                .model_name = "demo",
                                .model_fingerprint = 0xf00d,
                                .expert_bytes = 10,
                                .kind = FS_KIND_EXPERT_NODE,
                                .num_moe_layers = 6,
                                .num_experts = 32};
}

static fs_status join(fs_cluster *c, const char *name, uint64_t instance, int64_t now_ns)
{
    fs_cluster_joining w = who(name, instance);
    uint32_t id;
    fs_status st = fs_cluster_register(c, &w, now_ns, &id, NULL);
    fs_cluster_check(c);
    return st;
}

static fs_status beat(fs_cluster *c, const char *name, uint64_t instance, uint64_t ready_epoch,
                      int64_t now_ns)
{
    const fs_cluster_heartbeat h = {.name = name, .instance = instance, .ready_epoch = ready_epoch};
    fs_status st = fs_cluster_beat(c, &h, now_ns, NULL);
    fs_cluster_check(c);
    return st;
}

static fs_status leave(fs_cluster *c, const char *name, uint64_t instance, int64_t now_ns)
{
    const fs_cluster_heartbeat h = {.name = name, .instance = instance, .leaving = true};
    return fs_cluster_beat(c, &h, now_ns, NULL);
}

static fs_node_state state(const fs_cluster *c, const char *name)
{
    const fs_cluster_member *m = fs_cluster_find(c, name);
    assert_non_null(m);
    return m->state;
}

static bool has_problem(const fs_cluster *c, const char *text)
{
    fs_buffer lines = {0};
    fs_cluster_share shares[8];
    assert_true(c->num_placed <= 8);
    fs_cluster_shares(c, shares);
    fs_cluster_problems(c, shares, &lines);
    assert_false(lines.failed);
    bool found = false;
    for (size_t at = 0; at < lines.size; at += strlen((char *)lines.data + at) + 1)
        found = found || strcmp((char *)lines.data + at, text) == 0;
    if (!found)
        for (size_t at = 0; at < lines.size; at += strlen((char *)lines.data + at) + 1)
            print_message("problem: %s\n", (char *)lines.data + at);
    fs_buffer_free(&lines);
    return found;
}

static fs_cluster serving(const fs_cluster_options *options)
{
    fs_cluster c = make(options);
    assert_int_equal(join(&c, "expert-0", 10, 0), FS_OK);
    assert_int_equal(join(&c, "expert-1", 11, 0), FS_OK);
    assert_non_null(c.replica);
    assert_int_equal(beat(&c, "expert-0", 10, c.assignment_epoch, 0), FS_OK);
    assert_int_equal(beat(&c, "expert-1", 11, c.assignment_epoch, 0), FS_OK);
    assert_int_equal(fs_cluster_unavailable(&c), 0);
    (void)fs_cluster_take_changes(&c);
    return c;
}

/* ---- stories ---- */

static void placement_comes_with_the_last_expected_node(void **s)
{
    fs_cluster c = make(&two_nodes);
    assert_true(has_problem(&c, "experts are not placed yet: 0 of 2 expert nodes have registered"));
    assert_int_equal(join(&c, "expert-1", 11, 0), FS_OK);
    assert_null(c.replica);
    assert_int_equal(fs_cluster_unavailable(&c), 192);
    assert_true(has_problem(&c, "experts are not placed yet: 1 of 2 expert nodes has registered"));
    uint64_t before = c.epoch;
    assert_int_equal(join(&c, "expert-0", 10, 0), FS_OK);
    assert_non_null(c.replica);
    assert_int_equal(c.epoch, before + 1);
    assert_int_equal(c.assignment_epoch, c.epoch);
    assert_string_equal(c.placed[0]->name, "expert-0"); /* by name, not by arrival */
    assert_int_equal(fs_cluster_take_changes(&c),
                     FS_CLUSTER_PUBLISH | FS_CLUSTER_STORE | FS_CLUSTER_STORE_ASSIGNMENT);
    fs_cluster_share shares[2];
    fs_cluster_shares(&c, shares);
    assert_int_equal(shares[0].assigned, 96);
    assert_int_equal(shares[0].alone, 96);
    fs_cluster_fini(&c);
}

static void node_is_ready_when_it_has_loaded_this_assignment(void **s)
{
    fs_cluster c = make(&two_nodes);
    (void)join(&c, "expert-0", 10, 0);
    (void)join(&c, "expert-1", 11, 0);
    assert_int_equal(state(&c, "expert-0"), FS_NODE_LOADING);
    uint64_t before = c.epoch;
    assert_int_equal(beat(&c, "expert-0", 10, c.assignment_epoch - 1, 0), FS_OK);
    assert_int_equal(state(&c, "expert-0"), FS_NODE_LOADING);
    assert_int_equal(c.epoch, before);
    assert_int_equal(beat(&c, "expert-0", 10, c.assignment_epoch, 0), FS_OK);
    assert_int_equal(state(&c, "expert-0"), FS_NODE_READY);
    assert_int_equal(c.epoch, before + 1);
    assert_int_equal(c.assignment_epoch, before); /* the assignment is as it was */
    assert_int_equal(fs_cluster_unavailable(&c), 96);
    assert_true(has_problem(&c, "expert node expert-1 is loading: 96 experts have no ready replica"));
    fs_cluster_fini(&c);
}

static void silent_node_is_lost_and_named(void **s)
{
    fs_cluster c = serving(&two_nodes);
    uint64_t before = c.epoch;
    for (int t = 500; t <= 1500; t += 500) {
        assert_int_equal(beat(&c, "expert-0", 10, c.assignment_epoch, MS(t)), FS_OK);
        fs_cluster_tick(&c, MS(t));
    }
    fs_cluster_tick(&c, MS(1999));
    assert_int_equal(state(&c, "expert-1"), FS_NODE_READY);
    fs_cluster_tick(&c, MS(2000));
    assert_int_equal(state(&c, "expert-1"), FS_NODE_LOST);
    assert_int_equal(state(&c, "expert-0"), FS_NODE_READY);
    assert_int_equal(c.epoch, before + 1);
    assert_int_equal(fs_cluster_take_changes(&c), FS_CLUSTER_PUBLISH | FS_CLUSTER_STORE);
    assert_int_equal(fs_cluster_unavailable(&c), 96);
    assert_true(has_problem(&c, "expert node expert-1 is lost: 96 experts have no ready replica"));
    assert_int_equal(beat(&c, "expert-1", 11, c.assignment_epoch, MS(2100)), FS_NOT_FOUND);
    fs_cluster_fini(&c);
}

static void with_a_replica_elsewhere_nothing_is_missing(void **s)
{
    const fs_cluster_options options = {2, 2, MS(2000), MS(60000), 1000};
    fs_cluster c = serving(&options);
    assert_int_equal(leave(&c, "expert-1", 11, MS(100)), FS_OK);
    assert_int_equal(fs_cluster_unavailable(&c), 0);
    assert_true(has_problem(&c, "expert node expert-1 has left: its 192 experts are served by replicas"));
    fs_cluster_fini(&c);
}

static void restarted_node_takes_its_place_back(void **s)
{
    fs_cluster c = serving(&two_nodes);
    uint32_t id = fs_cluster_find(&c, "expert-1")->id;
    uint64_t assignment = c.assignment_epoch;
    assert_int_equal(join(&c, "expert-1", 99, MS(1999)), FS_DENIED); /* the first is not silent long enough */
    assert_int_equal(join(&c, "expert-1", 99, MS(2000)), FS_OK);
    const fs_cluster_member *m = fs_cluster_find(&c, "expert-1");
    assert_int_equal(m->id, id);
    assert_int_equal(m->node, 1);
    assert_int_equal(m->state, FS_NODE_LOADING);
    assert_int_equal(c.assignment_epoch, assignment);
    assert_int_equal(beat(&c, "expert-1", 11, assignment, MS(2000)), FS_NOT_FOUND); /* the old instance */
    assert_int_equal(beat(&c, "expert-1", 99, assignment, MS(2000)), FS_OK);
    assert_int_equal(state(&c, "expert-1"), FS_NODE_READY);
    fs_cluster_fini(&c);
}

static void lost_node_that_comes_back_loads_until_it_says_ready(void **s)
{
    fs_cluster c = serving(&two_nodes);
    fs_cluster_tick(&c, MS(900));
    fs_cluster_tick(&c, MS(1800));
    fs_cluster_tick(&c, MS(2700));
    assert_int_equal(state(&c, "expert-1"), FS_NODE_LOST);
    assert_int_equal(join(&c, "expert-1", 11, MS(2800)), FS_OK);
    assert_int_equal(state(&c, "expert-1"), FS_NODE_LOADING);
    fs_cluster_fini(&c);
}

static void living_instance_that_registers_again_stays_ready(void **s)
{
    fs_cluster c = serving(&two_nodes);
    uint64_t before = c.epoch;
    assert_int_equal(join(&c, "expert-1", 11, MS(100)), FS_OK);
    assert_int_equal(state(&c, "expert-1"), FS_NODE_READY);
    assert_int_equal(c.epoch, before);
    fs_cluster_fini(&c);
}

static void node_that_left_may_be_replaced_at_once(void **s)
{
    fs_cluster c = serving(&two_nodes);
    assert_int_equal(leave(&c, "expert-1", 11, MS(100)), FS_OK);
    assert_int_equal(state(&c, "expert-1"), FS_NODE_LOST);
    assert_int_equal(join(&c, "expert-1", 12, MS(101)), FS_OK);
    assert_int_equal(state(&c, "expert-1"), FS_NODE_LOADING);
    fs_cluster_fini(&c);
}

static void extra_node_is_a_spare_and_is_forgotten_when_it_leaves(void **s)
{
    fs_cluster c = serving(&two_nodes);
    uint64_t assignment = c.assignment_epoch;
    assert_int_equal(join(&c, "a-spare", 12, 0), FS_OK);
    assert_int_equal(c.assignment_epoch, assignment);
    assert_int_equal(fs_cluster_find(&c, "a-spare")->node, FS_CLUSTER_NO_NODE);
    uint32_t id = fs_cluster_find(&c, "a-spare")->id;
    assert_int_equal(leave(&c, "a-spare", 12, MS(1)), FS_OK);
    assert_null(fs_cluster_find(&c, "a-spare"));
    assert_int_equal(join(&c, "a-spare", 13, MS(2)), FS_OK);
    assert_int_equal(fs_cluster_find(&c, "a-spare")->id, id); /* the id stays with the name */
    fs_cluster_fini(&c);
}

static void other_model_is_refused_with_both_names(void **s)
{
    fs_cluster c = serving(&two_nodes);
    fs_cluster_joining w = who("expert-2", 12);
    w.model_fingerprint = 0xbeef;
    w.model_name = "other";
    uint32_t id;
    fs_detail detail = {0};
    assert_int_equal(fs_cluster_register(&c, &w, 0, &id, &detail), FS_DENIED);
    assert_string_equal(detail.text, "expert-2 has the model 'other' (fingerprint 000000000000beef) and this "
                                     "cluster serves 'demo' (fingerprint 000000000000f00d)");
    w.model_fingerprint = 0xf00d;
    w.num_experts = 33;
    assert_int_equal(fs_cluster_register(&c, &w, 0, &id, &detail), FS_DENIED);
    assert_null(fs_cluster_find(&c, "expert-2"));
    fs_cluster_fini(&c);
}

static void wrong_first_member_does_not_decide_the_model_for_ever(void **s)
{
    fs_cluster c = make(&two_nodes);
    fs_cluster_joining w = who("router-0", 1);
    w.kind = FS_KIND_ROUTER;
    w.model_fingerprint = 0xbeef;
    uint32_t id;
    assert_int_equal(fs_cluster_register(&c, &w, 0, &id, NULL), FS_OK);
    assert_int_equal(join(&c, "expert-0", 10, 0), FS_DENIED);
    assert_int_equal(leave(&c, "router-0", 1, 0), FS_OK);
    assert_int_equal(join(&c, "expert-0", 10, 0), FS_OK);
    fs_cluster_fini(&c);
}

static void routers_do_not_move_the_epoch(void **s)
{
    fs_cluster c = serving(&two_nodes);
    uint64_t before = c.epoch;
    fs_cluster_joining w = who("router-0", 1);
    w.kind = FS_KIND_ROUTER;
    uint32_t id;
    assert_int_equal(fs_cluster_register(&c, &w, 0, &id, NULL), FS_OK);
    assert_int_equal(state(&c, "router-0"), FS_NODE_READY);
    for (int t = 900; t <= 1800; t += 900) {
        (void)beat(&c, "expert-0", 10, c.assignment_epoch, MS(t));
        (void)beat(&c, "expert-1", 11, c.assignment_epoch, MS(t));
        fs_cluster_tick(&c, MS(t));
    }
    fs_cluster_tick(&c, MS(2100));
    assert_int_equal(state(&c, "router-0"), FS_NODE_LOST);
    assert_int_equal(c.epoch, before);
    assert_true(has_problem(&c, "router router-0 is lost"));
    fs_cluster_fini(&c);
}

static void draining_node_still_answers_and_says_what_waits_for_it(void **s)
{
    fs_cluster c = serving(&two_nodes);
    assert_int_equal(fs_cluster_drain(&c, "nobody", false, NULL), FS_NOT_FOUND);
    uint64_t before = c.epoch;
    assert_int_equal(fs_cluster_drain(&c, "expert-1", false, NULL), FS_OK);
    assert_int_equal(fs_cluster_drain(&c, "expert-1", false, NULL), FS_OK);
    assert_int_equal(c.epoch, before + 1);
    assert_int_equal(state(&c, "expert-1"), FS_NODE_DRAINING);
    assert_int_equal(fs_cluster_unavailable(&c), 0);
    assert_true(has_problem(&c, "expert node expert-1 is draining: 96 experts have no other ready replica"));
    assert_int_equal(fs_cluster_drain(&c, "expert-1", true, NULL), FS_OK);
    assert_int_equal(state(&c, "expert-1"), FS_NODE_READY);
    fs_cluster_fini(&c);
}

/* Nodes with less memory than experts keep a part of them in it. */
static void memory_shapes_the_placement_only_if_it_is_enough(void **s)
{
    for (int enough = 0; enough < 2; enough++) {
        fs_cluster c = make(&two_nodes);
        fs_cluster_joining w = who("expert-0", 10);
        uint32_t id, first = 0;
        w.capacity_bytes = enough ? 1209 : 909; /* 120 or 90 experts of 10 bytes */
        assert_int_equal(fs_cluster_register(&c, &w, 0, &id, NULL), FS_OK);
        w.name = "expert-1";
        w.capacity_bytes = 809;
        assert_int_equal(fs_cluster_register(&c, &w, 0, &id, NULL), FS_OK);
        assert_non_null(c.replica);
        for (uint32_t i = 0; i < 192; i++) first += c.replica[i] == 0;
        assert_int_equal(first, enough ? 112 : 96);
        fs_cluster_fini(&c);
    }
}

static void standstill_of_the_coordinator_loses_nobody(void **s)
{
    fs_cluster c = serving(&two_nodes);
    fs_cluster_tick(&c, MS(500));
    fs_cluster_tick(&c, MS(60000));
    assert_int_equal(state(&c, "expert-0"), FS_NODE_READY);
    for (int t = 60500; t <= 62500; t += 500) fs_cluster_tick(&c, MS(t));
    assert_int_equal(state(&c, "expert-0"), FS_NODE_LOST);
    fs_cluster_fini(&c);
}

static void node_that_remembers_a_later_epoch_lifts_ours(void **s)
{
    fs_cluster c = serving(&two_nodes);
    assert_int_equal(beat(&c, "expert-0", 10, 5000, 0), FS_OK);
    assert_true(c.assignment_epoch > 5000);
    assert_int_equal(state(&c, "expert-0"), FS_NODE_LOADING);
    assert_int_equal(beat(&c, "expert-0", 10, UINT64_MAX, 0), FS_INVALID);
    fs_cluster_fini(&c);
}

static void bad_fields_are_refused_by_name(void **s)
{
    char long_text[300];
    memset(long_text, 'a', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = 0;
    fs_cluster_joining w[12];
    const char *const says[12] = {"name",
                                  "name",
                                  "name",
                                  "address is empty",
                                  "address has 299 bytes",
                                  "rack has 299",
                                  "version has 299",
                                  "model_name has 299",
                                  "instance",
                                  "kind 7",
                                  "num_moe_layers 0",
                                  "expert_bytes is 0"};
    for (int i = 0; i < 12; i++) w[i] = who("expert-0", 10);
    w[0].name = "";
    w[1].name = "Expert";
    w[2].name = long_text;
    w[3].address = "";
    w[4].address = long_text;
    w[5].rack = long_text;
    w[6].version = long_text;
    w[7].model_name = long_text;
    w[8].instance = 0;
    w[9].kind = 7;
    w[10].num_moe_layers = 0;
    w[11].capacity_bytes = 1;
    w[11].expert_bytes = 0;
    fs_cluster c = make(&two_nodes);
    for (int i = 0; i < 12; i++) {
        fs_detail detail = {0};
        uint32_t id;
        assert_int_equal(fs_cluster_register(&c, &w[i], 0, &id, &detail), FS_INVALID);
        if (!strstr(detail.text, says[i])) fail_msg("%d: %s", i, detail.text);
    }
    assert_int_equal(c.num_members, 0);
    fs_cluster_fini(&c);
}

static void more_replicas_than_nodes_is_an_error(void **s)
{
    const fs_cluster_options options = {2, 3, MS(2000), MS(60000), 1};
    fs_cluster c;
    fs_detail detail = {0};
    assert_int_equal(fs_cluster_init(&c, &options, 0, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "3 replicas on 2 expert nodes"));
    fs_cluster_fini(&c);
}

static void table_is_bounded_and_the_oldest_lost_goes_first(void **s)
{
    fs_cluster c = make(&two_nodes);
    char name[16];
    for (int i = 0; i < FS_CLUSTER_MAX_MEMBERS; i++) {
        snprintf(name, sizeof(name), "r-%d", i);
        fs_cluster_joining w = who(name, 1);
        w.kind = FS_KIND_ROUTER;
        uint32_t id;
        assert_int_equal(fs_cluster_register(&c, &w, MS(i % 7), &id, NULL), FS_OK);
    }
    assert_int_equal(join(&c, "expert-0", 1, MS(10)), FS_EXHAUSTED);
    assert_int_equal(leave(&c, "r-77", 1, MS(11)), FS_OK);
    assert_int_equal(join(&c, "expert-0", 1, MS(12)), FS_OK);
    assert_int_equal(c.num_members, FS_CLUSTER_MAX_MEMBERS);
    fs_cluster_fini(&c);
}

/* ---- bytes and back ---- */

typedef struct {
    fs_buffer cluster, assignment;
} saved;

static saved save(const fs_cluster *c)
{
    saved out = {0};
    fs_cluster_save(c, &out.cluster);
    if (c->replica) fs_cluster_save_assignment(c, &out.assignment);
    assert_false(out.cluster.failed || out.assignment.failed);
    return out;
}

static void free_saved(saved *bytes)
{
    fs_buffer_free(&bytes->cluster);
    fs_buffer_free(&bytes->assignment);
}

static fs_status load(fs_cluster *c, const saved *bytes, int64_t now_ns, fs_detail *detail)
{
    return fs_cluster_load(c, bytes->cluster.data, bytes->cluster.size, bytes->assignment.data,
                           bytes->assignment.size, now_ns, detail);
}

static void restart_keeps_members_and_placement_with_a_higher_epoch(void **s)
{
    fs_cluster c = serving(&two_nodes), again = make(&two_nodes);
    saved bytes = save(&c);
    fs_detail detail = {0};
    assert_int_equal(load(&again, &bytes, MS(777000), &detail), FS_OK);
    fs_cluster_check(&again);
    assert_int_equal(again.epoch, c.epoch + 1);
    assert_int_equal(again.assignment_epoch, c.assignment_epoch);
    assert_memory_equal(again.replica, c.replica, 192 * sizeof(*c.replica));
    assert_int_equal(state(&again, "expert-1"), FS_NODE_READY);
    assert_int_equal(fs_cluster_unavailable(&again), 0);
    assert_int_equal(beat(&again, "expert-1", 11, c.assignment_epoch, MS(777001)),
                     FS_OK); /* the same instance goes on */
    assert_int_equal(join(&again, "expert-2", 12, MS(777001)), FS_OK);
    assert_int_equal(fs_cluster_find(&again, "expert-2")->id, 3);
    free_saved(&bytes);
    fs_cluster_fini(&again);
    fs_cluster_fini(&c);
}

static void stored_cluster_with_other_replicas_is_refused(void **s)
{
    const fs_cluster_options other = {2, 2, MS(2000), MS(60000), 1};
    fs_cluster c = serving(&two_nodes), again = make(&other);
    saved bytes = save(&c);
    fs_detail detail = {0};
    assert_int_equal(load(&again, &bytes, 0, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "1 replicas of each expert and 2 are asked for"));
    free_saved(&bytes);
    fs_cluster_fini(&again);
    fs_cluster_fini(&c);
}

static void cut_or_flipped_bytes_never_load_into_nonsense(void **s)
{
    fs_cluster c = serving(&two_nodes);
    saved bytes = save(&c);
    for (size_t cut = 0; cut < bytes.cluster.size; cut++) {
        fs_cluster again = make(&two_nodes);
        saved part = bytes;
        part.cluster.size = cut;
        assert_int_not_equal(load(&again, &part, 0, NULL), FS_OK);
        fs_cluster_fini(&again);
    }
    for (size_t bit = 0; bit < bytes.cluster.size * 8; bit++) {
        fs_cluster again = make(&two_nodes);
        bytes.cluster.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (load(&again, &bytes, 0, NULL) == FS_OK) fs_cluster_check(&again);
        bytes.cluster.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        fs_cluster_fini(&again);
    }
    free_saved(&bytes);
    fs_cluster_fini(&c);
}

/* ---- random events ---- */

typedef struct {
    fs_cluster c;
    fs_random random;
    int64_t now_ns;
    uint64_t epoch, assignment_epoch, instances[6];
    uint32_t *replica; /* as first placed */
    uint32_t entries;
} play;

static const char *const names[] = {"expert-0", "expert-1", "expert-2", "expert-3", "router-0", "router-1"};

static void drain(fs_cluster *c, const char *name, bool undo)
{
    fs_status st = fs_cluster_drain(c, name, undo, NULL);
    assert_true(st == FS_OK || st == FS_NOT_FOUND);
}

static void random_event(play *p)
{
    uint32_t who_is = fs_random_below(&p->random, 6), id;
    const char *name = names[who_is];
    switch (fs_random_below(&p->random, 8)) {
    case 0: {
        fs_cluster_joining w = who(name, 1 + fs_random_below(&p->random, 3));
        w.kind = who_is < 4 ? FS_KIND_EXPERT_NODE : FS_KIND_ROUTER;
        w.capacity_bytes = fs_random_below(&p->random, 4) ? 0 : 500;
        if (fs_random_below(&p->random, 20) == 0) w.model_fingerprint = 1;
        if (fs_cluster_register(&p->c, &w, p->now_ns, &id, NULL) == FS_OK) p->instances[who_is] = w.instance;
        break;
    }
    case 1: (void)leave(&p->c, name, p->instances[who_is], p->now_ns); break;
    case 2: drain(&p->c, name, fs_random_below(&p->random, 2)); break;
    case 3: p->now_ns += MS(fs_random_below(&p->random, 1200)); break;
    case 4: fs_cluster_tick(&p->c, p->now_ns); break;
    default: {
        uint64_t ready = p->c.epoch - fs_random_below(&p->random, 3) +
                         (fs_random_below(&p->random, 50) == 0 ? 9 : 0);
        (void)beat(&p->c, name, p->instances[who_is], ready, p->now_ns);
    }
    }
}

/* Epochs never fall; a change that others see raises the epoch; what was placed stays placed. */
static void check_play(play *p)
{
    fs_cluster_check(&p->c);
    assert_true(p->c.epoch >= p->epoch && p->c.assignment_epoch >= p->assignment_epoch);
    bool publish = fs_cluster_take_changes(&p->c) & FS_CLUSTER_PUBLISH;
    assert_int_equal(publish, p->c.epoch > p->epoch);
    p->epoch = p->c.epoch;
    p->assignment_epoch = p->c.assignment_epoch;
    if (p->replica) {
        assert_memory_equal(p->replica, p->c.replica, p->entries * sizeof(*p->replica));
    } else if (p->c.replica) {
        p->entries = fs_cluster_num_experts(&p->c) * p->c.options.num_replicas;
        p->replica = malloc(p->entries * sizeof(*p->replica));
        assert_non_null(p->replica);
        memcpy(p->replica, p->c.replica, p->entries * sizeof(*p->replica));
    }
    fs_cluster_note notes[FS_CLUSTER_MAX_NOTES];
    (void)fs_cluster_take_notes(&p->c, notes);
}

static void random_events_keep_every_promise(void **s)
{
    uint32_t placed = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        const fs_cluster_options options = {1 + (uint32_t)(seed % 3), 1, MS(2000), MS(9000), 1000};
        play p = {.c = make(&options), .random = {seed}, .epoch = options.first_epoch};
        for (int i = 0; i < 600; i++) {
            random_event(&p);
            check_play(&p);
            if (i % 50 != 0) continue;
            fs_cluster again = make(&options);
            saved bytes = save(&p.c);
            assert_int_equal(load(&again, &bytes, p.now_ns, NULL), FS_OK);
            fs_cluster_check(&again);
            assert_int_equal(fs_cluster_unavailable(&again), fs_cluster_unavailable(&p.c));
            free_saved(&bytes);
            fs_cluster_fini(&again);
        }
        placed += p.replica != NULL;
        free(p.replica);
        fs_cluster_fini(&p.c);
    }
    assert_true(placed > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(placement_comes_with_the_last_expected_node),
        cmocka_unit_test(node_is_ready_when_it_has_loaded_this_assignment),
        cmocka_unit_test(silent_node_is_lost_and_named),
        cmocka_unit_test(with_a_replica_elsewhere_nothing_is_missing),
        cmocka_unit_test(restarted_node_takes_its_place_back),
        cmocka_unit_test(lost_node_that_comes_back_loads_until_it_says_ready),
        cmocka_unit_test(living_instance_that_registers_again_stays_ready),
        cmocka_unit_test(node_that_left_may_be_replaced_at_once),
        cmocka_unit_test(extra_node_is_a_spare_and_is_forgotten_when_it_leaves),
        cmocka_unit_test(other_model_is_refused_with_both_names),
        cmocka_unit_test(wrong_first_member_does_not_decide_the_model_for_ever),
        cmocka_unit_test(routers_do_not_move_the_epoch),
        cmocka_unit_test(draining_node_still_answers_and_says_what_waits_for_it),
        cmocka_unit_test(memory_shapes_the_placement_only_if_it_is_enough),
        cmocka_unit_test(standstill_of_the_coordinator_loses_nobody),
        cmocka_unit_test(node_that_remembers_a_later_epoch_lifts_ours),
        cmocka_unit_test(bad_fields_are_refused_by_name),
        cmocka_unit_test(more_replicas_than_nodes_is_an_error),
        cmocka_unit_test(table_is_bounded_and_the_oldest_lost_goes_first),
        cmocka_unit_test(restart_keeps_members_and_placement_with_a_higher_epoch),
        cmocka_unit_test(stored_cluster_with_other_replicas_is_refused),
        cmocka_unit_test(cut_or_flipped_bytes_never_load_into_nonsense),
        cmocka_unit_test(random_events_keep_every_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
