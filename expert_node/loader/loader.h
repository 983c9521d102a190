/* expert_node/loader/loader.h: reads ranges of files into memory past the page cache: io_uring with O_DIRECT, several reads in flight,
 * adjacent ranges in one read, urgent loads first; what has come is verified on a worker thread. Where the kernel refuses io_uring
 * (containers) or the file system O_DIRECT (tmpfs), worker threads or ordinary reads do the same; that is logged once.
 * Nothing is mapped: a file that is truncated or fails under us is an error, never a signal. Thread: loop, but for verify. */
#ifndef FS_LOADER_LOADER_H
#define FS_LOADER_LOADER_H

#include "base/worker.h"

typedef struct fs_loader fs_loader;

typedef struct {
    uint32_t num_reads; /* in flight at once, at least 1 */
    uint32_t
        read_bytes; /* of one read at most, a multiple of 4096; each read in flight has a buffer of so many */
    uint32_t threads; /* that verify (and read, where there is no io_uring); at least 1 */
    bool no_ring;     /* as if the kernel refused io_uring */
    bool no_direct;   /* as if every file system refused O_DIRECT */
} fs_loader_options;

/* FS_NO_MEMORY; FS_EXHAUSTED: no threads. */
FS_MUST_USE fs_status fs_loader_create(uv_loop_t *loop, const fs_loader_options *options, fs_loader **out,
                                       fs_detail *detail);
/* Waits for the reads and checks under way; no done is called any more, and loads belong to their owner again. The loop must run once
 * more. NULL is allowed. */
void fs_loader_destroy(fs_loader *loader);

/* Opens a file for loads, numbered from 0 in order of adding; it stays open, so that loads read this file whatever its name leads to
 * later. Blocks: before the loop runs. FS_NOT_FOUND, FS_IO, FS_NO_MEMORY; the detail names the path. */
FS_MUST_USE fs_status fs_loader_add_file(fs_loader *loader, const char *path, fs_detail *detail);

#define FS_LOAD_MAX_RANGES 3u
typedef struct {
    uint32_t file;
    uint64_t offset; /* any; offset + bytes fits in 63 bits */
    uint64_t bytes;  /* at least 1 */
    uint8_t *to;     /* [bytes] the owner's memory */
} fs_load_range;

/* Some ranges that are one thing. The owner's memory; the loader's from start until done. */
typedef struct fs_load fs_load;
struct fs_load {
    fs_load_range range[FS_LOAD_MAX_RANGES];
    uint32_t num_ranges;
    /* On a worker thread, when all bytes have come: whether they are what they should be. NULL: no check. */
    fs_status (*verify)(fs_load *load, fs_detail *detail);
    void (*done)(fs_load *load); /* on the loop; never from inside a call of this header. May start loads */
    /* The result. FS_IO: a read failed; FS_CORRUPT: the file ends before the range does; or verify's. The detail names file and offset. */
    fs_status status;
    fs_detail detail;

    /* the loader's */
    fs_job job; /* verify */
    fs_loader *loader;
    fs_load *next, *prev;
    uint32_t at_range;
    uint64_t at_byte; /* what is behind it is asked for */
    uint32_t reads_left;
    bool queued, urgent, alone;
};

/* Urgent ones are read before all that are not, each kind in order. Nothing begins before fs_loader_go, so that what was started together
 * and lies side by side in its file is one read. */
void fs_loader_start(fs_loader *loader, fs_load *load, bool urgent);
void fs_loader_go(fs_loader *loader);
/* The load is urgent now; nothing changes if it is being read already. */
void fs_loader_hurry(fs_loader *loader, fs_load *load);

typedef struct {
    uint64_t loads, failed_loads;
    uint64_t reads, read_bytes; /* bytes asked of the files, rounding included */
    uint64_t joined_loads;      /* that came in a read with others */
    uint32_t in_flight;         /* reads and checks, now */
    bool ring, direct;          /* how it reads; direct: every file so far */
} fs_loader_stats;
void fs_loader_get_stats(const fs_loader *loader, fs_loader_stats *out);

#endif
