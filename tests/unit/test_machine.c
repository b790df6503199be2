/* Cores and memory, from made-up /proc and /sys folders. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/compute/machine.h"
#include "tests/suite.h"

static char root[] = "/tmp/winnow-machine-XXXXXX";

static void write_file(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = strchr(full + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    fclose(file);
}

static void setup(void)
{
    ck_assert_ptr_nonnull(mkdtemp(strcpy(root, "/tmp/winnow-machine-XXXXXX")));
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(this_machine_has_a_core_and_memory)
{
    ck_assert_uint_ge(machine_cores(""), 1);
    ck_assert_uint_le(machine_cores(""), (uint32_t)sysconf(_SC_NPROCESSORS_CONF));
    ck_assert_uint_gt(machine_available_bytes(""), 1 << 20);
}
END_TEST

START_TEST(a_version_2_quota_limits_the_cores_at_every_level)
{
    uint32_t cores = machine_cores(root);
    write_file("/proc/self/cgroup", "0::/a/b\n");
    write_file("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    ck_assert_uint_eq(machine_cores(root), cores);
    write_file("/sys/fs/cgroup/a/cpu.max", "190000 100000\n");
    ck_assert_uint_eq(machine_cores(root), 1);
    write_file("/sys/fs/cgroup/a/cpu.max", "50000 100000\n"); /* half a CPU is still a thread */
    ck_assert_uint_eq(machine_cores(root), 1);
}
END_TEST

START_TEST(a_version_1_quota_limits_the_cores)
{
    uint32_t cores = machine_cores(root);
    write_file("/proc/self/cgroup", "5:cpuset:/\n4:cpu,cpuacct:/job\n3:memory:/job\n");
    write_file("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
    write_file("/sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
    ck_assert_uint_eq(machine_cores(root), cores);
    write_file("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "100000\n");
    ck_assert_uint_eq(machine_cores(root), 1);
}
END_TEST

START_TEST(threads_of_one_core_count_once)
{
    uint32_t before = machine_cores(root);
    for (long cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); cpu++) {
        char path[128];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%ld/topology/thread_siblings_list",
                 cpu);
        write_file(path, "0-4095\n");
    }
    ck_assert_uint_ge(before, 1);
    ck_assert_uint_eq(machine_cores(root), 1);
}
END_TEST

START_TEST(memory_is_the_least_of_what_is_free_and_every_limit)
{
    ck_assert_uint_eq(machine_available_bytes(root), 0);
    write_file("/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n");
    ck_assert_uint_eq(machine_available_bytes(root), 8000 * 1024);
    write_file("/proc/self/cgroup", "0::/a/b\n");
    write_file("/sys/fs/cgroup/a/memory.max", "5000000\n");
    write_file("/sys/fs/cgroup/a/memory.current", "2000000\n");
    write_file("/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 500000\n");
    ck_assert_uint_eq(machine_available_bytes(root), 3500000);
    write_file("/sys/fs/cgroup/a/b/memory.max", "1000\n");
    write_file("/sys/fs/cgroup/a/b/memory.current", "2000\n");
    ck_assert_uint_eq(machine_available_bytes(root), 0);
}
END_TEST

START_TEST(a_version_1_memory_limit_counts)
{
    write_file("/proc/meminfo", "MemAvailable:    8000 kB\n");
    write_file("/proc/self/cgroup", "3:memory:/job\n");
    write_file("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "3000\n");
    write_file("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1000\n");
    ck_assert_uint_eq(machine_available_bytes(root), 2000);
    write_file("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
    ck_assert_uint_eq(machine_available_bytes(root), 8000 * 1024);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("machine");
    TCase *t = suite_case(suite, "machine", 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, this_machine_has_a_core_and_memory);
    tcase_add_test(t, a_version_2_quota_limits_the_cores_at_every_level);
    tcase_add_test(t, a_version_1_quota_limits_the_cores);
    tcase_add_test(t, threads_of_one_core_count_once);
    tcase_add_test(t, memory_is_the_least_of_what_is_free_and_every_limit);
    tcase_add_test(t, a_version_1_memory_limit_counts);
    return suite_run(suite);
}
