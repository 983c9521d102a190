/* expert_node/exec/share.h: how many threads compute a batch. A core without input and output. */
#ifndef FS_EXEC_SHARE_H
#define FS_EXEC_SHARE_H

#include <stdint.h>

typedef struct {
    uint32_t rows;     /* of the batch */
    uint64_t row_ns;   /* what a row takes one thread, as measured lately; 0: not known */
    uint64_t split_ns; /* the least that each thread should have to do; 0: batches are not divided */
    uint32_t waiting;  /* batches that wait beside it */
    uint32_t idle;     /* threads, at least 1 */
} fs_exec_load;

/* One, unless threads would stay idle: then an even part of them, as far as there is work for each. Several batches side by side are
 * better than one after the other, each divided: nobody waits for anybody. At most `idle`. */
uint32_t fs_exec_threads_for(fs_exec_load load);

#endif
