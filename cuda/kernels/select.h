/* Choosing slots on the device: the working memory that select.cu, evict.cu and compress.cu share,
 * and the kernels that fill it. Internal to those three and their tests; kernels.h is what others
 * call. */
#ifndef WINNOW_CUDA_KERNELS_SELECT_H
#define WINNOW_CUDA_KERNELS_SELECT_H

#include "cuda/kernels/kernels.h"

/* One head's scratch, on the device. Slots from the head's n_slots on are never touched. */
struct select_scratch {
    float *scores; /* [stride] as the plan values them */
    uint32_t *
        ranks; /* [stride] score_rank of slots that may be dropped, 0 of all others; before that, under pooling, the scores that are pooled */
    uint64_t *keys;   /* [stride] for sorting: victims, or slots by position; then the moves */
    uint64_t *lowest; /* keys at or above it stay, and the protected */
};

#define SELECT_SLOT_BYTES 16 /* a slot's scores, ranks and keys */
#define SELECT_HEAD_BYTES 8  /* lowest */

__host__ __device__ static inline struct select_scratch
select_scratch_of(uint8_t *scratch, uint32_t n_heads, uint32_t stride, uint32_t index)
{
    uint64_t *keys = (uint64_t *)scratch, at = (uint64_t)stride * index,
             n = (uint64_t)stride * n_heads;
    float *scores = (float *)(keys + n);
    struct select_scratch b = {scores + at, (uint32_t *)(scores + n) + at, keys + at,
                               keys + 2 * n + index};
    return b;
}

/* Slots of the scratch for heads of at most max_slots: whole pages. */
static inline uint32_t select_stride(uint32_t max_slots)
{
    return page_count(max_slots) * PAGE_SLOTS;
}

/* Writes the scores of all jobs of a layer to their scratch; see kernels.h for the arguments. */
void launch_score(cudaStream_t stream, const struct device_step *shape,
                  const struct device_job *jobs, uint32_t n_jobs, uint32_t max_slots,
                  uint8_t *scratch);

#endif
