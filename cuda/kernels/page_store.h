/* Writes numbers as a row of K or V of a page, with the same bits as the CPU's page_write
 * (engine/cpu/page.c), a warp for each row. Part of kv_write.cu. */
#ifndef WINNOW_CUDA_KERNELS_PAGE_STORE_H
#define WINNOW_CUDA_KERNELS_PAGE_STORE_H

#include "cuda/kernels/page.h"

/* Rounded to nearest even; beyond +-65504 the largest number, NaN stays NaN. */
static __device__ __half to_half(float x)
{
    return __float2half_rn(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
}

/* Numbers as integers of the same order, and back. NaN is above all and comes back as infinity. */
static __device__ int order_of(float x)
{
    const int bits = __float_as_int(x + 0.0f); /* -0 and 0 are the same */
    return x != x ? INT32_MAX : bits >= 0 ? bits : bits ^ 0x7fffffff;
}
static __device__ float number_of(int order)
{
    return __int_as_float(order == INT32_MAX ? 0x7f800000
                          : order >= 0       ? order
                                             : order ^ 0x7fffffff);
}

/* The least of a warp's numbers without NaN; infinity if there is none. */
static __device__ float least_of(float x)
{
    return number_of(__reduce_min_sync(0xffffffff, order_of(x)));
}

/* The nearest step between from and to; NaN becomes `from`. */
static __device__ int nearest_step(float x, float least, float scale, int from, int to)
{
    const float q = scale > 0 ? (x - least) / scale : 0;
    return !(q > (float)from) ? from : q > (float)to ? to : __float2int_rn(q);
}

/* Packs 32 codes of q4, one a lane, into 16 bytes: the partner in a byte is two dimensions on. */
static __device__ void store_nibbles(uint8_t *to, uint32_t code)
{
    const uint32_t lane = threadIdx.x % 32, other = __shfl_down_sync(0xffffffff, code, 2);
    const uint32_t nibble = lane % 8 / 2 + lane % 2 * 4;
    if (nibble % 2 == 0)
        to[lane / 8 * 4 + nibble / 2] = (uint8_t)((code & 15) | (other & 15) << 4);
}

static __device__ void store_plain(const page_layout &s, uint8_t *row, const float *x)
{
    for (uint32_t i = threadIdx.x % 32; i < s.row_bytes / 2; i += 32) {
        const float value = i < s.head_dim ? x[i] : 0;
        if (s.storage == STORAGE_F16)
            ((__half *)row)[i] = to_half(value);
        else
            ((__nv_bfloat16 *)row)[i] = __float2bfloat16_rn(value);
    }
}

/* q8, and V of q4: a scale for 32 dimensions. */
static __device__ void store_scaled(const page_layout &s, uint8_t *row, uint8_t *scales,
                                    const float *x)
{
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t g = 0; g < s.n_groups; g++) {
        const uint32_t i = g * PAGE_GROUP + lane;
        const bool inside = i < s.head_dim;
        /* What pads a group repeats its first number, which changes neither least nor largest. */
        const float value = x[inside ? i : g * PAGE_GROUP];
        const float least = least_of(value), largest = -least_of(-value);
        if (s.storage == STORAGE_Q8) {
            const __half scale = to_half(fminf(fmaxf(largest, -least) / 127, PAGE_Q8_MOST));
            const int q = nearest_step(value, 0, __half2float(scale), -127, 127);
            if (i < s.row_bytes)
                ((int8_t *)row)[i] = (int8_t)(inside ? q : 0);
            if (lane == 0)
                ((__half *)scales)[g] = scale;
            continue;
        }
        const __half low = to_half(least),
                     scale = to_half((fminf(largest, PAGE_Q4_MOST) - __half2float(low)) / 15);
        const int q = nearest_step(value, __half2float(low), __half2float(scale), 0, 15);
        store_nibbles(row + g * 16, inside ? (uint32_t)q : 0);
        if (lane == 0) {
            ((__half *)scales)[2 * g] = scale;
            ((__half *)scales)[2 * g + 1] = low;
        }
    }
}

/* The three smallest of a group's numbers by order (two a lane: dimensions lane and lane + 32),
 * earlier ones first among equals; place 64 where there are fewer. */
static __device__ void three_least(const int (&order)[2], uint32_t (&places)[3], int (&orders)[3])
{
    const uint32_t lane = threadIdx.x % 32;
    bool taken[2] = {false, false};
    for (int i = 0; i < 3; i++) {
        const int first = taken[0] ? INT32_MAX : order[0], second = taken[1] ? INT32_MAX : order[1];
        orders[i] = __reduce_min_sync(0xffffffff, first < second ? first : second);
        const uint32_t mine = orders[i] == INT32_MAX ? 64
                              : first == orders[i]   ? lane
                              : second == orders[i]  ? lane + 32
                                                     : 64;
        places[i] = __reduce_min_sync(0xffffffff, mine);
        taken[0] = taken[0] || places[i] == lane;
        taken[1] = taken[1] || places[i] == lane + 32;
    }
}

/* The two extremes of a group: the two numbers without which the others are closest together. */
struct extremes {
    uint32_t places[2];
    float least, largest; /* of the others; 0 without others */
};
static __device__ extremes choose_extremes(const float (&value)[2], const bool (&inside)[2])
{
    extremes e = {{0, 0}, 0, 0};
    int order[2], reversed[2], n_numbers = 0, low_orders[3], high_orders[3];
    uint32_t low[3], high[3];
    for (int i = 0; i < 2; i++) {
        const bool is_number = inside[i] && value[i] == value[i];
        order[i] = is_number ? order_of(value[i]) : INT32_MAX;
        reversed[i] = is_number ? order_of(-value[i]) : INT32_MAX;
        n_numbers += __popc(__ballot_sync(0xffffffff, is_number));
    }
    three_least(order, low, low_orders);
    if (n_numbers <= 2) {
        e.places[0] = n_numbers > 0 ? low[0] : 0;
        e.places[1] = n_numbers > 1 ? low[1] : e.places[0];
        return e;
    }
    three_least(reversed, high, high_orders);
    float range = 0;
    for (int n_low = 0; n_low < 3; n_low++) {
        const float from = number_of(low_orders[n_low]), to = -number_of(high_orders[2 - n_low]);
        if (n_low > 0 && !(to - from < range))
            continue;
        range = to - from;
        e.least = from;
        e.largest = to;
        e.places[0] = n_low > 0 ? low[0] : high[0];
        e.places[1] = n_low > 1 ? low[1] : high[1 - n_low];
    }
    return e;
}

/* K of q4: of 64 dimensions the two extremes as halves, of the others five bits. */
static __device__ void store_key_q4(const page_layout &s, uint8_t *page, uint32_t slot,
                                    const float *x)
{
    const uint32_t lane = threadIdx.x % 32;
    const page_row to = page_k_row(s, page, slot);
    uint8_t *row = page + (to.values - page), *places = page + (to.places - page);
    __half *scales = (__half *)(page + (to.scales - page));
    uint32_t *fifths = (uint32_t *)(page + (to.fifths - page));
    for (uint32_t g = 0; g < s.n_key_groups; g++) {
        float value[2];
        bool inside[2];
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t d = g * PAGE_KEY_GROUP + i * 32 + lane;
            inside[i] = d < s.head_dim;
            value[i] = inside[i] ? x[d] : 0;
        }
        const extremes e = choose_extremes(value, inside);
        const __half least = to_half(e.least),
                     scale = to_half((fminf(e.largest, PAGE_Q4_MOST) - __half2float(least)) / 31);
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t place = i * 32 + lane;
            const bool plain = inside[i] && place != e.places[0] && place != e.places[1];
            const int q = nearest_step(value[i], __half2float(least), __half2float(scale), 0, 31);
            const uint32_t code = plain ? (uint32_t)q : 0,
                           bits = __ballot_sync(0xffffffff, code >> 4);
            if (g * 2 + i < s.n_groups) { /* the same for all lanes */
                store_nibbles(row + (g * 2 + i) * 16, code);
                if (lane == 0)
                    fifths[g * 2 + i] = bits;
            }
            for (uint32_t j = 0; j < 2; j++)
                if (place == e.places[j]) {
                    scales[g * 4 + 2 + j] = to_half(value[i] == value[i] ? value[i] : 0);
                    places[g * 2 + j] = (uint8_t)place;
                }
        }
        if (lane == 0) {
            scales[g * 4] = scale;
            scales[g * 4 + 1] = least;
        }
    }
}

/* Writes x [head_dim], global memory, as the slot's K or V. All 32 lanes call. */
static __device__ void store_k(const page_layout &s, uint8_t *page, uint32_t slot, const float *x)
{
    if (s.storage == STORAGE_Q4)
        store_key_q4(s, page, slot, x);
    else if (s.storage == STORAGE_Q8)
        store_scaled(s, page + s.k_at + slot * s.row_bytes,
                     page + s.k_scales_at + slot * s.k_scale_bytes, x);
    else
        store_plain(s, page + s.k_at + slot * s.row_bytes, x);
}
static __device__ void store_v(const page_layout &s, uint8_t *page, uint32_t slot, const float *x)
{
    if (s.storage == STORAGE_Q8 || s.storage == STORAGE_Q4)
        store_scaled(s, page + s.v_at + slot * s.row_bytes,
                     page + s.v_scales_at + slot * s.v_scale_bytes, x);
    else
        store_plain(s, page + s.v_at + slot * s.row_bytes, x);
}

#endif
