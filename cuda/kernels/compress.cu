/* The end of a prompt: the heads of one layer keep their budgets, and survivors move to the front.
 * Launched by the engine thread, once a layer and prompt, after select.cu has scored.
 *
 * Each head is one block. Choosing reads scores and positions once and ranks three or four
 * times, 24 bytes a slot: for 100,000 slots 2.4 MB, by estimate 30 us at 80 GB/s for one SM.
 * Then survivors behind the first n_kept slots move into the gaps before, each once, a warp a
 * slot in 16-byte pieces: 1024 slots of head_dim 128 in f16 are 0.5 MB read and as many written,
 * 15 us. The prefill before it takes a thousand times as long, so heads are not split over
 * blocks. Moving has 512 threads of at most 128 registers (sums in double), the others 32
 * registers and up to 1024 threads. Dropped slots join the summary in sums by page. */
#include "cuda/kernels/select.h"

#include "cache/policy/select.h"
#include "cuda/kernels/key_sum.h"
#include "cuda/kernels/score_slot.h"
#include "cuda/kernels/select_block.h"

#define MOVE_THREADS 512

/* Slots of a layer's jobs and their ranks, of one head or of all. */
struct ranked_jobs {
    const struct device_step *shape;
    const struct device_job *jobs;
    uint8_t *scratch;
    uint32_t n_jobs, stride;
    uint32_t first, last; /* jobs [first, last) */
    bool rivals;          /* only slots below the scratch's lowest */

    __device__ uint32_t low_of(uint32_t job, uint32_t slot) const
    {
        return (uint32_t)position_of(shape, &jobs[job].head, slot) + 1;
    }
    /* f(job, slot, rank) */
    template <class F> __device__ void each(F f) const
    {
        for (uint32_t j = first; j < last; j++) {
            if (jobs[j].budget == UINT32_MAX)
                continue;
            const struct select_scratch b = select_scratch_of(scratch, n_jobs, stride, j);
            const uint64_t lowest = rivals ? *b.lowest : UINT64_MAX;
            for (uint32_t i = threadIdx.x; i < jobs[j].head.n_slots; i += blockDim.x) {
                uint32_t rank = b.ranks[i], safe = (uint32_t)(lowest >> 32);
                if (rank == 0 || rank > safe || (rank == safe && low_of(j, i) >= (uint32_t)lowest))
                    continue;
                f(j, i, rank);
            }
        }
    }
    template <class F> __device__ void each_high(F f) const
    {
        each([&](uint32_t, uint32_t, uint32_t rank) { f(rank); });
    }
    template <class F> __device__ void each_low(uint32_t high, F f) const
    {
        each([&](uint32_t job, uint32_t slot, uint32_t rank) {
            if (rank == high)
                f(low_of(job, slot));
        });
    }
};

/* Where heads compete: the slots of a head that are free to choose, and how many of them it keeps
 * for sure. Under `adaptive` these follow from what it wins (mix_sizes). */
static __device__ uint32_t free_choice(const struct device_job *jobs, const struct device_job *job)
{
    uint32_t reserved = job->choice.sinks + job->choice.recent, budget = jobs[0].budget;
    return budget > reserved ? budget - reserved : 0;
}

static __device__ uint32_t safe_choice(const struct device_job *jobs, const struct device_job *job)
{
    return jobs[0].choice.allocation == ALLOCATION_ADAPTIVE
               ? 0
               : (uint32_t)floor(ADAPTIVE_ALPHA * free_choice(jobs, job));
}

static __device__ bool compete(const struct device_job *jobs)
{
    return jobs[0].choice.allocation == ALLOCATION_ADAPTIVE ||
           jobs[0].choice.allocation == ALLOCATION_ADAPTIVE_FLOOR;
}

/* The lowest key that stays, as select_survivors of cache/policy/select.c. grid (n_jobs) */
static __global__ void __launch_bounds__(1024)
    choose_kernel(struct device_step shape, const struct device_job *jobs, uint32_t n_jobs,
                  uint32_t stride, uint8_t *scratch)
{
    SHARED(struct block_room, room, [1]);
    const struct device_job *job = &jobs[blockIdx.x];
    if (job->budget == UINT32_MAX)
        return;
    const struct select_scratch b = select_scratch_of(scratch, n_jobs, stride, blockIdx.x);
    const struct step_choice &c = job->choice;
    uint32_t n = 0, n_protected = 0;
    for (uint32_t i = threadIdx.x; i < job->head.n_slots; i += blockDim.x) {
        int32_t p = position_of(&shape, &job->head, i);
        bool is_hole = p == HOLE, stays = is_protected(p, c.n_tokens, c.sinks, c.recent);
        b.ranks[i] = is_hole || stays ? 0 : score_rank(b.scores[i]);
        n += !is_hole && !stays;
        n_protected += !is_hole && stays;
    }
    n = block_sum(n, room);
    n_protected = block_sum(n_protected, room);
    uint32_t places = compete(jobs)               ? safe_choice(jobs, job)
                      : job->budget > n_protected ? job->budget - n_protected
                                                  : 0;
    uint64_t lowest = places == 0 ? UINT64_MAX : 1;
    if (places > 0 && places < n) {
        const struct ranked_jobs own = {&shape, jobs,       scratch,        n_jobs,
                                        stride, blockIdx.x, blockIdx.x + 1, false};
        lowest = block_lowest(own, places, room).key;
    }
    if (threadIdx.x == 0)
        *b.lowest = lowest;
}

/* `adaptive`: the lowest keys of the slots that each head wins become those of its share, as
 * select_adaptive of cache/policy/select.c computes it from how many it wins. */
static __device__ void mix_sizes(const struct ranked_jobs &rivals, struct block_room *room)
{
    uint64_t fifths = 0;
    for (uint32_t j = 0; j < rivals.n_jobs; j++) {
        if (rivals.jobs[j].budget == UINT32_MAX)
            continue;
        struct ranked_jobs own = rivals;
        own.first = j;
        own.last = j + 1;
        own.rivals = false;
        uint64_t *lowest =
            select_scratch_of(rivals.scratch, rivals.n_jobs, rivals.stride, j).lowest;
        __syncthreads();
        const uint64_t won = *lowest, before = fifths;
        uint32_t n = 0, n_won = 0;
        own.each([&](uint32_t job, uint32_t slot, uint32_t rank) {
            n++;
            n_won +=
                rank > won >> 32 || (rank == won >> 32 && own.low_of(job, slot) >= (uint32_t)won);
        });
        n = block_sum(n, room);
        n_won = block_sum(n_won, room);
        fifths += ADAPTIVE_FIFTHS(n_won, free_choice(rivals.jobs, &rivals.jobs[j]));
        const uint32_t size = ADAPTIVE_ROUND(fifths) - ADAPTIVE_ROUND(before);
        uint64_t key = size == 0 ? UINT64_MAX : 1;
        if (size > 0 && size < n)
            key = block_lowest(own, size, room).key;
        __syncthreads();
        if (threadIdx.x == 0)
            *lowest = key;
    }
}

/* Gives what all heads of the layer together may still keep to the best slots that none keeps
 * yet, as select_adaptive of cache/policy/select.c: of equal keys to the lower head. One block. */
static __global__ void __launch_bounds__(1024)
    compete_kernel(struct device_step shape, const struct device_job *jobs, uint32_t n_jobs,
                   uint32_t stride, uint8_t *scratch)
{
    SHARED(struct block_room, room, [1]);
    if (!compete(jobs) || jobs[0].budget == UINT32_MAX)
        return;
    const struct ranked_jobs rivals = {&shape, jobs, scratch, n_jobs, stride, 0, n_jobs, true};
    uint64_t places = 0;
    for (uint32_t j = 0; j < n_jobs; j++)
        places += jobs[j].budget == UINT32_MAX
                      ? 0
                      : free_choice(jobs, &jobs[j]) - safe_choice(jobs, &jobs[j]);
    uint32_t n = 0;
    rivals.each([&](uint32_t, uint32_t, uint32_t) { n++; });
    n = block_sum(n, room);
    if (places == 0 || n == 0)
        return;
    struct lowest found = {1, 0};
    if (places < n)
        found = block_lowest(rivals, (uint32_t)places, room);
    uint32_t n_equal = found.n_equal;
    for (uint32_t j = 0; j < n_jobs; j++) {
        uint64_t *lowest = select_scratch_of(scratch, n_jobs, stride, j).lowest, own = found.key;
        if (found.n_equal > 0) { /* the same position in other heads has the same key */
            struct ranked_jobs of_head = rivals;
            of_head.first = j;
            of_head.last = j + 1;
            uint32_t has = 0;
            of_head.each_low((uint32_t)(found.key >> 32),
                             [&](uint32_t low) { has += low == (uint32_t)found.key; });
            has = block_sum(has, room);
            own += has > 0 && n_equal > 0 ? 0 : 1;
            n_equal -= has > 0 && n_equal > 0;
        }
        __syncthreads();
        if (threadIdx.x == 0 && own < *lowest)
            *lowest = own;
    }
    if (jobs[0].choice.allocation == ALLOCATION_ADAPTIVE)
        mix_sizes(rivals, room);
}

/* A head whose survivors are known. */
struct survivors {
    const struct device_step *shape;
    const struct device_job *job;
    struct select_scratch scratch;
    uint64_t lowest;

    __device__ int32_t position(uint32_t slot) const
    {
        return position_of(shape, &job->head, slot);
    }
    __device__ bool keeps(uint32_t slot) const
    {
        uint32_t rank = scratch.ranks[slot];
        if (rank > 0 && rank != lowest >> 32)
            return rank > lowest >> 32;
        int32_t p = position(slot);
        return rank > 0 ? slot_key(rank, p) >= lowest : p != HOLE;
    }
    __device__ bool drops(uint32_t slot) const
    {
        return !keeps(slot) && position(slot) != HOLE;
    }
};

/* One warp's part of the sums over dropped slots, of 8 values of K and V at once; a lane has the
 * 8 values from `value` on. Sums within a page are floats, since they are 32 numbers of similar
 * size; pages are added in double. */
static __device__ uint32_t sum_dropped(const struct survivors *s, uint32_t value, double *sum)
{
    const uint32_t lane = threadIdx.x % 32, n = s->job->head.n_slots, dim = s->shape->head_dim;
    const uint32_t width = (dim + 7) / 8 * 8;
    uint32_t n_dropped = 0;
    for (uint32_t first = threadIdx.x / 32 * PAGE_SLOTS; first < n; first += MOVE_THREADS) {
        uint32_t which = __ballot_sync(0xffffffffu, first + lane < n && s->drops(first + lane));
        float part[8] = {0};
        const uint8_t *page = page_of(s->shape, &s->job->head, first);
        n_dropped += (uint32_t)__popc(which);
        for (; which != 0 && value < 2 * width; which &= which - 1) {
            float x[8];
            uint32_t slot = (uint32_t)__ffs((int)which) - 1;
            if (value < width)
                page_load_k(s->shape, page, slot, value, x);
            else
                page_load_v(s->shape, page, slot, value - width, x);
            for (uint32_t i = 0; i < 8; i++)
                part[i] += x[i];
        }
        for (uint32_t i = 0; i < 8; i++)
            sum[i] += (double)part[i];
    }
    return n_dropped;
}

/* summary <- the mean of it and of what is dropped. Warps' sums are added in their order. */
static __device__ void summarise(const struct survivors *s, struct block_room *room)
{
    SHARED(double, sums, [2 * SCORE_DIM_MAX]);
    const uint32_t dim = s->shape->head_dim, width = (dim + 7) / 8 * 8, lane = threadIdx.x % 32;
    struct head_counters *counters = s->job->head.counters;
    uint32_t n_dropped = 0;
    for (uint32_t i = threadIdx.x; i < 2 * width; i += MOVE_THREADS)
        sums[i] = 0;
    for (uint32_t first = 0; first < 2 * width; first += 32 * 8) {
        double sum[8] = {0};
        n_dropped = sum_dropped(s, first + lane * 8, sum);
        for (uint32_t warp = 0; warp < MOVE_THREADS / 32; warp++) {
            __syncthreads();
            if (threadIdx.x / 32 == warp && first + lane * 8 < 2 * width)
                for (uint32_t i = 0; i < 8; i++)
                    sums[first + lane * 8 + i] += sum[i];
        }
    }
    n_dropped = block_sum(lane == 0 ? n_dropped : 0, room);
    if (n_dropped == 0)
        return;
    const uint32_t n = counters->n_summary + n_dropped;
    for (uint32_t d = threadIdx.x; d < 2 * dim; d += MOVE_THREADS) {
        double sum = sums[d < dim ? d : width + d - dim], mean = (double)s->job->head.summary[d];
        s->job->head.summary[d] = (float)(mean + (sum - n_dropped * mean) / n);
    }
    __syncthreads();
    if (threadIdx.x == 0)
        counters->n_summary = n;
}

/* One slot with its position, score and history. A warp. */
static __device__ void move_slot(const struct survivors *s, uint32_t to, uint32_t from)
{
    const struct device_head *head = &s->job->head;
    const uint32_t lane = threadIdx.x % 32;
    page_move_slot(s->shape, page_of(s->shape, head, to), to % PAGE_SLOTS,
                   page_of(s->shape, head, from), from % PAGE_SLOTS);
    if (head->scores && lane == 0)
        head->scores[to] = head->scores[from];
    if (head->history && lane < HISTORY_WORDS)
        head->history[(uint64_t)to * HISTORY_WORDS + lane] =
            head->history[(uint64_t)from * HISTORY_WORDS + lane];
}

/* Survivors behind the first n_kept slots are as many as the gaps before: the first survivor
 * goes into the first gap. Returns n_kept. */
static __device__ uint32_t compact(const struct survivors *s, struct block_room *room)
{
    const uint32_t n = s->job->head.n_slots;
    uint32_t n_kept = 0, *gaps = (uint32_t *)s->scratch.keys,
             *movers = (uint32_t *)s->scratch.scores;
    for (uint32_t i = threadIdx.x; i < n; i += MOVE_THREADS)
        n_kept += s->keeps(i);
    n_kept = block_sum(n_kept, room);
    uint32_t n_moves = block_number(
        n_kept, n, room, [=](uint32_t i) { return s->keeps(i); },
        [=](uint32_t i, uint32_t at) { movers[at] = i; });
    block_number(
        0, n_kept, room, [=](uint32_t i) { return !s->keeps(i); },
        [=](uint32_t i, uint32_t at) { gaps[at] = i; });
    for (uint32_t i = threadIdx.x / 32; i < n_moves; i += MOVE_THREADS / 32)
        move_slot(s, gaps[i], movers[i]);
    __syncthreads();
    return n_kept;
}

/* grid (n_jobs) */
static __global__ void __launch_bounds__(MOVE_THREADS)
    compact_kernel(struct device_step shape, const struct device_job *jobs, uint32_t n_jobs,
                   uint32_t stride, uint32_t *n_kept, uint8_t *scratch)
{
    SHARED(struct block_room, room, [1]);
    SHARED(double, inverse, [KEY_SUM_SLOTS]);
    const struct device_job *job = &jobs[blockIdx.x];
    const struct device_head *head = &job->head;
    uint32_t n = head->n_slots; /* slots in use from here on */
    if (job->budget != UINT32_MAX) {
        struct survivors s = {&shape, job, select_scratch_of(scratch, n_jobs, stride, blockIdx.x),
                              0};
        s.lowest = *s.scratch.lowest;
        if (job->choice.remnant == REMNANT_MEAN)
            summarise(&s, room);
        n = compact(&s, room);
        if (head->key_sum != NULL) /* of the keys that are left */
            key_sum_add(&shape, head, head->key_sum, n, true, inverse,
                        [=](uint32_t i) { return i; });
    }
    for (uint32_t i = threadIdx.x; job->forgets && head->scores && i < n; i += MOVE_THREADS)
        head->scores[i] = 0;
    if (threadIdx.x > 0)
        return;
    if (job->budget != UINT32_MAX)
        head->counters->n_holes = 0;
    n_kept[blockIdx.x] = n - head->counters->n_holes;
}

void launch_compress(cudaStream_t stream, const struct device_step *shape,
                     const struct device_job *jobs, uint32_t n_jobs, uint32_t max_slots,
                     uint32_t *n_kept, uint8_t *scratch)
{
    const uint32_t stride = select_stride(max_slots), threads = max_slots > 8192 ? 1024 : 256;
    if (n_jobs == 0)
        return;
    launch_score(stream, shape, jobs, n_jobs, max_slots, scratch);
    LAUNCH(choose_kernel, n_jobs, threads, 0, stream, *shape, jobs, n_jobs, stride, scratch);
    LAUNCH(compete_kernel, 1, threads, 0, stream, *shape, jobs, n_jobs, stride, scratch);
    LAUNCH(compact_kernel, n_jobs, MOVE_THREADS, 0, stream, *shape, jobs, n_jobs, stride, n_kept,
           scratch);
}
