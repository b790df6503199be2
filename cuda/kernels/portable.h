/* The one place where nvcc and the CPU emulation of cuda/emulated differ. Every kernel file
 * includes this first and no header of CUDA's, and is then the same text for both. Under nvcc the
 * functions below are PTX. With WINNOW_CUDA_EMULATED defined they are plain C++
 * (cuda/emulated/tensor_core.h), and emulated.h says at its top what kernels must keep to.
 *
 *   LAUNCH(kernel, grid, block, shared_bytes, stream, args...)   a template kernel in parentheses
 *   DYNAMIC_SHARED(type, name)        type *name: the launch's shared_bytes, 16-byte aligned
 *   SHARED(type, name, [8][16])       static shared memory, 16-byte aligned
 *
 * Functions of a warp (all 32 lanes must call them together):
 *   mma_m16n8k16_f16(float d[4], a[4], b[2])    d += A B: A [16][16] row, B [16][8] column, halves
 *   mma_m16n8k16_bf16(float d[4], a[4], b[2])   the same, bfloat16
 *   mma_m16n8k32_s8(int d[4], a[4], b[2])       A [16][32] row, B [32][8] column, signed bytes
 *   ldmatrix_x1 .. _x4[_trans](uint32_t r[n], row)  row: shared memory, 16-byte aligned, per lane
 *
 * Functions of a thread:
 *   cp_async_16(shared, global)                 16 bytes, both aligned
 *   cp_async_16_zero(shared, global, n_bytes)   the first n_bytes (0..16), zeros after them
 *   cp_async_commit(), cp_async_wait<n>()       wait until at most the n youngest groups are open
 *   load_16_stream(global)                      16 bytes read once: no space in L1
 *   load_16_cached(global)                      read-only, through L1
 *   fma_f32x2(a, b, c)                          two fused multiply-adds; one instruction where the
 *                                               device has it
 * On the host: device_limits_of()               what launches are sized by */
#ifndef CUDA_PORTABLE_H
#define CUDA_PORTABLE_H

#ifdef WINNOW_CUDA_EMULATED

#include "cuda/emulated/emulated.h"

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                     \
    emu::launch(#kernel, grid, block, shared_bytes, stream, kernel, ##__VA_ARGS__)
#define DYNAMIC_SHARED(type, name) type *name = (type *)emu::dynamic_shared()
#define SHARED(type, name, ...)                                                                    \
    static __align__(16) type name __VA_ARGS__;                                                    \
    static uint64_t name##_serial;                                                                 \
    emu::poison_once(&name, sizeof(name), &name##_serial)

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                     \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
extern __shared__ __align__(16) unsigned char winnow_dynamic_shared[];
#define DYNAMIC_SHARED(type, name) type *name = (type *)winnow_dynamic_shared
#define SHARED(type, name, ...)    __shared__ __align__(16) type name __VA_ARGS__

static __device__ __forceinline__ unsigned shared_address(const void *p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4],
                                                        const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                         const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4],
                                                       const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void ldmatrix_x1(uint32_t (&r)[1], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void cp_async_16(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
}

static __device__ __forceinline__ void cp_async_16_zero(void *to, const void *from,
                                                        unsigned n_bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(n_bytes)
                 : "memory");
}

static __device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int groups_left> static __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
}

static __device__ __forceinline__ uint4 load_16_stream(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(p)));
    return v;
}

static __device__ __forceinline__ uint4 load_16_cached(const void *p)
{
    return __ldg((const uint4 *)p);
}

static __device__ __forceinline__ float2 fma_f32x2(float2 a, float2 b, float2 c)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
    float2 d;
    asm("fma.rn.f32x2 %0, %1, %2, %3;"
        : "=l"(*(unsigned long long *)&d)
        : "l"(*(unsigned long long *)&a), "l"(*(unsigned long long *)&b),
          "l"(*(unsigned long long *)&c));
    return d;
#else
    return make_float2(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y));
#endif
}

#endif

/* The device in use: multiprocessors, and the most shared memory in bytes of one and of a block. */
struct device_limits {
    uint32_t n_sms, shared_of_sm, shared_of_block;
};
static inline struct device_limits device_limits_of()
{
    static struct device_limits limits; /* a process uses one device, from one thread */
    int device = 0, n_sms = 1, of_sm = 100 << 10, of_block = 99 << 10; /* the least there is */
    if (limits.n_sms == 0) {
        cudaGetDevice(&device);
        cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device);
        cudaDeviceGetAttribute(&of_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
        cudaDeviceGetAttribute(&of_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
        limits = {(uint32_t)n_sms, (uint32_t)of_sm, (uint32_t)of_block};
    }
    return limits;
}

#endif
