/* KV pages on the CPU: PAGE_SLOTS slots of one layer and one KV head, in one of four number
 * formats. D is the head dimension, G = ceil(D / 32) and G' = ceil(D / 64) groups of dimensions:
 *
 *     pos      int32 [PAGE_SLOTS], in a separate array of the pool
 *     K        f16 | bf16 [D][PAGE_SLOTS]; q8: int8 [D][PAGE_SLOTS]; q4: see below
 *     V        f16 | bf16 [PAGE_SLOTS][D]; q8: int8 [PAGE_SLOTS][D]; q4: two dimensions a byte, the
 *              even one in the low half, [PAGE_SLOTS][ceil(D / 2)]
 *     K scales f16 [G][PAGE_SLOTS]; q4: see below
 *     V scales f16 [PAGE_SLOTS][G]; q4: then the least values [PAGE_SLOTS][G]
 *
 * K of all pages comes first, `stride` bytes per page, then V of all pages; the V of a page is
 * `v_at` bytes after its K. So a head whose pages have consecutive numbers is read in two long
 * streams, which processors prefetch: with f16, 8,192 tokens and Zen 3 a decode row is 1.09 times
 * as fast as with K and V side by side for pages in runs of 8, and 1.15 times for runs of 32. In
 * q4, where V is smaller than K, the two are side by side.
 *
 *     q8: x = scale * q, q -127..127          q4: x = least + scale * q, q 0..15, in K 0..31
 *
 * K is transposed, so that the logits of slots are lanes. Tokens do not share scales, so that a
 * token can be written, overwritten and moved alone, and its rounding does not depend on its
 * neighbours.
 *
 * 4 bits are too few for keys. Some of their dimensions are far from zero in every token (slow
 * rotations leave a head's mean key in place) and would enlarge the scale of all others. A scale
 * per channel would avoid that, but tokens would share it. So each group of 64 stores two
 * dimensions, its extremes, as f16: those without which its range is smallest. The others have 5
 * bits:
 *
 *     K        [ceil(D / 2)][PAGE_SLOTS]  the lower four bits, two dimensions a byte as in V
 *              [ceil(D / 8)][PAGE_SLOTS]  the fifth bits, of eight dimensions a byte
 *              [2 G'][PAGE_SLOTS]         the place of each extreme in its group; two per group
 *     K scales f16 [G'][PAGE_SLOTS], the least values [G'][PAGE_SLOTS], the extremes
 *              [2 G'][PAGE_SLOTS]
 *
 * Mean KL divergence from f16 over 1,536 predictions of SmolLM2-135M with only K quantised, and
 * bytes for a K of 64 dimensions:
 *
 *     4 bits, a scale for 32 dimensions                       0.090    40
 *     4 bits, a scale for 16 dimensions                       0.064    48
 *     4 bits after a Walsh-Hadamard transform of K and query  0.046    40
 *     4 bits and two extremes                                 0.022    46
 *     5 bits after the transform                              0.010    48
 *     5 bits and two extremes (this)                          0.007    50 */
#ifndef WINNOW_ENGINE_CPU_PAGE_H
#define WINNOW_ENGINE_CPU_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "cache/pages/head_state.h"
#include "cache/policy/plan.h"

#define PAGE_GROUP     32 /* dimensions that share a scale */
#define PAGE_KEY_GROUP 64 /* in K of q4 */
#define PAGE_EXTREMES  2  /* dimensions of a q4 group that are stored as f16 */

struct page_shape {
    uint32_t head_dim, n_groups;
    uint32_t n_key_groups; /* q4 */
    enum plan_storage storage;
    uint32_t k_values, v_values;           /* numbers of a slot: bytes, or halves without scales */
    uint32_t k_scales, v_scales;           /* halves of a slot among the scales */
    size_t fifths_at, extremes_at;         /* q4: byte offsets of the second and third part of K */
    size_t v_at, k_scales_at, v_scales_at; /* byte offsets from the beginning of a page's K */
    size_t k_bytes, v_bytes, stride;       /* of K and V with scales; multiples of 64 */
    size_t bytes;                          /* of a page in all */
};

/* Of the pages of a pool of n_pages. */
struct page_shape page_shape_of(uint32_t head_dim, enum plan_storage storage, uint32_t n_pages);

/* Writes a slot from floats, reads it as floats (k, v may be NULL), and moves it. A page is the
 * address of its K. */
void page_write(const struct page_shape *shape, uint8_t *page, uint32_t index, const float *k,
                const float *v);
void page_read(const struct page_shape *shape, const uint8_t *page, uint32_t index, float *k,
               float *v);
void page_move(const struct page_shape *shape, uint8_t *to, uint32_t to_index, const uint8_t *from,
               uint32_t from_index);

#endif
