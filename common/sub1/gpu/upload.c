/* common/sub1/gpu/upload.c: experts on their way to the device, through pinned buffers that take turns: while one is copied by the
 * device, the host fills the other. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "gpu/device_int.h"
#include "model/names.h"

static size_t round_up(size_t n)
{
    return (n + FS_GPU_ALIGN - 1) / FS_GPU_ALIGN * FS_GPU_ALIGN;
}

/* The gate, where there is one. */
static int first_part(const fs_expert *expert)
{
    return expert->no_gate ? FS_PART_UP : FS_PART_GATE;
}

fs_status fs_device_supports(const fs_expert *expert, fs_detail *detail)
{
    if (expert->storage != FS_EXPERTS_SUB1)
        return fs_fail(detail, FS_UNSUPPORTED, "GPU: the experts are not compressed");
    if (expert->activation > FS_ACT_SWIGLU_CLAMPED ||
        (expert->activation == FS_ACT_SWIGLU_CLAMPED && expert->no_gate))
        return fs_fail(detail, FS_UNSUPPORTED, "GPU: activation %d has no kernel", (int)expert->activation);
    for (int i = first_part(expert); i < FS_GPU_PARTS; i++) {
        const fs_sub1_matrix *m = &expert->sub1[i];
        fs_gpu_kernel kernel;
        uint32_t x_a_tile;
        if (!fs_gpu_kernel_for(m, 1, &kernel, &x_a_tile))
            return fs_fail(detail, FS_UNSUPPORTED, "GPU: format %d with %u:%u has no kernel", (int)m->format,
                           m->n, m->m);
    }
    return FS_OK;
}

static size_t place(fs_device_expert *e, size_t bytes)
{
    size_t at = e->bytes;
    e->bytes += round_up(bytes);
    return at;
}

static void lay_out(fs_device_expert *e)
{
    for (int i = first_part(&e->shape); i < FS_GPU_PARTS; i++) /* fs_read_unaligned looks a little beyond */
        e->payload_at[i] = place(e, e->shape.sub1[i].payload_bytes + 8);
    e->tables_at = e->bytes;
    for (int i = first_part(&e->shape); i < FS_GPU_PARTS; i++) {
        e->scales_at[i] = place(e, 2 * sizeof(uint16_t) * e->shape.sub1[i].padded_rows);
        if (e->shape.bias[i].data) e->bias_at[i] = place(e, sizeof(float) * e->shape.sub1[i].rows);
    }
}

static void widen(const fs_expert_bias *bias, uint32_t rows, float *out)
{
    const fs_bf16 *bf16 = bias->data;
    for (uint32_t i = 0; i < rows; i++)
        out[i] = bias->is_bf16 ? fs_bf16_to_f32(bf16[i]) : ((const float *)bias->data)[i];
}

/* False: no memory on the host. */
static bool make_tables(fs_device_expert *e)
{
    e->tables = fs_alloc_aligned(e->bytes - e->tables_at);
    if (!e->tables) return false;
    memset(e->tables, 0, e->bytes - e->tables_at);
    for (int i = first_part(&e->shape); i < FS_GPU_PARTS; i++) {
        const fs_sub1_matrix *m = &e->shape.sub1[i];
        fs_gpu_scales(m, (uint16_t *)(e->tables + (e->scales_at[i] - e->tables_at)));
        if (e->shape.bias[i].data)
            widen(&e->shape.bias[i], m->rows, (float *)(e->tables + (e->bias_at[i] - e->tables_at)));
    }
    return true;
}

static void link_expert(fs_device *d, fs_device_expert *e)
{
    e->all_next = d->experts;
    if (d->experts) d->experts->all_prev = e;
    d->experts = e;
    d->expert_bytes += e->bytes;
}

fs_status fs_device_upload(fs_device *d, const fs_expert *expert, void (*done)(void *arg, fs_status status),
                           void *arg, fs_device_expert **out)
{
    if (d->lost) return FS_UNAVAILABLE;
    fs_status st = fs_device_supports(expert, NULL);
    if (st != FS_OK) return st;
    fs_device_expert *e = calloc(1, sizeof(*e));
    if (!e) return FS_NO_MEMORY;
    e->shape = *expert;
    e->done = done;
    e->arg = arg;
    e->uploading = true;
    size_t limit = d->options.expert_bytes;
    lay_out(e);
    bool fits = limit == 0 || (e->bytes <= limit && d->expert_bytes <= limit - e->bytes);
    st = fits && make_tables(e) ? FS_OK : FS_NO_MEMORY;
    if (st == FS_OK) st = fs_device_failed(d, d->driver->alloc(d->driver, e->bytes, &e->memory));
    if (st != FS_OK) {
        free(e->tables);
        free(e);
        return st;
    }
    link_expert(d, e);
    if (d->last_upload)
        d->last_upload->next = e;
    else
        d->first_upload = e;
    d->last_upload = e;
    d->num_uploads++;
    *out = e;
    return FS_OK;
}

/* The part of [at, at + bytes) that lies in [from, from + n), copied to its place. */
static void fill_from(const uint8_t *source, size_t at, size_t bytes, size_t from, size_t n, uint8_t *to)
{
    size_t begin = at > from ? at : from, end = at + bytes < from + n ? at + bytes : from + n;
    if (begin < end) memcpy(to + (begin - from), source + (begin - at), end - begin);
}

/* Bytes [from, from + n) of the expert's memory; what lies between its parts is zero. */
static void fill(const fs_device_expert *e, size_t from, size_t n, uint8_t *to)
{
    memset(to, 0, n);
    for (int i = first_part(&e->shape); i < FS_GPU_PARTS; i++)
        fill_from(e->shape.sub1[i].payload, e->payload_at[i], e->shape.sub1[i].payload_bytes, from, n, to);
    fill_from(e->tables, e->tables_at, e->bytes - e->tables_at, from, n, to);
}

static void end_upload(fs_device *d, fs_device_expert *e, fs_status status)
{
    free(e->tables);
    e->tables = NULL;
    e->uploading = false;
    e->ready = status == FS_OK && !e->released;
    d->num_uploads--;
    if (status == FS_OK && e->released) status = FS_CANCELLED;
    void (*done)(void *arg, fs_status status) = e->done;
    void *arg = e->arg;
    if (e->released) fs_device_free_expert(d, e);
    done(arg, status);
}

static void send(fs_device *d, fs_gpu_buffer *b)
{
    fs_device_expert *e = d->first_upload;
    size_t left = e->bytes - e->sent, n = left < d->options.upload_bytes ? left : d->options.upload_bytes;
    fill(e, e->sent, n, b->memory);
    fs_status st = d->driver->copy_in(d->driver, d->upload_stream, e->memory + e->sent, b->memory, n);
    if (st == FS_OK) st = d->driver->record(d->driver, b->event, d->upload_stream);
    if (st == FS_NO_MEMORY)
        st = FS_UNAVAILABLE; /* a copy that half began leaves the expert in no known state */
    if (fs_device_failed(d, st) != FS_OK) return;
    b->busy = true;
    b->ends = NULL;
    d->next_buffer = (d->next_buffer + 1) % FS_GPU_UPLOAD_BUFFERS;
    e->sent += n;
    if (e->sent < e->bytes && !e->released) return;
    b->ends = e; /* or it is not wanted any more: what is on its way is the end of it */
    d->first_upload = e->next;
    if (!e->next) d->last_upload = NULL;
    e->next = NULL;
}

void fs_device_pump_uploads(fs_device *d)
{
    for (int i = 0; i < FS_GPU_UPLOAD_BUFFERS && !d->lost; i++) {
        fs_gpu_buffer *b = &d->buffer[d->oldest_buffer];
        bool happened = false;
        if (!b->busy || fs_device_failed(d, d->driver->query(d->driver, b->event, &happened)) != FS_OK ||
            !happened)
            break;
        fs_device_expert *ends = b->ends;
        b->busy = false;
        b->ends = NULL;
        d->oldest_buffer = (d->oldest_buffer + 1) % FS_GPU_UPLOAD_BUFFERS;
        if (ends) end_upload(d, ends, FS_OK);
    }
    while (!d->lost && d->first_upload && !d->buffer[d->next_buffer].busy)
        send(d, &d->buffer[d->next_buffer]);
}

void fs_device_end_uploads(fs_device *d, fs_status status)
{
    for (int i = 0; i < FS_GPU_UPLOAD_BUFFERS; i++) {
        fs_device_expert *ends = d->buffer[i].ends;
        d->buffer[i].ends = NULL;
        if (ends) end_upload(d, ends, status);
    }
    while (d->first_upload) {
        fs_device_expert *e = d->first_upload;
        d->first_upload = e->next;
        end_upload(d, e, status);
    }
    d->last_upload = NULL;
}

bool fs_device_expert_ready(const fs_device_expert *expert)
{
    return expert->ready;
}

void fs_device_expert_release(fs_device *d, fs_device_expert *e)
{
    if (!e) return;
    e->released = true;
    if (!e->uploading && e->num_runs == 0) fs_device_free_expert(d, e);
    /* else: it goes when its upload or its last run ends */
}

void fs_device_free_expert(fs_device *d, fs_device_expert *e)
{
    if (e->all_prev)
        e->all_prev->all_next = e->all_next;
    else
        d->experts = e->all_next;
    if (e->all_next) e->all_next->all_prev = e->all_prev;
    d->expert_bytes -= e->bytes;
    d->driver->free(d->driver, e->memory);
    free(e->tables);
    free(e);
}

size_t fs_device_expert_bytes(const fs_device *d)
{
    return d->expert_bytes;
}
