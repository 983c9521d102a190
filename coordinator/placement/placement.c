/* coordinator/placement/placement.c: the even static plan, in three steps that can each not fail once the sum fits: how many experts a node
 * gets in all (shares), how many of each layer (quotas), and which (greedy, kept feasible by one rule). */
#include "placement/placement.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t num_nodes, num_racks;
    uint32_t *rack;      /* [num_nodes] small numbers, equal for equal names */
    uint64_t *share;     /* [num_nodes] experts still to get, over the layers that are left */
    uint32_t *quota;     /* [num_nodes] still to get in this layer */
    uint64_t *rack_left; /* [num_racks] sum of the quotas of its nodes */
    uint64_t *rack_used; /* [num_racks] the last expert (plus one) that has a replica there */
    uint32_t turn;       /* where ties begin: moves on, so that the first node is not always favoured */
} plan;

bool fs_placement_shape_is_valid(const fs_placement_shape *s)
{
    size_t experts, entries;
    return s->num_moe_layers > 0 && s->num_experts > 0 && s->num_replicas > 0 &&
           fs_mul_size(s->num_moe_layers, s->num_experts, &experts) &&
           fs_mul_size(experts, s->num_replicas, &entries) && entries <= FS_PLACEMENT_MAX_ENTRIES;
}

static uint64_t room(const fs_placement_node *node, uint64_t num_experts)
{
    return node->max_experts < num_experts ? node->max_experts : num_experts; /* no expert twice on a node */
}

/* Even shares, small nodes filled: the highest level at which all that is needed has a place. What is left over after whole levels goes to
 * the first nodes with room. False: it does not fit. */
static bool fill_shares(plan *p, const fs_placement_node *nodes, uint64_t num_experts, uint64_t needed)
{
    uint64_t low = 0, high = num_experts; /* at level low at most `needed` has a place */
    while (low < high) {
        uint64_t level = low + (high - low + 1) / 2, sum = 0;
        for (uint32_t i = 0; i < p->num_nodes; i++) {
            uint64_t r = room(&nodes[i], num_experts);
            sum += r < level ? r : level;
        }
        if (sum <= needed)
            low = level;
        else
            high = level - 1;
    }
    uint64_t left = needed;
    for (uint32_t i = 0; i < p->num_nodes; i++) {
        uint64_t r = room(&nodes[i], num_experts);
        p->share[i] = r < low ? r : low;
        left -= p->share[i];
    }
    for (uint32_t i = 0; i < p->num_nodes && left > 0; i++) {
        if (room(&nodes[i], num_experts) <= p->share[i]) continue;
        p->share[i]++;
        left--;
    }
    return left == 0;
}

/* The node whose share loses most by rounding down and that has not been rounded up; ties go round. */
static uint32_t most_rounded(const plan *p, uint32_t layers_left)
{
    uint32_t best = UINT32_MAX;
    uint64_t most = 0;
    for (uint32_t k = 0; k < p->num_nodes; k++) {
        uint32_t i = (k + p->turn) % p->num_nodes;
        uint64_t lost = p->share[i] % layers_left;
        if (p->quota[i] > p->share[i] / layers_left || lost <= most) continue;
        most = lost;
        best = i;
    }
    FS_ASSERT(best != UINT32_MAX);
    return best;
}

/* A layer's part of the shares. Every share is at most layers_left * num_experts, and stays so for the layers after this one. */
static void fill_quotas(plan *p, uint32_t layers_left, uint64_t needed)
{
    for (uint32_t i = 0; i < p->num_nodes; i++) {
        p->quota[i] = (uint32_t)(p->share[i] / layers_left);
        needed -= p->quota[i];
    }
    for (; needed > 0; needed--) p->quota[most_rounded(p, layers_left)]++;
    memset(p->rack_left, 0, p->num_racks * sizeof(*p->rack_left));
    for (uint32_t i = 0; i < p->num_nodes; i++) {
        p->share[i] -= p->quota[i];
        p->rack_left[p->rack[i]] += p->quota[i];
    }
}

/* Whether node a is a better place than b for the expert `mark`, of which layers `experts_left` are still to be placed. */
static bool is_better(const plan *p, uint32_t a, uint32_t b, uint32_t experts_left, uint64_t mark)
{
    /* A node that needs every expert that is left must have this one: the one rule that keeps the rest feasible. */
    bool must_a = p->quota[a] == experts_left, must_b = p->quota[b] == experts_left;
    if (must_a != must_b) return must_a;
    bool new_a = p->rack_used[p->rack[a]] != mark, new_b = p->rack_used[p->rack[b]] != mark;
    if (new_a != new_b) return new_a;
    uint64_t left_a = p->rack_left[p->rack[a]], left_b = p->rack_left[p->rack[b]];
    if (left_a != left_b) return left_a > left_b;
    return p->quota[a] > p->quota[b];
}

static bool is_chosen(const uint32_t *replica, uint32_t n, uint32_t node)
{
    for (uint32_t i = 0; i < n; i++)
        if (replica[i] == node) return true;
    return false;
}

static void place_expert(plan *p, uint32_t *replica, uint32_t num_replicas, uint32_t experts_left,
                         uint64_t mark)
{
    for (uint32_t r = 0; r < num_replicas; r++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t k = 0; k < p->num_nodes; k++) {
            uint32_t i = (k + p->turn) % p->num_nodes;
            if (p->quota[i] == 0 || is_chosen(replica, r, i)) continue;
            if (best == UINT32_MAX || is_better(p, i, best, experts_left, mark)) best = i;
        }
        FS_ASSERT(best != UINT32_MAX);
        replica[r] = best;
        p->rack_used[p->rack[best]] = mark;
    }
    for (uint32_t r = 0; r < num_replicas; r++) {
        p->quota[replica[r]]--;
        p->rack_left[p->rack[replica[r]]]--;
    }
}

static void number_racks(plan *p, const fs_placement_node *nodes)
{
    for (uint32_t i = 0; i < p->num_nodes; i++) {
        uint32_t j = 0;
        while (j < i && strcmp(nodes[j].rack, nodes[i].rack) != 0) j++;
        p->rack[i] = j < i ? p->rack[j] : p->num_racks++;
    }
}

static void place_all(plan *p, const fs_placement_shape *shape, uint32_t *replica)
{
    uint64_t mark = 0;
    for (uint32_t layer = 0; layer < shape->num_moe_layers; layer++) {
        p->turn = layer % p->num_nodes;
        fill_quotas(p, shape->num_moe_layers - layer, (uint64_t)shape->num_experts * shape->num_replicas);
        for (uint32_t expert = 0; expert < shape->num_experts; expert++) {
            place_expert(p, replica, shape->num_replicas, shape->num_experts - expert, ++mark);
            replica += shape->num_replicas;
        }
    }
}

static fs_status does_not_fit(const fs_placement_node *nodes, uint32_t num_nodes, uint64_t experts,
                              uint32_t num_replicas, fs_detail *detail)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < num_nodes; i++) sum += room(&nodes[i], experts);
    return fs_fail(detail, FS_EXHAUSTED,
                   "the experts do not fit: %" PRIu64 " experts with %u replica%s need %" PRIu64
                   " places and the memory of %u node%s has %" PRIu64,
                   experts, num_replicas, num_replicas == 1 ? "" : "s", experts * num_replicas, num_nodes,
                   num_nodes == 1 ? "" : "s", sum);
}

fs_status fs_placement_plan(const fs_placement_shape *shape, const fs_placement_node *nodes,
                            uint32_t num_nodes, uint32_t *replica, fs_detail *detail)
{
    if (!fs_placement_shape_is_valid(shape))
        return fs_fail(
            detail, FS_INVALID, "placement of %u layers with %u experts and %u replicas: not 1 to %d entries",
            shape->num_moe_layers, shape->num_experts, shape->num_replicas, FS_PLACEMENT_MAX_ENTRIES);
    if (num_nodes < shape->num_replicas || num_nodes > FS_PLACEMENT_MAX_NODES)
        return fs_fail(detail, FS_INVALID,
                       "%u replicas of each expert on %u nodes: they need a node each (at most %d)",
                       shape->num_replicas, num_nodes, FS_PLACEMENT_MAX_NODES);
    uint64_t experts = (uint64_t)shape->num_moe_layers * shape->num_experts;
    plan p = {.num_nodes = num_nodes};
    fs_status st = FS_NO_MEMORY;
    p.rack = calloc(num_nodes, sizeof(*p.rack));
    p.share = calloc(num_nodes, sizeof(*p.share));
    p.quota = calloc(num_nodes, sizeof(*p.quota));
    p.rack_left = calloc(num_nodes, sizeof(*p.rack_left));
    p.rack_used = calloc(num_nodes, sizeof(*p.rack_used));
    if (!p.rack || !p.share || !p.quota || !p.rack_left || !p.rack_used) goto out;
    number_racks(&p, nodes);
    if (fill_shares(&p, nodes, experts, experts * shape->num_replicas)) {
        place_all(&p, shape, replica);
        st = FS_OK;
    } else {
        st = does_not_fit(nodes, num_nodes, experts, shape->num_replicas, detail);
    }
out:
    free(p.rack);
    free(p.share);
    free(p.quota);
    free(p.rack_left);
    free(p.rack_used);
    return st;
}
