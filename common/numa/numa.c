/* common/numa/numa.c: the plan carried out, through hwloc. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "numa/numa_int.h"

struct fs_numa {
    hwloc_topology_t topology; /* not changed after load: threads may share it */
    fs_numa_plan plan;
    hwloc_bitmap_t nodes; /* os_index of those with threads */
    atomic_bool refused;  /* and logged */
};

hwloc_topology_t fs_numa_load_topology(void)
{
    /* The first is a condition of the second, and true. Types of objects are not filtered: hwloc would hang a node under the
     * machine, with all of its CPUs, where it may not make a group for it. */
    const unsigned long flags = HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM |
                                HWLOC_TOPOLOGY_FLAG_RESTRICT_TO_CPUBINDING |
                                HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING;
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return NULL;
    if (hwloc_topology_set_flags(topology, flags) == 0 && hwloc_topology_load(topology) == 0) return topology;
    hwloc_topology_destroy(topology);
    return NULL;
}

fs_numa *fs_numa_create(uint32_t num_threads)
{
    hwloc_topology_t topology = fs_numa_load_topology();
    if (topology) return fs_numa_create_for(topology, num_threads);
    fs_log_warn("numa_unknown", "text=\"the machine's topology cannot be read; threads are not bound\"");
    return NULL;
}

static bool set_nodes(fs_numa *numa)
{
    numa->nodes = hwloc_bitmap_alloc();
    if (!numa->nodes) return false;
    for (uint32_t i = 0; i < numa->plan.num_nodes; i++)
        if (numa->plan.node[i].num_threads > 0 &&
            hwloc_bitmap_set(numa->nodes, numa->plan.node[i].os_index) != 0)
            return false;
    return true;
}

fs_numa *fs_numa_create_for(hwloc_topology_t topology, uint32_t num_threads)
{
    fs_numa *numa = calloc(1, sizeof *numa);
    if (!numa) {
        hwloc_topology_destroy(topology);
        return NULL;
    }
    numa->topology = topology;
    bool known = fs_numa_plan_init(&numa->plan, topology, num_threads) == FS_OK && set_nodes(numa);
    if (known && numa->plan.num_nodes > 1 && num_threads >= numa->plan.num_nodes) {
        fs_log_info("numa", "nodes=%u threads=%u", numa->plan.num_nodes, num_threads);
        return numa;
    }
    fs_numa_destroy(numa);
    return NULL;
}

void fs_numa_destroy(fs_numa *numa)
{
    if (!numa) return;
    hwloc_bitmap_free(numa->nodes);
    fs_numa_plan_fini(&numa->plan);
    hwloc_topology_destroy(numa->topology);
    free(numa);
}

static void note(fs_numa *numa, const char *what, int rc)
{
    int error = errno;
    if (rc == 0 || atomic_exchange(&numa->refused, true)) return;
    fs_log_warn("numa_refused", "what=%s text=\"%s\"", what, strerror(error));
}

void fs_numa_bind_thread(fs_numa *numa, uint32_t index)
{
    if (!numa) return;
    const fs_numa_node *node = fs_numa_plan_node(&numa->plan, index);
    note(numa, "cpus", hwloc_set_cpubind(numa->topology, node->cpus, HWLOC_CPUBIND_THREAD));
    /* Back from what it inherited: the kernel's own policy is the node that a thread runs on. */
    note(numa, "local_memory",
         hwloc_set_membind(numa->topology, numa->nodes, HWLOC_MEMBIND_DEFAULT,
                           HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET));
}

static void bind_hook(void *arg, uint32_t index)
{
    fs_numa_bind_thread(arg, index);
}

fs_thread_hook fs_numa_hook(fs_numa *numa)
{
    return (fs_thread_hook){numa ? bind_hook : NULL, numa};
}

void fs_numa_interleave_thread(fs_numa *numa)
{
    if (!numa) return;
    note(numa, "interleave",
         hwloc_set_membind(numa->topology, numa->nodes, HWLOC_MEMBIND_INTERLEAVE,
                           HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET));
}

void fs_numa_interleave(fs_numa *numa, void *data, size_t bytes)
{
    if (!numa || bytes == 0) return;
    note(numa, "interleave_area",
         hwloc_set_area_membind(numa->topology, data, bytes, numa->nodes, HWLOC_MEMBIND_INTERLEAVE,
                                HWLOC_MEMBIND_BYNODESET));
}
