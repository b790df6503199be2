/* 8 floats in a vector, for AVX2 with FMA. What the float kernels and the
 * integer products of an instruction set share. */
#ifndef WINNOW_ENGINE_CPU_FLOATS_256_H
#define WINNOW_ENGINE_CPU_FLOATS_256_H

#include <immintrin.h>

#define LANES 8

typedef __m256 vf;

static inline vf v_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vf v_set1(float x)
{
    return _mm256_set1_ps(x);
}

static inline vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void v_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}

static inline vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

#endif
