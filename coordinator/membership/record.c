/* coordinator/membership/record.c: the cluster as bytes and back. Little-endian; strings are a u16 length and bytes. The store keeps a
 * checksum; here every length and number is checked all the same. */
#include <stdlib.h>
#include <string.h>

#include "membership/cluster_int.h"
#include "placement/placement.h"

enum { MAGIC = 0x43435346 /* "FSCC" */, ASSIGNMENT_MAGIC = 0x41435346 /* "FSCA" */, VERSION = 1 };

static void put_text(fs_buffer *out, const char *text)
{
    size_t len = strlen(text);
    fs_buffer_append_u16(out, (uint16_t)len);
    fs_buffer_append(out, text, len);
}

static bool get_text(fs_reader *r, char *to, size_t size)
{
    size_t len = fs_read_u16(r);
    if (len >= size) return false;
    const uint8_t *text = fs_read_bytes(r, len);
    if (!text || memchr(text, 0, len)) return false;
    memcpy(to, text, len);
    to[len] = 0;
    return true;
}

static void put_member(const fs_cluster_member *m, fs_buffer *out)
{
    put_text(out, m->name);
    put_text(out, m->address);
    put_text(out, m->rack);
    put_text(out, m->version);
    fs_buffer_append_u64(out, m->instance);
    fs_buffer_append_u64(out, m->capacity_bytes);
    fs_buffer_append_u64(out, m->expert_bytes);
    fs_buffer_append_u64(out, m->ready_epoch);
    fs_buffer_append_u32(out, m->id);
    fs_buffer_append_u32(out, (uint32_t)m->node);
    fs_buffer_append_u8(out, (uint8_t)m->kind);
    fs_buffer_append_u8(out, fs_cluster_is_alive(m));
    fs_buffer_append_u8(out, m->draining);
    fs_buffer_append_u8(out, m->left);
}

void fs_cluster_save(const fs_cluster *c, fs_buffer *out)
{
    fs_buffer_append_u32(out, MAGIC);
    fs_buffer_append_u32(out, VERSION);
    fs_buffer_append_u64(out, c->epoch);
    fs_buffer_append_u32(out, c->next_id);
    fs_buffer_append_u8(out, c->model.is_set);
    fs_buffer_append_u64(out, c->model.fingerprint);
    fs_buffer_append_u32(out, c->model.num_moe_layers);
    fs_buffer_append_u32(out, c->model.num_experts);
    put_text(out, c->model.name);
    fs_buffer_append_u32(out, c->num_placed);
    fs_buffer_append_u32(out, c->num_members);
    for (uint32_t i = 0; i < c->num_members; i++) put_member(c->members[i], out);
}

void fs_cluster_save_assignment(const fs_cluster *c, fs_buffer *out)
{
    size_t entries = c->replica ? (size_t)fs_cluster_num_experts(c) * c->options.num_replicas : 0;
    fs_buffer_append_u32(out, ASSIGNMENT_MAGIC);
    fs_buffer_append_u32(out, VERSION);
    fs_buffer_append_u64(out, c->assignment_epoch);
    fs_buffer_append_u32(out, c->options.num_replicas);
    fs_buffer_append_u32(out, (uint32_t)entries);
    for (size_t i = 0; i < entries; i++) fs_buffer_append_u32(out, c->replica[i]);
}

/* ---- back ---- */

static fs_status corrupt(fs_detail *detail, const char *what)
{
    return fs_fail(detail, FS_CORRUPT, "the stored cluster is damaged: %s", what);
}

static bool numbers_are_sane(const fs_cluster *c, const fs_cluster_member *m, uint32_t kind)
{
    bool kind_ok = kind == FS_KIND_ROUTER || kind == FS_KIND_EXPERT_NODE;
    bool node_ok = m->node == FS_CLUSTER_NO_NODE ||
                   (kind == FS_KIND_EXPERT_NODE && m->node >= 0 && (uint32_t)m->node < c->num_placed &&
                    !c->placed[m->node]);
    return kind_ok && node_ok && m->id > 0 && m->id < c->next_id &&
           (m->capacity_bytes == 0 || m->expert_bytes > 0 || kind == FS_KIND_ROUTER);
}

static fs_status get_member(fs_cluster *c, fs_reader *r, int64_t now_ns, fs_detail *detail)
{
    fs_cluster_member m = {0};
    if (!get_text(r, m.name, sizeof(m.name)) || !get_text(r, m.address, sizeof(m.address)) ||
        !get_text(r, m.rack, sizeof(m.rack)) || !get_text(r, m.version, sizeof(m.version)))
        return corrupt(detail, "a member's text");
    m.instance = fs_read_u64(r);
    m.capacity_bytes = fs_read_u64(r);
    m.expert_bytes = fs_read_u64(r);
    m.ready_epoch = fs_read_u64(r);
    m.id = fs_read_u32(r);
    m.node = (int32_t)fs_read_u32(r);
    uint32_t kind = fs_read_u8(r);
    m.kind = (fs_member_kind)kind;
    bool alive = fs_read_u8(r) != 0;
    m.draining = fs_read_u8(r) != 0;
    m.left = fs_read_u8(r) != 0;
    m.heard_ns = now_ns;
    m.state = alive && !m.left ? FS_NODE_LOADING : FS_NODE_LOST; /* fs_cluster_load sets what it is */
    uint32_t at, next_id = c->next_id;
    if (r->short_read || !numbers_are_sane(c, &m, kind)) return corrupt(detail, "a member's numbers");
    if (fs_cluster_lookup(c, m.name, &at)) return corrupt(detail, "two members have one name");
    fs_cluster_member *to = fs_cluster_insert(c, m.name);
    if (!to) return FS_NO_MEMORY;
    c->next_id = next_id;
    *to = m;
    if (m.node != FS_CLUSTER_NO_NODE) c->placed[m.node] = to;
    return FS_OK;
}

static fs_status get_model(fs_cluster *c, fs_reader *r, fs_detail *detail)
{
    c->model.is_set = fs_read_u8(r) != 0;
    c->model.fingerprint = fs_read_u64(r);
    c->model.num_moe_layers = fs_read_u32(r);
    c->model.num_experts = fs_read_u32(r);
    if (!get_text(r, c->model.name, sizeof(c->model.name))) return corrupt(detail, "the model's name");
    const fs_placement_shape shape = {c->model.num_moe_layers, c->model.num_experts, 1};
    if (c->model.is_set && !fs_placement_shape_is_valid(&shape)) return corrupt(detail, "the model's shape");
    return FS_OK;
}

static fs_status get_cluster(fs_cluster *c, fs_reader *r, int64_t now_ns, fs_detail *detail)
{
    if (fs_read_u32(r) != MAGIC) return corrupt(detail, "it does not begin as one");
    uint32_t version = fs_read_u32(r);
    if (version != VERSION)
        return fs_fail(detail, FS_UNSUPPORTED, "the stored cluster has format %u and this version knows %d",
                       version, VERSION);
    uint64_t epoch = fs_read_u64(r);
    c->next_id = fs_read_u32(r);
    if (epoch == UINT64_MAX || c->next_id == 0) return corrupt(detail, "epoch or next id");
    c->epoch = epoch;
    fs_status st = get_model(c, r, detail);
    if (st != FS_OK) return st;
    uint32_t num_placed = fs_read_u32(r), num_members = fs_read_u32(r);
    if (r->short_read || num_members > FS_CLUSTER_MAX_MEMBERS || num_placed > num_members)
        return corrupt(detail, "the number of members");
    if (num_placed > 0) c->placed = calloc(num_placed, sizeof(*c->placed));
    if (num_placed > 0 && !c->placed) return FS_NO_MEMORY;
    c->num_placed = num_placed;
    for (uint32_t i = 0; i < num_members && st == FS_OK; i++) st = get_member(c, r, now_ns, detail);
    if (st != FS_OK) return st;
    for (uint32_t i = 0; i < num_placed; i++)
        if (!c->placed[i]) return corrupt(detail, "a placed node is missing");
    return fs_reader_left(r) == 0 ? FS_OK : corrupt(detail, "there are bytes behind its end");
}

static fs_status get_assignment(fs_cluster *c, fs_reader *r, fs_detail *detail)
{
    if (fs_read_u32(r) != ASSIGNMENT_MAGIC || fs_read_u32(r) != VERSION)
        return corrupt(detail, "the placement does not begin as one");
    c->assignment_epoch = fs_read_u64(r);
    uint32_t num_replicas = fs_read_u32(r), entries = fs_read_u32(r);
    if (r->short_read || c->assignment_epoch > c->epoch) return corrupt(detail, "the placement's epoch");
    if (num_replicas != c->options.num_replicas)
        return fs_fail(detail, FS_INVALID,
                       "the stored placement has %u replicas of each expert and %u are asked for",
                       num_replicas, c->options.num_replicas);
    if (!c->model.is_set || entries != (uint64_t)fs_cluster_num_experts(c) * num_replicas ||
        entries > FS_PLACEMENT_MAX_ENTRIES || fs_reader_left(r) != (size_t)entries * 4)
        return corrupt(detail, "the placement's size");
    c->replica = malloc((size_t)entries * sizeof(*c->replica));
    if (!c->replica) return FS_NO_MEMORY;
    for (uint32_t i = 0; i < entries; i++) {
        c->replica[i] = fs_read_u32(r);
        if (c->replica[i] >= c->num_placed) return corrupt(detail, "an expert is on no node");
    }
    return FS_OK;
}

fs_status fs_cluster_load(fs_cluster *c, const uint8_t *data, size_t size, const uint8_t *assignment,
                          size_t assignment_size, int64_t now_ns, fs_detail *detail)
{
    FS_ASSERT(c->num_members == 0 && !c->replica);
    fs_reader r = fs_reader_of(data, size);
    fs_status st = get_cluster(c, &r, now_ns, detail);
    if (st != FS_OK) return st;
    if (c->num_placed > 0) {
        r = fs_reader_of(assignment, assignment_size);
        st = get_assignment(c, &r, detail);
        if (st != FS_OK) return st;
    }
    for (uint32_t i = 0; i < c->num_members; i++)
        if (fs_cluster_is_alive(c->members[i])) (void)fs_cluster_update(c, c->members[i]);
    c->num_notes = 0;
    fs_cluster_bump(c);
    c->changes |= c->replica ? FS_CLUSTER_STORE_ASSIGNMENT : 0;
    return FS_OK;
}
