/* SplitMix64 (Steele, Lea and Flood, 2014): random numbers that a seed repeats. Not for secrets.
 * Any thread; the state is the caller's. cuda/kernels/score_slot.h has random_mix once more, for
 * the device. */
#ifndef WINNOW_CONFIG_BASE_RANDOM_H
#define WINNOW_CONFIG_BASE_RANDOM_H

#include <stdint.h>

/* What a state grows by from number to number: 2^64 / the golden ratio, odd. */
#define RANDOM_STEP UINT64_C(0x9E3779B97F4A7C15)

/* The finaliser: each bit of z moves half of the bits of the result, and no two z give the same. */
static inline uint64_t random_mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* The next number; *state may begin with any seed. */
static inline uint64_t random_next(uint64_t *state)
{
    return random_mix(*state += RANDOM_STEP);
}

#endif
