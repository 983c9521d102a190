/* common/numa/numa_int.h: the division of threads, apart from the machine it is for. */
#ifndef FS_NUMA_NUMA_INT_H
#define FS_NUMA_NUMA_INT_H

#include <hwloc.h>

#include "numa/numa.h"

typedef struct {
    hwloc_bitmap_t cpus; /* its CPUs in the topology */
    uint32_t os_index;   /* as the kernel numbers nodes */
    uint32_t num_cpus;   /* at least 1 */
    uint32_t num_threads;
} fs_numa_node;

/* The nodes with CPUs, in the topology's order. */
typedef struct {
    fs_numa_node *node; /* [num_nodes] */
    uint32_t num_nodes, num_threads;
} fs_numa_plan;

/* topology: loaded; borrowed. Of nodes that share CPUs (fast memory beside the usual) the first has them. Each node gets
 * num_threads * its CPUs / all CPUs, rounded by largest remainder, ties to the first. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_numa_plan_init(fs_numa_plan *plan, hwloc_topology_t topology, uint32_t num_threads);
void fs_numa_plan_fini(fs_numa_plan *plan);
/* The node of a thread: the first threads are the first node's. index < num_threads. */
const fs_numa_node *fs_numa_plan_node(const fs_numa_plan *plan, uint32_t index);

/* This machine as far as this process may use its CPUs; the binding of the calling thread stays. NULL: it cannot be read. */
hwloc_topology_t fs_numa_load_topology(void);
/* fs_numa_create for another topology. topology: loaded; taken in any case. */
fs_numa *fs_numa_create_for(hwloc_topology_t topology, uint32_t num_threads);

#endif
