/* Vectors of LANES floats, for the float kernels and the integer products of an instruction set.
 * The includer defines LANES:
 *
 *     4    plain C with the compiler's own vectors; no fused multiply-add, so that all machines
 *          that run it agree
 *     8    AVX2 with FMA; V(add_ps) is _mm256_add_ps
 *    16    AVX-512; V(add_ps) is _mm512_add_ps */
#ifndef WINNOW_ENGINE_CPU_FLOATS_H
#define WINNOW_ENGINE_CPU_FLOATS_H

#include <string.h>

#if LANES == 4

typedef float vf __attribute__((vector_size(16)));

static inline vf v_set1(float x)
{
    return (vf){x, x, x, x};
}

static inline vf v_load(const float *p)
{
    vf a;
    memcpy(&a, p, sizeof a);
    return a;
}

static inline void v_store(float *p, vf a)
{
    memcpy(p, &a, sizeof a);
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

#else

#include <immintrin.h>

#if LANES == 8
typedef __m256 vf;
#define V(op) _mm256_##op
#else
typedef __m512 vf;
#define V(op) _mm512_##op
#endif

static inline vf v_set1(float x)
{
    return V(set1_ps)(x);
}

static inline vf v_load(const float *p)
{
    return V(loadu_ps)(p);
}

static inline void v_store(float *p, vf a)
{
    V(storeu_ps)(p, a);
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return V(fmadd_ps)(a, b, c);
}

#endif

static inline vf v_zero(void)
{
    return v_set1(0);
}

static inline vf v_add(vf a, vf b)
{
    return a + b;
}

static inline vf v_sub(vf a, vf b)
{
    return a - b;
}

static inline vf v_mul(vf a, vf b)
{
    return a * b;
}

static inline vf v_div(vf a, vf b)
{
    return a / b;
}

#endif
