/* coordinator/membership/report.c: what Status says: what is there, what is missing, and why. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "membership/cluster_int.h"

bool fs_cluster_is_shown(const fs_cluster_member *m)
{
    return !m->left || m->node != FS_CLUSTER_NO_NODE;
}

const fs_cluster_member *fs_cluster_find(const fs_cluster *c, const char *name)
{
    uint32_t at;
    const fs_cluster_member *m = fs_cluster_lookup(c, name, &at);
    return m && fs_cluster_is_shown(m) ? m : NULL;
}

uint32_t fs_cluster_num_experts(const fs_cluster *c)
{
    return c->model.is_set ? c->model.num_moe_layers * c->model.num_experts : 0;
}

static const uint32_t *replicas_of(const fs_cluster *c, uint32_t expert)
{
    return &c->replica[(size_t)expert * c->options.num_replicas];
}

static uint32_t num_answering(const fs_cluster *c, uint32_t expert)
{
    const uint32_t *r = replicas_of(c, expert);
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->options.num_replicas; i++) n += fs_cluster_answers(c->placed[r[i]]);
    return n;
}

uint32_t fs_cluster_unavailable(const fs_cluster *c)
{
    uint32_t n = 0, experts = fs_cluster_num_experts(c);
    if (!c->replica) return experts;
    for (uint32_t e = 0; e < experts; e++) n += num_answering(c, e) == 0;
    return n;
}

void fs_cluster_shares(const fs_cluster *c, fs_cluster_share *out)
{
    memset(out, 0, c->num_placed * sizeof(*out));
    for (uint32_t e = 0, n = c->replica ? fs_cluster_num_experts(c) : 0; e < n; e++) {
        const uint32_t *r = replicas_of(c, e);
        uint32_t answering = num_answering(c, e);
        for (uint32_t i = 0; i < c->options.num_replicas; i++) {
            out[r[i]].assigned++;
            out[r[i]].alone += answering == (fs_cluster_answers(c->placed[r[i]]) ? 1u : 0u);
        }
    }
}

/* ---- problems ---- */

static void end_line(fs_buffer *lines)
{
    fs_buffer_append_u8(lines, 0);
}

static const char *plural(uint32_t n)
{
    return n == 1 ? "" : "s";
}

static void placed_node_problems(const fs_cluster_member *m, const fs_cluster_share *share, fs_buffer *lines)
{
    uint32_t assigned = share->assigned, alone = share->alone;
    if (m->state != FS_NODE_READY) {
        const char *what = m->state == FS_NODE_LOADING    ? "is loading"
                           : m->state == FS_NODE_DRAINING ? "is draining"
                           : m->left                      ? "has left"
                                                          : "is lost";
        fs_buffer_printf(lines, "expert node %s %s: ", m->name, what);
        if (alone > 0)
            fs_buffer_printf(lines, "%u expert%s %s no %sready replica", alone, plural(alone),
                             alone == 1 ? "has" : "have", m->state == FS_NODE_DRAINING ? "other " : "");
        else
            fs_buffer_printf(lines, "its %u expert%s %s served by replicas", assigned, plural(assigned),
                             assigned == 1 ? "is" : "are");
        end_line(lines);
    }
}

static void member_problems(const fs_cluster_member *m, const fs_cluster_share *shares, fs_buffer *lines)
{
    const char *kind = m->kind == FS_KIND_ROUTER ? "router" : "expert node";
    if (m->node != FS_CLUSTER_NO_NODE)
        placed_node_problems(m, &shares[m->node], lines);
    else if (!fs_cluster_is_alive(m)) {
        fs_buffer_printf(lines, "%s %s is lost", kind, m->name);
        end_line(lines);
    }
    if (!m->problem[0] || !fs_cluster_is_alive(m)) return;
    fs_buffer_printf(lines, "%s %s: %s", kind, m->name, m->problem);
    end_line(lines);
}

static void placement_problems(const fs_cluster *c, fs_buffer *lines)
{
    if (c->replica) return;
    uint32_t alive = 0;
    for (uint32_t i = 0; i < c->num_members; i++)
        alive += c->members[i]->kind == FS_KIND_EXPERT_NODE && fs_cluster_is_alive(c->members[i]);
    if (alive < c->options.nodes_expected)
        fs_buffer_printf(lines, "experts are not placed yet: %u of %u expert nodes %s registered", alive,
                         c->options.nodes_expected, alive == 1 ? "has" : "have");
    else if (c->placement_problem[0])
        fs_buffer_printf(lines, "%s", c->placement_problem);
    else
        fs_buffer_printf(lines, "experts are not placed yet: expert nodes are draining");
    end_line(lines);
}

void fs_cluster_problems(const fs_cluster *c, const fs_cluster_share *shares, fs_buffer *lines)
{
    placement_problems(c, lines);
    for (uint32_t i = 0; i < c->num_members; i++)
        if (fs_cluster_is_shown(c->members[i])) member_problems(c->members[i], shares, lines);
}

/* ---- what always holds ---- */

static void check_member(const fs_cluster *c, uint32_t i)
{
    const fs_cluster_member *m = c->members[i];
    FS_ASSERT(m->id > 0 && m->id < c->next_id);
    FS_ASSERT(m->state >= FS_NODE_LOADING && m->state <= FS_NODE_LOST);
    FS_ASSERT(m->kind == FS_KIND_EXPERT_NODE || m->node == FS_CLUSTER_NO_NODE);
    FS_ASSERT(m->node == FS_CLUSTER_NO_NODE ||
              ((uint32_t)m->node < c->num_placed && c->placed[m->node] == m));
    FS_ASSERT(m->kind == FS_KIND_EXPERT_NODE || m->state == FS_NODE_READY || m->state == FS_NODE_LOST);
    FS_ASSERT(!m->left || m->state == FS_NODE_LOST);
    if (m->kind == FS_KIND_EXPERT_NODE && fs_cluster_answers(m))
        FS_ASSERT(c->replica && m->ready_epoch >= c->assignment_epoch);
}

void fs_cluster_check(const fs_cluster *c)
{
    FS_ASSERT(c->num_members <= FS_CLUSTER_MAX_MEMBERS);
    FS_ASSERT(c->assignment_epoch <= c->epoch);
    FS_ASSERT(!c->replica == (c->num_placed == 0));
    for (uint32_t i = 0; i < c->num_members; i++) check_member(c, i);
    size_t entries = c->replica ? (size_t)fs_cluster_num_experts(c) * c->options.num_replicas : 0;
    for (size_t i = 0; i < entries; i++) FS_ASSERT(c->replica[i] < c->num_placed);
}
