/* expert_node/cache/optimum.h: what the best of all policies would have done, when the whole future is known: for replay.
 * Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966. */
#ifndef FS_CACHE_OPTIMUM_H
#define FS_CACHE_OPTIMUM_H

#include "base/status.h"

typedef struct {
    uint64_t hits, misses, loaded_bytes;
} fs_cache_optimum;

/* The accesses in order, each of a key below num_keys; every access needs its key in memory. Lets go what is used furthest in the future:
 * with keys of one size no policy that loads on demand has more hits (with several sizes it is a good one, not surely the best).
 *   access [num_accesses]; key_bytes [num_keys], each at most budget_bytes (else FS_INVALID). FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_cache_optimum_run(const uint32_t *access, size_t num_accesses,
                                           const uint64_t *key_bytes, uint32_t num_keys,
                                           uint64_t budget_bytes, fs_cache_optimum *out);

#endif
