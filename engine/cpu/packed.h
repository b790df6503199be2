/* Quantised weights as the integer kernels want them: a copy of the matrix, made once at load, in
 * which the rows of a group of 16 lie interleaved, so that a vector of the machine holds the same
 * columns of 8 or 16 rows. Lanes are rows: a product needs no sum over lanes, and every output
 * is added up block after block, in the same order on every machine, for one row of x or many.
 *
 * A group of 16 rows is its scales, then its values, each a multiple of 64 bytes. A block of 32
 * columns is 16 pairs of columns, 2 p and 2 p + 1, and a vector holds one pair of 8 or 16 rows as
 * 16 bits. With r for the row and j for which of the pair:
 *
 *   8 bits   bytes [p][r][j], signed                                             512 bytes
 *   4 bits   words of 16 bits [p / 4][r][j], p % 4 counting their four bits       256
 *   5 bits   the same, then words [r][j] whose bit p is the fifth bit            320
 *   6 bits   the same, then words [p / 8][r][j] with two bits each, p % 8        384
 *
 * and of scales, with 16 of each
 *
 *   SCALES_ONE    f16 d                        w = d (q - zero)
 *   SCALES_MIN    f16 d, f16 m                 w = d q + m
 *   SCALES_K      u8 s, u8 m; before every 8 blocks f16 d, f16 dmin       w = d s q - dmin m
 *   SCALES_6      i8 s of columns 0..15, i8 s of 16..31; before every 8 blocks f16 d
 *                                              w = d s (q - 32)
 *
 * No weight changes its value: what was in the file is only moved. */
#ifndef WINNOW_ENGINE_CPU_PACKED_H
#define WINNOW_ENGINE_CPU_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/model/tensor_type.h"

enum { PACKED_ROWS = 16, PACKED_COLS = 32, PACKED_SUPER = 8 /* blocks under one d */ };

/* Of the integers of a block of 32 columns of a group. */
#define PACKED_BLOCK_BYTES(bits) ((bits) * (PACKED_ROWS * PACKED_COLS / 8))

struct packed_format {
    uint32_t bits; /* 4, 5, 6 or 8 */
    enum weight_scales scales;
    int32_t zero; /* what q counts from; 0 where there is a minimum */
};

/* False for types without one: floats are multiplied as floats. */
bool packed_format_of(enum tensor_type type, struct packed_format *format);

struct packed {
    struct packed_format format;
    uint32_t rows, cols, n_groups, n_blocks; /* groups of 16 rows, blocks of 32 columns */
    size_t scales_bytes, group_bytes;
    const uint8_t
        *data; /* 64-byte aligned, [n_groups][group_bytes]; rows that are not there are 0 */
};

/* Fills everything but data. */
struct packed packed_shape(const struct packed_format *format, uint32_t rows, uint32_t cols);
static inline size_t packed_bytes(const struct packed *p)
{
    return p->n_groups * p->group_bytes;
}

/* Writes groups [first, last) of `to`, which is 0 so far, from rows of `type` as they lie in a
 * file, row_bytes apart. Any thread; groups may be packed by different ones. */
void packed_write(const struct packed *p, uint8_t *to, enum tensor_type type, const uint8_t *rows,
                  size_t row_bytes, uint32_t first, uint32_t last);

/* Rows of x as 16 bits: in every block of 32 columns x = d q, q -32767..32767 to the nearest even,
 * d the largest magnitude / 32767. A block with a number that is not finite has d = NaN.
 *
 * Rows are met in tiles, of as many rows as the registers of an instruction set hold, and the rest
 * in tiles of half of that and so on: n_x in all, from row x0 on. Rows of a tile lie interleaved by
 * pairs of columns, or else loads of the same column of several rows would fall into one bank of
 * the cache (on Zen 3 and rows 4 KiB apart a product takes twice as long). Block b of row x0 + i is
 * at x0 n_blocks + b n_x + i of scales and sums; of values, pair c of 16 is at
 * ((x0 n_blocks + b n_x) 16 + c n_x + i) 2.
 *
 * 16 bits and not 8: with 8, SmolLM2-135M, whose activations have outliers, loses 1.4 % of
 * perplexity (24.45 to 24.80 on two texts of 512 tokens, Q4_1) and names no capital of France. */
struct quantised {
    uint32_t cols, n_blocks;
    int16_t *values;
    float *scales; /* d */
    int32_t *sums; /* two a block: of the values of columns 0..15 and 16..31 */
};

#endif
