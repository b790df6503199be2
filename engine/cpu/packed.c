/* Packing of quantised weights: see packed.h. Runs once per weight at load. */
#include "engine/cpu/packed.h"

#include <string.h>

#include "engine/model/weight_block.h"

bool packed_format_of(enum tensor_type type, struct packed_format *f)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    if (info == NULL || info->scales == SCALES_NONE)
        return false;
    *f = (struct packed_format){info->bits, info->scales, info->zero};
    return true;
}

struct packed packed_shape(const struct packed_format *f, uint32_t rows, uint32_t cols)
{
    struct packed p = {.format = *f,
                       .rows = rows,
                       .cols = cols,
                       .n_groups = (rows + PACKED_ROWS - 1) / PACKED_ROWS,
                       .n_blocks = cols / PACKED_COLS};
    size_t block = f->scales == SCALES_MIN ? 64 : 32, before = 0;
    if (f->scales == SCALES_K)
        before = 64;
    else if (f->scales == SCALES_6)
        before = 32;
    size_t bytes = p.n_blocks * block + p.n_blocks / PACKED_SUPER * before;
    p.scales_bytes = (bytes + 63) / 64 * 64;
    p.group_bytes = p.scales_bytes + (size_t)p.n_blocks * PACKED_BLOCK_BYTES(f->bits);
    return p;
}

/* Four bits of each of 8 columns: the even ones in the lower 16 bits, the odd ones above. */
static uint32_t four_pairs(const uint8_t *q)
{
    uint32_t words = 0;
    for (int i = 0; i < 4; i++)
        words |= (q[2 * i] & 15u) << 4 * i | (q[2 * i + 1] & 15u) << (16 + 4 * i);
    return words;
}

/* The same for the bits above the lower four: `bits` of each of 32 / bits columns. */
static uint32_t upper_bits(const uint8_t *q, int bits)
{
    uint32_t words = 0;
    for (int i = 0; i < 16 / bits; i++)
        words |= (uint32_t)(q[2 * i] >> 4) << bits * i | (uint32_t)(q[2 * i + 1] >> 4)
                                                             << (16 + bits * i);
    return words;
}

/* values: the block's; r: the row in its group. */
static void put_values(uint8_t *values, const struct packed_format *f, uint32_t r, const uint8_t *q)
{
    if (f->bits == 8) {
        for (int p = 0; p < 16; p++)
            memcpy(values + p * 32 + r * 2, q + 2 * p, 2);
        return;
    }
    uint8_t *at = values + r * 4;
    for (int i = 0; i < 4; i++, at += 64)
        memcpy(at, &(uint32_t){four_pairs(q + 8 * i)}, 4);
    if (f->bits == 5)
        memcpy(at, &(uint32_t){upper_bits(q, 1)}, 4);
    for (int i = 0; f->bits == 6 && i < 2; i++)
        memcpy(at + i * 64, &(uint32_t){upper_bits(q + 16 * i, 2)}, 4);
}

static void put_half(uint8_t *at, uint32_t r, uint16_t h)
{
    memcpy(at + 2 * r, &h, sizeof h);
}

static void put_scales(uint8_t *scales, enum weight_scales kind, uint32_t block, uint32_t r,
                       const struct weight_block *b)
{
    const uint32_t super = block / PACKED_SUPER, part = block % PACKED_SUPER;
    uint8_t *at;
    switch (kind) {
    case SCALES_NONE: /* never packed */
        break;
    case SCALES_ONE:
        put_half(scales + block * 32, r, b->d);
        break;
    case SCALES_MIN:
        put_half(scales + block * 64, r, b->d);
        put_half(scales + block * 64 + 32, r, b->m);
        break;
    case SCALES_K:
        at = scales + super * (64 + PACKED_SUPER * 32);
        put_half(at, r, b->d);
        put_half(at + 32, r, b->m);
        at += 64 + part * 32;
        at[r] = b->small[0];
        at[16 + r] = b->small[1];
        break;
    case SCALES_6:
        at = scales + super * (32 + PACKED_SUPER * 32);
        put_half(at, r, b->d);
        at += 32 + part * 32;
        at[r] = b->small[0];
        at[16 + r] = b->small[1];
        break;
    }
}

void packed_write(const struct packed *p, uint8_t *to, enum tensor_type type, const uint8_t *rows,
                  size_t row_bytes, uint32_t first, uint32_t last)
{
    const size_t block_bytes = PACKED_BLOCK_BYTES(p->format.bits);
    for (uint32_t g = first; g < last; g++) {
        uint8_t *scales = to + g * p->group_bytes, *values = scales + p->scales_bytes;
        for (uint32_t r = 0; r < PACKED_ROWS && g * PACKED_ROWS + r < p->rows; r++) {
            const uint8_t *row = rows + (size_t)(g * PACKED_ROWS + r) * row_bytes;
            for (uint32_t i = 0; i < p->n_blocks; i++) {
                struct weight_block b;
                weight_block_read(&b, type, row, i);
                put_values(values + i * block_bytes, &p->format, r, b.q);
                put_scales(scales, p->format.scales, i, r, &b);
            }
        }
    }
}
