/* The kernels that matmul.cu chooses from. Arguments as launch_products'. */
#ifndef WINNOW_CUDA_KERNELS_MATMUL_H
#define WINNOW_CUDA_KERNELS_MATMUL_H

#include "cuda/kernels/kernels.h"

/* Rows of x: at most FEW for the kernel that reads the weight once; at most MIDDLE where
 * matmul_many splits the columns over blocks; from UNPACK on quantised weights are unpacked for
 * cuBLAS. */
#define MATMUL_FEW    16
#define MATMUL_MIDDLE 64
#define MATMUL_UNPACK 256

/* The weights of one launch have one type and one number of columns. */

/* matmul_few.cu: n <= MATMUL_FEW; every type but F32; scratch of matmul_few_scratch_bytes for the
 * rows of all weights together. */
void launch_matmul_few(cudaStream_t stream, const struct matmul_job *jobs, uint32_t n_jobs,
                       const float *x, uint32_t n, uint8_t *scratch);
uint64_t matmul_few_scratch_bytes(uint32_t max_n, uint32_t max_rows);
/* matmul_f32.cu: F32, any n. */
void launch_matmul_f32(cudaStream_t stream, float *out, const struct device_weight *w,
                       const float *x, uint32_t n, const float *bias);
/* matmul_many.cu: every type but F32; scratch of matmul_many_scratch_bytes. */
void launch_matmul_many(cudaStream_t stream, const struct matmul_job *jobs, uint32_t n_jobs,
                        const float *x, uint32_t n, uint8_t *scratch);
uint64_t matmul_many_scratch_bytes(uint32_t max_n, uint32_t max_cols);
/* matmul_unpack.cu: out [n_rows][cols] = rows of a quantised weight from first_row on, a multiple of
 * 32, as halves. */
void launch_matmul_unpack(cudaStream_t stream, uint16_t *out, const struct device_weight *w,
                          uint32_t first_row, uint32_t n_rows);

/* x as numbers of 16 bits, in scratch: values[n][pitch] = x / scales[row], zeros up to a
 * multiple of 64 columns. A scale is 1 unless the row has numbers that a half cannot hold; then
 * it is a power of two. */
struct matmul_x16 {
    float *scales;    /* [n] */
    uint16_t *values; /* halves, or bfloat16s */
    uint32_t pitch;
};
/* matmul_convert.cu. shuffled: the columns of each 16 in the order of weight_layout.h. */
struct matmul_x16 matmul_x16_place(uint8_t *scratch, uint32_t n, uint32_t cols);
uint64_t matmul_x16_bytes(uint32_t n, uint32_t cols);
void launch_matmul_convert(cudaStream_t stream, const struct matmul_x16 *to, const float *x,
                           uint32_t n, uint32_t cols, bool bfloat, bool shuffled);

/* blas.cu: F16, BF16, and quantised weights from MATMUL_UNPACK rows on. False: not done, and no
 * output was written that the caller may use. */
bool launch_matmul_blas(cudaStream_t stream, struct blas *blas, const struct matmul_job *jobs,
                        uint32_t n_jobs, const float *x, uint32_t n, uint8_t *scratch);

#endif
