/* Integer products with AVX-512 VNNI: a vector holds four columns of all 16 rows of a group.
 * Compiles to a table without functions where the compiler does not know it. */
#include "engine/cpu/products.h"

#if defined(__x86_64__) && defined(__AVX512VNNI__)

#include <immintrin.h>
#include <string.h>

#define PRODUCTS      cpu_products_avx512vnni
#define PRODUCTS_ISA  "avx512"
#define PRODUCTS_NAME "VNNI"

#define LANES  16
#define TILE_X 8

typedef __m512 vf;
typedef __m512i vi, vb, vs;

static inline vf v_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vf v_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void v_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}

static inline vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf v_minus(vf a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
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

static inline vb vb_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

static inline vb vb_set4(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

static inline vb vb_or(vb a, vb b)
{
    return _mm512_or_si512(a, b);
}

static inline vb vb_low_nibbles(vb a)
{
    return _mm512_and_si512(a, _mm512_set1_epi8(15));
}

static inline vb vb_high_nibbles(vb a)
{
    return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15));
}

/* Bit c of every byte, as its bit 4. */
static inline vb vb_bits_to_16(vb a, const int c)
{
    vb moved =
        c < 4 ? _mm512_slli_epi16(a, (unsigned)(4 - c)) : _mm512_srli_epi16(a, (unsigned)(c - 4));
    return _mm512_and_si512(moved, _mm512_set1_epi8(16));
}

/* Bits 2c and 2c + 1 of every byte, as its bits 4 and 5. */
static inline vb vb_pairs_to_16(vb a, const int c)
{
    vb moved = c < 2 ? _mm512_slli_epi16(a, (unsigned)(4 - 2 * c))
                     : _mm512_srli_epi16(a, (unsigned)(2 * c - 4));
    return _mm512_and_si512(moved, _mm512_set1_epi8(48));
}

#define SHORT_RUN(bits) 8

static inline vs vs_zero(void)
{
    return _mm512_setzero_si512();
}

static inline vs vs_dot(vs sum, vb w, vb x)
{
    return _mm512_dpbusd_epi32(sum, w, x);
}

static inline vi vs_wide(vi sum, vs wide)
{
    return _mm512_add_epi32(sum, wide);
}

/* w + 128 is unsigned. */
static inline vi vi_dot_signed(vi sum, vb w, vb x)
{
    return _mm512_dpbusd_epi32(sum, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x);
}

#define SIGNED_ZERO 128

#include "engine/cpu/quantise_256.h"
#include "engine/cpu/template_products.h"

#elif defined(__x86_64__)
const struct cpu_products cpu_products_avx512vnni = {.isa = "avx512", .name = "VNNI"};
#else
typedef int products_avx512vnni_are_for_x86_64;
#endif
