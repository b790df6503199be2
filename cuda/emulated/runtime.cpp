/* The runtime API on host memory: errors, allocations, streams that run at once or record, graphs
 * that replay, and planned failures. A device like an A100, with the limits of one. */
#include "cuda/emulated/fibers.h"

#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

struct CUgraph_st {
    std::vector<std::function<void()>> work;
    bool broken = false; /* by a call that is illegal in a capture */
};
struct CUgraphExec_st {
    std::vector<std::function<void()>> work;
};
struct CUstream_st {
    bool blocking;               /* with respect to the default stream */
    cudaGraph_t capture, origin; /* recording into; not NULL where the capture began */
};
struct CUevent_st {
    bool recorded = false;
    cudaGraph_t capture = nullptr; /* recorded while capturing into this */
    std::chrono::steady_clock::time_point when;
};

namespace emu
{
constexpr size_t shared_default = 48 * 1024, shared_limit = 163 * 1024;
constexpr size_t shared_per_multiprocessor = 164 * 1024;

enum class memory { device, pinned };
struct allocation {
    size_t bytes;
    memory kind;
};
struct planned {
    long left;
    cudaError_t error;
};

static struct {
    std::recursive_mutex lock;
    cudaError_t last = cudaSuccess, sticky = cudaSuccess;
    std::map<uintptr_t, allocation> allocations;
    size_t total = (size_t)1 << 30, used = 0;
    std::map<std::string, planned> failures;
    std::map<const void *, size_t> shared_limits;
    std::set<cudaStream_t> streams;
} device;

typedef std::lock_guard<std::recursive_mutex> guard;

static cudaError_t fail(cudaError_t error)
{
    if (error != cudaSuccess)
        device.last = error;
    return error;
}

static cudaError_t planned_failure(const char *call)
{
    auto f = device.failures.find(call);
    if (f == device.failures.end() || --f->second.left > 0)
        return cudaSuccess;
    cudaError_t error = f->second.error;
    device.failures.erase(f);
    return error;
}

/* At the start of every call: calls run one at a time, and a broken device or a planned failure
 * ends them. */
#define ENTER()                                                                                    \
    guard entered(device.lock);                                                                    \
    if (device.sticky != cudaSuccess)                                                              \
        return device.sticky;                                                                      \
    if (cudaError_t planned_error = planned_failure(__func__))                                     \
        return fail(planned_error);

/* At the start of calls that free: a broken device has nothing left to lose, so they free and
 * report the error. */
#define ENTER_TO_FREE()                                                                            \
    guard entered(device.lock);                                                                    \
    if (cudaError_t planned_error = planned_failure(__func__))                                     \
        return fail(planned_error);

static bool known(cudaStream_t stream)
{
    return !stream || device.streams.count(stream);
}

/* A call that would wait, or that the default stream orders, is illegal while a stream captures. */
static cudaError_t not_while_capturing(cudaStream_t stream)
{
    if (!known(stream))
        return cudaErrorInvalidResourceHandle;
    if (stream && stream->capture) {
        stream->capture->broken = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    for (cudaStream_t s : device.streams) {
        if (!stream && s->blocking && s->capture) {
            s->capture->broken = true;
            return cudaErrorStreamCaptureImplicit;
        }
    }
    return cudaSuccess;
}

/* Runs work in a stream, or records it. */
static cudaError_t enqueue(cudaStream_t stream, std::function<void()> work)
{
    if (stream && known(stream) && stream->capture) {
        stream->capture->work.push_back(std::move(work));
        return cudaSuccess;
    }
    cudaError_t error = not_while_capturing(stream);
    if (error != cudaSuccess)
        return fail(error);
    work();
    return cudaSuccess;
}

static void check_canaries(const char *kernel)
{
    if (!canary_bytes)
        return;
    for (auto &a : device.allocations) {
        char *end = (char *)a.first + a.second.bytes;
        if (canary_holds(end))
            continue;
        char message[256];
        snprintf(message, sizeof message,
                 "kernel %s wrote past the end of an allocation of %zu bytes", kernel,
                 a.second.bytes);
        canary_set(end);
        device.sticky = cudaErrorIllegalAddress;
        report(message);
    }
}

static void execute(const std::string &name, dim3 grid, dim3 block, size_t shared_bytes,
                    const std::function<void()> &body)
{
    if (device.sticky != cudaSuccess)
        return;
    if (cudaError_t error = planned_failure("launch")) {
        device.sticky = error;
        return;
    }
    if (!run_grid(name.c_str(), grid, block, shared_bytes, body))
        device.sticky = cudaErrorLaunchFailure;
    check_canaries(name.c_str());
}

void run(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
         cudaStream_t stream, std::function<void()> body)
{
    guard entered(device.lock);
    if (device.sticky != cudaSuccess)
        return;
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    if (!threads || threads > 1024 || block.z > 64 || !blocks || grid.x > INT32_MAX ||
        grid.y > 65535 || grid.z > 65535) {
        fail(cudaErrorInvalidConfiguration);
        return;
    }
    auto limit = device.shared_limits.find(kernel);
    if (shared_bytes > (limit == device.shared_limits.end() ? shared_default : limit->second)) {
        fail(cudaErrorInvalidValue);
        return;
    }
    std::string copy = name; /* a recorded launch may outlive a library that was unloaded */
    enqueue(stream, [=] { execute(copy, grid, block, shared_bytes, body); });
}

cudaError_t set_shared_limit(const void *kernel, int bytes)
{
    guard entered(device.lock);
    if (device.sticky != cudaSuccess)
        return device.sticky;
    if (cudaError_t error = planned_failure("cudaFuncSetAttribute"))
        return fail(error);
    if (bytes < 0 || (size_t)bytes > shared_limit)
        return fail(cudaErrorInvalidValue);
    device.shared_limits[kernel] = (size_t)bytes;
    return cudaSuccess;
}

/* By threads and shared memory alone: the emulation does not know registers. */
cudaError_t occupancy(int *blocks, int threads, size_t shared_bytes)
{
    if (threads <= 0 || threads > 1024)
        return fail(cudaErrorInvalidValue);
    int by_threads = 2048 / ((threads + 31) / 32 * 32);
    size_t by_shared = shared_per_multiprocessor / (shared_bytes + 1024);
    int n = by_threads < 32 ? by_threads : 32;
    *blocks = by_shared < (size_t)n ? (int)by_shared : n;
    return cudaSuccess;
}

/* Memory. */

static cudaError_t allocate(void **p, size_t bytes, memory kind)
{
    if (!p)
        return fail(cudaErrorInvalidValue);
    *p = nullptr;
    if (!bytes)
        return cudaSuccess;
    if (kind == memory::device && bytes > device.total - device.used)
        return fail(cudaErrorMemoryAllocation);
    if (posix_memalign(p, 256, bytes + canary_bytes))
        return fail(cudaErrorMemoryAllocation);
    memset(*p, 0xff, bytes); /* NaN, so that reading what was never written shows */
    canary_set((char *)*p + bytes);
    device.allocations[(uintptr_t)*p] = {bytes, kind};
    device.used += kind == memory::device ? bytes : 0;
    return cudaSuccess;
}

static cudaError_t release(void *p, memory kind)
{
    if (!p)
        return cudaSuccess;
    auto a = device.allocations.find((uintptr_t)p);
    if (a == device.allocations.end() || a->second.kind != kind)
        return fail(cudaErrorInvalidValue);
    device.used -= kind == memory::device ? a->second.bytes : 0;
    device.allocations.erase(a);
    free(p);
    return device.sticky;
}

/* Whether all of these bytes may be device memory, or host memory, for a copy of this kind. */
static bool holds(const void *p, size_t bytes, bool expect_device, bool any)
{
    auto a = device.allocations.upper_bound((uintptr_t)p);
    if (a != device.allocations.begin()) {
        --a;
        size_t offset = (uintptr_t)p - a->first;
        if (offset < a->second.bytes) {
            bool is_device = a->second.kind == memory::device;
            return bytes <= a->second.bytes - offset && (any || is_device == expect_device);
        }
    }
    return any || !expect_device;
}

static cudaError_t check_copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    if (!bytes)
        return cudaSuccess;
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return fail(cudaErrorInvalidMemcpyDirection);
    bool any = kind == cudaMemcpyDefault;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (!holds(to, bytes, to_device, any) || !holds(from, bytes, from_device, any))
        return fail(cudaErrorInvalidValue);
    return cudaSuccess;
}
} // namespace emu

using namespace emu;

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    ENTER();
    return allocate(p, bytes, memory::device);
}
cudaError_t cudaFree(void *p)
{
    ENTER_TO_FREE();
    return release(p, memory::device);
}
cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    ENTER();
    return allocate(p, bytes, memory::pinned);
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    ENTER();
    return allocate(p, bytes, memory::pinned);
}
cudaError_t cudaFreeHost(void *p)
{
    ENTER_TO_FREE();
    return release(p, memory::pinned);
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    ENTER();
    *free_bytes = device.total - device.used;
    *total_bytes = device.total;
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    ENTER();
    cudaError_t error = not_while_capturing(nullptr);
    if (error != cudaSuccess)
        return fail(error);
    error = check_copy(to, from, bytes, kind);
    if (error == cudaSuccess && bytes)
        memmove(to, from, bytes);
    return error;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    ENTER();
    cudaError_t error = check_copy(to, from, bytes, kind);
    if (error != cudaSuccess || !bytes)
        return error;
    return enqueue(stream, [=] { memmove(to, from, bytes); });
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER();
    if (!width || !height)
        return cudaSuccess;
    if (width > to_pitch || width > from_pitch)
        return fail(cudaErrorInvalidValue);
    cudaError_t error = check_copy(to, from, width, kind);
    const char *last_from = (const char *)from + (height - 1) * from_pitch;
    if (error == cudaSuccess)
        error = check_copy((char *)to + (height - 1) * to_pitch, last_from, width, kind);
    if (error != cudaSuccess)
        return error;
    return enqueue(stream, [=] {
        for (size_t y = 0; y < height; y++)
            memmove((char *)to + y * to_pitch, (const char *)from + y * from_pitch, width);
    });
}
cudaError_t cudaMemset(void *p, int value, size_t bytes)
{
    ENTER();
    cudaError_t error = not_while_capturing(nullptr);
    if (error != cudaSuccess)
        return fail(error);
    if (bytes && !holds(p, bytes, true, false))
        return fail(cudaErrorInvalidValue);
    if (bytes)
        memset(p, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream)
{
    ENTER();
    if (bytes && !holds(p, bytes, true, false))
        return fail(cudaErrorInvalidValue);
    return enqueue(stream, [=] {
        if (bytes)
            memset(p, value, bytes);
    });
}

/* Errors. A planned failure does not make these calls fail; a broken device makes them return
 * its error. */

cudaError_t cudaGetLastError()
{
    guard entered(device.lock);
    cudaError_t error = device.sticky != cudaSuccess ? device.sticky : device.last;
    device.last = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError()
{
    guard entered(device.lock);
    return device.sticky != cudaSuccess ? device.sticky : device.last;
}

struct error_text {
    cudaError_t error;
    const char *name, *text;
};
static const error_text &text_of(cudaError_t error)
{
#define ERROR_TEXT(name, text)                                                                     \
    {                                                                                              \
        name, #name, text                                                                          \
    }
    static const error_text texts[] = {
        ERROR_TEXT(cudaSuccess, "no error"),
        ERROR_TEXT(cudaErrorInvalidValue, "invalid argument"),
        ERROR_TEXT(cudaErrorMemoryAllocation, "out of memory"),
        ERROR_TEXT(cudaErrorInvalidConfiguration, "invalid configuration argument"),
        ERROR_TEXT(cudaErrorInvalidDevicePointer, "invalid device pointer"),
        ERROR_TEXT(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
        ERROR_TEXT(cudaErrorNoDevice, "no CUDA-capable device is detected"),
        ERROR_TEXT(cudaErrorInvalidDevice, "invalid device ordinal"),
        ERROR_TEXT(cudaErrorInvalidResourceHandle, "invalid resource handle"),
        ERROR_TEXT(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
        ERROR_TEXT(cudaErrorNotReady, "device not ready"),
        ERROR_TEXT(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
        ERROR_TEXT(cudaErrorLaunchFailure, "unspecified launch failure"),
        ERROR_TEXT(cudaErrorStreamCaptureUnsupported,
                   "operation not permitted when stream is capturing"),
        ERROR_TEXT(cudaErrorStreamCaptureInvalidated,
                   "operation failed due to a previous error during capture"),
        ERROR_TEXT(cudaErrorStreamCaptureImplicit,
                   "operation would make the legacy stream depend on a capturing blocking stream"),
        ERROR_TEXT(cudaErrorUnknown, "unknown error"),
    };
#undef ERROR_TEXT
    for (const error_text &t : texts) {
        if (t.error == error)
            return t;
    }
    return texts[sizeof texts / sizeof texts[0] - 1];
}
const char *cudaGetErrorString(cudaError_t error)
{
    return text_of(error).text;
}
const char *cudaGetErrorName(cudaError_t error)
{
    return text_of(error).name;
}

/* The device. */

cudaError_t cudaGetDeviceCount(int *count)
{
    ENTER();
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int number)
{
    ENTER();
    return number ? fail(cudaErrorInvalidDevice) : cudaSuccess;
}
cudaError_t cudaGetDevice(int *number)
{
    ENTER();
    *number = 0;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int number)
{
    ENTER();
    if (number)
        return fail(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    strcpy(p->name, "emulated");
    p->totalGlobalMem = device.total;
    p->sharedMemPerBlock = shared_default;
    p->sharedMemPerBlockOptin = shared_limit;
    p->sharedMemPerMultiprocessor = shared_per_multiprocessor;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = INT32_MAX;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->multiProcessorCount = 4; /* few, so that kernels that spread over them stay small */
    p->major = 8;
    p->l2CacheSize = 40 << 20;
    p->memoryBusWidth = 5120;
    p->unifiedAddressing = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int number)
{
    ENTER();
    cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, number);
    if (error != cudaSuccess)
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)p.sharedMemPerBlock;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)p.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)p.sharedMemPerBlockOptin;
        break;
    default:
        return fail(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize()
{
    ENTER();
    for (cudaStream_t s : device.streams) {
        if (s->capture) {
            s->capture->broken = true;
            return fail(cudaErrorStreamCaptureUnsupported);
        }
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceReset()
{
    return cudaDeviceSynchronize();
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    ENTER();
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version)
{
    return cudaRuntimeGetVersion(version);
}

/* Streams and events. */

static cudaError_t stream_create(cudaStream_t *stream, bool blocking)
{
    *stream = new CUstream_st{blocking, nullptr, nullptr};
    device.streams.insert(*stream);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    ENTER();
    return stream_create(stream, true);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    ENTER();
    return stream_create(stream, !(flags & cudaStreamNonBlocking));
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    ENTER_TO_FREE();
    if (!stream || !device.streams.erase(stream))
        return fail(cudaErrorInvalidResourceHandle);
    delete stream->origin;
    delete stream;
    return device.sticky;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ENTER();
    return fail(not_while_capturing(stream));
}
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    ENTER();
    return fail(not_while_capturing(stream));
}
/* A stream that waits for an event of a capture joins the capture. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    ENTER();
    if (!known(stream) || !event)
        return fail(cudaErrorInvalidResourceHandle);
    if (event->capture && stream)
        stream->capture = event->capture;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    ENTER();
    *event = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    ENTER();
    *event = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    ENTER_TO_FREE();
    delete event;
    return device.sticky;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER();
    if (!known(stream) || !event)
        return fail(cudaErrorInvalidResourceHandle);
    event->capture = stream ? stream->capture : nullptr;
    event->recorded = true;
    event->when = std::chrono::steady_clock::now();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER();
    return event->capture ? fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER();
    return event->capture ? fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    ENTER();
    if (!start->recorded || !end->recorded)
        return fail(cudaErrorInvalidResourceHandle);
    *ms = std::chrono::duration<float, std::milli>(end->when - start->when).count();
    return cudaSuccess;
}

/* Graphs. */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    ENTER();
    if (!stream || !known(stream))
        return fail(cudaErrorStreamCaptureUnsupported);
    if (stream->capture)
        return fail(cudaErrorIllegalState);
    stream->capture = stream->origin = new CUgraph_st;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    ENTER();
    *graph = nullptr;
    if (!stream || !known(stream) || !stream->origin)
        return fail(cudaErrorIllegalState);
    cudaGraph_t made = stream->origin;
    stream->origin = nullptr;
    for (cudaStream_t s : device.streams) {
        if (s->capture == made)
            s->capture = nullptr;
    }
    if (made->broken) {
        delete made;
        return fail(cudaErrorStreamCaptureInvalidated);
    }
    *graph = made;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    ENTER();
    if (!known(stream))
        return fail(cudaErrorInvalidResourceHandle);
    *status = !stream || !stream->capture ? cudaStreamCaptureStatusNone
              : stream->capture->broken   ? cudaStreamCaptureStatusInvalidated
                                          : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    ENTER();
    if (!graph)
        return fail(cudaErrorInvalidValue);
    *exec = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    ENTER();
    if (!exec)
        return fail(cudaErrorInvalidValue);
    std::vector<std::function<void()>> work = exec->work; /* may be destroyed before a replay */
    return enqueue(stream, [work] {
        for (const std::function<void()> &w : work)
            w();
    });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    ENTER_TO_FREE();
    delete exec;
    return device.sticky;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    ENTER_TO_FREE();
    delete graph;
    return device.sticky;
}

/* control.h */

extern "C" void emu_fail(const char *call, long nth, int error)
{
    guard entered(device.lock);
    device.failures[call] = {nth, (cudaError_t)error};
}
extern "C" void emu_reset(void)
{
    guard entered(device.lock);
    device.last = device.sticky = cudaSuccess;
    device.failures.clear();
    for (cudaStream_t s : device.streams) {
        delete s->origin;
        s->origin = s->capture = nullptr;
    }
}
extern "C" size_t emu_n_allocations(void)
{
    guard entered(device.lock);
    return device.allocations.size();
}
extern "C" void emu_set_memory(size_t bytes)
{
    guard entered(device.lock);
    device.total = bytes;
}
