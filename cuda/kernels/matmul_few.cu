/* out = x w^T for at most 16 rows of x and weights of 16 bits and less: one pass over the weight.
 *
 * Memory decides. An H200 delivers about 21 bytes of weights per cycle and SM, an H100 14, and an
 * SM issues 128 thread instructions per cycle: 6 (9 on the H100) per byte. With Q4_0 (0.5625 bytes
 * a value) that is 3.4 instructions per value, so one fused multiply-add per value and row of x,
 * with its share of unpacking and converting to float, is over the roof at the second row. Tensor
 * cores multiply 8 columns at the price of one, and ask for no conversion to float: codes (small
 * integers) are halves, exactly; each scale multiplies the sum over its 16 or 32 columns
 * afterwards, in fp32. Instructions per value, at most 8 columns: codes 1.1 (4 bits) .. 1.9 (5
 * bits), scales 0.2 .. 0.5, sums 0.25 (0.5 with minima), tensor cores and loads 0.3: 1.9 for
 * Q4_0, 2.9 for Q4_K and Q5_K.
 *
 * Nothing is lost but the last bits of fp32: x is cut in parts that are numbers of 16 bits, each
 * part a column of its own. Next to halves x / 64 = high + low / 2048, whose error is 2^-22 of x
 * down to |x| = 4e-3 and 2^-30 below (1e-9 of products), for |x| < 4.1e6; next to bfloat16 three
 * parts, all 24 bits. 1 to 4 rows of x thus fill the 8 columns of one product. 16 rows take 16
 * mma.m16n8k16 for 1024 weights, about 32 cycles of an SM's tensor cores next to the 27 of its
 * memory (Q4_0, H200): the roof of both, and the limit of this file.
 *
 * The columns of w are cut into units of 64 (32 if not quantised), unit u belongs to phase u % 8. A
 * warp has one phase of a band of 32 rows. It streams its units through a ring of its own in shared
 * memory with cp.async (about 60 KB in flight for each block; Little's law asks for 40 per SM). All
 * warps of a block convert x into shared memory, a chunk of columns at a time.
 *
 *   narrow   a block has the 8 phases of one band and reads all of x: 4 n bytes for 18 of w (Q4_0)
 *   wide     a block has 2 phases of 4 bands and reads a quarter of x; 4 blocks leave their sums in
 *            scratch, the last to come adds them. Against 8 rows of x, 4096 x 4096 of Q4_0, x would
 *            be 17 MB from L2 (5.5 TB/s: 3 us) next to 9.4 MB of w (2 us); so it is 4 MB
 *
 * Both add the phases in the same order, in pairs: an output's bits depend neither on n nor on the
 * way. */
#include "cuda/kernels/matmul.h"

#include "cuda/kernels/weight_decode.h"

#define MAX_PHASES  8 /* and warps of a block */
#define WIDE_BANDS  4
#define WIDE_PHASES (MAX_PHASES / WIDE_BANDS)
#define MAX_WIDE    4096 /* tiles of WIDE_BANDS bands in one launch */
#define X_BYTES     (33 * 1024)
#define RING_BYTES                                                                                 \
    (66 * 1024) /* with X_BYTES the 99 KiB that every GPU of this kind allows a block */

/* Blocks that have finished, for each tile of wide launches; 0 between launches, which follow each
 * other on the engine's stream. */
static __device__ unsigned n_arrived[MAX_WIDE];

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
    uint32_t rows, cols, n_blocks, n_units; /* n_blocks: of 32 columns */
    uint32_t n, n_columns;                  /* rows of x, and parts of them */
    uint32_t chunk_turns;                   /* of the phases: what of x fits into shared memory */
    uint32_t vectors;                       /* rows of x are aligned to 16 bytes */
};

/* What a block does of it. */
struct few_part {
    uint32_t n_phases;            /* of the launch */
    uint32_t first_phase, phases; /* of the block */
};

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
 * that belong to its weights. */
template <uint32_t type>
static __device__ void convert_x(uint8_t *xs, const float *x, const few_shape &s, const few_part &p,
                                 uint32_t first_turn, uint32_t n_turns)
{
    constexpr uint32_t n_parts = few<type>::n_parts, quarters = few<type>::unit_blocks * 8;
    for (uint32_t j = 0; j < s.n; j++) {
        const float *row = x + (uint64_t)j * s.cols;
        for (uint32_t i = threadIdx.x; i < n_turns * p.phases * quarters; i += blockDim.x) {
            const uint32_t slot = i / quarters, turn = slot / p.phases;
            const uint32_t unit =
                (first_turn + turn) * p.n_phases + p.first_phase + slot - turn * p.phases;
            uint2 parts[n_parts];
            cut<type>(parts, load_x(row, (unit * quarters + i % quarters) * 4, s));
            const uint32_t in_block = i % 8;
            const uint32_t place =
                few<type>::quantised ? in_block % 4 * 16 + in_block / 4 * 8 : in_block * 8;
#pragma unroll
            for (uint32_t k = 0; k < n_parts; k++)
                *(uint2 *)(xs + (i / 8 * s.n_columns + j * n_parts + k) * 64 + place) = parts[k];
        }
    }
}

/* Starts the copy of a unit into a stage. Not quantised: each lane copies what it will read itself.
 */
template <uint32_t type>
static __device__ __forceinline__ void fetch_unit(uint8_t *stage, const uint8_t *w,
                                                  const few_shape &s, uint32_t band, uint32_t unit,
                                                  uint32_t lane)
{
    constexpr weight_geometry g = few<type>::geometry;
    if (!few<type>::quantised) {
        const uint32_t col = unit * BLOCK_COLS + lane % 4 * 8;
        const uint64_t row_bytes = weight_row_bytes(type, s.cols);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const uint32_t row = band * BAND_ROWS + lane / 4 + 8 * r;
            const bool inside = row < s.rows && col < s.cols;
            const uint8_t *from = inside ? w + row * row_bytes + col * 2 : w;
            cp_async_16_zero(stage + (r * 32 + lane) * 16, from, inside ? 16 : 0);
        }
        return;
    }
    const uint8_t *start = w + band * weight_band_bytes(g, s.cols);
    const uint8_t *from = start + weight_block_offset(g, unit * 2);
    const uint32_t n = min(2u, s.n_blocks - unit * 2) * g.block_bytes + g.unit_scales;
    for (uint32_t i = lane * 16; i < n; i += 512)
        cp_async_16(stage + i, from + i);
    if (g.super_scales != 0 && lane * 16 < g.super_scales)
        cp_async_16(stage + few<type>::stage_bytes - g.super_scales + lane * 16,
                    start + weight_block_offset(g, unit / 4 * 8 + 8) - g.super_scales + lane * 16);
}

/* The columns of x that belong to a lane's weights, of one group of 8: the b registers of [h]. */
static __device__ __forceinline__ void load_columns(uint32_t (&x)[2][2], const uint8_t *xs,
                                                    uint32_t n_columns, int group, uint32_t lane)
{
    const uint32_t column = group * 8 + lane / 4;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (column < n_columns)
        v = *(const uint4 *)(xs + column * 64 + lane % 4 * 16);
    x[0][0] = v.x;
    x[0][1] = v.y;
    x[1][0] = v.z;
    x[1][1] = v.w;
}

/* Adds the products of one block to acc[m][column group][..]: F16 and BF16, as each lane has copied
 * them. */
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
        load_columns(x, xs, n_columns, group, lane);
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
        load_columns(x, xs, n_columns, group, lane);
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float sum[4] = {0, 0, 0, 0};
            mma_m16n8k16_f16(sum, a[m][0], x[0]);
            if (type == TENSOR_Q6_K) { /* a scale for each 16 columns */
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

/* The warps' sums to shared memory: [warp][column][36 of 32 rows], where 36 keeps the lanes of a
 * store in different banks. */
template <int n_groups>
static __device__ __forceinline__ void leave_sums(float *sums, const float (&acc)[2][n_groups][4])
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int group = 0; group < n_groups; group++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t column = group * 8 + lane % 4 * 2 + i % 2;
                const uint32_t row = m * 16 + lane / 4 + i / 2 * 8;
                sums[(warp * n_groups * 8 + column) * 36 + row] = acc[m][group][i];
            }
        }
    }
}

/* Row `row` of the band times row j of x, over the phases of the warps 2 pair and 2 pair + 1. */
template <uint32_t type, int n_groups>
static __device__ __forceinline__ float sum_of_pair(const float *sums, uint32_t pair, uint32_t j,
                                                    uint32_t row)
{
    constexpr uint32_t n_parts = few<type>::n_parts;
    float parts[n_parts];
#pragma unroll
    for (uint32_t p = 0; p < n_parts; p++) {
        const float *at = sums + (2 * pair * n_groups * 8 + j * n_parts + p) * 36 + row;
        parts[p] = 2 * pair + 1 < blockDim.x / 32 ? at[0] + at[n_groups * 8 * 36] : at[0];
    }
    return type == TENSOR_BF16 ? parts[n_parts - 1] + parts[1] + parts[0]
                               : (parts[1] / 2048 + parts[0]) * 64;
}

/* Narrow: the block has all phases of its band. */
template <uint32_t type, int n_groups>
static __device__ void finish(const float *sums, float *out, const float *bias, const few_shape &s)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    const uint32_t row = blockIdx.x * BAND_ROWS + lane;
    if (row >= s.rows)
        return;
    for (uint32_t j = warp; j < s.n; j += n_warps) {
        float sum = 0;
        for (uint32_t pair = 0; pair < (n_warps + 1) / 2; pair++)
            sum += sum_of_pair<type, n_groups>(sums, pair, j, lane);
        out[(uint64_t)j * s.rows + row] = bias != NULL ? sum + bias[row] : sum;
    }
}

/* Wide: the block has a pair of phases of WIDE_BANDS bands, and leaves it in pairs[pair][n][rows].
 * The block that comes last, whichever it is, adds the pairs in their order. */
template <uint32_t type, int n_groups>
static __device__ void finish_wide(const float *sums, float *pairs, float *out, const float *bias,
                                   const few_shape &s)
{
    SHARED(uint32_t, last, [1]);
    const uint32_t first_row = blockIdx.x * WIDE_BANDS * BAND_ROWS;
    for (uint32_t i = threadIdx.x; i < s.n * WIDE_BANDS * BAND_ROWS; i += blockDim.x) {
        const uint32_t j = i / (WIDE_BANDS * BAND_ROWS), row = i % (WIDE_BANDS * BAND_ROWS);
        if (first_row + row < s.rows)
            pairs[((uint64_t)blockIdx.y * s.n + j) * s.rows + first_row + row] =
                sum_of_pair<type, n_groups>(sums, row / BAND_ROWS, j, row % BAND_ROWS);
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last[0] = atomicAdd(&n_arrived[blockIdx.x], 1u) + 1 == gridDim.y;
        if (last[0])
            n_arrived[blockIdx.x] = 0;
    }
    __syncthreads();
    if (!last[0])
        return;
    __threadfence();
    for (uint32_t i = threadIdx.x; i < s.n * WIDE_BANDS * BAND_ROWS; i += blockDim.x) {
        const uint32_t j = i / (WIDE_BANDS * BAND_ROWS);
        const uint32_t row = first_row + i % (WIDE_BANDS * BAND_ROWS);
        if (row >= s.rows)
            continue;
        float sum = 0;
        for (uint32_t pair = 0; pair < gridDim.y; pair++)
            sum += __ldcg(&pairs[((uint64_t)pair * s.n + j) * s.rows + row]);
        out[(uint64_t)j * s.rows + row] = bias != NULL ? sum + bias[row] : sum;
    }
}

/* Grid: bands of w; or, wide, tiles of WIDE_BANDS bands, pairs of phases. Shared memory: the chunk
 * of x, then a ring for each warp. */
template <uint32_t type, int n_groups, bool wide>
static __global__ void __launch_bounds__(MAX_PHASES * 32, wide || n_groups < 4 ? 2 : 1)
    matmul_few(float *out, const uint8_t *w, const float *x, const float *bias, float *pairs,
               const few_shape s)
{
    typedef few<type> f;
    DYNAMIC_SHARED(uint8_t, shared);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    const few_part p = {wide ? MAX_PHASES : n_warps, wide ? blockIdx.y * WIDE_PHASES : 0,
                        wide ? WIDE_PHASES : n_warps};
    const uint32_t band = wide ? blockIdx.x * WIDE_BANDS + warp / WIDE_PHASES : blockIdx.x;
    const uint32_t phase = wide ? warp % WIDE_PHASES : warp; /* of the block's */
    const uint32_t n_units = band * BAND_ROWS < s.rows ? s.n_units : 0;
    constexpr uint32_t unit_blocks = f::unit_blocks;
    uint8_t *xs = shared;
    uint8_t *rings = shared + s.chunk_turns * p.phases * unit_blocks * s.n_columns * 64;
    uint8_t *ring = rings + warp * f::n_stages * f::stage_bytes;
    float acc[2][n_groups][4] = {};

    uint32_t unit = p.first_phase + phase, fetched = unit, stage = 0;
    for (uint32_t i = 0; i + 1 < f::n_stages; i++, fetched += p.n_phases) {
        if (fetched < n_units)
            fetch_unit<type>(ring + i * f::stage_bytes, w, s, band, fetched, lane);
        cp_async_commit();
    }
    const uint32_t n_turns = (s.n_units + p.n_phases - 1) / p.n_phases;
    for (uint32_t turn = 0; turn < n_turns; turn += s.chunk_turns) {
        const uint32_t end_turn = min(n_turns, turn + s.chunk_turns);
        if (turn != 0)
            __syncthreads();
        convert_x<type>(xs, x, s, p, turn, end_turn - turn);
        __syncthreads();
        const uint32_t end = min(n_units, end_turn * p.n_phases);
        const uint8_t *columns = xs + phase * unit_blocks * s.n_columns * 64;
        for (; unit < end;
             unit += p.n_phases, columns += p.phases * unit_blocks * s.n_columns * 64) {
            cp_async_wait<f::n_stages - 2>();
            __syncwarp(); /* the unit is there for all, and all are done with the one before */
            const uint32_t before = stage == 0 ? f::n_stages - 1 : stage - 1;
            if (fetched < n_units)
                fetch_unit<type>(ring + before * f::stage_bytes, w, s, band, fetched, lane);
            cp_async_commit();
            fetched += p.n_phases;
            const uint8_t *at = ring + stage * f::stage_bytes;
#pragma unroll(n_groups < 4 ? 2 : 1) /* registers */
            for (uint32_t i = 0; i < unit_blocks; i++) {
                if (unit * unit_blocks + i >= s.n_blocks)
                    break;
                const weight_block b = {at + i * f::geometry.block_bytes,
                                        at + 2 * f::geometry.block_bytes,
                                        at + f::stage_bytes - f::geometry.super_scales, i};
                if constexpr (f::quantised)
                    multiply_quantised<type, n_groups>(acc, b, columns + i * s.n_columns * 64,
                                                       s.n_columns, lane);
                else
                    multiply_plain<type, n_groups>(acc, at, columns, s.n_columns, lane);
            }
            stage = stage + 1 == f::n_stages ? 0 : stage + 1;
        }
    }
    cp_async_wait<0>();
    __syncthreads(); /* the rings become room for the sums */
    leave_sums<n_groups>((float *)rings, acc);
    __syncthreads();
    if constexpr (wide)
        finish_wide<type, n_groups>((float *)rings, pairs, out, bias, s);
    else
        finish<type, n_groups>((float *)rings, out, bias, s);
}

template <uint32_t type, int n_groups, bool wide>
static void launch_groups(cudaStream_t stream, float *out, const struct device_weight *w,
                          const float *x, uint32_t n, const float *bias, float *pairs)
{
    typedef few<type> f;
    few_shape s = {};
    s.rows = w->rows;
    s.cols = w->cols;
    s.n_blocks = (w->cols + BLOCK_COLS - 1) / BLOCK_COLS;
    s.n_units = (s.n_blocks + f::unit_blocks - 1) / f::unit_blocks;
    s.n = n;
    s.n_columns = n * f::n_parts;
    s.vectors = w->cols % 4 == 0 && (uintptr_t)x % 16 == 0;
    const uint32_t n_warps = s.n_units < MAX_PHASES ? s.n_units : MAX_PHASES;
    const uint32_t phases = wide ? WIDE_PHASES : n_warps, n_phases = wide ? MAX_PHASES : n_warps;
    const uint32_t turn_bytes = phases * f::unit_blocks * s.n_columns * 64;
    const uint32_t n_turns = (s.n_units + n_phases - 1) / n_phases, fit = X_BYTES / turn_bytes;
    s.chunk_turns = n_turns < fit ? n_turns : fit;
    const uint32_t rings = n_warps * f::n_stages * f::stage_bytes;
    const uint32_t sums = n_warps * n_groups * 8 * 36 * sizeof(float);
    static bool allowed; /* engine thread */
    if (!allowed) {
        cudaFuncSetAttribute(matmul_few<type, n_groups, wide>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, X_BYTES + RING_BYTES);
        allowed = true;
    }
    const uint32_t n_bands = (w->rows + BAND_ROWS - 1) / BAND_ROWS;
    const dim3 grid(wide ? (n_bands + WIDE_BANDS - 1) / WIDE_BANDS : n_bands,
                    wide ? MAX_PHASES / WIDE_PHASES : 1);
    LAUNCH((matmul_few<type, n_groups, wide>), grid, n_warps * 32,
           s.chunk_turns * turn_bytes + (rings > sums ? rings : sums), stream, out, w->data, x,
           bias, pairs, s);
}

/* Wide where that spares reading x: for more rows than fill one group of columns, and weights that
 * have 8 phases and a tile of bands. */
template <uint32_t type>
static void launch_type(cudaStream_t stream, float *out, const struct device_weight *w,
                        const float *x, uint32_t n, const float *bias, float *pairs)
{
    constexpr uint32_t some = type == TENSOR_BF16 ? 3 : 2, most = 2 * some;
    constexpr uint32_t unit_cols = few<type>::unit_blocks * BLOCK_COLS;
    const uint32_t groups = (n * few<type>::n_parts + 7) / 8;
    const uint32_t tile = WIDE_BANDS * BAND_ROWS;
    const bool wide = w->cols > (MAX_PHASES - 1) * unit_cols && w->rows >= tile &&
                      (w->rows + tile - 1) / tile <= MAX_WIDE;
    if (groups == 1)
        launch_groups<type, 1, false>(stream, out, w, x, n, bias, pairs);
    else if (groups <= some && wide)
        launch_groups<type, some, true>(stream, out, w, x, n, bias, pairs);
    else if (groups <= some)
        launch_groups<type, some, false>(stream, out, w, x, n, bias, pairs);
    else if (wide)
        launch_groups<type, most, true>(stream, out, w, x, n, bias, pairs);
    else
        launch_groups<type, most, false>(stream, out, w, x, n, bias, pairs);
}

uint64_t matmul_few_scratch_bytes(uint32_t max_n, uint32_t max_rows)
{
    const uint64_t n = max_n < MATMUL_FEW ? max_n : MATMUL_FEW;
    return n * max_rows * (MAX_PHASES / WIDE_PHASES) * sizeof(float);
}

void launch_matmul_few(cudaStream_t stream, float *out, const struct device_weight *w,
                       const float *x, uint32_t n, const float *bias, uint8_t *scratch)
{
    float *pairs = (float *)scratch;
    switch (w->type) {
    case TENSOR_F16:
        return launch_type<TENSOR_F16>(stream, out, w, x, n, bias, pairs);
    case TENSOR_BF16:
        return launch_type<TENSOR_BF16>(stream, out, w, x, n, bias, pairs);
    case TENSOR_Q8_0:
        return launch_type<TENSOR_Q8_0>(stream, out, w, x, n, bias, pairs);
    case TENSOR_Q4_0:
        return launch_type<TENSOR_Q4_0>(stream, out, w, x, n, bias, pairs);
    case TENSOR_Q4_1:
        return launch_type<TENSOR_Q4_1>(stream, out, w, x, n, bias, pairs);
    case TENSOR_Q5_0:
        return launch_type<TENSOR_Q5_0>(stream, out, w, x, n, bias, pairs);
    case TENSOR_Q5_1:
        return launch_type<TENSOR_Q5_1>(stream, out, w, x, n, bias, pairs);
    case TENSOR_Q4_K:
        return launch_type<TENSOR_Q4_K>(stream, out, w, x, n, bias, pairs);
    case TENSOR_Q5_K:
        return launch_type<TENSOR_Q5_K>(stream, out, w, x, n, bias, pairs);
    case TENSOR_Q6_K:
        return launch_type<TENSOR_Q6_K>(stream, out, w, x, n, bias, pairs);
    }
}
