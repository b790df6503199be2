/* Quantised weights for the integer kernels: a copy of the matrix, made once at load, in which
 * groups of 16 rows are interleaved, so that a vector holds the same columns of 8 or 16 rows. Lanes
 * are rows: a product needs no sum over lanes, and every output is summed block by block, in the
 * same order on every machine, for one row of x or many.
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
 * and the scales, 16 of each:
 *
 *   SCALES_ONE    f16 d                        w = d (q - zero)
 *   SCALES_MIN    f16 d, f16 m                 w = d q + m
 *   SCALES_K      u8 s, u8 m; before every 8 blocks f16 d, f16 dmin       w = d s q - dmin m
 *   SCALES_6      i8 s of columns 0..15, i8 s of 16..31; before every 8 blocks f16 d
 *                                              w = d s (q - 32)
 *
 * Packing moves the file's numbers and does not change them. */
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

/* False for types without a packed form: floats are multiplied as floats. */
bool packed_format_of(enum tensor_type type, struct packed_format *format);

struct packed {
    struct packed_format format;
    uint32_t rows, cols, n_groups, n_blocks; /* groups of 16 rows, blocks of 32 columns */
    size_t scales_bytes, group_bytes;
    const uint8_t *data; /* 64-byte aligned, [n_groups][group_bytes]; rows beyond the last are 0 */
};

/* Fills everything but data. */
struct packed packed_shape(const struct packed_format *format, uint32_t rows, uint32_t cols);
static inline size_t packed_bytes(const struct packed *p)
{
    return p->n_groups * p->group_bytes;
}

/* Writes groups [first, last) of `to`, which must be zeroed, from a file's rows of `type`,
 * row_bytes apart. Any thread; different threads may pack different groups. */
void packed_write(const struct packed *p, uint8_t *to, enum tensor_type type, const uint8_t *rows,
                  size_t row_bytes, uint32_t first, uint32_t last);

/* Rows of x as 16 bits: in every block of 32 columns x = d q, q -32767..32767 to the nearest even,
 * d the largest magnitude / 32767. A block with a number that is not finite has d = NaN.
 *
 * Rows are multiplied in tiles. A tile has as many rows as fit an instruction set's registers; the
 * remaining rows are in tiles of half of that, and so on. A tile has n_x rows from row x0 on. Its
 * rows are interleaved by pairs of columns, because loads of the same column of several rows would
 * otherwise use the same bank of the cache (on Zen 3, with rows 4 KiB apart, a product takes twice
 * as long). Block b of row x0 + i is at x0 n_blocks + b n_x + i of scales and sums; of values, pair
 * c of 16 is at ((x0 n_blocks + b n_x) 16 + c n_x + i) 2.
 *
 * x has 16 bits and not 8 because of outliers in activations: with 8 bits the perplexity of
 * SmolLM2-135M rises by 1.4 % (24.45 to 24.80 on two texts of 512 tokens, Q4_1), and it no longer
 * names the capital of France. */
struct quantised {
    uint32_t cols, n_blocks;
    int16_t *values;
    float *scales; /* d */
    int32_t *sums; /* two per block: of columns 0..15 and 16..31 */
};

#endif
