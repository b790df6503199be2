/* Operations on rows of activations: embed, rms_norm, rope, add, swiglu, gather. Launched by the
 * engine thread.
 *
 * All are bound by memory (at most 2 operations per byte; rms_norm's sums in double, as on the
 * CPU, stay below the rate of the double pipes of data-centre GPUs). Each thread moves 16 bytes
 * at a time where sizes and addresses allow, with neighbours side by side. Products and sums are
 * rounded one by one as in plain C on the CPU, so rope, add and gather give the CPU's bits. */
#include "cuda/kernels/kernels.h"

#include "cuda/kernels/weight_decode.h"

#define THREADS 256

static bool aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

static uint32_t blocks_for(uint64_t n)
{
    return (uint32_t)((n + THREADS - 1) / THREADS);
}

/* ---- embed */

static __device__ __forceinline__ float half_at(const uint8_t *p)
{
    return __half2float(*(const __half *)p);
}

/* 4 neighbouring columns of row `row` of a quantised weight, from column c on, a multiple of 4:
 * with one rounding, as in engine/cpu. Reads words and halves of the layout directly; the 4
 * columns belong to one lane. */
template <uint32_t type>
static __device__ float4 quantised_at(const uint8_t *w, uint32_t cols, uint32_t row, uint32_t c)
{
    constexpr weight_traits traits = weight_traits_of(type);
    constexpr weight_geometry g = weight_geometry_of(type);
    const uint32_t in_band = row % BAND_ROWS, group = in_band % 8, r = in_band / 8;
    const uint32_t block = c / BLOCK_COLS, h = c / 16 % 2, t = c / 4 % 4, lane = group * 4 + t;
    const uint32_t m = r / 2, odd = r % 2;
    const uint8_t *band = w + row / BAND_ROWS * weight_band_bytes(g, cols);
    const uint8_t *q = band + weight_block_offset(g, block), *end = q + g.block_bytes;
    const uint8_t *unit = band + weight_block_offset(g, block / 2 * 2) + 2 * g.block_bytes;
    const uint8_t *super = band + weight_block_offset(g, block / 8 * 8 + 8) - g.super_scales;
    int codes[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const uint32_t i = odd + k / 2 * 2, half = k % 2 * 16;
        if (traits.bits == 8) {
            codes[k] = q[(m * 32 + lane) * 16 + h * 8 + i * 2 + k % 2] - traits.zero;
            continue;
        }
        const uint32_t word = *(const uint32_t *)(q + lane * 16 + (m * 2 + h) * 4);
        uint32_t code = word >> (half + 4 * i) & 15;
        if (traits.bits == 5)
            code |=
                (*(const uint32_t *)(q + 512 + lane * 4) >> (half + FIFTH_BIT(m * 2 + h, i)) & 1)
                << 4;
        if (traits.bits == 6)
            code |=
                (*(const uint32_t *)(q + 512 + lane * 8 + m * 4) >> (half + SIXTH_BITS(h, i)) & 3)
                << 4;
        codes[k] = (int)code - traits.zero;
    }
    float scale, minimum = 0;
    switch (traits.scales) {
    case SCALES_MIN:
        scale = half_at(end - 128 + group * 16 + r * 2);
        minimum = half_at(end - 128 + group * 16 + 8 + r * 2);
        break;
    case SCALES_K: {
        const uint32_t low = *(const uint32_t *)(unit + block % 2 * 32 + group * 4) >> (8 * r);
        const uint32_t high = *(const uint32_t *)(unit + 64 + group * 4) >> (8 * r + block % 2 * 4);
        scale = half_at(super + group * 16 + r * 2) * (float)((low & 15) | (high & 3) << 4);
        minimum = -half_at(super + group * 16 + 8 + r * 2) *
                  (float)((low >> 4 & 15) | (high >> 2 & 3) << 4);
        break;
    }
    case SCALES_6:
        scale = half_at(super + group * 8 + r * 2) *
                (float)*(const int8_t *)(end - 64 + group * 8 + r * 2 + h);
        break;
    default:
        scale = half_at(end - 64 + group * 8 + r * 2);
    }
    return make_float4(fmaf(scale, (float)codes[0], minimum), fmaf(scale, (float)codes[1], minimum),
                       fmaf(scale, (float)codes[2], minimum),
                       fmaf(scale, (float)codes[3], minimum));
}

/* 4 columns from c on, a multiple of 4, of an unquantised weight, whose rows are padded. */
template <uint32_t type>
static __device__ float4 plain_at(const uint8_t *w, uint32_t cols, uint32_t row, uint32_t c)
{
    const uint8_t *at =
        w + row * weight_row_bytes(type, cols) + (uint64_t)c * (type == TENSOR_F32 ? 4 : 2);
    if (type == TENSOR_F32)
        return *(const float4 *)at;
    const uint2 v = *(const uint2 *)at;
    if (type == TENSOR_BF16)
        return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
                           __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
    const float2 a = floats_of_half_bits(v.x), b = floats_of_half_bits(v.y);
    return make_float4(a.x, a.y, b.x, b.y);
}

/* Grid: quarters of the columns, rows of out. */
template <uint32_t type>
static __global__ void embed(float *out, const uint8_t *w, const int32_t *tokens, uint32_t cols,
                             uint32_t vectors)
{
    const uint32_t c = (blockIdx.x * blockDim.x + threadIdx.x) * 4,
                   row = (uint32_t)tokens[blockIdx.y];
    if (c >= cols)
        return;
    float4 v;
    if (weight_is_quantised(type))
        v = quantised_at<type>(w, cols, row, c);
    else
        v = plain_at<type>(w, cols, row, c);
    float *to = out + (uint64_t)blockIdx.y * cols + c;
    if (vectors) {
        *(float4 *)to = v;
        return;
    }
    const float values[4] = {v.x, v.y, v.z, v.w};
    for (uint32_t i = 0; i < 4 && c + i < cols; i++)
        to[i] = values[i];
}

template <uint32_t type>
static void launch_embed_type(cudaStream_t stream, float *out, const struct device_weight *w,
                              const int32_t *tokens, uint32_t n)
{
    const uint32_t quarters = (w->cols + 3) / 4,
                   threads = quarters < 128 ? (quarters + 31) / 32 * 32 : 128;
    LAUNCH(embed<type>, dim3((quarters + threads - 1) / threads, n), threads, 0, stream, out,
           w->data, tokens, w->cols, w->cols % 4 == 0 && aligned(out));
}

void launch_embed(cudaStream_t stream, float *out, const struct device_weight *w,
                  const int32_t *tokens, uint32_t n)
{
    for_weight_type(w->type, [&](auto t) { launch_embed_type<t.type>(stream, out, w, tokens, n); });
}

/* ---- rms_norm */

/* A row per group of `threads` threads: a warp, or a whole block. */
template <bool vectors>
static __device__ __forceinline__ double squares_of_row(const float *x, uint32_t width,
                                                        uint32_t thread, uint32_t threads)
{
    double sum = 0;
    if (vectors) {
        for (uint32_t i = thread * 4; i < width; i += threads * 4) {
            const float4 v = *(const float4 *)(x + i);
            sum += (double)v.x * v.x + (double)v.y * v.y + ((double)v.z * v.z + (double)v.w * v.w);
        }
    } else {
        for (uint32_t i = thread; i < width; i += threads)
            sum += (double)x[i] * x[i];
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    return sum;
}

/* A thread reads what it read before, so out may be x. */
template <bool vectors>
static __device__ __forceinline__ void scale_row(float *out, const float *x, const float *gain,
                                                 uint32_t width, double squares, float eps,
                                                 uint32_t thread, uint32_t threads)
{
    const float scale = (float)(1 / sqrt(squares / width + (double)eps));
    if (vectors) {
        for (uint32_t i = thread * 4; i < width; i += threads * 4) {
            const float4 v = *(const float4 *)(x + i), g = *(const float4 *)(gain + i);
            *(float4 *)(out + i) = make_float4(v.x * scale * g.x, v.y * scale * g.y,
                                               v.z * scale * g.z, v.w * scale * g.w);
        }
    } else {
        for (uint32_t i = thread; i < width; i += threads)
            out[i] = x[i] * scale * gain[i];
    }
}

/* Grid: rows in eights. For narrow rows, heads for instance. */
template <bool vectors>
static __global__ void rms_norm_warp(float *out, const float *x, const float *gain, uint32_t n,
                                     uint32_t width, float eps)
{
    const uint32_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= n)
        return;
    const uint64_t at = (uint64_t)row * width;
    const double squares = squares_of_row<vectors>(x + at, width, lane, 32);
    scale_row<vectors>(out + at, x + at, gain, width, squares, eps, lane, 32);
}

/* Grid: rows. */
template <bool vectors>
static __global__ void rms_norm_block(float *out, const float *x, const float *gain, uint32_t width,
                                      float eps)
{
    SHARED(double, sums, [THREADS / 32]);
    const uint64_t at = (uint64_t)blockIdx.x * width;
    const double mine = squares_of_row<vectors>(x + at, width, threadIdx.x, THREADS);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = mine;
    __syncthreads();
    double squares = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++)
        squares += sums[i];
    scale_row<vectors>(out + at, x + at, gain, width, squares, eps, threadIdx.x, THREADS);
}

void launch_rms_norm(cudaStream_t stream, float *out, const float *x, const float *gain, uint32_t n,
                     uint32_t width, float eps)
{
    const bool vectors = width % 4 == 0 && aligned(out) && aligned(x) && aligned(gain);
    const uint32_t warps = n < THREADS / 32 ? n : THREADS / 32;
    if (width <= 512 && vectors)
        LAUNCH(rms_norm_warp<true>, (n + warps - 1) / warps, warps * 32, 0, stream, out, x, gain, n,
               width, eps);
    else if (width <= 512)
        LAUNCH(rms_norm_warp<false>, (n + warps - 1) / warps, warps * 32, 0, stream, out, x, gain,
               n, width, eps);
    else if (vectors)
        LAUNCH(rms_norm_block<true>, n, THREADS, 0, stream, out, x, gain, width, eps);
    else
        LAUNCH(rms_norm_block<false>, n, THREADS, 0, stream, out, x, gain, width, eps);
}

/* ---- rope */

/* a, b become a cos - b sin, a sin + b cos; angle = (cos, sin). */
static __device__ __forceinline__ void rotate(float &a, float &b, float c, float s)
{
    const float x = __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
    b = __fadd_rn(__fmul_rn(a, s), __fmul_rn(b, c));
    a = x;
}

/* A thread turns 4 pairs (vectors) or 1. Grid: parts of a row's n_heads x rope_dim / 2 pairs, rows.
 */
template <bool vectors>
static __global__ void rope(float *x, const float *angles, uint32_t n_heads, uint32_t head_dim,
                            uint32_t rope_dim, uint32_t neox)
{
    constexpr uint32_t n = vectors ? 4 : 1;
    const uint32_t n_pairs = rope_dim / 2, per_head = n_pairs / n;
    const uint32_t item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= n_heads * per_head)
        return;
    const uint32_t head = item / per_head, pair = item % per_head * n;
    float *at = x + ((uint64_t)blockIdx.y * n_heads + head) * head_dim;
    const float *angle = angles + (uint64_t)blockIdx.y * rope_dim + pair * 2;
    if (!vectors) {
        float *a = neox ? at + pair : at + 2 * pair, *b = neox ? a + n_pairs : a + 1;
        rotate(*a, *b, angle[0], angle[1]);
        return;
    }
    const float4 c = *(const float4 *)angle, d = *(const float4 *)(angle + 4);
    float4 *first = (float4 *)(neox ? at + pair : at + 2 * pair);
    float4 *second = neox ? (float4 *)(at + pair + n_pairs) : first + 1;
    float4 a = *first, b = *second;
    if (neox) {
        rotate(a.x, b.x, c.x, c.y);
        rotate(a.y, b.y, c.z, c.w);
        rotate(a.z, b.z, d.x, d.y);
        rotate(a.w, b.w, d.z, d.w);
    } else {
        rotate(a.x, a.y, c.x, c.y);
        rotate(a.z, a.w, c.z, c.w);
        rotate(b.x, b.y, d.x, d.y);
        rotate(b.z, b.w, d.z, d.w);
    }
    *first = a;
    *second = b;
}

void launch_rope(cudaStream_t stream, float *x, const float *angles, uint32_t n, uint32_t n_heads,
                 uint32_t head_dim, uint32_t rope_dim, bool neox)
{
    const bool vectors = rope_dim % 8 == 0 && head_dim % 4 == 0 && aligned(x) && aligned(angles);
    const uint32_t items = n_heads * (rope_dim / 2 / (vectors ? 4 : 1));
    if (items == 0)
        return;
    const uint32_t threads = items < THREADS ? (items + 31) / 32 * 32 : THREADS;
    const dim3 grid((items + threads - 1) / threads, n);
    if (vectors)
        LAUNCH(rope<true>, grid, threads, 0, stream, x, angles, n_heads, head_dim, rope_dim, neox);
    else
        LAUNCH(rope<false>, grid, threads, 0, stream, x, angles, n_heads, head_dim, rope_dim, neox);
}

/* In double, so that position 4,000,000 is as exact as position 4. */
static __global__ void rope_angles(float *out, const int32_t *positions, const double *frequencies,
                                   double scale, uint32_t n, uint32_t n_pairs)
{
    const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (uint64_t)n * n_pairs)
        return;
    const double at = (double)positions[i / n_pairs] / scale, angle = at * frequencies[i % n_pairs];
    out[2 * i] = (float)cos(angle);
    out[2 * i + 1] = (float)sin(angle);
}

void launch_rope_angles(cudaStream_t stream, float *out, const int32_t *positions,
                        const double *frequencies, double scale, uint32_t n, uint32_t n_pairs)
{
    const uint64_t items = (uint64_t)n * n_pairs;
    if (items > 0)
        LAUNCH(rope_angles, (uint32_t)((items + THREADS - 1) / THREADS), THREADS, 0, stream, out,
               positions, frequencies, scale, n, n_pairs);
}

/* ---- add, swiglu, gather */

static __device__ __forceinline__ float swiglu_of(float gate, float up)
{
    return gate / (1 + expf(-gate)) * up;
}

/* The last n % 4 elements go one by one, and all where addresses are not aligned. */
static __global__ void add(float *x, const float *y, uint64_t n, uint64_t n_vectors)
{
    const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n_vectors) {
        float4 a = *(const float4 *)(x + i * 4);
        const float4 b = *(const float4 *)(y + i * 4);
        *(float4 *)(x + i * 4) = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    } else if (i - n_vectors < n - n_vectors * 4) {
        x[i + n_vectors * 3] += y[i + n_vectors * 3];
    }
}

static __global__ void swiglu(float *out, const float *gate, const float *up, uint64_t n,
                              uint64_t n_vectors)
{
    const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n_vectors) {
        const float4 a = *(const float4 *)(gate + i * 4), b = *(const float4 *)(up + i * 4);
        *(float4 *)(out + i * 4) = make_float4(swiglu_of(a.x, b.x), swiglu_of(a.y, b.y),
                                               swiglu_of(a.z, b.z), swiglu_of(a.w, b.w));
    } else if (i - n_vectors < n - n_vectors * 4) {
        const uint64_t at = i + n_vectors * 3;
        out[at] = swiglu_of(gate[at], up[at]);
    }
}

void launch_add(cudaStream_t stream, float *x, const float *y, uint64_t n)
{
    const uint64_t n_vectors = aligned(x) && aligned(y) ? n / 4 : 0;
    if (n != 0)
        LAUNCH(add, blocks_for(n - n_vectors * 3), THREADS, 0, stream, x, y, n, n_vectors);
}

void launch_swiglu(cudaStream_t stream, float *out, const float *gate, const float *up, uint64_t n)
{
    const uint64_t n_vectors = aligned(out) && aligned(gate) && aligned(up) ? n / 4 : 0;
    if (n != 0)
        LAUNCH(swiglu, blocks_for(n - n_vectors * 3), THREADS, 0, stream, out, gate, up, n,
               n_vectors);
}

/* Grid: parts of a row, rows of out. */
static __global__ void gather(float *out, const float *x, const uint32_t *rows, uint32_t width,
                              uint32_t vectors)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    const float *from = x + (uint64_t)rows[blockIdx.y] * width;
    float *to = out + (uint64_t)blockIdx.y * width;
    if (vectors && i < width / 4)
        ((float4 *)to)[i] = ((const float4 *)from)[i];
    if (!vectors && i < width)
        to[i] = from[i];
}

void launch_gather(cudaStream_t stream, float *out, const float *x, const uint32_t *rows,
                   uint32_t n, uint32_t width)
{
    const bool vectors = width % 4 == 0 && aligned(out) && aligned(x);
    const uint32_t items = vectors ? width / 4 : width;
    const uint32_t threads = items < THREADS ? (items + 31) / 32 * 32 : THREADS;
    if (n != 0)
        LAUNCH(gather, dim3((items + threads - 1) / threads, n), threads, 0, stream, out, x, rows,
               width, vectors);
}
