/* Unpacks quantised weights: see weight_block.h. */
#include "engine/model/weight_block.h"

#include <string.h>

#include "engine/model/tensor_type.h"

/* Blocks of K types that share d, m and the bytes of their small scales. */
enum { PARTS = 8 };

static uint16_t half_bits(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

/* 16 bytes: the low nibbles are values 0..15, the high nibbles 16..31. */
static void take_nibbles(uint8_t *q, const uint8_t *p)
{
    for (int i = 0; i < 16; i++) {
        q[i] = p[i] & 15;
        q[i + 16] = p[i] >> 4;
    }
}

/* 32 bits: the fifth bit of value i is bit i. */
static void take_fifths(uint8_t *q, const uint8_t *p)
{
    uint32_t bits;
    memcpy(&bits, p, sizeof bits);
    for (int i = 0; i < 32; i++)
        q[i] |= (uint8_t)((bits >> i & 1) << 4);
}

/* Two blocks of a K type share 32 bytes: the low nibbles are the first block, the high ones the
 * second. */
static void take_k_nibbles(uint8_t *q, const uint8_t *p, uint32_t high)
{
    for (int i = 0; i < 32; i++)
        q[i] = p[i] >> (4 * high) & 15;
}

static void take_k_scales(struct weight_block *b, const uint8_t *p, uint32_t part)
{
    uint32_t scale, minimum;
    weight_block_six_bits(p, part, &scale, &minimum);
    b->small[0] = (uint8_t)scale;
    b->small[1] = (uint8_t)minimum;
}

/* { low nibbles[2][64]; high pairs[2][32]; int8 scales[16]; f16 d } */
static void take_q6_k(struct weight_block *b, const uint8_t *p, uint32_t part)
{
    const uint32_t half = part / 4, quarter = part % 4;
    const uint8_t *pairs = p + 128 + half * 32;
    b->d = half_bits(p + 208);
    memcpy(b->small, p + 192 + part * 2, 2);
    take_k_nibbles(b->q, p + half * 64 + quarter % 2 * 32, quarter / 2);
    for (int i = 0; i < 32; i++)
        b->q[i] |= (uint8_t)((pairs[i] >> (2 * quarter) & 3) << 4);
}

void weight_block_read(struct weight_block *b, uint32_t type, const uint8_t *row, uint32_t block)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    const uint32_t part = block % PARTS, at = info->block_values == 32 ? block : block / PARTS;
    const uint8_t *p = row + (size_t)at * info->block_bytes;
    memset(b, 0, sizeof *b);
    b->d = half_bits(p);
    switch (type) {
    case TENSOR_Q8_0:
        memcpy(b->q, p + 2, 32);
        break;
    case TENSOR_Q4_0:
        take_nibbles(b->q, p + 2);
        break;
    case TENSOR_Q4_1:
        b->m = half_bits(p + 2);
        take_nibbles(b->q, p + 4);
        break;
    case TENSOR_Q5_0:
        take_nibbles(b->q, p + 6);
        take_fifths(b->q, p + 2);
        break;
    case TENSOR_Q5_1:
        b->m = half_bits(p + 2);
        take_nibbles(b->q, p + 8);
        take_fifths(b->q, p + 4);
        break;
    case TENSOR_Q4_K:
        b->m = half_bits(p + 2);
        take_k_scales(b, p + 4, part);
        take_k_nibbles(b->q, p + 16 + part / 2 * 32, part % 2);
        break;
    case TENSOR_Q5_K:
        b->m = half_bits(p + 2);
        take_k_scales(b, p + 4, part);
        take_k_nibbles(b->q, p + 48 + part / 2 * 32, part % 2);
        for (int i = 0; i < 32; i++)
            b->q[i] |= (uint8_t)((p[16 + i] >> part & 1) << 4);
        break;
    case TENSOR_Q6_K:
        take_q6_k(b, p, part);
        break;
    default:
        break;
    }
}
