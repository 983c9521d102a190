/* tools/compress/stop.c: that the user asked to stop. */
#include <stdatomic.h>

#include "compress.h"

/* The signal comes to any thread: a lock-free atomic is what both a handler and other threads may touch. */
static atomic_bool stopped;
_Static_assert(ATOMIC_BOOL_LOCK_FREE == 2, "a signal handler sets it");

bool fs_compress_stopped(void)
{
    return atomic_load_explicit(&stopped, memory_order_relaxed);
}

void fs_compress_stop(void)
{
    atomic_store_explicit(&stopped, true, memory_order_relaxed);
}
