/* Quantised weights as rows of halves, for cuBLAS: the numbers that matmul_many.cu makes in
 * registers. It pays for many rows of x: unpacking 14336 x 4096 moves 184 MB (Q4_K) once, 45 us
 * on an H200, and cuBLAS then saves 0.3 us a row of x against mma.sync. */
#include "cuda/kernels/matmul.h"

#include "cuda/kernels/weight_decode.h"

#define WARPS 8

/* A warp takes a unit of 32 rows x 64 columns. Grid: units by WARPS, bands. */
template <uint32_t type>
static __global__ void __launch_bounds__(WARPS * 32)
    unpack(uint16_t *out, const uint8_t *w, uint32_t rows, uint32_t cols, uint32_t first_band)
{
    constexpr weight_geometry g = weight_geometry_of(type);
    const uint32_t lane = threadIdx.x % 32, unit = blockIdx.x * WARPS + threadIdx.x / 32;
    const uint32_t n_blocks = cols / BLOCK_COLS;
    const uint8_t *band = w + (first_band + blockIdx.y) * weight_band_bytes(g, cols);
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t block = unit * 2 + i;
        if (block >= n_blocks)
            return;
        const weight_block from = {band + weight_block_offset(g, block),
                                   band + weight_block_offset(g, unit * 2) + 2 * g.block_bytes,
                                   band + weight_block_offset(g, unit / 4 * 8 + 8) - g.super_scales,
                                   i};
        uint32_t b[2][4][2];
        quantised_registers<type>(b, from, lane);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const uint32_t row = blockIdx.y * BAND_ROWS + r * 8 + lane / 4;
            uint16_t *to = out + (uint64_t)row * cols + block * BLOCK_COLS + lane % 4 * 4;
            if (row >= rows)
                continue;
#pragma unroll
            for (int h = 0; h < 2; h++)
                *(uint2 *)(to + h * 16) = make_uint2(b[h][r][0], b[h][r][1]);
        }
    }
}

template <uint32_t type>
static void launch_type(cudaStream_t stream, uint16_t *out, const struct device_weight *w,
                        uint32_t first_row, uint32_t n_rows)
{
    const uint32_t n_units = (w->cols + 2 * BLOCK_COLS - 1) / (2 * BLOCK_COLS);
    LAUNCH(unpack<type>, dim3((n_units + WARPS - 1) / WARPS, (n_rows + BAND_ROWS - 1) / BAND_ROWS),
           WARPS * 32, 0, stream, out, w->data, n_rows, w->cols, first_row / BAND_ROWS);
}

void launch_matmul_unpack(cudaStream_t stream, uint16_t *out, const struct device_weight *w,
                          uint32_t first_row, uint32_t n_rows)
{
    for_weight_type(w->type, [&](auto t) {
        if constexpr (weight_is_quantised(t.type))
            launch_type<t.type>(stream, out, w, first_row, n_rows);
    });
}
