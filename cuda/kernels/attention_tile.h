/* What the kernels of attention share: queries and pages in shared memory as tiles of 16-bit
 * numbers, products of a warp on tensor cores (mma.m16n8k16), the running softmax.
 *
 * Sixteen queries (rows of one KV head's group; M) meet slots (N) in three steps:
 *
 *   logits    S = Q K^T   A: Q [16][d] by ldmatrix, B: K [slots][d] as it is in a page
 *   softmax   running maximum and sum of a row (Milakov and Gimelshein, arXiv 1805.02867); a row of
 *             S is spread over 4 lanes
 *   values    O += P V    A: P from the registers of S, B: V [slots][d] by ldmatrix.trans
 *
 * Logits are as exact as with 32-bit queries: tensor cores multiply halves exactly and add in fp32,
 * so a query is split into parts that sum up to it, q = high + low (11 bits each; of bfloat16 three
 * parts of 8). Before that each query is scaled by a power of two so that its largest element lies
 * in [2^9, 2^10): low parts stay normal numbers. Scores and kept slots follow from these logits; an
 * f16 query would be wrong in the fourth digit and keep other slots than the CPU does.
 *
 * Quantised keys are unpacked to 32-bit numbers and split in the same way (high x high, high x low,
 * low x high), so that they have the CPU's values; quantised values become halves.
 *
 * Logits are in base 2 here: q . k log2(e) / sqrt(d), so that a weight is one exp2f.
 *
 * Head dimensions 64 and 128 have templates of their own. Others run in the next larger of 64,
 * 128 and 256, with a bound on the loops and zeros up to a multiple of 16. */
#ifndef WINNOW_CUDA_KERNELS_ATTENTION_TILE_H
#define WINNOW_CUDA_KERNELS_ATTENTION_TILE_H

#include "cuda/kernels/page.h"

#ifndef UNROLL
#ifdef WINNOW_CUDA_EMULATED
#define UNROLL
#else
#define UNROLL _Pragma("unroll")
#endif
#endif

#define GROUP_MAX      16     /* query heads that share a KV head: the rows of an mma tile */
#define SHARED_MAX     166912 /* bytes that a block can have on sm_80 */
#define LOG2_E         1.44269504088896f
#define MINUS_INFINITY __int_as_float(0xff800000)

/* A shape of tile. row: 16-bit numbers from one row in shared memory to the next. It is an odd
 * number of 16-byte pieces, so that the 8 rows that ldmatrix reads at once are in different
 * banks. */
template <uint32_t dim_, bool exact_, uint32_t storage_> struct tile {
    static constexpr uint32_t dim = dim_, storage = storage_, row = dim_ + 8;
    static constexpr bool exact = exact_, bfloat = storage_ == STORAGE_BF16;
    static constexpr bool quantised = storage_ == STORAGE_Q8 || storage_ == STORAGE_Q4;
    static constexpr uint32_t q_parts = bfloat ? 3 : 2, k_parts = quantised ? 2 : 1;
    /* Bytes of a slot in a page, for a head of `dim`, its position included. */
    static constexpr uint32_t raw_bytes =
        4 + (storage_ == STORAGE_Q8 ? 2 * dim_ + 2 * (dim_ / 32 * 2)
             : storage_ == STORAGE_Q4
                 ? dim_ + dim_ / 64 * 8 + dim_ / 32 * 4 + dim_ / 32 * 4 + dim_ / 64 * 2
                 : 4 * dim_);
    /* Steps of 16 dimensions, of dim / 16 at most, that a head has. */
    static __host__ __device__ uint32_t steps(uint32_t head_dim)
    {
        return exact ? dim / 16 : (head_dim + 15) / 16;
    }
};

/* f<tile>(args) for the step's head dimension and storage. */
#define FOR_TILE_OF_STORAGE(storage, head_dim, f, ...)                                             \
    do {                                                                                           \
        if ((head_dim) == 64)                                                                      \
            f<tile<64, true, storage>>(__VA_ARGS__);                                               \
        else if ((head_dim) == 128)                                                                \
            f<tile<128, true, storage>>(__VA_ARGS__);                                              \
        else if ((head_dim) < 64)                                                                  \
            f<tile<64, false, storage>>(__VA_ARGS__);                                              \
        else if ((head_dim) < 128)                                                                 \
            f<tile<128, false, storage>>(__VA_ARGS__);                                             \
        else                                                                                       \
            f<tile<256, false, storage>>(__VA_ARGS__);                                             \
    } while (0)
#define FOR_TILE(step, f, ...)                                                                     \
    do {                                                                                           \
        if ((step)->storage == STORAGE_F16)                                                        \
            FOR_TILE_OF_STORAGE(STORAGE_F16, (step)->head_dim, f, __VA_ARGS__);                    \
        else if ((step)->storage == STORAGE_BF16)                                                  \
            FOR_TILE_OF_STORAGE(STORAGE_BF16, (step)->head_dim, f, __VA_ARGS__);                   \
        else if ((step)->storage == STORAGE_Q8)                                                    \
            FOR_TILE_OF_STORAGE(STORAGE_Q8, (step)->head_dim, f, __VA_ARGS__);                     \
        else                                                                                       \
            FOR_TILE_OF_STORAGE(STORAGE_Q4, (step)->head_dim, f, __VA_ARGS__);                     \
    } while (0)

/* What a query at position t sees (engine/compute/backend.h). */
static __device__ __forceinline__ bool is_visible(int32_t p, int32_t t, uint32_t n_sinks,
                                                  uint32_t window)
{
    return p <= t && ((uint32_t)p < n_sinks || (uint32_t)(t - p) < window);
}

template <class T> static __device__ __forceinline__ uint16_t to_bits(float x, float *rest)
{
    if (T::bfloat) {
        __nv_bfloat16 b = __float2bfloat16_rn(x);
        *rest = x - __bfloat162float(b);
        return __bfloat16_as_ushort(b);
    }
    __half h = __float2half_rn(x);
    *rest = x - __half2float(h);
    return __half_as_ushort(h);
}

/* The power of two that a query is multiplied by: it brings the exponent of the largest element
 * to 9. Zeros, infinities and NaN stay, and numbers near the end of the range are moved less. By
 * a warp; values: the lane's. */
template <class T>
static __device__ __forceinline__ float power_for_query(const float (&values)[T::dim / 32])
{
    uint32_t largest = 0; /* bits without a sign */
    UNROLL
    for (uint32_t i = 0; i < T::dim / 32; i++)
        largest = max(largest, __float_as_uint(values[i]) & 0x7fffffff);
    largest = __reduce_max_sync(0xffffffff, largest);
    const uint32_t exponent = largest >> 23;
    if (largest == 0 || exponent == 255)
        return 1;
    return __uint_as_float((127 + 127 + 9 - max(exponent, 10u)) << 23);
}

/* A lane's share of a query x [head_dim] (NULL: zeros). */
template <class T>
static __device__ __forceinline__ void load_query(float (&values)[T::dim / 32], const float *x,
                                                  uint32_t head_dim)
{
    UNROLL
    for (uint32_t i = 0; i < T::dim / 32; i++) {
        const uint32_t d = i * 32 + threadIdx.x % 32;
        values[i] = x != NULL && d < head_dim ? x[d] : 0;
    }
}

/* Writes such a query as row `row` of q [q_parts][rows][T::row]; *factor turns its products into
 * logits. By a warp. */
template <class T>
static __device__ __forceinline__ void place_query(uint16_t *q, uint32_t rows, uint32_t row,
                                                   const float (&values)[T::dim / 32], float scale,
                                                   float *factor)
{
    const uint32_t lane = threadIdx.x % 32;
    const float grow = power_for_query<T>(values);
    if (lane == 0)
        *factor = scale / grow;
    UNROLL
    for (uint32_t i = 0; i < T::dim / 32; i++) {
        float rest = values[i] * grow;
        UNROLL
        for (uint32_t part = 0; part < T::q_parts; part++)
            q[(part * rows + row) * T::row + i * 32 + lane] = to_bits<T>(rest, &rest);
    }
}

template <class T>
static __device__ void store_query(uint16_t *q, uint32_t rows, uint32_t row, const float *x,
                                   uint32_t head_dim, float scale, float *factor)
{
    float values[T::dim / 32];
    load_query<T>(values, x, head_dim);
    place_query<T>(q, rows, row, values, scale, factor);
}

template <class T>
static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                uint32_t b1)
{
    const uint32_t b[2] = {b0, b1};
    if (T::bfloat)
        mma_m16n8k16_bf16(d, a, b);
    else
        mma_m16n8k16_f16(d, a, b);
}

/* s = Q K^T, not yet scaled: m_tiles of 16 queries from row0 of q on, n_tiles of 8 slots from the
 * first row of k on; k [k_parts][k_rows][T::row]. */
template <class T, uint32_t m_tiles, uint32_t n_tiles>
static __device__ __forceinline__ void
tile_logits(float (&s)[m_tiles][n_tiles][4], const uint16_t *q, uint32_t rows, uint32_t row0,
            const uint16_t *k, uint32_t k_rows, uint32_t steps)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint16_t *q_at = q + (row0 + lane % 16) * T::row + lane / 16 * 8;
    const uint16_t *k_at = k + (lane % 8 + lane / 16 * 8) * T::row + lane / 8 % 2 * 8;
    UNROLL
    for (uint32_t m = 0; m < m_tiles; m++)
        UNROLL
    for (uint32_t n = 0; n < n_tiles; n++)
        UNROLL
    for (uint32_t i = 0; i < 4; i++)
        s[m][n][i] = 0;
    UNROLL
    for (uint32_t step = 0; step < T::dim / 16; step++) {
        if (!T::exact && step >= steps)
            break;
        UNROLL
        for (uint32_t k_part = 0; k_part < T::k_parts; k_part++) {
            uint32_t b[n_tiles / 2][4];
            UNROLL
            for (uint32_t n = 0; n < n_tiles / 2; n++)
                ldmatrix_x4(b[n], k_at + (k_part * k_rows + n * 16) * T::row + step * 16);
            UNROLL
            for (uint32_t m = 0; m < m_tiles; m++) {
                UNROLL
                for (uint32_t part = 0; part + k_part < T::q_parts; part++) {
                    uint32_t a[4];
                    ldmatrix_x4(a, q_at + (part * rows + m * 16) * T::row + step * 16);
                    UNROLL
                    for (uint32_t n = 0; n < n_tiles; n++)
                        multiply<T>(s[m][n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
                }
            }
        }
    }
}

/* Running softmax of the rows that a lane holds: rows lane / 4 and 8 more of each m-tile. */
template <uint32_t m_tiles> struct running {
    float maximum[m_tiles][2], sum[m_tiles][2]; /* sum: this lane's share */
};

/* Turns logits (masked ones: minus infinity) into weights and scales down what was summed
 * before. */
template <class T, uint32_t m_tiles, uint32_t n_tiles>
static __device__ __forceinline__ void
tile_softmax(float (&s)[m_tiles][n_tiles][4], running<m_tiles> &state,
             float (&o)[m_tiles][T::dim / 8][4], uint32_t steps)
{
    UNROLL
    for (uint32_t m = 0; m < m_tiles; m++) {
        float shrink[2];
        UNROLL
        for (uint32_t half = 0; half < 2; half++) {
            float largest = MINUS_INFINITY;
            UNROLL
            for (uint32_t n = 0; n < n_tiles; n++)
                largest = fmaxf(largest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2));
            largest = fmaxf(largest, state.maximum[m][half]);
            const float base = largest == MINUS_INFINITY ? 0 : largest;
            shrink[half] = exp2f(state.maximum[m][half] - base);
            state.maximum[m][half] = largest;
            float sum = 0;
            UNROLL
            for (uint32_t n = 0; n < n_tiles; n++)
                UNROLL
            for (uint32_t i = 2 * half; i < 2 * half + 2; i++) {
                s[m][n][i] = exp2f(s[m][n][i] - base);
                sum += s[m][n][i];
            }
            state.sum[m][half] = state.sum[m][half] * shrink[half] + sum;
        }
        UNROLL
        for (uint32_t n = 0; n < T::dim / 8; n++) {
            if (!T::exact && n >= 2 * steps)
                break;
            UNROLL
            for (uint32_t i = 0; i < 4; i++)
                o[m][n][i] *= shrink[i / 2];
        }
    }
}

/* Two weights as 16-bit numbers; the rounding error stays in them. */
template <class T> static __device__ __forceinline__ uint32_t pack_weights(float *low, float *high)
{
    const uint32_t first = to_bits<T>(*low, low);
    return first | (uint32_t)to_bits<T>(*high, high) << 16;
}

/* o += P V over n_tiles * 8 slots from the first row of v on, weights in p_parts parts. */
template <class T, uint32_t m_tiles, uint32_t n_tiles, uint32_t p_parts>
static __device__ __forceinline__ void tile_values(float (&o)[m_tiles][T::dim / 8][4],
                                                   float (&p)[m_tiles][n_tiles][4],
                                                   const uint16_t *v, uint32_t steps)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint16_t *v_at = v + lane % 16 * T::row + lane / 16 * 8;
    UNROLL
    for (uint32_t k = 0; k < n_tiles / 2; k++) {
        uint32_t a[m_tiles][p_parts][4];
        UNROLL
        for (uint32_t m = 0; m < m_tiles; m++)
            UNROLL
        for (uint32_t part = 0; part < p_parts; part++)
            UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            float *pair = &p[m][2 * k + i / 2][i % 2 * 2];
            a[m][part][i] = pack_weights<T>(pair, pair + 1);
        }
        UNROLL
        for (uint32_t n = 0; n < T::dim / 16; n++) {
            if (!T::exact && n >= steps)
                break;
            uint32_t b[4];
            ldmatrix_x4_trans(b, v_at + k * 16 * T::row + n * 16);
            UNROLL
            for (uint32_t m = 0; m < m_tiles; m++)
                UNROLL
            for (uint32_t part = 0; part < p_parts; part++) {
                multiply<T>(o[m][2 * n], a[m][part], b[0], b[1]);
                multiply<T>(o[m][2 * n + 1], a[m][part], b[2], b[3]);
            }
        }
    }
}

/* Starts the copies of n_rows rows of K or V of a page, from row `slot` on, into `to`, by
 * threads i, i + n_threads, ...; rows whose bit in `live` is 0 become zeros. The caller commits. */
template <class T>
static __device__ __forceinline__ void load_rows(uint16_t *to, const uint8_t *from,
                                                 uint32_t row_bytes, uint32_t n_rows, uint32_t live,
                                                 uint32_t steps, uint32_t i, uint32_t n_threads)
{
    const uint32_t pieces = T::exact ? T::dim / 8 : 2 * steps;
    for (uint32_t c = i; c < n_rows * pieces; c += n_threads) {
        const uint32_t row = c / pieces, piece = c % pieces;
        const bool has = (live >> row & 1) && (T::exact || piece * 16 < row_bytes);
        const uint8_t *at =
            from + row * (T::exact ? T::dim * 2 : row_bytes) + (has ? piece * 16 : 0);
        cp_async_16_zero(to + row * T::row + piece * 8, at, has ? 16 : 0);
    }
}

/* Starts the copies of n slots of a page, from slot0 on, in the page's layout: section after
 * section into `to`, the positions last. n * (bytes of a slot in a section) is a multiple of 16 for
 * n = 16. */
static __device__ __forceinline__ uint8_t *
copy_section(uint8_t *to, const uint8_t *from, uint32_t bytes, uint32_t i, uint32_t n_threads)
{
    for (uint32_t c = i; c < bytes / 16; c += n_threads)
        cp_async_16(to + c * 16, from + c * 16);
    return to + bytes;
}
static __device__ __forceinline__ void load_raw(uint8_t *to, const uint8_t *page,
                                                const page_layout &s, uint32_t slot0, uint32_t n,
                                                uint32_t i, uint32_t n_threads)
{
    to = copy_section(to, page + s.k_at + slot0 * s.row_bytes, n * s.row_bytes, i, n_threads);
    to = copy_section(to, page + s.v_at + slot0 * s.row_bytes, n * s.row_bytes, i, n_threads);
    to = copy_section(to, page + s.k_scales_at + slot0 * s.k_scale_bytes, n * s.k_scale_bytes, i,
                      n_threads);
    to = copy_section(to, page + s.v_scales_at + slot0 * s.v_scale_bytes, n * s.v_scale_bytes, i,
                      n_threads);
    to = copy_section(to, page + s.fifths_at + slot0 * s.fifth_bytes, n * s.fifth_bytes, i,
                      n_threads);
    to = copy_section(to, page + s.places_at + slot0 * s.place_bytes, n * s.place_bytes, i,
                      n_threads);
    copy_section(to, page + slot0 * 4, n * 4, i, n_threads);
}

/* Where the positions are in such a copy. */
static __device__ __forceinline__ uint32_t raw_positions_at(const page_layout &s, uint32_t n)
{
    return n *
           (2 * s.row_bytes + s.k_scale_bytes + s.v_scale_bytes + s.fifth_bytes + s.place_bytes);
}

static __device__ __forceinline__ uint32_t pack_halves(float low, float high)
{
    return (uint32_t)__half_as_ushort(__float2half_rn(low)) |
           (uint32_t)__half_as_ushort(__float2half_rn(high)) << 16;
}

/* Eight numbers of a key as halves, and their rounding errors as halves. */
static __device__ __forceinline__ void split_key(const float *x, uint16_t *high, uint16_t *low)
{
    uint32_t first[4], second[4];
    UNROLL
    for (uint32_t i = 0; i < 4; i++) {
        const __half a = __float2half_rn(x[2 * i]), b = __float2half_rn(x[2 * i + 1]);
        first[i] = (uint32_t)__half_as_ushort(a) | (uint32_t)__half_as_ushort(b) << 16;
        second[i] = pack_halves(x[2 * i] - __half2float(a), x[2 * i + 1] - __half2float(b));
    }
    *(uint4 *)high = make_uint4(first[0], first[1], first[2], first[3]);
    *(uint4 *)low = make_uint4(second[0], second[1], second[2], second[3]);
}

/* Writes one key from a page or a copy of it as row `row` of k [2][k_rows][T::row]: piece c of 8
 * dimensions. */
template <class T>
static __device__ __forceinline__ void unpack_key(uint16_t *k, uint32_t k_rows, uint32_t row,
                                                  const page_row &from, uint32_t c,
                                                  uint32_t head_dim)
{
    float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (c * 8 < head_dim)
        page_load_8(T::storage, from, true, c * 8, x);
    uint16_t *to = k + row * T::row + c * 8;
    split_key(x, to, to + k_rows * T::row);
}

/* Turns n slots of a copy by load_raw into tiles k [2][n][T::row] and v [n][T::row]; slots whose
 * bit in `live` is 0 become zeros in v. */
template <class T>
static __device__ __forceinline__ void unpack_tile(uint16_t *k, uint16_t *v, const uint8_t *raw,
                                                   const page_layout &s, uint32_t n, uint32_t live,
                                                   uint32_t steps, uint32_t i, uint32_t n_threads)
{
    const uint32_t pieces = T::exact ? T::dim / 8 : 2 * steps;
    const uint8_t *values = raw + n * s.row_bytes, *k_scales = values + n * s.row_bytes,
                  *v_scales = k_scales + n * s.k_scale_bytes,
                  *fifths = v_scales + n * s.v_scale_bytes, *places = fifths + n * s.fifth_bytes;
    for (uint32_t at = i; at < n * pieces; at += n_threads) {
        const uint32_t slot = at / pieces, c = at % pieces;
        const page_row key = {raw + slot * s.row_bytes, k_scales + slot * s.k_scale_bytes,
                              fifths + slot * s.fifth_bytes, places + slot * s.place_bytes};
        unpack_key<T>(k, n, slot, key, c, s.head_dim);
        const page_row value = {values + slot * s.row_bytes, v_scales + slot * s.v_scale_bytes,
                                NULL, NULL};
        float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if ((live >> slot & 1) && c * 8 < s.head_dim)
            page_load_8(T::storage, value, false, c * 8, x);
        *(uint4 *)(v + slot * T::row + c * 8) =
            make_uint4(pack_halves(x[0], x[1]), pack_halves(x[2], x[3]), pack_halves(x[4], x[5]),
                       pack_halves(x[6], x[7]));
    }
}

/* Sums of the four lanes that share a row. */
static __device__ __forceinline__ float sum_of_row(float x)
{
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

#endif
