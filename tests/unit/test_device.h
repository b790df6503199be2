/* The backend that a test runs on: WINNOW_TEST_DEVICE is "cpu" (also when it is not set) or "cuda",
 * which is the emulated device or, built by `make test-cuda`, a real one. */
#ifndef WINNOW_TESTS_UNIT_TEST_DEVICE_H
#define WINNOW_TESTS_UNIT_TEST_DEVICE_H

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/devices.h"

static inline const char *test_device_name(void)
{
    const char *name = getenv("WINNOW_TEST_DEVICE");
    return name && *name ? name : "cpu";
}

static inline struct device test_device_of(const char *name)
{
    struct device device;
    struct error e = {.message = ""};
    ck_assert_msg(device_pick(&server_devices, name, &device, &e), "%s", e.message);
    return device;
}

static inline struct device test_device(void)
{
    return test_device_of(test_device_name());
}

static inline bool test_device_is_cpu(void)
{
    return strcmp(test_device_name(), "cuda") != 0;
}

/* For engine_options: where the default is all of a GPU's memory, some of it. On a card of 140 GB the
 * pool of a test's small model would have a hundred million pages, which the audit counts after
 * every step: half a second each. */
static inline uint64_t test_kv_memory(void)
{
    return test_device_is_cpu() ? 0 : UINT64_C(16) << 20;
}

/* Log-probabilities of the same thing by two ways: the same bits on the CPU. On a GPU rows of a
 * prompt and of a decode step go through other kernels, whose sums have another order, and a key
 * may then be rounded to the other f16. Measured: up to 0.002. */
static inline bool test_same_logprob(float a, float b)
{
    return test_device_is_cpu() ? a == b : fabsf(a - b) <= 0.02f;
}

/* Emulation is slow: WINNOW_TEST_PART=n runs every nth case of a loop of tests (and says so), for a
 * run that is a sample. 1 without it: everything. */
static inline int test_part(void)
{
    const char *text = getenv("WINNOW_TEST_PART");
    int n = text ? atoi(text) : 1;
    return n > 1 ? n : 1;
}
#define add_part_of_loop_test(t, test, first, end)                                                 \
    do {                                                                                           \
        for (int part_i = (first); part_i < (int)(end); part_i += test_part())                     \
            tcase_add_loop_test(t, test, part_i, part_i + 1);                                      \
        if (test_part() > 1)                                                                       \
            printf("a part: of %s every %dth of %d cases\n", #test, test_part(),                   \
                   (int)(end) - (first));                                                          \
    } while (0)

static inline void test_device_open(struct backend *b, const struct model *m, const char *isa,
                                    uint32_t n_threads, uint32_t max_rows, uint32_t max_slots)
{
    const struct device_options o = {.n_threads = n_threads,
                                     .isa = isa,
                                     .max_rows = max_rows,
                                     .max_logits = max_rows,
                                     .max_slots = max_slots};
    struct error e = {.message = ""};
    ck_assert_msg(device_open(b, test_device().kind, &o, m, &e), "%s", e.message);
}

#endif
