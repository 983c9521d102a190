/* tests/unit/common/fabric/node_helper.h: a fabric with counters, and running a loop until something is so. */
#ifndef FS_TESTS_NODE_HELPER_H
#define FS_TESTS_NODE_HELPER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fabric/fabric.h"

enum { NODE_MAX_KEPT = 256 };

typedef struct node node;
struct node {
    fs_fabric_options options;
    fs_fabric *fabric;
    fs_peer *peer; /* the last that came up */
    char address[128], peer_name[64], text[256];
    uint32_t ups, downs, messages, writable;
    uint64_t bytes;
    fs_status why;
    uint64_t next; /* the number that the next message must start with (node_send writes it) */
    bool in_order, closed;
    bool echo, keep;
    uint32_t num_kept;
    fs_kept *kept[NODE_MAX_KEPT];
    void (*on_message)(node *n, uint16_t type, const uint8_t *data,
                       size_t size); /* after the counting; may be NULL */
};

/* Options with the key, name and shorter times; the test may change them before node_start. */
void node_init(node *n, const char *name);
void node_start(node *n, uv_loop_t *loop);
void node_listen(node *n, const char *address);
void node_connect(node *n, const char *address);
/* Sends size bytes (at least 8): a number and a pattern that follows from it. */
fs_status node_send(node *n, uint64_t number, size_t size);
fs_status node_send_owned(node *n, uint64_t number, size_t size);
/* Closes, runs the loop until it is down. */
void node_stop(node *n, uv_loop_t *loop);

/* Runs the loop until the condition holds; fails the test after a minute, so that a hang is a failure with a line. */
#define RUN_UNTIL(loop, cond)                                                                                \
    do {                                                                                                     \
        int64_t limit_ = node_now() + 60 * 1000000000LL;                                                     \
        while (!(cond)) {                                                                                    \
            if (node_now() > limit_) fail_msg("never: %s", #cond);                                           \
            node_step(loop);                                                                                 \
        }                                                                                                    \
    } while (0)
int64_t node_now(void);
void node_step(uv_loop_t *loop); /* one turn, at most some milliseconds */
void node_run_for(uv_loop_t *loop, int64_t ns);

#endif
