/* common/trace/reader.c: bytes to events, each checked. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace/trace_int.h"

struct fs_trace_reader {
    fs_reader in;
    char name[256];
    fs_trace_model model;
    int64_t time_ns;
    fs_trace_part *part;
    uint32_t part_capacity;
    uint16_t *expert;
    size_t expert_capacity;
};

static fs_status read_header(fs_trace_reader *r, fs_detail *detail)
{
    const uint8_t *magic = fs_read_bytes(&r->in, 4);
    if (!magic || memcmp(magic, FS_TRACE_MAGIC, 4) != 0)
        return fs_fail(detail, FS_CORRUPT, "%s: not a trace: it does not begin with FSTR", r->name);
    uint8_t version = fs_read_u8(&r->in), zero = fs_read_u8(&r->in);
    r->model.top_k = fs_read_u16(&r->in);
    r->model.num_moe_layers = fs_read_u32(&r->in);
    r->model.num_experts = fs_read_u32(&r->in);
    r->model.fingerprint = fs_read_u64(&r->in);
    r->model.expert_bytes = fs_read_u64(&r->in);
    if (r->in.short_read) return fs_fail(detail, FS_CORRUPT, "%s: the header is cut off", r->name);
    if (version != FS_TRACE_VERSION)
        return fs_fail(detail, FS_UNSUPPORTED, "%s: a trace of version %u; this program reads %u", r->name,
                       version, FS_TRACE_VERSION);
    if (zero != 0 || !fs_trace_model_is_sane(&r->model))
        return fs_fail(detail, FS_CORRUPT, "%s: the header tells of %u layers, %u experts, %u a token",
                       r->name, r->model.num_moe_layers, r->model.num_experts, r->model.top_k);
    return FS_OK;
}

fs_status fs_trace_open(const uint8_t *data, size_t size, const char *name, fs_trace_reader **out,
                        fs_detail *detail)
{
    fs_trace_reader *r = calloc(1, sizeof *r);
    if (!r) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory", name);
    snprintf(r->name, sizeof r->name, "%s", name);
    r->in = fs_reader_of(data, size);
    fs_status st = read_header(r, detail);
    if (st == FS_OK)
        *out = r;
    else
        free(r);
    return st;
}

void fs_trace_reader_free(fs_trace_reader *r)
{
    if (!r) return;
    free(r->part);
    free(r->expert);
    free(r);
}

const fs_trace_model *fs_trace_reader_model(const fs_trace_reader *r)
{
    return &r->model;
}

/* ---- events ---- */

static uint64_t get_varint(fs_trace_reader *r, uint64_t max, bool *bad)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = fs_read_u8(&r->in);
        if (r->in.short_read) return 0;
        if (shift == 63 && byte > 1) break;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte & 0x80) continue;
        *bad |= value > max;
        return value > max ? 0 : value;
    }
    *bad = true;
    return 0;
}

static fs_status get_parts(fs_trace_reader *r, fs_trace_event *e, bool *bad)
{
    e->num_parts = (uint32_t)get_varint(r, FS_TRACE_MAX_PARTS, bad);
    if (e->num_parts > fs_reader_left(&r->in) / 3) { /* a part has three bytes at least */
        r->in.short_read = true;
        return FS_OK;
    }
    if (e->num_parts > r->part_capacity) {
        fs_trace_part *more = realloc(r->part, e->num_parts * sizeof *more);
        if (!more) return FS_NO_MEMORY;
        r->part = more;
        r->part_capacity = e->num_parts;
    }
    for (uint32_t i = 0; i < e->num_parts; i++) {
        r->part[i].sequence = (uint32_t)get_varint(r, UINT32_MAX, bad);
        r->part[i].first = (uint32_t)get_varint(r, UINT32_MAX, bad);
        r->part[i].count = (uint32_t)get_varint(r, UINT32_MAX - r->part[i].first, bad);
    }
    e->part = r->part;
    return FS_OK;
}

static fs_status get_experts(fs_trace_reader *r, fs_trace_event *e, bool *bad)
{
    size_t width = fs_trace_expert_width(&r->model);
    size_t n = e->count * fs_trace_experts_a_token(&r->model); /* below 2^16 * 2^24 */
    if (*bad || n > fs_reader_left(&r->in) / width) {
        r->in.short_read = true;
        return FS_OK;
    }
    if (n > r->expert_capacity) {
        uint16_t *more = realloc(r->expert, n * sizeof *more);
        if (!more) return FS_NO_MEMORY;
        r->expert = more;
        r->expert_capacity = n;
    }
    for (size_t i = 0; i < n; i++) {
        r->expert[i] = width == 2 ? fs_read_u16(&r->in) : fs_read_u8(&r->in);
        *bad |= r->expert[i] >= r->model.num_experts;
    }
    e->expert = r->expert;
    return FS_OK;
}

static fs_status get_event(fs_trace_reader *r, fs_trace_event *e, bool *bad)
{
    e->kind = (fs_trace_kind)fs_read_u8(&r->in);
    e->time_ns = r->time_ns + (int64_t)get_varint(r, (uint64_t)(INT64_MAX - r->time_ns), bad);
    switch (e->kind) {
    case FS_TRACE_ARRIVE:
    case FS_TRACE_ROUTES:
        e->sequence = (uint32_t)get_varint(r, UINT32_MAX, bad);
        e->first = (uint32_t)get_varint(r, UINT32_MAX, bad);
        e->count = (uint32_t)get_varint(r, e->kind == FS_TRACE_ROUTES ? FS_TRACE_MAX_TOKENS : UINT32_MAX,
                                        bad);
        return e->kind == FS_TRACE_ROUTES && !r->in.short_read ? get_experts(r, e, bad) : FS_OK;
    case FS_TRACE_STEP:
        e->lane = (uint32_t)get_varint(r, FS_TRACE_MAX_LANES - 1, bad);
        return r->in.short_read ? FS_OK : get_parts(r, e, bad);
    case FS_TRACE_EXPERTS:
    case FS_TRACE_RESULTS:
        e->lane = (uint32_t)get_varint(r, FS_TRACE_MAX_LANES - 1, bad);
        e->layer = (uint32_t)get_varint(r, r->model.num_moe_layers - 1, bad);
        return FS_OK;
    case FS_TRACE_DONE: e->lane = (uint32_t)get_varint(r, FS_TRACE_MAX_LANES - 1, bad); return FS_OK;
    case FS_TRACE_END: e->sequence = (uint32_t)get_varint(r, UINT32_MAX, bad); return FS_OK;
    }
    *bad = true;
    return FS_OK;
}

fs_status fs_trace_next(fs_trace_reader *r, fs_trace_event *out, bool *cut, fs_detail *detail)
{
    size_t at = r->in.at;
    bool bad = false;
    *cut = false;
    if (fs_reader_left(&r->in) == 0) return FS_NOT_FOUND;
    *out = (fs_trace_event){0};
    fs_status st = get_event(r, out, &bad);
    if (st != FS_OK) return fs_fail(detail, st, "%s: no memory for the event at byte %zu", r->name, at);
    if (bad)
        return fs_fail(detail, FS_CORRUPT,
                       "%s: the event at byte %zu (kind %d) is of no kind or out of range", r->name, at,
                       (int)out->kind);
    if (r->in.short_read) {
        *cut = true;
        r->in.at = r->in.size;
        r->in.short_read = false;
        return FS_NOT_FOUND;
    }
    r->time_ns = out->time_ns;
    return FS_OK;
}
