/* Which way a matrix product takes. */
#include "cuda/matmul.h"

#include "cuda/weight_layout.h"

uint64_t matmul_scratch_bytes(uint32_t max_n, uint32_t max_rows, uint32_t max_cols)
{
    (void)max_n;
    (void)max_rows;
    (void)max_cols;
    return 16;
}

void launch_matmul(cudaStream_t stream, struct blas *blas, float *out,
                   const struct device_weight *w, const float *x, uint32_t n, const float *bias,
                   uint8_t *scratch)
{
    (void)blas;
    (void)scratch;
    if (w->type == TENSOR_F32)
        return launch_matmul_f32(stream, out, w, x, n, bias);
    for (uint32_t first = 0; first < n; first += MATMUL_FEW) {
        const uint32_t some = n - first < MATMUL_FEW ? n - first : MATMUL_FEW;
        launch_matmul_few(stream, out + (uint64_t)first * w->rows, w, x + (uint64_t)first * w->cols,
                          some, bias);
    }
}
