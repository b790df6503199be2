/* 32 floats to 8 bits with AVX2, to the bit as in products_plain.c: part of products_avx2.c,
 * products_avxvnni.c and products_avx512vnni.c only. */
#ifndef WINNOW_ENGINE_CPU_QUANTISE_256_H
#define WINNOW_ENGINE_CPU_QUANTISE_256_H

#include <immintrin.h>
#include <string.h>

#include "engine/cpu/packed.h"

static inline float largest_of_8(__m256 a)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

static inline int32_t sum_of_16_bytes(__m128i bytes)
{
    /* As unsigned numbers 128 larger: vpsadbw adds eight at a time. */
    __m128i sums = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4) - 16 * 128;
}

static inline void quantise_block(const float *x, int8_t *q, float *scale, int32_t *sums)
{
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 v[4], most = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        most = _mm256_max_ps(_mm256_and_ps(v[i], magnitude), most);
        odd = _mm256_add_ps(odd, _mm256_mul_ps(v[i], _mm256_setzero_ps()));
    }
    const float largest = largest_of_8(most), d = largest / 127,
                inverse = largest > 0 ? 127 / largest : 0;
    const bool finite =
        _mm256_movemask_ps(_mm256_cmp_ps(odd, _mm256_setzero_ps(), _CMP_EQ_OQ)) == 255;
    *scale = finite ? d : __builtin_nanf("");
    if (!finite || !(inverse <= 3e38f)) {
        memset(q, 0, PACKED_COLS);
        sums[0] = sums[1] = 0;
        return;
    }
    __m256i n[4];
    for (int i = 0; i < 4; i++)
        n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inverse)));
    __m256i low = _mm256_packs_epi32(n[0], n[1]), high = _mm256_packs_epi32(n[2], n[3]);
    /* Packing goes by halves of a vector: four bytes of n[0], n[1], n[2], n[3], then the others. */
    __m256i all = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high),
                                              _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, all);
    sums[0] = sum_of_16_bytes(_mm256_castsi256_si128(all));
    sums[1] = sum_of_16_bytes(_mm256_extracti128_si256(all, 1));
}

#endif
