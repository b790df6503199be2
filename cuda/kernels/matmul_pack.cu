/* Weights from the file's layout to the device's (weight_layout.h), on the host, once at start:
 * any thread, one matrix per call. */
#include "cuda/kernels/kernels.h"

#include <string.h>

#include "cuda/kernels/weight_layout.h"

extern "C" {
#include "engine/model/weight_block.h"
}

static void or_word(uint8_t *at, uint32_t bits)
{
    uint32_t word;
    memcpy(&word, at, 4);
    word |= bits;
    memcpy(at, &word, 4);
}

/* Adds the codes of row `row` (of the band) to the quants of a block, whose bits for that row
 * are 0. */
static void put_codes(uint8_t *block, uint32_t bits, const uint8_t *codes, uint32_t row)
{
    const uint32_t group = row % 8, m = row / 16, odd = row / 8 % 2;
    for (uint32_t h = 0; h < 2; h++) {
        for (uint32_t t = 0; t < 4; t++) {
            const uint32_t lane = group * 4 + t, w = m * 2 + h;
            const uint8_t *c = codes + 16 * h + 4 * t;
            if (bits == 8) {
                uint8_t *at = block + (m * 32 + lane) * 16 + h * 8 + odd * 2;
                for (uint32_t k = 0; k < 4; k++)
                    at[k / 2 * 4 + k % 2] = c[k] ^ 0x80; /* signed, plus 128 */
                continue;
            }
            for (uint32_t pair = 0; pair < 2; pair++) {
                const uint32_t i = odd + 2 * pair;
                const uint32_t low = c[2 * pair], high = c[2 * pair + 1];
                or_word(block + lane * 16 + w * 4, ((low & 15) | (high & 15) << 16) << (4 * i));
                const uint32_t upper = low >> 4 | high >> 4 << 16;
                if (bits == 6)
                    or_word(block + 512 + lane * 8 + m * 4, upper << SIXTH_BITS(h, i));
                else if (bits == 5)
                    or_word(block + 512 + lane * 4, upper << FIFTH_BIT(w, i));
            }
        }
    }
}

/* Scales of block `block` of the band at `band`, for row `row`. */
static void put_scales(uint8_t *band, weight_geometry g, weight_scales scales,
                       const struct weight_block *r, uint32_t block, uint32_t row)
{
    const uint32_t group = row % 8, i = row / 8;
    uint8_t *unit = band + weight_block_offset(g, block / 2 * 2);
    uint8_t *super = band + weight_block_offset(g, block / 8 * 8 + 8) - g.super_scales;
    uint8_t *own = band + weight_block_offset(g, block) + g.block_bytes;
    switch (scales) {
    case SCALES_NONE:
        break;
    case SCALES_ONE:
        memcpy(own - 64 + group * 8 + i * 2, &r->d, 2);
        break;
    case SCALES_MIN:
        memcpy(own - 128 + group * 16 + i * 2, &r->d, 2);
        memcpy(own - 128 + group * 16 + 8 + i * 2, &r->m, 2);
        break;
    case SCALES_K:
        unit += 2 * g.block_bytes;
        or_word(unit + block % 2 * 32 + group * 4,
                ((uint32_t)(r->small[0] & 15) | (uint32_t)(r->small[1] & 15) << 4) << (8 * i));
        or_word(unit + 64 + group * 4,
                ((uint32_t)r->small[0] >> 4 | (uint32_t)(r->small[1] >> 4) << 2)
                    << (8 * i + block % 2 * 4));
        memcpy(super + group * 16 + i * 2, &r->d, 2);
        memcpy(super + group * 16 + 8 + i * 2, &r->m, 2);
        break;
    case SCALES_6:
        memcpy(own - 64 + group * 8 + i * 2, r->small, 2);
        memcpy(super + group * 8 + i * 2, &r->d, 2);
        break;
    }
}

uint64_t device_weight_bytes(uint32_t type, uint32_t rows, uint32_t cols)
{
    if (!weight_is_quantised(type))
        return rows * weight_row_bytes(type, cols);
    return ((uint64_t)rows + BAND_ROWS - 1) / BAND_ROWS *
           weight_band_bytes(weight_geometry_of(type), cols);
}

void device_weight_pack(uint8_t *to, const void *from, uint32_t type, uint32_t rows, uint32_t cols)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    const uint64_t file_row = (uint64_t)(cols / info->block_values) * info->block_bytes;
    const uint8_t *file = (const uint8_t *)from;
    memset(to, 0, device_weight_bytes(type, rows, cols));
    if (!weight_is_quantised(type)) {
        const uint64_t row_bytes = weight_row_bytes(type, cols);
        for (uint32_t row = 0; row < rows; row++)
            memcpy(to + row * row_bytes, file + row * file_row, file_row);
        return;
    }
    const weight_traits t = weight_traits_of(type);
    const weight_geometry g = weight_geometry_of(type);
    const uint64_t band_bytes = weight_band_bytes(g, cols);
    for (uint32_t row = 0; row < rows; row++) {
        uint8_t *band = to + row / BAND_ROWS * band_bytes;
        for (uint32_t block = 0; block < cols / BLOCK_COLS; block++) {
            struct weight_block r;
            weight_block_read(&r, type, file + row * file_row, block);
            put_codes(band + weight_block_offset(g, block), t.bits, r.q, row % BAND_ROWS);
            put_scales(band, g, t.scales, &r, block, row % BAND_ROWS);
        }
    }
}
