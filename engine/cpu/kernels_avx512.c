/* The kernels for AVX-512 (F, BW, VL, DQ): 16 lanes, then the templates. Compiles to nothing on
 * other machines; called only after the CPU was asked. */
#include "engine/cpu/kernels.h"

#if defined(__x86_64__)

#include <string.h>

#include "engine/cpu/bytes_x86.h"
#include "engine/cpu/floats_512.h"

#define KERNELS      cpu_kernels_avx512
#define KERNELS_ISA  "avx512"
#define KERNELS_NAME "AVX-512"

/* Register tiles, for 32 registers: 4 weight rows x 6 activation rows = 24 sums; 6 queries x 2
 * vectors of slots, or 6 queries x 4 vectors of V. */
#define TILE_ROWS    6
#define TILE_QUERIES 6
#define TILE_SUMS    24

typedef __m512i vi;

static inline __mmask16 first_lanes(size_t n)
{
    return n >= LANES ? 0xffff : (__mmask16)((1u << n) - 1);
}

static inline vf v_load_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}

static inline void v_store_n(float *p, vf a, size_t n)
{
    _mm512_mask_storeu_ps(p, first_lanes(n), a);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

static inline vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

static inline vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

static inline vf v_select(uint32_t bits, vf yes, vf no)
{
    return _mm512_mask_blend_ps((__mmask16)bits, no, yes);
}

/* Four vectors folded to the sums of their lanes, in the order of v_sum. */
static inline __m128 sum_four(vf a, vf b, vf c, vf d)
{
    vf ab = v_add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    vf cd = v_add(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    vf abcd = v_add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    abcd = v_add(abcd, _mm512_permute_ps(abcd, 0x4e));
    abcd = v_add(abcd, _mm512_permute_ps(abcd, 0xb1));
    const vi quarters = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(quarters, abcd));
}

static inline void v_sum4(float *out, vf a, vf b, vf c, vf d)
{
    _mm_storeu_ps(out, sum_four(a, b, c, d));
}

static inline float v_sum(vf a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

static inline float v_largest(vf a)
{
    return _mm512_reduce_max_ps(a);
}

static inline vi v_bits(vf a)
{
    return _mm512_castps_si512(a);
}

static inline vf vi_float(vi a)
{
    return _mm512_castsi512_ps(a);
}

static inline vi vi_set1(uint32_t x)
{
    return _mm512_set1_epi32((int)x);
}

static inline vi vi_load(const int32_t *p)
{
    return _mm512_loadu_si512(p);
}

static inline vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}

static inline vi vi_sub(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}

static inline vi vi_half(vi a)
{
    return _mm512_srli_epi32(a, 1);
}

static inline vi vi_to_exponent(vi a)
{
    return _mm512_slli_epi32(a, 23);
}

static inline uint32_t vi_below(vi a, vi b)
{
    return _mm512_cmplt_epu32_mask(a, b);
}

static inline float f_half(uint16_t h)
{
    return _cvtsh_ss(h);
}

static inline vf v_from_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline void v_to_half(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p,
                        _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline vf v_from_bfloat(const uint16_t *p)
{
    vi wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return vi_float(_mm512_slli_epi32(wide, 16));
}

/* w[2] = the 32 signed bytes as floats. */
static inline void v_from_bytes(bytes b, vf *w)
{
    w[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b.low));
    w[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b.high));
}

static inline vf v_set1_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)*p));
}

static inline vf v_from_int8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

/* LANES nibbles, the low half of a byte first. */
static inline vf v_from_nibbles(const uint8_t *p)
{
    const vi shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    int words[2];
    memcpy(words, p, sizeof words);
    vi both = _mm512_inserti64x4(_mm512_set1_epi32(words[0]), _mm256_set1_epi32(words[1]), 1);
    return _mm512_cvtepi32_ps(
        _mm512_and_si512(_mm512_srlv_epi32(both, shifts), _mm512_set1_epi32(15)));
}

/* Bit i: byte i of 32 is x. */
static inline uint32_t b_equal(const uint8_t *p, uint8_t x)
{
    return _mm256_cmpeq_epi8_mask(_mm256_loadu_si256((const __m256i *)p),
                                  _mm256_set1_epi8((char)x));
}

#include "engine/cpu/template_kernels.h"

#else
typedef int kernels_avx512_are_for_x86_64;
#endif
