/* out = x w^T for more rows of x than matmul_few.cu takes, on tensor cores.
 *
 * x comes as halves from matmul_convert.cu. Quantised weights become halves in registers, and so do
 * bfloat16s: exactly from 6e-5 to 65504 and within 3e-8 below, while x as bfloat16 would lose 8
 * times more than as half. The bytes of 64 columns of a tile travel by cp.async through a ring in
 * shared memory. Rows of x (and of unquantised w) are lines of 128 bytes whose 16-byte pieces are
 * swizzled by the row, so that ldmatrix and the copies meet every bank once. Quantised w keeps its
 * layout, since weight_layout.h has each lane's registers of the product in one place (here w is
 * the second operand; its registers b[0], b[1] of 8 rows are a[i], a[i + 2] there, and x's columns
 * are shuffled to match).
 *
 * A warp multiplies 32 columns of x and w to 64 x 32 outputs with 32 mma.m16n8k16, 256 cycles of
 * its quarter of the SM's tensor cores as mma.sync runs on an H100 (62 % of the 989 TFLOP/s that
 * wgmma reaches). In that time it may issue 256 instructions: 36 .. 70 unpack 1024 weights, 16
 * scale them, 8 ldmatrix bring x. So the tensor cores are the limit, though the two warps of a
 * column unpack the same weights.
 *
 *   n <= 32   tiles of 32 x 128, 8 warps of 32 x 32    memory decides
 *   n <= 64   tiles of 64 x 64,  8 warps of 32 x 32    both (Q4_0, 4096 x 4096: 2 us and 3.5 us)
 *   more      tiles of 128 x 128, 8 warps of 64 x 32
 *
 * The first two split the columns over blocks so that the GPU is full (n_splits depends on the
 * weight's shape alone) and add the parts in order afterwards. They also split them over two
 * warps, which take every other 32 columns: with 4 warps an SM, unpacking waited for itself
 * (H200, 14336 x 4096: 59 us for Q4_K and 40 for BF16, of which the memory needs 16 and 29). In
 * the third an output is one chain over the columns, in their order, whatever the tile. */
#include "cuda/kernels/matmul.h"

#include "cuda/kernels/weight_decode.h"

#define UNIT_COLS   64
#define RING_BYTES  (99 * 1024) /* two blocks on an SM; every GPU from sm_80 on allows it */
#define SPLIT_TILE  64          /* rows of w, for counting blocks */
#define SPLIT_ABOUT 256         /* blocks that fill a GPU of 132 SMs twice */

template <uint32_t type, int m_tiles, int m_warps, int n_warps, int k_warps> struct many {
    static constexpr bool quantised = weight_is_quantised(type);
    static constexpr weight_geometry geometry = weight_geometry_of(type);
    static constexpr uint32_t tile_x = m_tiles * 16 * m_warps, tile_w = n_warps * BAND_ROWS;
    static constexpr uint32_t threads = m_warps * n_warps * k_warps * 32;
    static constexpr uint32_t x_bytes = tile_x * UNIT_COLS * 2;
    static constexpr uint32_t band_bytes =
        quantised ? 2 * geometry.block_bytes + geometry.unit_scales + geometry.super_scales
                  : BAND_ROWS * UNIT_COLS * 2;
    static constexpr uint32_t stage_bytes = x_bytes + n_warps * band_bytes;
    static constexpr uint32_t fit = RING_BYTES / stage_bytes;
    static constexpr uint32_t n_stages = fit > 4 ? 4 : fit;
    static_assert(n_stages >= 3, "two in flight while one is used");
    static_assert(k_warps == 1 || tile_x * tile_w * 4 <= n_stages * stage_bytes,
                  "half of the sums fit into the ring");
};

/* pitch: of x, in halves. */
struct many_shape {
    uint32_t cols, n, pitch, n_units; /* units of 64 columns */
};

/* The weights of one launch: their tiles of rows are numbered through. out: of several splits
 * [split][n][rows] in scratch. */
struct many_job {
    const uint8_t *w;
    const float *bias;
    float *out;
    uint32_t rows, first_tile, split_units, n_splits;
};
struct many_jobs {
    many_job job[MATMUL_JOBS];
    uint32_t n;
};

/* The job of a tile; *tile becomes the tile's number in that job. */
static __device__ __forceinline__ const many_job &job_of(const many_jobs &jobs, uint32_t *tile)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < jobs.n; i++)
        if (*tile >= jobs.job[i].first_tile)
            at = i;
    *tile -= jobs.job[at].first_tile;
    return jobs.job[at];
}

/* Byte of piece `piece` (16 bytes) of line `line` in a swizzled array of lines of 128 bytes. */
static __device__ __forceinline__ uint32_t swizzled(uint32_t line, uint32_t piece)
{
    return line * 128 + ((piece ^ line) & 7) * 16;
}

/* Starts the copies of a unit's x. */
template <class M>
static __device__ __forceinline__ void fetch_x(uint8_t *stage, const uint16_t *x,
                                               const many_shape &s, uint32_t unit)
{
#pragma unroll
    for (uint32_t i = 0; i < M::tile_x * 8 / M::threads; i++) {
        const uint32_t item = i * M::threads + threadIdx.x, line = item / 8, piece = item % 8;
        const uint32_t row = blockIdx.x * M::tile_x + line;
        const uint16_t *from =
            x + (uint64_t)min(row, s.n - 1) * s.pitch + unit * UNIT_COLS + piece * 8;
        cp_async_16_zero(stage + swizzled(line, piece), from, row < s.n ? 16 : 0);
    }
}

/* Starts the copies of a unit's weights: bands, or swizzled lines. */
template <uint32_t type, class M>
static __device__ __forceinline__ void fetch_w(uint8_t *stage, const many_job &job, uint32_t tile,
                                               const many_shape &s, uint32_t unit)
{
    if constexpr (M::quantised) {
        constexpr weight_geometry g = M::geometry;
        constexpr uint32_t pieces = M::band_bytes / 16;
        constexpr uint32_t n_pieces = pieces * (M::tile_w / BAND_ROWS);
        const uint32_t n_bands = (job.rows + BAND_ROWS - 1) / BAND_ROWS,
                       n_blocks = s.cols / BLOCK_COLS;
        const uint32_t own = min(2u, n_blocks - unit * 2) * g.block_bytes + g.unit_scales;
        for (uint32_t i = threadIdx.x; i < n_pieces; i += M::threads) {
            const uint32_t band = tile * (M::tile_w / BAND_ROWS) + i / pieces,
                           byte = i % pieces * 16;
            const uint8_t *from = job.w + min(band, n_bands - 1) * weight_band_bytes(g, s.cols);
            if (g.super_scales != 0 && byte >= M::band_bytes - g.super_scales)
                from += weight_block_offset(g, unit / 4 * 8 + 8) - M::band_bytes + byte;
            else if (byte < own)
                from += weight_block_offset(g, unit * 2) + byte;
            else
                continue;
            cp_async_16(stage + i / pieces * M::band_bytes + byte, from);
        }
    } else {
        const uint64_t row_bytes = weight_row_bytes(type, s.cols);
#pragma unroll
        for (uint32_t i = 0; i < M::tile_w * 8 / M::threads; i++) {
            const uint32_t item = i * M::threads + threadIdx.x, line = item / 8, piece = item % 8;
            const uint32_t row = tile * M::tile_w + line, col = unit * UNIT_COLS + piece * 8;
            const bool inside = row < job.rows && col < s.cols;
            cp_async_16_zero(stage + swizzled(line, piece),
                             inside ? job.w + row * row_bytes + col * 2 : job.w, inside ? 16 : 0);
        }
    }
}

/* A pair of bfloat16s as halves. */
static __device__ __forceinline__ uint32_t halves_of_bfloats(uint32_t pair)
{
    return bits_of_half2(
        __floats2half2_rn(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)));
}

/* The registers b of unquantised weights, as quantised_registers gives them; `line` is the first
 * of the warp's 32 rows. */
template <uint32_t type>
static __device__ __forceinline__ void plain_registers(uint32_t (&b)[2][4][2], const uint8_t *stage,
                                                       uint32_t line, uint32_t block, uint32_t lane)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int r = 0; r < 4; r += 2) {
            /* Matrices of 8 rows x 8 columns: rows r, its columns 0..7, 8..15; rows r + 1, the
             * same. */
            const uint32_t row = line + (r + lane / 16) * 8 + lane % 8;
            uint32_t four[4];
            ldmatrix_x4(four, stage + swizzled(row, block * 4 + h * 2 + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < 4; i++)
                b[h][r + i / 2][i % 2] = type == TENSOR_BF16 ? halves_of_bfloats(four[i]) : four[i];
        }
    }
}

/* One block of 32 columns. */
template <int m_tiles>
static __device__ __forceinline__ void multiply(float (&acc)[m_tiles][4][4],
                                                const uint32_t (&b)[2][4][2], const uint8_t *x,
                                                uint32_t line, uint32_t block, uint32_t lane)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int m = 0; m < m_tiles; m++) {
            uint32_t a[4];
            ldmatrix_x4(a, x + swizzled(line + m * 16 + lane % 16, block * 4 + h * 2 + lane / 16));
#pragma unroll
            for (int r = 0; r < 4; r++) {
                mma_m16n8k16_f16(acc[m][r], a, b[h][r]);
            }
        }
    }
}

static __device__ __forceinline__ void store_pair(float *out, uint32_t row, uint32_t rows, float a,
                                                  float b, const float *bias)
{
    if (row < rows)
        out[row] = bias != NULL ? a + bias[row] : a;
    if (row + 1 < rows)
        out[row + 1] = bias != NULL ? b + bias[row + 1] : b;
}

/* The second of two warps that share an output tile hands its sums to the first. */
template <int m_tiles>
static __device__ __forceinline__ void fold(float (&acc)[m_tiles][4][4], float *place, bool first)
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < m_tiles; m++) {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float4 *at = (float4 *)place + (m * 4 + r) * 32 + lane;
            if (first) {
                const float4 v = *at;
                acc[m][r][0] += v.x;
                acc[m][r][1] += v.y;
                acc[m][r][2] += v.z;
                acc[m][r][3] += v.w;
            } else {
                *at = make_float4(acc[m][r][0], acc[m][r][1], acc[m][r][2], acc[m][r][3]);
            }
        }
    }
}

/* Grid: tiles of x, tiles of w (neighbouring blocks share the weights in L2), splits. */
template <uint32_t type, int m_tiles, int m_warps, int n_warps, int k_warps>
static __global__ void __launch_bounds__(m_warps *n_warps *k_warps * 32, 2)
    matmul_many(const __grid_constant__ many_jobs jobs, const uint16_t *x, const float *scales,
                const many_shape s)
{
    typedef many<type, m_tiles, m_warps, n_warps, k_warps> M;
    DYNAMIC_SHARED(uint8_t, ring);
    const uint32_t lane = threadIdx.x % 32, of_tile = threadIdx.x / 32 % (m_warps * n_warps);
    const uint32_t k_warp = threadIdx.x / 32 / (m_warps * n_warps);
    const uint32_t m_warp = of_tile / n_warps, n_warp = of_tile % n_warps;
    uint32_t tile = blockIdx.y;
    const many_job &job = job_of(jobs, &tile);
    const uint32_t first = blockIdx.z * job.split_units;
    const uint32_t last = min(s.n_units, first + job.split_units);
    if (blockIdx.z >= job.n_splits)
        return;
    float acc[m_tiles][4][4] = {};

    uint32_t fetched = first;
    for (uint32_t i = 0; i + 1 < M::n_stages; i++, fetched++) {
        if (fetched < last) {
            fetch_x<M>(ring + i * M::stage_bytes, x, s, fetched);
            fetch_w<type, M>(ring + i * M::stage_bytes + M::x_bytes, job, tile, s, fetched);
        }
        cp_async_commit();
    }
    uint32_t stage = 0;
    for (uint32_t unit = first; unit < last; unit++, fetched++) {
        cp_async_wait<M::n_stages - 2>();
        __syncthreads(); /* the unit is there, and all are done with the one before */
        uint8_t *before = ring + (stage == 0 ? M::n_stages - 1 : stage - 1) * M::stage_bytes;
        if (fetched < last) {
            fetch_x<M>(before, x, s, fetched);
            fetch_w<type, M>(before + M::x_bytes, job, tile, s, fetched);
        }
        cp_async_commit();
        const uint8_t *xs = ring + stage * M::stage_bytes, *ws = xs + M::x_bytes;
        const uint8_t *band = ws + n_warp * M::band_bytes;
#pragma unroll(M::geometry.unit_scales == 0 ? 2 : 1) /* registers */
        for (uint32_t i = k_warp; i < 2; i += k_warps) {
            if (unit * UNIT_COLS + i * BLOCK_COLS >= s.cols)
                break;
            uint32_t b[2][4][2];
            if constexpr (M::quantised) {
                const weight_block block = {band + i * M::geometry.block_bytes,
                                            band + 2 * M::geometry.block_bytes,
                                            band + M::band_bytes - M::geometry.super_scales, i};
                quantised_registers<type>(b, block, lane);
            } else {
                plain_registers<type>(b, ws, n_warp * BAND_ROWS, i, lane);
            }
            multiply<m_tiles>(acc, b, xs, m_warp * m_tiles * 16, i, lane);
        }
        stage = stage + 1 == M::n_stages ? 0 : stage + 1;
    }
    cp_async_wait<0>();
    if constexpr (k_warps == 2) {
        float *place = (float *)ring + of_tile * m_tiles * 16 * BAND_ROWS;
        __syncthreads(); /* nobody reads the ring any more */
        if (k_warp == 1)
            fold<m_tiles>(acc, place, false);
        __syncthreads();
        if (k_warp == 1)
            return;
        fold<m_tiles>(acc, place, true);
    }
    const float *bias = job.n_splits > 1 ? NULL : job.bias;
#pragma unroll
    for (int m = 0; m < m_tiles; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t j =
                blockIdx.x * M::tile_x + (m_warp * m_tiles + m) * 16 + half * 8 + lane / 4;
            if (j >= s.n)
                continue;
            const float scale = scales[j];
            float *to = job.out + ((uint64_t)blockIdx.z * s.n + j) * job.rows;
#pragma unroll
            for (int r = 0; r < 4; r++)
                store_pair(to, (tile * n_warps + n_warp) * BAND_ROWS + r * 8 + lane % 4 * 2,
                           job.rows, acc[m][r][half * 2] * scale, acc[m][r][half * 2 + 1] * scale,
                           bias);
        }
    }
}

/* out = the sum of the splits, in their order, plus bias. Grid: parts of a row of out, rows of x,
 * jobs. */
struct split_sums {
    struct {
        const float *parts, *bias;
        float *out;
        uint32_t rows, n_splits;
    } job[MATMUL_JOBS];
};
static __global__ void add_splits(const __grid_constant__ split_sums sums, uint32_t n)
{
    const auto &job = sums.job[blockIdx.z];
    const uint32_t row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= job.rows)
        return;
    const uint64_t at = (uint64_t)blockIdx.y * job.rows + row;
    float sum = 0;
    for (uint32_t i = 0; i < job.n_splits; i++)
        sum += job.parts[(uint64_t)i * n * job.rows + at];
    job.out[at] = job.bias != NULL ? sum + job.bias[row] : sum;
}

/* Units of 64 columns in a split: enough splits to fill the GPU, but none below 4 units. */
static uint32_t split_units_of(uint32_t rows, uint32_t cols)
{
    const uint32_t n_units = (cols + UNIT_COLS - 1) / UNIT_COLS;
    const uint32_t n_tiles = (rows + SPLIT_TILE - 1) / SPLIT_TILE;
    uint32_t n_splits = SPLIT_ABOUT / n_tiles, most = n_units / 4;
    n_splits = n_splits < most ? n_splits : most;
    return n_splits > 1 ? (n_units + n_splits - 1) / n_splits : n_units;
}

/* split_units_of keeps splits times rows below SPLIT_ABOUT x SPLIT_TILE where there is more than
 * one split. Dividing the units among whole splits only makes fewer. */
uint64_t matmul_many_scratch_bytes(uint32_t max_n, uint32_t max_cols)
{
    const uint32_t middle = max_n < MATMUL_MIDDLE ? max_n : MATMUL_MIDDLE;
    return matmul_x16_bytes(max_n, max_cols) +
           (uint64_t)middle * MATMUL_JOBS * (SPLIT_ABOUT * SPLIT_TILE) * sizeof(float);
}

template <uint32_t type, int m_tiles, int m_warps, int n_warps, int k_warps>
static void launch_tiles(cudaStream_t stream, const struct matmul_job *jobs, uint32_t n_jobs,
                         const struct matmul_x16 &x, uint32_t n, float *parts)
{
    typedef many<type, m_tiles, m_warps, n_warps, k_warps> M;
    many_shape s = {};
    s.cols = jobs[0].w->cols;
    s.n = n;
    s.pitch = x.pitch;
    s.n_units = (s.cols + UNIT_COLS - 1) / UNIT_COLS;
    many_jobs all = {};
    split_sums sums = {};
    uint32_t n_tiles = 0, most_splits = 1, n_sums = 0, most_rows = 0;
    all.n = n_jobs;
    for (uint32_t i = 0; i < n_jobs; i++) {
        const uint32_t rows = jobs[i].w->rows,
                       units = n <= MATMUL_MIDDLE ? split_units_of(rows, s.cols) : s.n_units,
                       n_splits = (s.n_units + units - 1) / units;
        all.job[i] = {
            jobs[i].w->data, jobs[i].bias, n_splits > 1 ? parts : jobs[i].out, rows, n_tiles,
            units,           n_splits};
        n_tiles += (rows + M::tile_w - 1) / M::tile_w;
        if (n_splits == 1)
            continue;
        sums.job[n_sums++] = {parts, jobs[i].bias, jobs[i].out, rows, n_splits};
        parts += (uint64_t)n_splits * n * rows;
        most_splits = n_splits > most_splits ? n_splits : most_splits;
        most_rows = rows > most_rows ? rows : most_rows;
    }
    static bool allowed; /* engine thread */
    if (!allowed) {
        cudaFuncSetAttribute(matmul_many<type, m_tiles, m_warps, n_warps, k_warps>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             M::n_stages * M::stage_bytes);
        allowed = true;
    }
    LAUNCH((matmul_many<type, m_tiles, m_warps, n_warps, k_warps>),
           dim3((n + M::tile_x - 1) / M::tile_x, n_tiles, most_splits), M::threads,
           M::n_stages * M::stage_bytes, stream, all, x.values, x.scales, s);
    if (n_sums > 0)
        LAUNCH(add_splits, dim3((most_rows + 255) / 256, n, n_sums), 256, 0, stream, sums, n);
}

template <uint32_t type>
static void launch_type(cudaStream_t stream, const struct matmul_job *jobs, uint32_t n_jobs,
                        const float *x, uint32_t n, uint8_t *scratch)
{
    const uint32_t cols = jobs[0].w->cols;
    const struct matmul_x16 x16 = matmul_x16_place(scratch, n, cols);
    float *parts = (float *)(scratch + matmul_x16_bytes(n, cols));
    launch_matmul_convert(stream, &x16, x, n, cols, false, weight_is_quantised(type));
    if (n <= 32)
        launch_tiles<type, 2, 1, 4, 2>(stream, jobs, n_jobs, x16, n, parts);
    else if (n <= MATMUL_MIDDLE)
        launch_tiles<type, 2, 2, 2, 2>(stream, jobs, n_jobs, x16, n, parts);
    else
        launch_tiles<type, 4, 2, 4, 1>(stream, jobs, n_jobs, x16, n, parts);
}

void launch_matmul_many(cudaStream_t stream, const struct matmul_job *jobs, uint32_t n_jobs,
                        const float *x, uint32_t n, uint8_t *scratch)
{
    for_weight_type(jobs[0].w->type, [&](auto t) {
        if constexpr (t.type != TENSOR_F32)
            launch_type<t.type>(stream, jobs, n_jobs, x, n, scratch);
    });
}
