/* tools/cli/cluster.h: a whole cluster as child processes of this one: coordinator, expert nodes, routers. */
#ifndef FS_CLI_CLUSTER_H
#define FS_CLI_CLUSTER_H

#include <uv.h>

#include "base/status.h"

enum {
    FS_CLUSTER_MAX_NODES = 64,
    FS_CLUSTER_MAX_ROUTERS = 16,
    FS_CLUSTER_MAX_CHILDREN = 1 + FS_CLUSTER_MAX_NODES + FS_CLUSTER_MAX_ROUTERS,
};

typedef struct {
    const char *model, *listen, *runtime_dir; /* listen: of the first router; NULL: loopback, any port */
    const char *router_args,
        *expert_args;         /* more words of their command lines, parted by spaces; may be NULL */
    const char *router_trace; /* file that the router (one) writes a trace to; NULL: none */
    uint32_t expert_nodes, replicas, routers, threads;
    int64_t start_ns;
    uint32_t log_level, log_format; /* of the children: fs_log_level, fs_log_format */
} fs_cluster_options;

typedef enum { FS_CHILD_COORDINATOR, FS_CHILD_EXPERT, FS_CHILD_ROUTER } fs_child_kind;
typedef struct {
    char name[32]; /* "expert-1" */
    fs_child_kind kind;
    int pid;
    char address[128]; /* from its ready line; "": not ready */
    bool exited;
    int64_t exit_code;
    int signal;
} fs_child;

typedef struct fs_cluster fs_cluster;

/* Starts the processes and waits until each has printed its ready line; a child that ends before, or time, is an error
 * that names it. FS_CANCELLED: *interrupted became nonzero. Whatever the status, *out is set once a process was started: it can
 * be asked what is wrong, and is to be stopped. The children get a cluster key of their own in their environment and their
 * standard error is ours. fork: so before gRPC is used in this process. */
FS_MUST_USE fs_status fs_cluster_start(uv_loop_t *loop, const fs_cluster_options *options,
                                       const uint32_t *interrupted, fs_cluster **out, fs_detail *detail);
/* Stops routers, then nodes, then the coordinator: SIGTERM, then 5, 3 and 2 s for them to end, and SIGKILL for what is left; then
 * frees. Requests that run when a router is told to stop have 2 s to finish. */
void fs_cluster_stop(fs_cluster *cluster);

uint32_t fs_cluster_size(const fs_cluster *cluster);
const fs_child *fs_cluster_child(const fs_cluster *cluster, uint32_t index);
const char *fs_cluster_coordinator(const fs_cluster *cluster);
/* Children of this kind that live. */
uint32_t fs_cluster_alive(const fs_cluster *cluster, fs_child_kind kind);
/* A child that ended and was not told yet: its report, "expert-1 (pid 12) died: signal 9"; NULL: none. */
const char *fs_cluster_next_death(fs_cluster *cluster);

/* ---- for tests ---- */

/* How threads are divided: of total, the routers get half, the nodes get half, each at least one. */
void fs_cluster_divide(uint32_t total, uint32_t routers, uint32_t nodes, uint32_t *router_threads,
                       uint32_t *node_threads);
/* "ready KEY=VALUE" into value; false: another line. */
bool fs_cluster_parse_ready(const char *line, char value[128]);

#endif
