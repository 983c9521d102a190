/* tests/unit/common/numa/numa_test.c: threads are bound where there are several nodes, and nothing happens where there is one.
 * Two nodes are two CPUs of this machine that hwloc is told are a node each: binding to them is real, memory is all on one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "numa/numa_int.h"

static cpu_set_t own_cpus(void)
{
    cpu_set_t set;
    assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof set, &set), 0);
    return set;
}

/* Of the calling thread; -1: the kernel does not say. */
static int own_policy(void)
{
    int policy;
    return syscall(SYS_get_mempolicy, &policy, NULL, 0UL, NULL, 0UL) == 0 ? policy : -1;
}

static hwloc_topology_t topology_of(const char *description, unsigned long flags)
{
    hwloc_topology_t topology;
    assert_int_equal(hwloc_topology_init(&topology), 0);
    assert_int_equal(hwloc_topology_set_synthetic(topology, description), 0);
    assert_int_equal(hwloc_topology_set_flags(topology, flags), 0);
    assert_int_equal(hwloc_topology_load(topology), 0);
    return topology;
}

/* Two nodes of one CPU each, both of which this process may use; false: it has only one. */
static bool two_cpus(int cpu[2], hwloc_topology_t *out)
{
    cpu_set_t set = own_cpus();
    int found = 0;
    for (int i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET(i, &set)) cpu[found++] = i;
    if (found < 2) return false;
    char description[80];
    snprintf(description, sizeof description, "node:2 pu:1(indexes=%d,%d)", cpu[0], cpu[1]);
    *out = topology_of(description, HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM);
    return true;
}

typedef struct {
    fs_numa *numa;
    uint32_t index;
    cpu_set_t cpus;
    int policy, child_policy;
} bound;

static void *bind_main(void *arg)
{
    bound *b = arg;
    fs_numa_hook(b->numa).on_start(b->numa, b->index);
    b->cpus = own_cpus();
    b->policy = own_policy();
    return NULL;
}

static void each_thread_stays_on_its_node(void **state)
{
    int cpu[2];
    hwloc_topology_t topology;
    if (!two_cpus(cpu, &topology)) skip();
    fs_numa *numa = fs_numa_create_for(topology, 4);
    assert_non_null(numa);
    for (uint32_t i = 0; i < 4; i++) {
        bound b = {.numa = numa, .index = i};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, bind_main, &b), 0);
        pthread_join(thread, NULL);
        assert_int_equal(CPU_COUNT(&b.cpus), 1);
        assert_true(CPU_ISSET(cpu[i / 2], &b.cpus));
    }
    fs_numa_destroy(numa);
}

static void *interleave_main(void *arg)
{
    bound *b = arg;
    fs_numa_interleave_thread(b->numa);
    b->policy = own_policy();
    bound child = {.numa = b->numa, .index = 0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, bind_main, &child), 0);
    pthread_join(thread, NULL);
    b->child_policy = child.policy;
    return NULL;
}

static void a_bound_thread_does_not_keep_the_interleaving_that_it_inherits(void **state)
{
    int cpu[2];
    hwloc_topology_t topology;
    if (own_policy() != MPOL_DEFAULT || !two_cpus(cpu, &topology)) skip();
    bound b = {.numa = fs_numa_create_for(topology, 2)};
    pthread_t thread;
    assert_non_null(b.numa);
    assert_int_equal(pthread_create(&thread, NULL, interleave_main, &b), 0);
    pthread_join(thread, NULL);
    assert_true(b.policy == MPOL_INTERLEAVE || b.policy == MPOL_DEFAULT); /* a container may refuse it */
    assert_int_equal(b.child_policy, MPOL_DEFAULT);
    fs_numa_destroy(b.numa);
}

static void interleaved_memory_is_as_it_was_to_the_program(void **state)
{
    int cpu[2];
    hwloc_topology_t topology;
    if (!two_cpus(cpu, &topology)) skip();
    fs_numa *numa = fs_numa_create_for(topology, 2);
    size_t bytes = 1 << 20;
    uint8_t *data = malloc(bytes);
    assert_non_null(data);
    data[0] = 1;
    data[bytes - 1] = 2;
    fs_numa_interleave(numa, data + 100, bytes - 200); /* not whole pages */
    fs_numa_interleave(numa, data, 0);
    assert_int_equal(data[0], 1);
    assert_int_equal(data[bytes - 1], 2);
    memset(data, 3, bytes);
    free(data);
    fs_numa_destroy(numa);
}

static void what_is_refused_is_passed_over(void **state)
{
    cpu_set_t before = own_cpus();
    /* CPUs that this machine does not have. */
    fs_numa *numa = fs_numa_create_for(
        topology_of("node:2 pu:1(indexes=4090,4091)", HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM), 2);
    assert_non_null(numa);
    fs_numa_bind_thread(numa, 1);
    fs_numa_bind_thread(numa, 0);
    cpu_set_t after = own_cpus();
    assert_true(CPU_EQUAL(&before, &after));
    fs_numa_destroy(numa);
}

static void there_is_nothing_to_do_with_one_node_or_fewer_threads_than_nodes(void **state)
{
    assert_null(fs_numa_create_for(topology_of("node:1 core:4 pu:2", 0), 8));
    assert_null(fs_numa_create_for(topology_of("node:4 pu:2", 0), 3));
    fs_numa *numa = fs_numa_create_for(topology_of("node:4 pu:2", 0), 4);
    assert_non_null(numa);
    fs_numa_destroy(numa);
}

static void without_a_plan_nothing_changes(void **state)
{
    cpu_set_t before = own_cpus();
    int policy = own_policy();
    uint8_t byte = 7;
    fs_numa_bind_thread(NULL, 5);
    fs_numa_interleave_thread(NULL);
    fs_numa_interleave(NULL, &byte, 1);
    assert_null(fs_numa_hook(NULL).on_start);
    fs_numa_destroy(NULL);
    cpu_set_t after = own_cpus();
    assert_true(CPU_EQUAL(&before, &after));
    assert_int_equal(own_policy(), policy);
}

static void write_file(const char *root, const char *text, const char *format, int number)
{
    char path[256], name[128];
    snprintf(name, sizeof name, format, number);
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* What Linux says of a machine of two packages, each a node, with one CPU each. */
static void write_machine(const char *root, const int cpu[2])
{
    char text[64];
    snprintf(text, sizeof text, "%d,%d\n", cpu[0], cpu[1]);
    write_file(root, text, "sys/devices/system/cpu/online", 0);
    write_file(root, text, "sys/devices/system/cpu/possible", 0);
    write_file(root, "0-1\n", "sys/devices/system/node/online", 0);
    write_file(root, "", "proc/cpuinfo", 0);
    write_file(root, "MemTotal: 16000000 kB\n", "proc/meminfo", 0);
    for (int i = 0; i < 2; i++) {
        snprintf(text, sizeof text, "Node %d MemTotal: 8000000 kB\n", i);
        write_file(root, text, "sys/devices/system/node/node%d/meminfo", i);
        write_file(root, i ? "20 10\n" : "10 20\n", "sys/devices/system/node/node%d/distance", i);
        snprintf(text, sizeof text, "%08x\n", 1u << cpu[i]);
        write_file(root, text, "sys/devices/system/node/node%d/cpumap", i);
        write_file(root, text, "sys/devices/system/cpu/cpu%d/topology/core_cpus", cpu[i]);
        write_file(root, text, "sys/devices/system/cpu/cpu%d/topology/package_cpus", cpu[i]);
        write_file(root, "0\n", "sys/devices/system/cpu/cpu%d/topology/core_id", cpu[i]);
        write_file(root, i ? "1\n" : "0\n", "sys/devices/system/cpu/cpu%d/topology/physical_package_id",
                   cpu[i]);
    }
}

static void a_linux_machine_of_two_nodes_is_read_as_two(void **state)
{
    cpu_set_t set = own_cpus();
    int cpu[2], found = 0;
    for (int i = 0; i < 32 && found < 2; i++)
        if (CPU_ISSET(i, &set)) cpu[found++] = i;
    if (found < 2) skip();
    char root[] = "/tmp/foresight-numa-XXXXXX", command[64];
    assert_non_null(mkdtemp(root));
    write_machine(root, cpu);
    setenv("HWLOC_FSROOT", root, 1);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    hwloc_topology_t topology = fs_numa_load_topology();
    unsetenv("HWLOC_FSROOT");
    unsetenv("HWLOC_THISSYSTEM");
    snprintf(command, sizeof command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
    assert_non_null(topology);
    fs_numa_plan plan;
    assert_int_equal(fs_numa_plan_init(&plan, topology, 4), FS_OK);
    assert_int_equal(plan.num_nodes, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(plan.node[i].os_index, i);
        assert_int_equal(plan.node[i].num_threads, 2);
        assert_int_equal(plan.node[i].num_cpus, 1);
        assert_int_equal(hwloc_bitmap_first(plan.node[i].cpus), cpu[i]);
    }
    fs_numa_plan_fini(&plan);
    hwloc_topology_destroy(topology);
}

/* CPUs of all nodes of this machine. */
static int cpus_of_plan(uint32_t *num_nodes)
{
    fs_numa_plan plan;
    hwloc_topology_t topology = fs_numa_load_topology();
    assert_non_null(topology);
    assert_int_equal(fs_numa_plan_init(&plan, topology, 64), FS_OK);
    int cpus = 0;
    for (uint32_t i = 0; i < plan.num_nodes; i++) cpus += (int)plan.node[i].num_cpus;
    *num_nodes = plan.num_nodes;
    fs_numa_plan_fini(&plan);
    hwloc_topology_destroy(topology);
    return cpus;
}

/* Whatever it is: asking changes nothing, and with one node there is no plan. */
static void this_machine_is_read_without_changing_the_caller(void **state)
{
    cpu_set_t before = own_cpus();
    uint32_t num_nodes;
    assert_int_equal(cpus_of_plan(&num_nodes), CPU_COUNT(&before));
    fs_numa *numa = fs_numa_create(64);
    cpu_set_t after = own_cpus();
    assert_true(CPU_EQUAL(&before, &after));
    assert_int_equal(numa != NULL, num_nodes > 1);
    fs_numa_destroy(numa);
}

/* Every thread: a sanitizer has one of its own. */
static void keep_process_on(const cpu_set_t *cpus)
{
    DIR *tasks = opendir("/proc/self/task");
    assert_non_null(tasks);
    for (const struct dirent *entry; (entry = readdir(tasks));)
        if (entry->d_name[0] != '.')
            assert_int_equal(sched_setaffinity((pid_t)atoi(entry->d_name), sizeof *cpus, cpus), 0);
    closedir(tasks);
}

static void a_process_kept_on_one_cpu_has_one_node(void **state)
{
    cpu_set_t all = own_cpus(), one;
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all)) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    keep_process_on(&one);
    uint32_t num_nodes;
    assert_int_equal(cpus_of_plan(&num_nodes), 1);
    assert_int_equal(num_nodes, 1);
    assert_null(fs_numa_create(64));
    keep_process_on(&all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_thread_stays_on_its_node),
        cmocka_unit_test(a_bound_thread_does_not_keep_the_interleaving_that_it_inherits),
        cmocka_unit_test(interleaved_memory_is_as_it_was_to_the_program),
        cmocka_unit_test(what_is_refused_is_passed_over),
        cmocka_unit_test(there_is_nothing_to_do_with_one_node_or_fewer_threads_than_nodes),
        cmocka_unit_test(without_a_plan_nothing_changes),
        cmocka_unit_test(a_linux_machine_of_two_nodes_is_read_as_two),
        cmocka_unit_test(this_machine_is_read_without_changing_the_caller),
        cmocka_unit_test(a_process_kept_on_one_cpu_has_one_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
