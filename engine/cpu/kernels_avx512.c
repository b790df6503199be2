/* The kernels for AVX-512 (F, BW, VL, DQ): 16 lanes, then the templates. Compiles to nothing on
 * other machines; called only after the CPU was asked. */
#include "engine/cpu/kernels.h"

#if defined(__x86_64__)

#include <string.h>

#define LANES 16
#include "engine/cpu/kernels_x86.h"

#define KERNELS      cpu_kernels_avx512
#define KERNELS_ISA  "avx512"
#define KERNELS_NAME "AVX-512"

/* Register tiles, for 32 registers: 4 weight rows x 6 activation rows = 24 sums; 6 queries x 2
 * vectors of slots, or 6 queries x 4 vectors of V. */
#define TILE_ROWS    6
#define TILE_QUERIES 6
#define TILE_SUMS    24

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

static inline uint32_t vi_below(vi a, vi b)
{
    return _mm512_cmplt_epu32_mask(a, b);
}

/* w[2] = the 32 signed bytes as floats. */
static inline void v_from_bytes(bytes b, vf *w)
{
    w[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b.low));
    w[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b.high));
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
