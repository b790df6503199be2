/* 32 small integers as bytes, for unpacking quantised blocks on x86 before they become floats. AVX2
 * and AVX-512 share it: the operations are 128 bits wide on both, because each half is widened
 * separately. Included only by kernels_avx2.c and kernels_avx512.c. */
#ifndef WINNOW_ENGINE_CPU_BYTES_X86_H
#define WINNOW_ENGINE_CPU_BYTES_X86_H

#include <immintrin.h>
#include <stdint.h>

typedef struct {
    __m128i low, high; /* values 0..15 and 16..31 */
} bytes;

static inline bytes b_load(const uint8_t *p)
{
    return (bytes){_mm_loadu_si128((const __m128i *)p), _mm_loadu_si128((const __m128i *)(p + 16))};
}

/* (b >> shift) & mask for every byte; mask has no more bits than are left. */
static inline bytes b_field(bytes b, uint32_t shift, uint8_t mask)
{
    __m128i count = _mm_cvtsi32_si128((int)shift), keep = _mm_set1_epi8((char)mask);
    return (bytes){_mm_and_si128(_mm_srl_epi16(b.low, count), keep),
                   _mm_and_si128(_mm_srl_epi16(b.high, count), keep)};
}

/* 16 bytes: the low nibbles are values 0..15, the high nibbles 16..31. */
static inline bytes b_nibbles(const uint8_t *p)
{
    __m128i b = _mm_loadu_si128((const __m128i *)p), keep = _mm_set1_epi8(15);
    return (bytes){_mm_and_si128(b, keep), _mm_and_si128(_mm_srli_epi16(b, 4), keep)};
}

/* a | b << shift; no bit of a byte may be shifted out. */
static inline bytes b_join(bytes a, bytes b, uint32_t shift)
{
    __m128i count = _mm_cvtsi32_si128((int)shift);
    return (bytes){_mm_or_si128(a.low, _mm_sll_epi16(b.low, count)),
                   _mm_or_si128(a.high, _mm_sll_epi16(b.high, count))};
}

static inline bytes b_minus(bytes b, uint8_t n)
{
    __m128i less = _mm_set1_epi8((char)n);
    return (bytes){_mm_sub_epi8(b.low, less), _mm_sub_epi8(b.high, less)};
}

/* 32 bits: byte i is bit i. */
static inline bytes b_bits(uint32_t bits)
{
    const __m128i select = _mm_set1_epi64x((int64_t)0x8040201008040201ull);
    const __m128i from_low = _mm_set_epi64x(0x0101010101010101, 0);
    const __m128i from_high = _mm_set_epi64x(0x0303030303030303, 0x0202020202020202);
    __m128i word = _mm_cvtsi32_si128((int)bits), one = _mm_set1_epi8(1);
    __m128i low = _mm_and_si128(_mm_shuffle_epi8(word, from_low), select);
    __m128i high = _mm_and_si128(_mm_shuffle_epi8(word, from_high), select);
    return (bytes){_mm_and_si128(_mm_cmpeq_epi8(low, select), one),
                   _mm_and_si128(_mm_cmpeq_epi8(high, select), one)};
}

#endif
