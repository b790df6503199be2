/* SplitMix64 (Steele, Lea and Flood, 2014): random numbers that repeat for the same seed. Not for
 * secrets. Any thread; the caller owns the state. cuda/kernels/score_slot.h has a copy of random_mix
 * for the device. */
#ifndef WINNOW_CONFIG_BASE_RANDOM_H
#define WINNOW_CONFIG_BASE_RANDOM_H

#include <stdint.h>

/* Added to the state for each number: 2^64 / the golden ratio, made odd. */
#define RANDOM_STEP UINT64_C(0x9E3779B97F4A7C15)

/* The finaliser, a bijection: each bit of z changes about half of the result's bits. */
static inline uint64_t random_mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* The next number. *state starts as the seed, which may be any number. */
static inline uint64_t random_next(uint64_t *state)
{
    return random_mix(*state += RANDOM_STEP);
}

#endif
