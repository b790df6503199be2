/* 32 quantised weights of a row, unpacked from the form that GGUF files have. Backends read weights
 * this way before they rearrange them. Any thread; no allocation.
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
    uint16_t d, m;                  /* f16; in K types they are of 256 values */
    uint8_t small[2];               /* K types */
};

/* Reads block `block` of the row at `row`; type is a quantised one (tensor_type.h). Fields that the
 * type does not have become 0. */
void weight_block_read(struct weight_block *b, uint32_t type, const uint8_t *row, uint32_t block);

/* Scale and minimum i (0..7), 6 bits each, from the 12 bytes at p in 256 values of Q4_K or Q5_K.
 * The first four scales are the low 6 bits of bytes 0..3, the first four minima those of bytes
 * 4..7. The last four have their low nibbles in bytes 8..11 and their upper two bits in the top of
 * bytes 0..7. Always inline, because kernels call it in their inner loops. */
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
