/* coordinator/placement/placement.h: which nodes hold which experts, evenly and for good. Pure: the same input gives the same placement. */
#ifndef FS_PLACEMENT_PLACEMENT_H
#define FS_PLACEMENT_PLACEMENT_H

#include "base/status.h"

enum { FS_PLACEMENT_MAX_NODES = 4096, FS_PLACEMENT_MAX_ENTRIES = 1 << 20 };

/* A node as the planner sees it. The order of the array is the order in which ties fall: sort it by name. */
typedef struct {
    const char *name;     /* borrowed; for the detail */
    const char *rack;     /* borrowed; nodes with an equal rack share it, "" is a rack like any other */
    uint64_t max_experts; /* that fit into its memory; UINT64_MAX: no limit */
} fs_placement_node;

typedef struct {
    uint32_t num_moe_layers, num_experts, num_replicas; /* each at least 1 */
} fs_placement_shape;

/* False: a number is 0, or the product is over FS_PLACEMENT_MAX_ENTRIES. */
bool fs_placement_shape_is_valid(const fs_placement_shape *shape);

/* Fills replica [num_moe_layers][num_experts][num_replicas] with indices into nodes. The replicas of an expert are on different nodes and,
 * as far as the even share allows, in different racks. Each node gets the same number of experts, of each layer too (to within one),
 * unless it has less room: then it is filled and the others share the rest.
 * FS_EXHAUSTED: the experts do not fit, and the detail says what is missing; FS_INVALID: fewer nodes than replicas, too many nodes, or the
 * shape; FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_placement_plan(const fs_placement_shape *shape, const fs_placement_node *nodes,
                                        uint32_t num_nodes, uint32_t *replica, fs_detail *detail);

#endif
