/* Writes new keys and values into their pages; copies pages; changes page tables.
 *
 * A decode step writes 2 d floats a head. Latency is the limit, not bandwidth, so rows of a
 * segment that do not depend on each other are spread over warps, one row of K or of V each. Two
 * things need an order: holes are taken from the top of a stack, and KeyDiff's sum of keys is
 * added row by row in double. Where a (segment, head) has either, its first block does all rows. */
#include "cuda/kernels/kernels.h"
#include "cuda/kernels/key_sum.h"
#include "cuda/kernels/page_store.h"

#include "cache/pages/cache.h"

constexpr uint32_t WRITE_WARPS = 4, WRITE_ROWS = KEY_SUM_SLOTS /* at a time */;

/* The slot of the segment's row i, at position p. */
static __device__ uint32_t slot_of(const device_head *head, uint32_t i, uint32_t p)
{
    if (head->write_slot == SLOT_OF_HOLE)
        return SLOT_OF_HOLE;
    if (head->ring == 0)
        return head->write_slot + i;
    return p < head->n_sinks ? p : head->n_sinks + (p - head->n_sinks) % head->ring;
}

/* Slots of rows [base, base + count): holes from the top of the stack, in order. One warp.
 * positions: of row base. */
static __device__ void take_slots(const device_head *head, const int32_t *positions, uint32_t base,
                                  uint32_t count, uint32_t *out)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t slot = lane < count ? slot_of(head, base + lane, (uint32_t)positions[lane]) : 0;
    const uint32_t wants = __ballot_sync(0xffffffff, slot == SLOT_OF_HOLE);
    if (wants != 0 && blockIdx.z == 0) {
        const uint32_t n_holes = head->counters->n_holes,
                       before = (uint32_t)__popc(wants & ((1u << lane) - 1));
        if (wants >> lane & 1)
            slot = head->holes[n_holes - 1 - before];
        __syncwarp();
        if (lane == 0)
            head->counters->n_holes = n_holes - (uint32_t)__popc(wants);
    }
    out[lane] = slot;
}

/* Writes one row of K (with everything else of a new slot) or of V, by a warp. */
static __device__ void write_row(const page_layout &layout, const device_head *head, uint8_t *page,
                                 uint32_t slot, bool is_v, const float *x, int32_t position)
{
    const uint32_t lane = threadIdx.x % 32, at = slot % PAGE_SLOTS;
    if (is_v)
        store_v(layout, page, at, x);
    else
        store_k(layout, page, at, x);
    if (is_v)
        return;
    if (lane == 0)
        page_positions(page)[at] = position;
    if (lane == 0 && head->scores != NULL)
        head->scores[slot] = 0;
    if (lane < HISTORY_WORDS && head->history != NULL)
        head->history[(uint64_t)slot * HISTORY_WORDS + lane] = 0;
}

static __global__ void __launch_bounds__(WRITE_WARPS * 32)
    write_rows(device_step step, page_layout layout, uint32_t layer, uint32_t first, const float *k,
               const float *v)
{
    SHARED(uint32_t, slots, [WRITE_ROWS]);
    SHARED(double, inverse, [WRITE_ROWS]);
    const uint32_t s = first + blockIdx.x, kv_head = blockIdx.y, warp = threadIdx.x / 32;
    if (s >= step.header->n_segments)
        return;
    const device_segment *segment = &step.segments[s];
    const device_head *head =
        &step.heads[((uint64_t)s * step.n_layers + layer) * step.n_kv_heads + kv_head];
    const uint32_t n_rows = segment->n_rows;
    /* Another block may see the stack after the first one has emptied it. Then it writes rows
     * that the first block writes too, with the same values. It skips rows that go into holes. */
    const bool ordered = head->key_sum != NULL || head->counters->n_holes > 0;
    if (ordered && blockIdx.z > 0)
        return;
    const uint32_t stride = WRITE_ROWS * (ordered ? 1 : gridDim.z);
    for (uint32_t base = blockIdx.z * WRITE_ROWS; base < n_rows; base += stride) {
        const uint32_t count = min(n_rows - base, WRITE_ROWS);
        if (warp == 0)
            take_slots(head, step.positions + segment->first_row + base, base, count, slots);
        __syncthreads();
        for (uint32_t item = warp; item < 2 * count; item += WRITE_WARPS) {
            const uint32_t i = item / 2, row = segment->first_row + base + i, slot = slots[i];
            const bool is_v = item % 2 != 0;
            if (slot == SLOT_OF_HOLE)
                continue;
            uint8_t *page = step.pool + head->pages[slot / PAGE_SLOTS] * step.page_bytes;
            write_row(layout, head, page, slot, is_v,
                      (is_v ? v : k) +
                          ((uint64_t)row * step.n_kv_heads + kv_head) * layout.head_dim,
                      step.positions[row]);
            if (head->key_sum == NULL || is_v)
                continue;
            __syncwarp();
            inverse[i] = key_inverse_norm(layout, page, slot % PAGE_SLOTS);
        }
        __syncthreads();
        for (uint32_t d = threadIdx.x; head->key_sum != NULL && d < layout.head_dim;
             d += blockDim.x) {
            /* What the last step dropped comes off first. */
            double sum = head->key_sum[d] - (base == 0 ? head->key_sum[layout.head_dim + d] : 0);
            head->key_sum[layout.head_dim + d] = 0;
            for (uint32_t i = 0; i < count; i++) {
                const uint8_t *page =
                    step.pool + head->pages[slots[i] / PAGE_SLOTS] * step.page_bytes;
                if (inverse[i] > 0)
                    sum += (double)page_k(layout, page, slots[i] % PAGE_SLOTS, d) * inverse[i];
            }
            head->key_sum[d] = sum;
        }
        __syncthreads(); /* slots and inverses are written again */
    }
}

void launch_kv_write(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                     uint32_t first, uint32_t n, uint32_t max_rows_of_segment, const float *k,
                     const float *v)
{
    if (n == 0)
        return;
    /* A block for every WRITE_ROWS rows. With 8 blocks a head for 2048 rows an H200 took 240 us
     * a layer, a tenth of the whole prompt's time. */
    const uint32_t chunks = (max_rows_of_segment + WRITE_ROWS - 1) / WRITE_ROWS;
    const uint32_t depth = chunks < 1 ? 1 : chunks > 64 ? 64 : chunks;
    LAUNCH(write_rows, dim3(n, step->n_kv_heads, depth), WRITE_WARPS * 32, 0, stream, *step,
           page_layout_of(step->head_dim, step->storage), layer, first, k, v);
}

/* 16 bytes a thread: reads and writes at the rate of the memory. */
static __global__ void copy_pages(uint8_t *pool, uint64_t page_bytes, const uint32_t *from,
                                  const uint32_t *to)
{
    const uint4 *source = (const uint4 *)(pool + from[blockIdx.x] * page_bytes);
    uint4 *target = (uint4 *)(pool + to[blockIdx.x] * page_bytes);
    for (uint32_t i = threadIdx.x; i < page_bytes / 16; i += blockDim.x)
        target[i] = source[i];
}

void launch_kv_copy(cudaStream_t stream, uint8_t *pool, uint64_t page_bytes, const uint32_t *from,
                    const uint32_t *to, uint32_t n)
{
    if (n > 0)
        LAUNCH(copy_pages, n, 256, 0, stream, pool, page_bytes, from, to);
}

static __global__ void change_tables(const table_change *changes, uint32_t n)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        *changes[i].address = changes[i].page;
}

void launch_table_changes(cudaStream_t stream, const struct table_change *changes, uint32_t n)
{
    if (n > 0)
        LAUNCH(change_tables, (n + 127) / 128, 128, 0, stream, changes, n);
}
