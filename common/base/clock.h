/* common/base/clock.h: time as a parameter, so that tests and the simulator own it. */
#ifndef FS_BASE_CLOCK_H
#define FS_BASE_CLOCK_H

#include <stdint.h>

#define FS_NS_PER_MS 1000000LL
#define FS_NS_PER_S  1000000000LL
#define FS_NEVER     INT64_MAX /* as a deadline: none */

/* now_ns never goes back; its zero means nothing. */
typedef struct fs_clock {
    int64_t (*now_ns)(const struct fs_clock *clock);
} fs_clock;

static inline int64_t fs_clock_now(const fs_clock *clock)
{
    return clock->now_ns(clock);
}
/* CLOCK_MONOTONIC. Thread: any. */
const fs_clock *fs_clock_system(void);

/* A clock that stands until it is moved. */
typedef struct {
    fs_clock clock; /* first */
    int64_t at_ns;
} fs_clock_manual;
void fs_clock_manual_init(fs_clock_manual *manual, int64_t at_ns);

/* Nanoseconds since 1970, for logs and records only. */
int64_t fs_wall_time_ns(void);

#endif
