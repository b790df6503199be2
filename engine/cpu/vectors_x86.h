/* Vectors of integers of AVX2 (LANES 8) and AVX-512 (LANES 16) beside the floats of floats.h: what
 * kernels_x86.h and products_x86.h share. The includer defines LANES. */
#ifndef WINNOW_ENGINE_CPU_VECTORS_X86_H
#define WINNOW_ENGINE_CPU_VECTORS_X86_H

#include <stdint.h>

#include "engine/cpu/floats.h"

/* V_WHOLE(or): the operation on all bits of a vector. V_HALF: operations on half a vector, which
 * holds LANES numbers of 16 bits. load_bytes: LANES bytes from any address. */
#if LANES == 8
typedef __m256i vi;
#define V_WHOLE(op)        _mm256_##op##_si256
#define V_HALF(op)         _mm_##op
#define V_HALF_LOAD(p)     _mm_loadu_si128((const __m128i *)(p))
#define V_HALF_STORE(p, a) _mm_storeu_si128((__m128i *)(p), a)
#define load_bytes(p)      _mm_loadl_epi64((const __m128i *)(p))
#else
typedef __m512i vi;
#define V_WHOLE(op)        _mm512_##op##_si512
#define V_HALF(op)         _mm256_##op
#define V_HALF_LOAD(p)     _mm256_loadu_si256((const __m256i *)(p))
#define V_HALF_STORE(p, a) _mm256_storeu_si256((__m256i *)(p), a)
#define load_bytes(p)      _mm_loadu_si128((const __m128i *)(p))
#endif

static inline vf v_from_half(const void *p)
{
    return V(cvtph_ps)(V_HALF_LOAD(p));
}

static inline vf v_from_ints(vi a)
{
    return V(cvtepi32_ps)(a);
}

static inline vf v_from_int8(const void *p)
{
    return v_from_ints(V(cvtepi8_epi32)(load_bytes(p)));
}

static inline vi vi_set1(uint32_t x)
{
    return V(set1_epi32)((int)x);
}

static inline vi vi_load(const void *p)
{
    return V_WHOLE(loadu)((const vi *)p);
}

static inline vi vi_sub(vi a, vi b)
{
    return V(sub_epi32)(a, b);
}

#endif
