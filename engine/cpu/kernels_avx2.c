/* The kernels for AVX2 with FMA and F16C: 8 lanes, then the templates. Compiles to nothing on other
 * machines; called only after the CPU was asked. */
#include "engine/cpu/kernels.h"

#if defined(__x86_64__)

#include <string.h>

#define LANES 8
#include "engine/cpu/kernels_x86.h"

#define KERNELS      cpu_kernels_avx2
#define KERNELS_ISA  "avx2"
#define KERNELS_NAME "AVX2"

/* Register tiles, for 16 registers: 4 weight rows x 3 activation rows, 3 queries x 4 vectors. */
#define TILE_ROWS    3
#define TILE_QUERIES 3
#define TILE_SUMS    12

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

static inline uint32_t vi_below(vi a, vi b)
{
    const vi top = _mm256_set1_epi32(INT32_MIN); /* makes the signed comparison unsigned */
    vi below = _mm256_cmpgt_epi32(_mm256_xor_si256(b, top), _mm256_xor_si256(a, top));
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(below));
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
