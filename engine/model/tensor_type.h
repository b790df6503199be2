/* The tensor types that winnow reads, numbered as in GGUF files, and their block geometry.
 * A row of a matrix is a whole number of blocks along its contiguous dimension. */
#ifndef WINNOW_ENGINE_MODEL_TENSOR_TYPE_H
#define WINNOW_ENGINE_MODEL_TENSOR_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_Q4_0 = 2,
    TENSOR_Q4_1 = 3,
    TENSOR_Q5_0 = 6,
    TENSOR_Q5_1 = 7,
    TENSOR_Q8_0 = 8,
    TENSOR_Q4_K = 12,
    TENSOR_Q5_K = 13,
    TENSOR_Q6_K = 14,
    TENSOR_BF16 = 30
};

struct tensor_type_info {
    const char *name;      /* "Q4_K" */
    uint32_t block_values; /* values in a block: 1, 32 or 256 */
    uint32_t block_bytes;
};

/* NULL for a number that is not one of the types above. Any thread. */
const struct tensor_type_info *tensor_type_info(uint32_t type);

/* Name of any ggml type number, for messages ("IQ2_XS"), or "unknown". */
const char *tensor_type_name(uint32_t type);

#endif
