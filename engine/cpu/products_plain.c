/* Integer products in plain C, for every machine: vectors of 4 rows, of the compiler's vector
 * type. */
#include "engine/cpu/products.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define LANES 4
#include "config/base/half.h"
#include "engine/cpu/floats.h"

#define PRODUCTS      cpu_products_plain
#define PRODUCTS_ISA  "plain"
#define PRODUCTS_NAME ""

#define TILE_X 2

typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vi_bits __attribute__((vector_size(16)));
typedef int16_t vw __attribute__((vector_size(16)));
typedef uint16_t vw_bits __attribute__((vector_size(16)));

static inline vf v_minus(vf a)
{
    return -a;
}

static inline vf v_from_half(const uint8_t *p)
{
    uint16_t h[LANES];
    memcpy(h, p, sizeof h);
    return (vf){half_to_float(h[0]), half_to_float(h[1]), half_to_float(h[2]), half_to_float(h[3])};
}

static inline vf v_from_u8(const uint8_t *p)
{
    return (vf){p[0], p[1], p[2], p[3]};
}

static inline vf v_from_int8(const uint8_t *p)
{
    return (vf){(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]};
}

static inline vf v_from_ints(vi a)
{
    return __builtin_convertvector(a, vf);
}

static inline vi vi_set1(int32_t x)
{
    return (vi){x, x, x, x};
}

static inline vi vi_zero(void)
{
    return vi_set1(0);
}

static inline vi vi_sub(vi a, vi b)
{
    return a - b;
}

static inline vw vw_load(const uint8_t *p)
{
    vw a;
    memcpy(&a, p, sizeof a);
    return a;
}

static inline vw vw_from_int8(const int8_t *p)
{
    signed char a __attribute__((vector_size(2 * LANES)));
    memcpy(&a, p, sizeof a);
    return __builtin_convertvector(a, vw);
}

/* Two columns in every lane. */
static inline vw vw_set2(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    return (vw)vi_set1(two);
}

static inline vw vw_or(vw a, vw b)
{
    return a | b;
}

static inline vw vw_shift_left(vw a, const int n)
{
    return (vw)((vw_bits)a << n);
}

static inline vw vw_minus(vw a, const int n)
{
    return a - (int16_t)n;
}

/* a >> n & mask */
static inline vw vw_field(vw a, const int n, const int mask)
{
    return (vw)((vw_bits)a >> n & (uint16_t)mask);
}

/* SSE2 multiplies pairs of 16 bits in one instruction, which compilers do not find in the formula.
 */
static inline vi vi_dot(vi sum, vw w, vw x)
{
#if defined(__SSE2__)
    return sum + (vi)_mm_madd_epi16((__m128i)w, (__m128i)x);
#else
    vi a = (vi)w, b = (vi)x;
    return sum + ((vi)((vi_bits)a << 16) >> 16) * ((vi)((vi_bits)b << 16) >> 16) +
           (a >> 16) * (b >> 16);
#endif
}

/* One block of 32: see packed.h. If the largest number is subnormal, all become 0. Pair c of
 * columns is written to q[2 c apart]. */
static void quantise_block(const float *x, int16_t *q, uint32_t apart, float *scale, int32_t *sums)
{
    float largest = 0, odd = 0;
    for (int i = 0; i < PACKED_COLS; i++) {
        float magnitude = __builtin_fabsf(x[i]);
        largest = magnitude > largest ? magnitude : largest;
        odd += x[i] * 0.0f; /* NaN where a number is not finite */
    }
    const float d = largest / 32767, inverse = largest > 0 ? 32767 / largest : 0;
    const bool finite = odd == 0;
    *scale = finite ? d : __builtin_nanf("");
    sums[0] = sums[1] = 0;
    for (int i = 0; i < PACKED_COLS; i++) {
        /* 1.5 * 2^23: adding it rounds to the nearest even integer. */
        float moved = finite && inverse <= 3e38f ? x[i] * inverse + 12582912.0f : 12582912.0f;
        int32_t n = (int32_t)(moved - 12582912.0f);
        q[(uint32_t)i / 2 * 2 * apart + (uint32_t)i % 2] = (int16_t)n;
        sums[i / 16] += n;
    }
}

#include "engine/cpu/template_products.h"
