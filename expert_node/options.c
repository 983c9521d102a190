/* expert_node/options.c: see options.h. */
#include "options.h"

#include "base/clock.h"
#include "numa/numa.h"

#define AT(field) offsetof(fs_node_options, field)

static const fs_conf_option table[] = {
    FS_MEMBER_CONF(fs_node_options, member, "expert-1",
                   "Where routers connect (fabric); port 0 takes a free one."),
    FS_NUMA_CONF(fs_node_options, numa),
    {.name = "memory",
     .type = FS_CONF_BYTES,
     .offset = AT(memory_bytes),
     .default_text = "0",
     .help = "Memory for experts; 0: as much as the placement gives. Where not all of them fit, the others "
             "are read "
             "when they are needed."},
    {.name = "cache",
     .type = FS_CONF_ENUM,
     .offset = AT(cache),
     .default_text = "lookahead",
     .words = "lru|lfu|lfru|lookahead",
     .help = "Which experts stay in memory where not all fit: lookahead goes by what routers tell of the "
             "tokens to "
             "come, the others by the past alone."},
    {.name = "device",
     .type = FS_CONF_STRING,
     .offset = AT(device),
     .default_text = "auto",
     .value_name = "DEVICE",
     .help = "What computes: auto (the first CUDA device, else the CPU), cpu, cuda or cuda:N, or emulated (a "
             "CUDA device's kernels as loops, for tests)."},
    {.name = "device-memory",
     .type = FS_CONF_BYTES,
     .offset = AT(device_memory_bytes),
     .default_text = "0",
     .help = "Memory of the device for experts; 0: as much as it has."},
    {.name = "load-threads",
     .type = FS_CONF_U32,
     .offset = AT(load_threads),
     .default_text = "1",
     .min = 1,
     .max = 64,
     .help = "Threads that load and verify experts."},
    {.name = "queue-rows",
     .type = FS_CONF_U32,
     .offset = AT(queue_rows),
     .default_text = "131072",
     .min = 1,
     .max = 1u << 24,
     .help = "Rows that may wait for their experts; more are refused."},
    {.name = "queue-dispatches",
     .type = FS_CONF_U32,
     .offset = AT(queue_dispatches),
     .default_text = "4096",
     .min = 1,
     .max = 1u << 20,
     .help = "Dispatches that may be unanswered at once; more are refused."},
    {.name = "inline-budget",
     .type = FS_CONF_DURATION,
     .offset = AT(inline_ns),
     .default_text = "100us",
     .max = FS_NS_PER_MS,
     .help =
         "Rows that should take less than this together are computed without waking a thread; 0us: none."},
    {.name = "split",
     .type = FS_CONF_DURATION,
     .offset = AT(split_ns),
     .default_text = "50us",
     .max = FS_NS_PER_S,
     .help =
         "Rows of one expert are divided over idle threads if each then has this much to do; 0us: never."},
    {.name = "drain",
     .type = FS_CONF_DURATION,
     .offset = AT(drain_ns),
     .default_text = "2s",
     .max = 600 * FS_NS_PER_S,
     .help = "On SIGTERM: how long what is queued may take to finish."},
    FS_MEMBER_CONF_TRUST(fs_node_options, member),
    {0},
};

const fs_conf_spec fs_node_spec = {
    .program = "foresight-expert",
    .summary = "Holds a share of a model's experts and computes them for routers.",
    .options = table,
};
