/* Random numbers and device arrays for tests of CUDA kernels, on a real device or emulated. */
#ifndef TESTS_KERNELS_CUDA_CASE_H
#define TESTS_KERNELS_CUDA_CASE_H

#include <check.h>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/portable.h"

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

/* n values on the device with a copy here; send and fetch make them equal. */
template <class T> struct device_array {
    std::vector<T> host;
    T *device = NULL;

    explicit device_array(size_t n, T value = T()) : host(n, value)
    {
        ck_assert_int_eq(cudaMalloc((void **)&device, (n ? n : 1) * sizeof(T)), cudaSuccess);
        send();
    }
    explicit device_array(const std::vector<T> &from) : device_array(from.size())
    {
        host = from;
        send();
    }
    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;
    ~device_array()
    {
        cudaFree(device);
    }
    void send()
    {
        if (!host.empty())
            ck_assert_int_eq(
                cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice),
                cudaSuccess);
    }
    void fetch()
    {
        if (!host.empty())
            ck_assert_int_eq(
                cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost),
                cudaSuccess);
    }
};

static inline void device_wait()
{
    cudaError_t error = cudaDeviceSynchronize();
    ck_assert_msg(error == cudaSuccess, "%s", cudaGetErrorString(error));
}

#endif
