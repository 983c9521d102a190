/* expert_node/cache/pace.h: when a router's hints come true, on the node's clock. A hint counts in the router's layer visits; how long
 * one takes is measured from the positions that its hints tell. A core without input and output. */
#ifndef FS_CACHE_PACE_H
#define FS_CACHE_PACE_H

#include <stdbool.h>

#include "base/clock.h"

/* Of one router. Zero is one that has told nothing yet. */
typedef struct {
    uint64_t position;       /* as last told */
    int64_t at_ns, visit_ns; /* when that was; of a visit, lately; 0: not known */
} fs_cache_pace;

/* The router says that it has begun so many visits. A pause in which it had nothing to do, and a router that begins again at a smaller
 * number, tell nothing about its pace. */
void fs_cache_pace_tell(fs_cache_pace *pace, uint64_t position, int64_t now_ns);
/* When a visit so far (< 2^32) after the told position begins, if the router goes on as it did. */
int64_t fs_cache_pace_when(const fs_cache_pace *pace, uint32_t distance);

#endif
