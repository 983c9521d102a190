/* tools/sim/node_sim.h: a trace's steps on a simulated node: its cache core as it is, with loads, experts and attention taking times that were measured
 * elsewhere. What a policy gains in time, for disks and models that are not at hand. */
#ifndef FS_SIM_NODE_SIM_H
#define FS_SIM_NODE_SIM_H

#include "cache/cache.h"
#include "sim/visits.h"

typedef struct {
    fs_cache_policy policy;
    bool hints;    /* each micro-batch's visits are announced when it is planned */
    bool prefetch; /* what is announced is loaded before it is asked for */
    uint32_t room; /* experts that memory holds, at least 1 */
    /* Times, all >= 0: */
    int64_t layer_ns;   /* of the router between two visits of a step: attention and the way there and back */
    int64_t row_ns;     /* the same, for each row */
    int64_t expert_ns;  /* the node's for each expert that a visit uses */
    int64_t load_ns;    /* of a load, on average */
    uint32_t max_loads; /* at once, 1..FS_NODE_SIM_MAX_LOADS: so many take no longer than one */
    double jitter;      /* 0..1: a load takes load_ns * (1 - jitter .. 1 + jitter) */
    uint64_t seed;      /* of the jitter: the same seed, the same result */
} fs_node_sim_options;

#define FS_NODE_SIM_MAX_LOADS 64u

typedef struct {
    double step_mean_ns, step_p95_ns; /* from a step's plan to its last layer's results */
    int64_t total_ns, waited_ns; /* of all steps; in which nothing could run, for experts were on their way */
    fs_cache_stats cache;
} fs_node_sim_result;

/* The trace's visits in their order, one after the other (micro-batches do not overlap). FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_node_sim_run(const fs_visits *visits, const fs_node_sim_options *options,
                                      fs_node_sim_result *out, fs_detail *detail);

#endif
