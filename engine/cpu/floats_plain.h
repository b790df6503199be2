/* 4 floats in a vector, in plain C: the compiler's own vectors. No fused multiply-add, so that all
 * machines that run it agree. What the float kernels and the
 * integer products of an instruction set share. */
#ifndef WINNOW_ENGINE_CPU_FLOATS_PLAIN_H
#define WINNOW_ENGINE_CPU_FLOATS_PLAIN_H

#include <string.h>

#define LANES 4

typedef float vf __attribute__((vector_size(16)));

static inline vf v_set1(float x)
{
    return (vf){x, x, x, x};
}

static inline vf v_zero(void)
{
    return v_set1(0);
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

static inline vf v_add(vf a, vf b)
{
    return a + b;
}

static inline vf v_mul(vf a, vf b)
{
    return a * b;
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

#endif
