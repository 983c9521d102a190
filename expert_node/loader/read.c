/* expert_node/loader/read.c: how the bytes of one read come: through io_uring, or by a worker thread. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "loader/loader_int.h"

/* Where the next try begins: an O_DIRECT read must begin at a page, so that what came behind the last one is read once more. */
static uint64_t next_from(const fs_loader_read *r)
{
    return r->direct ? r->have / FS_LOADER_PAGE * FS_LOADER_PAGE : r->have;
}

static uint64_t needed(const fs_loader_read *r)
{
    return r->needed_end - r->begin;
}

/* got: what a read that began at `from` answered. true: more is to be read. */
static bool take(fs_loader_read *r, uint64_t from, int64_t got)
{
    if (got == -EINTR || got == -EAGAIN) return true;
    if (got < 0) {
        r->error = (int)-got;
        return false;
    }
    uint64_t before = r->have;
    if (from + (uint64_t)got > before) r->have = from + (uint64_t)got;
    return r->have < needed(r) && r->have > before; /* no progress: the file's end */
}

/* ---- by a thread ---- */

void fs_loader_read_here(fs_loader_read *r)
{
    uint64_t from;
    int64_t got;
    do {
        from = next_from(r);
        got = pread(r->fd, r->buffer + from, r->end - r->begin - from, (off_t)(r->begin + from));
        if (got < 0) got = -errno;
    } while (take(r, from, got));
}

/* A file system may take O_DIRECT at open and refuse it, or our alignment, at the first read. */
bool fs_loader_read_again(fs_loader_read *r)
{
    fs_loader_file *f = &r->loader->files[r->file];
    if (r->error != EINVAL || !r->direct) return false;
    if (f->direct) {
        int flags = fcntl(f->fd, F_GETFL);
        if (flags < 0 || fcntl(f->fd, F_SETFL, flags & ~O_DIRECT) != 0) return false;
        f->direct = false;
        fs_loader_tell_no_direct(r->loader, f->path);
    }
    r->error = 0;
    fs_loader_begin_read(r);
    fs_loader_submit(r->loader);
    return true;
}

/* ---- through io_uring ---- */

static void put(fs_loader_read *r)
{
    fs_loader *l = r->loader;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);
    FS_ASSERT(sqe); /* as many as there are reads */
    uint64_t from = next_from(r);
    io_uring_prep_read(sqe, r->fd, r->buffer + from, (unsigned)(r->end - r->begin - from), r->begin + from);
    io_uring_sqe_set_data(sqe, r);
    l->in_ring++;
}

void fs_loader_begin_read(fs_loader_read *r)
{
    fs_loader *l = r->loader;
    r->fd = l->files[r->file].fd;
    r->direct = l->files[r->file].direct;
    r->by_thread = !l->has_ring;
    if (r->by_thread)
        fs_worker_post(l->worker, &r->job);
    else
        put(r);
}

static void on_again(uv_timer_t *timer)
{
    fs_loader_submit(timer->data);
}

/* What the kernel does not take now stays in the queue that it shares with us. */
void fs_loader_submit(fs_loader *l)
{
    if (!l->has_ring || io_uring_sq_ready(&l->ring) == 0) return;
    io_uring_submit(&l->ring);
    if (io_uring_sq_ready(&l->ring) > 0) uv_timer_start(&l->again, on_again, 1, 0);
}

static void complete(fs_loader *l, struct io_uring_cqe *cqe)
{
    fs_loader_read *r = io_uring_cqe_get_data(cqe);
    int64_t got = cqe->res;
    io_uring_cqe_seen(&l->ring, cqe);
    l->in_ring--;
    if (take(r, next_from(r), got))
        put(r);
    else
        fs_loader_read_done(r);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    fs_loader *l = poll->data;
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&l->ring, &cqe) == 0) complete(l, cqe);
    fs_loader_submit(l);
}

/* Some systems give the ring and refuse to enter it. */
static int try_ring(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    io_uring_prep_nop(io_uring_get_sqe(ring));
    int rc = io_uring_submit(ring);
    if (rc >= 0) rc = io_uring_wait_cqe(ring, &cqe);
    if (rc >= 0) io_uring_cqe_seen(ring, cqe);
    return rc;
}

static void no_ring(int error)
{
    fs_log_info("io_uring_refused", "error=\"%s\" text=\"threads read instead\"", strerror(error));
}

void fs_loader_open_ring(fs_loader *l, uv_loop_t *loop)
{
    int rc = io_uring_queue_init(l->options.num_reads, &l->ring, 0);
    if (rc < 0) {
        no_ring(-rc);
        return;
    }
    rc = try_ring(&l->ring);
    if (rc >= 0) rc = uv_poll_init(loop, &l->poll, l->ring.ring_fd);
    if (rc < 0) {
        no_ring(-rc);
        io_uring_queue_exit(&l->ring);
        return;
    }
    FS_ASSERT(uv_timer_init(loop, &l->again) == 0);
    l->poll.data = l->again.data = l;
    l->num_handles += 2;
    l->has_ring = true;
    FS_ASSERT(uv_poll_start(&l->poll, UV_READABLE, on_readable) == 0);
}

/* The kernel writes into our buffers until each read has ended. */
void fs_loader_close_ring(fs_loader *l)
{
    struct io_uring_cqe *cqe;
    while (l->in_ring > 0) {
        int rc = io_uring_submit_and_wait(&l->ring, 1);
        if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) break;
        while (io_uring_peek_cqe(&l->ring, &cqe) == 0) {
            io_uring_cqe_seen(&l->ring, cqe);
            l->in_ring--;
        }
    }
    io_uring_queue_exit(&l->ring);
}
