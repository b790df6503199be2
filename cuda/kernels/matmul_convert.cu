/* Activations as numbers of 16 bits for the products of many rows, rounded once here instead of
 * in every block of the product. One block a row; the second read of x comes from L1. */
#include "cuda/kernels/matmul.h"

#include <string.h>

#define THREADS 256

static uint64_t round_up(uint64_t n, uint64_t step)
{
    return (n + step - 1) / step * step;
}

uint64_t matmul_x16_bytes(uint32_t n, uint32_t cols)
{
    return round_up((uint64_t)n * sizeof(float), 256) + round_up(n * round_up(cols, 64) * 2, 256);
}

struct matmul_x16 matmul_x16_place(uint8_t *scratch, uint32_t n, uint32_t cols)
{
    struct matmul_x16 x;
    x.scales = (float *)scratch;
    x.values = (uint16_t *)(scratch + round_up((uint64_t)n * sizeof(float), 256));
    x.pitch = (uint32_t)round_up(cols, 64);
    return x;
}

static __device__ __forceinline__ float4 load_4(const float *row, uint32_t c, uint32_t cols,
                                                bool vectors)
{
    if (vectors && c < cols)
        return *(const float4 *)(row + c);
    float4 v;
    v.x = c < cols ? row[c] : 0;
    v.y = c + 1 < cols ? row[c + 1] : 0;
    v.z = c + 2 < cols ? row[c + 2] : 0;
    v.w = c + 3 < cols ? row[c + 3] : 0;
    return v;
}

/* What a row is divided by: 1, or a power of two that brings the largest number into 2^14 ..
 * 2^15 if it is too large for a half, or so small that most numbers would lose bits. */
static __device__ float scale_of(float largest)
{
    if (largest == 0 || (largest >= 0x1p-6f && largest < 0x1p15f) || !(largest < INFINITY))
        return 1;
    const uint32_t exponent = __float_as_uint(largest) >> 23; /* biased by 127 */
    return __uint_as_float((exponent > 15 ? exponent - 14 : 1) << 23);
}

static __device__ __forceinline__ float largest_of_warp(float v)
{
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, distance));
    return v;
}

/* Grid: rows. */
template <bool bfloat, bool shuffled>
static __global__ void __launch_bounds__(THREADS)
    convert(const struct matmul_x16 to, const float *x, uint32_t cols, uint32_t vectors)
{
    SHARED(float, largests, [THREADS / 32]);
    const float *row = x + (uint64_t)blockIdx.x * cols;
    uint16_t *out = to.values + (uint64_t)blockIdx.x * to.pitch;
    float scale = 1;
    if (!bfloat) {
        float largest = 0;
        for (uint32_t c = threadIdx.x * 4; c < cols; c += blockDim.x * 4) {
            const float4 v = load_4(row, c, cols, vectors);
            largest =
                fmaxf(largest, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
        }
        largest = largest_of_warp(largest);
        if (threadIdx.x % 32 == 0)
            largests[threadIdx.x / 32] = largest;
        __syncthreads();
        largest = 0;
        for (uint32_t i = 0; i < blockDim.x / 32; i++)
            largest = fmaxf(largest, largests[i]);
        scale = scale_of(largest);
    }
    if (threadIdx.x == 0)
        to.scales[blockIdx.x] = scale;
    const float factor = 1 / scale;
    for (uint32_t c = threadIdx.x * 4; c < to.pitch; c += blockDim.x * 4) {
        const float4 v = load_4(row, c, cols, vectors);
        uint2 pairs;
        if (bfloat) {
            const __nv_bfloat162 a = __floats2bfloat162_rn(v.x, v.y),
                                 b = __floats2bfloat162_rn(v.z, v.w);
            memcpy(&pairs.x, &a, 4);
            memcpy(&pairs.y, &b, 4);
        } else {
            const __half2 a = __floats2half2_rn(v.x * factor, v.y * factor);
            const __half2 b = __floats2half2_rn(v.z * factor, v.w * factor);
            memcpy(&pairs.x, &a, 4);
            memcpy(&pairs.y, &b, 4);
        }
        if (shuffled) { /* columns 4 t .. 4 t + 3 of 16 to the places 2 t, 2 t + 1, 2 t + 8, 2 t + 9
                         */
            uint16_t *at = out + c / 16 * 16 + c % 16 / 2;
            *(uint32_t *)at = pairs.x;
            *(uint32_t *)(at + 8) = pairs.y;
        } else {
            *(uint2 *)(out + c) = pairs;
        }
    }
}

void launch_matmul_convert(cudaStream_t stream, const struct matmul_x16 *to, const float *x,
                           uint32_t n, uint32_t cols, bool bfloat, bool shuffled)
{
    const uint32_t vectors = cols % 4 == 0 && (uintptr_t)x % 16 == 0;
    const uint32_t quarters = to->pitch / 4,
                   threads = quarters < THREADS ? (quarters + 31) / 32 * 32 : THREADS;
    if (bfloat)
        LAUNCH((convert<true, false>), n, threads, 0, stream, *to, x, cols, vectors);
    else if (shuffled)
        LAUNCH((convert<false, true>), n, threads, 0, stream, *to, x, cols, vectors);
    else
        LAUNCH((convert<false, false>), n, threads, 0, stream, *to, x, cols, vectors);
}
