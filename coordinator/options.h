/* coordinator/options.h: what the coordinator can be told. */
#ifndef FS_COORDINATOR_OPTIONS_H
#define FS_COORDINATOR_OPTIONS_H

#include "base/conf.h"

typedef struct {
    const char *listen, *data;
    uint32_t expert_nodes, replicas;
    int64_t heartbeat_ns, expire_ns;
    bool die_with_parent;
    fs_conf_common common;
} fs_coordinator_options;

extern const fs_conf_spec fs_coordinator_spec;
/* What one option cannot know of another. FS_INVALID. */
FS_MUST_USE fs_status fs_coordinator_options_check(const fs_coordinator_options *options, fs_detail *detail);

#endif
