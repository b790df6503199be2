/* 32 floats to 16 bits with AVX2, with the same bits as products_plain.c. Included by
 * products_avx2.c, products_avxvnni.c and products_avx512vnni.c only. */
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

static inline int32_t sum_of_8(__m256i a)
{
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    q = _mm_add_epi32(q, _mm_unpackhi_epi64(q, q));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 1)));
}

static inline void put_pairs(int16_t *q, uint32_t apart, __m128i pairs)
{
    const uint32_t step = 2 * apart;
    _mm_storeu_si32(q, pairs);
    _mm_storeu_si32(q + step, _mm_shuffle_epi32(pairs, 1));
    _mm_storeu_si32(q + 2 * step, _mm_unpackhi_epi64(pairs, pairs));
    _mm_storeu_si32(q + 3 * step, _mm_shuffle_epi32(pairs, 3));
}

/* Pair c of columns is written to q[2 c apart]. */
static inline void quantise_block(const float *x, int16_t *q, uint32_t apart, float *scale,
                                  int32_t *sums)
{
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 v[4], most = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        most = _mm256_max_ps(_mm256_and_ps(v[i], magnitude), most);
        odd = _mm256_add_ps(odd, _mm256_mul_ps(v[i], _mm256_setzero_ps()));
    }
    const float largest = largest_of_8(most), d = largest / 32767,
                inverse = largest > 0 ? 32767 / largest : 0;
    const bool finite =
        _mm256_movemask_ps(_mm256_cmp_ps(odd, _mm256_setzero_ps(), _CMP_EQ_OQ)) == 255;
    *scale = finite ? d : __builtin_nanf("");
    if (!finite || !(inverse <= 3e38f)) {
        for (uint32_t c = 0; c < PACKED_COLS / 2; c++)
            memset(q + 2 * c * apart, 0, 2 * sizeof *q);
        sums[0] = sums[1] = 0;
        return;
    }
    __m256i n[4];
    for (int i = 0; i < 4; i++)
        n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inverse)));
    /* The instruction packs halves of vectors: columns 0..3 8..11 4..7 12..15. */
    for (int i = 0; i < 2; i++) {
        __m256i all = _mm256_permute4x64_epi64(_mm256_packs_epi32(n[2 * i], n[2 * i + 1]), 0xd8);
        if (apart == 1) {
            _mm256_storeu_si256((__m256i *)(q + 16 * i), all);
        } else {
            put_pairs(q + 16 * i * apart, apart, _mm256_castsi256_si128(all));
            put_pairs(q + (16 * i + 8) * apart, apart, _mm256_extracti128_si256(all, 1));
        }
        sums[i] = sum_of_8(_mm256_add_epi32(n[2 * i], n[2 * i + 1]));
    }
}

#endif
