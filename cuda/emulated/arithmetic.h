/* Atomics, bit operations and CUDA's mathematical functions for one thread; included by emulated.h.
 * One thread runs at a time, so an atomic is a plain operation before which another may get a turn.
 */
#ifndef TESTS_CUDA_EMU_ARITHMETIC_H
#define TESTS_CUDA_EMU_ARITHMETIC_H

namespace emu
{
template <class T, class F> T atomically(T *p, F next)
{
    maybe_yield();
    T old = *p;
    *p = next(old);
    return old;
}
} // namespace emu

#define EMU_ATOMIC(name, T, expression)                                                            \
    static inline T name(T *p, T v)                                                                \
    {                                                                                              \
        return emu::atomically(p, [v](T old) -> T { return (T)(expression); });                    \
    }
#define EMU_ATOMICS_INTEGER(T)                                                                     \
    EMU_ATOMIC(atomicMin, T, v < old ? v : old)                                                    \
    EMU_ATOMIC(atomicMax, T, v > old ? v : old)                                                    \
    EMU_ATOMIC(atomicAnd, T, old &v)                                                               \
    EMU_ATOMIC(atomicOr, T, old | v)                                                               \
    EMU_ATOMIC(atomicXor, T, old ^ v)                                                              \
    EMU_ATOMIC(atomicExch, T, ((void)old, v))                                                      \
    static inline T atomicCAS(T *p, T expected, T v)                                               \
    {                                                                                              \
        return emu::atomically(p, [=](T old) { return old == expected ? v : old; });               \
    }
EMU_ATOMICS_INTEGER(int)
EMU_ATOMICS_INTEGER(unsigned)
EMU_ATOMICS_INTEGER(unsigned long long)
EMU_ATOMIC(atomicAdd, int, (unsigned)old + (unsigned)v)
EMU_ATOMIC(atomicAdd, unsigned, old + v)
EMU_ATOMIC(atomicAdd, unsigned long long, old + v)
EMU_ATOMIC(atomicAdd, float, old + v)
EMU_ATOMIC(atomicAdd, double, old + v)
EMU_ATOMIC(atomicSub, int, (unsigned)old - (unsigned)v)
EMU_ATOMIC(atomicSub, unsigned, old - v)
EMU_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
EMU_ATOMIC(atomicExch, float, ((void)old, v))
#undef EMU_ATOMICS_INTEGER
#undef EMU_ATOMIC

static inline void __threadfence()
{
    emu::maybe_yield();
}
static inline void __threadfence_block()
{
    emu::maybe_yield();
}
static inline void __threadfence_system()
{
    emu::maybe_yield();
}

template <class T> T __ldg(const T *p)
{
    return *p;
}
template <class T> T __ldcg(const T *p)
{
    return *p;
}
template <class T> T __ldcs(const T *p)
{
    return *p;
}
template <class T> void __stcg(T *p, T v)
{
    *p = v;
}
template <class T> void __stcs(T *p, T v)
{
    *p = v;
}

/* clang-format off */
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __float_as_uint(float v) { return emu::bits<unsigned>(v); }
static inline int __float_as_int(float v) { return emu::bits<int>(v); }
static inline float __uint_as_float(unsigned v) { return emu::bits<float>(v); }
static inline float __int_as_float(int v) { return emu::bits<float>(v); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fsqrt_rn(float v) { return sqrtf(v); }
static inline float __frcp_rn(float v) { return 1.0f / v; }
static inline float __frsqrt_rn(float v) { return (float)(1.0 / sqrt((double)v)); }
static inline float __saturatef(float v) { return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f; }
static inline float __int2float_rn(int v) { return (float)v; }
static inline float __uint2float_rn(unsigned v) { return (float)v; }
/* clang-format on */

/* Conversions saturate, and NaN becomes 0, as on the device. */
static inline int __float2int_rn(float v)
{
    double r = nearbyint((double)v);
    return std::isnan(v)        ? 0
           : r >= 2147483647.0  ? 2147483647
           : r <= -2147483648.0 ? INT32_MIN
                                : (int)r;
}
static inline int __float2int_rz(float v)
{
    return __float2int_rn(truncf(v));
}
static inline int __float2int_rd(float v)
{
    return __float2int_rn(floorf(v));
}
static inline int __float2int_ru(float v)
{
    return __float2int_rn(ceilf(v));
}
static inline unsigned __float2uint_rn(float v)
{
    double r = nearbyint((double)v);
    return !(r > 0.0) ? 0 : r >= 4294967295.0 ? UINT32_MAX : (unsigned)r;
}

/* libc declares some of these names for its own use, so they are macros. */
static inline float emu_rsqrtf(float v)
{
    return (float)(1.0 / sqrt((double)v));
}
#define rsqrtf    emu_rsqrtf
#define __expf    expf
#define __exp10f  exp10f
#define __logf    logf
#define __log2f   log2f
#define __log10f  log10f
#define __powf    powf
#define __sinf    sinf
#define __cosf    cosf
#define __tanf    tanf
#define __sincosf sincosf

static inline unsigned __brev(unsigned v)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        r |= (v >> i & 1) << (31 - i);
    return r;
}

/* Each nibble of the selector picks one byte of y:x; its top bit repeats that byte's sign. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = selector >> (4 * i) & 15;
        unsigned byte = (unsigned)(both >> (8 * (pick & 7))) & 0xff;
        r |= (pick & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
    }
    return r;
}

static inline int __dp4a(int a, int b, int c)
{
    unsigned sum = (unsigned)c;
    for (int i = 0; i < 4; i++)
        sum += (unsigned)((int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i)));
    return (int)sum;
}

static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
    for (int i = 0; i < 4; i++)
        c += (a >> (8 * i) & 0xff) * (b >> (8 * i) & 0xff);
    return c;
}

static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) << (shift & 31) >> 32);
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}

#define EMU_MIN_MAX(T, A, B)                                                                       \
    static inline T min(A a, B b)                                                                  \
    {                                                                                              \
        return (T)a < (T)b ? (T)a : (T)b;                                                          \
    }                                                                                              \
    static inline T max(A a, B b)                                                                  \
    {                                                                                              \
        return (T)a > (T)b ? (T)a : (T)b;                                                          \
    }
EMU_MIN_MAX(int, int, int)
EMU_MIN_MAX(unsigned, unsigned, unsigned)
EMU_MIN_MAX(unsigned, unsigned, int)
EMU_MIN_MAX(unsigned, int, unsigned)
EMU_MIN_MAX(long, long, long)
EMU_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMU_MIN_MAX(long long, long long, long long)
EMU_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef EMU_MIN_MAX
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}
static inline double min(double a, double b)
{
    return fmin(a, b);
}
static inline double max(double a, double b)
{
    return fmax(a, b);
}

#endif
