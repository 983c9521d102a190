/* router/options.h: what a router can be told. */
#ifndef FS_ROUTER_OPTIONS_H
#define FS_ROUTER_OPTIONS_H

#include "rpc/member_conf.h"

typedef struct {
    fs_member_conf member;
    const char *trace;
    uint64_t kv_cache_bytes, max_prompt_bytes;
    uint32_t max_running, max_waiting, step_tokens, prefill_chunk, micro_batches, batch_wait, lookahead;
    uint32_t batching;                 /* fs_batching */
    uint32_t prefix_cache, preemption; /* 0: off, 1: on */
    uint32_t numa;                     /* FS_NUMA_AUTO, FS_NUMA_OFF */
    int64_t dispatch_timeout_ns, unavailable_after_ns, drain_ns;
} fs_router_options;

extern const fs_conf_spec fs_router_spec;

#endif
