/* Vectors for template_products.h on x86, of 256 bits (LANES 8) or 512 (LANES 16): the includer
 * defines LANES, includes this, adds vi_dot, and then includes quantise_256.h and the template.
 * Included by products_{avx2,avxvnni,avx512vnni}.c only. */
#ifndef WINNOW_ENGINE_CPU_PRODUCTS_X86_H
#define WINNOW_ENGINE_CPU_PRODUCTS_X86_H

#include "engine/cpu/vectors_x86.h"

typedef vi vw;

static inline vf v_minus(vf a)
{
    return V(xor_ps)(a, v_set1(-0.0f));
}

static inline vf v_from_u8(const uint8_t *p)
{
    return v_from_ints(V(cvtepu8_epi32)(load_bytes(p)));
}

static inline vi vi_zero(void)
{
    return V_WHOLE(setzero)();
}

static inline vw vw_load(const uint8_t *p)
{
    return vi_load(p);
}

static inline vw vw_from_int8(const int8_t *p)
{
    return V(cvtepi8_epi16)(V_HALF_LOAD(p));
}

/* Two columns in every lane. */
static inline vw vw_set2(const int16_t *p)
{
    uint32_t two;
    memcpy(&two, p, sizeof two);
    return vi_set1(two);
}

static inline vw vw_or(vw a, vw b)
{
    return V_WHOLE(or)(a, b);
}

static inline vw vw_shift_left(vw a, const int n)
{
    return V(slli_epi16)(a, (unsigned)n);
}

static inline vw vw_minus(vw a, const int n)
{
    return n ? V(sub_epi16)(a, V(set1_epi16)((short)n)) : a;
}

/* a >> n & mask */
static inline vw vw_field(vw a, const int n, const int mask)
{
    vw moved = n ? V(srli_epi16)(a, (unsigned)n) : a;
    return mask == 15 && n == 12 ? moved : V_WHOLE(and)(moved, V(set1_epi16)((short)mask));
}

#endif
