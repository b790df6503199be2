/* Attention of rows that are alone in their segment (decode), flash-decoding: a head's slots are
 * cut into splits, one block each, whose results a second kernel merges by their maxima and sums;
 * the merge also turns logits that were kept into scores, so K is read once.
 *
 *   split kernel   block (KV head, segment, split). Its 4 warps walk tiles of 16 slots, each its own
 *                  (tile w, w + 4, ...) with a ring of tiles in shared memory filled by cp.async: no
 *                  barrier in the loop.
 *   merge kernel   block (KV head, segment, split): the first adds up the output and the summary
 *                  slot, each scores the slots of its split.
 *
 * Where splits end depends on the head's n_slots alone (split_pages), never on the batch, and every
 * sum has one order: a sequence has the same bits alone and in a batch.
 *
 * Cost at d = 128, f16, group of 4, 32 sequences x 8 KV heads x 8192 slots: 516 bytes a slot, 1.08
 * GB. A tile of 16 slots takes a warp 16 ldmatrix, 16 mma, 17 cp.async and about 100 other
 * instructions: 9 issue slots per KV slot. q8 (276 bytes) takes about 25, q4 (192) about 35; an
 * H200's memory leaves an SM 100, 55 and 38. In flight: (STAGES - 1) x 8.8 KB x 4 warps = 70 KB a
 * block, two of them on an SM of 227 KB: three times what latency x bandwidth (~40 KB) asks. A
 * block of 512 slots (8k) moves 264 KB in about 17 us, its start and end hidden behind the other
 * block.
 *
 * With queries as rows and quantised tiles unpacked to shared memory, an H200 reached 79 % of
 * the rate of a copy in f16, 49 % in bf16, 23 % in q8 and 12 % in q4: that takes 64 mma a tile
 * and has a chain of latencies for the unpacking. */
#include <cassert>

#include "cuda/kernels/decode_tile.h"
#include "cuda/kernels/kernels.h"

#include "cache/pages/cache.h"

constexpr uint32_t MERGE_WARPS = 8, MAX_SPLITS = 32;

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
    const uint32_t n_pages = page_count(n_slots);
    return n_pages == 0 ? 1 : (n_pages + split_pages(n_pages) - 1) / split_pages(n_pages);
}
/* Splits of any head of at most max_slots. */
static uint32_t max_splits(uint32_t max_slots)
{
    const uint32_t pages = page_count(max_slots);
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
    const uint32_t slots = page_count(max_slots) * PAGE_SLOTS;
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

/* The part of the work at a block's coordinates, in both kernels. */
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
    p->segment = &step.segments[s];
    p->head = &step.heads[((uint64_t)s * step.n_layers + layer) * step.n_kv_heads + kv_head];
    /* All loads are started at once, before it is known whether the segment exists (its memory
     * does). */
    const uint32_t n_segments = step.header->n_segments, n_rows = p->segment->n_rows,
                   n_slots = p->head->n_slots;
    if (s >= n_segments || n_rows != 1)
        return false;
    p->kv_head = kv_head;
    p->group = step.n_heads / step.n_kv_heads;
    p->row = p->segment->first_row;
    const uint32_t n_pages = page_count(n_slots);
    const uint32_t pages = split_pages(n_pages);
    p->first_page = split * pages;
    p->end_page = min(n_pages, p->first_page + pages);
    p->scored = p->segment->score != CACHE_SCORE_NONE && p->segment->first_scored == 0 &&
                (p->head->scores != NULL || p->head->history != NULL);
    return split == 0 || p->first_page < n_pages;
}

/* A warp's tiles of 16 slots one after another. query0: the block's first in its head. */
template <class T, uint32_t n_groups>
static __device__ void walk_tiles(const device_step &step, const page_layout &layout,
                                  const decode_place &at, const decode_queries<T, n_groups> &q,
                                  const decode_queries<T, n_groups> &q_sink, uint32_t query0,
                                  uint8_t *ring, float *weights, uint32_t max_slots,
                                  decode_sums<T, n_groups> &sums)
{
    typedef decode_memory<T, n_groups> memory;
    const uint32_t lane = threadIdx.x % 32, t = lane % 4;
    const uint32_t steps = T::steps(layout.head_dim), n_slots = at.head->n_slots;
    const uint32_t end = min(at.end_page * 2, (n_slots + TILE_SLOTS - 1) / TILE_SLOTS);
    const int32_t now = step.positions[at.row];
    const uint32_t n_sinks = at.head->n_sinks, window = at.head->window;
    const bool sink_query = at.segment->sink_query != 0;

    uint32_t load = at.first_page * 2 + threadIdx.x / 32, stage = 0;
    /* The number of the page after next is loaded while tiles are. */
    uint32_t page = load < end ? at.head->pages[load / 2] : 0;
    for (uint32_t i = 0; i + 1 < memory::stages; i++) {
        if (load < end)
            load_tile<T, n_groups>(ring + i * memory::stage_bytes, step, layout, page, load % 2,
                                   steps);
        cp_async_commit();
        load += memory::warps;
        page = load < end ? at.head->pages[load / 2] : 0;
    }
    for (uint32_t tile = at.first_page * 2 + threadIdx.x / 32; tile < end; tile += memory::warps) {
        cp_async_wait<memory::stages - 2>();
        __syncwarp(); /* the tile has arrived for all lanes, and no lane still reads the one before */
        const uint32_t next = stage == 0 ? memory::stages - 1 : stage - 1;
        if (load < end)
            load_tile<T, n_groups>(ring + next * memory::stage_bytes, step, layout, page, load % 2,
                                   steps);
        cp_async_commit();
        load += memory::warps;
        page = load < end ? at.head->pages[load / 2] : 0;

        uint8_t *here = ring + stage * memory::stage_bytes;
        const decode_sections sections = sections_of<T, n_groups>(here, layout);
        uint8_t *v = here + TILE_SLOTS * memory::k_pitch;
        stage = stage + 1 == memory::stages ? 0 : stage + 1;
        const uint32_t slot = tile * TILE_SLOTS + lane % 16;
        const int32_t p = sections.positions[lane % 16];
        const bool sees = slot < n_slots && is_visible(p, now, n_sinks, window);
        /* Bits 0..15: slots that are seen; 16..31: of those the sinks that q_sink reads. */
        const uint32_t bits = __ballot_sync(
            0xffffffff, lane < 16 ? sees : sees && sink_query && (uint32_t)p < n_sinks);
        const uint32_t visible = bits & 0xffff, sinks = bits >> 16;
        sums.n_seen += (uint32_t)__popc(visible);
        float s[n_groups][2];
        if (visible != 0)
            logits_of<T, n_groups>(s, here, sections, q, layout, steps);
        if (sinks != 0) {
            float other[n_groups][2];
            logits_of<T, n_groups>(other, here, sections, q_sink, layout, steps);
            UNROLL
            for (uint32_t j = 0; j < n_groups; j++)
                UNROLL
            for (uint32_t i = 0; i < 2; i++)
                if (sinks >> (lane / 4 + 8 * i) & 1)
                    s[j][i] = other[j][i];
        }
        UNROLL
        for (uint32_t j = 0; j < n_groups; j++)
            UNROLL
        for (uint32_t i = 0; i < 2; i++) {
            if (!(visible >> (lane / 4 + 8 * i) & 1))
                s[j][i] = MINUS_INFINITY;
            if (at.scored && query0 + 4 * j + t < at.group)
                weights[(uint64_t)(query0 + 4 * j + t) * max_slots + tile * TILE_SLOTS + lane / 4 +
                        8 * i] = s[j][i];
        }
        if (visible == 0)
            continue;
        if (!T::quantised && visible != 0xffff)
            silence<T>((uint16_t *)v, visible, steps);
        update_softmax<T, n_groups>(s, sums);
        uint32_t b[n_groups][2];
        UNROLL
        for (uint32_t j = 0; j < n_groups; j++)
            place_weights<T>(b[j], s[j]);
        if constexpr (T::quantised)
            add_codes<T, n_groups>(sums, b, v, sections, layout, visible);
        else
            add_halves<T, n_groups>(sums, b, (const uint16_t *)v, steps);
    }
    cp_async_wait<0>();
}

/* Grid: KV heads times the parts into which the queries of one are cut, segments, splits. */
template <class T, uint32_t n_groups>
static __global__ void __launch_bounds__(decode_memory<T, n_groups>::warps * 32)
    decode_split(device_step step, page_layout layout, uint32_t layer, uint32_t first,
                 const float *q, const float *q_sink, attention_workspace w, float scale)
{
    typedef decode_memory<T, n_groups> memory;
    static_assert(memory::bytes(true) <= SHARED_MAX, "also on sm_80");
    DYNAMIC_SHARED(uint8_t, shared);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = blockIdx.z;
    const uint32_t parts = gridDim.x / step.n_kv_heads;
    decode_place at;
    if (!find_place(step, layer, first, blockIdx.x / parts, split, &at))
        return;
    const uint32_t head0 = at.kv_head * at.group, head_dim = layout.head_dim;
    const uint32_t query0 = blockIdx.x % parts * memory::queries;
    const uint32_t n_queries = min(memory::queries, at.group - query0);
    uint8_t *sets = shared + memory::warps * memory::warp_bytes;
    const decode_queries<T, n_groups> own = {sets}, sink = {sets + memory::set_bytes};
    const uint32_t n_sets = at.segment->sink_query && q_sink != NULL ? 2 : 1;
    uint8_t *ring = shared + warp * memory::warp_bytes;
    for (uint32_t i = warp; i < n_sets * memory::queries; i += memory::warps) {
        const uint32_t g = i % memory::queries;
        const float *x = (i < memory::queries ? q : q_sink) +
                         ((uint64_t)at.row * step.n_heads + head0 + query0 + g) * head_dim;
        const decode_queries<T, n_groups> to = {sets + i / memory::queries * memory::set_bytes};
        place_columns<T, n_groups>(to, g, g < n_queries ? x : NULL, head_dim, scale,
                                   T::storage == STORAGE_Q4 ? to.whole(g) : (float *)ring);
    }
    __syncthreads();

    decode_sums<T, n_groups> sums;
    sums.n_seen = 0;
    UNROLL
    for (uint32_t j = 0; j < n_groups; j++) {
        sums.maximum[j] = MINUS_INFINITY;
        sums.sum[j] = 0;
        UNROLL
        for (uint32_t m = 0; m < T::dim / 16; m++)
            UNROLL
        for (uint32_t i = 0; i < 4; i++)
            sums.o[j][m][i] = 0;
    }
    const uint64_t query_of_all = (uint64_t)blockIdx.y * step.n_heads + head0;
    walk_tiles<T, n_groups>(step, layout, at, own, sink, query0, ring,
                            w.weights + query_of_all * w.max_slots, w.max_slots, sums);

    /* The warps' results side by side, in place of their rings. */
    __syncwarp();
    float *values = (float *)ring, *maxima = values + memory::queries * memory::result_row,
          *totals = maxima + memory::queries;
    UNROLL
    for (uint32_t j = 0; j < n_groups; j++) {
        const uint32_t query = 4 * j + lane % 4;
        float sum = sums.sum[j];
        UNROLL
        for (int i = 4; i < 32; i *= 2)
            sum += __shfl_xor_sync(0xffffffff, sum, i);
        if (lane < 4) {
            maxima[query] = sums.maximum[j];
            totals[query] = sum;
        }
        UNROLL
        for (uint32_t m = 0; m < T::dim / 16; m++)
            UNROLL
        for (uint32_t half = 0; half < 2; half++)
            values[query * memory::result_row + row_of_value<T>(m, half)] =
                sums.o[j][m][2 * half] + sums.o[j][m][2 * half + 1];
    }
    if (lane == 0)
        ((uint32_t *)totals)[memory::queries] = sums.n_seen;
    __syncthreads();

    const uint32_t width = partial_floats(head_dim);
    for (uint32_t g = warp; g < n_queries; g += memory::warps) {
        float factor[memory::warps], maximum = MINUS_INFINITY, sum = 0;
        uint32_t seen = 0;
        const auto result_of = [&](uint32_t i) {
            return (const float *)(shared + i * memory::warp_bytes);
        };
        UNROLL
        for (uint32_t i = 0; i < memory::warps; i++)
            maximum = fmaxf(maximum, result_of(i)[memory::queries * memory::result_row + g]);
        UNROLL
        for (uint32_t i = 0; i < memory::warps; i++) {
            const float *m = result_of(i) + memory::queries * memory::result_row;
            factor[i] = m[g] == MINUS_INFINITY ? 0 : exp2f(m[g] - maximum);
            sum += m[memory::queries + g] * factor[i];
            seen += ((const uint32_t *)m)[2 * memory::queries];
        }
        float *to = w.partial + ((query_of_all + query0 + g) * gridDim.z + split) * width;
        for (uint32_t d = lane; d < head_dim; d += 32) {
            float value = 0;
            UNROLL
            for (uint32_t i = 0; i < memory::warps; i++)
                value += factor[i] * result_of(i)[g * memory::result_row + d];
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
        /* Each lane takes one split: there are at most 32. */
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

template <class T, uint32_t n_groups>
static void launch_groups(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                          uint32_t first, uint32_t n, const float *q, const float *q_sink,
                          const struct attention_workspace *w, float scale)
{
    typedef decode_memory<T, n_groups> memory;
    const uint32_t bytes = memory::bytes(q_sink != NULL), group = step->n_heads / step->n_kv_heads;
    const uint32_t parts = (group + memory::queries - 1) / memory::queries;
    cudaFuncSetAttribute(decode_split<T, n_groups>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    LAUNCH((decode_split<T, n_groups>), dim3(step->n_kv_heads * parts, n, max_splits(w->max_slots)),
           memory::warps * 32, bytes, stream, *step, page_layout_of(step->head_dim, step->storage),
           layer, first, q, q_sink, *w, scale);
}

/* Up to 8 queries of a KV head in one block: more blocks would read K and V again, from L2. The
 * largest head dimensions take 4, because their sums fill the registers. */
template <class T>
static void launch_split(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                         uint32_t first, uint32_t n, const float *q, const float *q_sink,
                         const struct attention_workspace *w, float scale)
{
    constexpr uint32_t most = T::dim > 128 ? 1 : 2;
    if (step->n_heads / step->n_kv_heads <= 4)
        launch_groups<T, 1>(stream, step, layer, first, n, q, q_sink, w, scale);
    else
        launch_groups<T, most>(stream, step, layer, first, n, q, q_sink, w, scale);
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
