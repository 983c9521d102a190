/* router/dispatch/plan.c: groups, messages, and what becomes of them. */
#include "dispatch/plan.h"

#include <string.h>

#include "base/clock.h"
#include "base/random.h"

/* How long a node is avoided by a group that it failed. Short enough to come back to it within the time that
 * rows wait when it is the only one; long enough not to ask in a circle. */
static int64_t avoid_ns(fs_plan_answer_kind kind)
{
    switch (kind) {
    case FS_ANSWER_EXHAUSTED: return 5 * FS_NS_PER_MS;
    case FS_ANSWER_MOVED: return 100 * FS_NS_PER_MS;
    case FS_ANSWER_CORRUPT: return FS_NS_PER_S;
    default: return 2 * FS_NS_PER_S;
    }
}

fs_status fs_plan_init(fs_plan *plan, fs_arena *arena, uint32_t max_rows, uint32_t num_experts,
                       uint32_t top_k)
{
    size_t pairs = (size_t)max_rows * top_k;
    uint32_t groups = pairs < num_experts ? (uint32_t)pairs : num_experts;
    fs_plan p = {.max_rows = max_rows,
                 .max_groups = groups,
                 .max_messages = groups, /* an open message has a group at least */
                 .num_experts = num_experts,
                 .top_k = top_k};
    p.group = fs_arena_calloc(arena, groups, sizeof *p.group);
    p.message = fs_arena_calloc(arena, groups, sizeof *p.message);
    p.pair = fs_arena_calloc(arena, pairs, sizeof *p.pair);
    p.count = fs_arena_calloc(arena, num_experts, sizeof *p.count);
    p.row_index = fs_arena_calloc(arena, max_rows, sizeof *p.row_index);
    if (!p.group || !p.message || !p.pair || !p.count || !p.row_index) return FS_NO_MEMORY;
    *plan = p;
    return FS_OK;
}

static void count_experts(fs_plan *plan, const uint16_t *const *route, uint32_t num_rows)
{
    memset(plan->count, 0, plan->num_experts * sizeof *plan->count);
    for (uint32_t r = 0; r < num_rows; r++)
        for (uint32_t k = 0; route[r] && k < plan->top_k; k++) {
            FS_ASSERT(route[r][k] < plan->num_experts);
            plan->count[route[r][k]]++;
        }
}

/* Makes the groups; count becomes the place of each expert's next pair. */
static void make_groups(fs_plan *plan)
{
    plan->num_groups = plan->num_pairs = 0;
    for (uint32_t e = 0; e < plan->num_experts; e++) {
        uint32_t n = plan->count[e];
        if (n == 0) continue;
        plan->group[plan->num_groups++] = (fs_plan_group){
            .expert = e, .first_pair = plan->num_pairs, .num_pairs = n, .message = FS_PLAN_NONE};
        plan->count[e] = plan->num_pairs;
        plan->num_pairs += n;
    }
    plan->num_unfinished = plan->num_groups;
}

void fs_plan_begin(fs_plan *plan, uint32_t moe_layer, const uint16_t *const *route, uint32_t num_rows)
{
    FS_ASSERT(num_rows <= plan->max_rows);
    plan->moe_layer = moe_layer;
    plan->num_rows = num_rows;
    plan->num_messages = 0;
    count_experts(plan, route, num_rows);
    make_groups(plan);
    for (uint32_t r = 0; r < num_rows; r++)
        for (uint32_t k = 0; route[r] && k < plan->top_k; k++)
            plan->pair[plan->count[route[r][k]]++] = r * plan->top_k + k;
}

/* ---- choosing a node ---- */

static bool avoided(const fs_plan_group *group, uint32_t node, int64_t now_ns)
{
    for (uint32_t i = 0; i < group->num_avoid; i++)
        if (group->avoid[i].node == node && group->avoid[i].until_ns > now_ns) return true;
    return false;
}

static void avoid(fs_plan_group *group, uint32_t node, int64_t until_ns)
{
    uint32_t at = 0;
    while (at < group->num_avoid && group->avoid[at].node != node) at++;
    if (at == FS_PLAN_MAX_AVOID) at = 0; /* full: the oldest is forgotten */
    if (at == group->num_avoid) group->num_avoid++;
    group->avoid[at].node = node;
    group->avoid[at].until_ns = until_ns;
}

/* Lower is better; FS_PLAN_NONE: not to be used. */
static uint32_t rank_of(const fs_plan_node *node)
{
    if (!node->connected) return FS_PLAN_NONE;
    uint32_t far = node->near ? 0 : 1;
    switch (node->state) {
    case FS_NODE_READY: return far;
    case FS_NODE_DRAINING: return 2 + far;
    case FS_NODE_LOST: return 4 + far; /* the coordinator does not hear it, but we do */
    default: return FS_PLAN_NONE;      /* loading: it would say MOVED */
    }
}

static uint32_t choose(const fs_plan_view *view, uint32_t moe_layer, uint32_t expert,
                       const fs_plan_group *group, int64_t now_ns)
{
    if (!view->replica || moe_layer >= view->num_moe_layers || expert >= view->num_experts)
        return FS_PLAN_NONE;
    uint32_t n = view->num_replicas, best = FS_PLAN_NONE, best_rank = FS_PLAN_NONE;
    const uint32_t *replica = view->replica + ((size_t)moe_layer * view->num_experts + expert) * n;
    fs_random spread = {((uint64_t)view->spread << 40) ^ ((uint64_t)moe_layer << 20) ^ expert};
    uint32_t first = n ? fs_random_below(&spread, n) : 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t node = replica[(first + i) % n];
        if (node == FS_NO_REPLICA || node >= view->num_nodes) continue;
        if (group && avoided(group, node, now_ns)) continue;
        uint32_t rank = rank_of(&view->node[node]);
        if (rank < best_rank) {
            best_rank = rank;
            best = node;
        }
    }
    return best;
}

uint32_t fs_plan_node_for(const fs_plan_view *view, uint32_t moe_layer, uint32_t expert)
{
    return choose(view, moe_layer, expert, NULL, 0);
}

/* ---- assigning ---- */

static uint32_t new_message(fs_plan *plan, uint32_t node, uint64_t id, int64_t deadline_ns)
{
    uint32_t at = 0;
    while (at < plan->num_messages && plan->message[at].open) at++;
    FS_ASSERT(at < plan->max_messages);
    if (at == plan->num_messages) plan->num_messages++;
    plan->message[at] = (fs_plan_message){.id = id, .node = node, .deadline_ns = deadline_ns, .open = true};
    return at;
}

static uint32_t message_for(fs_plan *plan, uint32_t node, const uint32_t *sent, uint32_t num_sent)
{
    for (uint32_t i = 0; i < num_sent; i++)
        if (plan->message[sent[i]].node == node) return sent[i];
    return FS_PLAN_NONE;
}

static void no_node(fs_plan *plan, fs_plan_group *group, const fs_plan_view *view, const fs_plan_rule *rule,
                    int64_t now_ns)
{
    bool known = view->missing_ns && plan->moe_layer < view->num_moe_layers &&
                 group->expert < view->num_experts;
    int64_t since = known ? view->missing_ns[(size_t)plan->moe_layer * view->num_experts + group->expert] : 0;
    if (group->trouble_ns == 0) group->trouble_ns = now_ns;
    if (since != 0 && since < group->trouble_ns) group->trouble_ns = since;
    if (now_ns - group->trouble_ns < rule->unavailable_ns) return;
    group->state = FS_GROUP_FAILED;
    plan->num_unfinished--;
}

uint32_t fs_plan_assign(fs_plan *plan, const fs_plan_view *view, const fs_plan_rule *rule, int64_t now_ns,
                        uint64_t *next_id, uint32_t *sent)
{
    uint32_t num_sent = 0;
    for (uint32_t g = 0; g < plan->num_groups; g++) {
        fs_plan_group *group = &plan->group[g];
        if (group->state != FS_GROUP_PENDING) continue;
        uint32_t node = choose(view, plan->moe_layer, group->expert, group, now_ns);
        if (node == FS_PLAN_NONE) {
            no_node(plan, group, view, rule, now_ns);
            continue;
        }
        uint32_t m = message_for(plan, node, sent, num_sent);
        if (m == FS_PLAN_NONE) {
            m = new_message(plan, node, (*next_id)++, now_ns + rule->answer_ns);
            sent[num_sent++] = m;
        }
        group->state = FS_GROUP_SENT;
        group->message = m;
        plan->message[m].num_groups++;
        plan->message[m].num_pairs += group->num_pairs;
    }
    return num_sent;
}

/* ---- what becomes of messages ---- */

uint32_t fs_plan_find(const fs_plan *plan, uint64_t id)
{
    for (uint32_t m = 0; m < plan->num_messages; m++)
        if (plan->message[m].open && plan->message[m].id == id) return m;
    return FS_PLAN_NONE;
}

uint32_t fs_plan_next_group(const fs_plan *plan, uint32_t message, uint32_t *cursor)
{
    for (uint32_t g = *cursor; g < plan->num_groups; g++) {
        if (plan->group[g].state != FS_GROUP_SENT || plan->group[g].message != message) continue;
        *cursor = g + 1;
        return g;
    }
    *cursor = plan->num_groups;
    return FS_PLAN_NONE;
}

static uint32_t again(fs_plan_group *group, int64_t now_ns)
{
    group->state = FS_GROUP_PENDING;
    group->message = FS_PLAN_NONE;
    if (group->trouble_ns == 0) group->trouble_ns = now_ns;
    return group->num_pairs;
}

static uint32_t answer_group(fs_plan *plan, uint32_t message, fs_plan_group *group, fs_plan_answer_kind kind,
                             int64_t now_ns)
{
    if (kind == FS_ANSWER_OK) {
        group->state = FS_GROUP_DONE;
        plan->num_unfinished--;
        return 0;
    }
    avoid(group, plan->message[message].node, now_ns + avoid_ns(kind));
    return again(group, now_ns);
}

uint32_t fs_plan_answer(fs_plan *plan, uint32_t message, const fs_plan_answer_kind *kind, int64_t now_ns)
{
    FS_ASSERT(plan->message[message].open);
    uint32_t pairs = 0, n = 0, cursor = 0;
    for (uint32_t g; (g = fs_plan_next_group(plan, message, &cursor)) != FS_PLAN_NONE;)
        pairs += answer_group(plan, message, &plan->group[g], kind[n++], now_ns);
    plan->message[message].open = false;
    return pairs;
}

uint32_t fs_plan_answer_all(fs_plan *plan, uint32_t message, fs_plan_answer_kind kind, int64_t now_ns)
{
    FS_ASSERT(plan->message[message].open);
    uint32_t pairs = 0, cursor = 0;
    for (uint32_t g; (g = fs_plan_next_group(plan, message, &cursor)) != FS_PLAN_NONE;)
        pairs += answer_group(plan, message, &plan->group[g], kind, now_ns);
    plan->message[message].open = false;
    return pairs;
}

/* Gives a message up. avoid_until_ns 0: the node is not avoided. */
static uint32_t give_up(fs_plan *plan, uint32_t message, int64_t avoid_until_ns, int64_t now_ns)
{
    uint32_t pairs = 0, cursor = 0;
    for (uint32_t g; (g = fs_plan_next_group(plan, message, &cursor)) != FS_PLAN_NONE;) {
        if (avoid_until_ns) avoid(&plan->group[g], plan->message[message].node, avoid_until_ns);
        pairs += again(&plan->group[g], now_ns);
    }
    plan->message[message].open = false;
    return pairs;
}

uint32_t fs_plan_node_lost(fs_plan *plan, uint32_t node, int64_t now_ns)
{
    uint32_t pairs = 0;
    for (uint32_t m = 0; m < plan->num_messages; m++)
        if (plan->message[m].open && plan->message[m].node == node) pairs += give_up(plan, m, 0, now_ns);
    return pairs;
}

uint32_t fs_plan_tick(fs_plan *plan, const fs_plan_rule *rule, int64_t now_ns)
{
    uint32_t pairs = 0;
    for (uint32_t m = 0; m < plan->num_messages; m++)
        if (plan->message[m].open && plan->message[m].deadline_ns <= now_ns)
            pairs += give_up(plan, m, now_ns + rule->answer_ns, now_ns);
    return pairs;
}

void fs_plan_forgive(fs_plan *plan)
{
    for (uint32_t g = 0; g < plan->num_groups; g++) plan->group[g].num_avoid = 0;
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t fs_plan_next_ns(const fs_plan *plan, const fs_plan_rule *rule, int64_t now_ns)
{
    int64_t next = FS_NEVER;
    for (uint32_t m = 0; m < plan->num_messages; m++)
        if (plan->message[m].open) next = sooner(next, plan->message[m].deadline_ns);
    for (uint32_t g = 0; g < plan->num_groups; g++) {
        const fs_plan_group *group = &plan->group[g];
        if (group->state != FS_GROUP_PENDING) continue;
        next = sooner(next, group->trouble_ns + rule->unavailable_ns);
        for (uint32_t i = 0; i < group->num_avoid; i++)
            if (group->avoid[i].until_ns > now_ns) next = sooner(next, group->avoid[i].until_ns);
    }
    return next;
}

/* ---- rows ---- */

uint32_t fs_plan_layout(fs_plan *plan, uint32_t message, uint32_t *row, uint32_t *pair_row, uint32_t *expert,
                        uint32_t *count)
{
    uint32_t num_rows = 0, num_groups = 0, num_pairs = 0, cursor = 0;
    memset(plan->row_index, 0xff, plan->num_rows * sizeof *plan->row_index);
    for (uint32_t g; (g = fs_plan_next_group(plan, message, &cursor)) != FS_PLAN_NONE;) {
        const fs_plan_group *group = &plan->group[g];
        expert[num_groups] = group->expert;
        count[num_groups++] = group->num_pairs;
        for (uint32_t i = 0; i < group->num_pairs; i++) {
            uint32_t r = plan->pair[group->first_pair + i] / plan->top_k;
            if (plan->row_index[r] == FS_PLAN_NONE) {
                plan->row_index[r] = num_rows;
                row[num_rows++] = r;
            }
            pair_row[num_pairs++] = plan->row_index[r];
        }
    }
    return num_rows;
}

void fs_plan_place(const fs_plan *plan, uint32_t group, const float *at, uint32_t hidden_size,
                   const float **out)
{
    const fs_plan_group *g = &plan->group[group];
    for (uint32_t i = 0; i < g->num_pairs; i++)
        out[plan->pair[g->first_pair + i]] = at + (size_t)i * hidden_size;
}

void fs_plan_fail_rows(const fs_plan *plan, const float **out, bool *failed)
{
    for (uint32_t g = 0; g < plan->num_groups; g++) {
        if (plan->group[g].state != FS_GROUP_FAILED) continue;
        for (uint32_t i = 0; i < plan->group[g].num_pairs; i++) {
            uint32_t r = plan->pair[plan->group[g].first_pair + i] / plan->top_k;
            failed[r] = true;
            for (uint32_t k = 0; k < plan->top_k; k++) out[(size_t)r * plan->top_k + k] = NULL;
        }
    }
}

void fs_plan_check(const fs_plan *plan)
{
    uint32_t pairs = 0, unfinished = 0;
    for (uint32_t g = 0; g < plan->num_groups; g++) {
        const fs_plan_group *group = &plan->group[g];
        FS_ASSERT(g == 0 || group->expert > plan->group[g - 1].expert);
        FS_ASSERT(group->num_pairs > 0);
        FS_ASSERT(group->first_pair == pairs);
        pairs += group->num_pairs;
        unfinished += group->state == FS_GROUP_PENDING || group->state == FS_GROUP_SENT;
        if (group->state != FS_GROUP_SENT) continue;
        FS_ASSERT(group->message < plan->num_messages);
        FS_ASSERT(plan->message[group->message].open);
    }
    FS_ASSERT(pairs == plan->num_pairs);
    FS_ASSERT(unfinished == plan->num_unfinished);
    for (uint32_t m = 0; m < plan->num_messages; m++) {
        uint32_t n = 0, cursor = 0;
        while (fs_plan_next_group(plan, m, &cursor) != FS_PLAN_NONE) n++;
        FS_ASSERT(n == (plan->message[m].open ? plan->message[m].num_groups : 0));
    }
}
