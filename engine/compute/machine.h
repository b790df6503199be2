/* What the process may use of this machine: cores within affinity and cgroup quota, memory that is
 * free and within the cgroup's limit. Linux; reads /proc and /sys. Any thread.
 *
 * `root` is put before every path: "" for the machine itself, a folder of made-up files in
 * tests. */
#ifndef WINNOW_ENGINE_COMPUTE_MACHINE_H
#define WINNOW_ENGINE_COMPUTE_MACHINE_H

#include <stdint.h>

/* Physical cores among the CPUs that the process may run on, at most its quota rounded down; at
 * least 1. */
uint32_t machine_cores(const char *root);

/* Bytes that can be allocated without swapping: the lesser of MemAvailable and what the cgroup's
 * limit leaves, not counting page cache as used. 0 = unknown. */
uint64_t machine_available_bytes(const char *root);

#endif
