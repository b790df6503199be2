/* What this machine lets the process use: cores by affinity and cgroup quota, memory by what is
 * free and by the cgroup's limit. Linux; reads /proc and /sys. Main thread at start.
 *
 * `root` is put before every path: "" for the machine itself, a folder with made-up files for
 * tests. */
#ifndef WINNOW_ENGINE_COMPUTE_MACHINE_H
#define WINNOW_ENGINE_COMPUTE_MACHINE_H

#include <stdint.h>

/* Physical cores among the CPUs that the process may run on, at most the whole CPUs of its quota.
 * At least 1. */
uint32_t machine_cores(const char *root);

/* Bytes that can be allocated without swapping: MemAvailable, or what is left below the cgroup's
 * limit (page cache counts as left) where that is less. 0 when nothing can be found out. */
uint64_t machine_available_bytes(const char *root);

#endif
