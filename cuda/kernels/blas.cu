/* cuBLAS where it is installed. For many rows its wgmma kernels run at 2 to 2.5 times the speed of
 * mma.sync in matmul_many.cu (on an H200 640 TFLOP/s, and 310 with BF16 or 230 with Q4_K weights),
 * so even quantised weights are first unpacked into halves, a piece at a time. Loaded with dlopen,
 * so that winnow needs neither its library nor its headers to build. Called by the engine thread.
 *
 * cuBLAS gives the same bits for the same shapes on one stream with its own workspace (its
 * documentation, "Results reproducibility"). Its order of summation depends on the number of
 * rows. */
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

bool launch_matmul_blas(cudaStream_t, struct blas *, const struct matmul_job *, uint32_t,
                        const float *, uint32_t, uint8_t *)
{
    return false;
}

#else

#include <dlfcn.h>
#include <stdlib.h>

/* Values of cublas_api.h, the same in versions 12 and 13. */
typedef void *cublas_handle;
enum {
    CUBLAS_OP_N = 0,
    CUBLAS_OP_T = 1,
    CUBLAS_GEMM_DEFAULT = -1,
    CUBLAS_COMPUTE_32F = 68,
    CUBLAS_DEFAULT_MATH_WITHOUT_REDUCED_PRECISION = 16,
};
#define WORKSPACE_BYTES ((size_t)32 << 20) /* what NVIDIA recommends for Hopper */
#define UNPACKED_BYTES  ((size_t)64 << 20) /* 2340 rows of 14336 halves */

struct blas {
    void *library;
    cublas_handle handle;
    void *workspace;
    uint16_t *unpacked; /* NULL: no memory for it */
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
    if (cudaMalloc((void **)&b->unpacked, UNPACKED_BYTES) != cudaSuccess) {
        cudaGetLastError();
        b->unpacked = NULL;
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
    cudaFree(b->workspace);
    cudaFree(b->unpacked);
    if (b->library != NULL)
        dlclose(b->library);
    free(b);
}

/* out = out * the row's scale + bias. A block per row, since most rows need nothing. */
static __global__ void finish_rows(float *out, const float *scales, const float *bias,
                                   uint32_t rows)
{
    const float scale = scales[blockIdx.x];
    if (scale == 1 && bias == NULL)
        return;
    float *at = out + (uint64_t)blockIdx.x * rows;
    for (uint32_t row = threadIdx.x; row < rows; row += blockDim.x)
        at[row] = bias != NULL ? at[row] * scale + bias[row] : at[row] * scale;
}

/* Multiplies n_rows rows of w at `rows` with x. BLAS sees row-major matrices transposed: out^T
 * [n_rows x n] = (w^T)^T [n_rows x cols] x^T [cols x n]. */
static bool multiply(struct blas *blas, float *out, uint32_t out_pitch, const void *rows,
                     uint32_t n_rows, uint32_t pitch, uint32_t cols, int type,
                     const struct matmul_x16 *x, uint32_t n)
{
    const float one = 1, zero = 0;
    return blas->gemm(blas->handle, CUBLAS_OP_T, CUBLAS_OP_N, (int)n_rows, (int)n, (int)cols, &one,
                      rows, type, (int)pitch, x->values, type, (int)x->pitch, &zero, out,
                      CUDA_R_32F, (int)out_pitch, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == 0;
}

/* A quantised weight is unpacked and multiplied piece by piece, in pieces of nearly equal size. */
static bool multiply_unpacked(cudaStream_t stream, struct blas *blas, const struct matmul_job *job,
                              const struct matmul_x16 *x, uint32_t n)
{
    const uint32_t rows = job->w->rows, cols = job->w->cols;
    const uint32_t most = (uint32_t)(UNPACKED_BYTES / 2 / cols / BAND_ROWS * BAND_ROWS);
    if (most == 0)
        return false;
    const uint32_t n_pieces = (rows + most - 1) / most;
    const uint32_t piece =
        ((rows + n_pieces - 1) / n_pieces + BAND_ROWS - 1) / BAND_ROWS * BAND_ROWS;
    for (uint32_t row = 0; row < rows; row += piece) {
        const uint32_t some = rows - row < piece ? rows - row : piece;
        launch_matmul_unpack(stream, blas->unpacked, job->w, row, some);
        if (!multiply(blas, job->out + row, rows, blas->unpacked, some, cols, cols, CUDA_R_16F, x,
                      n))
            return false;
    }
    return true;
}

bool launch_matmul_blas(cudaStream_t stream, struct blas *blas, const struct matmul_job *jobs,
                        uint32_t n_jobs, const float *x, uint32_t n, uint8_t *scratch)
{
    const uint32_t type = jobs[0].w->type, cols = jobs[0].w->cols;
    const bool quantised = weight_is_quantised(type), bfloat = type == TENSOR_BF16;
    if (blas == NULL || (quantised && (n < MATMUL_UNPACK || blas->unpacked == NULL)))
        return false;
    const struct matmul_x16 x16 = matmul_x16_place(scratch, n, cols);
    launch_matmul_convert(stream, &x16, x, n, cols, bfloat, false);
    for (uint32_t i = 0; i < n_jobs; i++) {
        const struct device_weight *w = jobs[i].w;
        if (quantised ? !multiply_unpacked(stream, blas, &jobs[i], &x16, n)
                      : !multiply(blas, jobs[i].out, w->rows, w->data, w->rows,
                                  (uint32_t)(weight_row_bytes(type, cols) / 2), cols,
                                  bfloat ? CUDA_R_16BF : CUDA_R_16F, &x16, n))
            return false;
        if (!bfloat || jobs[i].bias != NULL) /* bfloat16s need no scales */
            LAUNCH(finish_rows, n, 512, 0, stream, jobs[i].out, x16.scales, jobs[i].bias, w->rows);
    }
    return true;
}

#endif
