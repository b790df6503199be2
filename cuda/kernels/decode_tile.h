/* The inner part of decode attention: a warp multiplies a tile of 16 slots with the queries of one
 * KV head. Slots are the rows of the products and queries their 8 columns: 4 queries in two parts
 * each. The other way round, 4 queries would fill 4 of 16 rows, and each part would be a product of
 * its own:
 *
 *   logits   S^T [16 slots][8] = K [16][d] Q^T    K as it lies in a page, by ldmatrix
 *   values   O^T [d][8] += V^T [d][16 slots] P^T  V^T by ldmatrix.trans; P^T by shuffles from S^T
 *
 * Quantised pages need no tile of halves: codes are halves exactly, and each lane makes its
 * registers of the products from the bytes of its slots. A scale of K multiplies the sum over
 * its dimensions in fp32; numbers of V are rounded to halves. Parts of queries, base-2 logits
 * and the rest are as in attention_tile.h. Part of attention_decode.cu. */
#ifndef WINNOW_CUDA_KERNELS_DECODE_TILE_H
#define WINNOW_CUDA_KERNELS_DECODE_TILE_H

#include "cuda/kernels/attention_tile.h"
#include "cuda/kernels/half_bits.h"

constexpr uint32_t TILE_SLOTS = 16;

/* Shared memory of the split kernel, for blocks of n_groups times 4 queries.
 *
 * Rows of K and V have a pitch at which the lanes of a load meet every bank once: rows of halves
 * are 8 longer than their numbers (ldmatrix reads 8 rows of 16 bytes); rows of codes as the
 * loads in codes_of_keys and add_codes need it. */
template <class T, uint32_t n_groups> struct decode_memory {
    static constexpr uint32_t warps = T::dim > 128 && !T::quantised ? 3 : 4;
    /* Fewer for quantised pages, so that four blocks fit on a multiprocessor: unpacking has
     * latencies of its own. */
    static constexpr uint32_t stages = T::storage == STORAGE_Q4   ? 3
                                       : T::storage == STORAGE_Q8 ? 2
                                       : T::dim > 128             ? 2
                                                                  : 3;
    static constexpr uint32_t code_bytes = T::storage == STORAGE_Q8 ? T::dim : T::dim / 2;
    static constexpr uint32_t k_pitch = T::storage == STORAGE_Q8   ? T::dim + 32
                                        : T::storage == STORAGE_Q4 ? code_bytes + 16
                                                                   : T::row * 2;
    static constexpr uint32_t v_pitch = T::quantised ? code_bytes + 16 : T::row * 2;
    /* The other parts of a tile: scales, fifth bits, places, positions, each section a multiple
     * of 16 bytes for 16 slots. */
    static constexpr uint32_t sections =
        T::storage == STORAGE_Q8   ? TILE_SLOTS * (2 * (T::dim / 32 * 2) + 4)
        : T::storage == STORAGE_Q4 ? TILE_SLOTS * (T::dim / 64 * 8 + T::dim / 32 * 4 +
                                                   T::dim / 32 * 4 + T::dim / 64 * 2 + 4)
                                   : TILE_SLOTS * 4;
    static constexpr uint32_t stage_bytes = TILE_SLOTS * (k_pitch + v_pitch) + sections;
    static constexpr uint32_t warp_bytes = stages * stage_bytes;
    static constexpr uint32_t queries = 4 * n_groups;
    /* Queries as the second operand of the products, in the order of its registers; bfloat16 has
     * two pairs of parts. Where keys have extremes there are also the queries as plain numbers,
     * and their sums. */
    static constexpr uint32_t q_pairs = T::bfloat ? 2 : 1;
    static constexpr uint32_t fragment_bytes = T::dim / 16 * n_groups * q_pairs * 32 * 8;
    static constexpr uint32_t whole_bytes =
        T::storage == STORAGE_Q4 ? queries * (T::dim + T::dim / 64) * 4 : 0;
    static constexpr uint32_t set_bytes = fragment_bytes + whole_bytes + queries * 4;
    /* What a warp leaves for the others where its ring was: values, maxima, sums, slots seen. */
    static constexpr uint32_t result_row = T::dim + 8;
    static_assert((queries * result_row + 2 * queries + 1) * 4 <= warp_bytes,
                  "a warp's result fits into its ring");
    static constexpr __host__ __device__ uint32_t bytes(bool sinks)
    {
        return warps * warp_bytes + (sinks ? 2 : 1) * set_bytes;
    }
};

/* One set of queries in shared memory: the ordinary ones, or those that read sinks. */
template <class T, uint32_t n_groups> struct decode_queries {
    typedef decode_memory<T, n_groups> memory;
    uint8_t *at;
    /* The registers of a lane for 16 dimensions, 4 queries and a pair of parts. */
    __device__ uint2 *fragment(uint32_t step, uint32_t group, uint32_t pair) const
    {
        return (uint2 *)at + ((step * n_groups + group) * memory::q_pairs + pair) * 32;
    }
    __device__ float *whole(uint32_t query) const
    {
        return (float *)(at + memory::fragment_bytes) + query * T::dim;
    }
    __device__ float *sum(uint32_t query, uint32_t group) const
    {
        return (float *)(at + memory::fragment_bytes) + memory::queries * T::dim +
               query * (T::dim / 64) + group;
    }
    __device__ float *factor(uint32_t query) const
    {
        return (float *)(at + memory::fragment_bytes + memory::whole_bytes) + query;
    }
};

/* The dimension of element i of a lane's registers in step `step` of a product: with t = lane %
 * 4, columns 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of 16. Of quantised keys a lane has 8 neighbours of
 * 32, four for each of two steps. */
template <class T>
static __device__ __forceinline__ uint32_t dimension_of(uint32_t step, uint32_t t, uint32_t i)
{
    return T::quantised ? step / 2 * 32 + t * 8 + step % 2 * 4 + i
                        : step * 16 + i / 2 * 8 + t * 2 + i % 2;
}

/* Writes a query x [head_dim] (NULL: zeros) as the columns of its parts, scaled by
 * power_for_query. By a warp, which keeps a copy in `copy` [T::dim]. */
template <class T, uint32_t n_groups>
static __device__ void place_columns(const decode_queries<T, n_groups> &to, uint32_t query,
                                     const float *x, uint32_t head_dim, float scale, float *copy)
{
    typedef decode_memory<T, n_groups> memory;
    const uint32_t lane = threadIdx.x % 32;
    float values[T::dim / 32];
    load_query<T>(values, x, head_dim);
    const float grow = power_for_query<T>(values);
    if (lane == 0)
        *to.factor(query) = scale / grow;
    UNROLL
    for (uint32_t i = 0; i < T::dim / 32; i++)
        copy[i * 32 + lane] = values[i] * grow;
    __syncwarp();
    /* 4 steps of 16 dimensions at a time: lane % 4 = t, lane / 4 = step and part. */
    for (uint32_t item = lane; item < T::dim / 16 * 8; item += 32) {
        const uint32_t t = item % 4, part = item / 4 % 2, step = item / 8;
        uint16_t bits[memory::q_pairs][4];
        UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            float rest = copy[dimension_of<T>(step, t, i)];
            const uint16_t first = to_bits<T>(rest, &rest), second = to_bits<T>(rest, &rest);
            bits[0][i] = part == 0 ? first : second;
            if (T::bfloat) {
                const uint16_t third = to_bits<T>(rest, &rest);
                bits[memory::q_pairs - 1][i] = part == 0 ? third : 0;
            }
        }
        UNROLL
        for (uint32_t pair = 0; pair < memory::q_pairs; pair++)
            to.fragment(step, query / 4, pair)[(query % 4 * 2 + part) * 4 + t] =
                make_uint2(bits[pair][0] | (uint32_t)bits[pair][1] << 16,
                           bits[pair][2] | (uint32_t)bits[pair][3] << 16);
    }
    for (uint32_t g = 0; T::storage == STORAGE_Q4 && g < T::dim / 64; g++) {
        float sum = copy[g * 64 + lane] + copy[g * 64 + 32 + lane];
        for (int i = 16; i > 0; i /= 2)
            sum += __shfl_xor_sync(0xffffffff, sum, i);
        if (lane == 0)
            *to.sum(query, g) = sum;
    }
    __syncwarp();
}

/* n rows of `bytes` bytes (whole 16-byte pieces) into rows `pitch` apart. */
template <uint32_t most_bytes>
static __device__ __forceinline__ void copy_rows(uint8_t *to, uint32_t pitch, const uint8_t *from,
                                                 uint32_t bytes)
{
    const uint32_t pieces = bytes / 16;
    UNROLL
    for (uint32_t i = 0; i < (TILE_SLOTS * (most_bytes / 16) + 31) / 32; i++) {
        const uint32_t c = i * 32 + threadIdx.x % 32;
        if (c < TILE_SLOTS * pieces)
            cp_async_16(to + c / pieces * pitch + c % pieces * 16, from + c * 16);
    }
}

/* Where the sections of a quantised tile are, behind its codes. */
struct decode_sections {
    const uint8_t *k_scales, *v_scales, *fifths, *places;
    const int32_t *positions;
};
template <class T, uint32_t n_groups>
static __device__ __forceinline__ decode_sections sections_of(const uint8_t *stage,
                                                              const page_layout &s)
{
    typedef decode_memory<T, n_groups> memory;
    decode_sections to;
    to.k_scales = stage + TILE_SLOTS * (memory::k_pitch + memory::v_pitch);
    to.v_scales = to.k_scales + TILE_SLOTS * (T::quantised ? s.k_scale_bytes : 0);
    to.fifths = to.v_scales + TILE_SLOTS * (T::quantised ? s.v_scale_bytes : 0);
    to.places = to.fifths + TILE_SLOTS * (T::quantised ? s.fifth_bytes : 0);
    to.positions = (const int32_t *)(to.places + TILE_SLOTS * (T::quantised ? s.place_bytes : 0));
    return to;
}

template <class T, uint32_t n_groups>
static __device__ __forceinline__ void load_tile(uint8_t *stage, const device_step &step,
                                                 const page_layout &layout, uint32_t page,
                                                 uint32_t half, uint32_t steps)
{
    typedef decode_memory<T, n_groups> memory;
    const uint32_t lane = threadIdx.x % 32, slot = half * TILE_SLOTS;
    const uint8_t *from = step.pool + page * step.page_bytes;
    uint8_t *v = stage + TILE_SLOTS * memory::k_pitch;
    if (!T::quantised) {
        load_rows<T>((uint16_t *)stage, from + layout.k_at + slot * layout.row_bytes,
                     layout.row_bytes, TILE_SLOTS, 0xffffffff, steps, lane, 32);
        load_rows<T>((uint16_t *)v, from + layout.v_at + slot * layout.row_bytes, layout.row_bytes,
                     TILE_SLOTS, 0xffffffff, steps, lane, 32);
        if (lane < TILE_SLOTS / 4)
            cp_async_16(v + TILE_SLOTS * memory::v_pitch + lane * 16, from + (slot + lane * 4) * 4);
        return;
    }
    const uint32_t bytes = T::exact ? memory::code_bytes : layout.row_bytes;
    copy_rows<memory::code_bytes>(stage, memory::k_pitch, from + layout.k_at + slot * bytes, bytes);
    copy_rows<memory::code_bytes>(v, memory::v_pitch, from + layout.v_at + slot * bytes, bytes);
    uint8_t *to = v + TILE_SLOTS * memory::v_pitch;
    to = copy_section(to, from + layout.k_scales_at + slot * layout.k_scale_bytes,
                      TILE_SLOTS * layout.k_scale_bytes, lane, 32);
    to = copy_section(to, from + layout.v_scales_at + slot * layout.v_scale_bytes,
                      TILE_SLOTS * layout.v_scale_bytes, lane, 32);
    to = copy_section(to, from + layout.fifths_at + slot * layout.fifth_bytes,
                      TILE_SLOTS * layout.fifth_bytes, lane, 32);
    to = copy_section(to, from + layout.places_at + slot * layout.place_bytes,
                      TILE_SLOTS * layout.place_bytes, lane, 32);
    copy_section(to, from + slot * 4, TILE_SLOTS * 4, lane, 32);
}

/* Rows of V that are not seen may hold anything, and a weight of 0 would not hide a NaN. */
template <class T> static __device__ void silence(uint16_t *v, uint32_t visible, uint32_t steps)
{
    const uint32_t lane = threadIdx.x % 32, pieces = 2 * steps;
    for (uint32_t c = lane; c < TILE_SLOTS * pieces; c += 32)
        if (!(visible >> c / pieces & 1))
            *(uint4 *)(v + c / pieces * T::row + c % pieces * 8) = make_uint4(0, 0, 0, 0);
    __syncwarp();
}

/* ---- codes as pairs of halves: 0x6400 | code is 1024 + code */

static __device__ __forceinline__ uint32_t minus(uint32_t pair, float zero)
{
    return bits_of_half2(__hsub2(half2_of_bits(pair), __float2half2_rn(zero)));
}

/* The codes of a slot's 8 neighbouring dimensions t * 8 .. of the 32 of group `group`, as the
 * registers of two steps: a[step][i], dimensions 4 step + 2 i and the next. */
template <class T>
static __device__ __forceinline__ void codes_of_keys(uint32_t (&a)[2][2], const uint8_t *row,
                                                     const uint8_t *fifths, uint32_t group,
                                                     uint32_t t)
{
    if (T::storage == STORAGE_Q8) {
        const uint2 v = *(const uint2 *)(row + group * 32 + t * 8);
        const uint32_t words[2] = {v.x ^ 0x80808080u, v.y ^ 0x80808080u}; /* plus 128 */
        UNROLL
        for (uint32_t i = 0; i < 4; i++)
            a[i / 2][i % 2] =
                minus(__byte_perm(words[i / 2], 0x64646464u, i % 2 ? 0x4342 : 0x4140), 1024 + 128);
        return;
    }
    const uint32_t word = *(const uint32_t *)(row + group * 16 + t * 4),
                   bits = fifths[group * 4 + t];
    /* Bit 2 k of pair k's first, bit 16 + 2 k of its second. */
    const uint32_t spread = (bits & 0x55) | (bits & 0xaa) << 15;
    UNROLL
    for (uint32_t k = 0; k < 4; k++) {
        const uint32_t fifth = k < 3 ? spread << (4 - 2 * k) : spread >> 2;
        const uint32_t pair = (word >> 4 * k & 0x000f000fu) | (fifth & 0x00100010u);
        a[k / 2][k % 2] = minus(pair | 0x64006400u, 1024);
    }
}

/* Logits of 16 slots, not yet scaled: s[group][i] is of query 4 group + lane % 4 and slot lane /
 * 4 + 8 i. Products of K [16 slots][dimensions] with the queries' parts as columns, two per
 * query. */
template <class T, uint32_t n_groups>
static __device__ __forceinline__ void logits_of_halves(float (&s)[n_groups][2], const uint16_t *k,
                                                        const decode_queries<T, n_groups> &q,
                                                        uint32_t steps)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint16_t *at = k + lane % 16 * T::row + lane / 16 * 8;
    float acc[n_groups][4];
    UNROLL
    for (uint32_t j = 0; j < n_groups; j++)
        UNROLL
    for (uint32_t i = 0; i < 4; i++)
        acc[j][i] = 0;
    UNROLL
    for (uint32_t step = 0; step < T::dim / 16; step++) {
        if (!T::exact && step >= steps)
            break;
        uint32_t a[4];
        ldmatrix_x4(a, at + step * 16);
        UNROLL
        for (uint32_t j = 0; j < n_groups; j++)
            UNROLL
        for (uint32_t pair = 0; pair < decode_memory<T, n_groups>::q_pairs; pair++) {
            const uint2 b = q.fragment(step, j, pair)[lane];
            multiply<T>(acc[j], a, b.x, b.y);
        }
    }
    UNROLL
    for (uint32_t j = 0; j < n_groups; j++)
        UNROLL
    for (uint32_t i = 0; i < 2; i++)
        s[j][i] = acc[j][2 * i] + acc[j][2 * i + 1];
}

/* The same from codes: the products of a group of dimensions are multiplied by its scale. */
template <class T, uint32_t n_groups>
static __device__ __forceinline__ void
logits_of_codes(float (&s)[n_groups][2], const uint8_t *k, const decode_sections &sections,
                const decode_queries<T, n_groups> &q, const page_layout &layout)
{
    typedef decode_memory<T, n_groups> memory;
    constexpr uint32_t scaled = T::storage == STORAGE_Q8 ? 1 : 2; /* groups of 32 with one scale */
    const uint32_t lane = threadIdx.x % 32, slot = lane / 4, t = lane % 4;
    UNROLL
    for (uint32_t j = 0; j < n_groups; j++)
        s[j][0] = s[j][1] = 0;
    UNROLL
    for (uint32_t first = 0; first < T::dim / 32; first += scaled) {
        if (!T::exact && first >= layout.n_groups)
            break;
        float acc[n_groups][4];
        UNROLL
        for (uint32_t j = 0; j < n_groups; j++)
            UNROLL
        for (uint32_t i = 0; i < 4; i++)
            acc[j][i] = 0;
        UNROLL
        for (uint32_t group = first; group < first + scaled; group++) {
            if (!T::exact && group >= layout.n_groups)
                break;
            uint32_t codes[2][2][2]; /* of slots lane / 4 and lane / 4 + 8 */
            UNROLL
            for (uint32_t i = 0; i < 2; i++)
                codes_of_keys<T>(codes[i], k + (slot + 8 * i) * memory::k_pitch,
                                 sections.fifths + (slot + 8 * i) * layout.fifth_bytes, group, t);
            UNROLL
            for (uint32_t step = 0; step < 2; step++) {
                const uint32_t a[4] = {codes[0][step][0], codes[1][step][0], codes[0][step][1],
                                       codes[1][step][1]};
                UNROLL
                for (uint32_t j = 0; j < n_groups; j++) {
                    const uint2 b = q.fragment(group * 2 + step, j, 0)[lane];
                    multiply<T>(acc[j], a, b.x, b.y);
                }
            }
        }
        UNROLL
        for (uint32_t i = 0; i < 2; i++) {
            const uint8_t *at = sections.k_scales + (slot + 8 * i) * layout.k_scale_bytes;
            if (T::storage == STORAGE_Q8) {
                const float scale = __half2float(((const __half *)at)[first]);
                UNROLL
                for (uint32_t j = 0; j < n_groups; j++)
                    s[j][i] = fmaf(scale, acc[j][2 * i] + acc[j][2 * i + 1], s[j][i]);
                continue;
            }
            /* x = least + scale * code, but for the two extremes, whose code is 0. */
            const uint2 four = ((const uint2 *)at)[first / 2];
            const float2 pair = __half22float2(half2_of_bits(four.x)),
                         extremes = __half22float2(half2_of_bits(four.y));
            const uint8_t *places =
                sections.places + (slot + 8 * i) * layout.place_bytes + first / 2 * 2;
            /* Slots without a token may have any byte. */
            const uint32_t place = places[0] % PAGE_KEY_GROUP, other = places[1] % PAGE_KEY_GROUP;
            UNROLL
            for (uint32_t j = 0; j < n_groups; j++) {
                const uint32_t query = 4 * j + t;
                const float *whole = q.whole(query) + first * 32;
                float sum = fmaf(pair.x, acc[j][2 * i] + acc[j][2 * i + 1],
                                 pair.y * *q.sum(query, first / 2));
                if (place != other)
                    sum = fmaf(whole[place], extremes.x - pair.y, sum);
                s[j][i] += fmaf(whole[other], extremes.y - pair.y, sum);
            }
        }
    }
}

/* A warp's results so far. Sums of values are o[group][m][i]: the two parts (i % 2) of query 4
 * group + lane % 4 and the dimension that row_of_value gives. */
template <class T, uint32_t n_groups> struct decode_sums {
    float maximum[n_groups], sum[n_groups]; /* sum: of this lane's slots */
    float o[n_groups][T::dim / 16][4];
    uint32_t n_seen;
};
template <class T>
static __device__ __forceinline__ uint32_t row_of_value(uint32_t m, uint32_t half)
{
    const uint32_t row = threadIdx.x % 32 / 4;
    return T::quantised ? row * (T::dim / 8) + 2 * m + half : m * 16 + half * 8 + row;
}

/* Turns logits into weights p and scales down what was summed before. */
template <class T, uint32_t n_groups>
static __device__ __forceinline__ void update_softmax(float (&s)[n_groups][2],
                                                      decode_sums<T, n_groups> &to)
{
    UNROLL
    for (uint32_t j = 0; j < n_groups; j++) {
        float largest = fmaxf(s[j][0], s[j][1]);
        UNROLL
        for (int i = 4; i < 32; i *= 2)
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, i));
        largest = fmaxf(largest, to.maximum[j]);
        const float base = largest == MINUS_INFINITY ? 0 : largest;
        const float shrink = exp2f(to.maximum[j] - base);
        to.maximum[j] = largest;
        s[j][0] = exp2f(s[j][0] - base);
        s[j][1] = exp2f(s[j][1] - base);
        to.sum[j] = to.sum[j] * shrink + (s[j][0] + s[j][1]);
        if (!__any_sync(0xffffffff, shrink != 1))
            continue;
        UNROLL
        for (uint32_t m = 0; m < T::dim / 16; m++)
            UNROLL
        for (uint32_t i = 0; i < 4; i++)
            to.o[j][m][i] *= shrink;
    }
}

/* Weights as the second operand of the values' products: slots by columns, a column for each part
 * of a query. Lane 4 s + t has the weights of slots s and s + 8. */
template <class T>
static __device__ __forceinline__ void place_weights(uint32_t (&b)[2], const float (&p)[2])
{
    const uint32_t lane = threadIdx.x % 32, query = lane / 8, from = lane % 4 * 8 + query;
    UNROLL
    for (uint32_t i = 0; i < 2; i++) {
        float x = __shfl_sync(0xffffffff, p[i], from), y = __shfl_sync(0xffffffff, p[i], from + 4);
        float rest_x, rest_y;
        const uint16_t x_high = to_bits<T>(x, &rest_x), y_high = to_bits<T>(y, &rest_y);
        const uint16_t x_low = to_bits<T>(rest_x, &x), y_low = to_bits<T>(rest_y, &y);
        b[i] = lane / 4 % 2 ? x_low | (uint32_t)y_low << 16 : x_high | (uint32_t)y_high << 16;
    }
}

template <class T, uint32_t n_groups>
static __device__ __forceinline__ void add_halves(decode_sums<T, n_groups> &to,
                                                  const uint32_t (&p)[n_groups][2],
                                                  const uint16_t *v, uint32_t steps)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint16_t *at = v + (lane % 8 + lane / 16 * 8) * T::row + lane / 8 % 2 * 8;
    UNROLL
    for (uint32_t m = 0; m < T::dim / 16; m++) {
        if (!T::exact && m >= steps)
            break;
        uint32_t a[4];
        ldmatrix_x4_trans(a, at + m * 16);
        UNROLL
        for (uint32_t j = 0; j < n_groups; j++)
            multiply<T>(to.o[j][m], a, p[j][0], p[j][1]);
    }
}

/* One word of 4 or 8 neighbouring dimensions' codes, of two slots, as pairs of halves: pairs[d] of
 * dimension d. */
template <class T>
static __device__ __forceinline__ void pairs_of_slots(uint32_t *pairs, uint32_t first,
                                                      uint32_t second)
{
    if (T::storage == STORAGE_Q8) {
        first ^= 0x80808080u;
        second ^= 0x80808080u;
        UNROLL
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t four = __byte_perm(first, second, i ? 0x7362 : 0x5140);
            pairs[2 * i] = minus(__byte_perm(four, 0x64646464u, 0x4140), 1024 + 128);
            pairs[2 * i + 1] = minus(__byte_perm(four, 0x64646464u, 0x4342), 1024 + 128);
        }
        return;
    }
    const uint32_t even = __byte_perm(first, second, 0x5410),
                   odd = __byte_perm(first, second, 0x7632);
    UNROLL
    for (uint32_t k = 0; k < 4; k++) {
        pairs[2 * k] = minus((even >> 4 * k & 0x000f000fu) | 0x64006400u, 1024);
        pairs[2 * k + 1] = minus((odd >> 4 * k & 0x000f000fu) | 0x64006400u, 1024);
    }
}

/* Two slots' numbers of V as halves: of slots 2 t + 8 i and the next, dimensions
 * lane / 4 * (T::dim / 8) .. */
template <class T, uint32_t n_groups>
static __device__ __forceinline__ void
add_codes(decode_sums<T, n_groups> &to, const uint32_t (&p)[n_groups][2], const uint8_t *v,
          const decode_sections &sections, const page_layout &layout, uint32_t visible)
{
    typedef decode_memory<T, n_groups> memory;
    constexpr uint32_t word_dims = T::storage == STORAGE_Q8 ? 4 : 8;
    const uint32_t lane = threadIdx.x % 32, row = lane / 4, t = lane % 4;
    const uint32_t group = row * (T::dim / 8) / 32;
    /* What is not seen, or is beyond the head's dimensions, may be anything: it becomes 0. */
    const bool there = T::exact || group < layout.n_groups;
    __half2 scale[2], least[2];
    UNROLL
    for (uint32_t i = 0; i < 2; i++) {
        __half scales[2], leasts[2];
        UNROLL
        for (uint32_t k = 0; k < 2; k++) {
            const uint32_t slot = 2 * t + 8 * i + k;
            const uint8_t *at = sections.v_scales + slot * layout.v_scale_bytes;
            scales[k] = leasts[k] = __float2half_rn(0);
            if (!(visible >> slot & 1) || !there)
                continue;
            if (T::storage == STORAGE_Q8) {
                scales[k] = ((const __half *)at)[group];
            } else {
                scales[k] = ((const __half *)at)[2 * group];
                leasts[k] = ((const __half *)at)[2 * group + 1];
            }
        }
        scale[i] = __halves2half2(scales[0], scales[1]);
        least[i] = __halves2half2(leasts[0], leasts[1]);
    }
    UNROLL
    for (uint32_t word = 0; word < T::dim / 8 / word_dims; word++) {
        uint32_t pairs[2][word_dims]; /* of slots 2 t .., and 8 more */
        UNROLL
        for (uint32_t i = 0; i < 2; i++) {
            const uint8_t *at =
                v + (2 * t + 8 * i) * memory::v_pitch + row * (memory::code_bytes / 8) + word * 4;
            pairs_of_slots<T>(pairs[i], *(const uint32_t *)at,
                              *(const uint32_t *)(at + memory::v_pitch));
            UNROLL
            for (uint32_t d = 0; d < word_dims; d++) {
                const __half2 code = half2_of_bits(pairs[i][d]);
                pairs[i][d] =
                    bits_of_half2(T::storage == STORAGE_Q8 ? __hmul2(code, scale[i])
                                                           : __hfma2(code, scale[i], least[i]));
            }
        }
        UNROLL
        for (uint32_t d = 0; d < word_dims; d += 2) {
            const uint32_t a[4] = {pairs[0][d], pairs[0][d + 1], pairs[1][d], pairs[1][d + 1]};
            UNROLL
            for (uint32_t j = 0; j < n_groups; j++)
                multiply<T>(to.o[j][(word * word_dims + d) / 2], a, p[j][0], p[j][1]);
        }
    }
}

template <class T, uint32_t n_groups>
static __device__ __forceinline__ void
logits_of(float (&s)[n_groups][2], const uint8_t *stage, const decode_sections &sections,
          const decode_queries<T, n_groups> &q, const page_layout &layout, uint32_t steps)
{
    if constexpr (T::quantised)
        logits_of_codes<T, n_groups>(s, stage, sections, q, layout);
    else
        logits_of_halves<T, n_groups>(s, (const uint16_t *)stage, q, steps);
    UNROLL
    for (uint32_t j = 0; j < n_groups; j++) {
        const float factor = *q.factor(4 * j + threadIdx.x % 4);
        s[j][0] *= factor;
        s[j][1] *= factor;
    }
}

#endif
