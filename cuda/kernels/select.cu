/* What the slots of a layer's heads are worth at the end of a prompt, before compress.cu chooses:
 * scores, pooling along positions, the mean over heads that decide together. Launched by the engine
 * thread.
 *
 * Bytes: scores in arrays are read once, written once and read again, 12 a slot beside its
 * position: for 8 heads of 100,000 slots 13 MB, a few us at 3.35 TB/s over as many blocks as
 * there are SMs. Scores of keys read K once (256 bytes a slot at head_dim 128, 200 MB, 60 us).
 * Only sorting by position, which a prompt after an earlier compression needs, is done by one
 * block a head. */
#include "cuda/kernels/select.h"

#include "cuda/kernels/score_slot.h"
#include "cuda/kernels/select_block.h"

#define THREADS 256

static __device__ struct scoring scoring_of(const struct device_job *job)
{
    const struct step_choice &c = job->choice;
    struct scoring a = {&job->head,   &job->head, c.scorer,       job->layer,
                        job->kv_head, c.n_tokens, c.vote_queries, c.seed};
    return a;
}

static __device__ bool pools(const struct device_job *job)
{
    const struct step_choice &c = job->choice;
    return c.scorer == SCORER_WINDOW_ATTENTION && c.pooling != POOLING_NONE && c.kernel > 1;
}

/* Slots at positions before this are pooled. */
static __device__ uint32_t pooled_before(const struct device_job *job)
{
    const struct step_choice &c = job->choice;
    return c.n_tokens > c.vote_queries ? c.n_tokens - c.vote_queries : 0;
}

/* Whether this head's scores are needed. */
static __device__ bool is_asked(const struct device_job *jobs, uint32_t n_jobs, uint32_t index)
{
    if (jobs[0].choice.share != SHARE_LAYER)
        return jobs[index].budget != UINT32_MAX;
    return votes_in(
        n_jobs, [&](uint32_t i) { return jobs[i].head.votes; }, index);
}

/* grid (blocks, n_jobs) */
static __global__ void __launch_bounds__(THREADS)
    score_kernel(struct device_step shape, const struct device_job *jobs, uint32_t n_jobs,
                 uint32_t stride, uint8_t *scratch)
{
    SHARED(float, direction, [SCORE_DIM_MAX]);
    const uint32_t index = blockIdx.y;
    if (!is_asked(jobs, n_jobs, index))
        return;
    const struct device_job *job = &jobs[index];
    struct select_scratch b = select_scratch_of(scratch, n_jobs, stride, index);
    float *to = pools(job) ? (float *)b.ranks : b.scores;
    score_slots(&shape, scoring_of(job), direction, blockIdx.x * (THREADS / 32) + threadIdx.x / 32,
                gridDim.x * (THREADS / 32), [=](uint32_t slot, float score) { to[slot] = score; });
}

/* Slots that are pooled, in order of position: keys[i] = position, slot. grid (n_jobs) */
static __global__ void __launch_bounds__(1024)
    order_kernel(struct device_step shape, const struct device_job *jobs, uint32_t n_jobs,
                 uint32_t stride, uint8_t *scratch)
{
    SHARED(struct block_room, room, [1]);
    const uint32_t index = blockIdx.x;
    const struct device_job *job = &jobs[index];
    if (!pools(job) || !is_asked(jobs, n_jobs, index))
        return;
    const struct device_head *head = &job->head;
    const struct select_scratch b = select_scratch_of(scratch, n_jobs, stride, index);
    const uint32_t before = pooled_before(job);
    if (threadIdx.x == 0)
        room->flag = 0;
    uint32_t n = block_number(
        0, head->n_slots, room,
        [&](uint32_t i) { return (uint32_t)position_of(&shape, head, i) < before; },
        [&](uint32_t i, uint32_t at) {
            b.keys[at] = (uint64_t)(uint32_t)position_of(&shape, head, i) << 32 | i;
        });
    for (uint32_t i = threadIdx.x; i + 1 < n; i += blockDim.x)
        if (b.keys[i] > b.keys[i + 1])
            room->flag = 1;
    __syncthreads();
    if (room->flag)
        block_sort(b.keys, n);
    if (threadIdx.x == 0)
        *b.lowest = n;
}

/* As select_pool of cache/policy/select.c, sums in the same order. grid (blocks, n_jobs) */
static __global__ void __launch_bounds__(THREADS)
    pool_kernel(struct device_step shape, const struct device_job *jobs, uint32_t n_jobs,
                uint32_t stride, uint8_t *scratch)
{
    const uint32_t index = blockIdx.y;
    const struct device_job *job = &jobs[index];
    if (!pools(job) || !is_asked(jobs, n_jobs, index))
        return;
    const struct device_head *head = &job->head;
    const struct select_scratch b = select_scratch_of(scratch, n_jobs, stride, index);
    const float *from = (const float *)b.ranks;
    const uint32_t n = (uint32_t)*b.lowest, half = job->choice.kernel / 2,
                   before = pooled_before(job);
    for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < head->n_slots;
         i += gridDim.x * THREADS) {
        if ((uint32_t)position_of(&shape, head, i) >= before)
            b.scores[i] = from[i];
        if (i >= n)
            continue;
        uint32_t first = i > half ? i - half : 0, last = n - i > half ? i + half : n - 1;
        float sum = 0, largest = -INFINITY;
        for (uint32_t k = first; k <= last; k++) {
            float score = from[(uint32_t)b.keys[k]];
            sum += score;
            largest = fmaxf(largest, score);
        }
        b.scores[(uint32_t)b.keys[i]] =
            job->choice.pooling == POOLING_AVG ? sum / (float)job->choice.kernel : largest;
    }
}

/* The heads of a layer hold the same tokens in the same slots and decide together. grid (blocks) */
static __global__ void __launch_bounds__(THREADS)
    share_kernel(const struct device_job *jobs, uint32_t n_jobs, uint32_t stride, uint8_t *scratch)
{
    if (jobs[0].choice.share != SHARE_LAYER)
        return;
    const struct select_scratch first = select_scratch_of(scratch, n_jobs, stride, 0);
    uint32_t n_voters = 0;
    for (uint32_t h = 0; h < n_jobs; h++)
        n_voters += is_asked(jobs, n_jobs, h);
    for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < jobs[0].head.n_slots;
         i += gridDim.x * THREADS) {
        float sum = 0;
        for (uint32_t h = 0; h < n_jobs; h++)
            sum += is_asked(jobs, n_jobs, h) ? first.scores[(uint64_t)h * stride + i] : 0;
        for (uint32_t h = 0; h < n_jobs; h++)
            first.scores[(uint64_t)h * stride + i] = sum / (float)n_voters;
    }
}

void launch_score(cudaStream_t stream, const struct device_step *shape,
                  const struct device_job *jobs, uint32_t n_jobs, uint32_t max_slots,
                  uint8_t *scratch)
{
    /* Eight slots a thread; 128 blocks a head are enough to fill any device. */
    uint32_t blocks = (max_slots + 8 * THREADS - 1) / (8 * THREADS),
             stride = select_stride(max_slots);
    blocks = blocks < 1 ? 1 : blocks > 128 ? 128 : blocks;
    LAUNCH(score_kernel, dim3(blocks, n_jobs), THREADS, 0, stream, *shape, jobs, n_jobs, stride,
           scratch);
    LAUNCH(order_kernel, n_jobs, max_slots > 8192 ? 1024 : 256, 0, stream, *shape, jobs, n_jobs,
           stride, scratch);
    LAUNCH(pool_kernel, dim3(blocks, n_jobs), THREADS, 0, stream, *shape, jobs, n_jobs, stride,
           scratch);
    LAUNCH(share_kernel, blocks, THREADS, 0, stream, jobs, n_jobs, stride, scratch);
}

uint64_t select_scratch_bytes(const struct device_step *shape, uint32_t max_segments,
                              uint32_t max_slots)
{
    uint64_t n_heads = (uint64_t)max_segments * shape->n_kv_heads;
    return n_heads * ((uint64_t)select_stride(max_slots) * SELECT_SLOT_BYTES + SELECT_HEAD_BYTES);
}
