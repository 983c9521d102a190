/* tools/sim/unit_cache.h: a node's cache for a trace's experts, all of them wanted and all of one size (1 byte), so that room is counted in experts. */
#ifndef FS_SIM_UNIT_CACHE_H
#define FS_SIM_UNIT_CACHE_H

#include "cache/cache.h"
#include "sim/visits.h"

typedef struct {
    fs_cache_policy policy;
    bool prefetch;
    uint32_t room;         /* experts that memory holds, at least 1 */
    uint32_t max_loads;    /* at once, at least 1 */
    int64_t hint_grace_ns; /* see fs_cache_options */
} fs_unit_cache_options;

/* FS_NO_MEMORY. Destroyed with fs_cache_destroy. */
FS_MUST_USE fs_status fs_unit_cache_create(const fs_visits *visits, const fs_unit_cache_options *options,
                                           fs_cache **out);
/* The size of each key, [fs_visits_num_keys], the caller's; NULL: no memory. */
uint64_t *fs_unit_bytes(const fs_visits *visits);

#endif
