/* expert_node/exec/share.c: see share.h. */
#include "exec/share.h"

uint32_t fs_exec_threads_for(fs_exec_load load)
{
    if (load.split_ns == 0 || load.waiting >= load.idle) return 1;
    uint64_t part = load.idle / (load.waiting + 1);
    uint64_t worth = load.rows * load.row_ns / load.split_ns;
    uint64_t threads = part < worth ? part : worth;
    return threads ? (uint32_t)threads : 1;
}
