/* The kernels in plain C, for every machine: 4 lanes as the compiler's own vectors (SSE2 and NEON
 * have registers for them), then the templates. No fused multiply-add, so that all machines that
 * run it agree. */
#include "engine/cpu/kernels.h"

#define LANES 4
#include "config/base/half.h"
#include "engine/cpu/floats.h"

#define KERNELS      cpu_kernels_plain
#define KERNELS_ISA  "plain"
#define KERNELS_NAME "plain C"

/* Register tiles, for 16 registers. */
#define TILE_ROWS    2
#define TILE_QUERIES 1
#define TILE_SUMS    12

typedef uint32_t vi __attribute__((vector_size(16)));

static inline vf v_load_n(const float *p, size_t n)
{
    vf a = v_zero();
    for (size_t i = 0; i < LANES && i < n; i++)
        a[i] = p[i];
    return a;
}

static inline void v_store_n(float *p, vf a, size_t n)
{
    for (size_t i = 0; i < LANES && i < n; i++)
        p[i] = a[i];
}

static inline vi v_bits(vf a)
{
    return (vi)a;
}

static inline vf vi_float(vi a)
{
    return (vf)a;
}

static inline vf choose(vi mask, vf yes, vf no)
{
    return vi_float((mask & v_bits(yes)) | (~mask & v_bits(no)));
}

static inline vf v_max(vf a, vf b)
{
    return choose((vi)(a > b), a, b);
}

static inline vf v_min(vf a, vf b)
{
    return choose((vi)(a < b), a, b);
}

static inline vi vi_set1(uint32_t x)
{
    return (vi){x, x, x, x};
}

static inline vf v_select(uint32_t bits, vf yes, vf no)
{
    const vi bit = {1, 2, 4, 8};
    return choose((vi)((vi_set1(bits) & bit) == bit), yes, no);
}

static inline float v_sum(vf a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}

static inline void v_sum4(float *out, vf a, vf b, vf c, vf d)
{
    out[0] = v_sum(a);
    out[1] = v_sum(b);
    out[2] = v_sum(c);
    out[3] = v_sum(d);
}

static inline float v_largest(vf a)
{
    float even = a[0] > a[2] ? a[0] : a[2], odd = a[1] > a[3] ? a[1] : a[3];
    return even > odd ? even : odd;
}

static inline vi vi_load(const int32_t *p)
{
    vi a;
    memcpy(&a, p, sizeof a);
    return a;
}

static inline vi vi_add(vi a, vi b)
{
    return a + b;
}

static inline vi vi_sub(vi a, vi b)
{
    return a - b;
}

static inline vi vi_half(vi a)
{
    return a >> 1;
}

static inline vi vi_to_exponent(vi a)
{
    return a << 23;
}

static inline uint32_t vi_below(vi a, vi b)
{
    vi below = (vi)(a < b) & (vi){1, 2, 4, 8};
    return below[0] | below[1] | below[2] | below[3];
}

static inline float f_half(uint16_t h)
{
    return half_to_float(h);
}

static inline vf v_from_half(const uint16_t *p)
{
    vi h = {p[0], p[1], p[2], p[3]};
    vf a = vi_float((h & 0x7fff) << 13) * 0x1p112f; /* see half_to_float */
    vi special = (vi)((h & 0x7c00) == 0x7c00) & 0x7f800000;
    return vi_float(v_bits(a) | special | (h & 0x8000) << 16);
}

static inline void v_to_half(uint16_t *p, vf a)
{
    for (int i = 0; i < LANES; i++)
        p[i] = half_from_float(a[i]);
}

static inline vf v_from_bfloat(const uint16_t *p)
{
    vi h = {p[0], p[1], p[2], p[3]};
    return vi_float(h << 16);
}

/* 32 small integers before they become floats. */
typedef struct {
    uint8_t at[32];
} bytes;

static inline bytes b_load(const uint8_t *p)
{
    bytes b;
    memcpy(b.at, p, sizeof b.at);
    return b;
}

/* (b >> shift) & mask for every byte. */
static inline bytes b_field(bytes b, uint32_t shift, uint8_t mask)
{
    for (int i = 0; i < 32; i++)
        b.at[i] = b.at[i] >> shift & mask;
    return b;
}

/* 16 bytes: the low nibbles are values 0..15, the high nibbles 16..31. */
static inline bytes b_nibbles(const uint8_t *p)
{
    bytes b;
    for (int i = 0; i < 16; i++) {
        b.at[i] = p[i] & 15;
        b.at[i + 16] = p[i] >> 4;
    }
    return b;
}

/* a | b << shift */
static inline bytes b_join(bytes a, bytes b, uint32_t shift)
{
    for (int i = 0; i < 32; i++)
        a.at[i] |= (uint8_t)(b.at[i] << shift);
    return a;
}

static inline bytes b_minus(bytes b, uint8_t n)
{
    for (int i = 0; i < 32; i++)
        b.at[i] = (uint8_t)(b.at[i] - n);
    return b;
}

/* 32 bits: byte i is bit i. */
static inline bytes b_bits(uint32_t bits)
{
    bytes b;
    for (int i = 0; i < 32; i++)
        b.at[i] = bits >> i & 1;
    return b;
}

/* w[8] = the 32 signed bytes as floats. */
static inline void v_from_bytes(bytes b, vf *w)
{
    for (int i = 0; i < 8; i++) {
        const uint8_t *q = b.at + i * 4;
        w[i] = (vf){(int8_t)q[0], (int8_t)q[1], (int8_t)q[2], (int8_t)q[3]};
    }
}

static inline vf v_set1_half(const uint16_t *p)
{
    return v_set1(half_to_float(*p));
}

static inline vf v_from_int8(const int8_t *p)
{
    return (vf){p[0], p[1], p[2], p[3]};
}

/* LANES nibbles, the low half of a byte first. */
static inline vf v_from_nibbles(const uint8_t *p)
{
    return (vf){(float)(p[0] & 15), (float)(p[0] >> 4), (float)(p[1] & 15), (float)(p[1] >> 4)};
}

/* Bit i: byte i of 32 is x. */
static inline uint32_t b_equal(const uint8_t *p, uint8_t x)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < 32; i++)
        bits |= (uint32_t)(p[i] == x) << i;
    return bits;
}

#include "engine/cpu/template_kernels.h"
