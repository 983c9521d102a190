/* coordinator/membership/table.c: the members in the order of their names, notes for the log, and the one placement. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "membership/cluster_int.h"
#include "placement/placement.h"

fs_cluster_member *fs_cluster_lookup(const fs_cluster *c, const char *name, uint32_t *at)
{
    uint32_t low = 0, high = c->num_members;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order = strcmp(c->members[mid]->name, name);
        if (order == 0) {
            *at = mid;
            return c->members[mid];
        }
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    *at = low;
    return NULL;
}

fs_cluster_member *fs_cluster_insert(fs_cluster *c, const char *name)
{
    uint32_t at;
    FS_ASSERT(!fs_cluster_lookup(c, name, &at));
    if (c->num_members == c->capacity) {
        uint32_t capacity = c->capacity ? c->capacity * 2 : 16;
        fs_cluster_member **more = realloc(c->members, capacity * sizeof(*more));
        if (!more) return NULL;
        c->members = more;
        c->capacity = capacity;
    }
    fs_cluster_member *m = calloc(1, sizeof(*m));
    if (!m) return NULL;
    snprintf(m->name, sizeof(m->name), "%s", name);
    m->id = c->next_id++;
    m->node = FS_CLUSTER_NO_NODE;
    m->state = FS_NODE_LOST; /* until it is heard of */
    memmove(&c->members[at + 1], &c->members[at], (c->num_members - at) * sizeof(*c->members));
    c->members[at] = m;
    c->num_members++;
    return m;
}

void fs_cluster_remove(fs_cluster *c, uint32_t at)
{
    fs_cluster_member *m = c->members[at];
    FS_ASSERT(m->node == FS_CLUSTER_NO_NODE);
    fs_cluster_note_add(c, FS_NOTE_FORGOTTEN, m->name);
    c->changes |= FS_CLUSTER_STORE;
    if (m->kind == FS_KIND_EXPERT_NODE && fs_cluster_is_shown(m)) fs_cluster_bump(c);
    free(m);
    c->num_members--;
    memmove(&c->members[at], &c->members[at + 1], (c->num_members - at) * sizeof(*c->members));
}

void fs_cluster_note_add(fs_cluster *c, fs_note_kind kind, const char *name)
{
    if (c->num_notes == FS_CLUSTER_MAX_NOTES) return;
    fs_cluster_note *note = &c->notes[c->num_notes++];
    *note = (fs_cluster_note){.kind = kind};
    snprintf(note->name, sizeof(note->name), "%s", name);
}

uint32_t fs_cluster_take_notes(fs_cluster *c, fs_cluster_note out[FS_CLUSTER_MAX_NOTES])
{
    uint32_t n = c->num_notes;
    memcpy(out, c->notes, n * sizeof(*out));
    c->num_notes = 0;
    return n;
}

const char *fs_note_name(fs_note_kind kind)
{
    switch (kind) {
    case FS_NOTE_JOINED: return "member_joined";
    case FS_NOTE_REPLACED: return "member_back";
    case FS_NOTE_READY: return "node_ready";
    case FS_NOTE_NOT_READY: return "node_not_ready";
    case FS_NOTE_LOST: return "member_lost";
    case FS_NOTE_LEFT: return "member_left";
    case FS_NOTE_FORGOTTEN: return "member_forgotten";
    case FS_NOTE_DRAINING: return "node_draining";
    case FS_NOTE_UNDRAINED: return "node_undrained";
    case FS_NOTE_PLACED: return "experts_placed";
    case FS_NOTE_EPOCH_RAISED: return "epoch_raised";
    }
    return "unknown";
}

/* ---- placement ---- */

static bool can_be_placed(const fs_cluster_member *m)
{
    return m->kind == FS_KIND_EXPERT_NODE && fs_cluster_is_alive(m) && !m->draining;
}

static void adopt_placement(fs_cluster *c, fs_cluster_member **placed, uint32_t num_placed, uint32_t *replica)
{
    c->placed = placed;
    c->num_placed = num_placed;
    c->replica = replica;
    for (uint32_t i = 0; i < num_placed; i++) placed[i]->node = (int32_t)i;
    fs_cluster_bump(c);
    c->assignment_epoch = c->epoch;
    c->changes |= FS_CLUSTER_STORE_ASSIGNMENT;
    c->placement_problem[0] = 0;
    fs_cluster_note_add(c, FS_NOTE_PLACED, "");
    for (uint32_t i = 0; i < c->num_members; i++)
        if (fs_cluster_is_alive(c->members[i])) fs_cluster_update(c, c->members[i]);
}

/* The living nodes in the order of their names, as the planner wants them. */
static uint32_t gather(const fs_cluster *c, fs_cluster_member **placed, fs_placement_node *nodes)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->num_members; i++) {
        fs_cluster_member *m = c->members[i];
        if (!can_be_placed(m)) continue;
        uint64_t room = m->capacity_bytes == 0 ? UINT64_MAX : m->capacity_bytes / m->expert_bytes;
        nodes[n] = (fs_placement_node){m->name, m->rack, room};
        placed[n++] = m;
    }
    return n;
}

/* By what memory the nodes have; and where that is too little for all experts, evenly: nodes then keep a part of theirs in memory. */
static fs_status plan(const fs_placement_shape *shape, fs_placement_node *nodes, uint32_t n,
                      uint32_t *replica, fs_detail *detail)
{
    fs_status st = fs_placement_plan(shape, nodes, n, replica, detail);
    if (st != FS_EXHAUSTED) return st;
    for (uint32_t i = 0; i < n; i++) nodes[i].max_experts = UINT64_MAX;
    return fs_placement_plan(shape, nodes, n, replica, detail);
}

fs_status fs_cluster_place(fs_cluster *c)
{
    if (c->replica || !c->model.is_set) return FS_OK;
    const fs_placement_shape shape = {c->model.num_moe_layers, c->model.num_experts, c->options.num_replicas};
    size_t entries = (size_t)shape.num_moe_layers * shape.num_experts * shape.num_replicas;
    fs_cluster_member **placed = calloc(c->num_members, sizeof(*placed));
    fs_placement_node *nodes = calloc(c->num_members, sizeof(*nodes));
    uint32_t *replica = NULL;
    fs_status st = placed && nodes ? FS_OK : FS_NO_MEMORY;
    fs_detail detail = {0};
    uint32_t n = st == FS_OK ? gather(c, placed, nodes) : 0;
    if (st != FS_OK || n < c->options.nodes_expected) goto out;
    replica = malloc(entries * sizeof(*replica));
    st = replica ? plan(&shape, nodes, n, replica, &detail) : FS_NO_MEMORY;
    if (st == FS_OK) {
        adopt_placement(c, placed, n, replica);
        placed = NULL;
        replica = NULL;
    } else if (st != FS_NO_MEMORY) {
        /* Not the registering member's fault: Status says it, and the next node that joins may change it. */
        memcpy(c->placement_problem, detail.text, sizeof(c->placement_problem));
        st = FS_OK;
    }
out:
    free(placed);
    free(nodes);
    free(replica);
    return st;
}
