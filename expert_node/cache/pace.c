/* expert_node/cache/pace.c: see pace.h. */
#include "cache/pace.h"

#define VISIT_UNKNOWN                                                                                        \
    (FS_NS_PER_MS) /* until two hints have come: the order of uses is right, whatever it is */
#define VISIT_LONG (200 * FS_NS_PER_MS) /* longer on average is idleness */

void fs_cache_pace_tell(fs_cache_pace *p, uint64_t position, int64_t now_ns)
{
    bool first = p->at_ns == 0 && p->position == 0;
    if (!first && position > p->position && now_ns > p->at_ns) {
        uint64_t visits = position - p->position;
        int64_t sample = (int64_t)((uint64_t)(now_ns - p->at_ns) / visits);
        if (sample > 0 && sample < VISIT_LONG)
            p->visit_ns = p->visit_ns ? (3 * p->visit_ns + sample) / 4 : sample;
    }
    p->position = position;
    p->at_ns = now_ns;
}

int64_t fs_cache_pace_when(const fs_cache_pace *p, uint32_t distance)
{
    return p->at_ns + (int64_t)distance * (p->visit_ns ? p->visit_ns : VISIT_UNKNOWN);
}
