/* Memory of packed weights: pieces do not overlap, are zero, and go back to the system with the
 * last. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/cpu/weight_memory.h"
#include "tests/suite.h"

static long resident_kib(void)
{
    char line[256];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && kib < 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %ld", &kib) != 1)
            kib = -1;
    if (f)
        fclose(f);
    return kib;
}

START_TEST(pieces_are_zero_aligned_and_apart)
{
    enum { N = 200 };
    struct weight_memory m = {0};
    struct error e;
    uint8_t *at[N];
    size_t bytes[N];
    for (int i = 0; i < N; i++) {
        bytes[i] = 1 + (size_t)i * 9973 % 100000;
        at[i] = weight_memory_take(&m, bytes[i], &e);
        ck_assert_ptr_nonnull(at[i]);
        ck_assert_uint_eq((uintptr_t)at[i] % 64, 0);
        uint8_t any = 0;
        for (size_t k = 0; k < bytes[i]; k++)
            any |= at[i][k];
        ck_assert_uint_eq(any, 0);
        memset(at[i], i, bytes[i]);
    }
    for (int i = 0; i < N; i++) {
        ck_assert_uint_eq(at[i][0], (uint8_t)i);
        ck_assert_uint_eq(at[i][bytes[i] - 1], (uint8_t)i);
    }
    for (int i = 0; i < N; i++) {
        ck_assert(!SLIST_EMPTY(&m.chunks));
        weight_memory_give(&m, at[(i * 7) % N]);
    }
    ck_assert(SLIST_EMPTY(&m.chunks));
}
END_TEST

/* A matrix that no chunk holds has one of its own; what nobody wrote to takes no memory. */
START_TEST(large_pieces_cost_what_is_written)
{
    struct weight_memory m = {0};
    struct error e;
    const size_t large = (size_t)1 << 30, small = 1000;
    long before = resident_kib();
    uint8_t *one = weight_memory_take(&m, small, &e), *two = weight_memory_take(&m, large, &e),
            *three = weight_memory_take(&m, small, &e);
    ck_assert(one && two && three);
    ck_assert(one + small <= two || two + large <= one);
    ck_assert(three + small <= two || two + large <= three);
    memset(two, 1, (size_t)64 << 20);
    two[large - 1] = 1;
    ck_assert_int_lt(resident_kib() - before, 80 << 10);
    weight_memory_give(&m, two);
    weight_memory_give(&m, three); /* it may lie behind the large one */
    ck_assert_int_lt(resident_kib() - before, 8 << 10);
    weight_memory_give(&m, one);
    ck_assert(SLIST_EMPTY(&m.chunks));
}
END_TEST

/* More than any machine has: an error that says how much, and nothing is left behind. */
START_TEST(what_no_machine_has_is_refused)
{
    struct weight_memory m = {0};
    struct error e = {0};
    ck_assert_ptr_null(weight_memory_take(&m, (size_t)1 << 50, &e));
    ck_assert_str_eq(e.code, "out_of_memory");
    ck_assert(SLIST_EMPTY(&m.chunks));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("weight memory");
    TCase *t = suite_case(s, "weight memory", 60);
    tcase_add_test(t, pieces_are_zero_aligned_and_apart);
    tcase_add_test(t, large_pieces_cost_what_is_written);
    tcase_add_test(t, what_no_machine_has_is_refused);
    return suite_run(s);
}
