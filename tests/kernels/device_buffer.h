/* Device memory for tests of CUDA kernels, emulated or not, filled and read by copies.
 * Allocations have exactly the requested size, so that a sanitizer or compute-sanitizer sees
 * accesses beyond. */
#ifndef WINNOW_TESTS_DEVICE_BUFFER_H
#define WINNOW_TESTS_DEVICE_BUFFER_H

#include <check.h>
#include <string.h>

#include <vector>

#include "cuda/kernels/portable.h"

#define assert_cuda(call)                                                                          \
    do {                                                                                           \
        cudaError_t code_ = (call);                                                                \
        ck_assert_msg(code_ == cudaSuccess, "%s: %s", #call, cudaGetErrorString(code_));           \
    } while (0)

template <class T> struct device_buffer {
    T *data = NULL;
    size_t n = 0;

    explicit device_buffer(size_t count) : n(count)
    {
        assert_cuda(cudaMalloc((void **)&data, n * sizeof(T) + (n == 0)));
        assert_cuda(cudaMemset(data, 0xff, n * sizeof(T))); /* floats: NaN */
    }
    explicit device_buffer(const std::vector<T> &from) : device_buffer(from.size())
    {
        assert_cuda(cudaMemcpy(data, from.data(), n * sizeof(T), cudaMemcpyHostToDevice));
    }
    device_buffer(const device_buffer &) = delete;
    device_buffer &operator=(const device_buffer &) = delete;
    ~device_buffer()
    {
        cudaFree(data);
    }
    /* Waits for everything that was launched. */
    std::vector<T> read() const
    {
        std::vector<T> to(n);
        assert_cuda(cudaDeviceSynchronize());
        assert_cuda(cudaGetLastError());
        assert_cuda(cudaMemcpy(to.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost));
        return to;
    }
};

#endif
