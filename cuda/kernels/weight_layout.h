/* The layout of weight matrices in device memory: device_weight_pack writes it and the kernels of
 * rows.cu and matmul*.cu read it. Quantised weights keep the file's bits (Q4_0 takes 18 bytes for
 * 32 values in both) and only change places, so that a warp's share of a matrix product is one
 * stream of aligned 16-byte pieces, and each thread finds in its 16 bytes the registers that the
 * tensor cores take.
 *
 * F32, F16, BF16: rows as in the file, each padded with zeros to a multiple of 16 bytes.
 *
 * Quantised: bands of 32 rows, padded with zero rows. A band is the sequence of its blocks of 32
 * rows x 32 columns, from left to right; a kernel's unit of work is two of them.
 *
 *   Q8_0, Q4_0, Q4_1, Q5_0, Q5_1
 *
 *       +---------------+---------------+- - -
 *       |    block 0    |    block 1    |
 *       | quants   d, m | quants   d, m |
 *       +---------------+---------------+- - -
 *
 *   Q4_K, Q5_K, Q6_K: 256 columns; a unit is | quants | quants | scales |
 *
 *       +--------+--------+--------+--------+---------+- - -
 *       | unit 0 | unit 1 | unit 2 | unit 3 | d, dmin |
 *       +--------+--------+--------+--------+---------+- - -
 *
 * Lane l of a warp has group = l / 4 and t = l % 4. Of a block it multiplies the rows group + 8 r,
 * r = 0..3, and the columns 16 h + 4 t + 0..3, h = 0..1. They are the registers a[0..3] of
 * mma.m16n8k16 for rows 16 m .. 16 m + 15 and columns 16 h .. 16 h + 15 (columns may have any order
 * that x has too), a[i] with r = 2 m + i % 2:
 *
 *   a[0]   row 16 m + group,       columns 16 h + 4 t + 0, 1
 *   a[1]   row 16 m + group + 8,   columns 16 h + 4 t + 0, 1
 *   a[2]   row 16 m + group,       columns 16 h + 4 t + 2, 3
 *   a[3]   row 16 m + group + 8,   columns 16 h + 4 t + 2, 3
 *
 * Quants of a block ("pair": the two columns of a register):
 *
 *   4 bits     [32 lanes][m][h] words of 32 bits: the pair of a[i] in the bits 4 i and 16 + 4 i, so
 *              that (word >> 8 * (i / 2)) & 0x000f000f << 4 * (i % 2) is a pair in two halves
 *   + 1 bit    [32 lanes] words after them (Q5): where, see FIFTH_BIT
 *   + 2 bits   [32 lanes][m] words after them (Q6_K): where, see SIXTH_BITS
 *   8 bits     [m][32 lanes][h][i] pairs of bytes, plus 128
 *
 * Scales of a block, [8 groups][4 rows r]:
 *
 *   Q4_0, Q5_0, Q8_0   d
 *   Q4_1, Q5_1         4 times d, then 4 times m (halves)
 *   Q6_K               [h] signed bytes
 *
 * Scales of a unit of Q4_K, Q5_K:
 *
 *   [2 blocks][8 groups] words: the low 4 bits of the scale of row r at 8 r, of the minimum at
 *                        8 r + 4
 *   [8 groups] words:    their high 2 bits: of block b the scale's at 8 r + 4 b, the minimum's at
 *                        8 r + 4 b + 2
 *
 * Of 256 columns, [8 groups]: 4 times d, 4 times dmin (Q4_K, Q5_K); 4 times d (Q6_K); halves. */
#ifndef WINNOW_CUDA_KERNELS_WEIGHT_LAYOUT_H
#define WINNOW_CUDA_KERNELS_WEIGHT_LAYOUT_H

#include "cuda/kernels/portable.h"

#include "cuda/kernels/weight_type.h"

#define BAND_ROWS  32
#define BLOCK_COLS 32

/* The fifth bits of the pair in a[i] of word w = 2 m + h are bits p and 16 + p of the lane's
 * word, p = FIFTH_BIT(w, i). One shift for i = 2 u and i = 2 u + 1 moves them in front of their
 * nibbles, see decode_codes in weight_decode.h. */
#define FIFTH_BIT(w, i) ((w)*2 + (i) / 2 + ((w) < 2 ? 0 : 4) + 4 * ((i) % 2))
/* The upper two bits of the pair in a[i] of (m, h) are bits p, p + 1 and 16 + p, 16 + p + 1 of word
 * m. */
#define SIXTH_BITS(h, i) ((i) / 2 * 2 + 8 * (h) + 4 * ((i) % 2))

/* Sizes in bytes of a type's parts; constant expressions for the kernels. */
struct weight_geometry {
    uint32_t block_bytes;  /* quants and scales of 32 x 32 */
    uint32_t unit_scales;  /* after every second block */
    uint32_t super_scales; /* after every 8 blocks */
};

static __host__ __device__ constexpr weight_geometry weight_geometry_of(uint32_t type)
{
    const weight_traits t = weight_traits_of(type);
    const uint32_t quants = BAND_ROWS * BLOCK_COLS * t.bits / 8;
    switch (t.scales) {
    case SCALES_NONE:
        break;
    case SCALES_ONE:
        return {quants + 64, 0, 0};
    case SCALES_MIN:
        return {quants + 128, 0, 0};
    case SCALES_K:
        return {quants, 96, 128};
    case SCALES_6:
        return {quants + 64, 0, 64};
    }
    return {0, 0, 0};
}

/* Where block `block` of a band begins. */
static __host__ __device__ constexpr uint64_t weight_block_offset(weight_geometry g, uint32_t block)
{
    return (uint64_t)block * g.block_bytes + block / 2 * g.unit_scales + block / 8 * g.super_scales;
}

/* Bytes of a band. K types have a multiple of 8 blocks, so every unit and super block is whole. */
static __host__ __device__ constexpr uint64_t weight_band_bytes(weight_geometry g, uint32_t cols)
{
    return weight_block_offset(g, cols / BLOCK_COLS);
}

/* From one row of an unquantised weight to the next, in bytes. */
static __host__ __device__ constexpr uint64_t weight_row_bytes(uint32_t type, uint32_t cols)
{
    return ((uint64_t)cols * (type == TENSOR_F32 ? 4 : 2) + 15) / 16 * 16;
}

#endif
