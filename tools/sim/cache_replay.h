/* tools/sim/cache_replay.h: a node's cache over a trace's visits: what each policy would have had in memory, and what the best possible would. */
#ifndef FS_SIM_CACHE_REPLAY_H
#define FS_SIM_CACHE_REPLAY_H

#include "cache/cache.h"
#include "cache/optimum.h"
#include "sim/visits.h"

typedef struct {
    fs_cache_policy policy;
    bool hints;    /* each micro-batch's visits are announced when it is planned, as a router does */
    bool prefetch; /* what is announced is loaded before it is asked for; loads take no time */
    uint32_t room; /* experts that memory holds, at least 1; all are of one size (1 byte) */
} fs_cache_replay_options;

/* Each visit claims its experts, runs those that are there, and the others as they come. A visit takes one unit of time. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_cache_replay_run(const fs_visits *visits, const fs_cache_replay_options *options,
                                          fs_cache_stats *out, fs_detail *detail);
/* Belady's optimum over the same claims, in the order of their keys within a visit. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_cache_replay_optimum(const fs_visits *visits, uint32_t room, fs_cache_optimum *out,
                                              fs_detail *detail);

#endif
