/* Which way a matrix product takes, by type and number of rows of x:
 *
 *   F32        fp32 pipes, any n (matmul_f32.cu)
 *   n <= 16    one pass over the weight, fp32's precision (matmul_few.cu)
 *   n <= 64    tensor cores, columns split over blocks (matmul_many.cu); x as 16-bit numbers from
 *              here on
 *   more       tensor cores in large tiles (matmul_many.cu); F16 and BF16 by cuBLAS if there is one
 *
 * 16 is where the exact way's tensor work meets its memory time, see there; at 64 one tile of x
 * still holds all rows, so the weight is read once. */
#include "cuda/kernels/matmul.h"

#include "cuda/kernels/weight_layout.h"

uint64_t matmul_scratch_bytes(uint32_t max_n, uint32_t max_rows, uint32_t max_cols)
{
    const uint64_t few = matmul_few_scratch_bytes(max_n, max_rows);
    const uint64_t many = matmul_many_scratch_bytes(max_n, max_cols);
    return few > many ? few : many;
}

void launch_matmul(cudaStream_t stream, struct blas *blas, float *out,
                   const struct device_weight *w, const float *x, uint32_t n, const float *bias,
                   uint8_t *scratch)
{
    if (w->type == TENSOR_F32)
        return launch_matmul_f32(stream, out, w, x, n, bias);
    if (n <= MATMUL_FEW)
        return launch_matmul_few(stream, out, w, x, n, bias, scratch);
    if (n > MATMUL_MIDDLE && launch_matmul_blas(stream, blas, out, w, x, n, bias, scratch))
        return;
    launch_matmul_many(stream, out, w, x, n, bias, scratch);
}
