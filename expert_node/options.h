/* expert_node/options.h: what an expert node can be told. */
#ifndef FS_EXPERT_NODE_OPTIONS_H
#define FS_EXPERT_NODE_OPTIONS_H

#include "rpc/member_conf.h"

typedef struct {
    fs_member_conf member;
    uint64_t memory_bytes;
    uint32_t cache; /* fs_cache_policy */
    const char *device;
    uint64_t device_memory_bytes;
    uint32_t load_threads, queue_rows, queue_dispatches;
    uint32_t numa; /* FS_NUMA_AUTO, FS_NUMA_OFF */
    int64_t drain_ns, inline_ns, split_ns;
} fs_node_options;

extern const fs_conf_spec fs_node_spec;

#endif
