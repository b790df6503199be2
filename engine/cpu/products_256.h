/* Vectors of 256 bits for template_products.h: what AVX2 and AVX-VNNI share. Included by
 * products_avx2.c and products_avxvnni.c only. */
#ifndef WINNOW_ENGINE_CPU_PRODUCTS_256_H
#define WINNOW_ENGINE_CPU_PRODUCTS_256_H

#include <immintrin.h>
#include <string.h>

#include "engine/cpu/floats_256.h"

#define TILE_X 4

typedef __m256i vi, vw;

static inline vf v_minus(vf a)
{
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}

static inline vf v_from_half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline vf v_from_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

static inline vf v_from_i8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

static inline vf v_from_ints(vi a)
{
    return _mm256_cvtepi32_ps(a);
}

static inline vi vi_zero(void)
{
    return _mm256_setzero_si256();
}

static inline vi vi_set1(int32_t x)
{
    return _mm256_set1_epi32(x);
}

static inline vi vi_sub(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}

static inline vw vw_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline vw vw_from_int8(const int8_t *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
}

/* Two columns in every lane. */
static inline vw vw_set2(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    return _mm256_set1_epi32(two);
}

static inline vw vw_or(vw a, vw b)
{
    return _mm256_or_si256(a, b);
}

static inline vw vw_shift_left(vw a, const int n)
{
    return _mm256_slli_epi16(a, n);
}

static inline vw vw_minus(vw a, const int n)
{
    return n ? _mm256_sub_epi16(a, _mm256_set1_epi16((short)n)) : a;
}

/* a >> n & mask */
static inline vw vw_field(vw a, const int n, const int mask)
{
    vw moved = n ? _mm256_srli_epi16(a, n) : a;
    return mask == 15 && n == 12 ? moved : _mm256_and_si256(moved, _mm256_set1_epi16((short)mask));
}

#endif
