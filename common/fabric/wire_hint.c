/* common/fabric/wire_hint.c: HINT, from router to expert node. */
#include "fabric/wire.h"
#include "fabric/wire_int.h"

enum { HINT_HEADER_BYTES = 32 };

typedef struct {
    size_t uses, uses_end, size;
} layout;

/* Counts are 32 bits and bounded, so size_t holds every sum. */
static layout layout_of(uint32_t num_visits, uint32_t num_uses)
{
    layout l = {.uses = HINT_HEADER_BYTES + (size_t)num_visits * 8};
    l.uses_end = l.uses + (size_t)num_uses * 2;
    l.size = fs_wire_pad(l.uses_end, 8);
    return l;
}

static uint16_t get_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

fs_hint_visit fs_hint_get_visit(const fs_hint *h, uint32_t i)
{
    FS_ASSERT(i < h->num_visits);
    const uint8_t *p = h->visit + (size_t)i * 8;
    return (fs_hint_visit){fs_wire_get_u32(p), get_u16(p + 4), get_u16(p + 6)};
}

uint32_t fs_hint_get_expert(const fs_hint *h, uint32_t i)
{
    FS_ASSERT(i < h->num_uses);
    return get_u16(h->use + (size_t)i * 2);
}

static fs_status check_counts(uint32_t num_visits, uint32_t num_uses, fs_detail *detail)
{
    if (num_visits == 0 || num_visits > FS_WIRE_MAX_HINT_VISITS)
        return fs_fail(detail, FS_CORRUPT, "hint: num_visits %u is not in 1..%u", num_visits,
                       FS_WIRE_MAX_HINT_VISITS);
    if (num_uses < num_visits || num_uses > FS_WIRE_MAX_HINT_USES)
        return fs_fail(detail, FS_CORRUPT, "hint: num_uses %u is not in num_visits %u..%u", num_uses,
                       num_visits, FS_WIRE_MAX_HINT_USES);
    return FS_OK;
}

static fs_status check_uses(const fs_hint *h, uint32_t first, const fs_hint_visit *v, fs_detail *detail)
{
    for (uint32_t i = first + 1; i < first + v->count; i++)
        if (fs_hint_get_expert(h, i) <= fs_hint_get_expert(h, i - 1))
            return fs_fail(detail, FS_CORRUPT, "hint: use %u: expert %u does not rise", i,
                           fs_hint_get_expert(h, i));
    return FS_OK;
}

static fs_status check_visits(const fs_hint *h, fs_detail *detail)
{
    uint32_t sum = 0; /* 4096 times 65535 fits */
    for (uint32_t i = 0; i < h->num_visits; i++) {
        fs_hint_visit v = fs_hint_get_visit(h, i);
        if (v.distance > FS_WIRE_HINT_MAX_DISTANCE && v.distance != FS_WIRE_HINT_NEVER)
            return fs_fail(detail, FS_CORRUPT, "hint: visit %u: distance %u is over %u", i, v.distance,
                           FS_WIRE_HINT_MAX_DISTANCE);
        if (v.count == 0) return fs_fail(detail, FS_CORRUPT, "hint: visit %u: no uses", i);
        if (v.count > h->num_uses - sum)
            return fs_fail(detail, FS_CORRUPT, "hint: visit %u: %u uses, %u are left", i, v.count,
                           h->num_uses - sum);
        fs_status st = check_uses(h, sum, &v, detail);
        if (st != FS_OK) return st;
        sum += v.count;
    }
    if (sum != h->num_uses)
        return fs_fail(detail, FS_CORRUPT, "hint: visits have %u uses, num_uses is %u", sum, h->num_uses);
    return FS_OK;
}

fs_status fs_hint_decode(const uint8_t *data, size_t size, fs_hint *out, fs_detail *detail)
{
    FS_ASSERT((uintptr_t)data % 8 == 0);
    fs_hint h = {0};
    fs_reader r = fs_reader_of(data, size);
    uint16_t version = fs_read_u16(&r), zero16 = fs_read_u16(&r);
    h.num_visits = fs_read_u32(&r);
    h.position = fs_read_u64(&r);
    h.fingerprint = fs_read_u64(&r);
    h.num_uses = fs_read_u32(&r);
    uint32_t zero32 = fs_read_u32(&r);
    if (r.short_read) return fs_fail(detail, FS_CORRUPT, "hint: %zu bytes are less than a header", size);
    if (version != FS_WIRE_VERSION)
        return fs_fail(detail, FS_UNSUPPORTED, "hint: version %u, ours is %u", version, FS_WIRE_VERSION);
    if (zero16 != 0 || zero32 != 0) return fs_fail(detail, FS_CORRUPT, "hint: reserved fields are not zero");
    fs_status st = check_counts(h.num_visits, h.num_uses, detail);
    if (st != FS_OK) return st;
    layout l = layout_of(h.num_visits, h.num_uses);
    if (size != l.size)
        return fs_fail(detail, FS_CORRUPT, "hint: %zu bytes, the header asks for %zu", size, l.size);
    if (!fs_wire_all_zero(data + l.uses_end, l.size - l.uses_end))
        return fs_fail(detail, FS_CORRUPT, "hint: padding is not zero");
    h.visit = data + HINT_HEADER_BYTES;
    h.use = data + l.uses;
    st = check_visits(&h, detail);
    if (st == FS_OK) *out = h;
    return st;
}

static void write_hint(fs_buffer *b, const fs_hint_source *s, uint32_t num_uses)
{
    static const uint8_t zero[8];
    fs_buffer_append_u16(b, FS_WIRE_VERSION);
    fs_buffer_append_u16(b, 0);
    fs_buffer_append_u32(b, s->num_visits);
    fs_buffer_append_u64(b, s->position);
    fs_buffer_append_u64(b, s->fingerprint);
    fs_buffer_append_u32(b, num_uses);
    fs_buffer_append_u32(b, 0);
    for (uint32_t i = 0; i < s->num_visits; i++) {
        fs_buffer_append_u32(b, s->visit[i].distance);
        fs_buffer_append_u16(b, s->visit[i].layer);
        fs_buffer_append_u16(b, s->visit[i].count);
    }
    for (uint32_t i = 0; i < num_uses; i++) fs_buffer_append_u16(b, s->expert[i]);
    fs_buffer_append(b, zero, fs_wire_pad(b->size, 8) - b->size);
}

/* What was written goes through the reader: what we send is what others accept. */
fs_status fs_hint_encode(const fs_hint_source *s, fs_buffer *out)
{
    uint64_t num_uses = 0;
    for (uint32_t i = 0; i < s->num_visits; i++) num_uses += s->visit[i].count;
    if (num_uses > FS_WIRE_MAX_HINT_USES || check_counts(s->num_visits, (uint32_t)num_uses, NULL) != FS_OK)
        return FS_INVALID;
    fs_buffer b = {0};
    fs_hint written;
    fs_status st = fs_buffer_reserve(&b, layout_of(s->num_visits, (uint32_t)num_uses).size);
    if (st != FS_OK) return st;
    write_hint(&b, s, (uint32_t)num_uses);
    if (fs_hint_decode(b.data, b.size, &written, NULL) != FS_OK) {
        fs_buffer_free(&b);
        return FS_INVALID;
    }
    *out = b;
    return FS_OK;
}
