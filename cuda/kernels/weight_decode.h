/* Quantised weights in registers: from the layout of weight_layout.h to what mma.m16n8k16 takes,
 * for matmul_few.cu, matmul_many.cu and matmul_unpack.cu.
 *
 * A code q of up to 8 bits becomes a half without a conversion: 0x6400 | q is 1024 + q, and a
 * subtraction (exact: all integers up to 2048 are halves) takes 1024 and the type's zero away.
 * Nibbles 4 bits higher give 1024 + 16 q, and a fused multiply-add by 1/16 is just as exact. So
 * 8 weights of 4 bits cost 1 shift, 4 logical and 4 arithmetic instructions. */
#ifndef WINNOW_CUDA_KERNELS_WEIGHT_DECODE_H
#define WINNOW_CUDA_KERNELS_WEIGHT_DECODE_H

#include "cuda/kernels/portable.h"

#include "cuda/kernels/half_bits.h"
#include "cuda/kernels/weight_layout.h"

/* Where a block is, in global or shared memory. */
struct weight_block {
    const uint8_t *quants;
    const uint8_t *unit_scales; /* of its unit, types that have them */
    const uint8_t *super_scales;
    uint32_t second; /* 1: the second block of its unit */
};

/* Moves bit `from` to bit `to`. */
static __device__ __forceinline__ uint32_t moved(uint32_t bits, int from, int to)
{
    return from < to ? bits << (to - from) : bits >> (from - to);
}

/* a[m][h][i] = code - zero, as pairs of halves. */
template <uint32_t type>
static __device__ __forceinline__ void decode_codes(uint32_t (&a)[2][2][4], const weight_block &b,
                                                    uint32_t lane)
{
    constexpr weight_traits t = weight_traits_of(type);
    if (t.bits == 8) {
        const __half2 zero = __float2half2_rn(1024.0f + t.zero);
#pragma unroll
        for (int m = 0; m < 2; m++) {
            const uint4 v = *(const uint4 *)(b.quants + (m * 32 + lane) * 16);
            const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const uint32_t pair =
                    __byte_perm(words[i / 2], 0x64646464u, i % 2 ? 0x4342 : 0x4140);
                a[m][i / 4][i % 4] = bits_of_half2(__hsub2(half2_of_bits(pair), zero));
            }
        }
        return;
    }
    const __half2 zero = __float2half2_rn(1024.0f + t.zero);
    const __half2 zero_high = __float2half2_rn(-64.0f - t.zero);
    const __half2 sixteenth = __float2half2_rn(1.0f / 16);
    const uint4 v = *(const uint4 *)(b.quants + lane * 16);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    uint32_t upper[2] = {0, 0};
    if (t.bits == 5) {
        upper[0] = *(const uint32_t *)(b.quants + 512 + lane * 4);
    } else if (t.bits == 6) {
        const uint2 u = *(const uint2 *)(b.quants + 512 + lane * 8);
        upper[0] = u.x;
        upper[1] = u.y;
    }
#pragma unroll
    for (int w = 0; w < 4; w++) {
#pragma unroll
        for (int u = 0; u < 2; u++) { /* a[2 u] and a[2 u + 1] */
            const uint32_t word = u ? words[w] >> 8 : words[w];
            uint32_t low = (word & 0x000f000fu) | 0x64006400u;
            uint32_t high = (word & 0x00f000f0u) | 0x64006400u;
            if (t.bits == 5) {
                const uint32_t bits = moved(upper[0], FIFTH_BIT(w, 2 * u), 4);
                low |= bits & 0x00100010u;
                high |= bits & 0x01000100u;
            } else if (t.bits == 6) {
                const uint32_t bits = moved(upper[w / 2], SIXTH_BITS(w % 2, 2 * u), 4);
                low |= bits & 0x00300030u;
                high |= bits & 0x03000300u;
            }
            a[w / 2][w % 2][2 * u] = bits_of_half2(__hsub2(half2_of_bits(low), zero));
            a[w / 2][w % 2][2 * u + 1] =
                bits_of_half2(__hfma2(half2_of_bits(high), sixteenth, zero_high));
        }
    }
}

/* The factors of the sums of products with codes, and what is added for every x, for the rows
 * group + 8 r. */
struct block_scales {
    float scale[2][4]; /* [h][r]; only SCALES_6 has h = 1 */
    float minimum[4];
};

static __device__ __forceinline__ void unpack_halves(float (&to)[4], uint2 v)
{
    const float2 a = floats_of_half_bits(v.x), b = floats_of_half_bits(v.y);
    to[0] = a.x;
    to[1] = a.y;
    to[2] = b.x;
    to[3] = b.y;
}

/* Byte i of `bytes` minus zero, without a conversion: 2^23 | byte is 2^23 + byte as a float. */
static __device__ __forceinline__ float byte_minus(uint32_t bytes, int i, float zero)
{
    return __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7650 + i)) - (8388608.0f + zero);
}

template <uint32_t type>
static __device__ __forceinline__ void decode_scales(block_scales &s, const weight_block &b,
                                                     uint32_t lane)
{
    constexpr weight_traits t = weight_traits_of(type);
    constexpr weight_geometry g = weight_geometry_of(type);
    const uint32_t group = lane / 4;
    if (t.scales == SCALES_ONE) {
        unpack_halves(s.scale[0], *(const uint2 *)(b.quants + g.block_bytes - 64 + group * 8));
    } else if (t.scales == SCALES_MIN) {
        const uint4 v = *(const uint4 *)(b.quants + g.block_bytes - 128 + group * 16);
        unpack_halves(s.scale[0], make_uint2(v.x, v.y));
        unpack_halves(s.minimum, make_uint2(v.z, v.w));
    } else if (t.scales == SCALES_6) {
        float d[4];
        unpack_halves(d, *(const uint2 *)(b.super_scales + group * 8));
        const uint2 v = *(const uint2 *)(b.quants + g.block_bytes - 64 + group * 8);
        const uint32_t words[2] = {v.x ^ 0x80808080u, v.y ^ 0x80808080u}; /* plus 128 */
#pragma unroll
        for (int r = 0; r < 4; r++) {
#pragma unroll
            for (int h = 0; h < 2; h++)
                s.scale[h][r] = d[r] * byte_minus(words[r / 2], r % 2 * 2 + h, 128);
        }
    } else {
        const uint4 v = *(const uint4 *)(b.super_scales + group * 16);
        float d[4], dmin[4];
        unpack_halves(d, make_uint2(v.x, v.y));
        unpack_halves(dmin, make_uint2(v.z, v.w));
        const uint32_t low = *(const uint32_t *)(b.unit_scales + b.second * 32 + group * 4);
        const uint32_t high = *(const uint32_t *)(b.unit_scales + 64 + group * 4) >> b.second * 4;
        const uint32_t scales = (low & 0x0f0f0f0fu) | (high << 4 & 0x30303030u);
        const uint32_t minima = (low >> 4 & 0x0f0f0f0fu) | (high << 2 & 0x30303030u);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            s.scale[0][r] = d[r] * byte_minus(scales, r, 0);
            s.minimum[r] = -dmin[r] * byte_minus(minima, r, 0);
        }
    }
}

/* The registers b of 32 rows of w (by eights) and 32 columns [h], as halves. */
template <uint32_t type>
static __device__ __forceinline__ void quantised_registers(uint32_t (&b)[2][4][2],
                                                           const weight_block &block, uint32_t lane)
{
    constexpr weight_traits t = weight_traits_of(type);
    uint32_t a[2][2][4];
    block_scales s;
    decode_codes<type>(a, block, lane);
    decode_scales<type>(s, block, lane);
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const __half2 scale = __float2half2_rn(s.scale[t.scales == SCALES_6 ? h : 0][r]);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const __half2 code = half2_of_bits(a[r / 2][h][r % 2 + 2 * i]);
                b[h][r][i] = bits_of_half2(
                    weight_has_minimum(type) ? __hfma2(code, scale, __float2half2_rn(s.minimum[r]))
                                             : __hmul2(code, scale));
            }
        }
    }
}

#endif
