/* common/trace/writer.c: events to bytes, bytes to a file. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "trace/trace_int.h"

enum { FLUSH_BYTES = 64 << 10 };

struct fs_trace_writer {
    int fd;
    int error; /* errno of the write that failed */
    fs_trace_model model;
    int64_t began_ns, last_ns;
    fs_buffer pending;
};

/* ---- bytes ---- */

static void put_varint(fs_buffer *out, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) fs_buffer_append_u8(out, (uint8_t)(v | 0x80));
    fs_buffer_append_u8(out, (uint8_t)v);
}

void fs_trace_append_header(fs_buffer *out, const fs_trace_model *model)
{
    fs_buffer_append(out, FS_TRACE_MAGIC, 4);
    fs_buffer_append_u8(out, FS_TRACE_VERSION);
    fs_buffer_append_u8(out, 0);
    fs_buffer_append_u16(out, (uint16_t)model->top_k);
    fs_buffer_append_u32(out, model->num_moe_layers);
    fs_buffer_append_u32(out, model->num_experts);
    fs_buffer_append_u64(out, model->fingerprint);
    fs_buffer_append_u64(out, model->expert_bytes);
}

static void put_experts(fs_buffer *out, const fs_trace_model *model, const fs_trace_event *event)
{
    size_t n = event->count * fs_trace_experts_a_token(model);
    for (size_t i = 0; i < n; i++) {
        if (fs_trace_expert_width(model) == 2)
            fs_buffer_append_u16(out, event->expert[i]);
        else
            fs_buffer_append_u8(out, (uint8_t)event->expert[i]);
    }
}

void fs_trace_append(fs_buffer *out, const fs_trace_model *model, const fs_trace_event *event,
                     int64_t previous_ns)
{
    FS_ASSERT(event->time_ns >= previous_ns);
    fs_buffer_append_u8(out, (uint8_t)event->kind);
    put_varint(out, (uint64_t)(event->time_ns - previous_ns));
    switch (event->kind) {
    case FS_TRACE_ARRIVE:
    case FS_TRACE_ROUTES:
        put_varint(out, event->sequence);
        put_varint(out, event->first);
        put_varint(out, event->count);
        if (event->kind == FS_TRACE_ROUTES) put_experts(out, model, event);
        break;
    case FS_TRACE_STEP:
        put_varint(out, event->lane);
        put_varint(out, event->num_parts);
        for (uint32_t i = 0; i < event->num_parts; i++) {
            put_varint(out, event->part[i].sequence);
            put_varint(out, event->part[i].first);
            put_varint(out, event->part[i].count);
        }
        break;
    case FS_TRACE_EXPERTS:
    case FS_TRACE_RESULTS:
        put_varint(out, event->lane);
        put_varint(out, event->layer);
        break;
    case FS_TRACE_DONE: put_varint(out, event->lane); break;
    case FS_TRACE_END: put_varint(out, event->sequence); break;
    }
}

/* ---- file ---- */

static void flush(fs_trace_writer *w)
{
    size_t at = 0;
    if (w->pending.failed && w->error == 0) w->error = ENOMEM;
    while (w->error == 0 && at < w->pending.size) {
        ssize_t n = write(w->fd, w->pending.data + at, w->pending.size - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) w->error = errno;
        if (n == 0) w->error = EIO;
        if (n > 0) at += (size_t)n;
    }
    w->pending.size = 0;
}

fs_status fs_trace_create(const char *path, const fs_trace_model *model, fs_trace_writer **out,
                          fs_detail *detail)
{
    if (!fs_trace_model_is_sane(model))
        return fs_fail(detail, FS_INVALID, "a trace of %u layers, %u experts, %u a token",
                       model->num_moe_layers, model->num_experts, model->top_k);
    fs_trace_writer *w = calloc(1, sizeof *w);
    if (!w) return fs_fail(detail, FS_NO_MEMORY, "no memory for a trace");
    w->model = *model;
    w->began_ns = fs_clock_now(fs_clock_system());
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (w->fd < 0) {
        fs_status st = fs_fail(detail, FS_IO, "%s: %s", path, strerror(errno));
        free(w);
        return st;
    }
    fs_trace_append_header(&w->pending, model);
    *out = w;
    return FS_OK;
}

void fs_trace_write(fs_trace_writer *w, const fs_trace_event *event)
{
    if (w->error) return;
    fs_trace_event stamped = *event;
    stamped.time_ns = fs_clock_now(fs_clock_system()) - w->began_ns;
    fs_trace_append(&w->pending, &w->model, &stamped, w->last_ns);
    w->last_ns = stamped.time_ns;
    if (w->pending.size >= FLUSH_BYTES || w->pending.failed) flush(w);
}

fs_status fs_trace_close(fs_trace_writer *w, fs_detail *detail)
{
    if (!w) return FS_OK;
    flush(w);
    if (close(w->fd) != 0 && w->error == 0) w->error = errno;
    int error = w->error;
    fs_buffer_free(&w->pending);
    free(w);
    if (error == 0) return FS_OK;
    return fs_fail(detail, error == ENOMEM ? FS_NO_MEMORY : FS_IO, "writing the trace: %s", strerror(error));
}
