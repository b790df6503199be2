/* CUDA on the CPU: the kernels of cuda/ as C++17 under g++ or clang++, with sanitizers, for
 * machines without a GPU. cuda/kernels/portable.h includes this file when WINNOW_CUDA_EMULATED is
 * defined.
 *
 * For authors of kernels:
 * - Include "cuda/kernels/portable.h" and nothing of CUDA's; the same file must compile with nvcc.
 *   Launch with LAUNCH, take dynamic shared memory with DYNAMIC_SHARED and static with SHARED.
 *   A plain `__shared__ float x[8]` works too, but is not refilled with 0xff (NaN) before each
 *   block as the other two are. Write __align__(16) after __shared__, not alignas.
 * - Blocks run one after another, each thread of a block on a fiber of its own until it waits. So a
 *   kernel that spins until another thread or block has done something hangs, and a data race
 *   within a phase shows as a wrong value only when the order of threads makes it wrong: run your
 *   tests with WINNOW_EMU_SEED=1, 2, 3 ... too, which shuffles blocks and threads.
 * - Warps are 32 consecutive threads, x fastest, in no lock step: what lanes exchange without
 *   __syncwarp or a shuffle is not there. __activemask names the calling lane alone, which CUDA
 *   allows at any time.
 * - These end the launch with a message that names kernel, block, thread, file and line: a barrier
 *   that does not meet, or meets at different lines; a shuffle or vote by a lane outside its own
 *   mask, or whose mask names a lane that has left, that waits elsewhere for ever, or that gives no
 *   value to a lane that reads it. __syncwarp forgives lanes that have left, as CUDA does.
 * - cp.async writes its target only at cp_async_wait. Asynchronous calls and launches otherwise run
 *   at once, so a missing synchronisation between streams or with the host does not show.
 * - Not available: inline assembly (add a function with two bodies to portable.h), textures,
 *   cooperative groups, named barriers, cub, thrust, device printf in order, host code that takes
 *   addresses of __constant__ symbols. Device memory is host memory: host code that follows a
 *   device pointer does not fault.
 *
 * fibers.cpp runs the threads, runtime.cpp is the runtime API, control.h is for tests. One launch
 * runs at a time; any thread may launch. */
#ifndef TESTS_CUDA_EMU_CUDA_EMU_H
#define TESTS_CUDA_EMU_CUDA_EMU_H

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>

#include "cuda/emulated/control.h"
#include "cuda/emulated/types.h"
#include "cuda/emulated/runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __shared__      static
#define __align__(n)    __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

extern uint3 threadIdx, blockIdx; /* of the running thread; replaced at every change of thread */
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emu
{
/* The place in a kernel where a primitive is called, as a default argument, so that callers need
 * not pass it. A constructor, because gcc evaluates braces in a default argument once, where
 * they are written. */
struct where {
    const char *file;
    int line;
    where(const char *file = __builtin_FILE(), int line = __builtin_LINE()) : file(file), line(line)
    {
    }
};

extern bool shuffled; /* a seed is set */
[[noreturn]] void fault(where at, const char *format, ...) __attribute__((format(printf, 2, 3)));
unsigned lane();
/* When shuffled, sometimes lets another thread run. */
void maybe_yield();

/* Waits until every lane of `mask` has called with the same mask and `combine`. The last one
 * runs it over all lanes' `mine`; lanes outside the mask are NULL. */
typedef void (*combine_fn)(void *const lanes[32], unsigned mask, where at);
enum class leavers { fault, ignored };
void meet(const char *what, unsigned mask, combine_fn combine, void *mine, leavers policy,
          where at);

enum class barrier { plain, count, all, any };
int sync_block(const char *what, barrier kind, int predicate, where at);

void *dynamic_shared();
uint64_t block_serial(); /* differs for every block that ever ran */

void copy_later(void *to, const void *from, size_t bytes, where at);
void copies_commit();
void copies_wait(int groups_left);

void run(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
         cudaStream_t stream, std::function<void()> body);

template <class T> struct as_is {
    typedef T type;
};
/* Arguments are converted to the kernel's parameters now and copied for every thread, as CUDA does.
 */
template <class... P>
void launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            void (*kernel)(P...), typename as_is<P>::type... args)
{
    std::tuple<P...> packed(args...);
    run(name, (const void *)kernel, grid, block, shared_bytes, stream,
        [kernel, packed] { std::apply(kernel, packed); });
}

/* Fills a block's static shared variable with 0xff the first time one of its threads meets it. */
static inline void poison_once(void *p, size_t bytes, uint64_t *serial)
{
    if (*serial == block_serial())
        return;
    *serial = block_serial();
    memset(p, 0xff, bytes);
}

template <class In, class Out> struct slot {
    In in;
    Out out;
    int arg;
};
/* A vote or shuffle: Combine::one(slots, mask, lane) gives each lane's answer. */
template <class Combine, class In, class Out>
Out exchange(const char *what, unsigned mask, In value, int arg, where at)
{
    typedef slot<In, Out> S;
    S mine{value, Out(), arg};
    meet(
        what, mask,
        [](void *const lanes[32], unsigned m, where w) {
            for (unsigned l = 0; l < 32; l++) {
                if (m >> l & 1)
                    ((S *)lanes[l])->out = Combine::one((S *const *)lanes, m, l, w);
            }
        },
        &mine, leavers::fault, at);
    return mine.out;
}

enum class shuffle { index, up, down, exclusive_or };
template <shuffle kind, int width> struct shuffler {
    template <class S> static auto one(S *const *s, unsigned mask, unsigned lane, where at)
    {
        int first = (int)lane & ~(width - 1), last = first + width - 1;
        int arg = s[lane]->arg, from = (int)lane;
        if (kind == shuffle::index)
            from = first + (arg & (width - 1));
        else if (kind == shuffle::up)
            from = (int)lane - arg >= first ? (int)lane - arg : (int)lane;
        else if (kind == shuffle::down)
            from = (int)lane + arg <= last ? (int)lane + arg : (int)lane;
        else
            from = ((int)lane ^ arg) <= last ? (int)lane ^ arg : (int)lane;
        if (from < 0 || from > 31 || !(mask >> from & 1))
            fault(at, "lane %u reads from lane %d, which the mask %08x does not name", lane, from,
                  mask);
        return s[from]->in;
    }
};
template <shuffle kind, class T>
T shuffle_by(const char *what, unsigned mask, T value, int arg, int width, where at)
{
    switch (width) {
    case 32:
        return exchange<shuffler<kind, 32>, T, T>(what, mask, value, arg, at);
    case 16:
        return exchange<shuffler<kind, 16>, T, T>(what, mask, value, arg, at);
    case 8:
        return exchange<shuffler<kind, 8>, T, T>(what, mask, value, arg, at);
    case 4:
        return exchange<shuffler<kind, 4>, T, T>(what, mask, value, arg, at);
    case 2:
        return exchange<shuffler<kind, 2>, T, T>(what, mask, value, arg, at);
    case 1:
        return value;
    }
    fault(at, "%s with width %d, which is no power of two up to 32", what, width);
}

struct voter {
    template <class S> static unsigned one(S *const *s, unsigned mask, unsigned, where)
    {
        unsigned ballot = 0;
        for (unsigned l = 0; l < 32; l++)
            ballot |= (mask >> l & 1) && s[l]->in ? 1u << l : 0;
        return ballot;
    }
};
struct matcher {
    template <class S> static unsigned one(S *const *s, unsigned mask, unsigned lane, where)
    {
        unsigned same = 0;
        for (unsigned l = 0; l < 32; l++)
            same |= (mask >> l & 1) && s[l]->in == s[lane]->in ? 1u << l : 0;
        return same;
    }
};
enum class reduction { add, min, max, bit_and, bit_or, bit_xor };
template <reduction kind> struct reducer {
    template <class S> static auto one(S *const *s, unsigned mask, unsigned lane, where)
    {
        auto sum = s[lane]->in;
        for (unsigned l = 0; l < 32; l++) {
            if (!(mask >> l & 1) || l == lane)
                continue;
            auto v = s[l]->in;
            if (kind == reduction::add)
                sum = (decltype(v))((unsigned)sum + (unsigned)v);
            else if (kind == reduction::min)
                sum = v < sum ? v : sum;
            else if (kind == reduction::max)
                sum = v > sum ? v : sum;
            else if (kind == reduction::bit_and)
                sum &= v;
            else if (kind == reduction::bit_or)
                sum |= v;
            else
                sum ^= v;
        }
        return sum;
    }
};
} // namespace emu

/* Barriers and warp primitives. */
static inline void __syncthreads(emu::where at = emu::where())
{
    emu::sync_block("__syncthreads", emu::barrier::plain, 0, at);
}
static inline int __syncthreads_count(int predicate, emu::where at = emu::where())
{
    return emu::sync_block("__syncthreads_count", emu::barrier::count, predicate, at);
}
static inline int __syncthreads_and(int predicate, emu::where at = emu::where())
{
    return emu::sync_block("__syncthreads_and", emu::barrier::all, predicate, at);
}
static inline int __syncthreads_or(int predicate, emu::where at = emu::where())
{
    return emu::sync_block("__syncthreads_or", emu::barrier::any, predicate, at);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, emu::where at = emu::where())
{
    int none;
    emu::meet(
        "__syncwarp", mask, [](void *const *, unsigned, emu::where) {}, &none,
        emu::leavers::ignored, at);
}
static inline unsigned __activemask()
{
    return 1u << emu::lane();
}

#define EMU_SHUFFLE(name, kind, arg_type)                                                          \
    template <class T>                                                                             \
    T name(unsigned mask, T value, arg_type arg, int width = 32, emu::where at = emu::where())     \
    {                                                                                              \
        return emu::shuffle_by<emu::shuffle::kind>(#name, mask, value, (int)arg, width, at);       \
    }
EMU_SHUFFLE(__shfl_sync, index, int)
EMU_SHUFFLE(__shfl_up_sync, up, unsigned)
EMU_SHUFFLE(__shfl_down_sync, down, unsigned)
EMU_SHUFFLE(__shfl_xor_sync, exclusive_or, int)
#undef EMU_SHUFFLE

static inline unsigned __ballot_sync(unsigned mask, int predicate, emu::where at = emu::where())
{
    return emu::exchange<emu::voter, int, unsigned>("__ballot_sync", mask, predicate, 0, at);
}
static inline int __any_sync(unsigned mask, int predicate, emu::where at = emu::where())
{
    return emu::exchange<emu::voter, int, unsigned>("__any_sync", mask, predicate, 0, at) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, emu::where at = emu::where())
{
    return emu::exchange<emu::voter, int, unsigned>("__all_sync", mask, predicate, 0, at) == mask;
}
template <class T> unsigned __match_any_sync(unsigned mask, T value, emu::where at = emu::where())
{
    return emu::exchange<emu::matcher, T, unsigned>("__match_any_sync", mask, value, 0, at);
}
#define EMU_REDUCE(name, kind, T)                                                                  \
    static inline T name(unsigned mask, T value, emu::where at = emu::where())                     \
    {                                                                                              \
        return emu::exchange<emu::reducer<emu::reduction::kind>, T, T>(#name, mask, value, 0, at); \
    }
EMU_REDUCE(__reduce_add_sync, add, int)
EMU_REDUCE(__reduce_add_sync, add, unsigned)
EMU_REDUCE(__reduce_min_sync, min, int)
EMU_REDUCE(__reduce_min_sync, min, unsigned)
EMU_REDUCE(__reduce_max_sync, max, int)
EMU_REDUCE(__reduce_max_sync, max, unsigned)
EMU_REDUCE(__reduce_and_sync, bit_and, unsigned)
EMU_REDUCE(__reduce_or_sync, bit_or, unsigned)
EMU_REDUCE(__reduce_xor_sync, bit_xor, unsigned)
#undef EMU_REDUCE

#include "cuda/emulated/arithmetic.h"
#include "cuda/emulated/tensor_core.h"

#endif
