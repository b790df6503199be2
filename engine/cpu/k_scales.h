/* The 6-bit scales of Q4_K and Q5_K: read by the kernels that multiply weights as they are in the
 * file (template_decode.h) and by packing (packed.c). */
#ifndef WINNOW_ENGINE_CPU_K_SCALES_H
#define WINNOW_ENGINE_CPU_K_SCALES_H

#include <stddef.h>
#include <stdint.h>

/* Scale and minimum i (0..7), 6 bits each, of the 12 bytes at p in a block of Q4_K or Q5_K. The
 * first four of each are the low bits of bytes 0..3 and 4..7; of the last four, the low nibbles are
 * in bytes 8..11 and the upper two bits on top of bytes 0..7. */
static inline __attribute__((always_inline)) void six_bit_pair(const uint8_t *p, size_t i,
                                                               uint32_t *scale, uint32_t *minimum)
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
