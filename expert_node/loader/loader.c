/* expert_node/loader/loader.c: loads wait in two queues, are cut into reads or joined in one, and end when their reads have. */
#include "loader/loader.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "loader/loader_int.h"

/* ---- the queues ---- */

static fs_loader_queue *queue_of(fs_loader *l, const fs_load *load)
{
    return load->urgent ? &l->urgent : &l->later;
}

static void enqueue(fs_loader *l, fs_load *load)
{
    fs_loader_queue *q = queue_of(l, load);
    load->queued = true;
    load->next = NULL;
    load->prev = q->last;
    if (q->last)
        q->last->next = load;
    else
        q->first = load;
    q->last = load;
}

static void dequeue(fs_loader *l, fs_load *load)
{
    fs_loader_queue *q = queue_of(l, load);
    load->queued = false;
    if (load->prev)
        load->prev->next = load->next;
    else
        q->first = load->next;
    if (load->next)
        load->next->prev = load->prev;
    else
        q->last = load->prev;
}

/* ---- what one read brings ---- */

static uint64_t page_down(uint64_t x)
{
    return x / FS_LOADER_PAGE * FS_LOADER_PAGE;
}

static uint64_t page_up(uint64_t x)
{
    return page_down(x + FS_LOADER_PAGE - 1);
}

/* The read ends behind it; as much of the range as fits. Moves the load on. */
static void add_piece(fs_loader_read *r, fs_load *load)
{
    const fs_load_range *range = &load->range[load->at_range];
    uint64_t offset = range->offset + load->at_byte, left = range->bytes - load->at_byte;
    uint64_t room = r->begin + r->loader->options.read_bytes - offset;
    uint64_t bytes = left < room ? left : room;
    r->pieces[r->num_pieces++] = (fs_loader_piece){load,  offset, bytes, range->to + load->at_byte,
                                                   false, FS_OK,  {""}};
    r->needed_end = offset + bytes;
    r->end = page_up(r->needed_end);
    load->at_byte += bytes;
    if (load->at_byte < range->bytes) return;
    load->at_byte = 0;
    load->at_range++;
}

/* Less than a page lies between: one read of both is no more than two. */
static bool adjoins(const fs_loader_read *r, const fs_load_range *range)
{
    return range->file == r->file && range->offset >= r->needed_end && range->offset <= r->end &&
           range->offset < r->begin + r->loader->options.read_bytes;
}

/* All of a load that has one range, behind what the read has so far. */
static bool joins(const fs_loader_read *r, const fs_load *load)
{
    const fs_load_range *range = &load->range[0];
    return !load->alone && load->num_ranges == 1 && load->at_byte == 0 && adjoins(r, range) &&
           range->offset + range->bytes <= r->begin + r->loader->options.read_bytes;
}

static fs_load *find_next(const fs_loader_read *r, const fs_loader_queue *q)
{
    if (r->num_pieces == FS_LOADER_MAX_PIECES) return NULL;
    fs_load *load = q->first;
    while (load && !joins(r, load)) load = load->next;
    return load;
}

static void join_others(fs_loader *l, fs_loader_read *r, fs_loader_queue *q)
{
    fs_load *load = find_next(r, q);
    if (load) l->stats.joined_loads++; /* the first */
    for (; load; load = find_next(r, q)) {
        dequeue(l, load);
        add_piece(r, load);
        r->pieces[r->num_pieces - 1].whole = true;
        load->reads_left++;
        l->stats.joined_loads++;
    }
}

/* As much of the first load in the queue as one read takes; and, if that is all of it, others that lie right behind. */
static void plan(fs_loader *l, fs_loader_read *r, fs_loader_queue *q)
{
    fs_load *load = q->first;
    const fs_load_range *range = &load->range[load->at_range];
    bool from_start = load->at_range == 0 && load->at_byte == 0;
    r->file = range->file;
    r->begin = r->end = page_down(range->offset + load->at_byte);
    r->have = 0;
    r->error = 0;
    r->num_pieces = 0;
    load->reads_left++;
    do add_piece(r, load);
    while (load->at_range < load->num_ranges && load->at_byte == 0 &&
           adjoins(r, &load->range[load->at_range]));
    if (load->at_range < load->num_ranges) return;
    dequeue(l, load);
    if (!from_start || r->num_pieces > 1) return;
    r->pieces[0].whole = true;
    if (!load->alone) join_others(l, r, q);
}

static void start_reads(fs_loader *l)
{
    while (l->free_read) {
        fs_loader_queue *q = l->urgent.first ? &l->urgent : &l->later;
        if (!q->first) break;
        fs_loader_read *r = l->free_read;
        l->free_read = r->next_free;
        plan(l, r, q);
        l->stats.reads++;
        l->stats.read_bytes += r->end - r->begin;
        l->stats.in_flight++;
        fs_loader_begin_read(r);
    }
    fs_loader_submit(l);
}

/* ---- what came ---- */

static void run_verify(fs_job *job)
{
    fs_load *load = (fs_load *)((char *)job - offsetof(fs_load, job));
    load->status = load->verify(load, &load->detail);
}

static bool has_come(const fs_loader_read *r, const fs_loader_piece *p)
{
    return p->offset + p->bytes <= r->begin + r->have;
}

/* On a worker thread. A whole load is verified here too, while its bytes are in the cache of this core. */
static void run_read(fs_job *job)
{
    fs_loader_read *r = (fs_loader_read *)job;
    if (r->by_thread) fs_loader_read_here(r);
    for (uint32_t i = 0; i < r->num_pieces; i++) {
        fs_loader_piece *p = &r->pieces[i];
        if (!has_come(r, p)) continue;
        memcpy(p->to, r->buffer + (p->offset - r->begin), p->bytes);
        if (p->whole && p->load->verify) p->status = p->load->verify(p->load, &p->detail);
    }
}

static void end_load(fs_load *load)
{
    fs_loader *l = load->loader;
    l->stats.loads++;
    l->stats.failed_loads += load->status != FS_OK;
    load->done(load);
}

static void verify_done(fs_job *job)
{
    fs_load *load = (fs_load *)((char *)job - offsetof(fs_load, job));
    load->loader->stats.in_flight--;
    end_load(load);
}

static void fail_piece(const fs_loader_read *r, const fs_loader_piece *p)
{
    fs_load *load = p->load;
    const char *path = r->loader->files[r->file].path;
    if (load->status != FS_OK) return; /* the first failure tells */
    if (r->error)
        load->status = fs_fail(&load->detail, FS_IO,
                               "%s: cannot read %" PRIu64 " bytes at offset %" PRIu64 ": %s", path, p->bytes,
                               p->offset, strerror(r->error));
    else
        load->status = fs_fail(&load->detail, FS_CORRUPT,
                               "%s: ends at %" PRIu64 ", but %" PRIu64 " bytes at offset %" PRIu64
                               " are a part of it",
                               path, r->begin + r->have, p->bytes, p->offset);
    if (load->queued) dequeue(r->loader, load);
    load->at_range = load->num_ranges; /* the rest is not asked for */
}

/* One bad sector, or the file's end, is its own load's misfortune: the others of the read try again alone. */
static bool try_alone(fs_loader_read *r, fs_load *load)
{
    if (r->num_pieces == 1 || !r->pieces[0].whole) return false;
    load->alone = true;
    load->at_range = 0;
    load->at_byte = 0;
    load->reads_left--;
    enqueue(r->loader, load);
    return true;
}

static void end_piece(fs_loader_read *r, fs_loader_piece *p)
{
    fs_load *load = p->load;
    if (!has_come(r, p)) {
        if (try_alone(r, load)) return;
        fail_piece(r, p);
    } else if (p->whole) {
        load->status = p->status;
        load->detail = p->detail;
    }
    bool last_of_load = p + 1 == r->pieces + r->num_pieces || p[1].load != load;
    if (!last_of_load || --load->reads_left > 0 || load->at_range < load->num_ranges) return;
    if (p->whole || load->status != FS_OK || !load->verify) {
        end_load(load);
        return;
    }
    r->loader->stats.in_flight++;
    fs_worker_post(r->loader->worker, &load->job);
}

static void read_copied(fs_job *job)
{
    fs_loader_read *r = (fs_loader_read *)job;
    fs_loader *l = r->loader;
    if (r->error && fs_loader_read_again(r)) return;
    l->stats.in_flight--;
    for (uint32_t i = 0; i < r->num_pieces; i++) end_piece(r, &r->pieces[i]);
    r->next_free = l->free_read;
    l->free_read = r;
    start_reads(l);
}

void fs_loader_read_done(fs_loader_read *r)
{
    if (r->error && fs_loader_read_again(r)) return;
    fs_worker_post(r->loader->worker, &r->job);
}

/* ---- loads ---- */

void fs_loader_start(fs_loader *l, fs_load *load, bool urgent)
{
    FS_ASSERT(load->num_ranges >= 1 && load->num_ranges <= FS_LOAD_MAX_RANGES);
    for (uint32_t i = 0; i < load->num_ranges; i++)
        FS_ASSERT(load->range[i].file < l->num_files && load->range[i].bytes > 0);
    load->job = (fs_job){.run = run_verify, .done = verify_done};
    load->loader = l;
    load->status = FS_OK;
    load->detail = (fs_detail){0};
    load->at_range = load->reads_left = 0;
    load->at_byte = 0;
    load->alone = false;
    load->urgent = urgent;
    enqueue(l, load);
}

void fs_loader_hurry(fs_loader *l, fs_load *load)
{
    if (load->urgent || !load->queued) return;
    dequeue(l, load);
    load->urgent = true;
    enqueue(l, load);
}

void fs_loader_go(fs_loader *l)
{
    start_reads(l);
}

/* ---- life ---- */

static fs_status create_reads(fs_loader *l)
{
    uint32_t n = l->options.num_reads;
    size_t each = l->options.read_bytes;
    l->reads = calloc(n, sizeof(*l->reads));
    l->buffers = aligned_alloc(FS_LOADER_PAGE, n * each);
    if (!l->reads || !l->buffers) return FS_NO_MEMORY;
    for (uint32_t i = n; i-- > 0;) {
        fs_loader_read *r = &l->reads[i];
        r->job = (fs_job){.run = run_read, .done = read_copied};
        r->loader = l;
        r->buffer = l->buffers + i * each;
        r->next_free = l->free_read;
        l->free_read = r;
    }
    return FS_OK;
}

fs_status fs_loader_create(uv_loop_t *loop, const fs_loader_options *options, fs_loader **out,
                           fs_detail *detail)
{
    FS_ASSERT(options->num_reads >= 1 && options->threads >= 1);
    FS_ASSERT(options->read_bytes > 0 && options->read_bytes % FS_LOADER_PAGE == 0);
    fs_loader *l = calloc(1, sizeof(*l));
    if (!l) return fs_fail(detail, FS_NO_MEMORY, "no memory for a loader");
    l->options = *options;
    l->stats.direct = !options->no_direct;
    fs_status st = create_reads(l);
    if (st == FS_OK) st = fs_worker_create(loop, "load", options->threads, &l->worker);
    if (st != FS_OK) {
        fs_loader_destroy(l);
        return fs_fail(detail, st, "cannot make a loader of %u reads of %u bytes and %u threads",
                       options->num_reads, options->read_bytes, options->threads);
    }
    if (!options->no_ring) fs_loader_open_ring(l, loop);
    l->stats.ring = l->has_ring;
    *out = l;
    return FS_OK;
}

static void free_loader(fs_loader *l)
{
    for (uint32_t i = 0; i < l->num_files; i++) {
        close(l->files[i].fd);
        free(l->files[i].path);
    }
    free(l->files);
    free(l->reads);
    free(l->buffers);
    free(l);
}

static void on_closed(uv_handle_t *handle)
{
    fs_loader *l = handle->data;
    if (--l->num_handles == 0) free_loader(l);
}

void fs_loader_destroy(fs_loader *l)
{
    if (!l) return;
    fs_worker_destroy(l->worker);
    if (!l->has_ring) {
        free_loader(l);
        return;
    }
    uv_poll_stop(&l->poll);
    fs_loader_close_ring(l);
    uv_close((uv_handle_t *)&l->poll, on_closed);
    uv_close((uv_handle_t *)&l->again, on_closed);
}

void fs_loader_tell_no_direct(fs_loader *l, const char *path)
{
    if (l->stats.direct)
        fs_log_info("direct_reads_refused", "file=%s text=\"reads go through the page cache\"", path);
    l->stats.direct = false;
}

static int open_file(fs_loader *l, const char *path, bool *direct)
{
    *direct = !l->options.no_direct;
    int fd = *direct ? open(path, O_RDONLY | O_CLOEXEC | O_DIRECT) : -1;
    if (fd >= 0 || (*direct && errno != EINVAL && errno != EOPNOTSUPP)) return fd;
    if (*direct) fs_loader_tell_no_direct(l, path);
    *direct = false;
    return open(path, O_RDONLY | O_CLOEXEC);
}

fs_status fs_loader_add_file(fs_loader *l, const char *path, fs_detail *detail)
{
    fs_loader_file *files = realloc(l->files, (l->num_files + 1) * sizeof(*files));
    if (files) l->files = files;
    char *copy = strdup(path);
    bool direct;
    int fd = files && copy ? open_file(l, path, &direct) : -1;
    if (fd >= 0) {
        l->files[l->num_files++] = (fs_loader_file){copy, fd, direct};
        return FS_OK;
    }
    int error = errno;
    bool no_memory = !files || !copy;
    free(copy);
    if (no_memory) return fs_fail(detail, FS_NO_MEMORY, "%s: no memory to open it", path);
    return fs_fail(detail, error == ENOENT ? FS_NOT_FOUND : FS_IO, "%s: %s", path, strerror(error));
}

void fs_loader_get_stats(const fs_loader *l, fs_loader_stats *out)
{
    *out = l->stats;
}
