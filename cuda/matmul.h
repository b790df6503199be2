/* Inside the matrix products: the ways of matmul.cu. Arguments as launch_matmul's. */
#ifndef WINNOW_CUDA_MATMUL_H
#define WINNOW_CUDA_MATMUL_H

#include "cuda/kernels.h"

/* Rows of x that the kernel for few rows takes in one pass over the weight. */
#define MATMUL_FEW 16

/* matmul_few.cu: n <= MATMUL_FEW; every type but F32. */
void launch_matmul_few(cudaStream_t stream, float *out, const struct device_weight *w,
                       const float *x, uint32_t n, const float *bias);
/* matmul_f32.cu: F32, any n. */
void launch_matmul_f32(cudaStream_t stream, float *out, const struct device_weight *w,
                       const float *x, uint32_t n, const float *bias);

#endif
