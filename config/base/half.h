/* IEEE half precision in plain C. The conversion to float is exact; the one from float rounds to the
 * nearest, ties to even. */
#ifndef WINNOW_CONFIG_BASE_HALF_H
#define WINNOW_CONFIG_BASE_HALF_H

#include <stdint.h>
#include <string.h>

#define HALF_MAX 65504.0f

static inline uint32_t half_bits_of_float(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float half_float_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Half's exponent and fraction bits, shifted to where float has them, are the value divided by 2^112.
 * This also holds for subnormal values. The multiplication is exact. */
static inline float half_to_float(uint16_t h)
{
    uint32_t u = half_bits_of_float(half_float_of_bits((uint32_t)(h & 0x7fff) << 13) * 0x1p112f);
    if ((h & 0x7c00) == 0x7c00)
        u |= 0x7f800000; /* infinity and NaN keep their fraction */
    return half_float_of_bits(u | (uint32_t)(h & 0x8000) << 16);
}

/* Values beyond +-65504 become +-65504, NaN stays NaN. */
static inline uint16_t half_from_float(float f)
{
    uint32_t u = half_bits_of_float(f), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (u >= 0x477fe000) /* 65504 */
        return (uint16_t)(sign | 0x7bff);
    if (u < 0x38800000) /* below 2^-14: adding 0.5 leaves multiples of 2^-24 in the fraction */
        return (uint16_t)(sign | (half_bits_of_float(half_float_of_bits(u) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | (((u + 0xfff + (u >> 13 & 1)) >> 13) - (112 << 10)));
}

#endif
