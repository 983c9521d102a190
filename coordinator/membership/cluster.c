/* coordinator/membership/cluster.c: the events. table.c holds the members, report.c says what there is to see, record.c keeps it. */
#include "membership/cluster.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "membership/cluster_int.h"
#include "placement/placement.h"

/* A node that is so many epochs ahead is not from an earlier life of this cluster. */
static const uint64_t MAX_EPOCHS_AHEAD = (uint64_t)1 << 40;

fs_status fs_cluster_init(fs_cluster *c, const fs_cluster_options *options, int64_t now_ns, fs_detail *detail)
{
    FS_ASSERT(options->expire_ns > 0);
    *c = (fs_cluster){0};
    if (options->nodes_expected == 0 || options->num_replicas == 0 ||
        options->num_replicas > options->nodes_expected)
        return fs_fail(detail, FS_INVALID,
                       "%u replicas on %u expert nodes: each replica of an expert needs a node of its own",
                       options->num_replicas, options->nodes_expected);
    c->options = *options;
    c->epoch = options->first_epoch;
    c->next_id = 1;
    c->last_tick_ns = now_ns;
    c->notes = calloc(FS_CLUSTER_MAX_NOTES, sizeof(*c->notes));
    return c->notes ? FS_OK : FS_NO_MEMORY;
}

void fs_cluster_fini(fs_cluster *c)
{
    for (uint32_t i = 0; i < c->num_members; i++) free(c->members[i]);
    free(c->members);
    free(c->placed);
    free(c->replica);
    free(c->notes);
    *c = (fs_cluster){0};
}

void fs_cluster_bump(fs_cluster *c)
{
    c->epoch++;
    c->changes |= FS_CLUSTER_PUBLISH | FS_CLUSTER_STORE;
}

bool fs_cluster_update(fs_cluster *c, fs_cluster_member *m)
{
    fs_node_state state = FS_NODE_READY;
    if (m->kind == FS_KIND_EXPERT_NODE && (!c->replica || m->ready_epoch < c->assignment_epoch))
        state = FS_NODE_LOADING;
    else if (m->kind == FS_KIND_EXPERT_NODE && m->draining)
        state = FS_NODE_DRAINING;
    if (state == m->state) return false;
    if (m->kind == FS_KIND_EXPERT_NODE && state == FS_NODE_READY)
        fs_cluster_note_add(c, FS_NOTE_READY, m->name);
    if (fs_cluster_answers(m) && state == FS_NODE_LOADING) fs_cluster_note_add(c, FS_NOTE_NOT_READY, m->name);
    m->state = state;
    return true;
}

/* ---- register ---- */

static fs_status check_text(const char *field, const char *text, size_t max, bool may_be_empty,
                            fs_detail *detail)
{
    size_t len = text ? strlen(text) : 0;
    if (len == 0 && !may_be_empty) return fs_fail(detail, FS_INVALID, "%s is empty", field);
    if (len > max) return fs_fail(detail, FS_INVALID, "%s has %zu bytes, more than %zu", field, len, max);
    return FS_OK;
}

static fs_status check_numbers(const fs_cluster *c, const fs_cluster_joining *who, fs_detail *detail)
{
    if (who->instance == 0) return fs_fail(detail, FS_INVALID, "instance is 0");
    if (who->kind != FS_KIND_ROUTER && who->kind != FS_KIND_EXPERT_NODE)
        return fs_fail(detail, FS_INVALID, "kind %u is no member kind", who->kind);
    const fs_placement_shape shape = {who->num_moe_layers, who->num_experts, c->options.num_replicas};
    if (!fs_placement_shape_is_valid(&shape))
        return fs_fail(
            detail, FS_INVALID, "num_moe_layers %u, num_experts %u: with %u replicas not 1 to %d in all",
            who->num_moe_layers, who->num_experts, c->options.num_replicas, FS_PLACEMENT_MAX_ENTRIES);
    if (who->kind == FS_KIND_EXPERT_NODE && who->capacity_bytes > 0 && who->expert_bytes == 0)
        return fs_fail(detail, FS_INVALID, "capacity_bytes is %" PRIu64 " and expert_bytes is 0",
                       who->capacity_bytes);
    return FS_OK;
}

static fs_status check_joining(const fs_cluster *c, const fs_cluster_joining *who, fs_detail *detail)
{
    size_t len = who->name ? strlen(who->name) : 0;
    if (len < 1 || len > 63 || strspn(who->name, "abcdefghijklmnopqrstuvwxyz0123456789-") != len)
        return fs_fail(detail, FS_INVALID, "name '%.80s': not 1 to 63 of [a-z0-9-]",
                       who->name ? who->name : "");
    const fs_cluster_member *m = NULL;
    fs_status st = check_text("address", who->address, sizeof(m->address) - 1, false, detail);
    if (st == FS_OK) st = check_text("rack", who->rack, sizeof(m->rack) - 1, true, detail);
    if (st == FS_OK) st = check_text("version", who->version, sizeof(m->version) - 1, true, detail);
    if (st == FS_OK) st = check_text("model_name", who->model_name, sizeof(c->model.name) - 1, true, detail);
    if (st == FS_OK) st = check_numbers(c, who, detail);
    return st == FS_OK ? FS_OK : fs_fail_in(detail, st, "%s", who->name);
}

/* While nothing is placed and nobody is there, a wrong first member must not decide the model for ever. */
static bool model_is_open(const fs_cluster *c)
{
    if (!c->model.is_set) return true;
    if (c->replica) return false;
    for (uint32_t i = 0; i < c->num_members; i++)
        if (fs_cluster_is_alive(c->members[i])) return false;
    return true;
}

static fs_status check_model(const fs_cluster *c, const fs_cluster_joining *who, fs_detail *detail)
{
    if (model_is_open(c)) return FS_OK;
    const fs_cluster_model *model = &c->model;
    if (who->model_fingerprint != model->fingerprint)
        return fs_fail(detail, FS_DENIED,
                       "%s has the model '%s' (fingerprint %016" PRIx64
                       ") and this cluster serves '%s' (fingerprint %016" PRIx64 ")",
                       who->name, who->model_name ? who->model_name : "", who->model_fingerprint, model->name,
                       model->fingerprint);
    if (who->num_moe_layers != model->num_moe_layers || who->num_experts != model->num_experts)
        return fs_fail(detail, FS_DENIED,
                       "%s has %u layers of %u experts and this cluster's model has %u of %u", who->name,
                       who->num_moe_layers, who->num_experts, model->num_moe_layers, model->num_experts);
    return FS_OK;
}

static fs_status check_name_is_free(const fs_cluster *c, const fs_cluster_member *m,
                                    const fs_cluster_joining *who, int64_t now_ns, fs_detail *detail)
{
    if (m->node != FS_CLUSTER_NO_NODE && who->kind != FS_KIND_EXPERT_NODE)
        return fs_fail(detail, FS_DENIED, "%s is an expert node that the placement needs, not a router",
                       m->name);
    bool heard = fs_cluster_is_alive(m) && now_ns - m->heard_ns < c->options.expire_ns;
    if (m->instance != who->instance && heard)
        return fs_fail(detail, FS_DENIED, "the name %s is in use at %s, heard of %" PRId64 " ms ago", m->name,
                       m->address, (now_ns - m->heard_ns) / 1000000);
    return FS_OK;
}

static void set_text(char *to, size_t size, const char *from)
{
    size_t len = from ? strnlen(from, size - 1) : 0;
    /* Not through the middle of a character. */
    if (from && from[len])
        while (len > 0 && ((unsigned char)from[len] & 0xc0) == 0x80) len--;
    if (len) memcpy(to, from, len);
    to[len] = 0;
}

static void adopt_model(fs_cluster *c, const fs_cluster_joining *who)
{
    if (!model_is_open(c)) return;
    c->model = (fs_cluster_model){true, who->model_fingerprint, who->num_moe_layers, who->num_experts, ""};
    set_text(c->model.name, sizeof(c->model.name), who->model_name);
    c->placement_problem[0] = 0;
}

/* Room for one more: among those that are lost and have no experts the one that is silent the longest goes. */
static fs_status make_room(fs_cluster *c, fs_detail *detail)
{
    if (c->num_members < FS_CLUSTER_MAX_MEMBERS) return FS_OK;
    uint32_t oldest = UINT32_MAX;
    for (uint32_t i = 0; i < c->num_members; i++) {
        const fs_cluster_member *m = c->members[i];
        if (fs_cluster_is_alive(m) || m->node != FS_CLUSTER_NO_NODE) continue;
        if (oldest == UINT32_MAX || m->heard_ns < c->members[oldest]->heard_ns) oldest = i;
    }
    if (oldest == UINT32_MAX)
        return fs_fail(detail, FS_EXHAUSTED, "the cluster has %d members and takes no more",
                       FS_CLUSTER_MAX_MEMBERS);
    fs_cluster_remove(c, oldest);
    return FS_OK;
}

/* Whether what others see of the member changes by this. */
static bool differs(const fs_cluster_member *m, const fs_cluster_joining *who)
{
    return m->instance != who->instance || m->left || m->kind != (fs_member_kind)who->kind ||
           strcmp(m->address, who->address) != 0 || strcmp(m->rack, who->rack ? who->rack : "") != 0 ||
           !fs_cluster_is_alive(m);
}

static void fill_member(fs_cluster_member *m, const fs_cluster_joining *who)
{
    if (m->instance != who->instance || !fs_cluster_is_alive(m)) {
        /* What the earlier instance had loaded, this one has not. */
        m->ready_epoch = m->bytes_loaded = m->rows_computed = 0;
        m->experts_loaded = 0;
        m->cache = (fs_cluster_cache){0};
        m->problem[0] = 0;
    }
    m->instance = who->instance;
    m->kind = (fs_member_kind)who->kind;
    m->left = false;
    m->capacity_bytes = who->capacity_bytes;
    m->expert_bytes = who->expert_bytes;
    set_text(m->address, sizeof(m->address), who->address);
    set_text(m->rack, sizeof(m->rack), who->rack);
    set_text(m->version, sizeof(m->version), who->version);
}

fs_status fs_cluster_register(fs_cluster *c, const fs_cluster_joining *who, int64_t now_ns, uint32_t *id_out,
                              fs_detail *detail)
{
    fs_status st = check_joining(c, who, detail);
    if (st == FS_OK) st = check_model(c, who, detail);
    if (st != FS_OK) return st;
    uint32_t at;
    fs_cluster_member *m = fs_cluster_lookup(c, who->name, &at);
    if (m)
        st = check_name_is_free(c, m, who, now_ns, detail);
    else
        st = make_room(c, detail);
    if (st != FS_OK) return st;
    adopt_model(c, who); /* before the new one counts as alive */
    bool is_new = !m, is_node = who->kind == FS_KIND_EXPERT_NODE || (m && m->kind == FS_KIND_EXPERT_NODE);
    if (is_new) m = fs_cluster_insert(c, who->name);
    if (!m) return FS_NO_MEMORY;
    bool seen = is_new || differs(m, who);
    if (seen) fs_cluster_note_add(c, is_new ? FS_NOTE_JOINED : FS_NOTE_REPLACED, who->name);
    fill_member(m, who);
    m->heard_ns = now_ns;
    c->changes |= FS_CLUSTER_STORE;
    seen |= fs_cluster_update(c, m);
    uint64_t before = c->epoch;
    st = fs_cluster_place(c);
    if (seen && is_node && c->epoch == before) fs_cluster_bump(c);
    *id_out = m->id;
    return st;
}

/* ---- heartbeats ---- */

static void lose(fs_cluster *c, fs_cluster_member *m, fs_note_kind note)
{
    m->state = FS_NODE_LOST;
    fs_cluster_note_add(c, note, m->name);
    c->changes |= FS_CLUSTER_STORE;
    if (m->kind == FS_KIND_EXPERT_NODE) fs_cluster_bump(c);
}

/* A node that remembers a later epoch than we have: we lost our memory since. Ours must be the later one again, or nodes would take new
 * assignments for old ones. */
static void raise_epoch(fs_cluster *c, const fs_cluster_member *m, uint64_t to)
{
    c->epoch = to;
    fs_cluster_bump(c);
    fs_cluster_note_add(c, FS_NOTE_EPOCH_RAISED, m->name);
    if (!c->replica) return;
    c->assignment_epoch = c->epoch;
    c->changes |= FS_CLUSTER_STORE_ASSIGNMENT;
    for (uint32_t i = 0; i < c->num_members; i++)
        if (fs_cluster_is_alive(c->members[i])) fs_cluster_update(c, c->members[i]);
}

fs_status fs_cluster_beat(fs_cluster *c, const fs_cluster_heartbeat *h, int64_t now_ns, fs_detail *detail)
{
    uint32_t at;
    fs_cluster_member *m = fs_cluster_lookup(c, h->name ? h->name : "", &at);
    if (!m || m->instance != h->instance || !fs_cluster_is_alive(m))
        return fs_fail(detail, FS_NOT_FOUND, "no living member '%.80s' with instance %016" PRIx64,
                       h->name ? h->name : "", h->instance);
    if (h->leaving) {
        m->left = true;
        m->draining = false; /* the operator has what was asked for: a new process begins anew */
        m->ready_epoch = 0;
        m->heard_ns = now_ns;
        lose(c, m, FS_NOTE_LEFT);
        return FS_OK;
    }
    if (h->ready_epoch > c->epoch && h->ready_epoch - c->epoch > MAX_EPOCHS_AHEAD)
        return fs_fail(detail, FS_INVALID, "%s: ready_epoch %" PRIu64 " and the cluster is at %" PRIu64,
                       m->name, h->ready_epoch, c->epoch);
    m->heard_ns = now_ns;
    m->experts_loaded = h->experts_loaded;
    m->bytes_loaded = h->bytes_loaded;
    m->rows_computed = h->rows_computed;
    m->cache = h->cache;
    set_text(m->problem, sizeof(m->problem), h->problem);
    if (m->kind != FS_KIND_EXPERT_NODE) return FS_OK;
    m->ready_epoch = h->ready_epoch;
    if (h->ready_epoch > c->epoch) {
        raise_epoch(c, m, h->ready_epoch);
        return FS_OK;
    }
    if (fs_cluster_update(c, m)) fs_cluster_bump(c);
    return FS_OK;
}

fs_status fs_cluster_drain(fs_cluster *c, const char *name, bool undo, fs_detail *detail)
{
    uint32_t at;
    fs_cluster_member *m = fs_cluster_lookup(c, name ? name : "", &at);
    if (!m || m->kind != FS_KIND_EXPERT_NODE || !fs_cluster_is_shown(m))
        return fs_fail(detail, FS_NOT_FOUND, "no expert node '%.80s'", name ? name : "");
    if (m->draining == !undo) return FS_OK;
    m->draining = !undo;
    c->changes |= FS_CLUSTER_STORE;
    fs_cluster_note_add(c, undo ? FS_NOTE_UNDRAINED : FS_NOTE_DRAINING, m->name);
    if (fs_cluster_is_alive(m) && fs_cluster_update(c, m)) fs_cluster_bump(c);
    return undo ? fs_cluster_place(c) : FS_OK; /* it counts again among the nodes that are waited for */
}

/* ---- time ---- */

/* If this process stood still (stopped, or the machine slept), heartbeats wait unread: the gap is nobody's silence. */
static void forgive_gap(fs_cluster *c, int64_t now_ns)
{
    int64_t gap = now_ns - c->last_tick_ns;
    c->last_tick_ns = now_ns;
    if (gap <= c->options.expire_ns / 2) return;
    for (uint32_t i = 0; i < c->num_members; i++) {
        fs_cluster_member *m = c->members[i];
        m->heard_ns = now_ns - m->heard_ns < gap ? now_ns : m->heard_ns + gap;
    }
}

void fs_cluster_tick(fs_cluster *c, int64_t now_ns)
{
    forgive_gap(c, now_ns);
    uint32_t i = 0;
    while (i < c->num_members) {
        fs_cluster_member *m = c->members[i];
        int64_t silent_ns = now_ns - m->heard_ns;
        if (fs_cluster_is_alive(m) && silent_ns >= c->options.expire_ns) lose(c, m, FS_NOTE_LOST);
        if (!fs_cluster_is_alive(m) && m->node == FS_CLUSTER_NO_NODE && silent_ns >= c->options.forget_ns)
            fs_cluster_remove(c, i);
        else
            i++;
    }
}

unsigned fs_cluster_take_changes(fs_cluster *c)
{
    unsigned changes = c->changes;
    c->changes = 0;
    return changes;
}
