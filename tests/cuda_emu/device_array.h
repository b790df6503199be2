/* Device memory of a test with a copy on the host: filled on the host, changed by a kernel, read
 * back. A failing call ends the test. */
#ifndef TESTS_CUDA_EMU_DEVICE_ARRAY_H
#define TESTS_CUDA_EMU_DEVICE_ARRAY_H

#include <check.h>
#include <vector>

#include "cuda/kernels/portable.h"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        cudaError_t must_error = (call);                                                           \
        ck_assert_msg(must_error == cudaSuccess, "%s: %s", #call, cudaGetErrorString(must_error)); \
    } while (0)

template <class T> struct device_array {
    std::vector<T> host;
    T *device = nullptr;

    explicit device_array(size_t n) : host(n)
    {
        MUST(cudaMalloc(&device, n * sizeof(T)));
    }
    explicit device_array(const std::vector<T> &from) : device_array(from.size())
    {
        host = from;
        upload();
    }
    ~device_array()
    {
        cudaFree(device);
    }
    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;

    T *upload()
    {
        MUST(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
        return device;
    }
    const std::vector<T> &download()
    {
        MUST(cudaDeviceSynchronize());
        MUST(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }
};

#endif
