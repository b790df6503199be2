/* The common part of AVX2 and AVX-512 for template_kernels.h. The includer defines LANES, includes
 * this, adds the operations that differ, and then includes the template. Included only by
 * kernels_avx2.c and kernels_avx512.c. */
#ifndef WINNOW_ENGINE_CPU_KERNELS_X86_H
#define WINNOW_ENGINE_CPU_KERNELS_X86_H

#include "engine/cpu/bytes_x86.h"
#include "engine/cpu/vectors_x86.h"

static inline vf v_max(vf a, vf b)
{
    return V(max_ps)(a, b);
}

static inline vf v_min(vf a, vf b)
{
    return V(min_ps)(a, b);
}

static inline vi v_bits(vf a)
{
    return (vi)a;
}

static inline vf vi_float(vi a)
{
    return (vf)a;
}

static inline vi vi_add(vi a, vi b)
{
    return V(add_epi32)(a, b);
}

static inline vi vi_half(vi a)
{
    return V(srli_epi32)(a, 1);
}

static inline vi vi_to_exponent(vi a)
{
    return V(slli_epi32)(a, 23);
}

static inline float f_half(uint16_t h)
{
    return _cvtsh_ss(h);
}

static inline vf v_set1_half(const uint16_t *p)
{
    return V(cvtph_ps)(V_HALF(set1_epi16)((short)*p));
}

static inline void v_to_half(uint16_t *p, vf a)
{
    V_HALF_STORE(p, V(cvtps_ph)(a, _MM_FROUND_TO_NEAREST_INT));
}

static inline vf v_from_bfloat(const uint16_t *p)
{
    return vi_float(V(slli_epi32)(V(cvtepu16_epi32)(V_HALF_LOAD(p)), 16));
}

#endif
