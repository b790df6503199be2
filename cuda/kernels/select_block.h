/* What the threads of one block do together when slots are chosen: order scores as numbers, count,
 * number, sort, and find the lowest key that stays. Device code for select.cu, evict.cu and
 * compress.cu. Every thread of the block calls each function; the block has 32 * n threads, n
 * <= 32.
 *
 * Only integers are added with atomics, so no result depends on the order of threads. */
#ifndef WINNOW_CUDA_KERNELS_SELECT_BLOCK_H
#define WINNOW_CUDA_KERNELS_SELECT_BLOCK_H

#include "cuda/kernels/portable.h"
#include "cuda/kernels/step.h"

/* cuda/kernels/select.h says where each is used. */
struct block_room {
    uint32_t histogram[256];
    uint32_t warps[32];
    uint64_t least[32];
    uint32_t digit, left, is_whole;
    uint32_t sum, flag;
};

/* The upper half of select_key (cache/policy/select.h): floats in order as unsigned numbers, NaN
 * as minus infinity, -0 as 0. Never 0. The lower half is the position + 1. */
__device__ static inline uint32_t score_rank(float score)
{
    uint32_t bits = __float_as_uint(score);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        bits = 0xff800000u;
    if (bits == 0x80000000u)
        bits = 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ static inline uint64_t slot_key(uint32_t rank, int32_t position)
{
    return (uint64_t)rank << 32 | ((uint32_t)position + 1);
}

__device__ static inline bool is_protected(int32_t position, uint32_t n_tokens, uint32_t sinks,
                                           uint32_t recent)
{
    uint32_t p = (uint32_t)position;
    return p < sinks || n_tokens - p <= recent;
}

__device__ static inline uint32_t block_sum(uint32_t n, struct block_room *room)
{
    __syncthreads();
    if (threadIdx.x == 0)
        room->sum = 0;
    __syncthreads();
    if (n > 0)
        atomicAdd(&room->sum, n);
    __syncthreads();
    return room->sum;
}

/* The least of all threads' keys. */
__device__ static inline uint64_t block_least(uint64_t key, struct block_room *room)
{
    uint32_t high = (uint32_t)(key >> 32), least = __reduce_min_sync(0xffffffffu, high);
    uint32_t low = __reduce_min_sync(0xffffffffu, high == least ? (uint32_t)key : 0xffffffffu);
    if (threadIdx.x % 32 == 0)
        room->least[threadIdx.x / 32] = (uint64_t)least << 32 | low;
    __syncthreads();
    key = room->least[0];
    for (uint32_t w = 1; w < blockDim.x / 32; w++)
        key = room->least[w] < key ? room->least[w] : key;
    return key;
}

/* Calls emit(i, number) for every i of [from, to) that has(i), numbered from 0 in rising order,
 * and returns how many there are. A warp owns a stretch: it counts, then numbers, so two
 * barriers are enough. has is called twice. */
template <class Has, class Emit>
__device__ static inline uint32_t block_number(uint32_t from, uint32_t to, struct block_room *room,
                                               Has has, Emit emit)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    const uint32_t n = to > from ? to - from : 0;
    const uint32_t stretch = ((n + n_warps - 1) / n_warps + 31) / 32 * 32;
    const uint32_t first = from + (warp * stretch < n ? warp * stretch : n);
    const uint32_t last = to - first < stretch ? to : first + stretch;
    uint32_t count = 0;
    for (uint32_t i = first + lane; i < last; i += 32)
        count += has(i);
    __syncthreads();
    if (lane == 0)
        room->warps[warp] = 0;
    __syncwarp();
    if (count > 0)
        atomicAdd(&room->warps[warp], count);
    __syncthreads();
    uint32_t at = 0, total = 0;
    for (uint32_t w = 0; w < n_warps; w++) {
        at += w < warp ? room->warps[w] : 0;
        total += room->warps[w];
    }
    if (room->warps[warp] > 0)
        for (uint32_t base = first; base < last; base += 32) {
            bool mine = base + lane < last && has(base + lane);
            uint32_t all = __ballot_sync(0xffffffffu, mine);
            if (mine)
                emit(base + lane, at + (uint32_t)__popc(all & ((1u << lane) - 1)));
            at += (uint32_t)__popc(all);
        }
    __syncthreads();
    return total;
}

/* Sorts n keys in place, rising. A bitonic network in which the smaller key always goes to the
 * lower place. Places at or beyond n would hold the largest key, so they need not exist. */
__device__ static inline void block_sort(uint64_t *keys, uint32_t n)
{
    uint32_t room = 1;
    while (room < n)
        room *= 2;
    for (uint32_t size = 2; size <= room; size *= 2)
        for (uint32_t stride = size / 2; stride > 0; stride /= 2) {
            for (uint32_t i = threadIdx.x; i < room / 2; i += blockDim.x) {
                uint32_t low = i / stride * stride * 2 + i % stride;
                uint32_t high =
                    stride == size / 2 ? low / size * size + size - 1 - low % size : low + stride;
                if (high >= n)
                    continue;
                uint64_t a = keys[low], b = keys[high];
                if (a > b) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            __syncthreads();
        }
}

/* One thread's part of a histogram. Runs of equal digits, which are frequent where scores crowd,
 * are added at once. */
struct tally {
    uint32_t *histogram, digit, run;
    __device__ void add(uint32_t d)
    {
        if (d != digit)
            flush();
        digit = d;
        run++;
    }
    __device__ void flush()
    {
        if (run > 0)
            atomicAdd(&histogram[digit], run);
        run = 0;
    }
};

/* The digit of the k-th largest, and what is left of k inside it. First warp. */
__device__ static inline void pick_digit(uint32_t k, struct block_room *room)
{
    const uint32_t lane = threadIdx.x, top = 255 - 8 * lane;
    uint32_t mine = 0;
    for (uint32_t i = 0; i < 8; i++)
        mine += room->histogram[top - i];
    uint32_t sum = mine;
    for (uint32_t d = 1; d < 32; d *= 2) {
        uint32_t other = __shfl_up_sync(0xffffffffu, sum, d);
        sum += lane >= d ? other : 0;
    }
    uint32_t before = sum - mine;
    if (k <= before || k > sum)
        return;
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t n = room->histogram[top - i];
        if (k <= before + n) {
            room->digit = top - i;
            room->left = k - before;
            room->is_whole = k - before == n;
            return;
        }
        before += n;
    }
}

struct lowest {
    uint64_t key;     /* those at or above it ... */
    uint32_t n_equal; /* ... are k, if of those equal to it this many are taken; 0: all */
};

/* The k-th largest key of a source, 1 <= k <= the number of its keys, by its bytes from the top:
 * one pass a byte, until all keys that share the bytes are wanted. Scores that differ need three or
 * four passes over scores alone; positions are read to break ties.
 *
 * source.each_high(f): f(upper half) of every key; source.each_low(high, f): f(lower half) of those
 * with that upper half. */
template <class Source>
__device__ static inline struct lowest block_lowest(const Source &source, uint32_t k,
                                                    struct block_room *room)
{
    uint32_t halves[2] = {0, 0};
    for (uint32_t half = 0; half < 2; half++)
        for (uint32_t shift = 32; shift > 0;) {
            const uint32_t known = shift, prefix = halves[half];
            shift -= 8;
            __syncthreads();
            for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x)
                room->histogram[i] = 0;
            __syncthreads();
            struct tally tally = {room->histogram, 0, 0};
            auto count = [&](uint32_t x) {
                if (known == 32 || (x ^ prefix) >> known == 0)
                    tally.add(x >> shift & 255);
            };
            if (half == 0)
                source.each_high(count);
            else
                source.each_low(halves[0], count);
            tally.flush();
            __syncthreads();
            if (threadIdx.x < 32)
                pick_digit(k, room);
            __syncthreads();
            halves[half] |= room->digit << shift;
            k = room->left;
            if (room->is_whole)
                return {(uint64_t)halves[0] << 32 | halves[1], 0};
        }
    return {(uint64_t)halves[0] << 32 | halves[1], k};
}

#endif
