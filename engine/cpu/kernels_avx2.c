/* The kernels for AVX2 with FMA and F16C: 8 lanes, then the templates. Compiles to nothing on other
 * machines; called only after the CPU was asked. */
#include "engine/cpu/kernels.h"

#if defined(__x86_64__)

#include <string.h>

#include "engine/cpu/bytes_x86.h"
#include "engine/cpu/floats_256.h"

#define KERNELS      cpu_kernels_avx2
#define KERNELS_ISA  "avx2"
#define KERNELS_NAME "AVX2"

/* Register tiles, for 16 registers: 4 weight rows x 3 activation rows, 3 queries x 4 vectors. */
#define TILE_ROWS    3
#define TILE_QUERIES 3
#define TILE_SUMS    12

typedef __m256i vi;

static inline vi first_lanes(size_t n)
{
    const vi lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n >= LANES ? LANES : (int)n), lane);
}

static inline vf v_load_n(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, first_lanes(n));
}

static inline void v_store_n(float *p, vf a, size_t n)
{
    _mm256_maskstore_ps(p, first_lanes(n), a);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

static inline vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

static inline vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

static inline vf v_select(uint32_t bits, vf yes, vf no)
{
    const vi bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    vi chosen = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), bit), bit);
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(chosen));
}

static inline __m128 fold(vf a)
{
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}

/* Four vectors folded to the sums of their lanes, in the order of v_sum. */
static inline void v_sum4(float *out, vf a, vf b, vf c, vf d)
{
    __m128 qa = fold(a), qb = fold(b), qc = fold(c), qd = fold(d);
    __m128 ab = _mm_add_ps(_mm_movelh_ps(qa, qb), _mm_movehl_ps(qb, qa));
    __m128 cd = _mm_add_ps(_mm_movelh_ps(qc, qd), _mm_movehl_ps(qd, qc));
    _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
}

static inline float v_sum(vf a)
{
    __m128 q = fold(a);
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

static inline float v_largest(vf a)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

static inline vi v_bits(vf a)
{
    return _mm256_castps_si256(a);
}

static inline vf vi_float(vi a)
{
    return _mm256_castsi256_ps(a);
}

static inline vi vi_set1(uint32_t x)
{
    return _mm256_set1_epi32((int)x);
}

static inline vi vi_load(const int32_t *p)
{
    return _mm256_loadu_si256((const vi *)p);
}

static inline vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}

static inline vi vi_sub(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}

static inline vi vi_half(vi a)
{
    return _mm256_srli_epi32(a, 1);
}

static inline vi vi_to_exponent(vi a)
{
    return _mm256_slli_epi32(a, 23);
}

static inline uint32_t vi_below(vi a, vi b)
{
    const vi top = _mm256_set1_epi32(INT32_MIN); /* makes the signed comparison unsigned */
    vi below = _mm256_cmpgt_epi32(_mm256_xor_si256(b, top), _mm256_xor_si256(a, top));
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(below));
}

static inline float f_half(uint16_t h)
{
    return _cvtsh_ss(h);
}

static inline vf v_from_half(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline void v_to_half(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

static inline vf v_from_bfloat(const uint16_t *p)
{
    vi wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return vi_float(_mm256_slli_epi32(wide, 16));
}

static inline vf eight(__m128i b)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b));
}

/* w[4] = the 32 signed bytes as floats. */
static inline void v_from_bytes(bytes b, vf *w)
{
    w[0] = eight(b.low);
    w[1] = eight(_mm_srli_si128(b.low, 8));
    w[2] = eight(b.high);
    w[3] = eight(_mm_srli_si128(b.high, 8));
}

static inline vf v_set1_half(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_set1_epi16((short)*p));
}

static inline vf v_from_int8(const int8_t *p)
{
    return eight(_mm_loadl_epi64((const __m128i *)p));
}

/* LANES nibbles, the low half of a byte first. */
static inline vf v_from_nibbles(const uint8_t *p)
{
    const vi shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    int word;
    memcpy(&word, p, sizeof word);
    vi nibbles = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
    return _mm256_cvtepi32_ps(_mm256_and_si256(nibbles, _mm256_set1_epi32(15)));
}

/* Bit i: byte i of 32 is x. */
static inline uint32_t b_equal(const uint8_t *p, uint8_t x)
{
    vi equal = _mm256_cmpeq_epi8(_mm256_loadu_si256((const vi *)p), _mm256_set1_epi8((char)x));
    return (uint32_t)_mm256_movemask_epi8(equal);
}

#include "engine/cpu/template_kernels.h"

#else
typedef int kernels_avx2_are_for_x86_64;
#endif
