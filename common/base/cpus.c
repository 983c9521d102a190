/* common/base/cpus.c: how many CPUs this process may really use. A container with a quota of two cores on a machine of
 * 64 still sees 64 of them: threads for all would only take turns. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_int.h"
#include "base/worker.h"

static uint32_t affinity_cpus(void)
{
    for (int max = 1024; max <= 1 << 20; max *= 4) { /* the kernel's mask may be wider than cpu_set_t */
        cpu_set_t *set = CPU_ALLOC(max);
        if (!set) return 1;
        size_t size = CPU_ALLOC_SIZE(max);
        int rc = sched_getaffinity(0, size, set);
        int n = rc == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (rc == 0) return n > 0 ? (uint32_t)n : 1;
    }
    return 1;
}

/* The first numbers of a small file; how many there were. "max" is not a number. */
static int read_numbers(const char *path, long long *a, long long *b)
{
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    char text[64] = {0};
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    char *end, *end2;
    *a = strtoll(text, &end, 10);
    if (end == text) return 0;
    *b = strtoll(end, &end2, 10);
    return end2 == end ? 1 : 2;
}

static uint32_t cpus_of_quota(long long quota, long long period)
{
    if (quota <= 0 || period <= 0) return UINT32_MAX;
    long long n = quota / period + (quota % period != 0);
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static uint32_t limit_v2(const char *dir)
{
    char path[FS_PATH_BYTES + 32];
    long long quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    if (read_numbers(path, &quota, &period) != 2) return UINT32_MAX;
    return cpus_of_quota(quota, period);
}

static uint32_t limit_v1(const char *dir)
{
    char path[FS_PATH_BYTES + 32];
    long long quota, period, unused;
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
    if (read_numbers(path, &quota, &unused) < 1) return UINT32_MAX;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    if (read_numbers(path, &period, &unused) < 1) return UINT32_MAX;
    return cpus_of_quota(quota, period);
}

/* The smallest quota of the group and of all above it. In a container the path may name a place outside of its mount: what
 * is not there says nothing, and the mount's root is always asked. */
static uint32_t limit_upwards(const char *root, const char *group, uint32_t (*limit)(const char *dir))
{
    char dir[FS_PATH_BYTES];
    int n = snprintf(dir, sizeof dir, "%s%s", root, group);
    if (n < 0 || (size_t)n >= sizeof dir) return limit(root);
    uint32_t least = limit(root);
    for (char *slash; strlen(dir) > strlen(root); *slash = 0) {
        uint32_t here = limit(dir);
        if (here < least) least = here;
        slash = strrchr(dir, '/');
        if (!slash) break;
    }
    return least;
}

static bool has_word(const char *list, const char *word)
{
    size_t len = strlen(word);
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == len && strncmp(p, word, len) == 0) return true;
    return false;
}

uint32_t fs_cgroup_cpus(const char *proc_cgroup, const char *sys_root)
{
    uint32_t least = UINT32_MAX;
    FILE *file = fopen(proc_cgroup, "re");
    if (!file) return least;
    char line[FS_PATH_BYTES], root[FS_PATH_BYTES];
    while (fgets(line, sizeof line, file)) { /* "0::/group" (v2) or "4:cpu,cpuacct:/group" (v1) */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        controllers++;
        bool v2 = *controllers == 0;
        if (!v2 && !has_word(controllers, "cpu")) continue;
        int n = snprintf(root, sizeof root, "%s%s%s", sys_root, v2 ? "" : "/", controllers);
        if (n < 0 || (size_t)n >= sizeof root) continue;
        uint32_t limit = limit_upwards(root, group, v2 ? limit_v2 : limit_v1);
        if (limit < least) least = limit;
    }
    fclose(file);
    return least;
}

uint32_t fs_num_cpus(void)
{
    uint32_t cpus = affinity_cpus(), quota = fs_cgroup_cpus("/proc/self/cgroup", "/sys/fs/cgroup");
    return quota < cpus ? quota : cpus;
}
