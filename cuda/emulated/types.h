/* CUDA's vector types and the 16-bit and 8-bit floats, for emulated kernels; included by
 * emulated.h. Half and bfloat16 arithmetic is done wider and rounded once, to nearest even. */
#ifndef TESTS_CUDA_EMU_TYPES_H
#define TESTS_CUDA_EMU_TYPES_H

#include <cmath>
#include <cstdint>
#include <cstring>

#define EMU_VECTORS(type, name, align2, align4)                                                    \
    struct name##1                                                                                 \
    {                                                                                              \
        type x;                                                                                    \
    };                                                                                             \
    struct alignas(align2) name##2                                                                 \
    {                                                                                              \
        type x, y;                                                                                 \
    };                                                                                             \
    struct name##3                                                                                 \
    {                                                                                              \
        type x, y, z;                                                                              \
    };                                                                                             \
    struct alignas(align4) name##4                                                                 \
    {                                                                                              \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name##2 make_##name##2(type x, type y)                                           \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##3 make_##name##3(type x, type y, type z)                                   \
    {                                                                                              \
        return {x, y, z};                                                                          \
    }                                                                                              \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                           \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }

EMU_VECTORS(signed char, char, 2, 4)
EMU_VECTORS(unsigned char, uchar, 2, 4)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(unsigned, uint, 8, 16)
EMU_VECTORS(long long, longlong, 16, 16)
EMU_VECTORS(unsigned long long, ulonglong, 16, 16)
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(double, double, 16, 16)
#undef EMU_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z)
    {
    }
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z)
    {
    }
};

namespace emu
{
template <class To, class From> To bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

/* The nearest code of a float format with `man` mantissa bits and this exponent bias, ties to even,
 * sign left out; values beyond the largest run on into larger codes. */
static inline uint32_t encode(double value, int man, int bias)
{
    uint64_t raw = bits<uint64_t>(std::fabs(value));
    int exponent = (int)(raw >> 52) - 1023, lowest = 1 - bias;
    uint64_t significand = (raw & ((1ull << 52) - 1)) | (exponent > -1023 ? 1ull << 52 : 0);
    int drop = 52 - man + (exponent < lowest ? lowest - exponent : 0);
    if (drop > 53)
        return 0;
    uint64_t q = significand >> drop, rest = significand & ((1ull << drop) - 1);
    uint64_t half = 1ull << (drop - 1);
    q += rest > half || (rest == half && (q & 1));
    return exponent < lowest ? (uint32_t)q : (uint32_t)q + ((uint32_t)(exponent - lowest) << man);
}

static inline uint16_t half_encode(double v)
{
    uint16_t sign = std::signbit(v) ? 0x8000 : 0;
    if (std::isnan(v))
        return 0x7fff;
    if (std::fabs(v) >= 65520.0)
        return sign | 0x7c00;
    return (uint16_t)(sign | encode(v, 10, 15));
}
static inline float half_decode(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    if ((h & 0x7c00) == 0x7c00)
        return bits<float>(sign | magnitude | 0x7f800000u);
    return bits<float>(sign | bits<uint32_t>(bits<float>(magnitude) * 0x1p112f));
}
static inline uint16_t bfloat_encode(double v)
{
    uint16_t sign = std::signbit(v) ? 0x8000 : 0;
    if (std::isnan(v))
        return 0x7fff;
    uint32_t code = std::isinf(v) ? 0x7f80 : encode(v, 7, 127);
    return (uint16_t)(sign | (code < 0x7f80 ? code : 0x7f80));
}
static inline float bfloat_decode(uint16_t b)
{
    return bits<float>((uint32_t)b << 16);
}
} // namespace emu

#define EMU_FLOAT16(T, T2, ENCODE, DECODE)                                                         \
    struct T {                                                                                     \
        unsigned short __x;                                                                        \
        T() = default;                                                                             \
        T(float v) : __x(emu::ENCODE(v))                                                           \
        {                                                                                          \
        }                                                                                          \
        T(double v) : __x(emu::ENCODE(v))                                                          \
        {                                                                                          \
        }                                                                                          \
        T(int v) : __x(emu::ENCODE(v))                                                             \
        {                                                                                          \
        }                                                                                          \
        operator float() const                                                                     \
        {                                                                                          \
            return emu::DECODE(__x);                                                               \
        }                                                                                          \
    };                                                                                             \
    struct alignas(4) T2 {                                                                         \
        T x, y;                                                                                    \
        T2() = default;                                                                            \
        T2(T x, T y) : x(x), y(y)                                                                  \
        {                                                                                          \
        }                                                                                          \
    };                                                                                             \
    EMU_FLOAT16_BINARY(T, T2, +, __hadd, __hadd2)                                                  \
    EMU_FLOAT16_BINARY(T, T2, -, __hsub, __hsub2)                                                  \
    EMU_FLOAT16_BINARY(T, T2, *, __hmul, __hmul2)                                                  \
    EMU_FLOAT16_BINARY(T, T2, /, __hdiv, __h2div)                                                  \
    EMU_FLOAT16_COMPARE(T, <, __hlt)                                                               \
    EMU_FLOAT16_COMPARE(T, >, __hgt)                                                               \
    EMU_FLOAT16_COMPARE(T, <=, __hle)                                                              \
    EMU_FLOAT16_COMPARE(T, >=, __hge)                                                              \
    EMU_FLOAT16_COMPARE(T, ==, __heq)                                                              \
    EMU_FLOAT16_COMPARE(T, !=, __hne)                                                              \
    static inline T __hfma(T a, T b, T c)                                                          \
    {                                                                                              \
        return T((double)(float)a * (float)b + (double)(float)c);                                  \
    }                                                                                              \
    static inline T2 __hfma2(T2 a, T2 b, T2 c)                                                     \
    {                                                                                              \
        return T2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));                                   \
    }                                                                                              \
    static inline T __hmax(T a, T b)                                                               \
    {                                                                                              \
        return T(fmaxf(a, b));                                                                     \
    }                                                                                              \
    static inline T __hmin(T a, T b)                                                               \
    {                                                                                              \
        return T(fminf(a, b));                                                                     \
    }                                                                                              \
    static inline T2 __hmax2(T2 a, T2 b)                                                           \
    {                                                                                              \
        return T2(__hmax(a.x, b.x), __hmax(a.y, b.y));                                             \
    }                                                                                              \
    static inline T2 __hmin2(T2 a, T2 b)                                                           \
    {                                                                                              \
        return T2(__hmin(a.x, b.x), __hmin(a.y, b.y));                                             \
    }                                                                                              \
    static inline T __hneg(T a)                                                                    \
    {                                                                                              \
        return T(-(float)a);                                                                       \
    }                                                                                              \
    static inline T __habs(T a)                                                                    \
    {                                                                                              \
        return T(fabsf(a));                                                                        \
    }                                                                                              \
    static inline bool __hisnan(T a)                                                               \
    {                                                                                              \
        return std::isnan((float)a);                                                               \
    }                                                                                              \
    static inline float __low2float(T2 a)                                                          \
    {                                                                                              \
        return a.x;                                                                                \
    }                                                                                              \
    static inline float __high2float(T2 a)                                                         \
    {                                                                                              \
        return a.y;                                                                                \
    }
#define EMU_FLOAT16_BINARY(T, T2, op, name, name2)                                                 \
    static inline T operator op(T a, T b)                                                          \
    {                                                                                              \
        return T((float)a op(float) b);                                                            \
    }                                                                                              \
    static inline T name(T a, T b)                                                                 \
    {                                                                                              \
        return a op b;                                                                             \
    }                                                                                              \
    static inline T2 operator op(T2 a, T2 b)                                                       \
    {                                                                                              \
        return T2(a.x op b.x, a.y op b.y);                                                         \
    }                                                                                              \
    static inline T2 name2(T2 a, T2 b)                                                             \
    {                                                                                              \
        return a op b;                                                                             \
    }
#define EMU_FLOAT16_COMPARE(T, op, name)                                                           \
    static inline bool operator op(T a, T b)                                                       \
    {                                                                                              \
        return (float)a op(float) b;                                                               \
    }                                                                                              \
    static inline bool name(T a, T b)                                                              \
    {                                                                                              \
        return a op b;                                                                             \
    }

EMU_FLOAT16(__half, __half2, half_encode, half_decode)
EMU_FLOAT16(__nv_bfloat16, __nv_bfloat162, bfloat_encode, bfloat_decode)
#undef EMU_FLOAT16
#undef EMU_FLOAT16_BINARY
#undef EMU_FLOAT16_COMPARE

typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

/* clang-format off */
static inline __half __float2half(float v) { return __half(v); }
static inline __half __float2half_rn(float v) { return __half(v); }
static inline float __half2float(__half v) { return v; }
static inline __half2 __float2half2_rn(float v) { return __half2(v, v); }
static inline __half2 __floats2half2_rn(float a, float b) { return __half2(a, b); }
static inline __half2 __float22half2_rn(float2 v) { return __half2(v.x, v.y); }
static inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
static inline __half2 __half2half2(__half v) { return __half2(v, v); }
static inline __half2 __halves2half2(__half a, __half b) { return __half2(a, b); }
static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }
static inline unsigned short __half_as_ushort(__half v) { return v.__x; }
static inline __half __ushort_as_half(unsigned short v) { return emu::bits<__half>(v); }

static inline __nv_bfloat16 __float2bfloat16(float v) { return __nv_bfloat16(v); }
static inline __nv_bfloat16 __float2bfloat16_rn(float v) { return __nv_bfloat16(v); }
static inline float __bfloat162float(__nv_bfloat16 v) { return v; }
static inline __nv_bfloat162 __float2bfloat162_rn(float v) { return __nv_bfloat162(v, v); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return __nv_bfloat162(a, b); }
static inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return __nv_bfloat162(v.x, v.y); }
static inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 v) { return __nv_bfloat162(v, v); }
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return __nv_bfloat162(a, b); }
static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.__x; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) { return emu::bits<__nv_bfloat16>(v); }
/* clang-format on */

/* fp8 with 4 exponent and 3 mantissa bits: no infinities, largest 448, 0x7f is NaN. */
typedef unsigned char __nv_fp8_storage_t;
typedef unsigned short __nv_fp8x2_storage_t;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3 };
struct __half_raw {
    unsigned short x;
    operator __half() const
    {
        return emu::bits<__half>(x);
    }
};

static inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float v, __nv_saturation_t saturation,
                                                       __nv_fp8_interpretation_t)
{
    if (std::isnan(v))
        return 0x7f;
    uint32_t code = std::isinf(v) ? 0x7f : emu::encode(v, 3, 7);
    if (code > 0x7e)
        code = saturation == __NV_SATFINITE ? 0x7e : 0x7f;
    return (__nv_fp8_storage_t)((std::signbit(v) ? 0x80 : 0) | code);
}
static inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 v, __nv_saturation_t saturation,
                                                            __nv_fp8_interpretation_t kind)
{
    return (__nv_fp8x2_storage_t)(__nv_cvt_float_to_fp8(v.x, saturation, kind) |
                                  __nv_cvt_float_to_fp8(v.y, saturation, kind) << 8);
}
static inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t code, __nv_fp8_interpretation_t)
{
    unsigned short sign = (unsigned short)((code & 0x80) << 8);
    if ((code & 0x7f) == 0x7f)
        return {0x7fff};
    /* The half with the same mantissa and exponent field is 2^8 too small: the biases are 7 and 15.
     */
    float value = emu::half_decode((uint16_t)((code & 0x7f) << 7)) * 256.0f;
    return {(unsigned short)(sign | emu::half_encode(value))};
}
struct __nv_fp8_e4m3 {
    __nv_fp8_storage_t __x;
    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float v) : __x(__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3))
    {
    }
    explicit operator float() const
    {
        return (__half)__nv_cvt_fp8_to_halfraw(__x, __NV_E4M3);
    }
};

#endif
