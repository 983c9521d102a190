/* tests/unit/common/base/cpus_test.c: how cgroup quotas are read, on made-up trees of files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_int.h"
#include "base/worker.h"

static char root[64];

static int setup(void **state)
{
    strcpy(root, "/tmp/fs-cpus-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static const char *at(const char *path)
{
    static char full[256];
    snprintf(full, sizeof full, "%s/%s", root, path);
    return full;
}

static void put(const char *path, const char *text)
{
    char full[256];
    snprintf(full, sizeof full, "%s", at(path));
    for (char *p = strchr(full + strlen(root) + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        mkdir(full, 0700);
        *p = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static uint32_t cpus(void)
{
    char proc[256];
    snprintf(proc, sizeof proc, "%s", at("cgroup"));
    return fs_cgroup_cpus(proc, at("sys"));
}

static void no_file_or_no_quota_is_no_limit(void **state)
{
    assert_int_equal(cpus(), UINT32_MAX);
    put("cgroup", "0::/a/b\n");
    assert_int_equal(cpus(), UINT32_MAX);
    put("sys/a/b/cpu.max", "max 100000\n");
    assert_int_equal(cpus(), UINT32_MAX);
}

static void a_part_of_a_cpu_counts_as_one(void **state)
{
    put("cgroup", "0::/\n");
    put("sys/cpu.max", "50000 100000\n");
    assert_int_equal(cpus(), 1);
    put("sys/cpu.max", "250000 100000\n");
    assert_int_equal(cpus(), 3);
}

static void the_least_quota_on_the_way_up_counts(void **state)
{
    put("cgroup", "0::/a/b/c\n");
    put("sys/a/b/c/cpu.max", "800000 100000\n");
    put("sys/a/cpu.max", "200000 100000\n");
    put("sys/cpu.max", "1600000 100000\n");
    assert_int_equal(cpus(), 2);
}

static void version_1_is_read_under_its_controller(void **state)
{
    put("cgroup", "5:memory:/x\n4:cpu,cpuacct:/x\nnonsense\n");
    put("sys/cpu,cpuacct/x/cpu.cfs_quota_us", "300000\n");
    put("sys/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cpus(), 3);
    put("sys/cpu,cpuacct/x/cpu.cfs_quota_us", "-1\n");
    assert_int_equal(cpus(), UINT32_MAX);
    put("sys/cpu,cpuacct/cpu.cfs_quota_us", "400000\n"); /* the mount's root, as containers see it */
    put("sys/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cpus(), 4);
}

static void nonsense_in_quota_files_is_no_limit(void **state)
{
    static const char *const texts[] = {
        "", "\n", "x y", "0 0", "-5 100000", "100000", "99999999999999999999999 0"};
    put("cgroup", "0::/\n");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put("sys/cpu.max", texts[i]);
        assert_int_equal(cpus(), UINT32_MAX);
    }
}

static void this_process_has_at_least_one_cpu(void **state)
{
    assert_true(fs_num_cpus() >= 1);
    assert_true(fs_num_cpus() <= (uint32_t)sysconf(_SC_NPROCESSORS_ONLN));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(no_file_or_no_quota_is_no_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_part_of_a_cpu_counts_as_one, setup, teardown),
        cmocka_unit_test_setup_teardown(the_least_quota_on_the_way_up_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(version_1_is_read_under_its_controller, setup, teardown),
        cmocka_unit_test_setup_teardown(nonsense_in_quota_files_is_no_limit, setup, teardown),
        cmocka_unit_test(this_process_has_at_least_one_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
