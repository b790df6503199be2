/* Weights of every type and the value of each, by the plainest formula; for tests in C and in
 * C++. */
#ifndef WINNOW_TESTS_WEIGHT_CASES_H
#define WINNOW_TESTS_WEIGHT_CASES_H

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/half.h"
#include "engine/model/tensor_type.h"
#include "tests/random.h"

static inline void fill_normal(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_normal();
}

#define TYPE_OF_ROW(name, ...) TENSOR_##name,
static const enum tensor_type all_types[] = {TENSOR_TYPES(TYPE_OF_ROW)};
#define N_TYPES ((int)(sizeof all_types / sizeof *all_types))

static inline void put_half(uint8_t *at, float value)
{
    uint16_t h = half_from_float(value);
    memcpy(at, &h, sizeof h);
}

/* Offsets of the half-precision scales of a block: how many, and where. */
static inline int scale_places(enum tensor_type type, int places[2])
{
    switch (tensor_type_info(type)->scales) {
    case SCALES_NONE:
        return 0;
    case SCALES_ONE:
        places[0] = 0;
        return 1;
    case SCALES_MIN:
    case SCALES_K:
        places[0] = 0;
        places[1] = 2;
        return 2;
    case SCALES_6:
        places[0] = 208;
        return 1;
    }
    abort();
}

/* Fills blocks with random bytes, but with ordinary numbers as scales, some of them subnormal. */
static inline void fill_random_blocks(enum tensor_type type, uint8_t *data, size_t blocks)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *block = data + b * info->block_bytes;
        for (uint32_t i = 0; i < info->block_bytes; i++)
            block[i] = (uint8_t)random_bits();
        int places[2], n = scale_places(type, places);
        for (int i = 0; i < n; i++)
            put_half(block + places[i], random_normal() * (random_below(10) == 0 ? 2e-6f : 0.05f));
        float value = random_normal();
        if (type == TENSOR_F32)
            memcpy(block, &value, sizeof value);
        if (type == TENSOR_F16)
            put_half(block, value);
        if (type == TENSOR_BF16)
            memcpy(block, (char *)&value + 2, 2);
    }
}

/* Half precision by definition: sign, exponent, fraction. */
static inline double half_value(const uint8_t *at)
{
    int bits = at[0] | at[1] << 8, exponent = bits >> 10 & 31, fraction = bits & 1023;
    double size = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
    if (exponent == 31)
        size = fraction ? NAN : INFINITY;
    return bits & 0x8000 ? -size : size;
}

static inline int nibble(const uint8_t *at, uint32_t i, uint32_t half)
{
    return i < half ? at[i] & 15 : at[i - half] >> 4;
}

static inline int bit(const uint8_t *at, uint32_t i)
{
    return at[i / 8] >> i % 8 & 1;
}

/* The 12 packed bytes of Q4_K and Q5_K, spelled out. */
static inline void packed_scale(const uint8_t *s, uint32_t part, double *scale, double *minimum)
{
    static const int low[8] = {0, 1, 2, 3, 8, 9, 10, 11};
    if (part < 4) {
        *scale = s[low[part]] % 64;
        *minimum = s[low[part] + 4] % 64;
    } else {
        *scale = s[low[part]] % 16 + 16 * (s[part - 4] / 64);
        *minimum = s[low[part]] / 16 + 16 * (s[part] / 64);
    }
}

/* Element i of a block, exactly. */
static inline double block_value(enum tensor_type type, const uint8_t *b, uint32_t i)
{
    double scale, minimum;
    float f;
    uint32_t part = i / 32;
    switch (type) {
    case TENSOR_F32:
        memcpy(&f, b, 4);
        return f;
    case TENSOR_F16:
        return half_value(b);
    case TENSOR_BF16:
        memset(&f, 0, 4);
        memcpy((char *)&f + 2, b, 2);
        return f;
    case TENSOR_Q8_0:
        return half_value(b) * (int8_t)b[2 + i];
    case TENSOR_Q4_0:
        return half_value(b) * (nibble(b + 2, i, 16) - 8);
    case TENSOR_Q4_1:
        return half_value(b) * nibble(b + 4, i, 16) + half_value(b + 2);
    case TENSOR_Q5_0:
        return half_value(b) * (nibble(b + 6, i, 16) + 16 * bit(b + 2, i) - 16);
    case TENSOR_Q5_1:
        return half_value(b) * (nibble(b + 8, i, 16) + 16 * bit(b + 4, i)) + half_value(b + 2);
    case TENSOR_Q4_K:
        packed_scale(b + 4, part, &scale, &minimum);
        return half_value(b) * scale * nibble(b + 16 + i / 64 * 32, i % 64, 32) -
               half_value(b + 2) * minimum;
    case TENSOR_Q5_K:
        packed_scale(b + 4, part, &scale, &minimum);
        return half_value(b) * scale *
                   (nibble(b + 48 + i / 64 * 32, i % 64, 32) + 16 * (b[16 + i % 32] >> part & 1)) -
               half_value(b + 2) * minimum;
    case TENSOR_Q6_K: {
        uint32_t h = i / 128, in_half = i % 128;
        int low = nibble(b + h * 64, in_half, 64);
        int high = b[128 + h * 32 + in_half % 32] >> (in_half / 32 * 2) & 3;
        return half_value(b + 208) * (int8_t)b[192 + i / 16] * (low + 16 * high - 32);
    }
    }
    abort();
}

#endif
