/* common/numa/plan.c: which NUMA node each thread belongs to. */
#include <stdlib.h>

#include "numa/numa_int.h"

/* The CPUs of a node that no node before it has; NULL: no memory. */
static hwloc_bitmap_t own_cpus(const fs_numa_plan *plan, hwloc_obj_t object)
{
    hwloc_bitmap_t cpus = hwloc_bitmap_dup(object->cpuset);
    for (uint32_t i = 0; cpus && i < plan->num_nodes; i++)
        if (hwloc_bitmap_andnot(cpus, cpus, plan->node[i].cpus) != 0) {
            hwloc_bitmap_free(cpus);
            return NULL;
        }
    return cpus;
}

static fs_status find_nodes(fs_numa_plan *plan, hwloc_topology_t topology)
{
    int count = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
    plan->node = count > 0 ? calloc((size_t)count, sizeof *plan->node) : NULL;
    if (count > 0 && !plan->node) return FS_NO_MEMORY;
    for (int i = 0; i < count; i++) {
        hwloc_obj_t object = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, (unsigned)i);
        hwloc_bitmap_t cpus = own_cpus(plan, object);
        if (!cpus) return FS_NO_MEMORY;
        int num_cpus = hwloc_bitmap_weight(cpus);
        if (num_cpus > 0)
            plan->node[plan->num_nodes++] = (fs_numa_node){cpus, object->os_index, (uint32_t)num_cpus, 0};
        else
            hwloc_bitmap_free(cpus); /* memory alone */
    }
    return FS_OK;
}

/* num_threads and num_cpus are below 2^32 and all_cpus is not 0: no product overflows. */
static void divide(fs_numa_plan *plan, uint64_t all_cpus)
{
    uint32_t left = plan->num_threads;
    for (uint32_t i = 0; i < plan->num_nodes; i++) {
        fs_numa_node *node = &plan->node[i];
        node->num_threads = (uint32_t)((uint64_t)plan->num_threads * node->num_cpus / all_cpus);
        left -= node->num_threads;
    }
    for (; left > 0; left--) { /* fewer than nodes */
        fs_numa_node *most = NULL;
        int64_t most_lacks = 0;
        for (uint32_t i = 0; i < plan->num_nodes; i++) {
            fs_numa_node *node = &plan->node[i];
            int64_t lacks = (int64_t)((uint64_t)plan->num_threads * node->num_cpus) -
                            (int64_t)((uint64_t)node->num_threads * all_cpus);
            if (most && lacks <= most_lacks) continue;
            most = node;
            most_lacks = lacks;
        }
        most->num_threads++;
    }
}

fs_status fs_numa_plan_init(fs_numa_plan *plan, hwloc_topology_t topology, uint32_t num_threads)
{
    *plan = (fs_numa_plan){.num_threads = num_threads};
    fs_status st = find_nodes(plan, topology);
    if (st != FS_OK) {
        fs_numa_plan_fini(plan);
        return st;
    }
    uint64_t all_cpus = 0;
    for (uint32_t i = 0; i < plan->num_nodes; i++) all_cpus += plan->node[i].num_cpus;
    if (all_cpus > 0) divide(plan, all_cpus);
    return FS_OK;
}

void fs_numa_plan_fini(fs_numa_plan *plan)
{
    for (uint32_t i = 0; i < plan->num_nodes; i++) hwloc_bitmap_free(plan->node[i].cpus);
    free(plan->node);
    *plan = (fs_numa_plan){0};
}

const fs_numa_node *fs_numa_plan_node(const fs_numa_plan *plan, uint32_t index)
{
    FS_ASSERT(index < plan->num_threads && plan->num_nodes > 0);
    const fs_numa_node *node = plan->node;
    for (; index >= node->num_threads; node++) index -= node->num_threads;
    return node;
}
