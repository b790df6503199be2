/* Sample kernels for the tests of the emulation, the same text for nvcc. test_emu.cpp includes
 * this file; nvcc -c compiles it alone, to show that both take it. */
#include "cuda/kernels/portable.h"

/* out[i] = a[i] + b[i]. */
__global__ void add_vectors(float *__restrict__ out, const float *__restrict__ a,
                            const float *__restrict__ b, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n)
        out[i] = a[i] + b[i];
}

/* out[block] = sum of the block's n_per_block numbers, through shuffles, static and dynamic shared
 * memory. */
template <int threads>
__global__ void __launch_bounds__(threads) sum_blocks(int *out, const int *in, int n_per_block)
{
    SHARED(int, of_warp, [threads / 32]);
    DYNAMIC_SHARED(int, tile);
    int tid = (int)threadIdx.x;
    for (int i = tid; i < n_per_block; i += threads)
        tile[i] = in[blockIdx.x * n_per_block + i];
    __syncthreads();
    int sum = 0;
    for (int i = n_per_block - 1 - tid; i >= 0; i -= threads)
        sum += tile[i];
    for (int offset = 16; offset; offset /= 2)
        sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if (tid % 32 == 0)
        of_warp[tid / 32] = sum;
    __syncthreads();
    if (tid == 0) {
        sum = 0;
        for (int w = 0; w < threads / 32; w++)
            sum += of_warp[w];
        out[blockIdx.x] = sum;
    }
}

/* Reverses a block's numbers in shared memory; wrong without the barrier. */
template <bool with_barrier> __global__ void reverse(int *data)
{
    SHARED(int, s, [128]);
    s[threadIdx.x] = data[threadIdx.x];
    if (with_barrier)
        __syncthreads();
    data[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}

struct lane_answers {
    int index, up, down, exclusive_or, index8, down8;
    unsigned ballot, match;
    int any, all, add, smallest, largest;
    unsigned bits_and, bits_or;
    double wide;
};

/* Every warp primitive over lane-dependent values v[32]; the lanes of `mask` take part. */
__global__ void warp_primitives(lane_answers *out, const int *v, unsigned mask)
{
    int lane = (int)threadIdx.x;
    if (!(mask >> lane & 1))
        return;
    lane_answers a;
    int first = __ffs((int)mask) - 1;
    a.index = __shfl_sync(mask, v[lane], first);
    a.ballot = __ballot_sync(mask, v[lane] & 1);
    a.match = __match_any_sync(mask, v[lane] % 3);
    a.any = __any_sync(mask, v[lane] == 7);
    a.all = __all_sync(mask, v[lane] < 1000);
    a.add = __reduce_add_sync(mask, v[lane]);
    a.smallest = __reduce_min_sync(mask, v[lane]);
    a.largest = __reduce_max_sync(mask, v[lane]);
    a.bits_and = __reduce_and_sync(mask, (unsigned)v[lane]);
    a.bits_or = __reduce_or_sync(mask, (unsigned)v[lane]);
    a.wide = __shfl_sync(mask, v[lane] + 0.25, first);
    a.up = a.down = a.exclusive_or = a.index8 = a.down8 = -1;
    if (mask == 0xffffffffu) {
        a.up = __shfl_up_sync(mask, v[lane], 3);
        a.down = __shfl_down_sync(mask, v[lane], 5);
        a.exclusive_or = __shfl_xor_sync(mask, v[lane], 9);
        a.index8 = __shfl_sync(mask, v[lane], 2, 8);
        a.down8 = __shfl_down_sync(mask, v[lane], 3, 8);
    }
    __syncwarp(mask);
    out[lane] = a;
}

/* C[16][8] = A[16][k] B[k][8], one warp. A by rows; B by columns (B^T by rows) or, transposed, by
 * rows, so that ldmatrix.trans is needed. Type: 0 half, 1 bfloat16. Rows go through shared memory.
 */
template <int type, bool b_by_rows>
__global__ void multiply_16_bits(float *c, const uint16_t *a, const uint16_t *b)
{
    SHARED(uint16_t, sa, [16][16]);
    SHARED(uint16_t, sb, [16 * 8]);
    int lane = (int)threadIdx.x;
    cp_async_16(&sa[lane / 2][lane % 2 * 8], a + 8 * lane);
    if (lane < 16)
        cp_async_16(&sb[8 * lane], b + 8 * lane);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    uint32_t ra[4], rb[2];
    float d[4] = {0, 0, 0, 0};
    ldmatrix_x4(ra, &sa[lane % 16][lane / 16 * 8]);
    if (b_by_rows) /* [16][8]: two matrices of 8 rows along k */
        ldmatrix_x2_trans(rb, &sb[lane % 16 * 8]);
    else /* [8][16]: two matrices side by side */
        ldmatrix_x2(rb, &sb[lane % 8 * 16 + lane / 8 % 2 * 8]);
    if (type == 0)
        mma_m16n8k16_f16(d, ra, rb);
    else
        mma_m16n8k16_bf16(d, ra, rb);
    for (int i = 0; i < 4; i++)
        c[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = d[i];
}

/* C[16][8] += A[16][32] B[32][8] of signed bytes, B by columns. */
__global__ void multiply_8_bits(int *c, const int8_t *a, const int8_t *b)
{
    SHARED(int8_t, sa, [16][32]);
    SHARED(int8_t, sb, [8][32]);
    int lane = (int)threadIdx.x;
    *(uint4 *)&sa[lane / 2][lane % 2 * 16] = load_16_stream(a + 16 * lane);
    if (lane < 16)
        *(uint4 *)&sb[lane / 2][lane % 2 * 16] = load_16_cached(b + 16 * lane);
    __syncwarp();
    uint32_t ra[4], rb[2], one[1];
    ldmatrix_x4(ra, &sa[lane % 16][lane / 16 * 16]);
    ldmatrix_x1(one, &sb[lane % 8][0]);
    rb[0] = one[0];
    ldmatrix_x1(one, &sb[lane % 8][16]);
    rb[1] = one[0];
    int d[4];
    int *corner = c + lane / 4 * 8 + 2 * (lane % 4);
    for (int i = 0; i < 4; i++)
        d[i] = corner[64 * (i / 2) + i % 2];
    mma_m16n8k32_s8(d, ra, rb);
    for (int i = 0; i < 4; i++)
        corner[64 * (i / 2) + i % 2] = d[i];
}

/* m[8][8] of 16 bits each, n of them, transposed by ldmatrix. */
__global__ void transpose_matrices(uint32_t *out, const uint16_t *in)
{
    SHARED(uint16_t, s, [4][8][8]);
    int lane = (int)threadIdx.x;
    *(uint4 *)s[lane / 8][lane % 8] = load_16_stream(in + 8 * lane);
    __syncwarp();
    uint32_t four[4], one[1];
    ldmatrix_x4_trans(four, s[lane / 8][lane % 8]);
    ldmatrix_x1_trans(one, s[2][lane % 8]);
    for (int m = 0; m < 4; m++)
        out[32 * m + lane] = four[m];
    out[128 + lane] = one[0];
}

/* Copies n 16-byte pieces of `in` to `out` in a pipeline of two groups; the last is cut to tail
 * bytes. `waits` false forgets the wait. */
template <bool waits>
__global__ void copy_pipeline(uint4 *out, const uint4 *in, int n, unsigned tail)
{
    SHARED(uint4, stage, [2][32]);
    int lane = (int)threadIdx.x;
    for (int i = 0; i <= n; i++) {
        if (i == n - 1)
            cp_async_16_zero(&stage[i % 2][lane], in + 32 * i + lane, tail);
        else if (i < n)
            cp_async_16(&stage[i % 2][lane], in + 32 * i + lane);
        cp_async_commit();
        if (waits)
            cp_async_wait<1>();
        if (i > 0)
            out[32 * (i - 1) + lane] = stage[(i - 1) % 2][lane];
    }
}

struct totals {
    int add, smallest, largest, swapped;
    unsigned bits_or, bits_and, bits_xor, increments;
    unsigned long long wide;
    float real;
    double real_wide;
};

/* Every thread of every block updates the same totals. */
__global__ void count_with_atomics(totals *t)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(&t->add, i);
    atomicMin(&t->smallest, i);
    atomicMax(&t->largest, i);
    atomicOr(&t->bits_or, 1u << i % 32);
    atomicAnd(&t->bits_and, ~(1u << i % 7));
    atomicXor(&t->bits_xor, (unsigned)i);
    atomicInc(&t->increments, 9u);
    atomicAdd(&t->wide, 1ull << 32);
    atomicAdd(&t->real, 0.5f);
    atomicAdd(&t->real_wide, 0.25);
    int seen = t->swapped, expected;
    do {
        expected = seen;
        seen = atomicCAS(&t->swapped, expected, expected + 2);
    } while (seen != expected);
    __threadfence();
}

/* counts[0..2]: threads whose flag is set; whether all are; whether any is. */
__global__ void vote_block(int *counts, const int *flags)
{
    int n = __syncthreads_count(flags[threadIdx.x]);
    int all = __syncthreads_and(flags[threadIdx.x]);
    int any = __syncthreads_or(flags[threadIdx.x]);
    if (threadIdx.x == blockDim.x - 1) {
        counts[0] = n;
        counts[1] = all;
        counts[2] = any;
    }
}

/* out[global index] = the thread's coordinates, packed. */
__global__ void coordinates(unsigned *out)
{
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
        blockIdx.x | blockIdx.y << 4 | blockIdx.z << 8 | threadIdx.x << 12 | threadIdx.y << 20 |
        threadIdx.z << 26;
}

/* Reads its shared memory before writing it: it must not find data of another block. */
__global__ void read_unwritten(unsigned *out)
{
    SHARED(unsigned, s, [32]);
    DYNAMIC_SHARED(unsigned, d);
    out[2 * blockIdx.x] = s[threadIdx.x];
    out[2 * blockIdx.x + 1] = d[threadIdx.x];
    s[threadIdx.x] = d[threadIdx.x] = 1;
}

/* One mistake per kernel. */
enum mistake {
    barrier_in_two_branches,
    barrier_of_a_few,
    shuffle_names_a_lane_that_left,
    shuffle_outside_its_mask,
    shuffle_reads_an_unnamed_lane,
    shuffle_never_met,
    shared_overrun,
    global_overrun,
    misaligned_copy,
    misaligned_ldmatrix,
};
__global__ void make_mistake(mistake what, int *out, int n)
{
    DYNAMIC_SHARED(int, s);
    int tid = (int)threadIdx.x, lane = tid % 32;
    unsigned everyone = 0xffffffffu;
    switch (what) {
    case barrier_in_two_branches:
        if (tid < 16)
            __syncthreads();
        else
            __syncthreads();
        break;
    case barrier_of_a_few: /* the others wait for a shuffle with these */
        if (lane < 16)
            __syncthreads();
        out[tid] = __shfl_sync(everyone, tid, 0);
        break;
    case shuffle_names_a_lane_that_left:
        if (lane == 5)
            return;
        out[tid] = __shfl_xor_sync(everyone, tid, 1);
        break;
    case shuffle_outside_its_mask:
        out[tid] = __shfl_sync(0xfffffffeu, tid, 1);
        break;
    case shuffle_reads_an_unnamed_lane:
        if (lane < 16)
            out[tid] = __shfl_down_sync(0xffffu, tid, 8);
        break;
    case shuffle_never_met:
        if (lane == 3)
            out[tid] = __shfl_sync(everyone, tid, 0);
        else
            out[tid] = (int)__ballot_sync(everyone, tid);
        break;
    case shared_overrun:
        s[n] = tid;
        break;
    case global_overrun:
        out[n] = tid;
        break;
    case misaligned_copy:
        cp_async_16(s + 1, out);
        break;
    case misaligned_ldmatrix: {
        uint32_t r[1];
        ldmatrix_x1(r, (const char *)s + 8 * lane);
        out[tid] = (int)r[0];
        break;
    }
    }
}

/* A launch as host code writes it, for nvcc to compile. */
cudaError_t launch_sum_blocks(int *out, const int *in, int n_blocks, int n_per_block,
                              cudaStream_t stream)
{
    LAUNCH((sum_blocks<128>), dim3((unsigned)n_blocks), dim3(128), n_per_block * sizeof(int),
           stream, out, in, n_per_block);
    return cudaGetLastError();
}
