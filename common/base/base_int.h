/* common/base/base_int.h: what only this folder and its tests use. */
#ifndef FS_BASE_INT_H
#define FS_BASE_INT_H

#include "base/status.h"

enum { FS_PATH_BYTES = 4096 };

/* The CPUs that the cgroup quotas (v2 and v1) leave to the process whose /proc/PID/cgroup is given; UINT32_MAX: no quota.
 * sys_root: "/sys/fs/cgroup". Never 0. */
uint32_t fs_cgroup_cpus(const char *proc_cgroup, const char *sys_root);

/* The bytes of the character at terminated text, and its code point; 0 if they are not well-formed UTF-8 (overlong, a
 * surrogate, cut). Never reads past the terminator. */
size_t fs_utf8_decode(const char *text, uint32_t *out);

#endif
