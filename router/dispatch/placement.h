/* router/dispatch/placement.h: which nodes hold which experts, as the coordinator says it, without its wire
 * format. */
#ifndef FS_DISPATCH_PLACEMENT_H
#define FS_DISPATCH_PLACEMENT_H

#include "base/status.h"

#define FS_NO_REPLICA UINT32_MAX

/* Numbers as in foresight/v1/control.proto. */
typedef enum {
    FS_NODE_UNKNOWN = 0,
    FS_NODE_LOADING = 1, /* has not yet loaded what the placement gives it */
    FS_NODE_READY = 2,
    FS_NODE_DRAINING = 3, /* still answers; another replica is better */
    FS_NODE_LOST = 4      /* the coordinator hears nothing of it */
} fs_node_state;

typedef struct {
    const char *name, *address, *rack;
    uint64_t instance; /* of the process: another number is another process */
    fs_node_state state;
} fs_placement_node;

/* Borrowed by whoever is given one. */
typedef struct {
    uint64_t epoch, assignment_epoch, fingerprint;
    uint32_t num_moe_layers, num_experts, num_replicas, num_nodes;
    const fs_placement_node *node; /* [num_nodes] */
    const uint32_t
        *replica; /* [num_moe_layers][num_experts][num_replicas] indices into node, or FS_NO_REPLICA */
} fs_placement;

#endif
