/* The emulated runtime API as host code calls it: copies and their direction, memory that runs
 * out, limits of launches, capture and replay, failures planned by tests. */
#include "tests/cuda_emu/device_array.h"
#include "tests/suite.h"

__global__ void increment(int *p, int n)
{
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        p[i]++;
}
__global__ void set_to(int *p, int value)
{
    *p = value;
}
__global__ void half_warp_syncs(int *p)
{
    if (threadIdx.x >= 16)
        return;
    p[threadIdx.x] = (int)threadIdx.x;
    __syncwarp(); /* the full mask: the other lanes have left or will */
    p[16 + threadIdx.x] = p[15 - threadIdx.x];
    __syncthreads();
}
__device__ int shared_plain(int value)
{
    __shared__ int cell;
    if (threadIdx.x == 0)
        cell = value;
    __syncthreads();
    int seen = cell;
    __syncthreads();
    return seen;
}
__global__ void plain_shared(int *out)
{
    out[blockIdx.x * blockDim.x + threadIdx.x] = shared_plain((int)blockIdx.x + 5);
}

#define EXPECT(call, error) ck_assert_str_eq(cudaGetErrorName(call), #error)

START_TEST(copies_refuse_the_wrong_direction_and_overruns)
{
    int host[8] = {0}, *device, *pinned;
    MUST(cudaMalloc(&device, sizeof host));
    MUST(cudaMallocHost(&pinned, sizeof host));
    MUST(cudaMemcpy(device, host, sizeof host, cudaMemcpyHostToDevice));
    MUST(cudaMemcpy(pinned, device, sizeof host, cudaMemcpyDeviceToHost));
    MUST(cudaMemcpy(device + 4, device, 4 * sizeof(int), cudaMemcpyDeviceToDevice));
    MUST(cudaMemcpyAsync(device, pinned, sizeof host, cudaMemcpyDefault, nullptr));
    EXPECT(cudaMemcpy(device, host, sizeof host, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    EXPECT(cudaMemcpy(host, pinned, sizeof host, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    EXPECT(cudaMemcpy(device + 1, host, sizeof host, cudaMemcpyHostToDevice),
           cudaErrorInvalidValue);
    EXPECT(cudaMemset(device + 7, 0, 2 * sizeof(int)), cudaErrorInvalidValue);
    EXPECT(cudaMemset(host, 0, sizeof host), cudaErrorInvalidValue);
    EXPECT(cudaGetLastError(), cudaErrorInvalidValue);
    EXPECT(cudaGetLastError(), cudaSuccess);
    EXPECT(cudaFree(device + 1), cudaErrorInvalidValue);
    EXPECT(cudaFreeHost(device), cudaErrorInvalidValue);
    ck_assert_uint_eq(emu_n_allocations(), 2);
    MUST(cudaFree(device));
    MUST(cudaFreeHost(pinned));
    ck_assert_uint_eq(emu_n_allocations(), 0);
}
END_TEST

START_TEST(memory_runs_out)
{
    emu_set_memory(1000);
    size_t left, total;
    void *a, *b, *c;
    MUST(cudaMalloc(&a, 600));
    EXPECT(cudaMalloc(&b, 401), cudaErrorMemoryAllocation);
    MUST(cudaMalloc(&b, 400));
    MUST(cudaMemGetInfo(&left, &total));
    ck_assert_uint_eq(left, 0);
    ck_assert_uint_eq(total, 1000);
    MUST(cudaFree(a));
    emu_fail("cudaMalloc", 2, cudaErrorMemoryAllocation);
    MUST(cudaMalloc(&a, 10));
    EXPECT(cudaMalloc(&c, 10), cudaErrorMemoryAllocation);
    MUST(cudaMalloc(&c, 10));
    MUST(cudaFree(a));
    MUST(cudaFree(b));
    MUST(cudaFree(c));
}
END_TEST

START_TEST(launches_respect_the_limits_of_a_device)
{
    device_array<int> p(1);
    LAUNCH(increment, 1, 1025, 0, nullptr, p.device, 1);
    EXPECT(cudaGetLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(increment, dim3(1, 65536), 1, 0, nullptr, p.device, 1);
    EXPECT(cudaGetLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(increment, 0, 1, 0, nullptr, p.device, 1);
    EXPECT(cudaGetLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(increment, 1, 1, 60000, nullptr, p.device, 1);
    EXPECT(cudaGetLastError(), cudaErrorInvalidValue);
    EXPECT(cudaFuncSetAttribute(increment, cudaFuncAttributeMaxDynamicSharedMemorySize, 200000),
           cudaErrorInvalidValue);
    (void)cudaGetLastError();
    MUST(cudaFuncSetAttribute(increment, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000));
    p.host[0] = 6;
    LAUNCH(increment, 1, 1, 60000, nullptr, p.upload(), 1);
    MUST(cudaGetLastError());
    ck_assert_int_eq(p.download()[0], 7);
    int blocks;
    MUST(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, increment, 256, 60000));
    ck_assert_int_eq(blocks, 2);
}
END_TEST

START_TEST(a_graph_replays_what_a_stream_recorded)
{
    cudaStream_t stream, other;
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    device_array<int> p(4);
    int *pinned;
    MUST(cudaMallocHost(&pinned, 4 * sizeof(int)));
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    MUST(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    MUST(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    MUST(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    p.host = {1, 2, 3, 4};
    p.upload();
    int n = 4; /* its value at the launch counts, not at the replay */
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    MUST(cudaMemsetAsync(p.device + 3, 0, sizeof(int), stream));
    MUST(cudaEventRecord(fork, stream));
    MUST(cudaStreamWaitEvent(other, fork));
    LAUNCH(increment, 1, 32, 0, other, p.device, n);
    n = 0;
    MUST(cudaEventRecord(join, other));
    MUST(cudaStreamWaitEvent(stream, join));
    MUST(cudaMemcpyAsync(pinned, p.device, 4 * sizeof(int), cudaMemcpyDeviceToHost, stream));
    MUST(cudaStreamEndCapture(stream, &graph));
    ck_assert_int_eq(p.download()[0], 1); /* nothing ran yet */
    MUST(cudaGraphInstantiate(&exec, graph));
    MUST(cudaGraphDestroy(graph));
    for (int round = 1; round <= 3; round++) {
        MUST(cudaGraphLaunch(exec, stream));
        MUST(cudaStreamSynchronize(stream));
        ck_assert_int_eq(pinned[0], 1 + round);
        ck_assert_int_eq(pinned[3], 1);
    }
    LAUNCH(increment, 1, 1, 0, other, p.device, 1); /* the capture is over for both */
    ck_assert_int_eq(p.download()[0], 5);
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaEventDestroy(fork));
    MUST(cudaEventDestroy(join));
    MUST(cudaStreamDestroy(other));
    MUST(cudaStreamDestroy(stream));
    MUST(cudaFreeHost(pinned));
}
END_TEST

START_TEST(a_capture_breaks_at_calls_that_wait)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    device_array<int> p(1);
    MUST(cudaStreamCreate(&stream));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    EXPECT(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    EXPECT(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    ck_assert_ptr_null(graph);

    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    LAUNCH(increment, 1, 1, 0, nullptr, p.device, 1); /* the default stream waits for this one */
    EXPECT(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT(cudaStreamEndCapture(stream, &graph), cudaErrorIllegalState);
    MUST(cudaStreamDestroy(stream));
}
END_TEST

START_TEST(a_device_that_failed_stays_failed)
{
    int *p, value;
    MUST(cudaMalloc(&p, sizeof *p));
    emu_fail("launch", 2, cudaErrorIllegalAddress);
    LAUNCH(set_to, 1, 1, 0, nullptr, p, 1);
    MUST(cudaMemcpy(&value, p, sizeof value, cudaMemcpyDeviceToHost));
    ck_assert_int_eq(value, 1);
    LAUNCH(set_to, 1, 1, 0, nullptr, p, 2);
    for (int i = 0; i < 2; i++) {
        EXPECT(cudaGetLastError(), cudaErrorIllegalAddress);
        EXPECT(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
        EXPECT(cudaMemcpy(&value, p, sizeof value, cudaMemcpyDeviceToHost),
               cudaErrorIllegalAddress);
    }
    EXPECT(cudaFree(p), cudaErrorIllegalAddress); /* frees all the same */
    ck_assert_uint_eq(emu_n_allocations(), 0);
    emu_reset();
    EXPECT(cudaDeviceSynchronize(), cudaSuccess);
}
END_TEST

START_TEST(lanes_that_left_hold_nobody_up)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        device_array<int> p(32);
        emu_set_seed(seed);
        LAUNCH(half_warp_syncs, 1, 32, 0, nullptr, p.device);
        p.download();
        for (int i = 0; i < 16; i++)
            ck_assert_int_eq(p.host[16 + i], 15 - i);
    }
}
END_TEST

START_TEST(plain_static_shared_memory_belongs_to_the_block)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        device_array<int> p(4 * 50);
        emu_set_seed(seed);
        LAUNCH(plain_shared, 4, 50, 0, nullptr, p.device);
        p.download();
        for (int i = 0; i < 200; i++)
            ck_assert_int_eq(p.host[i], i / 50 + 5);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_emu_runtime");
    TCase *c = suite_case(suite, "runtime", 60);
    tcase_add_test(c, copies_refuse_the_wrong_direction_and_overruns);
    tcase_add_test(c, memory_runs_out);
    tcase_add_test(c, launches_respect_the_limits_of_a_device);
    tcase_add_test(c, a_graph_replays_what_a_stream_recorded);
    tcase_add_test(c, a_capture_breaks_at_calls_that_wait);
    tcase_add_test(c, a_device_that_failed_stays_failed);
    tcase_add_test(c, lanes_that_left_hold_nobody_up);
    tcase_add_test(c, plain_static_shared_memory_belongs_to_the_block);
    return suite_run(suite);
}
