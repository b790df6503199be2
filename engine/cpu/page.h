/* KV pages on the CPU: PAGE_SLOTS slots of one layer and one KV head, in one of four number formats.
 * D is the head dimension, G = ceil(D / 32) and G' = ceil(D / 64) groups of dimensions:
 *
 *     pos      int32 [PAGE_SLOTS], in an array of the pool's own
 *     K        f16 | bf16 [D][PAGE_SLOTS]; q8: int8 [D][PAGE_SLOTS]; q4: see below
 *     V        f16 | bf16 [PAGE_SLOTS][D]; q8: int8 [PAGE_SLOTS][D]; q4: two dimensions a byte, the
 *              even one in the low half, [PAGE_SLOTS][ceil(D / 2)]
 *     K scales f16 [G][PAGE_SLOTS]; q4: see below
 *     V scales f16 [PAGE_SLOTS][G]; q4: then the least values [PAGE_SLOTS][G]
 *
 * K of all pages comes first, `stride` bytes a page, then V of all pages, `v_at` bytes behind the K
 * of each: a head whose pages have consecutive numbers is read in two long runs, along which
 * processors fetch ahead (a decoding row at 8,192 tokens, f16, Zen 3: 1.09 times as fast as with K
 * and V of a page side by side in runs of 8 pages, 1.15 in runs of 32). In q4, where V is smaller
 * than K, the two lie side by side.
 *
 *     q8: x = scale * q, q -127..127          q4: x = least + scale * q, q 0..15, in K 0..31
 *
 * K is transposed: the logits of 32 slots are lanes. No two tokens share a scale: so a token can be
 * written, overwritten and moved alone, and what it is rounded to does not depend on its
 * neighbours.
 *
 * Keys are what 4 bits are too few for. Some of their dimensions lie far off zero in every token
 * (slow rotations leave a head's mean key in place) and would stretch the scale of all the others.
 * A scale per channel would see it, but belongs to many tokens at once. So the two dimensions of a
 * group of 64 without which its range is smallest, the extremes, are kept apart as f16, and the
 * rest has 5 bits:
 *
 *     K        [ceil(D / 2)][PAGE_SLOTS]  the lower four bits, two dimensions a byte as in V
 *              [ceil(D / 8)][PAGE_SLOTS]  the fifth bits, of eight dimensions a byte
 *              [2 G'][PAGE_SLOTS]         where in its group an extreme lies; two for each group
 *     K scales f16 [G'][PAGE_SLOTS], the least values [G'][PAGE_SLOTS], the extremes
 *              [2 G'][PAGE_SLOTS]
 *
 * Measured against f16 on SmolLM2-135M, only K quantised, mean KL divergence of 1,536 predictions,
 * and bytes for a K of 64 dimensions: 4 bits and a scale for 32, 0.090 (40 bytes); for 16, 0.064
 * (48); a Walsh-Hadamard transform of K and query before it, 0.046 (40); 4 bits and two extremes,
 * 0.022 (46); the transform and 5 bits, 0.010 (48); this, 0.007 (50). */
#ifndef WINNOW_ENGINE_CPU_PAGE_H
#define WINNOW_ENGINE_CPU_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "cache/pages/head_state.h"
#include "cache/policy/plan.h"

#define PAGE_GROUP     32 /* dimensions that share a scale */
#define PAGE_KEY_GROUP 64 /* in K of q4 */
#define PAGE_EXTREMES  2  /* dimensions of such a group that are kept apart */

struct page_shape {
    uint32_t head_dim, n_groups;
    uint32_t n_key_groups; /* q4 */
    enum plan_storage storage;
    uint32_t k_values, v_values;           /* numbers of a slot: bytes, or halves without scales */
    uint32_t k_scales, v_scales;           /* halves of a slot among the scales */
    size_t fifths_at, extremes_at;         /* q4: byte offsets of the second and third part of K */
    size_t v_at, k_scales_at, v_scales_at; /* byte offsets from where a page's K begins */
    size_t k_bytes, v_bytes, stride;       /* of K and V with scales; multiples of 64 */
    size_t bytes;                          /* of a page in all */
};

/* Of the pages of a pool of n_pages. */
struct page_shape page_shape_of(uint32_t head_dim, enum plan_storage storage, uint32_t n_pages);

/* One slot from floats, as floats (k, v may be NULL), and from place to place. A page is where its
 * K begins. */
void page_write(const struct page_shape *shape, uint8_t *page, uint32_t index, const float *k,
                const float *v);
void page_read(const struct page_shape *shape, const uint8_t *page, uint32_t index, float *k,
               float *v);
void page_move(const struct page_shape *shape, uint8_t *to, uint32_t to_index, const uint8_t *from,
               uint32_t from_index);

#endif
