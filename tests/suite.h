/* The main function of a test program with Check, in C and C++: one suite, its cases, and an exit
 * status for tests/run.sh. */
#ifndef WINNOW_TESTS_SUITE_H
#define WINNOW_TESTS_SUITE_H

#include <check.h>

/* A new case of the suite, which owns it. Each of its tests may take timeout_s: long enough for
 * sanitizers on a loaded machine, where a test that normally takes seconds takes minutes. */
static inline TCase *suite_case(Suite *suite, const char *name, double timeout_s)
{
    TCase *added = tcase_create(name);
    tcase_set_timeout(added, timeout_s);
    suite_add_tcase(suite, added);
    return added;
}

/* Runs and frees the suite; CK_VERBOSITY says how much is printed. Returns what main returns: 0 if
 * every test passed, else 1. */
static inline int suite_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}

#endif
