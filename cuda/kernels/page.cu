/* Reads a slot of a KV page back, for tests, audits and traces: see page.h. */
#include "cuda/kernels/page.h"

static __global__ void read_slot(const uint8_t *page, page_layout layout, uint32_t slot, float *k,
                                 float *v, int32_t *position)
{
    for (uint32_t d = threadIdx.x; d < layout.head_dim; d += blockDim.x) {
        if (k != NULL)
            k[d] = page_k(layout, page, slot, d);
        if (v != NULL)
            v[d] = page_v(layout, page, slot, d);
    }
    if (threadIdx.x == 0)
        *position = page_positions(page)[slot];
}

void launch_kv_read(cudaStream_t stream, const uint8_t *pool, uint64_t page_bytes, uint32_t storage,
                    uint32_t head_dim, uint32_t page, uint32_t slot, float *k, float *v,
                    int32_t *position)
{
    LAUNCH(read_slot, 1, 32, 0, stream, pool + page * page_bytes, page_layout_of(head_dim, storage),
           slot, k, v, position);
}
