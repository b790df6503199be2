/* out = x w^T for F32 weights, in fp32 whatever the number of rows.
 *
 * At most 8 rows of x: a warp has 4 rows of w and its lanes walk the columns, 16 bytes at a time, w
 * streamed, x from L1. 4 bytes of weight pay for 25 instructions (see matmul_few.cu); 8 rows of x
 * need 8 fused multiply-adds and 2 loads of x per 4 weights, so memory is the limit. The lanes'
 * sums are folded through shared memory: each lane adds the 32 sums of one output, which takes a
 * quarter of the instructions of folding every output by shuffles.
 *
 * More rows: tiles of 64 rows of x by 64 rows of w, 128 threads with 8 x 4 sums each, 16 columns
 * at a time in shared memory while the next 16 are being loaded into registers. 3 loads of 16
 * bytes from shared memory for 32 multiply-adds: the fp32 pipes are the limit (67 TFLOP/s on
 * both H100 and H200). */
#include "cuda/kernels/matmul.h"

#include "cuda/kernels/weight_layout.h"

#define FEW_F32   8
#define WARPS     4
#define WARP_ROWS 4

/* The 4 values from column c on; zeros beyond the end. */
static __device__ __forceinline__ float4 load_4(const float *row, uint32_t c, uint32_t cols,
                                                bool vectors)
{
    if (vectors)
        return *(const float4 *)(row + c);
    float4 v;
    v.x = row[c];
    v.y = c + 1 < cols ? row[c + 1] : 0;
    v.z = c + 2 < cols ? row[c + 2] : 0;
    v.w = c + 3 < cols ? row[c + 3] : 0;
    return v;
}

static __device__ __forceinline__ float4 float4_of_bits(uint4 v)
{
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                       __uint_as_float(v.w));
}

static __device__ __forceinline__ float dot_4(float4 a, float4 b, float sum)
{
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/* Grid: WARPS x WARP_ROWS rows of w. n <= n_x rows of x; the sums of rows from n on are not stored.
 */
template <int n_x>
static __global__ void __launch_bounds__(WARPS * 32)
    matmul_f32_few(float *out, const uint8_t *w, const float *x, const float *bias, uint32_t n,
                   uint32_t rows, uint32_t cols, uint32_t vectors)
{
    SHARED(float, sums, [WARPS][WARP_ROWS * n_x][33]);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t first = (blockIdx.x * WARPS + warp) * WARP_ROWS;
    if (first >= rows)
        return;
    const uint64_t row_bytes = weight_row_bytes(TENSOR_F32, cols);
    const uint8_t *w_row[WARP_ROWS];
    const float *x_row[n_x];
    float acc[WARP_ROWS][n_x] = {};
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++)
        w_row[r] = w + min(first + r, rows - 1) * row_bytes;
#pragma unroll
    for (int j = 0; j < n_x; j++)
        x_row[j] = x + (uint64_t)min((uint32_t)j, n - 1) * cols;
#pragma unroll(n_x < 8 ? 2 : 1)
    for (uint32_t c = lane * 4; c < cols; c += 128) {
        float4 wv[WARP_ROWS];
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++)
            wv[r] = float4_of_bits(load_16_stream(w_row[r] + c * 4));
#pragma unroll
        for (int j = 0; j < n_x; j++) {
            const float4 xv = load_4(x_row[j], c, cols, vectors);
#pragma unroll
            for (int r = 0; r < WARP_ROWS; r++)
                acc[r][j] = dot_4(wv[r], xv, acc[r][j]);
        }
    }
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
#pragma unroll
        for (int j = 0; j < n_x; j++)
            sums[warp][j * WARP_ROWS + r][lane] = acc[r][j];
    }
    __syncwarp();
    const uint32_t row = first + lane % WARP_ROWS, j = lane / WARP_ROWS;
    if (row >= rows || j >= n || j >= n_x)
        return;
    float four[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 32; i++)
        four[i % 4] += sums[warp][lane][i];
    const float sum = (four[0] + four[1]) + (four[2] + four[3]);
    out[(uint64_t)j * rows + row] = bias != NULL ? sum + bias[row] : sum;
}

#define TILE       64
#define TILE_K     16
#define TILE_PITCH (TILE + 4) /* stores of 4 columns of a row fall into different banks */

/* What a thread loads for the next tiles: 2 times 4 columns of x, and of w. */
struct tile_part {
    float4 v[2];
};

static __device__ __forceinline__ tile_part fetch_part(const float *from, uint64_t stride,
                                                       uint32_t first, uint32_t n, uint32_t c,
                                                       uint32_t cols, bool vectors)
{
    tile_part p;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t row = first + threadIdx.x / 4 + 32 * i;
        p.v[i] = make_float4(0, 0, 0, 0);
        if (row < n && c < cols)
            p.v[i] = load_4(from + row * stride, c, cols, vectors);
    }
    return p;
}

/* tile[column][row] */
static __device__ __forceinline__ void store_part(float (*tile)[TILE_PITCH], const tile_part &p)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t row = threadIdx.x / 4 + 32 * i, c = threadIdx.x % 4 * 4;
        tile[c][row] = p.v[i].x;
        tile[c + 1][row] = p.v[i].y;
        tile[c + 2][row] = p.v[i].z;
        tile[c + 3][row] = p.v[i].w;
    }
}

/* Grid: tiles of w, tiles of x. Thread (i, j) of 8 x 16 has the rows 8 i .. of x and 4 j .. of w.
 */
static __global__ void __launch_bounds__(128)
    matmul_f32_tile(float *out, const uint8_t *w, const float *x, const float *bias, uint32_t n,
                    uint32_t rows, uint32_t cols, uint32_t vectors)
{
    SHARED(float, xs, [TILE_K][TILE_PITCH]);
    SHARED(float, ws, [TILE_K][TILE_PITCH]);
    const uint64_t stride = weight_row_bytes(TENSOR_F32, cols) / 4;
    const uint32_t first_w = blockIdx.x * TILE, first_x = blockIdx.y * TILE;
    const uint32_t part_c = threadIdx.x % 4 * 4, i = threadIdx.x / 16, j = threadIdx.x % 16;
    float acc[8][4] = {};
    tile_part xp = fetch_part(x, cols, first_x, n, part_c, cols, vectors);
    tile_part wp = fetch_part((const float *)w, stride, first_w, rows, part_c, cols, true);
    for (uint32_t c = 0; c < cols; c += TILE_K) {
        __syncthreads();
        store_part(xs, xp);
        store_part(ws, wp);
        __syncthreads();
        if (c + TILE_K < cols) {
            const uint32_t next = c + TILE_K + part_c;
            xp = fetch_part(x, cols, first_x, n, next, cols, vectors);
            wp = fetch_part((const float *)w, stride, first_w, rows, next, cols, true);
        }
#pragma unroll
        for (int k = 0; k < TILE_K; k++) {
            const float4 a = *(const float4 *)&xs[k][i * 8], b = *(const float4 *)&xs[k][i * 8 + 4];
            const float4 v = *(const float4 *)&ws[k][j * 4];
            const float xv[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
            const float wv[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int p = 0; p < 8; p++) {
#pragma unroll
                for (int q = 0; q < 4; q++)
                    acc[p][q] = fmaf(xv[p], wv[q], acc[p][q]);
            }
        }
    }
#pragma unroll
    for (int p = 0; p < 8; p++) {
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const uint32_t row_x = first_x + i * 8 + p, row_w = first_w + j * 4 + q;
            if (row_x < n && row_w < rows)
                out[(uint64_t)row_x * rows + row_w] =
                    bias != NULL ? acc[p][q] + bias[row_w] : acc[p][q];
        }
    }
}

template <int n_x>
static void launch_few(cudaStream_t stream, float *out, const struct device_weight *w,
                       const float *x, uint32_t n, const float *bias, bool vectors)
{
    LAUNCH(matmul_f32_few<n_x>, (w->rows + WARPS * WARP_ROWS - 1) / (WARPS * WARP_ROWS), WARPS * 32,
           0, stream, out, w->data, x, bias, n, w->rows, w->cols, vectors);
}

void launch_matmul_f32(cudaStream_t stream, float *out, const struct device_weight *w,
                       const float *x, uint32_t n, const float *bias)
{
    const bool vectors = w->cols % 4 == 0 && (uintptr_t)x % 16 == 0;
    if (n == 1)
        launch_few<1>(stream, out, w, x, n, bias, vectors);
    else if (n == 2)
        launch_few<2>(stream, out, w, x, n, bias, vectors);
    else if (n <= 4)
        launch_few<4>(stream, out, w, x, n, bias, vectors);
    else if (n <= FEW_F32)
        launch_few<8>(stream, out, w, x, n, bias, vectors);
    else
        LAUNCH(matmul_f32_tile, dim3((w->rows + TILE - 1) / TILE, (n + TILE - 1) / TILE), 128, 0,
               stream, out, w->data, x, bias, n, w->rows, w->cols, vectors);
}
