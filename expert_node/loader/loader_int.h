/* expert_node/loader/loader_int.h: what the halves of the loader share: loader.c knows loads and what is read next, read.c how the bytes of
 * one read come. */
#ifndef FS_LOADER_LOADER_INT_H
#define FS_LOADER_LOADER_INT_H

#include <liburing.h>

#include "loader/loader.h"

enum { FS_LOADER_PAGE = 4096, FS_LOADER_MAX_PIECES = 32 };

typedef struct {
    char *path;
    int fd;
    bool direct; /* fd is open with O_DIRECT */
} fs_loader_file;

/* A part of one load in a read. whole: all of the load, which is verified with it. */
typedef struct {
    fs_load *load;
    uint64_t offset, bytes; /* in the file */
    uint8_t *to;
    bool whole;
    fs_status status; /* of a whole one */
    fs_detail detail;
} fs_loader_piece;

/* One read: bytes [begin, end) of a file, page-aligned, into a buffer of its own; then a job that copies its pieces out. Either parts of one
 * load, or several whole loads. */
typedef struct fs_loader_read {
    fs_job job; /* first; the worker's from post until done */
    fs_loader *loader;
    struct fs_loader_read *next_free;
    uint8_t *buffer;
    uint32_t file;
    int fd;
    bool direct, by_thread;
    uint64_t begin, end, needed_end; /* needed_end: of the last piece; the file may end behind it */
    uint64_t have;                   /* bytes from begin on that have come */
    int error;                       /* errno of the read; 0: none. The file's end is none: have tells */
    uint32_t num_pieces;
    fs_loader_piece pieces[FS_LOADER_MAX_PIECES];
} fs_loader_read;

typedef struct {
    fs_load *first, *last;
} fs_loader_queue;

struct fs_loader {
    fs_loader_options options;
    fs_loader_file *files;
    uint32_t num_files;
    fs_loader_queue urgent, later;
    fs_loader_read *reads, *free_read; /* [num_reads] */
    uint8_t *buffers;
    fs_worker *worker;
    struct io_uring ring;
    bool has_ring;
    uint32_t num_handles, in_ring; /* reads that the kernel has, or will have with the next submit */
    uv_poll_t poll;                /* the ring's descriptor is readable while it has completions */
    uv_timer_t again;              /* submits once more what the kernel would not take */
    fs_loader_stats stats;
};

/* loader.c: the read has what it could get, or an error; pieces are still to be copied. */
void fs_loader_read_done(fs_loader_read *read);
/* Logs it, once. */
void fs_loader_tell_no_direct(fs_loader *loader, const char *path);

/* read.c */
void fs_loader_open_ring(fs_loader *loader, uv_loop_t *loop);
/* Waits for what the kernel has of us. */
void fs_loader_close_ring(fs_loader *loader);
void fs_loader_begin_read(fs_loader_read *read);
/* After some were begun. */
void fs_loader_submit(fs_loader *loader);
/* On a worker thread, for reads that are by_thread. */
void fs_loader_read_here(fs_loader_read *read);
/* Takes the errors that another try may cure; true: the read goes on. */
bool fs_loader_read_again(fs_loader_read *read);

#endif
