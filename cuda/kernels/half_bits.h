/* Two halves as the 32 bits of a register, and back. Device code. */
#ifndef WINNOW_CUDA_KERNELS_HALF_BITS_H
#define WINNOW_CUDA_KERNELS_HALF_BITS_H

#include "cuda/kernels/portable.h"

#include <string.h>

static __device__ __forceinline__ __half2 half2_of_bits(uint32_t bits)
{
    __half2 h;
    memcpy(&h, &bits, 4);
    return h;
}

static __device__ __forceinline__ uint32_t bits_of_half2(__half2 h)
{
    uint32_t bits;
    memcpy(&bits, &h, 4);
    return bits;
}

static __device__ __forceinline__ float2 floats_of_half_bits(uint32_t bits)
{
    return __half22float2(half2_of_bits(bits));
}

#endif
