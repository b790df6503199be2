/* Which way a matrix product takes, by type and number of rows of x:
 *
 *   F32        fp32 pipes, any n (matmul_f32.cu)
 *   n <= 16    one pass over the weight, fp32's precision (matmul_few.cu)
 *   n <= 64    tensor cores, columns split over blocks (matmul_many.cu); x as 16-bit numbers from
 *              here on
 *   more       tensor cores in large tiles (matmul_many.cu); by cuBLAS if there is one (blas.cu),
 *              quantised weights from n = 256 on
 *
 * At n = 16 the tensor work of the exact way takes as long as its memory, see matmul_few.cu. At
 * n = 64 one tile of x still holds all rows, so the weight is read once. */
#include "cuda/kernels/matmul.h"

#include "cuda/kernels/weight_layout.h"

/* Rows of the weights that share a launch, unless one has more: query, key and value or gate and
 * up of a model 8192 wide. */
#define GROUP_ROWS 65536

uint64_t matmul_scratch_bytes(uint32_t max_n, uint32_t max_rows, uint32_t max_cols)
{
    const uint32_t rows = max_rows > GROUP_ROWS ? max_rows : GROUP_ROWS;
    const uint64_t few = matmul_few_scratch_bytes(max_n, rows);
    const uint64_t many = matmul_many_scratch_bytes(max_n, max_cols);
    return few > many ? few : many;
}

/* How many of the first jobs share a launch. */
static uint32_t group_of(const struct matmul_job *jobs, uint32_t n_jobs)
{
    uint64_t rows = jobs[0].w->rows;
    uint32_t n = 1;
    while (n < n_jobs && n < MATMUL_JOBS && jobs[n].w->type == jobs[0].w->type &&
           jobs[n].w->cols == jobs[0].w->cols && rows + jobs[n].w->rows <= GROUP_ROWS)
        rows += jobs[n++].w->rows;
    return n;
}

void launch_products(cudaStream_t stream, struct blas *blas, const struct matmul_job *jobs,
                     uint32_t n_jobs, const float *x, uint32_t n, uint8_t *scratch)
{
    for (uint32_t done = 0, some; done < n_jobs; done += some, jobs += some) {
        some = group_of(jobs, n_jobs - done);
        if (jobs[0].w->type == TENSOR_F32)
            for (uint32_t i = 0; i < some; i++)
                launch_matmul_f32(stream, jobs[i].out, jobs[i].w, x, n, jobs[i].bias);
        else if (n <= MATMUL_FEW)
            launch_matmul_few(stream, jobs, some, x, n, scratch);
        else if (n <= MATMUL_MIDDLE || !launch_matmul_blas(stream, blas, jobs, some, x, n, scratch))
            launch_matmul_many(stream, jobs, some, x, n, scratch);
    }
}
