/* common/base/process.h: what every process does with its surroundings: the cluster key, its ready line, the parent. */
#ifndef FS_BASE_PROCESS_H
#define FS_BASE_PROCESS_H

#include "base/status.h"

#define FS_CLUSTER_KEY_BYTES 32u

/* The key that all members of a cluster share: 64 hexadecimal digits, from a file (whose mode must keep others out) or, if path is NULL, from hex (an
 * environment's or configuration's text). FS_INVALID: neither or both given, not 64 digits, file readable by others; FS_NOT_FOUND, FS_IO. */
FS_MUST_USE fs_status fs_cluster_key_load(const char *hex, const char *path, uint8_t key[FS_CLUSTER_KEY_BYTES],
                                          fs_detail *detail);

/* From now on this process gets SIGTERM when its parent dies; if the parent is gone already, at once. `foresight serve` starts its children so.
 * Thread: main. */
void fs_process_die_with_parent(void);

/* Prints "ready KEY=VALUE" on standard output, flushed: what whoever started the process waits for. */
void fs_process_ready(const char *key, const char *value);

/* A random 64-bit number from the system: instance ids, nonces of no secrecy. */
uint64_t fs_process_random(void);

#endif
