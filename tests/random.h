/* Random numbers for tests in C and C++: from a seed that each test sets, so that a failure can be
 * repeated. One thread. */
#ifndef WINNOW_TESTS_RANDOM_H
#define WINNOW_TESTS_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#include "config/base/random.h"

static uint64_t random_state = 1;

static inline uint64_t random_bits(void)
{
    return random_next(&random_state);
}

static inline uint32_t random_below(uint32_t n)
{
    return (uint32_t)(random_bits() % n);
}

/* Roughly normal, mean 0, variance 1. */
static inline float random_normal(void)
{
    double sum = 0;
    for (int i = 0; i < 6; i++)
        sum += (double)(random_bits() >> 11) * 0x1p-53 - 0.5;
    return (float)(sum * 1.4142135623730951);
}

#endif
