/* Cores and memory of the machine: see machine.h. */
#include "engine/compute/machine.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PATH_BYTES 1024

/* Reads the beginning of a small file. */
static bool read_text(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t n = fread(text, 1, size - 1, file);
    fclose(file);
    text[n] = 0;
    return n > 0;
}

static bool read_number(const char *path, uint64_t *out)
{
    char text[64];
    if (!read_text(path, text, sizeof text) || text[0] < '0' || text[0] > '9')
        return false; /* "max", "-1": no limit */
    *out = strtoull(text, NULL, 10);
    return true;
}

/* The number after "key" at the start of a line. */
static bool find_number(const char *text, const char *key, uint64_t *out)
{
    size_t length = strlen(key);
    for (const char *line = text; *line;) {
        if (strncmp(line, key, length) == 0) {
            *out = strtoull(line + length, NULL, 10);
            return true;
        }
        line = strchrnul(line, '\n');
        line += *line == '\n';
    }
    return false;
}

/* This process's path in a cgroup hierarchy: version 2 if controller is NULL, else the version 1
 * hierarchy of that controller. "" is the top. */
static bool cgroup_path(const char *root, const char *controller, char *out, size_t size)
{
    char path[MAX_PATH_BYTES], text[4096];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    if (!read_text(path, text, sizeof text))
        return false;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        char *names = strchr(line, ':');
        char *where = names ? strchr(names + 1, ':') : NULL;
        if (!where)
            continue;
        *where++ = 0;
        bool ours = controller ? false : names[1] == 0;
        char *list = names + 1;
        for (char *name; controller && (name = strsep(&list, ","));)
            ours |= strcmp(name, controller) == 0;
        if (!ours)
            continue;
        snprintf(out, size, "%s", strcmp(where, "/") == 0 ? "" : where);
        return true;
    }
    return false;
}

/* Calls visit for the folder of this process's cgroup and all above it, because limits apply at
 * every level. In a container some of these folders may not exist; visit then finds nothing. */
static void cgroup_walk(const char *root, const char *controller,
                        void (*visit)(const char *folder, void *context), void *context)
{
    char inner[MAX_PATH_BYTES / 2], folder[MAX_PATH_BYTES];
    if (!cgroup_path(root, controller, inner, sizeof inner))
        return;
    for (;;) {
        snprintf(folder, sizeof folder, "%.256s/sys/fs/cgroup%s%s%s", root, controller ? "/" : "",
                 controller ? controller : "", inner);
        visit(folder, context);
        char *slash = strrchr(inner, '/');
        if (!slash)
            return;
        *slash = 0;
    }
}

static void lower_to(double *limit, double value)
{
    if (value > 0 && value < *limit)
        *limit = value;
}

static void visit_quota(const char *folder, void *context)
{
    char path[MAX_PATH_BYTES + 32], text[64];
    uint64_t quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (read_text(path, text, sizeof text)) {
        char *end;
        quota = strtoull(text, &end, 10); /* "max 100000" gives 0 */
        period = strtoull(end, NULL, 10);
        if (end != text && period > 0)
            lower_to(context, (double)quota / (double)period);
        return;
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_number(path, &quota))
        return;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (read_number(path, &period) && period > 0)
        lower_to(context, (double)quota / (double)period);
}

/* Counts cores by their lists of hardware threads: all threads of a core have the same list. */
static uint32_t physical_cores(const char *root)
{
    enum { MAX_CPUS = 4096 };
    cpu_set_t *allowed = CPU_ALLOC(MAX_CPUS);
    if (!allowed)
        return 1;
    uint32_t n = 0;
    size_t size = CPU_ALLOC_SIZE(MAX_CPUS);
    if (sched_getaffinity(0, size, allowed) != 0) {
        CPU_FREE(allowed);
        return 1;
    }
    for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
        if (!CPU_ISSET_S((size_t)cpu, size, allowed))
            continue;
        char path[MAX_PATH_BYTES], text[256];
        snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 root, cpu);
        /* A thread counts when no allowed sibling has a lower number: "0,4", "0-1". */
        bool first = true;
        if (read_text(path, text, sizeof text)) {
            for (char *at = text; *at >= '0' && *at <= '9';) {
                long from = strtol(at, &at, 10), to = from;
                if (*at == '-')
                    to = strtol(at + 1, &at, 10);
                for (long s = from; s <= to && s < cpu; s++)
                    first &= !CPU_ISSET_S((size_t)s, size, allowed);
                if (*at == ',')
                    at++;
            }
        }
        n += first;
    }
    CPU_FREE(allowed);
    return n ? n : 1;
}

uint32_t machine_cores(const char *root)
{
    double quota = 1e9;
    cgroup_walk(root, NULL, visit_quota, &quota);
    cgroup_walk(root, "cpu", visit_quota, &quota);
    uint32_t cores = physical_cores(root);
    /* Rounded down: at a barrier all threads wait for one that the quota has stopped. */
    uint32_t most = quota < 1 ? 1 : quota > 1e6 ? UINT32_MAX : (uint32_t)quota;
    return cores < most ? cores : most;
}

static void lower_to_left(double *left, uint64_t limit, uint64_t used, uint64_t reclaimable)
{
    used -= reclaimable < used ? reclaimable : used;
    double here = limit > used ? (double)(limit - used) : 0;
    if (here < *left)
        *left = here;
}

static void visit_memory(const char *folder, void *context)
{
    char path[MAX_PATH_BYTES + 32], stat[8192];
    uint64_t limit, used = 0, reclaimable = 0;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    bool has_stat = read_text(path, stat, sizeof stat);
    snprintf(path, sizeof path, "%s/memory.max", folder);
    if (read_number(path, &limit)) {
        snprintf(path, sizeof path, "%s/memory.current", folder);
        read_number(path, &used);
        if (has_stat)
            find_number(stat, "inactive_file ", &reclaimable);
        lower_to_left(context, limit, used, reclaimable);
        return;
    }
    snprintf(path, sizeof path, "%s/memory.limit_in_bytes", folder);
    if (!read_number(path, &limit))
        return;
    snprintf(path, sizeof path, "%s/memory.usage_in_bytes", folder);
    read_number(path, &used);
    if (has_stat)
        find_number(stat, "total_inactive_file ", &reclaimable);
    lower_to_left(context, limit, used, reclaimable);
}

uint64_t machine_available_bytes(const char *root)
{
    const double unknown = 1e30;
    double left = unknown;
    char path[MAX_PATH_BYTES], text[8192];
    uint64_t kib;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_text(path, text, sizeof text) && find_number(text, "MemAvailable:", &kib))
        left = (double)kib * 1024;
    cgroup_walk(root, NULL, visit_memory, &left);
    cgroup_walk(root, "memory", visit_memory, &left);
    // cppcheck-suppress floatConversionOverflow ; the comparison keeps 1e30 out
    return left < unknown ? (uint64_t)left : 0;
}
