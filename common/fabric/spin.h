/* common/fabric/spin.h: whether to wait by polling or asleep, as a core without input or output. Polling saves a wake-up when the answer is
 * near and the peer has a core of its own; else it takes the very core that the peer needs. So it is tried again more rarely after each
 * failure. */
#ifndef FS_FABRIC_SPIN_H
#define FS_FABRIC_SPIN_H

#include "base/status.h"

enum { FS_SPIN_MAX_SKIP = 16 }; /* waits between two attempts, at most */

typedef struct {
    int64_t spin_ns;  /* an attempt lasts so long; 0: none are made */
    int64_t since_ns; /* when something last happened */
    uint32_t skip,
        left; /* waits to be slept through after the last failure, and those of them still to come */
    bool waiting, polling;
} fs_spin;

void fs_spin_init(fs_spin *spin, int64_t spin_ns);
/* Something happened: it ends the wait. */
void fs_spin_active(fs_spin *spin, int64_t now_ns);
/* Nothing did. true: look again at once; false: sleep. */
bool fs_spin_idle(fs_spin *spin, int64_t now_ns);

#endif
