/* Scores of prompts: the second pass of segments of several rows. A query's probabilities are known
 * only after it has seen every page, so logits are computed again, by the same instructions as in
 * attention and with the same bits.
 *
 * A warp owns a page, a lane one of its slots: it adds the rows' means in rising order of rows, so
 * no cut of the prompt changes a score. The 8 warps of a block share the queries, 32 at a time, as
 * two mma tiles of as many whole rows (all heads of the group) as fit into 16.
 *
 * Cost at d = 128, f16: 32 queries x 32 slots are 128 mma, 256 cycles of an SM at 1024 products
 * a cycle. Shared memory moves 16 KB of Q and 8 of K (192 cycles) and 4 + 4 of probabilities
 * (64): the two are balanced, and the pass takes about two thirds of attention's time (2
 * products of 3). Queries come from L2 once for 256 slots: 512 bytes for 8 x 32 mma-cycles. The
 * next ones are loaded while 32 are added; when they were loaded where they were needed, the
 * pass took three times as long as attention on an H200. Shared memory 105 KB: two blocks an SM. */
#include "cuda/kernels/attention_tile.h"
#include "cuda/kernels/kernels.h"

#include "cache/pages/cache.h"

constexpr uint32_t QUERIES = 32, SCRATCH_ROW = PAGE_SLOTS + 1;

template <class T> struct score_memory {
    static constexpr uint32_t warps = (T::dim > 128 ? 4 : 8) / T::k_parts;
    static constexpr uint32_t of_warp = QUERIES / warps; /* queries that a warp loads */
    static constexpr uint32_t page_bytes = T::k_parts * PAGE_SLOTS * T::row * 2;
    static constexpr uint32_t warp_bytes = page_bytes + 16 * SCRATCH_ROW * 4;
    static constexpr uint32_t bytes =
        warps * warp_bytes + T::q_parts * QUERIES * T::row * 2 + 4 * QUERIES * 4;
    /* Registers hold the next queries, except for the largest head dimensions. */
    static constexpr bool ahead = of_warp * T::dim / 32 <= 32;
};

/* The rows that are being added, in shared memory. */
struct score_rows {
    uint16_t *q;
    float *factors, *largest, *share; /* [QUERIES] */
    int32_t *positions;               /* [QUERIES] -1: no row */
};

/* Rows [row, row + 2 * per_tile) of the segment: tile i holds per_tile rows from query 16 i on. A
 * warp's share of them, in registers; largest, share, position: in lane 0. */
template <class T> struct rows_to_come {
    float q[score_memory<T>::of_warp][T::dim / 32];
    float largest[score_memory<T>::of_warp], share[score_memory<T>::of_warp];
    int32_t position[score_memory<T>::of_warp];
};

template <class T>
static __device__ __forceinline__ void
load_rows_to_come(rows_to_come<T> &to, const device_step &step, const device_segment *segment,
                  uint32_t kv_head, uint32_t row, uint32_t per_tile, const float *q,
                  const attention_workspace &w)
{
    typedef score_memory<T> memory;
    const uint32_t group = step.n_heads / step.n_kv_heads;
    UNROLL
    for (uint32_t k = 0; k < memory::of_warp; k++) {
        const uint32_t i = threadIdx.x / 32 + k * memory::warps;
        const uint32_t in_tile = i % 16 / group, at = row + i / 16 * per_tile + in_tile;
        const bool is_row = in_tile < per_tile && at < segment->n_rows;
        const uint64_t head =
            (uint64_t)(segment->first_row + at) * step.n_heads + kv_head * group + i % 16 % group;
        load_query<T>(to.q[k], is_row ? q + head * step.head_dim : NULL, step.head_dim);
        to.largest[k] = to.share[k] = 0;
        to.position[k] = -1;
        if (threadIdx.x % 32 == 0 && is_row) {
            to.largest[k] = w.softmax[2 * head];
            to.share[k] = w.softmax[2 * head + 1];
            to.position[k] = step.positions[segment->first_row + at];
        }
    }
}

template <class T>
static __device__ __forceinline__ void place_rows(const score_rows &to, const rows_to_come<T> &from,
                                                  float scale)
{
    typedef score_memory<T> memory;
    UNROLL
    for (uint32_t k = 0; k < memory::of_warp; k++) {
        const uint32_t i = threadIdx.x / 32 + k * memory::warps;
        place_query<T>(to.q, QUERIES, i, from.q[k], scale, to.factors + i);
        if (threadIdx.x % 32 == 0) {
            to.largest[i] = from.largest[k];
            to.share[i] = from.share[k];
            to.positions[i] = from.position[k];
        }
    }
}

/* A slot's state while rows go by. */
struct slot_score {
    bool used;
    int32_t position;
    float score;
    uint32_t word, bits; /* of the history; word UINT32_MAX: none loaded */
};

static __device__ void add_to_history(const device_head *head, uint32_t slot, slot_score *state,
                                      bool set, int32_t now)
{
    const uint32_t bit = (uint32_t)now % HISTORY_QUERIES;
    uint32_t *words = head->history + (uint64_t)slot * HISTORY_WORDS;
    if (state->word != bit / 32) {
        if (state->word != UINT32_MAX)
            words[state->word] = state->bits;
        state->word = bit / 32;
        state->bits = words[state->word];
    }
    state->bits = set ? state->bits | 1u << bit % 32 : state->bits & ~(1u << bit % 32);
}

/* Adds one row's mean over the group to the lane's slot. */
static __device__ void add_row(const device_step &step, const device_segment *segment,
                               const device_head *head, uint32_t kv_head, uint32_t row, int32_t now,
                               const float *probabilities, uint32_t slot, slot_score *state,
                               const attention_workspace &w)
{
    const uint32_t group = step.n_heads / step.n_kv_heads, at = segment->first_row + row;
    const bool visible =
        state->used && is_visible(state->position, now, head->n_sinks, head->window);
    float mean = 0;
    for (uint32_t g = 0; g < group && visible; g++)
        mean += probabilities[g * SCRATCH_ROW + threadIdx.x % 32];
    mean /= (float)group;
    if (segment->score == CACHE_SCORE_SUM) {
        if (visible)
            state->score += mean;
    } else if (segment->score == CACHE_SCORE_LAST) {
        if (__any_sync(0xffffffff, visible))
            state->score = mean;
    } else if (visible) {
        const float even = 1 / (float)w.n_seen[(uint64_t)at * step.n_kv_heads + kv_head];
        add_to_history(head, slot, state, mean > even, now);
    }
}

template <class T>
static __global__ void __launch_bounds__(score_memory<T>::warps * 32, T::dim > 128 ? 1 : 2)
    score_pages(device_step step, page_layout layout, uint32_t layer, uint32_t first,
                const float *q, attention_workspace w, float scale)
{
    typedef score_memory<T> memory;
    static_assert(memory::bytes <= SHARED_MAX, "also on sm_80");
    DYNAMIC_SHARED(uint8_t, shared);
    constexpr uint32_t n_warps = memory::warps;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t s = first + blockIdx.z, kv_head = blockIdx.y, page = blockIdx.x * n_warps + warp;
    if (s >= step.header->n_segments)
        return;
    const device_segment *segment = &step.segments[s];
    const device_head *head =
        &step.heads[((uint64_t)s * step.n_layers + layer) * step.n_kv_heads + kv_head];
    if (segment->n_rows < 2 || segment->score == CACHE_SCORE_NONE ||
        segment->first_scored >= segment->n_rows ||
        (head->scores == NULL && head->history == NULL) ||
        blockIdx.x * n_warps * PAGE_SLOTS >= head->n_slots)
        return;
    const uint32_t slot = page * PAGE_SLOTS + lane, steps = T::steps(layout.head_dim);
    const bool keeps_score = segment->score != CACHE_SCORE_HISTORY;
    uint16_t *k = (uint16_t *)(shared + warp * memory::warp_bytes);
    float *scratch = (float *)((uint8_t *)k + memory::page_bytes);
    score_rows rows;
    rows.q = (uint16_t *)(shared + n_warps * memory::warp_bytes);
    rows.factors = (float *)(rows.q + T::q_parts * QUERIES * T::row);
    rows.largest = rows.factors + QUERIES;
    rows.share = rows.largest + QUERIES;
    rows.positions = (int32_t *)(rows.share + QUERIES);

    slot_score state = {slot < head->n_slots, HOLE, 0, UINT32_MAX, 0};
    if (page * PAGE_SLOTS < head->n_slots) {
        const uint8_t *from = step.pool + head->pages[page] * step.page_bytes;
        const uint32_t pieces = 2 * steps;
        for (uint32_t i = lane; T::quantised && i < PAGE_SLOTS * pieces; i += 32)
            unpack_key<T>(k, PAGE_SLOTS, i / pieces, page_k_row(layout, from, i / pieces),
                          i % pieces, layout.head_dim);
        if (!T::quantised)
            load_rows<T>(k, from + layout.k_at, layout.row_bytes, PAGE_SLOTS, 0xffffffff, steps,
                         lane, 32);
        if (state.used)
            state.position = page_positions(from)[lane];
    }
    cp_async_commit();
    if (state.used && keeps_score)
        state.score = head->scores[slot];
    const int32_t earliest = __reduce_min_sync(0xffffffff, state.position);
    cp_async_wait<0>(); /* the barrier of the first rows makes it known to the other lanes */

    const uint32_t group = step.n_heads / step.n_kv_heads, per_tile = 16 / group;
    rows_to_come<T> next;
    if (memory::ahead)
        load_rows_to_come<T>(next, step, segment, kv_head, segment->first_scored, per_tile, q, w);
    for (uint32_t row = segment->first_scored; row < segment->n_rows; row += 2 * per_tile) {
        const uint32_t end = min(segment->n_rows, row + 2 * per_tile);
        if (!memory::ahead)
            load_rows_to_come<T>(next, step, segment, kv_head, row, per_tile, q, w);
        __syncthreads(); /* nobody still reads the queries before */
        place_rows<T>(rows, next, scale);
        __syncthreads();
        if (memory::ahead)
            load_rows_to_come<T>(next, step, segment, kv_head, row + 2 * per_tile, per_tile, q, w);
        const int32_t latest = __reduce_max_sync(0xffffffff, rows.positions[lane]);
        if (earliest > latest) /* nothing of the page is seen yet */
            continue;
        float l[2][4][4];
        tile_logits<T, 2, 4>(l, rows.q, QUERIES, 0, k, PAGE_SLOTS, steps);
        UNROLL
        for (uint32_t m = 0; m < 2; m++) {
            UNROLL
            for (uint32_t n = 0; n < 4; n++)
                UNROLL
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t query = lane / 4 + i / 2 * 8;
                scratch[query * SCRATCH_ROW + n * 8 + lane % 4 * 2 + i % 2] =
                    exp2f(l[m][n][i] * rows.factors[m * 16 + query] -
                          rows.largest[m * 16 + query]) *
                    rows.share[m * 16 + query];
            }
            __syncwarp();
            for (uint32_t r = row + m * per_tile; r < min(end, row + (m + 1) * per_tile); r++)
                add_row(step, segment, head, kv_head, r,
                        rows.positions[m * 16 + (r - row - m * per_tile) * group],
                        scratch + (r - row - m * per_tile) * group * SCRATCH_ROW, slot, &state, w);
            __syncwarp();
        }
    }
    if (state.used && keeps_score)
        head->scores[slot] = state.score;
    if (state.word != UINT32_MAX)
        head->history[(uint64_t)slot * HISTORY_WORDS + state.word] = state.bits;
}

template <class T>
static void launch_score(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                         uint32_t first, uint32_t n, uint32_t max_slots, const float *q,
                         const struct attention_workspace *w)
{
    const uint32_t pages = page_count(max_slots);
    const uint32_t warps = score_memory<T>::warps, bytes = score_memory<T>::bytes;
    cudaFuncSetAttribute(score_pages<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    LAUNCH((score_pages<T>), dim3((pages + warps - 1) / warps, step->n_kv_heads, n), warps * 32,
           bytes, stream, *step, page_layout_of(step->head_dim, step->storage), layer, first, q, *w,
           LOG2_E / sqrtf((float)step->head_dim));
}

void launch_score_prefill(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                          uint32_t first, uint32_t n, uint32_t max_slots, const float *q,
                          const struct attention_workspace *w)
{
    if (n > 0 && max_slots > 0)
        FOR_TILE(step, launch_score, stream, step, layer, first, n, max_slots, q, w);
}
