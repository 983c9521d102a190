/* coordinator/options.c: see options.h. */
#include "options.h"

#include "base/clock.h"
#include "membership/cluster.h"

#define AT(field) offsetof(fs_coordinator_options, field)

static const fs_conf_option table[] = {
    {.name = "listen",
     .type = FS_CONF_STRING,
     .offset = AT(listen),
     .default_text = "127.0.0.1:0",
     .value_name = "ADDR",
     .help = "Where members and operators connect (gRPC); port 0 takes a free one."},
    {.name = "expert-nodes",
     .type = FS_CONF_U32,
     .offset = AT(expert_nodes),
     .default_text = "1",
     .help = "Experts are placed once so many expert nodes are there; later ones are spares."},
    {.name = "replicas",
     .type = FS_CONF_U32,
     .offset = AT(replicas),
     .default_text = "1",
     .help = "Nodes that hold each expert; at most --expert-nodes."},
    {.name = "data",
     .type = FS_CONF_STRING,
     .offset = AT(data),
     .default_text = ":memory:",
     .value_name = "FILE",
     .help =
         "Where members, placement and epoch are kept (an SQLite file); ':memory:' forgets them at the end."},
    {.name = "heartbeat",
     .type = FS_CONF_DURATION,
     .offset = AT(heartbeat_ns),
     .default_text = "500ms",
     .min = 10 * FS_NS_PER_MS,
     .max = 60 * FS_NS_PER_S,
     .help = "How often members report."},
    {.name = "expire",
     .type = FS_CONF_DURATION,
     .offset = AT(expire_ns),
     .default_text = "2s",
     .min = 20 * FS_NS_PER_MS,
     .max = 600 * FS_NS_PER_S,
     .help = "A member silent for so long is lost; at least twice --heartbeat."},
    {.name = "die-with-parent",
     .type = FS_CONF_BOOL,
     .offset = AT(die_with_parent),
     .default_text = "false",
     .help = "Stop when the process that started this one ends."},
    FS_CONF_COMMON(fs_coordinator_options, common),
    {0},
};

const fs_conf_spec fs_coordinator_spec = {
    .program = "foresight-coordinator",
    .summary = "Keeps a cluster's membership and says which expert nodes hold which experts.",
    .options = table,
};

fs_status fs_coordinator_options_check(const fs_coordinator_options *o, fs_detail *detail)
{
    if (o->expert_nodes == 0 || o->expert_nodes > FS_CLUSTER_MAX_MEMBERS)
        return fs_fail(detail, FS_INVALID, "--expert-nodes: %u is not 1..%d", o->expert_nodes,
                       FS_CLUSTER_MAX_MEMBERS);
    if (o->replicas == 0 || o->replicas > o->expert_nodes)
        return fs_fail(
            detail, FS_INVALID,
            "--replicas: %u is not 1..%u: each replica of an expert needs one of the %u expert nodes",
            o->replicas, o->expert_nodes, o->expert_nodes);
    if (o->expire_ns < 2 * o->heartbeat_ns)
        return fs_fail(detail, FS_INVALID, "--expire: %.3f s is less than twice --heartbeat (%.3f s)",
                       (double)o->expire_ns / 1e9, (double)o->heartbeat_ns / 1e9);
    if (!o->data[0]) return fs_fail(detail, FS_INVALID, "--data: no file name");
    return FS_OK;
}
