/* common/base/clock.c: the system's clock, and one that stands until it is moved. */
#include "base/clock.h"

#include <time.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * FS_NS_PER_S + t.tv_nsec;
}

static int64_t system_now(const fs_clock *clock)
{
    return read_clock(CLOCK_MONOTONIC);
}

static int64_t manual_now(const fs_clock *clock)
{
    return ((const fs_clock_manual *)clock)->at_ns; /* the clock is its first member */
}

const fs_clock *fs_clock_system(void)
{
    static const fs_clock clock = {system_now};
    return &clock;
}

void fs_clock_manual_init(fs_clock_manual *manual, int64_t at_ns)
{
    *manual = (fs_clock_manual){{manual_now}, at_ns};
}

int64_t fs_wall_time_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}
