/* Dropping slots in decode, inside the captured step: each head with n_drop > 0 turns its worst
 * slots into holes that later tokens fill. Launched by the engine thread, once a layer.
 *
 * One block a head, 256 threads, 48 registers, 2.4 KB of shared memory. A head with n_drop 0 costs
 * a block that reads one field and returns. The usual case is one slot of about 1024 by scores in
 * an array: a thread loads four slots at once, 8 bytes each, then come two warp reductions and one
 * barrier. That is 8 KB a head where attention before it read 512 KB (head_dim 128, f16): 1.6 % of
 * its bytes. The cost is the latency of a chain of four loads and a launch, by estimate 3 us a
 * layer: over 32 layers 0.1 ms of the 4.8 ms that an H100 takes to read 8B parameters in 16 bits, 2
 * %. More sequences cost no more, since their blocks run side by side. Scores of keys read K again,
 * half of what attention read.
 *
 * Several slots: ranks of the scores go to scratch, the lowest key that stays is found byte by byte
 * (select_block.h), victims are sorted and pushed worst first. */
#include "cuda/kernels/select.h"

#include "cuda/kernels/key_sum.h"
#include "cuda/kernels/score_slot.h"
#include "cuda/kernels/select_block.h"

#define THREADS 256

/* A head that drops, its layer and its scratch. */
struct eviction {
    const struct device_step *step;
    const struct device_segment *segment;
    const struct device_head *heads; /* [n_kv_heads] of the layer */
    const struct device_head *head;
    uint32_t layer, kv_head;
    struct select_scratch scratch;
};

static __device__ struct scoring scoring_of(const struct eviction *e, uint32_t kv_head)
{
    const struct step_choice &c = e->segment->choice;
    struct scoring a = {&e->heads[kv_head], e->head,        c.scorer, e->layer, kv_head,
                        c.n_tokens,         c.vote_queries, c.seed};
    return a;
}

static __device__ bool may_drop(const struct eviction *e, int32_t position)
{
    const struct step_choice &c = e->segment->choice;
    return position != HOLE && !is_protected(position, c.n_tokens, c.sinks, c.recent);
}

/* mean <- mean + (x - mean) / n for K and V, a thread a dimension. Victims come in order of their
 * keys; the division is the CPU's. */
static __device__ void summarise(const struct eviction *e, const uint32_t *victims, uint32_t n)
{
    const uint32_t dim = e->step->head_dim, n_before = e->head->counters->n_summary;
    const struct page_layout layout = page_layout_of(dim, e->step->storage);
    for (uint32_t d = threadIdx.x; d < 2 * dim; d += THREADS) {
        const bool is_key = d < dim;
        const uint32_t at = is_key ? d : d - dim;
        float mean = e->head->summary[d];
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t *page = page_of(e->step, e->head, victims[i]);
            const uint32_t slot = victims[i] % PAGE_SLOTS;
            float x = is_key ? page_k(layout, page, slot, at) : page_v(layout, page, slot, at);
            mean += (x - mean) / (float)(n_before + i + 1);
        }
        e->head->summary[d] = mean;
    }
}

/* Makes holes of victims [n], which are on top of the stack. All threads.
 *
 * What leaves KeyDiff's sum is noted behind it, and the next write takes it off: the other heads of
 * a layer that chooses together may be reading the sum now. */
static __device__ void make_holes(const struct eviction *e, const uint32_t *victims, uint32_t n)
{
    SHARED(double, inverse, [KEY_SUM_SLOTS]);
    if (e->segment->choice.remnant == REMNANT_MEAN)
        summarise(e, victims, n);
    if (e->head->key_sum != NULL)
        key_sum_add(e->step, e->head, e->head->key_sum + e->step->head_dim, n, true, inverse,
                    [=](uint32_t i) { return victims[i]; });
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += THREADS)
        page_positions(page_of(e->step, e->head, victims[i]))[victims[i] % PAGE_SLOTS] = HOLE;
    if (threadIdx.x == 0) {
        e->head->counters->n_holes += n;
        if (e->segment->choice.remnant == REMNANT_MEAN)
            e->head->counters->n_summary += n;
    }
}

/* The slot whose key is the least of the block's. */
static __device__ void drop_least(const struct eviction *e, uint64_t key, uint32_t slot,
                                  struct block_room *room)
{
    uint32_t *top = e->head->holes + e->head->counters->n_holes;
    uint64_t least = block_least(key, room);
    if (least == UINT64_MAX)
        return;
    if (key == least)
        *top = slot;
    __syncthreads();
    make_holes(e, top, 1);
}

/* The usual case: one slot, by numbers in arrays, without scratch. */
static __device__ void drop_one(const struct eviction *e, struct block_room *room)
{
    const struct scoring a = scoring_of(e, e->kv_head);
    uint64_t least = UINT64_MAX;
    uint32_t slot = 0;
    const uint32_t n = e->head->n_slots;
    for (uint32_t first = threadIdx.x; first < n; first += 4 * THREADS) {
        int32_t position[4];
        float score[4]; /* of four slots at once, so that their loads overlap */
        for (uint32_t k = 0; k < 4; k++)
            if (first + k * THREADS < n)
                position[k] = position_of(e->step, e->head, first + k * THREADS);
        for (uint32_t k = 0; k < 4; k++)
            if (first + k * THREADS < n)
                score[k] = score_of(a, first + k * THREADS, position[k]);
        for (uint32_t k = 0; k < 4; k++) {
            if (first + k * THREADS >= n || !may_drop(e, position[k]))
                continue;
            uint64_t key = slot_key(score_rank(score[k]), position[k]);
            slot = key < least ? first + k * THREADS : slot;
            least = key < least ? key : least;
        }
    }
    drop_least(e, least, slot, room);
}

/* Writes scores to the scratch: the head's own, or the mean of those that vote. */
static __device__ void score_head(const struct eviction *e, float *direction)
{
    float *scores = e->scratch.scores;
    const uint32_t warp = threadIdx.x / 32, n = e->step->n_kv_heads;
    if (e->segment->choice.share != SHARE_LAYER) {
        score_slots(e->step, scoring_of(e, e->kv_head), direction, warp, THREADS / 32,
                    [=](uint32_t slot, float score) { scores[slot] = score; });
        return;
    }
    auto votes = [=](uint32_t i) { return e->heads[i].votes != 0; };
    uint32_t n_voters = 0;
    for (uint32_t h = 0; h < n; h++)
        n_voters += votes_in(n, votes, h);
    for (uint32_t h = 0, nth = 0; h < n; h++) {
        if (!votes_in(n, votes, h))
            continue;
        const bool first = nth == 0, last = ++nth == n_voters;
        score_slots(e->step, scoring_of(e, h), direction, warp, THREADS / 32,
                    [=](uint32_t slot, float score) {
                        float sum = first ? score : scores[slot] + score;
                        scores[slot] = last ? sum / (float)n_voters : sum;
                    });
    }
}

struct ranked_slots {
    const struct eviction *e;
    template <class F> __device__ void each_high(F f) const
    {
        for (uint32_t i = threadIdx.x; i < e->head->n_slots; i += THREADS)
            if (e->scratch.ranks[i] != 0)
                f(e->scratch.ranks[i]);
    }
    template <class F> __device__ void each_low(uint32_t high, F f) const
    {
        for (uint32_t i = threadIdx.x; i < e->head->n_slots; i += THREADS)
            if (e->scratch.ranks[i] == high)
                f((uint32_t)position_of(e->step, e->head, i) + 1);
    }
};

static __device__ void drop_several(const struct eviction *e, uint32_t n, uint64_t lowest,
                                    struct block_room *room)
{
    uint64_t *keys = e->scratch.keys;
    uint32_t *top = e->head->holes + e->head->counters->n_holes;
    const auto key_of = [=](uint32_t i) {
        return slot_key(e->scratch.ranks[i], position_of(e->step, e->head, i));
    };
    const auto drops = [=](uint32_t i) {
        uint32_t rank = e->scratch.ranks[i];
        return rank != 0 && rank <= lowest >> 32 && key_of(i) < lowest;
    };
    block_number(0, e->head->n_slots, room, drops,
                 [=](uint32_t i, uint32_t at) { keys[at] = key_of(i); });
    block_sort(keys, n);
    /* Keys differ, so a victim finds its place by its key. */
    for (uint32_t i = threadIdx.x; i < e->head->n_slots; i += THREADS) {
        if (!drops(i))
            continue;
        uint64_t key = key_of(i);
        uint32_t low = 0, high = n - 1;
        while (low < high) {
            uint32_t middle = (low + high) / 2;
            if (keys[middle] < key)
                low = middle + 1;
            else
                high = middle;
        }
        top[low] = i;
    }
    __syncthreads();
    make_holes(e, top, n);
}

/* The other cases: scores of keys or of the layer, several slots. */
static __device__ void drop_ranked(const struct eviction *e, float *direction,
                                   struct block_room *room)
{
    score_head(e, direction);
    __syncthreads();
    uint64_t least = UINT64_MAX;
    uint32_t n = 0, slot = 0;
    for (uint32_t i = threadIdx.x; i < e->head->n_slots; i += THREADS) {
        int32_t position = position_of(e->step, e->head, i);
        uint32_t rank = may_drop(e, position) ? score_rank(e->scratch.scores[i]) : 0;
        e->scratch.ranks[i] = rank;
        n += rank != 0;
        if (rank != 0 && slot_key(rank, position) < least) {
            least = slot_key(rank, position);
            slot = i;
        }
    }
    n = block_sum(n, room);
    const uint32_t n_drop = e->head->n_drop < n ? e->head->n_drop : n;
    if (n_drop == 0)
        return;
    if (n_drop == 1) {
        drop_least(e, least, slot, room);
        return;
    }
    uint64_t lowest = UINT64_MAX;
    if (n_drop < n)
        lowest = block_lowest(ranked_slots{e}, n - n_drop, room).key;
    drop_several(e, n_drop, lowest, room);
}

/* grid (n_kv_heads, segments) */
static __global__ void __launch_bounds__(THREADS)
    evict_kernel(struct device_step step, uint32_t layer, uint32_t first, uint32_t stride,
                 uint8_t *scratch)
{
    SHARED(struct block_room, room, [1]);
    SHARED(float, direction, [SCORE_DIM_MAX]);
    const uint32_t index = first + blockIdx.y, kv_head = blockIdx.x;
    if (index >= step.header->n_segments)
        return;
    const struct device_segment *segment = &step.segments[index];
    const struct device_head *heads =
        &step.heads[((uint64_t)index * step.n_layers + layer) * step.n_kv_heads];
    if (!segment->evicts || heads[kv_head].n_drop == 0)
        return;
    const struct eviction e = {&step,
                               segment,
                               heads,
                               &heads[kv_head],
                               layer,
                               kv_head,
                               select_scratch_of(scratch, gridDim.x * gridDim.y, stride,
                                                 blockIdx.y * gridDim.x + kv_head)};
    if (e.head->n_drop == 1 && segment->choice.share != SHARE_LAYER &&
        !scores_keys(segment->choice.scorer))
        drop_one(&e, room);
    else
        drop_ranked(&e, direction, room);
}

void launch_evict(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                  uint32_t first, uint32_t n, uint32_t max_slots, uint8_t *scratch)
{
    if (n > 0)
        LAUNCH(evict_kernel, dim3(step->n_kv_heads, n), THREADS, 0, stream, *step, layer, first,
               select_stride(max_slots), scratch);
}
