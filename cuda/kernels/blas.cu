/* cuBLAS where it is installed: for F16 and BF16 weights and many rows, its wgmma kernels run at up
 * to 1.5 times what mma.sync can. Loaded with dlopen, so that winnow neither links against it nor
 * asks for its headers. Called by the engine thread.
 *
 * cuBLAS gives the same bits again for the same shapes on one stream (its documentation, "Results
 * reproducibility"), with a workspace that is its own. Which order it sums in depends on the number
 * of rows. */
#include "cuda/kernels/matmul.h"

#include "cuda/kernels/weight_layout.h"

#ifdef WINNOW_CUDA_EMULATED

struct blas *blas_open(cudaStream_t stream, const char **reason)
{
    (void)stream;
    *reason = "the device is emulated";
    return NULL;
}

void blas_close(struct blas *b)
{
    (void)b;
}

bool launch_matmul_blas(cudaStream_t, struct blas *, float *, const struct device_weight *,
                        const float *, uint32_t, const float *, uint8_t *)
{
    return false;
}

#else

#include <dlfcn.h>
#include <stdlib.h>

/* What cublas_api.h calls these, the same in versions 12 and 13. */
typedef void *cublas_handle;
enum {
    CUBLAS_OP_N = 0,
    CUBLAS_OP_T = 1,
    CUBLAS_GEMM_DEFAULT = -1,
    CUBLAS_COMPUTE_32F = 68,
    CUBLAS_DEFAULT_MATH_WITHOUT_REDUCED_PRECISION = 16,
};
#define WORKSPACE_BYTES ((size_t)32 << 20) /* what NVIDIA recommends for Hopper */

struct blas {
    void *library;
    cublas_handle handle;
    void *workspace;
    int (*destroy)(cublas_handle);
    int (*set_stream)(cublas_handle, cudaStream_t);
    int (*gemm)(cublas_handle, int op_a, int op_b, int m, int n, int k, const void *alpha,
                const void *a, int type_a, int lda, const void *b, int type_b, int ldb,
                const void *beta, void *c, int type_c, int ldc, int compute, int algorithm);
};

static void *open_library()
{
    void *library = dlopen("libcublas.so.13", RTLD_NOW | RTLD_LOCAL);
    return library ? library : dlopen("libcublas.so.12", RTLD_NOW | RTLD_LOCAL);
}

template <class F> static bool find(void *library, const char *name, F *function)
{
    *(void **)function = dlsym(library, name);
    return *function != NULL;
}

struct blas *blas_open(cudaStream_t stream, const char **reason)
{
    int (*create)(cublas_handle *), (*set_math_mode)(cublas_handle, int);
    int (*set_workspace)(cublas_handle, void *, size_t);
    struct blas *b = (struct blas *)calloc(1, sizeof *b);
    *reason = "out of memory";
    if (b == NULL)
        return NULL;
    *reason = "neither libcublas.so.13 nor libcublas.so.12 is installed";
    if ((b->library = open_library()) == NULL)
        goto fail;
    *reason = "libcublas lacks a function that is needed";
    if (!find(b->library, "cublasCreate_v2", &create) ||
        !find(b->library, "cublasDestroy_v2", &b->destroy) ||
        !find(b->library, "cublasSetStream_v2", &b->set_stream) ||
        !find(b->library, "cublasSetMathMode", &set_math_mode) ||
        !find(b->library, "cublasSetWorkspace_v2", &set_workspace) ||
        !find(b->library, "cublasGemmEx", &b->gemm))
        goto fail;
    *reason = "cublasCreate fails on this device";
    if (create(&b->handle) != 0)
        goto fail;
    /* A workspace of our own: without it, capturing a graph would allocate. */
    *reason = "cuBLAS' workspace of 32 MiB does not fit into device memory";
    if (cudaMalloc(&b->workspace, WORKSPACE_BYTES) != cudaSuccess) {
        cudaGetLastError(); /* not an error of the step to come */
        goto fail;
    }
    *reason = "cuBLAS refuses its stream or workspace";
    if (b->set_stream(b->handle, stream) != 0 ||
        set_workspace(b->handle, b->workspace, WORKSPACE_BYTES) != 0 ||
        set_math_mode(b->handle, CUBLAS_DEFAULT_MATH_WITHOUT_REDUCED_PRECISION) != 0)
        goto fail;
    *reason = NULL;
    return b;
fail:
    blas_close(b);
    return NULL;
}

void blas_close(struct blas *b)
{
    if (b == NULL)
        return;
    if (b->handle != NULL)
        b->destroy(b->handle);
    if (b->workspace != NULL)
        cudaFree(b->workspace);
    if (b->library != NULL)
        dlclose(b->library);
    free(b);
}

/* out = out * the row's scale + bias; most blocks find that there is nothing to do. Grid: parts of
 * a row of out, rows. */
static __global__ void finish_rows(float *out, const float *scales, const float *bias,
                                   uint32_t rows)
{
    const uint32_t row = blockIdx.x * blockDim.x + threadIdx.x;
    const float scale = scales[blockIdx.y];
    if (row >= rows || (scale == 1 && bias == NULL))
        return;
    float *at = out + (uint64_t)blockIdx.y * rows + row;
    *at = bias != NULL ? *at * scale + bias[row] : *at * scale;
}

/* As BLAS sees row-major matrices: out^T [rows x n] = (w^T)^T [rows x cols] x^T [cols x n]. */
bool launch_matmul_blas(cudaStream_t stream, struct blas *blas, float *out,
                        const struct device_weight *w, const float *x, uint32_t n,
                        const float *bias, uint8_t *scratch)
{
    if (blas == NULL || (w->type != TENSOR_F16 && w->type != TENSOR_BF16))
        return false;
    const bool bfloat = w->type == TENSOR_BF16;
    const int type = bfloat ? CUDA_R_16BF : CUDA_R_16F;
    const float one = 1, zero = 0;
    const struct matmul_x16 x16 = matmul_x16_place(scratch, n, w->cols);
    launch_matmul_convert(stream, &x16, x, n, w->cols, bfloat, false);
    const int status = blas->gemm(
        blas->handle, CUBLAS_OP_T, CUBLAS_OP_N, (int)w->rows, (int)n, (int)w->cols, &one, w->data,
        type, (int)(weight_row_bytes(w->type, w->cols) / 2), x16.values, type, (int)x16.pitch,
        &zero, out, CUDA_R_32F, (int)w->rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != 0)
        return false;
    LAUNCH(finish_rows, dim3((w->rows + 255) / 256, n), 256, 0, stream, out, x16.scales, bias,
           w->rows);
    return true;
}

#endif
