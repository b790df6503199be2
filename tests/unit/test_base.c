/* The helpers of config/base: the clock. */
#include <stdint.h>

#include "config/base/clock.h"
#include "tests/suite.h"

START_TEST(the_clock_never_goes_back)
{
    uint64_t last = clock_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = clock_ns();
        ck_assert_uint_ge(now, last);
        last = now;
    }
    double seconds = clock_seconds();
    ck_assert_double_ge_tol(seconds, (double)last * 1e-9, 1e-6);
    ck_assert_double_le(seconds, (double)clock_ns() * 1e-9);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base");
    TCase *t = suite_case(suite, "base", 60);
    tcase_add_test(t, the_clock_never_goes_back);
    return suite_run(suite);
}
