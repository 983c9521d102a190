/* A server and a client in one loop, with methods that behave as their names say. */
#ifndef RIG_HELPER_H
#define RIG_HELPER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <uv.h>

#include "base/clock.h"
#include "rpc/rpc.h"

typedef struct {
    uv_loop_t loop;
    fs_rpc *rpc;
    fs_rpc_server *server;
    fs_rpc_channel *channel;
    char address[128];
    uv_timer_t timer;
    bool timed_out;

    /* what the server saw */
    uint32_t calls_begun, calls_ended, calls_cancelled;
    fs_status last_send;
    fs_rpc_call *held; /* by /t.T/Hold */
    char metadata[64];
    int64_t deadline_ns;
} rig;

/* What a client saw of one call. */
typedef struct {
    uint32_t messages, ends;
    size_t bytes, last_size;
    char last[64], text[256], trailer[64];
    fs_rpc_code code;
    uint32_t cancel_after; /* messages; 0: never */
} outcome;

int rig_setup(void **state);
int rig_teardown(void **state); /* closes what is open, and runs the loop until nothing is left in it */
void rig_serve(rig *r, const fs_rpc_server_options *options);
void rig_start(rig *r, const char *path, const char *message, size_t size, int64_t deadline_ns, outcome *o,
               fs_rpc_request **out);
/* Runs the loop until *value >= at_least, for 20 s at most. */
void rig_until(rig *r, const uint32_t *value, uint32_t at_least);
void rig_close(rig *r);
int64_t in_ms(int64_t ms);

#endif
