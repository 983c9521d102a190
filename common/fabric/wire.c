/* common/fabric/wire.c: DISPATCH, from router to expert node. */
#include "fabric/wire.h"

#include <math.h>

#include "fabric/wire_int.h"

/* Where the parts of a dispatch lie, from its header alone. Counts are 32 bits and bounded, so size_t holds every sum. */
typedef struct {
    size_t groups, pairs, pairs_end, scales, rows, size;
} layout;

static uint32_t row_stride_of(uint32_t hidden_size, fs_row_format format)
{
    return format == FS_ROWS_I8 ? (uint32_t)fs_wire_pad(hidden_size, 64) : hidden_size;
}

static layout layout_of(fs_row_format format, uint32_t hidden_size, uint32_t num_rows, uint32_t num_groups,
                        uint32_t num_pairs)
{
    layout l = {.groups = FS_WIRE_HEADER_BYTES};
    l.pairs = l.groups + (size_t)num_groups * 8;
    l.pairs_end = l.pairs + (size_t)num_pairs * 4;
    l.scales = fs_wire_pad(l.pairs_end, 8);
    size_t scales_end = l.scales + (format == FS_ROWS_I8 ? (size_t)num_rows * 4 : 0);
    l.rows = fs_wire_pad(scales_end, 64);
    size_t element = format == FS_ROWS_I8 ? 1 : 4;
    l.size = l.rows + (size_t)num_rows * row_stride_of(hidden_size, format) * element;
    return l;
}

static fs_status check_counts(const fs_dispatch *d, fs_detail *detail)
{
    if (d->row_format != FS_ROWS_I8 && d->row_format != FS_ROWS_F32)
        return fs_fail(detail, FS_UNSUPPORTED, "dispatch: row_format %u is not known",
                       (unsigned)d->row_format);
    if (d->hidden_size == 0 || d->hidden_size > FS_WIRE_MAX_HIDDEN)
        return fs_fail(detail, FS_CORRUPT, "dispatch: hidden_size %u is not in 1..%u", d->hidden_size,
                       FS_WIRE_MAX_HIDDEN);
    if (d->num_rows == 0 || d->num_rows > FS_WIRE_MAX_ROWS)
        return fs_fail(detail, FS_CORRUPT, "dispatch: num_rows %u is not in 1..%u", d->num_rows,
                       FS_WIRE_MAX_ROWS);
    if (d->num_groups == 0 || d->num_groups > FS_WIRE_MAX_GROUPS)
        return fs_fail(detail, FS_CORRUPT, "dispatch: num_groups %u is not in 1..%u", d->num_groups,
                       FS_WIRE_MAX_GROUPS);
    if (d->num_pairs < d->num_groups || d->num_pairs > FS_WIRE_MAX_PAIRS)
        return fs_fail(detail, FS_CORRUPT, "dispatch: num_pairs %u is not in num_groups %u..%u", d->num_pairs,
                       d->num_groups, FS_WIRE_MAX_PAIRS);
    return FS_OK;
}

/* next: the expert that the next group may have at least. A 64-bit sum cannot wrap over 4096 groups. */
static fs_status check_groups(const fs_dispatch *d, fs_detail *detail)
{
    uint64_t next = 0, sum = 0;
    for (uint32_t i = 0; i < d->num_groups; i++) {
        uint32_t expert, num_rows;
        fs_dispatch_group(d, i, &expert, &num_rows);
        if (expert < next)
            return fs_fail(detail, FS_CORRUPT, "dispatch: group %u: expert %u does not rise", i, expert);
        if (num_rows == 0) return fs_fail(detail, FS_CORRUPT, "dispatch: group %u: no rows", i);
        next = (uint64_t)expert + 1;
        sum += num_rows;
    }
    if (sum != d->num_pairs)
        return fs_fail(detail, FS_CORRUPT, "dispatch: groups have %llu rows, num_pairs is %u",
                       (unsigned long long)sum, d->num_pairs);
    for (uint32_t i = 0; i < d->num_pairs; i++) {
        uint32_t row = fs_dispatch_pair(d, i);
        if (row >= d->num_rows)
            return fs_fail(detail, FS_CORRUPT, "dispatch: pair %u: row %u, num_rows is %u", i, row,
                           d->num_rows);
    }
    return FS_OK;
}

/* Kernels read whole units: what lies behind a row's end must be zero, or the answer would depend on it. */
static fs_status check_padding(const fs_dispatch *d, const uint8_t *data, const layout *l, fs_detail *detail)
{
    size_t scales_end = l->scales + (d->row_format == FS_ROWS_I8 ? (size_t)d->num_rows * 4 : 0);
    bool zero = fs_wire_all_zero(data + l->pairs_end, l->scales - l->pairs_end) &&
                fs_wire_all_zero(data + scales_end, l->rows - scales_end);
    if (d->row_format == FS_ROWS_I8)
        for (uint32_t r = 0; zero && r < d->num_rows; r++)
            zero = fs_wire_all_zero(data + l->rows + (size_t)r * d->row_stride + d->hidden_size,
                                    d->row_stride - d->hidden_size);
    return zero ? FS_OK : fs_fail(detail, FS_CORRUPT, "dispatch: padding is not zero");
}

static fs_status check_scales(const float *scale, uint32_t num_rows, fs_detail *detail)
{
    for (uint32_t r = 0; r < num_rows; r++)
        if (!isfinite(scale[r]))
            return fs_fail(detail, FS_CORRUPT, "dispatch: scale of row %u is not finite", r);
    return FS_OK;
}

void fs_dispatch_group(const fs_dispatch *d, uint32_t i, uint32_t *expert, uint32_t *num_rows)
{
    FS_ASSERT(i < d->num_groups);
    *expert = fs_wire_get_u32(d->group + (size_t)i * 8);
    *num_rows = fs_wire_get_u32(d->group + (size_t)i * 8 + 4);
}

uint32_t fs_dispatch_pair(const fs_dispatch *d, uint32_t i)
{
    FS_ASSERT(i < d->num_pairs);
    return fs_wire_get_u32(d->pair + (size_t)i * 4);
}

static void read_header(fs_reader *r, fs_dispatch *d, uint16_t *version)
{
    *version = fs_read_u16(r);
    d->row_format = (fs_row_format)fs_read_u16(r);
    d->layer = fs_read_u32(r);
    d->id = fs_read_u64(r);
    d->epoch = fs_read_u64(r);
    d->hidden_size = fs_read_u32(r);
    d->num_rows = fs_read_u32(r);
    d->num_groups = fs_read_u32(r);
    d->num_pairs = fs_read_u32(r);
    d->fingerprint = fs_read_u64(r);
}

fs_status fs_dispatch_decode(const uint8_t *data, size_t size, fs_dispatch *out, fs_detail *detail)
{
    FS_ASSERT((uintptr_t)data % 8 == 0);
    fs_dispatch d = {0};
    fs_reader r = fs_reader_of(data, size);
    uint16_t version;
    read_header(&r, &d, &version);
    if (r.short_read) return fs_fail(detail, FS_CORRUPT, "dispatch: %zu bytes are less than a header", size);
    if (version != FS_WIRE_VERSION)
        return fs_fail(detail, FS_UNSUPPORTED, "dispatch: version %u, ours is %u", version, FS_WIRE_VERSION);
    fs_status st = check_counts(&d, detail);
    if (st != FS_OK) return st;
    layout l = layout_of(d.row_format, d.hidden_size, d.num_rows, d.num_groups, d.num_pairs);
    if (size != l.size)
        return fs_fail(detail, FS_CORRUPT, "dispatch: %zu bytes, the header asks for %zu", size, l.size);
    d.group = data + l.groups;
    d.pair = data + l.pairs;
    d.row_stride = row_stride_of(d.hidden_size, d.row_format);
    if (d.row_format == FS_ROWS_I8) {
        d.scale = (const float *)(data + l.scales);
        d.row_i8 = (const int8_t *)(data + l.rows);
    } else {
        d.row_f32 = (const float *)(data + l.rows);
    }
    st = check_groups(&d, detail);
    if (st == FS_OK) st = check_padding(&d, data, &l, detail);
    if (st == FS_OK && d.scale) st = check_scales(d.scale, d.num_rows, detail);
    if (st == FS_OK) *out = d;
    return st;
}

/* The caller's own numbers go through the same checks as a peer's: what we send is what others accept. */
static fs_status check_source(const fs_dispatch_source *s)
{
    fs_dispatch d = {.row_format = s->row_format,
                     .hidden_size = s->hidden_size,
                     .num_rows = s->num_rows,
                     .num_groups = s->num_groups,
                     .num_pairs = s->num_pairs};
    if (check_counts(&d, NULL) != FS_OK) return FS_INVALID;
    uint64_t next = 0, sum = 0;
    for (uint32_t i = 0; i < s->num_groups; i++) {
        if (s->expert[i] < next || s->count[i] == 0) return FS_INVALID;
        next = (uint64_t)s->expert[i] + 1;
        sum += s->count[i];
    }
    if (sum != s->num_pairs) return FS_INVALID;
    for (uint32_t i = 0; i < s->num_pairs; i++)
        if (s->pair[i] >= s->num_rows) return FS_INVALID;
    if (s->row_format == FS_ROWS_I8 && check_scales(s->scale, s->num_rows, NULL) != FS_OK) return FS_INVALID;
    return FS_OK;
}

static void write_header(fs_buffer *b, const fs_dispatch_source *s)
{
    fs_buffer_append_u16(b, FS_WIRE_VERSION);
    fs_buffer_append_u16(b, (uint16_t)s->row_format);
    fs_buffer_append_u32(b, s->layer);
    fs_buffer_append_u64(b, s->id);
    fs_buffer_append_u64(b, s->epoch);
    fs_buffer_append_u32(b, s->hidden_size);
    fs_buffer_append_u32(b, s->num_rows);
    fs_buffer_append_u32(b, s->num_groups);
    fs_buffer_append_u32(b, s->num_pairs);
    fs_buffer_append_u64(b, s->fingerprint);
}

/* Zeros up to the offset to (of the message). */
static void append_zeros_to(fs_buffer *b, size_t to)
{
    static const uint8_t zero[64];
    FS_ASSERT(b->failed || to - b->size <= sizeof(zero));
    if (!b->failed) fs_buffer_append(b, zero, to - b->size);
}

static void append_rows(fs_buffer *b, const fs_dispatch_source *s)
{
    static const uint8_t zero[64];
    uint32_t tail = row_stride_of(s->hidden_size, s->row_format) - s->hidden_size;
    for (uint32_t r = 0; r < s->num_rows; r++) {
        if (s->row_format == FS_ROWS_I8) {
            fs_buffer_append(b, s->row_i8[r], s->hidden_size);
            fs_buffer_append(b, zero, tail);
        } else {
            fs_buffer_append(b, s->row_f32[r], (size_t)s->hidden_size * sizeof(float));
        }
    }
}

fs_status fs_dispatch_encode(const fs_dispatch_source *s, fs_buffer *out)
{
    fs_status st = check_source(s);
    if (st != FS_OK) return st;
    layout l = layout_of(s->row_format, s->hidden_size, s->num_rows, s->num_groups, s->num_pairs);
    fs_buffer b = {0};
    st = fs_buffer_reserve(&b, l.size);
    if (st != FS_OK) return st;
    write_header(&b, s);
    for (uint32_t i = 0; i < s->num_groups; i++) {
        fs_buffer_append_u32(&b, s->expert[i]);
        fs_buffer_append_u32(&b, s->count[i]);
    }
    for (uint32_t i = 0; i < s->num_pairs; i++) fs_buffer_append_u32(&b, s->pair[i]);
    append_zeros_to(&b, l.scales);
    if (s->row_format == FS_ROWS_I8) fs_buffer_append(&b, s->scale, (size_t)s->num_rows * sizeof(float));
    append_zeros_to(&b, l.rows);
    append_rows(&b, s);
    if (b.failed) {
        fs_buffer_free(&b);
        return FS_NO_MEMORY;
    }
    FS_ASSERT(b.size == l.size);
    *out = b;
    return FS_OK;
}
