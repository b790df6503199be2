/* 32 weights of a row as a GGUF file has them, taken apart: what every backend reads before it puts
 * quantised weights in its own order. Any thread; no allocation.
 *
 *     Q8_0, Q4_0, Q5_0    d (q - zero), zero 0, 8, 16; q of Q8_0 is signed
 *     Q4_1, Q5_1          d q + m
 *     Q4_K, Q5_K          d small[0] q - m small[1]
 *     Q6_K                d (q - 32) times (int8) small[i / 16] */
#ifndef WINNOW_ENGINE_MODEL_WEIGHT_BLOCK_H
#define WINNOW_ENGINE_MODEL_WEIGHT_BLOCK_H

#include <stddef.h>
#include <stdint.h>

enum { WEIGHT_BLOCK_VALUES = 32 };

struct weight_block {
    uint8_t q[WEIGHT_BLOCK_VALUES]; /* 4, 5, 6 or 8 bits */
    uint16_t d, m;                  /* f16; of K types for the 256 values around these */
    uint8_t small[2];               /* K types */
};

/* Block `block` of the row at `row`; type is a quantised one (tensor_type.h). What the type does not
 * have is 0. */
void weight_block_read(struct weight_block *b, uint32_t type, const uint8_t *row, uint32_t block);

/* Scale and minimum i (0..7), 6 bits each, of the 12 bytes at p in 256 values of Q4_K or Q5_K. The
 * first four of each are the low bits of bytes 0..3 and 4..7; of the last four, the low nibbles are
 * in bytes 8..11 and the upper two bits on top of bytes 0..7. Always inline: kernels decode with it
 * as they multiply. */
static inline __attribute__((always_inline)) void
weight_block_six_bits(const uint8_t *p, size_t i, uint32_t *scale, uint32_t *minimum)
{
    if (i < 4) {
        *scale = p[i] & 63;
        *minimum = p[i + 4] & 63;
    } else {
        *scale = (p[i + 4] & 15) | (p[i - 4] >> 6) << 4;
        *minimum = (p[i + 4] >> 4) | (p[i] >> 6) << 4;
    }
}

#endif
