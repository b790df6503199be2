/* Integer products in plain C, for every machine: vectors of 4 rows, as the compiler's own. */
#include "engine/cpu/products.h"

#include <string.h>

#include "engine/cpu/half.h"

#define PRODUCTS      cpu_products_plain
#define PRODUCTS_ISA  "plain"
#define PRODUCTS_NAME ""

#define LANES  4
#define TILE_X 2

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint8_t vb __attribute__((vector_size(16)));
typedef vi vs;

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

static inline vf v_minus(vf a)
{
    return -a;
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
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

static inline vf v_from_i8(const uint8_t *p)
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

static inline vb vb_load(const uint8_t *p)
{
    vb a;
    memcpy(&a, p, sizeof a);
    return a;
}

/* Four bytes in every lane. */
static inline vb vb_set4(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return (vb)vi_set1(four);
}

static inline vb vb_or(vb a, vb b)
{
    return a | b;
}

static inline vb vb_low_nibbles(vb a)
{
    return a & 15;
}

static inline vb vb_high_nibbles(vb a)
{
    return a >> 4;
}

/* Bit c of every byte, as its bit 4. */
static inline vb vb_bits_to_16(vb a, const int c)
{
    return (a >> c & 1) << 4;
}

/* Bits 2c and 2c + 1 of every byte, as its bits 4 and 5. */
static inline vb vb_pairs_to_16(vb a, const int c)
{
    return (a >> 2 * c & 3) << 4;
}

#define SHORT_RUN(bits) 8

static inline vs vs_zero(void)
{
    return vi_zero();
}

/* Byte i of every lane: w unsigned or signed, x signed. The even and the odd bytes of 16-bit pairs
 * meet as 16-bit products, which machines without a dot product multiply fastest. */
typedef int16_t pairs __attribute__((vector_size(16)));

static inline vi add_pairs(vi sum, pairs even, pairs odd)
{
    vi e = (vi)even, o = (vi)odd;
    return sum + (e << 16 >> 16) + (e >> 16) + (o << 16 >> 16) + (o >> 16);
}

static inline vs vs_dot(vs sum, vb w, vb x)
{
    pairs we = (pairs)w & 255, wo = (pairs)((pairs)w >> 8 & 255);
    pairs xe = (pairs)((pairs)x << 8) >> 8, xo = (pairs)x >> 8;
    return add_pairs(sum, we * xe, wo * xo);
}

static inline vi vs_wide(vi sum, vs wide)
{
    return sum + wide;
}

static inline vi vi_dot_signed(vi sum, vb w, vb x)
{
    pairs we = (pairs)((pairs)w << 8) >> 8, wo = (pairs)w >> 8;
    pairs xe = (pairs)((pairs)x << 8) >> 8, xo = (pairs)x >> 8;
    return add_pairs(sum, we * xe, wo * xo);
}

#define SIGNED_ZERO 0

/* One block of 32. */
static void quantise_block(const float *x, int8_t *q, float *scale, int32_t *sums)
{
    float largest = 0, odd = 0;
    for (int i = 0; i < PACKED_COLS; i++) {
        float magnitude = __builtin_fabsf(x[i]);
        largest = magnitude > largest ? magnitude : largest;
        odd += x[i] * 0.0f; /* NaN where a number is not finite */
    }
    const float d = largest / 127, inverse = largest > 0 ? 127 / largest : 0;
    const bool finite = odd == 0;
    *scale = finite ? d : __builtin_nanf("");
    if (!finite || !(inverse <= 3e38f)) { /* also where the largest is subnormal */
        memset(q, 0, PACKED_COLS);
        sums[0] = sums[1] = 0;
        return;
    }
    int32_t total[2] = {0, 0};
    for (int half = 0; half < 2; half++)
        for (int i = half * 16; i < half * 16 + 16; i++) {
            /* 1.5 * 2^23: adding it rounds to the nearest even integer. */
            float moved = x[i] * inverse + 12582912.0f;
            int32_t n = (int32_t)(moved - 12582912.0f);
            q[i] = (int8_t)n;
            total[half] += n;
        }
    sums[0] = total[0];
    sums[1] = total[1];
}

#include "engine/cpu/template_products.h"
