/* The inside of a KV page on the device: PAGE_SLOTS slots of one (layer, KV head). Kernels of
 * attention, scoring and selection read it, kv_write.cu writes it; nobody else knows it.
 *
 *   d = head_dim, r = bytes of a row, g = ceil(d / 32) groups of dimensions
 *
 *   0          positions   int32 [32]                     HOLE: dropped, seen by nobody
 *   128        K           [32][r]   rotated keys by slot   f16, bf16: r = 2 d, d rounded up to 8
 *   128 + 32r  V           [32][r]                          q8: r = d rounded up to 16
 *                                                           q4: r = d / 2, d rounded up to 32
 *   128 + 64r  K scales    q8: f16 [32][g]                q4: f16 [32][g][2]: scale, least value
 *              V scales    likewise
 *              (to a multiple of 128)
 *
 * Rows are whole 16-byte pieces and what pads them is zero, so attention copies them to shared
 * memory with cp.async as they are: row-major K is the column-major B of Q K^T for ldmatrix, and
 * row-major V, transposed by ldmatrix, the B of P V. Sixteen slots of K are one contiguous run (4
 * KB at d = 128, f16).
 *
 * A scale belongs to 32 dimensions of one token: any slot can be overwritten or moved alone.
 *   q8: x = scale * q, q -127..127          q4: x = least + scale * q, q 0..15
 * The nibbles of a 32-bit word of q4 are dimensions 0 2 4 6 1 3 5 7 from its low end: a mask and a
 * shift give pairs of neighbours, as pairs of halves want them. */
#ifndef WINNOW_CUDA_PAGE_H
#define WINNOW_CUDA_PAGE_H

#include "cache/plan.h"
#include "cuda/portable.h"
#include "cuda/step.h"

#define PAGE_GROUP 32 /* dimensions that share a scale */

struct page_layout {
    uint32_t head_dim, storage;
    uint32_t row_bytes, n_groups, scale_bytes; /* of one slot */
    uint32_t k_at, v_at, k_scales_at, v_scales_at, bytes;
};

static inline __host__ __device__ page_layout page_layout_of(uint32_t head_dim, uint32_t storage)
{
    page_layout s = {};
    s.head_dim = head_dim;
    s.storage = storage;
    s.n_groups = (head_dim + PAGE_GROUP - 1) / PAGE_GROUP;
    s.row_bytes = storage == STORAGE_Q8   ? (head_dim + 15) / 16 * 16
                  : storage == STORAGE_Q4 ? s.n_groups * 16
                                          : (head_dim + 7) / 8 * 16;
    s.scale_bytes = storage == STORAGE_Q8   ? s.n_groups * 2
                    : storage == STORAGE_Q4 ? s.n_groups * 4
                                            : 0;
    s.k_at = PAGE_SLOTS * sizeof(int32_t);
    s.v_at = s.k_at + PAGE_SLOTS * s.row_bytes;
    s.k_scales_at = s.v_at + PAGE_SLOTS * s.row_bytes;
    s.v_scales_at = s.k_scales_at + PAGE_SLOTS * s.scale_bytes;
    s.bytes = (s.v_scales_at + PAGE_SLOTS * s.scale_bytes + 127) / 128 * 128;
    return s;
}

static inline __device__ int32_t *page_positions(uint8_t *page)
{
    return (int32_t *)page;
}
static inline __device__ const int32_t *page_positions(const uint8_t *page)
{
    return (const int32_t *)page;
}

/* Rounded to nearest even; beyond +-65504 the largest number, NaN stays NaN: as on the CPU. */
static inline __device__ __half page_half(float x)
{
    return __float2half_rn(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
}

/* Where the byte of dimension d lies in a row of q4, and the shift of its nibble. */
static inline __device__ uint32_t page_q4_byte(uint32_t d, uint32_t *shift)
{
    uint32_t nibble = (d % 8) / 2 + d % 2 * 4;
    *shift = nibble % 2 * 4;
    return d / 8 * 4 + nibble / 2;
}

/* Dimension d of a row as the float that it stands for. row, scales: of the slot. */
static inline __device__ float page_value(const page_layout &s, const uint8_t *row,
                                          const uint8_t *scales, uint32_t d)
{
    const __half *pair =
        (const __half *)scales + d / PAGE_GROUP * (s.storage == STORAGE_Q4 ? 2 : 1);
    uint32_t shift;
    switch (s.storage) {
    case STORAGE_F16:
        return __half2float(((const __half *)row)[d]);
    case STORAGE_BF16:
        return __bfloat162float(((const __nv_bfloat16 *)row)[d]);
    case STORAGE_Q8:
        return __half2float(pair[0]) * (float)((const int8_t *)row)[d];
    default:
        uint32_t byte = row[page_q4_byte(d, &shift)];
        return __half2float(pair[1]) + __half2float(pair[0]) * (float)(byte >> shift & 15);
    }
}

static inline __device__ float page_k(const page_layout &s, const uint8_t *page, uint32_t slot,
                                      uint32_t d)
{
    return page_value(s, page + s.k_at + slot * s.row_bytes,
                      page + s.k_scales_at + slot * s.scale_bytes, d);
}
static inline __device__ float page_v(const page_layout &s, const uint8_t *page, uint32_t slot,
                                      uint32_t d)
{
    return page_value(s, page + s.v_at + slot * s.row_bytes,
                      page + s.v_scales_at + slot * s.scale_bytes, d);
}

/* x[8] = dimensions [d, d + 8) of a slot, d a multiple of 8; 0 behind head_dim. */
static inline __device__ void page_load_8(const page_layout &s, const uint8_t *row,
                                          const uint8_t *scales, uint32_t d, float *x)
{
    if (s.storage == STORAGE_F16 || s.storage == STORAGE_BF16) {
        uint4 piece = *(const uint4 *)(row + d * 2);
        const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
        for (int i = 0; i < 8; i++) {
            uint32_t bits = words[i / 2] >> i % 2 * 16 & 0xffff;
            x[i] = s.storage == STORAGE_F16 ? __half2float(__ushort_as_half((unsigned short)bits))
                                            : __uint_as_float(bits << 16);
        }
    } else {
        for (uint32_t i = 0; i < 8; i++)
            x[i] = d + i < s.head_dim ? page_value(s, row, scales, d + i) : 0;
    }
}
static inline __device__ void page_load_k(const step *shape, const uint8_t *page, uint32_t slot,
                                          uint32_t d, float *x)
{
    page_layout s = page_layout_of(shape->head_dim, shape->storage);
    page_load_8(s, page + s.k_at + slot * s.row_bytes, page + s.k_scales_at + slot * s.scale_bytes,
                d, x);
}
static inline __device__ void page_load_v(const step *shape, const uint8_t *page, uint32_t slot,
                                          uint32_t d, float *x)
{
    page_layout s = page_layout_of(shape->head_dim, shape->storage);
    page_load_8(s, page + s.v_at + slot * s.row_bytes, page + s.v_scales_at + slot * s.scale_bytes,
                d, x);
}

/* One slot with its position from place to place, by the 32 threads of a warp. */
static inline __device__ void page_move_slot(const step *shape, uint8_t *to, uint32_t to_slot,
                                             const uint8_t *from, uint32_t from_slot)
{
    const page_layout s = page_layout_of(shape->head_dim, shape->storage);
    const uint32_t i = threadIdx.x % 32, n = 32;
    const uint32_t pieces = s.row_bytes / 16, halves = s.scale_bytes / 2;
    for (uint32_t c = i; c < 2 * pieces; c += n) {
        uint32_t at = (c < pieces ? s.k_at : s.v_at) + c % pieces * 16;
        *(uint4 *)(to + at + to_slot * s.row_bytes) =
            *(const uint4 *)(from + at + from_slot * s.row_bytes);
    }
    for (uint32_t c = i; c < 2 * halves; c += n) {
        uint32_t at = (c < halves ? s.k_scales_at : s.v_scales_at) + c % halves * 2;
        *(uint16_t *)(to + at + to_slot * s.scale_bytes) =
            *(const uint16_t *)(from + at + from_slot * s.scale_bytes);
    }
    if (i == 0)
        page_positions(to)[to_slot] = page_positions(from)[from_slot];
}

/* Least and largest of a warp's numbers, NaN ignored; without any number +-infinity. */
static inline __device__ float page_least(float x)
{
    int bits = __float_as_int(x == x ? x : __int_as_float(0x7f800000));
    bits = __reduce_min_sync(0xffffffff, bits >= 0 ? bits : bits ^ 0x7fffffff);
    return __int_as_float(bits >= 0 ? bits : bits ^ 0x7fffffff);
}
static inline __device__ float page_largest(float x)
{
    return -page_least(-x);
}

/* The nearest step, at most `most` from 0 or between 0 and most; NaN becomes the least. */
static inline __device__ int page_step(float x, float least, float scale, int from, int to)
{
    float q = scale > 0 ? (x - least) / scale : 0;
    return !(q > (float)from) ? from : q > (float)to ? to : __float2int_rn(q);
}

/* A warp stores x [head_dim] (global memory) as one row; all 32 lanes call. */
static inline __device__ void page_store_row(const page_layout &s, uint8_t *row, uint8_t *scales,
                                             const float *x, uint32_t lane)
{
    const uint32_t d = s.head_dim;
    if (s.storage == STORAGE_F16 || s.storage == STORAGE_BF16) {
        for (uint32_t i = lane; i < s.row_bytes / 2; i += 32) {
            float value = i < d ? x[i] : 0;
            if (s.storage == STORAGE_F16)
                ((__half *)row)[i] = page_half(value);
            else
                ((__nv_bfloat16 *)row)[i] = __float2bfloat16_rn(value);
        }
        return;
    }
    for (uint32_t g = 0; g < s.n_groups; g++) {
        const uint32_t i = g * PAGE_GROUP + lane, in_row = i < s.row_bytes;
        /* What pads a group repeats its first number, which changes neither least nor largest. */
        float value = x[i < d ? i : g * PAGE_GROUP];
        float least = page_least(value), largest = page_largest(value);
        __half *pair = (__half *)scales + g * (s.storage == STORAGE_Q4 ? 2 : 1);
        if (s.storage == STORAGE_Q8) {
            __half scale = page_half(fmaxf(largest, -least) / 127);
            int q = page_step(value, 0, __half2float(scale), -127, 127);
            if (in_row)
                ((int8_t *)row)[i] = (int8_t)(i < d ? q : 0);
            if (lane == 0)
                pair[0] = scale;
            continue;
        }
        __half low = page_half(least);
        __half scale = page_half((largest - __half2float(low)) / 15);
        int q = page_step(value, __half2float(low), __half2float(scale), 0, 15);
        uint32_t shift, byte = page_q4_byte(lane, &shift);
        /* The nibble's partner in the byte is two dimensions on. */
        int other = __shfl_down_sync(0xffffffff, i < d ? q : 0, 2);
        if (shift == 0)
            row[g * 16 + byte] = (uint8_t)((i < d ? q : 0) | other << 4);
        if (lane == 0) {
            pair[0] = scale;
            pair[1] = low;
        }
    }
}

/* Reads one slot: k, v [head_dim] (NULL: not wanted) and the position, device memory. */
void launch_kv_read(cudaStream_t stream, const uint8_t *pool, uint64_t page_bytes, uint32_t storage,
                    uint32_t head_dim, uint32_t page, uint32_t slot, float *k, float *v,
                    int32_t *position);

#endif
