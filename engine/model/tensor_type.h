/* The tensor types that winnow reads: one row of TENSOR_TYPES each. A row of a matrix is a whole
 * number of blocks along its contiguous dimension. */
#ifndef WINNOW_ENGINE_MODEL_TENSOR_TYPE_H
#define WINNOW_ENGINE_MODEL_TENSOR_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a weight follows from its code q, a small unsigned integer (signed if it has 8 bits). */
enum weight_scales {
    SCALES_NONE, /* not quantised */
    SCALES_ONE,  /* d (q - zero) */
    SCALES_MIN,  /* d q + m */
    SCALES_K,    /* d s q - dmin m: s and m for 32 values, d and dmin for 256 */
    SCALES_6     /* d s (q - zero): s for 16 values, d for 256 */
};

/* row(name, number in GGUF files, values in a block, bytes of a block, bits of a value or code,
 * scales, zero) */
/* clang-format off */
#define TENSOR_TYPES(row)                                    \
    row(F32, 0, 1, 4, 32, SCALES_NONE, 0)                    \
    row(F16, 1, 1, 2, 16, SCALES_NONE, 0)                    \
    row(BF16, 30, 1, 2, 16, SCALES_NONE, 0)                  \
    row(Q8_0, 8, 32, 34, 8, SCALES_ONE, 0)                   \
    row(Q4_0, 2, 32, 18, 4, SCALES_ONE, 8)                   \
    row(Q4_1, 3, 32, 20, 4, SCALES_MIN, 0)                   \
    row(Q5_0, 6, 32, 22, 5, SCALES_ONE, 16)                  \
    row(Q5_1, 7, 32, 24, 5, SCALES_MIN, 0)                   \
    row(Q4_K, 12, 256, 144, 4, SCALES_K, 0)                  \
    row(Q5_K, 13, 256, 176, 5, SCALES_K, 0)                  \
    row(Q6_K, 14, 256, 210, 6, SCALES_6, 32)
/* clang-format on */

#define TENSOR_ROW(name, number, values, bytes, bits, scales, zero) TENSOR_##name = (number),
enum tensor_type { TENSOR_TYPES(TENSOR_ROW) };
#undef TENSOR_ROW

struct tensor_type_info {
    const char *name;      /* "Q4_K" */
    uint32_t block_values; /* values in a block: 1, 32 or 256 */
    uint32_t block_bytes;
    uint32_t bits; /* of a value or code */
    enum weight_scales scales;
    int32_t zero; /* what codes count from; 0 where there is a minimum */
};

/* NULL for a number that is not one of the types above. Any thread. */
const struct tensor_type_info *tensor_type_info(uint32_t type);

/* Name of any ggml type number, for messages ("IQ2_XS"), or "unknown". */
const char *tensor_type_name(uint32_t type);

#endif
