/* KeyDiff's sum of k / |k| over the slots that a head holds, in double (head_state.key_sum). Device
 * code for kv_write.cu, evict.cu and compress.cu. Lengths are those of the stored keys, so what is
 * taken off is what was added. Sums are made in the order of slots, a thread a dimension, so no
 * result depends on the order of threads. */
#ifndef WINNOW_CUDA_KERNELS_KEY_SUM_H
#define WINNOW_CUDA_KERNELS_KEY_SUM_H

#include "cuda/kernels/page.h"
#include "cuda/kernels/portable.h"
#include "cuda/kernels/step.h"

/* Slots whose lengths a block has in shared memory at once. */
#define KEY_SUM_SLOTS 32

/* 1 / |k| of the stored key, in double; 0 for a key of zeros. One warp; the same in every lane. */
__device__ static inline double key_inverse_norm(const page_layout &layout, const uint8_t *page,
                                                 uint32_t slot)
{
    double squares = 0;
    for (uint32_t d = threadIdx.x % 32; d < layout.head_dim; d += 32) {
        double k = page_k(layout, page, slot, d);
        squares += k * k;
    }
    for (int i = 16; i > 0; i /= 2)
        squares += __shfl_xor_sync(0xffffffff, squares, i);
    return squares > 0 ? 1 / sqrt(squares) : 0;
}

/* sum [head_dim] += k / |k| of slot_of(i) for i < n, from 0 if `anew`. inverse: shared
 * [KEY_SUM_SLOTS]. All threads of a block of whole warps. */
template <class SlotOf>
__device__ static inline void key_sum_add(const struct device_step *step,
                                          const struct device_head *head, double *sum, uint32_t n,
                                          bool anew, double *inverse, SlotOf slot_of)
{
    const page_layout layout = page_layout_of(step->head_dim, step->storage);
    const auto page_of_slot = [=](uint32_t slot) {
        return step->pool + head->pages[slot / PAGE_SLOTS] * step->page_bytes;
    };
    for (uint32_t d = threadIdx.x; anew && d < layout.head_dim; d += blockDim.x)
        sum[d] = 0;
    for (uint32_t first = 0; first < n; first += KEY_SUM_SLOTS) {
        const uint32_t count = n - first < KEY_SUM_SLOTS ? n - first : KEY_SUM_SLOTS;
        __syncthreads();
        for (uint32_t i = threadIdx.x / 32; i < count; i += blockDim.x / 32) {
            const uint32_t slot = slot_of(first + i);
            double x = key_inverse_norm(layout, page_of_slot(slot), slot % PAGE_SLOTS);
            if (threadIdx.x % 32 == 0)
                inverse[i] = x;
        }
        __syncthreads();
        for (uint32_t d = threadIdx.x; d < layout.head_dim; d += blockDim.x) {
            double total = sum[d];
            for (uint32_t i = 0; i < count; i++) {
                const uint32_t slot = slot_of(first + i);
                if (inverse[i] > 0)
                    total += (double)page_k(layout, page_of_slot(slot), slot % PAGE_SLOTS, d) *
                             inverse[i];
            }
            sum[d] = total;
        }
    }
    __syncthreads();
}

#endif
