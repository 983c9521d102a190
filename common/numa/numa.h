/* common/numa/numa.h: computing threads stay on a NUMA node, and memory that all of them use is spread over the nodes.
 * On a machine with one node there is nothing to do, and everything here takes NULL and does nothing. Nothing here fails: what
 * the machine or a container refuses is logged once, and the process runs as it would have without. */
#ifndef FS_NUMA_NUMA_H
#define FS_NUMA_NUMA_H

#include "base/conf.h"
#include "base/thread.h"

/* Which node each of a number of threads belongs to, on this machine. */
typedef struct fs_numa fs_numa;

/* Divides threads 0 .. num_threads - 1 over the NUMA nodes whose CPUs this process may use (its affinity, its cgroup's cpuset), in
 * proportion to those CPUs. NULL: fewer than two such nodes; fewer threads than nodes (of several such processes each would
 * crowd the first node); or the topology cannot be read, which is logged. Thread: any, as all below. */
fs_numa *fs_numa_create(uint32_t num_threads);
/* After the threads that use it have been joined. */
void fs_numa_destroy(fs_numa *numa);

/* Binds the calling thread to the CPUs of thread index's node, and lets it take new memory there. index < num_threads. */
void fs_numa_bind_thread(fs_numa *numa, uint32_t index);
/* fs_numa_bind_thread for each thread of a worker or a pool; numa is borrowed as the hook's arg. */
fs_thread_hook fs_numa_hook(fs_numa *numa);

/* New memory of the calling thread comes from the nodes that have threads, page by page in turn; so does that of the threads it
 * starts from now on, until they are bound. This holds for pages of files too, mapped or read, that are not in the page cache yet:
 * of a mapping the kernel heeds no other policy. */
void fs_numa_interleave_thread(fs_numa *numa);
/* The same for the pages within [data, data + bytes) that nobody has touched yet, whoever touches them first. Of memory, not of
 * mapped files. */
void fs_numa_interleave(fs_numa *numa, void *data, size_t bytes);

/* The option that a process has for it, into a uint32_t field. */
enum { FS_NUMA_AUTO, FS_NUMA_OFF };
#define FS_NUMA_CONF(conf_type, field)                                                                       \
    {                                                                                                        \
        .name = "numa", .type = FS_CONF_ENUM, .offset = offsetof(conf_type, field), .default_text = "auto",  \
        .words = "auto|off",                                                                                 \
        .help = "On a machine of several NUMA nodes: keep each computing thread on one, and spread memory "  \
                "that all use over them."                                                                    \
    }

#endif
