/* expert_node/options.h: what an expert node can be told. */
#ifndef FS_EXPERT_NODE_OPTIONS_H
#define FS_EXPERT_NODE_OPTIONS_H

#include "base/conf.h"

typedef struct {
    const char *model, *listen, *advertise, *coordinator, *name, *rack, *cluster_key, *cluster_key_file;
    uint64_t memory_bytes;
    uint32_t threads, load_threads, queue_rows, queue_dispatches;
    int64_t drain_ns, inline_ns;
    bool die_with_parent;
    fs_conf_common common;
} fs_node_options;

extern const fs_conf_spec fs_node_spec;

#endif
