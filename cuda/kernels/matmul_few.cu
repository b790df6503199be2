/* out = x w^T for at most 16 rows of x and weights of 16 bits and less: one pass over the weight.
 *
 * Memory is the limit. An H200 delivers about 21 bytes of weights per cycle and SM, an H100 14, and
 * an SM issues 128 thread instructions per cycle: 6 (9 on the H100) per byte. With Q4_0 (0.5625
 * bytes a value) that is 3.4 instructions per value. One fused multiply-add per value and row of x,
 * with its share of unpacking and converting to float, exceeds that at the second row. Tensor cores
 * multiply 8 columns at the price of one and need no conversion to float: codes (small integers)
 * are exact as halves, and each scale multiplies the sum over its 16 or 32 columns afterwards, in
 * fp32. Instructions per value, at most 8 columns: codes 1.1 (4 bits) .. 1.9 (5 bits), scales 0.2
 * .. 0.5, sums 0.25 (0.5 with minima), tensor cores and loads 0.3: 1.9 for Q4_0, 2.9 for Q4_K and
 * Q5_K.
 *
 * Only the last bits of fp32 are lost: x is cut into parts of 16 bits, each part a column of its
 * own. With halves, x / 64 = high + low / 2048, whose error is 2^-22 of x down to |x| = 4e-3 and
 * 2^-30 below (1e-9 of products), for |x| < 4.1e6. With bfloat16 there are three parts, all 24
 * bits. So 1 to 4 rows of x fill the 8 columns of one product. 16 rows take 16 mma.m16n8k16 for
 * 1024 weights, about 32 cycles of an SM's tensor cores beside the 27 of its memory (Q4_0, H200):
 * both limits, and the limit of this file.
 *
 * The columns of w are cut into units of 64 (32 if not quantised); unit u belongs to phase u % 8. A
 * warp has one phase of a band of 32 rows. It streams its units with cp.async through its own ring
 * in shared memory (about 50 KB in flight for each block; Little's law asks for 40 per SM), and
 * goes on with the next band's while the block finishes one. There are as many blocks as the device
 * can hold, and each has several tiles of rows. All warps of a block convert x into shared memory:
 * at once, or a chunk of columns at a time where it is too large.
 *
 *   narrow   a block has the 8 phases of one band and reads all of x: 4 n bytes for 18 of w (Q4_0).
 *            For one group of columns of x that fits into shared memory
 *   broad    a block has one phase of 8 bands and reads an eighth of x; 8 blocks leave their sums in
 *            scratch, the last to come adds them. Against 8 rows of x, 4096 x 4096 of Q4_0, x would be
 *            17 MB from L2 (5.5 TB/s: 3 us) next to 9.4 MB of w (2 us); so it is 2 MB
 *
 * Both add the phases in the same order, in pairs, so the bits of an output do not depend on n
 * or on the way. On an H200 converting x anew for each band, in chunks, had 14336 x 4096 of BF16
 * take 36 us for one row of x but 65 for 8 and 116 for 16, of which the memory needs 28. Rows of
 * a weight that is not quantised come 64 bytes a unit: the narrow way reads 512 neighbouring
 * bytes at a time, the broad way does not, and stays at half of the memory's rate. Giving each
 * phase 256 neighbouring bytes, one unit after the other, did not help the broad way and cost
 * the narrow way 30 %. */
#include "cuda/kernels/matmul.h"

#include "cuda/kernels/weight_decode.h"

#define MAX_PHASES  8 /* and warps of a block */
#define BROAD_BANDS MAX_PHASES
#define MAX_BROAD   4096 /* tiles of BROAD_BANDS bands in one launch */
#define RING_BYTES  (64 * 1024)
#define LEAST_BYTES (98 * 1024) /* of shared memory: what every GPU of this kind has for a block */

/* Blocks that have finished, for each tile of broad launches. 0 between launches, which run one
 * after another on the engine's stream. */
static __device__ unsigned n_arrived[MAX_BROAD];

template <uint32_t type> struct few {
    static constexpr bool quantised = weight_is_quantised(type);
    static constexpr weight_geometry geometry = weight_geometry_of(type);
    static constexpr uint32_t n_parts = type == TENSOR_BF16 ? 3 : 2;
    static constexpr uint32_t unit_blocks = quantised ? 2 : 1;
    static constexpr uint32_t stage_bytes =
        quantised ? 2 * geometry.block_bytes + geometry.unit_scales + geometry.super_scales
                  : BAND_ROWS * BLOCK_COLS * 2;
    static constexpr uint32_t n_stages = RING_BYTES / MAX_PHASES / stage_bytes;
    static_assert(stage_bytes % 16 == 0, "rings are aligned");
    static_assert(n_stages >= 3, "two in flight while one is used");
};

/* How one launch cuts its work; see launch_groups. */
struct few_shape {
    uint32_t cols, n_blocks, n_units; /* n_blocks: of 32 columns */
    uint32_t n, n_columns;            /* rows of x, and parts of them */
    uint32_t chunk_turns;             /* of the phases: what of x fits into shared memory */
    uint32_t chunk_bytes;
    uint32_t vectors; /* rows of x are aligned to 16 bytes */
    uint32_t n_tiles;
};

/* The weights of one launch: their tiles of rows are numbered through. */
struct few_jobs {
    struct {
        const uint8_t *w;
        const float *bias;
        float *out, *phases; /* phases: scratch [8][n][rows] */
        uint32_t rows, first_tile;
    } job[MATMUL_JOBS];
    uint32_t n;
};

/* A block's part of a launch. */
struct few_part {
    uint32_t n_phases;            /* of the launch */
    uint32_t first_phase, phases; /* of the block */
};

/* The place of a warp: one band of one weight. */
struct few_place {
    uint32_t job, band, n_units; /* n_units 0: the weight has no such band */
};
template <bool broad>
static __device__ __forceinline__ few_place place_of(const few_jobs &jobs, const few_shape &s,
                                                     uint32_t tile)
{
    few_place at = {0, 0, 0};
    for (uint32_t i = 1; i < jobs.n; i++)
        if (tile >= jobs.job[i].first_tile)
            at.job = i;
    at.band = tile - jobs.job[at.job].first_tile;
    if (broad)
        at.band = at.band * BROAD_BANDS + threadIdx.x / 32;
    if (tile < s.n_tiles && at.band * BAND_ROWS < jobs.job[at.job].rows)
        at.n_units = s.n_units;
    return at;
}

/* The 4 values of x from column c on. */
static __device__ __forceinline__ float4 load_x(const float *row, uint32_t c, const few_shape &s)
{
    if (s.vectors && c + 4 <= s.cols)
        return *(const float4 *)(row + c);
    float4 v = make_float4(0, 0, 0, 0);
    v.x = c < s.cols ? row[c] : 0;
    v.y = c + 1 < s.cols ? row[c + 1] : 0;
    v.z = c + 2 < s.cols ? row[c + 2] : 0;
    v.w = c + 3 < s.cols ? row[c + 3] : 0;
    return v;
}

/* Cuts 4 values into halves or bfloat16s, [part] pairs of pairs. */
template <uint32_t type>
static __device__ __forceinline__ void cut(uint2 (&parts)[few<type>::n_parts], float4 v)
{
    if (type == TENSOR_BF16) {
        float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (uint32_t p = 0; p < few<type>::n_parts; p++) {
            __nv_bfloat16 b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                b[i] = __float2bfloat16_rn(x[i]);
                x[i] -= __bfloat162float(b[i]);
            }
            memcpy(&parts[p], b, 8);
        }
        return;
    }
    const float x[4] = {v.x / 64, v.y / 64, v.z / 64, v.w / 64};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const __half2 high = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
        const float2 h = __half22float2(high);
        const __half2 low = __floats2half2_rn((x[2 * i] - h.x) * 2048, (x[2 * i + 1] - h.y) * 2048);
        memcpy((uint8_t *)&parts[0] + 4 * i, &high, 4);
        memcpy((uint8_t *)&parts[1] + 4 * i, &low, 4);
    }
}

/* The block's units of the turns [first_turn, first_turn + n_turns) of all rows into
 * xs[turn][phase][block of the unit][n_columns][t][8], where thread t of a group finds the 8 values
 * that belong to its weights. Four loads are on their way at once. */
template <uint32_t type>
static __device__ void convert_x(uint8_t *xs, const float *x, const few_shape &s, const few_part &p,
                                 uint32_t first_turn, uint32_t n_turns)
{
    constexpr uint32_t n_parts = few<type>::n_parts, quarters = few<type>::unit_blocks * 8;
    const uint32_t of_row = n_turns * p.phases * quarters, n_items = of_row * s.n;
    for (uint32_t first = threadIdx.x; first < n_items; first += 4 * blockDim.x) {
        float4 v[4];
#pragma unroll
        for (uint32_t u = 0; u < 4; u++) {
            const uint32_t item = first + u * blockDim.x, j = item / of_row, i = item % of_row;
            const uint32_t slot = i / quarters, turn = slot / p.phases;
            const uint32_t unit =
                (first_turn + turn) * p.n_phases + p.first_phase + slot - turn * p.phases;
            if (item < n_items)
                v[u] = load_x(x + (uint64_t)j * s.cols, (unit * quarters + i % quarters) * 4, s);
        }
#pragma unroll
        for (uint32_t u = 0; u < 4; u++) {
            const uint32_t item = first + u * blockDim.x, j = item / of_row, i = item % of_row;
            if (item >= n_items)
                break;
            uint2 parts[n_parts];
            cut<type>(parts, v[u]);
            const uint32_t in_block = i % 8;
            const uint32_t place =
                few<type>::quantised ? in_block % 4 * 16 + in_block / 4 * 8 : in_block * 8;
#pragma unroll
            for (uint32_t k = 0; k < n_parts; k++)
                *(uint2 *)(xs + (i / 8 * s.n_columns + j * n_parts + k) * 64 + place) = parts[k];
        }
    }
}

/* Starts the copy of a unit into a stage. If not quantised each lane copies what it will read
 * itself. */
template <uint32_t type>
static __device__ __forceinline__ void fetch_unit(uint8_t *stage, const uint8_t *w, uint32_t rows,
                                                  const few_shape &s, uint32_t band, uint32_t unit,
                                                  uint32_t lane)
{
    constexpr weight_geometry g = few<type>::geometry;
    if constexpr (!few<type>::quantised) {
        const uint32_t col = unit * BLOCK_COLS + lane % 4 * 8;
        const uint64_t row_bytes = weight_row_bytes(type, s.cols);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const uint32_t row = band * BAND_ROWS + lane / 4 + 8 * r;
            const bool inside = row < rows && col < s.cols;
            const uint8_t *from = inside ? w + row * row_bytes + col * 2 : w;
            cp_async_16_zero(stage + (r * 32 + lane) * 16, from, inside ? 16 : 0);
        }
    } else {
        const uint8_t *start = w + band * weight_band_bytes(g, s.cols);
        const uint8_t *from = start + weight_block_offset(g, unit * 2) + lane * 16;
        /* K types have a multiple of 8 blocks: their units are whole. */
        constexpr uint32_t whole = 2 * g.block_bytes + g.unit_scales;
        const uint32_t n = g.super_scales != 0 || unit * 2 + 1 < s.n_blocks ? whole : g.block_bytes;
#pragma unroll
        for (uint32_t i = 0; i < whole; i += 512)
            if (i + lane * 16 < n)
                cp_async_16(stage + i + lane * 16, from + i);
        if (g.super_scales != 0 && lane * 16 < g.super_scales)
            cp_async_16(stage + few<type>::stage_bytes - g.super_scales + lane * 16,
                        start + weight_block_offset(g, unit / 4 * 8 + 8) - g.super_scales +
                            lane * 16);
    }
}

/* The place in xs of the part of a row of x that is column `column` of group `group`. The parts
 * of a row must be in one lane's sums: they are columns 2 j and 2 j + 1 or, for bfloat16's
 * three, the same column of three groups. Where there are at most two rows of bfloat16 they fill
 * one group. */
template <uint32_t type, int n_groups>
static __device__ __forceinline__ uint32_t place_of_column(uint32_t group, uint32_t column)
{
    return type != TENSOR_BF16 || n_groups < 3 ? group * 8 + column
                                               : (group / 3 * 8 + column) * 3 + group % 3;
}

/* The columns of x for a lane's weights, of one group of 8: the b registers of [h]. */
template <uint32_t type, int n_groups>
static __device__ __forceinline__ void load_columns(uint32_t (&x)[2][2], const uint8_t *xs,
                                                    uint32_t n_columns, int group, uint32_t lane)
{
    const uint32_t place = place_of_column<type, n_groups>((uint32_t)group, lane / 4);
    uint4 v = make_uint4(0, 0, 0, 0);
    if (place < n_columns)
        v = *(const uint4 *)(xs + place * 64 + lane % 4 * 16);
    x[0][0] = v.x;
    x[0][1] = v.y;
    x[1][0] = v.z;
    x[1][1] = v.w;
}

/* Adds the products of one block to acc[m][column group][..], for F16 and BF16, as each lane has
 * copied them. */
template <uint32_t type, int n_groups>
static __device__ __forceinline__ void multiply_plain(float (&acc)[2][n_groups][4],
                                                      const uint8_t *w, const uint8_t *xs,
                                                      uint32_t n_columns, uint32_t lane)
{
    uint32_t a[2][2][4]; /* [m][h] */
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const uint4 v = *(const uint4 *)(w + (r * 32 + lane) * 16);
        a[r / 2][0][r % 2] = v.x;
        a[r / 2][0][r % 2 + 2] = v.y;
        a[r / 2][1][r % 2] = v.z;
        a[r / 2][1][r % 2 + 2] = v.w;
    }
#pragma unroll
    for (int group = 0; group < n_groups; group++) {
        uint32_t x[2][2];
        load_columns<type, n_groups>(x, xs, n_columns, group, lane);
#pragma unroll
        for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (type == TENSOR_BF16)
                    mma_m16n8k16_bf16(acc[m][group], a[m][h], x[h]);
                else
                    mma_m16n8k16_f16(acc[m][group], a[m][h], x[h]);
            }
        }
    }
}

static __device__ __forceinline__ void add_scaled(float (&acc)[4], const float (&sum)[4],
                                                  float upper, float lower)
{
    acc[0] = fmaf(upper, sum[0], acc[0]);
    acc[1] = fmaf(upper, sum[1], acc[1]);
    acc[2] = fmaf(lower, sum[2], acc[2]);
    acc[3] = fmaf(lower, sum[3], acc[3]);
}

/* The same of quantised types. */
template <uint32_t type, int n_groups>
static __device__ __forceinline__ void multiply_quantised(float (&acc)[2][n_groups][4],
                                                          const weight_block &b, const uint8_t *xs,
                                                          uint32_t n_columns, uint32_t lane)
{
    const uint32_t ones[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
    uint32_t a[2][2][4];
    block_scales s;
    decode_codes<type>(a, b, lane);
    decode_scales<type>(s, b, lane);
#pragma unroll
    for (int group = 0; group < n_groups; group++) {
        uint32_t x[2][2];
        load_columns<type, n_groups>(x, xs, n_columns, group, lane);
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float sum[4] = {0, 0, 0, 0};
            mma_m16n8k16_f16(sum, a[m][0], x[0]);
            if (weight_traits_of(type).scales == SCALES_6) { /* a scale for each 16 columns */
                float second[4] = {0, 0, 0, 0};
                mma_m16n8k16_f16(second, a[m][1], x[1]);
                add_scaled(acc[m][group], sum, s.scale[0][2 * m], s.scale[0][2 * m + 1]);
                add_scaled(acc[m][group], second, s.scale[1][2 * m], s.scale[1][2 * m + 1]);
            } else {
                mma_m16n8k16_f16(sum, a[m][1], x[1]);
                add_scaled(acc[m][group], sum, s.scale[0][2 * m], s.scale[0][2 * m + 1]);
            }
        }
        if (weight_has_minimum(type)) { /* times the sum of x: a product with ones */
            float sum[4] = {0, 0, 0, 0};
            mma_m16n8k16_f16(sum, ones, x[0]);
            mma_m16n8k16_f16(sum, ones, x[1]);
            add_scaled(acc[0][group], sum, s.minimum[0], s.minimum[1]);
            add_scaled(acc[1][group], sum, s.minimum[2], s.minimum[3]);
        }
    }
}

/* Calls give(row of x, row of the band, value) for every output of the warp's phase that a lane
 * has, with the parts of a row of x added up. */
template <uint32_t type, int n_groups, class F>
static __device__ __forceinline__ void each_value(const float (&acc)[2][n_groups][4], F give)
{
    const uint32_t lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t row = m * 16 + half * 8 + lane / 4;
            if constexpr (type != TENSOR_BF16) {
#pragma unroll
                for (int group = 0; group < n_groups; group++)
                    give(group * 4 + t, row,
                         (acc[m][group][2 * half + 1] / 2048 + acc[m][group][2 * half]) * 64);
            } else if constexpr (n_groups < 3) {
                /* Columns 0, 1, 2 are row 0's, 3, 4, 5 row 1's; a lane has 2 t and the next. */
                const float a = acc[m][0][2 * half], b = acc[m][0][2 * half + 1];
                const float after = __shfl_down_sync(0xffffffffu, a, 1);
                const float before = __shfl_up_sync(0xffffffffu, b, 1);
                if (t == 0)
                    give(0, row, after + b + a);
                if (t == 2)
                    give(1, row, b + a + before);
            } else {
#pragma unroll
                for (int rows = 0; rows < n_groups / 3; rows++) {
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const int at = 2 * half + i;
                        give(rows * 8 + 2 * t + i, row,
                             acc[m][rows * 3 + 2][at] + acc[m][rows * 3 + 1][at] +
                                 acc[m][rows * 3][at]);
                    }
                }
            }
        }
    }
}

/* Rows of x that a kernel of n_groups can have. */
template <uint32_t type, int n_groups> static __host__ __device__ constexpr uint32_t most_rows()
{
    return type != TENSOR_BF16 ? n_groups * 4 : n_groups < 3 ? 2 : n_groups / 3 * 8;
}

/* Narrow: the block has all phases of its band. Values are in sums[phase][row of x][36 of 32
 * rows], where 36 keeps the lanes of a store in different banks. */
template <uint32_t type, int n_groups>
static __device__ __forceinline__ void finish(const float *sums, float *out, const float *bias,
                                              uint32_t rows, uint32_t band, uint32_t n)
{
    constexpr uint32_t phase = most_rows<type, n_groups>() * 36;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    const uint32_t row = band * BAND_ROWS + lane;
    if (row >= rows)
        return;
    for (uint32_t j = warp; j < n; j += n_warps) {
        const float *at = sums + j * 36 + lane;
        float sum = 0;
        for (uint32_t i = 0; i < n_warps; i += 2)
            sum += i + 1 < n_warps ? at[i * phase] + at[(i + 1) * phase] : at[i * phase];
        out[(uint64_t)j * rows + row] = bias != NULL ? sum + bias[row] : sum;
    }
}

/* Broad: the block has one phase of BROAD_BANDS bands and has stored it in
 * phases[phase][n][rows]. The last block to finish, whichever it is, adds the phases in their
 * order. */
static __device__ __forceinline__ void finish_broad(const float *phases, float *out,
                                                    const float *bias, uint32_t rows,
                                                    uint32_t first_row, uint32_t n, uint32_t tile)
{
    SHARED(uint32_t, last, [1]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last[0] = atomicAdd(&n_arrived[tile], 1u) + 1 == MAX_PHASES;
        if (last[0])
            n_arrived[tile] = 0;
    }
    __syncthreads();
    if (!last[0])
        return;
    __threadfence();
    for (uint32_t i = threadIdx.x; i < n * BROAD_BANDS * BAND_ROWS; i += blockDim.x) {
        const uint32_t j = i / (BROAD_BANDS * BAND_ROWS);
        const uint32_t row = first_row + i % (BROAD_BANDS * BAND_ROWS);
        if (row >= rows)
            continue;
        const float *at = phases + (uint64_t)j * rows + row;
        const uint64_t phase = (uint64_t)n * rows;
        float v[MAX_PHASES], sum = 0;
#pragma unroll
        for (uint32_t k = 0; k < MAX_PHASES; k++)
            v[k] = __ldcg(at + k * phase);
#pragma unroll
        for (uint32_t k = 0; k < MAX_PHASES; k += 2)
            sum += v[k] + v[k + 1];
        out[(uint64_t)j * rows + row] = bias != NULL ? sum + bias[row] : sum;
    }
}

/* Grid: some of the tiles (bands of w; or, broad, BROAD_BANDS of them), phases. Shared memory: the
 * chunk of x, a ring for each warp, sums of two tiles (narrow with several groups of columns: in
 * place of the rings, and then a block has only one tile). */
template <uint32_t type, int n_groups, bool broad>
static __global__ void __launch_bounds__(MAX_PHASES * 32, broad || n_groups < 4 ? 2 : 1)
    matmul_few(const __grid_constant__ few_jobs jobs, const float *x, const few_shape s)
{
    typedef few<type> f;
    constexpr uint32_t tile_sums = MAX_PHASES * most_rows<type, n_groups>() * 36;
    DYNAMIC_SHARED(uint8_t, shared);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    const few_part p = {broad ? MAX_PHASES : n_warps, broad ? blockIdx.y : 0, broad ? 1 : n_warps};
    const uint32_t phase = broad ? blockIdx.y : warp;
    constexpr uint32_t unit_blocks = f::unit_blocks;
    uint8_t *xs = shared;
    uint8_t *rings = shared + s.chunk_bytes;
    uint8_t *ring = rings + warp * f::n_stages * f::stage_bytes;
    float *sums = (float *)(n_groups == 1 ? rings + n_warps * f::n_stages * f::stage_bytes : rings);

    /* The next unit to fetch, of this tile or of a later one. */
    uint32_t next_tile = blockIdx.x, next_unit = phase, stage = 0;
    few_place next = place_of<broad>(jobs, s, next_tile);
    const auto fetch = [&](uint8_t *to) {
        while (next_unit >= next.n_units && next_tile < s.n_tiles) {
            next_tile += gridDim.x;
            next_unit = phase;
            next = place_of<broad>(jobs, s, next_tile);
        }
        if (next_unit < next.n_units)
            fetch_unit<type>(to, jobs.job[next.job].w, jobs.job[next.job].rows, s, next.band,
                             next_unit, lane);
        cp_async_commit();
        next_unit += p.n_phases;
    };
    for (uint32_t i = 0; i + 1 < f::n_stages; i++)
        fetch(ring + i * f::stage_bytes);
    const uint32_t n_turns = (s.n_units + p.n_phases - 1) / p.n_phases;
    const bool stays = s.chunk_turns >= n_turns; /* x, from tile to tile */
    for (uint32_t tile = blockIdx.x, count = 0; tile < s.n_tiles; tile += gridDim.x, count++) {
        const few_place at = place_of<broad>(jobs, s, tile);
        float acc[2][n_groups][4] = {};
        uint32_t unit = phase;
        for (uint32_t turn = 0; turn < n_turns; turn += s.chunk_turns) {
            const uint32_t end_turn = min(n_turns, turn + s.chunk_turns);
            if (count == 0 || !stays) {
                if (count != 0 || turn != 0)
                    __syncthreads();
                convert_x<type>(xs, x, s, p, turn, end_turn - turn);
                __syncthreads();
            }
            const uint32_t end = min(at.n_units, end_turn * p.n_phases);
            const uint8_t *columns = xs + (broad ? 0 : warp) * unit_blocks * s.n_columns * 64;
            for (; unit < end;
                 unit += p.n_phases, columns += p.phases * unit_blocks * s.n_columns * 64) {
                cp_async_wait<f::n_stages - 2>();
                __syncwarp(); /* the unit is there for all, and all are done with the one before */
                const uint32_t before = stage == 0 ? f::n_stages - 1 : stage - 1;
                fetch(ring + before * f::stage_bytes);
                const uint8_t *from = ring + stage * f::stage_bytes;
#pragma unroll(n_groups < 4 ? 2 : 1) /* registers */
                for (uint32_t i = 0; i < unit_blocks; i++) {
                    if (unit * unit_blocks + i >= s.n_blocks)
                        break;
                    const weight_block b = {from + i * f::geometry.block_bytes,
                                            from + 2 * f::geometry.block_bytes,
                                            from + f::stage_bytes - f::geometry.super_scales, i};
                    if constexpr (f::quantised)
                        multiply_quantised<type, n_groups>(acc, b, columns + i * s.n_columns * 64,
                                                           s.n_columns, lane);
                    else
                        multiply_plain<type, n_groups>(acc, from, columns, s.n_columns, lane);
                }
                stage = stage + 1 == f::n_stages ? 0 : stage + 1;
            }
        }
        const auto &job = jobs.job[at.job];
        if constexpr (broad) {
            const uint32_t first = at.band * BAND_ROWS;
            each_value<type, n_groups>(acc, [&](uint32_t j, uint32_t row, float value) {
                if (j < s.n && first + row < job.rows)
                    job.phases[((uint64_t)phase * s.n + j) * job.rows + first + row] = value;
            });
            finish_broad(job.phases, job.out, job.bias, job.rows, (at.band - warp) * BAND_ROWS, s.n,
                         tile);
        } else {
            if constexpr (n_groups > 1) {
                cp_async_wait<0>();
                __syncthreads(); /* the rings become room for the sums */
            }
            float *own = sums + (n_groups == 1 ? count % 2 : 0) * tile_sums;
            each_value<type, n_groups>(acc, [&](uint32_t j, uint32_t row, float value) {
                own[(warp * most_rows<type, n_groups>() + j) * 36 + row] = value;
            });
            __syncthreads();
            finish<type, n_groups>(own, job.out, job.bias, job.rows, at.band, s.n);
        }
    }
    cp_async_wait<0>();
}

/* Shared memory of a block: half of a multiprocessor's, so that two blocks fit, if that is
 * enough; all of it where a multiprocessor gets only one block. Beside the dynamic memory a
 * block has a few static bytes, and the system takes 1 KB of each multiprocessor. */
static uint32_t most_bytes(const struct device_limits &device)
{
    return device.shared_of_block - 256;
}
static uint32_t block_bytes(const struct device_limits &device, uint32_t n_tiles)
{
    const uint32_t most = most_bytes(device), half = device.shared_of_sm / 2 - 1024 - 256;
    const uint32_t least = most < LEAST_BYTES ? most : LEAST_BYTES;
    if (n_tiles <= device.n_sms || half > most)
        return most;
    return half > least ? half : least;
}

template <uint32_t type, int n_groups, bool broad>
static void launch_groups(cudaStream_t stream, const struct matmul_job *jobs, uint32_t n_jobs,
                          const float *x, uint32_t n, float *scratch)
{
    typedef few<type> f;
    const struct device_limits device = device_limits_of();
    const uint32_t cols = jobs[0].w->cols;
    few_shape s = {};
    s.cols = cols;
    s.n_blocks = (cols + BLOCK_COLS - 1) / BLOCK_COLS;
    s.n_units = (s.n_blocks + f::unit_blocks - 1) / f::unit_blocks;
    s.n = n;
    s.n_columns = n * f::n_parts;
    s.vectors = cols % 4 == 0 && (uintptr_t)x % 16 == 0;
    few_jobs all = {};
    all.n = n_jobs;
    const uint32_t tile_rows = BAND_ROWS * (broad ? BROAD_BANDS : 1);
    for (uint32_t i = 0; i < n_jobs; i++) {
        const uint32_t rows = jobs[i].w->rows;
        all.job[i] = {jobs[i].w->data, jobs[i].bias, jobs[i].out, scratch, rows, s.n_tiles};
        scratch += (uint64_t)MAX_PHASES * n * rows;
        s.n_tiles += (rows + tile_rows - 1) / tile_rows;
    }
    const uint32_t n_warps = s.n_units < MAX_PHASES ? s.n_units : MAX_PHASES;
    const uint32_t phases = broad ? 1 : n_warps, n_phases = broad ? MAX_PHASES : n_warps;
    const uint32_t turn_bytes = phases * f::unit_blocks * s.n_columns * 64;
    const uint32_t n_turns = (s.n_units + n_phases - 1) / n_phases;
    const uint32_t rings = n_warps * f::n_stages * f::stage_bytes;
    const uint32_t sums = MAX_PHASES * most_rows<type, n_groups>() * 36 * sizeof(float);
    const uint32_t beside = broad           ? rings
                            : n_groups == 1 ? rings + 2 * sums
                            : rings > sums  ? rings
                                            : sums;
    const uint32_t most = block_bytes(device, s.n_tiles * (broad ? MAX_PHASES : 1));
    const uint32_t fit = (most - beside) / turn_bytes;
    s.chunk_turns = n_turns < fit ? n_turns : fit;
    s.chunk_bytes = s.chunk_turns * turn_bytes;
    static bool allowed; /* engine thread */
    if (!allowed) {
        cudaFuncSetAttribute(matmul_few<type, n_groups, broad>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most_bytes(device));
        allowed = true;
    }
    uint32_t n_blocks = 2 * device.n_sms / (broad ? MAX_PHASES : 1);
    if (n_blocks > s.n_tiles || n_blocks == 0 || (!broad && n_groups > 1))
        n_blocks = s.n_tiles;
    LAUNCH((matmul_few<type, n_groups, broad>), dim3(n_blocks, broad ? MAX_PHASES : 1),
           n_warps * 32, s.chunk_bytes + beside, stream, all, x, s);
}

/* Whether x of n rows in one group of columns fits into a narrow block whole. */
template <uint32_t type> static bool fits_narrow(uint64_t rows, uint32_t cols, uint32_t n)
{
    typedef few<type> f;
    constexpr uint32_t sums = MAX_PHASES * most_rows<type, 1>() * 36 * sizeof(float);
    const uint64_t units = (cols + f::unit_blocks * BLOCK_COLS - 1) / (f::unit_blocks * BLOCK_COLS);
    const uint64_t turns = (units + MAX_PHASES - 1) / MAX_PHASES;
    return turns * MAX_PHASES * f::unit_blocks * n * f::n_parts * 64 + RING_BYTES + 2 * sums <=
           block_bytes(device_limits_of(), (uint32_t)((rows + BAND_ROWS - 1) / BAND_ROWS));
}

/* Broad where that saves reading x and the weights have 8 phases and a tile of bands. */
template <uint32_t type>
static void launch_type(cudaStream_t stream, const struct matmul_job *jobs, uint32_t n_jobs,
                        const float *x, uint32_t n, float *scratch)
{
    constexpr uint32_t some = type == TENSOR_BF16 ? 3 : 2, most = 2 * some;
    constexpr uint32_t unit_cols = few<type>::unit_blocks * BLOCK_COLS;
    const uint32_t cols = jobs[0].w->cols;
    uint64_t rows = 0;
    for (uint32_t i = 0; i < n_jobs; i++)
        rows += jobs[i].w->rows;
    const bool one = n <= most_rows<type, 1>();
    const bool broad = cols > (MAX_PHASES - 1) * unit_cols && rows >= BROAD_BANDS * BAND_ROWS &&
                       rows / (BROAD_BANDS * BAND_ROWS) + n_jobs <= MAX_BROAD &&
                       !(one && fits_narrow<type>(rows, cols, n));
    if (one && broad)
        launch_groups<type, 1, true>(stream, jobs, n_jobs, x, n, scratch);
    else if (one)
        launch_groups<type, 1, false>(stream, jobs, n_jobs, x, n, scratch);
    else if (n <= most_rows<type, some>() && broad)
        launch_groups<type, some, true>(stream, jobs, n_jobs, x, n, scratch);
    else if (n <= most_rows<type, some>())
        launch_groups<type, some, false>(stream, jobs, n_jobs, x, n, scratch);
    else if (broad)
        launch_groups<type, most, true>(stream, jobs, n_jobs, x, n, scratch);
    else
        launch_groups<type, most, false>(stream, jobs, n_jobs, x, n, scratch);
}

uint64_t matmul_few_scratch_bytes(uint32_t max_n, uint32_t max_rows)
{
    const uint64_t n = max_n < MATMUL_FEW ? max_n : MATMUL_FEW;
    return n * max_rows * MAX_PHASES * sizeof(float);
}

void launch_matmul_few(cudaStream_t stream, const struct matmul_job *jobs, uint32_t n_jobs,
                       const float *x, uint32_t n, uint8_t *scratch)
{
    for_weight_type(jobs[0].w->type, [&](auto t) {
        if constexpr (t.type != TENSOR_F32)
            launch_type<t.type>(stream, jobs, n_jobs, x, n, (float *)scratch);
    });
}
