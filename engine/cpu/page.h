/* The inside of a KV page on the CPU: PAGE_SLOTS slots of one layer and one KV head, in one of four
 * number formats. D is the head dimension, G = ceil(D / 32) groups of dimensions:
 *
 *     pos      int32 [PAGE_SLOTS]
 *     K        f16 | bf16 [D][PAGE_SLOTS]; q8: int8 [D][PAGE_SLOTS]; q4: two dimensions a byte
 *              [ceil(D / 2)][PAGE_SLOTS], the even one in the low half
 *     V        f16 | bf16 [PAGE_SLOTS][D]; int8 [PAGE_SLOTS][D]; [PAGE_SLOTS][ceil(D / 2)]
 *     K scales f16 [G][PAGE_SLOTS]; q4: then the least values [G][PAGE_SLOTS]
 *     V scales f16 [PAGE_SLOTS][G]; q4: then the least values [PAGE_SLOTS][G]
 *
 * K is transposed: the logits of 32 slots are lanes. Quantised numbers have a scale for 32
 * dimensions of one token, never one for several tokens: so a token can be written, overwritten and
 * moved alone, and what it is rounded to does not depend on its neighbours.
 *
 *     q8: x = scale * q, q -127..127          q4: x = least + scale * q, q 0..15 */
#ifndef WINNOW_ENGINE_CPU_PAGE_H
#define WINNOW_ENGINE_CPU_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "cache/head_state.h"
#include "cache/plan.h"

#define PAGE_GROUP 32 /* dimensions that share a scale */

struct page_shape {
    uint32_t head_dim, n_groups;
    enum plan_storage storage;
    size_t k_at, v_at, k_scales_at, v_scales_at; /* byte offsets */
    size_t bytes;                                /* a multiple of 64 */
};

struct page_shape page_shape_of(uint32_t head_dim, enum plan_storage storage);

static inline int32_t *page_positions(uint8_t *page)
{
    return (int32_t *)page;
}

/* One slot from floats, as floats (k, v may be NULL), and from place to place with its position. */
void page_write(const struct page_shape *shape, uint8_t *page, uint32_t index, const float *k,
                const float *v, int32_t position);
void page_read(const struct page_shape *shape, const uint8_t *page, uint32_t index, float *k,
               float *v);
void page_move(const struct page_shape *shape, uint8_t *to, uint32_t to_index, const uint8_t *from,
               uint32_t from_index);

#endif
