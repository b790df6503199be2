/* The layout of a KV page on the device: PAGE_SLOTS slots of one (layer, KV head). kv_write.cu
 * writes it; kernels of attention, scoring and selection read it; no other code knows it.
 *
 *   d = head_dim, g = ceil(d / 32) and g' = ceil(d / 64) groups of dimensions, r = bytes of a row
 *
 *   0            positions   int32 [32]     HOLE: dropped, seen by nobody
 *   128          K           [32][r]        rotated keys. f16, bf16: r = 2 d, d rounded up to 8
 *   128 + 32 r   V           [32][r]        q8: r = d rounded up to 16; q4: r = 16 g
 *   128 + 64 r   K scales    q8: f16 [32][g]; q4: f16 [32][g'][4]: scale, least value, extremes
 *                V scales    q8: f16 [32][g]; q4: f16 [32][g][2]: scale, least value
 *                fifth bits  q4: [32][g] words, bit i of dimension i
 *                places      q4: bytes [32][g'][2]: where the extremes lie
 *                (to a multiple of 128)
 *
 * Rows are whole 16-byte pieces, padded with zeros, so attention copies them to shared memory with
 * cp.async unchanged: row-major K is the column-major B of Q K^T for ldmatrix, and row-major V,
 * transposed by ldmatrix, the B of P V. Sixteen slots of any section are one contiguous run of
 * whole 16-byte pieces (K at d = 128, f16: 4 KB).
 *
 * The numbers are those of the CPU's pages (engine/cpu/page.h says why K of q4 has extremes and
 * five bits). No two tokens share a byte, so a slot can be overwritten or moved alone.
 *
 *   q8: x = scale * q, q -127..127          q4: x = least + scale * q, q 0..15, in K 0..31
 *
 * The nibbles of a 32-bit word of q4 are dimensions 0 2 4 6 1 3 5 7 from its low end, so that a
 * mask and a shift give pairs of neighbours for pairs of halves. */
#ifndef WINNOW_CUDA_KERNELS_PAGE_H
#define WINNOW_CUDA_KERNELS_PAGE_H

#include "cache/policy/plan.h"
#include "cuda/kernels/portable.h"
#include "cuda/kernels/step.h"

#define PAGE_GROUP     32 /* dimensions that share a scale */
#define PAGE_KEY_GROUP 64 /* in K of q4 */

struct page_layout {
    uint32_t head_dim, storage, n_groups, n_key_groups;
    /* Bytes of one slot in each section. */
    uint32_t row_bytes, k_scale_bytes, v_scale_bytes, fifth_bytes, place_bytes;
    /* Offsets of the sections, and the page's size. */
    uint32_t k_at, v_at, k_scales_at, v_scales_at, fifths_at, places_at, bytes;
};

static inline __host__ __device__ page_layout page_layout_of(uint32_t head_dim, uint32_t storage)
{
    page_layout s = {};
    s.head_dim = head_dim;
    s.storage = storage;
    s.n_groups = (head_dim + PAGE_GROUP - 1) / PAGE_GROUP;
    s.n_key_groups = (head_dim + PAGE_KEY_GROUP - 1) / PAGE_KEY_GROUP;
    s.row_bytes = (head_dim + 7) / 8 * 16;
    if (storage == STORAGE_Q8) {
        s.row_bytes = (head_dim + 15) / 16 * 16;
        s.k_scale_bytes = s.v_scale_bytes = s.n_groups * 2;
    } else if (storage == STORAGE_Q4) {
        s.row_bytes = s.n_groups * 16;
        s.k_scale_bytes = s.n_key_groups * 8;
        s.v_scale_bytes = s.n_groups * 4;
        s.fifth_bytes = s.n_groups * 4;
        s.place_bytes = s.n_key_groups * 2;
    }
    s.k_at = PAGE_SLOTS * sizeof(int32_t);
    s.v_at = s.k_at + PAGE_SLOTS * s.row_bytes;
    s.k_scales_at = s.v_at + PAGE_SLOTS * s.row_bytes;
    s.v_scales_at = s.k_scales_at + PAGE_SLOTS * s.k_scale_bytes;
    s.fifths_at = s.v_scales_at + PAGE_SLOTS * s.v_scale_bytes;
    s.places_at = s.fifths_at + PAGE_SLOTS * s.fifth_bytes;
    s.bytes = (s.places_at + PAGE_SLOTS * s.place_bytes + 127) / 128 * 128;
    return s;
}

/* One slot's K or V: pointers to its bytes in each section, in a page or in a copy of it. */
struct page_row {
    const uint8_t *values, *scales, *fifths, *places;
};
static inline __device__ page_row page_k_row(const page_layout &s, const uint8_t *page,
                                             uint32_t slot)
{
    return {page + s.k_at + slot * s.row_bytes, page + s.k_scales_at + slot * s.k_scale_bytes,
            page + s.fifths_at + slot * s.fifth_bytes, page + s.places_at + slot * s.place_bytes};
}
static inline __device__ page_row page_v_row(const page_layout &s, const uint8_t *page,
                                             uint32_t slot)
{
    return {page + s.v_at + slot * s.row_bytes, page + s.v_scales_at + slot * s.v_scale_bytes, NULL,
            NULL};
}

static inline __device__ int32_t *page_positions(uint8_t *page)
{
    return (int32_t *)page;
}
static inline __device__ const int32_t *page_positions(const uint8_t *page)
{
    return (const int32_t *)page;
}

/* Eight codes of q4 from dimension d on, a multiple of 8: their nibbles. */
static inline __device__ uint32_t page_q4_word(const page_row &row, uint32_t d)
{
    return *(const uint32_t *)(row.values + d / 2);
}
static inline __device__ uint32_t page_q4_nibble(uint32_t word, uint32_t i)
{
    return word >> (i / 2 + i % 2 * 4) * 4 & 15;
}

/* A small whole number as float, at the full rate of the device: conversions run at a quarter. */
static inline __device__ float page_float(uint32_t code)
{
    return __uint_as_float(0x4b000000 | code) - 8388608.0f;
}

/* x[8] = dimensions [d, d + 8) of a row of K or V, d a multiple of 8, d < head_dim. Beyond
 * head_dim they are some finite number, 0 in f16 and bf16. */
static inline __device__ void page_load_8(uint32_t storage, const page_row &row, bool is_k,
                                          uint32_t d, float *x)
{
    if (storage == STORAGE_F16 || storage == STORAGE_BF16) {
        const uint4 piece = *(const uint4 *)(row.values + d * 2);
        const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
        for (int i = 0; i < 8; i++) {
            uint32_t bits = words[i / 2] >> i % 2 * 16 & 0xffff;
            x[i] = storage == STORAGE_F16 ? __half2float(__ushort_as_half((unsigned short)bits))
                                          : __uint_as_float(bits << 16);
        }
    } else if (storage == STORAGE_Q8) {
        const uint2 piece = *(const uint2 *)(row.values + d);
        const float scale = __half2float(((const __half *)row.scales)[d / PAGE_GROUP]);
        for (int i = 0; i < 8; i++)
            x[i] = scale *
                   (page_float(((i < 4 ? piece.x : piece.y) >> i % 4 * 8 & 0xff) ^ 0x80) - 128);
    } else if (!is_k) {
        const uint32_t word = page_q4_word(row, d);
        const __half *pair = (const __half *)row.scales + d / PAGE_GROUP * 2;
        for (uint32_t i = 0; i < 8; i++)
            x[i] = fmaf(__half2float(pair[0]), page_float(page_q4_nibble(word, i)),
                        __half2float(pair[1]));
    } else {
        const uint32_t word = page_q4_word(row, d), fifths = row.fifths[d / 8],
                       group = d / PAGE_KEY_GROUP;
        const __half *four = (const __half *)row.scales + group * 4;
        const float scale = __half2float(four[0]), least = __half2float(four[1]);
        for (uint32_t i = 0; i < 8; i++)
            x[i] = fmaf(scale, page_float(page_q4_nibble(word, i) | (fifths >> i & 1) << 4), least);
        for (uint32_t e = 0; e < 2; e++) {
            const uint32_t place = group * PAGE_KEY_GROUP + row.places[group * 2 + e];
            for (uint32_t i = 0; i < 8; i++)
                x[i] = place == d + i ? __half2float(four[2 + e]) : x[i];
        }
    }
}
static inline __device__ void page_load_k(const device_step *shape, const uint8_t *page,
                                          uint32_t slot, uint32_t d, float *x)
{
    const page_layout s = page_layout_of(shape->head_dim, shape->storage);
    page_load_8(s.storage, page_k_row(s, page, slot), true, d, x);
    for (uint32_t i = s.head_dim - d; i < 8; i++)
        x[i] = 0;
}
static inline __device__ void page_load_v(const device_step *shape, const uint8_t *page,
                                          uint32_t slot, uint32_t d, float *x)
{
    const page_layout s = page_layout_of(shape->head_dim, shape->storage);
    page_load_8(s.storage, page_v_row(s, page, slot), false, d, x);
    for (uint32_t i = s.head_dim - d; i < 8; i++)
        x[i] = 0;
}

/* x[i], without an address: x stays in registers. */
static inline __device__ float page_pick(const float *x, uint32_t i)
{
    float found = x[0];
    for (uint32_t j = 1; j < 8; j++)
        found = j == i ? x[j] : found;
    return found;
}

/* One dimension of a slot. */
static inline __device__ float page_k(const page_layout &s, const uint8_t *page, uint32_t slot,
                                      uint32_t d)
{
    float x[8];
    page_load_8(s.storage, page_k_row(s, page, slot), true, d / 8 * 8, x);
    return page_pick(x, d % 8);
}
static inline __device__ float page_v(const page_layout &s, const uint8_t *page, uint32_t slot,
                                      uint32_t d)
{
    float x[8];
    page_load_8(s.storage, page_v_row(s, page, slot), false, d / 8 * 8, x);
    return page_pick(x, d % 8);
}

/* Copies n bytes of a slot, n even, by a warp. */
static inline __device__ void page_move_bytes(uint8_t *to, const uint8_t *from, uint32_t n)
{
    for (uint32_t i = threadIdx.x % 32; i < n / 2; i += 32)
        ((uint16_t *)to)[i] = ((const uint16_t *)from)[i];
}

/* Moves one slot with its position, by the 32 threads of a warp. */
static inline __device__ void page_move_slot(const device_step *shape, uint8_t *to,
                                             uint32_t to_slot, const uint8_t *from,
                                             uint32_t from_slot)
{
    const page_layout s = page_layout_of(shape->head_dim, shape->storage);
    const uint32_t pieces = s.row_bytes / 16;
    for (uint32_t c = threadIdx.x % 32; c < 2 * pieces; c += 32) {
        uint32_t at = (c < pieces ? s.k_at : s.v_at) + c % pieces * 16;
        *(uint4 *)(to + at + to_slot * s.row_bytes) =
            *(const uint4 *)(from + at + from_slot * s.row_bytes);
    }
    page_move_bytes(to + s.k_scales_at + to_slot * s.k_scale_bytes,
                    from + s.k_scales_at + from_slot * s.k_scale_bytes, s.k_scale_bytes);
    page_move_bytes(to + s.v_scales_at + to_slot * s.v_scale_bytes,
                    from + s.v_scales_at + from_slot * s.v_scale_bytes, s.v_scale_bytes);
    page_move_bytes(to + s.fifths_at + to_slot * s.fifth_bytes,
                    from + s.fifths_at + from_slot * s.fifth_bytes, s.fifth_bytes);
    page_move_bytes(to + s.places_at + to_slot * s.place_bytes,
                    from + s.places_at + from_slot * s.place_bytes, s.place_bytes);
    if (threadIdx.x % 32 == 0)
        page_positions(to)[to_slot] = page_positions(from)[from_slot];
}

/* Reads one slot: k, v [head_dim] (NULL: not wanted) and the position, device memory. */
void launch_kv_read(cudaStream_t stream, const uint8_t *pool, uint64_t page_bytes, uint32_t storage,
                    uint32_t head_dim, uint32_t page, uint32_t slot, float *k, float *v,
                    int32_t *position);

#endif
