/* common/fabric/wire_result.c: RESULT, from expert node to router. */
#include "base/arena.h"
#include "fabric/wire.h"
#include "fabric/wire_int.h"

enum { AT_NUM_GROUPS = 28, AT_FLAGS = 36, AT_COMPUTE = 40 };

static size_t rows_at(uint32_t num_groups)
{
    return fs_wire_pad(FS_WIRE_HEADER_BYTES + (size_t)num_groups * 8, 64);
}

static size_t size_of(uint32_t hidden_size, uint32_t num_groups, uint32_t num_pairs)
{
    return rows_at(num_groups) + (size_t)num_pairs * hidden_size * sizeof(float);
}

static fs_status check_counts(const fs_result *r, fs_detail *detail)
{
    if (r->hidden_size == 0 || r->hidden_size > FS_WIRE_MAX_HIDDEN)
        return fs_fail(detail, FS_CORRUPT, "result: hidden_size %u is not in 1..%u", r->hidden_size,
                       FS_WIRE_MAX_HIDDEN);
    if (r->num_groups == 0 || r->num_groups > FS_WIRE_MAX_GROUPS)
        return fs_fail(detail, FS_CORRUPT, "result: num_groups %u is not in 1..%u", r->num_groups,
                       FS_WIRE_MAX_GROUPS);
    if (r->num_pairs < r->num_groups || r->num_pairs > FS_WIRE_MAX_PAIRS)
        return fs_fail(detail, FS_CORRUPT, "result: num_pairs %u is not in num_groups %u..%u", r->num_pairs,
                       r->num_groups, FS_WIRE_MAX_PAIRS);
    return FS_OK;
}

static fs_status check_groups(const fs_result *r, fs_detail *detail)
{
    uint64_t next = 0;
    for (uint32_t i = 0; i < r->num_groups; i++) {
        uint32_t expert = fs_wire_get_u32(r->group + (size_t)i * 8);
        uint32_t status = fs_wire_get_u32(r->group + (size_t)i * 8 + 4);
        if (expert < next)
            return fs_fail(detail, FS_CORRUPT, "result: group %u: expert %u does not rise", i, expert);
        if (status > FS_WIRE_INVALID)
            return fs_fail(detail, FS_CORRUPT, "result: group %u: status %u is not known", i, status);
        next = (uint64_t)expert + 1;
    }
    return FS_OK;
}

void fs_result_group(const fs_result *r, uint32_t i, uint32_t *expert, fs_wire_status *status)
{
    FS_ASSERT(i < r->num_groups);
    *expert = fs_wire_get_u32(r->group + (size_t)i * 8);
    *status = (fs_wire_status)fs_wire_get_u32(r->group + (size_t)i * 8 + 4);
}

fs_status fs_result_decode(const uint8_t *data, size_t size, fs_result *out, fs_detail *detail)
{
    FS_ASSERT((uintptr_t)data % 8 == 0);
    fs_result r = {0};
    fs_reader in = fs_reader_of(data, size);
    uint16_t version = fs_read_u16(&in), zero16 = fs_read_u16(&in);
    r.layer = fs_read_u32(&in);
    r.id = fs_read_u64(&in);
    r.epoch = fs_read_u64(&in);
    r.hidden_size = fs_read_u32(&in);
    r.num_groups = fs_read_u32(&in);
    r.num_pairs = fs_read_u32(&in);
    r.flags = fs_read_u32(&in);
    r.compute_ns = fs_read_u64(&in);
    if (in.short_read) return fs_fail(detail, FS_CORRUPT, "result: %zu bytes are less than a header", size);
    if (version != FS_WIRE_VERSION)
        return fs_fail(detail, FS_UNSUPPORTED, "result: version %u, ours is %u", version, FS_WIRE_VERSION);
    if (zero16 != 0) return fs_fail(detail, FS_CORRUPT, "result: a reserved field is not zero");
    if (r.flags & ~FS_WIRE_WANTS_HINTS)
        return fs_fail(detail, FS_CORRUPT, "result: unknown flags %#x", r.flags);
    fs_status st = check_counts(&r, detail);
    if (st != FS_OK) return st;
    size_t want = size_of(r.hidden_size, r.num_groups, r.num_pairs), rows = rows_at(r.num_groups);
    if (size != want)
        return fs_fail(detail, FS_CORRUPT, "result: %zu bytes, the header asks for %zu", size, want);
    r.group = data + FS_WIRE_HEADER_BYTES;
    r.row = (const float *)(data + rows);
    size_t groups_end = FS_WIRE_HEADER_BYTES + (size_t)r.num_groups * 8;
    if (!fs_wire_all_zero(data + groups_end, rows - groups_end))
        return fs_fail(detail, FS_CORRUPT, "result: padding is not zero");
    st = check_groups(&r, detail);
    if (st == FS_OK) *out = r;
    return st;
}

uint8_t *fs_result_create(const fs_dispatch *d, uint64_t epoch, size_t *size, float **row)
{
    size_t total = size_of(d->hidden_size, d->num_groups, d->num_pairs);
    uint8_t *block = fs_alloc_aligned(total);
    if (!block) return NULL;
    memset(block, 0, total);
    uint16_t version = FS_WIRE_VERSION;
    memcpy(block, &version, sizeof(version));
    fs_wire_put_u32(block + 4, d->layer);
    fs_wire_put_u64(block + 8, d->id);
    fs_wire_put_u64(block + 16, epoch);
    fs_wire_put_u32(block + 24, d->hidden_size);
    fs_wire_put_u32(block + AT_NUM_GROUPS, d->num_groups);
    fs_wire_put_u32(block + 32, d->num_pairs);
    for (uint32_t i = 0; i < d->num_groups; i++) {
        uint32_t expert, num_rows;
        fs_dispatch_group(d, i, &expert, &num_rows);
        fs_wire_put_u32(block + FS_WIRE_HEADER_BYTES + (size_t)i * 8, expert);
    }
    *size = total;
    *row = (float *)(block + rows_at(d->num_groups));
    return block;
}

void fs_result_set_group(uint8_t *block, uint32_t i, fs_wire_status status)
{
    FS_ASSERT(i < fs_wire_get_u32(block + AT_NUM_GROUPS));
    fs_wire_put_u32(block + FS_WIRE_HEADER_BYTES + (size_t)i * 8 + 4, status);
}

void fs_result_set_flags(uint8_t *block, uint32_t flags)
{
    fs_wire_put_u32(block + AT_FLAGS, flags);
}

void fs_result_set_compute(uint8_t *block, uint64_t compute_ns)
{
    fs_wire_put_u64(block + AT_COMPUTE, compute_ns);
}
