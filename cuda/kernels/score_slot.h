/* What a slot is worth to its plan: the scorers of cache/POLICIES.md on the device, as
 * cache/policy/scorer.c has them. Device code for select.cu and evict.cu.
 *
 * Scores in an array are read where they are needed. Scores of keys cost a read of K: four lanes
 * take a slot, 16 bytes each at a time (64 in a row), and add up in an order that depends on the
 * head dimension alone. */
#ifndef WINNOW_CUDA_KERNELS_SCORE_SLOT_H
#define WINNOW_CUDA_KERNELS_SCORE_SLOT_H

#include "cache/policy/plan.h"
#include "cuda/kernels/page.h"
#include "cuda/kernels/portable.h"
#include "cuda/kernels/step.h"

#define SCORE_DIM_MAX 256 /* head_dim */

struct scoring {
    const struct device_head *head;
    const struct device_head *
        held; /* whose positions are read: among heads that decide together each reads its own, because the others may already be making holes */
    uint32_t scorer, layer, kv_head, n_tokens, vote_queries;
    int64_t seed;
};

/* The table's column on the device. */
__device__ static inline enum scorer_reads reads_of(uint32_t scorer)
{
#define READS_OF(id, name, reads, ...)                                                             \
    case SCORER_##id:                                                                              \
        return SCORER_READS_##reads;
    switch ((enum plan_scorer)scorer) {
        SCORERS(READS_OF)
    case N_SCORERS:
        break;
    }
#undef READS_OF
    return SCORER_READS_POSITIONS;
}

__device__ static inline bool scores_keys(uint32_t scorer)
{
    return reads_of(scorer) == SCORER_READS_KEYS || reads_of(scorer) == SCORER_READS_DIRECTION;
}

__device__ static inline uint8_t *page_of(const struct device_step *step,
                                          const struct device_head *head, uint32_t slot)
{
    return step->pool + head->pages[slot / PAGE_SLOTS] * step->page_bytes;
}

__device__ static inline int32_t position_of(const struct device_step *step,
                                             const struct device_head *head, uint32_t slot)
{
    return page_positions(page_of(step, head, slot))[slot % PAGE_SLOTS];
}

/* The finaliser of splitmix64 (Steele, Lea and Flood, 2014), as in cache/policy/select.c. */
__device__ static inline uint64_t random_mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* select_random of cache/policy/select.h, the same bits. */
__device__ static inline float random_score(int64_t seed, uint32_t layer, uint32_t kv_head,
                                            int32_t position)
{
    uint64_t h = random_mix((uint64_t)seed + 0x9E3779B97F4A7C15u);
    h = random_mix(h ^ ((uint64_t)layer << 32 | kv_head));
    h = random_mix(h ^ (uint32_t)position);
    return (float)(h >> 40) * 0x1p-24f;
}

/* The value under scorers that do not read keys. Every scorer has a case: the compiler asks for
 * a new one's. */
__device__ static inline float score_of(const struct scoring &a, uint32_t slot, int32_t position)
{
    const struct device_head *head = a.head;
    switch ((enum plan_scorer)a.scorer) {
    case SCORER_ATTENTION_SUM:
    case SCORER_LAST_QUERY:
        return head->scores[slot];
    case SCORER_ATTENTION_MEAN:
        return head->scores[slot] / (float)(a.n_tokens - (uint32_t)position);
    case SCORER_WINDOW_ATTENTION:
        return head->scores[slot] / (float)a.vote_queries;
    case SCORER_PERSISTENCE: {
        uint32_t n = 0;
        for (uint32_t w = 0; w < HISTORY_WORDS; w++)
            n += (uint32_t)__popc(head->history[(uint64_t)slot * HISTORY_WORDS + w]);
        return (float)n;
    }
    case SCORER_RANDOM:
        return random_score(a.seed, a.layer, a.kv_head, position);
    case SCORER_NONE:
    case SCORER_RECENCY:
        return (float)position;
    case SCORER_KEY_NORM: /* score_of_key */
    case SCORER_KEY_DIFF:
    case N_SCORERS:
        break;
    }
    return 0;
}

/* The value under the others, from a key's dot product with the mean direction and the square of
 * its length. */
__device__ static inline float score_of_key(uint32_t scorer, float dot, float square)
{
    if (reads_of(scorer) == SCORER_READS_KEYS)
        return -sqrtf(square);
    return square > 0 ? -dot / sqrtf(square) : 0;
}

/* Whether head `index` is among those whose mean is the layer's score. If no head votes, all do.
 * votes(i) of heads i < n. */
template <class Votes>
__device__ static inline bool votes_in(uint32_t n, Votes votes, uint32_t index)
{
    if (votes(index))
        return true;
    for (uint32_t i = 0; i < n; i++)
        if (votes(i))
            return false;
    return true;
}

/* direction[head_dim] = key_sum / |key_sum|, 0 where there is none. All threads. */
__device__ static inline void load_direction(const double *key_sum, uint32_t head_dim,
                                             float *direction)
{
    __shared__ double length;
    __syncthreads();
    if (threadIdx.x < 32) {
        double sum = 0;
        for (uint32_t d = threadIdx.x; d < head_dim; d += 32)
            sum += key_sum[d] * key_sum[d];
        for (uint32_t m = 16; m > 0; m /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, m);
        if (threadIdx.x == 0)
            length = sqrt(sum);
    }
    __syncthreads();
    for (uint32_t d = threadIdx.x; d < head_dim; d += blockDim.x)
        direction[d] = length > 0 ? (float)(key_sum[d] / length) : 0;
    __syncthreads();
}

/* Calls take(slot, score) for slots of [0, n_slots), those of warps first_warp, first_warp +
 * n_warps, ... direction: shared [head_dim], or NULL. Whole warps. */
template <class Take>
__device__ static inline void
score_keys(const struct device_step *step, const struct device_head *head, uint32_t scorer,
           const float *direction, uint32_t first_warp, uint32_t n_warps, Take take)
{
    const uint32_t lane = threadIdx.x % 32, n = head->n_slots, dim = step->head_dim;
    for (uint32_t base = first_warp * 8; base < n; base += n_warps * 8) {
        const uint32_t slot = base + lane / 4;
        float dot = 0, square = 0;
        if (slot < n) {
            const uint8_t *page = page_of(step, head, slot);
            for (uint32_t d = lane % 4 * 8; d < dim; d += 32) {
                float x[8];
                page_load_k(step, page, slot % PAGE_SLOTS, d, x);
                for (uint32_t i = 0; i < 8; i++)
                    if (d + i < dim) {
                        square += x[i] * x[i];
                        dot += direction ? x[i] * direction[d + i] : 0;
                    }
            }
        }
        for (uint32_t m = 1; m < 4; m *= 2) {
            dot += __shfl_xor_sync(0xffffffffu, dot, m);
            square += __shfl_xor_sync(0xffffffffu, square, m);
        }
        if (slot < n && lane % 4 == 0)
            take(slot, score_of_key(scorer, dot, square));
    }
}

/* Calls take(slot, score) for slots of warps as above; every slot always by the same thread. room:
 * shared [SCORE_DIM_MAX]. All threads of the block. */
template <class Take>
__device__ static inline void score_slots(const struct device_step *step, const struct scoring &a,
                                          float *room, uint32_t first_warp, uint32_t n_warps,
                                          Take take)
{
    if (scores_keys(a.scorer)) {
        bool angles = reads_of(a.scorer) == SCORER_READS_DIRECTION;
        if (angles)
            load_direction(a.head->key_sum, step->head_dim, room);
        score_keys(step, a.head, a.scorer, angles ? room : NULL, first_warp, n_warps, take);
        return;
    }
    for (uint32_t i = first_warp * 32 + threadIdx.x % 32; i < a.head->n_slots; i += n_warps * 32)
        take(i, score_of(a, i, position_of(step, a.held, i)));
}

#endif
