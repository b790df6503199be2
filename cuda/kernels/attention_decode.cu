/* Attention of rows that are alone in their segment (decode), flash-decoding: a head's slots are
 * cut into splits, one block each, whose results a second kernel merges by their maxima and sums;
 * the merge also turns logits that were kept into scores, so K is read once.
 *
 *   split kernel   block (KV head, segment, split): all query heads of the group, padded to 16 rows
 * of an mma tile. Its 4 warps walk tiles of 16 slots, each its own (tile w, w + 4, ...) with a ring
 * of STAGES tiles in shared memory filled by cp.async: no barrier in the loop. merge kernel   block
 * (KV head, segment, split): the first adds up the output and the summary slot, each scores the
 * slots of its split.
 *
 * Where splits end depends on the head's n_slots alone (split_pages), never on the batch, and every
 * sum has one order: a sequence's bits are the same alone and in a crowd.
 *
 * Cost at d = 128, f16, group of 4, 32 sequences x 8 KV heads x 8192 slots: 516 bytes a slot, 1.08
 * GB, 323 us at 3.35 TB/s. An SM's share is 14.5 bytes a cycle, 36 cycles a slot. A tile of 16
 * slots takes a warp 8 x (1 + 2) + 8 ldmatrix, 8 x 2 x 2 + 8 x 2 x 2 mma (queries in two parts,
 * weights in two), 17 cp.async and about 200 others: 20 issue slots a slot of the 144 that 36
 * cycles have; the mma take 4 mma x 2048 products / 1024 a cycle = 8 cycles a slot of the 36.
 * Memory is the limit, by a factor of four. In flight: (STAGES - 1) x 8.2 KB x 4 warps = 66 KB a
 * block; 111 KB of shared memory without sink queries, so two blocks on an SM of 227 KB: 131 KB,
 * three times what latency x bandwidth (~40 KB) asks. A block of 512 slots (8k) moves 264 KB in
 * about 20 us, its start and end (queries, merge of 4 warps, 2 us) hidden behind the other block.
 *
 * Quantised tiles come as they lie in the page and are unpacked into a tile of the warp's own; 276
 * bytes (q8) or 192 (q4) a slot of d = 128, 19 or 13 cycles. Unpacking takes about 8 instructions a
 * number of K and 6 of V, 56 issue slots a slot, the rest 25, of 76 (q8) and 53 (q4): q8 is at the
 * limit of memory and of issue at once, q4 is held by issue at about two thirds of the memory's
 * rate, and still reads a slot in half the time of f16. */
#include <cassert>

#include "cuda/kernels/attention_tile.h"
#include "cuda/kernels/kernels.h"

#include "cache/pages/cache.h"

constexpr uint32_t MERGE_WARPS = 4, TILE_SLOTS = 16, MAX_SPLITS = 32;

/* Pages of a split: 8 pages (256 slots) up to 16 splits, then as few splits as 16 pages each make,
 * to 32 at most. */
static __device__ uint32_t split_pages(uint32_t n_pages)
{
    const uint32_t sixteenth = (n_pages + 15) / 16, least = (n_pages + MAX_SPLITS - 1) / MAX_SPLITS;
    const uint32_t pages = sixteenth < 16 ? sixteenth : 16;
    return pages < 8 && least < 8 ? 8 : pages > least ? pages : least;
}
static __device__ uint32_t n_splits(uint32_t n_slots)
{
    const uint32_t n_pages = (n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    return n_pages == 0 ? 1 : (n_pages + split_pages(n_pages) - 1) / split_pages(n_pages);
}
/* Of any head of at most max_slots. */
static uint32_t max_splits(uint32_t max_slots)
{
    const uint32_t pages = (max_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    /* split_pages is 8 at least, so there are at most pages / 8 of them. */
    const uint32_t most = (pages + 7) / 8;
    return most < 1 ? 1 : most > MAX_SPLITS ? MAX_SPLITS : most;
}

/* A split's result for one query head: [head_dim] values, maximum, sum, slots seen (as bits). */
static __host__ __device__ uint32_t partial_floats(uint32_t head_dim)
{
    return (head_dim + 3 + 3) / 4 * 4;
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

uint64_t attention_workspace_bytes(const struct device_step *shape, uint32_t max_rows,
                                   uint32_t max_decode, uint32_t max_slots)
{
    struct attention_workspace w;
    attention_workspace_place(&w, shape, NULL, max_rows, max_decode, max_slots);
    return (uint64_t)(uintptr_t)w.n_seen +
           aligned((uint64_t)max_rows * shape->n_kv_heads * sizeof(uint32_t));
}

void attention_workspace_place(struct attention_workspace *w, const struct device_step *shape,
                               uint8_t *memory, uint32_t max_rows, uint32_t max_decode,
                               uint32_t max_slots)
{
    const uint64_t heads = (uint64_t)max_decode * shape->n_heads;
    const uint32_t slots = (max_slots + PAGE_SLOTS - 1) / PAGE_SLOTS * PAGE_SLOTS;
    uint64_t at = (uint64_t)(uintptr_t)memory;
    w->max_rows = max_rows;
    w->max_decode = max_decode;
    w->max_slots = slots;
    w->partial = (float *)(uintptr_t)at;
    at += aligned(heads * max_splits(slots) * partial_floats(shape->head_dim) * sizeof(float));
    w->weights = (float *)(uintptr_t)at;
    at += aligned(heads * slots * sizeof(float));
    w->softmax = (float *)(uintptr_t)at;
    at += aligned((uint64_t)max_rows * shape->n_heads * 2 * sizeof(float));
    w->n_seen = (uint32_t *)(uintptr_t)at;
}

/* What both kernels find at their block's coordinates. */
struct decode_place {
    const device_segment *segment;
    const device_head *head;
    uint32_t kv_head, group, row, first_page, end_page;
    bool scored;
};
static __device__ bool find_place(const device_step &step, uint32_t layer, uint32_t first,
                                  uint32_t kv_head, uint32_t split, decode_place *p)
{
    const uint32_t s = first + blockIdx.y;
    if (s >= step.header->n_segments || step.segments[s].n_rows != 1)
        return false;
    p->segment = &step.segments[s];
    p->head = &step.heads[((uint64_t)s * step.n_layers + layer) * step.n_kv_heads + kv_head];
    p->kv_head = kv_head;
    p->group = step.n_heads / step.n_kv_heads;
    p->row = p->segment->first_row;
    const uint32_t n_pages = (p->head->n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    const uint32_t pages = split_pages(n_pages);
    p->first_page = split * pages;
    p->end_page = min(n_pages, p->first_page + pages);
    p->scored = p->segment->score != CACHE_SCORE_NONE && p->segment->first_scored == 0 &&
                (p->head->scores != NULL || p->head->history != NULL);
    return split == 0 || p->first_page < n_pages;
}

/* Shared memory of the split kernel. */
template <class T> struct decode_memory {
    static constexpr uint32_t warps = T::dim > 128 ? 3 : 4;
    static constexpr uint32_t stages = T::dim > 128 ? 2 : T::storage == STORAGE_Q4 ? 4 : 3;
    static constexpr uint32_t rows = TILE_SLOTS * T::row; /* 16-bit numbers of K or V of a tile */
    /* Tiles of halves come as they are used; quantised ones as they lie in pages, to be unpacked.
     */
    static constexpr uint32_t stage_bytes =
        T::quantised ? TILE_SLOTS * T::raw_bytes : 2 * rows * 2 + TILE_SLOTS * 4;
    static constexpr uint32_t unpacked_bytes = T::quantised ? (T::k_parts + 1) * rows * 2 : 0;
    static constexpr uint32_t warp_bytes = stages * stage_bytes + unpacked_bytes;
    static constexpr uint32_t query_bytes = T::q_parts * 16 * T::row * 2;
    /* What a warp leaves for the others, in place of its ring: values, maxima, sums, slots seen. */
    static constexpr uint32_t result_row = T::dim + 8;
    static_assert((16 * result_row + 33) * 4 <= warp_bytes, "a warp's result fits into its ring");
    static constexpr __host__ __device__ uint32_t bytes(bool sinks)
    {
        return warps * warp_bytes + (sinks ? 2 : 1) * (query_bytes + 16 * 4);
    }
};

template <class T>
static __device__ __forceinline__ void load_tile(uint8_t *stage, const device_step &step,
                                                 const page_layout &layout, uint32_t page,
                                                 uint32_t half, uint32_t steps)
{
    typedef decode_memory<T> memory;
    const uint32_t lane = threadIdx.x % 32, slot = half * TILE_SLOTS;
    const uint8_t *from = step.pool + page * step.page_bytes;
    uint16_t *k = (uint16_t *)stage;
    if (T::quantised) {
        load_raw(stage, from, layout, slot, TILE_SLOTS, lane, 32);
        return;
    }
    load_rows<T>(k, from + layout.k_at + slot * layout.row_bytes, layout.row_bytes, TILE_SLOTS,
                 0xffffffff, steps, lane, 32);
    load_rows<T>(k + memory::rows, from + layout.v_at + slot * layout.row_bytes, layout.row_bytes,
                 TILE_SLOTS, 0xffffffff, steps, lane, 32);
    if (lane < TILE_SLOTS / 4)
        cp_async_16(stage + 4 * memory::rows + lane * 16, from + (slot + lane * 4) * 4);
}

/* Rows of V that are not seen may hold anything; a weight of 0 would not silence a NaN. */
template <class T> static __device__ void silence(uint16_t *v, uint32_t visible, uint32_t steps)
{
    const uint32_t lane = threadIdx.x % 32, pieces = 2 * steps;
    for (uint32_t c = lane; c < TILE_SLOTS * pieces; c += 32)
        if (!(visible >> c / pieces & 1))
            *(uint4 *)(v + c / pieces * T::row + c % pieces * 8) = make_uint4(0, 0, 0, 0);
    __syncwarp();
}

/* A warp's tiles of 16 slots one after another. */
template <class T>
static __device__ void walk_tiles(const device_step &step, const page_layout &layout,
                                  const decode_place &at, const uint16_t *q, const float *factors,
                                  uint8_t *ring, float *weights, uint32_t max_slots,
                                  running<1> &state, float (&o)[1][T::dim / 8][4], uint32_t *n_seen)
{
    typedef decode_memory<T> memory;
    constexpr uint32_t sink_set = memory::query_bytes / 2; /* from q to q_sink */
    const uint32_t lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
    const uint32_t steps = T::steps(layout.head_dim), n_slots = at.head->n_slots;
    const uint32_t end = min(at.end_page * 2, (n_slots + TILE_SLOTS - 1) / TILE_SLOTS);
    const int32_t now = step.positions[at.row];
    const uint32_t n_sinks = at.head->n_sinks, window = at.head->window;
    const bool sink_query = at.segment->sink_query != 0;

    uint32_t load = at.first_page * 2 + threadIdx.x / 32, stage = 0;
    /* The number of the page after next is on its way while tiles are. */
    uint32_t page = load < end ? at.head->pages[load / 2] : 0;
    for (uint32_t i = 0; i + 1 < memory::stages; i++) {
        if (load < end)
            load_tile<T>(ring + i * memory::stage_bytes, step, layout, page, load % 2, steps);
        cp_async_commit();
        load += memory::warps;
        page = load < end ? at.head->pages[load / 2] : 0;
    }
    for (uint32_t t = at.first_page * 2 + threadIdx.x / 32; t < end; t += memory::warps) {
        cp_async_wait<memory::stages - 2>();
        __syncwarp(); /* the tile is there for all lanes, and nobody is in the one before it */
        const uint32_t next = stage == 0 ? memory::stages - 1 : stage - 1;
        if (load < end)
            load_tile<T>(ring + next * memory::stage_bytes, step, layout, page, load % 2, steps);
        cp_async_commit();
        load += memory::warps;
        page = load < end ? at.head->pages[load / 2] : 0;

        uint8_t *here = ring + stage * memory::stage_bytes;
        uint16_t *k =
            (uint16_t *)(T::quantised ? ring + memory::stages * memory::stage_bytes : here);
        uint16_t *v = k + T::k_parts * memory::rows;
        const int32_t *positions =
            (const int32_t *)(here + (T::quantised ? raw_positions_at(layout, TILE_SLOTS)
                                                   : 4 * memory::rows));
        stage = stage + 1 == memory::stages ? 0 : stage + 1;
        const uint32_t slot = t * TILE_SLOTS + lane % 16;
        const int32_t p = positions[lane % 16];
        const bool sees = slot < n_slots && is_visible(p, now, n_sinks, window);
        /* Bits 0..15: what is seen; 16..31: what of it is a sink that q_sink asks. */
        const uint32_t bits = __ballot_sync(
            0xffffffff, lane < 16 ? sees : sees && sink_query && (uint32_t)p < n_sinks);
        const uint32_t visible = bits & 0xffff, sinks = bits >> 16;
        *n_seen += (uint32_t)__popc(visible);
        if (T::quantised && visible != 0) {
            unpack_tile<T>(k, v, here, layout, TILE_SLOTS, visible, steps, lane, 32);
            __syncwarp();
        }
        float s[1][2][4];
        if (visible != 0) {
            tile_logits<T, 1, 2>(s, q, 16, 0, k, TILE_SLOTS, steps);
            UNROLL
            for (uint32_t n = 0; n < 2; n++)
                UNROLL
            for (uint32_t i = 0; i < 4; i++)
                s[0][n][i] *= factors[row + i / 2 * 8];
        }
        if (sinks != 0) {
            float other[1][2][4];
            tile_logits<T, 1, 2>(other, q + sink_set, 16, 0, k, TILE_SLOTS, steps);
            UNROLL
            for (uint32_t n = 0; n < 2; n++)
                UNROLL
            for (uint32_t i = 0; i < 4; i++)
                if (sinks >> (n * 8 + column + i % 2) & 1)
                    s[0][n][i] = other[0][n][i] * factors[16 + row + i / 2 * 8];
        }
        UNROLL
        for (uint32_t n = 0; n < 2; n++)
            UNROLL
        for (uint32_t i = 0; i < 4; i++)
            if (!(visible >> (n * 8 + column + i % 2) & 1))
                s[0][n][i] = MINUS_INFINITY;
        UNROLL
        for (uint32_t half = 0; half < 2 && at.scored; half++)
            UNROLL
        for (uint32_t n = 0; n < 2; n++)
            if (row + half * 8 < at.group)
                *(float2 *)(weights + (uint64_t)(row + half * 8) * max_slots + t * TILE_SLOTS +
                            n * 8 + column) = make_float2(s[0][n][2 * half], s[0][n][2 * half + 1]);
        if (visible == 0)
            continue;
        if (!T::quantised && visible != 0xffff)
            silence<T>(v, visible, steps);
        tile_softmax<T, 1, 2>(s, state, o, steps);
        /* Quantised values are rounded to halves, so weights need no more. */
        tile_values<T, 1, 2, T::quantised ? 1 : 2>(o, s, v, steps);
    }
    cp_async_wait<0>();
}

template <class T>
static __global__ void __launch_bounds__(decode_memory<T>::warps * 32)
    decode_split(device_step step, page_layout layout, uint32_t layer, uint32_t first,
                 const float *q, const float *q_sink, attention_workspace w, float scale)
{
    typedef decode_memory<T> memory;
    static_assert(memory::bytes(true) <= SHARED_MAX, "also on sm_80");
    DYNAMIC_SHARED(uint8_t, shared);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = blockIdx.z;
    decode_place at;
    if (!find_place(step, layer, first, blockIdx.x, split, &at))
        return;
    const uint32_t head0 = at.kv_head * at.group, head_dim = layout.head_dim;
    uint16_t *queries = (uint16_t *)(shared + memory::warps * memory::warp_bytes);
    const uint32_t sets = at.segment->sink_query && q_sink != NULL ? 2 : 1;
    float *factors = (float *)((uint8_t *)queries + (q_sink != NULL ? 2 : 1) * memory::query_bytes);
    for (uint32_t i = warp; i < sets * 16; i += memory::warps) {
        const uint32_t g = i % 16;
        const float *x =
            (i < 16 ? q : q_sink) + ((uint64_t)at.row * step.n_heads + head0 + g) * head_dim;
        store_query<T>(queries + i / 16 * (memory::query_bytes / 2), 16, g, g < at.group ? x : NULL,
                       head_dim, scale, factors + i);
    }
    __syncthreads();

    running<1> state;
    float o[1][T::dim / 8][4];
    uint32_t n_seen = 0;
    UNROLL
    for (uint32_t i = 0; i < 2; i++) {
        state.maximum[0][i] = MINUS_INFINITY;
        state.sum[0][i] = 0;
    }
    UNROLL
    for (uint32_t n = 0; n < T::dim / 8; n++)
        UNROLL
    for (uint32_t i = 0; i < 4; i++)
        o[0][n][i] = 0;
    const uint64_t query0 = (uint64_t)blockIdx.y * step.n_heads + head0;
    uint8_t *ring = shared + warp * memory::warp_bytes;
    walk_tiles<T>(step, layout, at, queries, factors, ring, w.weights + query0 * w.max_slots,
                  w.max_slots, state, o, &n_seen);

    /* The warps' results side by side, in place of their rings. */
    __syncwarp();
    float *values = (float *)ring, *maxima = values + 16 * memory::result_row, *sums = maxima + 16;
    UNROLL
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t row = lane / 4 + half * 8;
        const float sum = sum_of_row(state.sum[0][half]);
        if (lane % 4 == 0) {
            maxima[row] = state.maximum[0][half];
            sums[row] = sum;
        }
        UNROLL
        for (uint32_t n = 0; n < T::dim / 8; n++)
            *(float2 *)(values + row * memory::result_row + n * 8 + lane % 4 * 2) =
                make_float2(o[0][n][2 * half], o[0][n][2 * half + 1]);
    }
    if (lane == 0)
        ((uint32_t *)sums)[16] = n_seen;
    __syncthreads();

    const uint32_t width = partial_floats(head_dim);
    for (uint32_t g = warp; g < at.group; g += memory::warps) {
        float factor[memory::warps], maximum = MINUS_INFINITY, sum = 0;
        uint32_t seen = 0;
        UNROLL
        for (uint32_t i = 0; i < memory::warps; i++)
            maximum = fmaxf(
                maximum,
                ((const float *)(shared + i * memory::warp_bytes))[16 * memory::result_row + g]);
        UNROLL
        for (uint32_t i = 0; i < memory::warps; i++) {
            const float *m =
                (const float *)(shared + i * memory::warp_bytes) + 16 * memory::result_row;
            factor[i] = m[g] == MINUS_INFINITY ? 0 : exp2f(m[g] - maximum);
            sum += m[16 + g] * factor[i];
            seen += ((const uint32_t *)m)[32];
        }
        float *to = w.partial + ((query0 + g) * gridDim.z + split) * width;
        for (uint32_t d = lane; d < head_dim; d += 32) {
            float value = 0;
            UNROLL
            for (uint32_t i = 0; i < memory::warps; i++)
                value +=
                    factor[i] *
                    ((const float *)(shared + i * memory::warp_bytes))[g * memory::result_row + d];
            to[d] = value;
        }
        if (lane == 0) {
            to[head_dim] = maximum;
            to[head_dim + 1] = sum;
            ((uint32_t *)to)[head_dim + 2] = seen;
        }
    }
}

/* Base-2 logit of the summary slot: a mean key that stands for n tokens. By a warp. */
static __device__ float summary_logit(const float *q, const float *mean, uint32_t head_dim,
                                      float scale, uint32_t n)
{
    float dot = 0;
    for (uint32_t d = threadIdx.x % 32; d < head_dim; d += 32)
        dot = fmaf(q[d], mean[d], dot);
    for (int i = 16; i > 0; i /= 2)
        dot += __shfl_xor_sync(0xffffffff, dot, i);
    return dot * scale + log2f((float)n);
}

/* One page's scores from the kept logits: lane = slot. largest, share: [group]. */
static __device__ void leave_scores(const decode_place &at, const float *logits, uint32_t max_slots,
                                    uint32_t page, const float *largest, const float *share,
                                    uint32_t n_seen, int32_t now)
{
    const uint32_t slot = page * PAGE_SLOTS + threadIdx.x % 32;
    const bool used = slot < at.head->n_slots;
    const bool visible = used && logits[slot] != MINUS_INFINITY;
    const bool any = __any_sync(0xffffffff, visible) != 0;
    float mean = 0;
    for (uint32_t g = 0; g < at.group && visible; g++)
        mean += exp2f(logits[(uint64_t)g * max_slots + slot] - largest[g]) * share[g];
    mean /= (float)at.group;
    if (at.segment->score == CACHE_SCORE_HISTORY) {
        const uint32_t bit = (uint32_t)now % HISTORY_QUERIES;
        uint32_t *word = at.head->history + (uint64_t)slot * HISTORY_WORDS + bit / 32;
        if (visible)
            *word = mean > 1 / (float)n_seen ? *word | 1u << bit % 32 : *word & ~(1u << bit % 32);
    } else if (at.segment->score == CACHE_SCORE_LAST) {
        if (any && used)
            at.head->scores[slot] = mean;
    } else if (visible) {
        at.head->scores[slot] += mean;
    }
}

static __global__ void __launch_bounds__(MERGE_WARPS * 32)
    decode_merge(device_step step, uint32_t layer, uint32_t first, const float *q, float *out,
                 attention_workspace w, float scale)
{
    SHARED(float, factors, [GROUP_MAX][MAX_SPLITS + 1]); /* of each split, last of the summary */
    SHARED(float, largest, [GROUP_MAX]);
    SHARED(float, share, [GROUP_MAX]);
    SHARED(uint32_t, seen, [1]);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = blockIdx.z;
    decode_place at;
    if (!find_place(step, layer, first, blockIdx.x, split, &at) || (split > 0 && !at.scored))
        return;
    const uint32_t head_dim = step.head_dim, width = partial_floats(head_dim);
    const uint32_t n = n_splits(at.head->n_slots), head0 = at.kv_head * at.group;
    const uint64_t query0 = (uint64_t)blockIdx.y * step.n_heads + head0;
    const float *partial = w.partial + query0 * gridDim.z * width;
    const float *queries = q + ((uint64_t)at.row * step.n_heads + head0) * head_dim;
    const uint32_t n_summary = at.head->summary != NULL ? at.head->counters->n_summary : 0;
    for (uint32_t g = warp; g < at.group; g += MERGE_WARPS) {
        /* A lane has a split: there are as many at most. */
        const float *mine =
            partial + ((uint64_t)g * gridDim.z + min(lane, n - 1)) * width + head_dim;
        float maximum = lane < n ? mine[0] : MINUS_INFINITY, summary = MINUS_INFINITY;
        const float own = maximum, sink = step.sink_logits != NULL
                                              ? step.sink_logits[head0 + g] * LOG2_E
                                              : MINUS_INFINITY;
        if (n_summary > 0)
            summary =
                summary_logit(queries + g * head_dim, at.head->summary, head_dim, scale, n_summary);
        for (int i = 16; i > 0; i /= 2)
            maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffff, maximum, i));
        maximum = fmaxf(fmaxf(maximum, summary), sink);
        const float factor = own == MINUS_INFINITY ? 0 : exp2f(own - maximum);
        float sum = lane < n ? mine[1] * factor : 0;
        for (int i = 16; i > 0; i /= 2)
            sum += __shfl_xor_sync(0xffffffff, sum, i);
        if (n_summary > 0)
            sum += exp2f(summary - maximum);
        if (sink != MINUS_INFINITY)
            sum += exp2f(sink - maximum);
        factors[g][lane] = factor;
        if (lane == 0) {
            factors[g][MAX_SPLITS] = n_summary > 0 ? exp2f(summary - maximum) : 0;
            largest[g] = maximum;
            share[g] = 1 / sum;
        }
        if (g == 0) {
            const uint32_t total =
                __reduce_add_sync(0xffffffff, lane < n ? ((const uint32_t *)mine)[2] : 0);
            if (lane == 0)
                seen[0] = total;
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; split == 0 && i < at.group * head_dim; i += blockDim.x) {
        const uint32_t g = i / head_dim, d = i % head_dim;
        float value = 0;
        for (uint32_t s = 0; s < n; s++)
            value += factors[g][s] * partial[((uint64_t)g * gridDim.z + s) * width + d];
        if (n_summary > 0)
            value = fmaf(factors[g][MAX_SPLITS], at.head->summary[head_dim + d], value);
        out[((uint64_t)at.row * step.n_heads + head0) * head_dim + i] = value * share[g];
    }
    for (uint32_t page = at.first_page + warp; at.scored && page < at.end_page; page += MERGE_WARPS)
        leave_scores(at, w.weights + query0 * w.max_slots, w.max_slots, page, largest, share,
                     seen[0], step.positions[at.row]);
}

template <class T>
static void launch_split(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                         uint32_t first, uint32_t n, const float *q, const float *q_sink,
                         const struct attention_workspace *w, float scale)
{
    const uint32_t bytes = decode_memory<T>::bytes(q_sink != NULL);
    cudaFuncSetAttribute(decode_split<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    LAUNCH((decode_split<T>), dim3(step->n_kv_heads, n, max_splits(w->max_slots)),
           decode_memory<T>::warps * 32, bytes, stream, *step,
           page_layout_of(step->head_dim, step->storage), layer, first, q, q_sink, *w, scale);
}

void launch_attention_decode(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                             uint32_t first, uint32_t n, const float *q, const float *q_sink,
                             float *out, const struct attention_workspace *w)
{
    if (n == 0)
        return;
    assert(w->max_slots % PAGE_SLOTS == 0);
    const float scale = LOG2_E / sqrtf((float)step->head_dim);
    FOR_TILE(step, launch_split, stream, step, layer, first, n, q, q_sink, w, scale);
    LAUNCH(decode_merge, dim3(step->n_kv_heads, n, max_splits(w->max_slots)), MERGE_WARPS * 32, 0,
           stream, *step, layer, first, q, out, *w, scale);
}
