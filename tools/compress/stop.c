/* tools/compress/stop.c: that the user asked to stop. */
#include <signal.h>

#include "compress.h"

static volatile sig_atomic_t stopped;

bool fs_compress_stopped(void)
{
    return stopped != 0;
}

void fs_compress_stop(void)
{
    stopped = 1;
}
