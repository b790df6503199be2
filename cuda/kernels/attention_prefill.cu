/* Attention of segments of several rows (prefill): flash attention over pages.
 *
 * A block takes one KV head and 32 queries a warp, 4 warps: rows x heads of the group, packed, so a
 * page's K and V serve all of them. It walks the head's pages in their order, which is the same for
 * every row and every chunk. A page of which a row sees nothing changes no bit of the row's sums.
 * So a row's output does not depend on how the prompt was cut.
 *
 * Whether a query sees a slot follows from the positions alone; slots have no order. Before a block
 * loads pages it looks at their positions (128 bytes of 16.5 KB), a thread a page, and skips pages
 * that none of its rows can see: with positions in order, all later ones; with a window, all
 * earlier ones. Pages that every row sees whole are not masked.
 *
 * Where a segment has a second query for sinks, the pages with sinks come first, with that query
 * and only the sinks; then all pages with the ordinary query and the other slots.
 *
 * Cost at d = 128, f16, group of 4: a warp's 32 queries x 32 slots are 2 x (64 + 32) mma (2
 * parts of Q, one of P) = 393k products, 384 cycles of an SM at the 1024 a cycle of mma.sync on
 * sm_80, about 300 on sm_90. Shared memory moves 16 KB of Q (two parts), 8 of K and 8 of V = 256
 * cycles at 128 bytes. So tensor cores are the limit: two of three products count as useful, at
 * most 2/3 of what mma.sync gives (about 600 of 989 TFLOP/s on H100) = 400. K and V come from
 * L2: 33 KB for 4 warps in 1536 cycles, 2.8 TB/s over 132 SMs of the 5.5 that L2 has. Shared
 * memory 105 KB: two blocks on an SM with 227 KB, so one block's softmax overlaps the other's
 * products; at most 255 registers for 256 threads an SM. bfloat16 takes five products for three
 * (queries in three parts, weights in two), quantised pages four: half and three quarters of the
 * speed. */
#include "cuda/kernels/attention_tile.h"
#include "cuda/kernels/kernels.h"

#include "cache/pages/cache.h"

constexpr uint32_t BATCH_PAGES = 1024 /* looked at before they are loaded */;

/* What a block knows of a page. */
constexpr uint8_t SEEN = 1 /* by some row */, MASKED = 2 /* not by all, or not all of it */,
                  DEAD = 4 /* slots that no row sees: unused, holes, later ones */;

template <class T> struct prefill_memory {
    /* Tiles of 16 queries a warp, as many as registers allow. */
    static constexpr uint32_t m_tiles = T::dim > 128 || (T::bfloat && T::dim > 64) ? 1 : 2;
    static constexpr uint32_t warps = T::dim > 128 && T::bfloat ? 3 : 4; /* at most */
    static constexpr uint32_t rows = PAGE_SLOTS * T::row; /* 16-bit numbers of K or V of a page */
    /* Two pages in turn; quantised: one in the pool's layout and one unpacked. */
    static constexpr uint32_t stage_bytes =
        T::quantised ? PAGE_SLOTS * T::raw_bytes : 2 * rows * 2 + PAGE_SLOTS * 4;
    static constexpr uint32_t pages_bytes =
        T::quantised ? stage_bytes + (T::k_parts + 1) * rows * 2 + PAGE_SLOTS * 4 : 2 * stage_bytes;
    static constexpr uint32_t queries_of_warp = m_tiles * 16;
    static constexpr __host__ __device__ uint32_t bytes(uint32_t n_warps)
    {
        return pages_bytes + n_warps * queries_of_warp * (T::q_parts * T::row * 2 + 4) +
               BATCH_PAGES;
    }
};

/* A block's part of one segment and head. */
struct prefill_place {
    const device_segment *segment;
    const device_head *head;
    uint32_t kv_head, group, n_queries; /* of the segment: rows x group */
    uint32_t query0;                    /* the block's first of them */
    int32_t earliest, latest;           /* positions of the block's rows */
    int32_t from, to;                   /* only slots of these positions: [from, to) */
};

/* Positions of the block's rows: the least and the largest. */
static __device__ void find_positions(const device_step &step, prefill_place *p, uint32_t n_block)
{
    const uint32_t end = min(p->n_queries, p->query0 + n_block);
    p->earliest = INT32_MAX;
    p->latest = -1;
    for (uint32_t row = p->query0 / p->group; row <= (end - 1) / p->group; row++) {
        const int32_t t = step.positions[p->segment->first_row + row];
        p->earliest = min(p->earliest, t);
        p->latest = max(p->latest, t);
    }
}

/* flags[i] of page first + i, a thread a page. */
static __device__ void look_at_pages(const device_step &step, const prefill_place &at,
                                     uint32_t first, uint32_t count, uint8_t *flags)
{
    const uint32_t n_sinks = at.head->n_sinks, window = at.head->window;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
        const uint32_t slot0 = (first + i) * PAGE_SLOTS;
        const int4 *positions =
            (const int4 *)(step.pool + at.head->pages[first + i] * step.page_bytes);
        uint32_t seen = 0, whole = 0, dead = 0;
        for (uint32_t c = 0; c < PAGE_SLOTS / 4; c++) {
            const int4 four = positions[c];
            const int32_t p[4] = {four.x, four.y, four.z, four.w};
            UNROLL
            for (uint32_t j = 0; j < 4; j++) {
                const bool used = slot0 + c * 4 + j < at.head->n_slots,
                           is_sink = (uint32_t)p[j] < n_sinks;
                const bool mine = used && p[j] >= at.from && p[j] < at.to;
                /* The earliest row sees furthest back, the latest furthest ahead. */
                seen += mine && p[j] <= at.latest &&
                        (is_sink || p[j] > at.earliest || (uint32_t)(at.earliest - p[j]) < window);
                whole += mine && p[j] <= at.earliest &&
                         (is_sink || (uint32_t)(at.latest - p[j]) < window);
                dead += !used || p[j] > at.latest;
            }
        }
        flags[i] =
            (uint8_t)((seen ? SEEN : 0) | (whole < PAGE_SLOTS ? MASKED : 0) | (dead ? DEAD : 0));
    }
}

template <class T>
static __device__ void load_page(uint8_t *stage, const device_step &step, const page_layout &layout,
                                 const prefill_place &at, uint32_t page, uint8_t flags,
                                 uint32_t steps)
{
    typedef prefill_memory<T> memory;
    const uint8_t *from = step.pool + at.head->pages[page] * step.page_bytes;
    uint32_t live = 0xffffffff;
    if (T::quantised) {
        load_raw(stage, from, layout, 0, PAGE_SLOTS, threadIdx.x, blockDim.x);
        return;
    }
    if (flags & DEAD) {
        /* Their V may be anything, and a weight of 0 would not hide a NaN. */
        live = 0;
        for (uint32_t i = 0; i < PAGE_SLOTS && page * PAGE_SLOTS + i < at.head->n_slots; i++)
            live |= (uint32_t)(page_positions(from)[i] <= at.latest) << i;
    }
    uint16_t *k = (uint16_t *)stage;
    load_rows<T>(k, from + layout.k_at, layout.row_bytes, PAGE_SLOTS, 0xffffffff, steps,
                 threadIdx.x, blockDim.x);
    load_rows<T>(k + memory::rows, from + layout.v_at, layout.row_bytes, PAGE_SLOTS, live, steps,
                 threadIdx.x, blockDim.x);
    if (threadIdx.x < PAGE_SLOTS / 4)
        cp_async_16(stage + 4 * memory::rows + threadIdx.x * 16, from + threadIdx.x * 16);
}

/* Sets logits that are not seen to minus infinity and counts what each row sees. */
template <uint32_t m_tiles>
static __device__ void mask_logits(float (&s)[m_tiles][4][4], uint32_t (&n_seen)[m_tiles][2],
                                   const int32_t (&now)[m_tiles][2], const prefill_place &at,
                                   const int32_t *positions, uint32_t slot0)
{
    const uint32_t n_sinks = at.head->n_sinks, window = at.head->window, n_slots = at.head->n_slots;
    UNROLL
    for (uint32_t n = 0; n < 4; n++)
        UNROLL
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t slot = n * 8 + threadIdx.x % 4 * 2 + i;
        const int32_t p = positions[slot];
        const bool mine = slot0 + slot < n_slots && p >= at.from && p < at.to;
        UNROLL
        for (uint32_t m = 0; m < m_tiles; m++)
            UNROLL
        for (uint32_t half = 0; half < 2; half++) {
            const bool sees = mine && is_visible(p, now[m][half], n_sinks, window);
            n_seen[m][half] += sees;
            if (!sees)
                s[m][n][2 * half + i] = MINUS_INFINITY;
        }
    }
}

/* The results so far of a lane's rows. */
template <class T> struct prefill_sums {
    static constexpr uint32_t m_tiles = prefill_memory<T>::m_tiles;
    running<m_tiles> state;
    float o[m_tiles][T::dim / 8][4];
    uint32_t n_seen[m_tiles][2];
    int32_t now[m_tiles][2]; /* positions of the rows; -1: no row */
};

/* Turns a page that has arrived in the pool's layout into tiles, with its positions behind them. */
template <class T>
static __device__ void unpack_page(uint16_t *k, const uint8_t *raw, const page_layout &layout,
                                   const prefill_place &at, uint32_t page, uint8_t flags,
                                   uint32_t steps)
{
    typedef prefill_memory<T> memory;
    const int32_t *positions = (const int32_t *)(raw + raw_positions_at(layout, PAGE_SLOTS));
    uint16_t *v = k + T::k_parts * memory::rows;
    uint32_t live = 0xffffffff;
    for (uint32_t i = 0; (flags & DEAD) && i < PAGE_SLOTS; i++)
        if (page * PAGE_SLOTS + i >= at.head->n_slots || positions[i] > at.latest)
            live &= ~(1u << i);
    unpack_tile<T>(k, v, raw, layout, PAGE_SLOTS, live, steps, threadIdx.x, blockDim.x);
    for (uint32_t i = threadIdx.x; i < PAGE_SLOTS; i += blockDim.x)
        ((int32_t *)(v + memory::rows))[i] = positions[i];
}

/* All pages of the head, for the slots of positions [at.from, at.to), with the queries in q. */
template <class T>
static __device__ void walk_pages(const device_step &step, const page_layout &layout,
                                  const prefill_place &at, const uint16_t *q, const float *factors,
                                  uint8_t *stages, uint8_t *flags, prefill_sums<T> &sums)
{
    typedef prefill_memory<T> memory;
    const uint32_t n_pages = page_count(at.head->n_slots);
    const uint32_t rows = blockDim.x / 32 * memory::queries_of_warp, lane = threadIdx.x % 32;
    const uint32_t row0 = threadIdx.x / 32 * memory::queries_of_warp;
    const uint32_t steps = T::steps(layout.head_dim);
    for (uint32_t first = 0; first < n_pages; first += BATCH_PAGES) {
        const uint32_t count = min(BATCH_PAGES, n_pages - first);
        __syncthreads(); /* nobody still reads the flags, tiles and queries of the walk before */
        look_at_pages(step, at, first, count, flags);
        __syncthreads();
        uint32_t page = 0, stage = 0;
        while (page < count && !(flags[page] & SEEN))
            page++;
        if (page < count)
            load_page<T>(stages, step, layout, at, first + page, flags[page], steps);
        cp_async_commit();
        while (page < count) {
            uint32_t next = page + 1;
            while (next < count && !(flags[next] & SEEN))
                next++;
            cp_async_wait<0>();
            __syncthreads(); /* the page has arrived for all, and nobody still reads the one before */
            uint8_t *here = stages + stage * memory::stage_bytes;
            if (T::quantised) {
                here = stages + memory::stage_bytes;
                unpack_page<T>((uint16_t *)here, stages, layout, at, first + page, flags[page],
                               steps);
                __syncthreads(); /* it is unpacked for all, and its memory is free */
            } else {
                stage ^= 1;
            }
            if (next < count)
                load_page<T>(stages + stage * memory::stage_bytes, step, layout, at, first + next,
                             flags[next], steps);
            cp_async_commit();
            const uint16_t *k = (const uint16_t *)here, *v = k + T::k_parts * memory::rows;
            float s[memory::m_tiles][4][4];
            tile_logits<T, memory::m_tiles, 4>(s, q, rows, row0, k, PAGE_SLOTS, steps);
            UNROLL
            for (uint32_t m = 0; m < memory::m_tiles; m++)
                UNROLL
            for (uint32_t half = 0; half < 2; half++) {
                const float factor = factors[row0 + m * 16 + half * 8 + lane / 4];
                UNROLL
                for (uint32_t n = 0; n < 4; n++) {
                    s[m][n][2 * half] *= factor;
                    s[m][n][2 * half + 1] *= factor;
                }
            }
            if (flags[page] & MASKED) {
                mask_logits(s, sums.n_seen, sums.now, at, (const int32_t *)(v + memory::rows),
                            (first + page) * PAGE_SLOTS);
            } else {
                UNROLL
                for (uint32_t m = 0; m < memory::m_tiles; m++)
                    UNROLL
                for (uint32_t half = 0; half < 2; half++)
                    sums.n_seen[m][half] += 8; /* four lanes have a row */
            }
            tile_softmax<T>(s, sums.state, sums.o, steps);
            tile_values<T, memory::m_tiles, 4, T::bfloat ? 2 : 1>(sums.o, s, v, steps);
            page = next;
        }
        cp_async_wait<0>();
    }
}

/* The queries of the block from x (q or q_sink) into shared memory. */
template <class T>
static __device__ void store_queries(const device_step &step, const prefill_place &at,
                                     const float *x, uint16_t *q, float *factors, float scale)
{
    const uint32_t rows = blockDim.x / 32 * prefill_memory<T>::queries_of_warp;
    for (uint32_t i = threadIdx.x / 32; i < rows; i += blockDim.x / 32) {
        const uint32_t query = at.query0 + i, row = at.segment->first_row + query / at.group;
        const uint64_t head =
            (uint64_t)row * step.n_heads + at.kv_head * at.group + query % at.group;
        store_query<T>(q, rows, i, query < at.n_queries ? x + head * step.head_dim : NULL,
                       step.head_dim, scale, factors + i);
    }
}

/* One more slot of a row's query in fp32, by its logit times log2 e; v [head_dim]: its value, NULL
 * where it has none. The four lanes of a row call together. */
template <class T>
static __device__ void add_slot(prefill_sums<T> &sums, uint32_t m, uint32_t half, float logit,
                                const float *v, uint32_t head_dim)
{
    const uint32_t t = threadIdx.x % 4;
    const float before = sums.state.maximum[m][half], largest = fmaxf(before, logit);
    const float shrink = exp2f(before - largest), weight = exp2f(logit - largest);
    sums.state.maximum[m][half] = largest;
    sums.state.sum[m][half] = sums.state.sum[m][half] * shrink + (t == 0 ? weight : 0);
    UNROLL
    for (uint32_t i = 0; i < T::dim / 8; i++)
        UNROLL
    for (uint32_t j = 0; j < 2; j++) {
        const uint32_t d = i * 8 + t * 2 + j;
        if (d < head_dim)
            sums.o[m][i][2 * half + j] =
                v != NULL ? fmaf(weight, v[d], sums.o[m][i][2 * half + j] * shrink)
                          : sums.o[m][i][2 * half + j] * shrink;
    }
}

/* A summary stands for n tokens (RazorAttention's compensation token). x: the row's query, NULL for
 * none. The four lanes of a row call together. */
template <class T>
static __device__ void add_summary(prefill_sums<T> &sums, uint32_t m, uint32_t half, const float *x,
                                   const float *summary, uint32_t head_dim, float scale, uint32_t n)
{
    float dot = 0;
    for (uint32_t d = threadIdx.x % 4; x != NULL && d < head_dim; d += 4)
        dot = fmaf(x[d], summary[d], dot);
    add_slot<T>(sums, m, half, sum_of_row(dot) * scale + log2f((float)n), summary + head_dim,
                head_dim);
}

template <class T>
static __device__ void finish(const device_step &step, const prefill_place &at,
                              prefill_sums<T> &sums, const float *q, float *out,
                              const attention_workspace &w, float scale)
{
    const uint32_t lane = threadIdx.x % 32, head_dim = step.head_dim;
    const uint32_t row0 = threadIdx.x / 32 * prefill_memory<T>::queries_of_warp + lane / 4;
    const uint32_t n_summary = at.head->summary != NULL ? at.head->counters->n_summary : 0;
    UNROLL
    for (uint32_t m = 0; m < sums.m_tiles; m++)
        UNROLL
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t query = at.query0 + row0 + m * 16 + half * 8;
        const uint32_t row = at.segment->first_row + query / at.group, g = query % at.group;
        const uint64_t head = (uint64_t)row * step.n_heads + at.kv_head * at.group + g;
        if (n_summary > 0)
            add_summary<T>(sums, m, half, query < at.n_queries ? q + head * head_dim : NULL,
                           at.head->summary, head_dim, scale, n_summary);
        if (step.sink_logits != NULL)
            add_slot<T>(sums, m, half, step.sink_logits[at.kv_head * at.group + g] * LOG2_E, NULL,
                        head_dim);
        const float share = 1 / sum_of_row(sums.state.sum[m][half]);
        uint32_t seen = sums.n_seen[m][half];
        seen += __shfl_xor_sync(0xffffffff, seen, 1);
        seen += __shfl_xor_sync(0xffffffff, seen, 2);
        if (query >= at.n_queries)
            continue;
        if (lane % 4 == 0) {
            w.softmax[2 * head] = sums.state.maximum[m][half];
            w.softmax[2 * head + 1] = share;
            if (g == 0)
                w.n_seen[(uint64_t)row * step.n_kv_heads + at.kv_head] = seen;
        }
        UNROLL
        for (uint32_t i = 0; i < T::dim / 8; i++) {
            const uint32_t d = i * 8 + lane % 4 * 2;
            const float first = sums.o[m][i][2 * half] * share,
                        second = sums.o[m][i][2 * half + 1] * share;
            if (T::exact) {
                *(float2 *)(out + head * T::dim + d) = make_float2(first, second);
                continue;
            }
            if (d < head_dim)
                out[head * head_dim + d] = first;
            if (d + 1 < head_dim)
                out[head * head_dim + d + 1] = second;
        }
    }
}

template <class T>
static __global__ void __launch_bounds__(prefill_memory<T>::warps * 32)
    prefill_tile(device_step step, page_layout layout, uint32_t layer, uint32_t first,
                 const float *q, const float *q_sink, float *out, attention_workspace w,
                 float scale)
{
    typedef prefill_memory<T> memory;
    static_assert(memory::bytes(memory::warps) <= SHARED_MAX, "also on sm_80");
    DYNAMIC_SHARED(uint8_t, shared);
    const uint32_t s = first + blockIdx.z, n_block = blockDim.x / 32 * memory::queries_of_warp;
    if (s >= step.header->n_segments || step.segments[s].n_rows < 2)
        return;
    prefill_place at;
    at.segment = &step.segments[s];
    at.kv_head = blockIdx.y;
    at.head = &step.heads[((uint64_t)s * step.n_layers + layer) * step.n_kv_heads + at.kv_head];
    at.group = step.n_heads / step.n_kv_heads;
    at.n_queries = at.segment->n_rows * at.group;
    /* Blocks start in the order of their numbers; late rows see most and go first. */
    const uint32_t n_tiles = (at.n_queries + n_block - 1) / n_block;
    if (blockIdx.x >= n_tiles)
        return;
    at.query0 = (n_tiles - 1 - blockIdx.x) * n_block;
    find_positions(step, &at, n_block);

    uint8_t *stages = shared;
    uint16_t *queries = (uint16_t *)(shared + memory::pages_bytes);
    float *factors = (float *)(queries + T::q_parts * n_block * T::row);
    uint8_t *flags = (uint8_t *)(factors + n_block);
    prefill_sums<T> sums;
    UNROLL
    for (uint32_t m = 0; m < memory::m_tiles; m++) {
        UNROLL
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t query = at.query0 + threadIdx.x / 32 * memory::queries_of_warp + m * 16 +
                                   half * 8 + threadIdx.x % 32 / 4;
            sums.state.maximum[m][half] = MINUS_INFINITY;
            sums.state.sum[m][half] = 0;
            sums.n_seen[m][half] = 0;
            sums.now[m][half] = query < at.n_queries
                                    ? step.positions[at.segment->first_row + query / at.group]
                                    : -1;
        }
        UNROLL
        for (uint32_t n = 0; n < T::dim / 8; n++)
            UNROLL
        for (uint32_t i = 0; i < 4; i++)
            sums.o[m][n][i] = 0;
    }
    at.from = 0;
    at.to = INT32_MAX;
    if (at.segment->sink_query && q_sink != NULL && at.head->n_sinks > 0) {
        at.to = (int32_t)min(at.head->n_sinks, (uint32_t)INT32_MAX);
        store_queries<T>(step, at, q_sink, queries, factors, scale);
        walk_pages<T>(step, layout, at, queries, factors, stages, flags, sums);
        at.from = at.to;
        at.to = INT32_MAX;
        __syncthreads(); /* queries are replaced */
    }
    store_queries<T>(step, at, q, queries, factors, scale);
    walk_pages<T>(step, layout, at, queries, factors, stages, flags, sums);
    finish<T>(step, at, sums, q, out, w, scale);
}

template <class T>
static void launch_tiles(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                         uint32_t first, uint32_t n, uint32_t max_rows, const float *q,
                         const float *q_sink, float *out, const struct attention_workspace *w)
{
    typedef prefill_memory<T> memory;
    const uint32_t queries = max_rows * (step->n_heads / step->n_kv_heads);
    const uint32_t needed = (queries + memory::queries_of_warp - 1) / memory::queries_of_warp;
    const uint32_t warps = needed < memory::warps ? needed : memory::warps;
    const uint32_t bytes = memory::bytes(warps), n_block = warps * memory::queries_of_warp;
    cudaFuncSetAttribute(prefill_tile<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    LAUNCH((prefill_tile<T>), dim3((queries + n_block - 1) / n_block, step->n_kv_heads, n),
           warps * 32, bytes, stream, *step, page_layout_of(step->head_dim, step->storage), layer,
           first, q, q_sink, out, *w, LOG2_E / sqrtf((float)step->head_dim));
}

void launch_attention_prefill(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                              uint32_t first, uint32_t n, uint32_t max_rows_of_segment,
                              const float *q, const float *q_sink, float *out,
                              const struct attention_workspace *w)
{
    if (n > 0 && max_rows_of_segment > 1)
        FOR_TILE(step, launch_tiles, stream, step, layer, first, n, max_rows_of_segment, q, q_sink,
                 out, w);
}
