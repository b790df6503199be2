/* Random numbers for tests of CUDA kernels, on a real device or emulated. */
#ifndef TESTS_KERNELS_CUDA_CASE_H
#define TESTS_KERNELS_CUDA_CASE_H

#include <check.h>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/kernels/portable.h"
#include "tests/cuda_emu/device_array.h"

/* Xorshift; every test program begins with the same seed. */
static uint64_t random_state = 0x9E3779B97F4A7C15u;

static inline uint32_t random_bits()
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static inline uint32_t random_below(uint32_t n)
{
    return random_bits() % n;
}

/* Of [0, 1) */
static inline float random_uniform()
{
    return (float)(random_bits() >> 8) * 0x1p-24f;
}

static inline void device_wait()
{
    cudaError_t error = cudaDeviceSynchronize();
    ck_assert_msg(error == cudaSuccess, "%s", cudaGetErrorString(error));
}

#endif
