/* Integer products with AVX-512 VNNI: a vector holds two columns of all 16 rows of a group, and
 * vpdpwssd multiplies and adds at once. Compiles to a table without functions where the compiler
 * does not know it. */
#include "engine/cpu/products.h"

#if defined(__x86_64__) && defined(__AVX512VNNI__)

#include <immintrin.h>
#include <string.h>

#include "engine/cpu/floats_512.h"

#define PRODUCTS      cpu_products_avx512vnni
#define PRODUCTS_ISA  "avx512"
#define PRODUCTS_NAME "VNNI"

#define TILE_X 8

typedef __m512i vi, vw;

static inline vf v_minus(vf a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}

static inline vf v_from_half(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline vf v_from_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

static inline vf v_from_i8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

static inline vf v_from_ints(vi a)
{
    return _mm512_cvtepi32_ps(a);
}

static inline vi vi_zero(void)
{
    return _mm512_setzero_si512();
}

static inline vi vi_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}

static inline vi vi_sub(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}

static inline vw vw_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

static inline vw vw_from_int8(const int8_t *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}

/* Two columns in every lane. */
static inline vw vw_set2(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    return _mm512_set1_epi32(two);
}

static inline vw vw_or(vw a, vw b)
{
    return _mm512_or_si512(a, b);
}

static inline vw vw_shift_left(vw a, const int n)
{
    return _mm512_slli_epi16(a, (unsigned)n);
}

static inline vw vw_minus(vw a, const int n)
{
    return n ? _mm512_sub_epi16(a, _mm512_set1_epi16((short)n)) : a;
}

/* a >> n & mask */
static inline vw vw_field(vw a, const int n, const int mask)
{
    vw moved = n ? _mm512_srli_epi16(a, (unsigned)n) : a;
    return mask == 15 && n == 12 ? moved : _mm512_and_si512(moved, _mm512_set1_epi16((short)mask));
}

static inline vi vi_dot(vi sum, vw w, vw x)
{
    return _mm512_dpwssd_epi32(sum, w, x);
}

#include "engine/cpu/quantise_256.h"
#include "engine/cpu/template_products.h"

#elif defined(__x86_64__)
const struct cpu_products cpu_products_avx512vnni = {.isa = "avx512", .name = "VNNI"};
#else
typedef int products_avx512vnni_are_for_x86_64;
#endif
