/* The next token of rows without penalties, bias or masks, on the device: greedy, or drawn after
 * temperature, top-k, top-p and min-p in the order and meaning of engine/compute/sampler.c. Launched by the
 * engine thread at the end of a step; only tokens go to the host.
 *
 * Probabilities are e^((logit - best) / temperature), from a division in double and expf, and are
 * added as whole multiples of 2^-43. Such sums are exact, so atomics may take part and the result
 * depends on the row alone. A pick differs from the host's only if the draw or the top-p cut is
 * within rounding of a boundary: n_vocab * 2^-43 of the mass (1.5e-8 for 128k tokens) for the sums,
 * 2 units in the last place of each probability (2.4e-7) for expf.
 *
 * Three launches: the best logit over many blocks, probabilities over many blocks, then one
 * block a row that selects by bytes of the probability. Nothing is sorted: a cut takes a pass
 * per byte until one token is left in question, mostly two or three passes. A row of 128k tokens
 * is 0.5 MB, which stays in L2; one SM reads it at about 64 bytes a clock, 5 us a pass. 4 to 5
 * passes and two launches are some 30 us, twice that with top-k, for up to as many rows as SMs.
 * A step that reads 8B parameters takes 4.8 ms on an H100. */
#include "cuda/kernels/kernels.h"
#include "cuda/kernels/select_block.h"

#define CHUNK_THREADS 256
#define CHUNK         4096 /* tokens of a block while many blocks share a row */

#define MASS_ONE 0x1p43f /* of probability 1; 2^21 tokens of that fit 64 bits */

static __host__ __device__ uint32_t n_chunks_of(uint32_t n_vocab)
{
    return (n_vocab + CHUNK - 1) / CHUNK;
}

/* Floats of a row of probabilities: 16-byte pieces. */
static __host__ __device__ uint32_t row_floats(uint32_t n_vocab)
{
    return (n_vocab + 3) / 4 * 4;
}

/* [max_n][n_chunks] best keys, then [max_n][row_floats] probabilities. */
uint64_t sample_scratch_bytes(uint32_t max_n, uint32_t n_vocab)
{
    return (uint64_t)max_n * ((n_chunks_of(n_vocab) * sizeof(uint64_t) + 15) / 16 * 16 +
                              row_floats(n_vocab) * sizeof(float));
}

static __device__ uint64_t *chunk_keys(uint8_t *scratch, uint32_t row, uint32_t n_vocab)
{
    return (uint64_t *)scratch + (uint64_t)row * ((n_chunks_of(n_vocab) + 1) / 2 * 2);
}

static __device__ float *probabilities(uint8_t *scratch, uint32_t row, uint32_t n_rows,
                                       uint32_t n_vocab)
{
    return (float *)chunk_keys(scratch, n_rows, n_vocab) + (uint64_t)row * row_floats(n_vocab);
}

/* Larger is better, of equal ones the lower id. */
static __device__ uint64_t token_key(uint32_t value, uint32_t token)
{
    return (uint64_t)value << 32 | ~token;
}

static __device__ bool is_greedy(const struct token_pick *pick)
{
    return pick->temperature <= 0 || pick->top_p <= 0;
}

/* Above the key of any number: one logit that is not finite marks its whole row. */
#define NOT_FINITE_KEY UINT64_MAX

static __device__ uint64_t logit_key(float logit, uint32_t token)
{
    bool is_not_finite = (__float_as_uint(logit) & 0x7f800000u) == 0x7f800000u;
    return is_not_finite ? NOT_FINITE_KEY : token_key(score_rank(logit), token);
}

/* grid (n_chunks, n) */
static __global__ void __launch_bounds__(CHUNK_THREADS)
    best_kernel(const float *logits, uint32_t n_vocab, const struct token_pick *picks,
                uint8_t *scratch)
{
    SHARED(struct block_room, room, [1]);
    const float *row = logits + (uint64_t)picks[blockIdx.y].row * n_vocab;
    const uint32_t first = blockIdx.x * CHUNK + threadIdx.x;
    uint64_t key = 0;
    for (uint32_t k = 0; k < CHUNK / CHUNK_THREADS; k++) {
        uint32_t i = first + k * CHUNK_THREADS;
        uint64_t own = i < n_vocab ? logit_key(row[i], i) : 0;
        key = own > key ? own : key;
    }
    key = ~block_least(~key, room);
    if (threadIdx.x == 0)
        chunk_keys(scratch, blockIdx.y, n_vocab)[blockIdx.x] = key;
}

/* The best token of a row, from its chunks, or PICK_NOT_FINITE. A whole block. */
static __device__ int32_t best_of(uint8_t *scratch, uint32_t n_vocab, struct block_room *room)
{
    const uint64_t *keys = chunk_keys(scratch, blockIdx.y, n_vocab);
    uint64_t least = UINT64_MAX;
    for (uint32_t i = threadIdx.x; i < n_chunks_of(n_vocab); i += blockDim.x)
        least = ~keys[i] < least ? ~keys[i] : least;
    least = block_least(least, room);
    return least == ~NOT_FINITE_KEY ? PICK_NOT_FINITE : (int32_t)(uint32_t)least;
}

/* grid (n_chunks, n) */
static __global__ void __launch_bounds__(CHUNK_THREADS)
    weigh_kernel(int32_t *tokens, const float *logits, uint32_t n_vocab,
                 const struct token_pick *picks, uint8_t *scratch)
{
    SHARED(struct block_room, room, [1]);
    const struct token_pick *pick = &picks[blockIdx.y];
    const int32_t best = best_of(scratch, n_vocab, room);
    const float *from = logits + (uint64_t)pick->row * n_vocab;
    float *to = probabilities(scratch, blockIdx.y, gridDim.y, n_vocab);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        tokens[blockIdx.y] = best;
    if (best == PICK_NOT_FINITE || is_greedy(pick))
        return;
    const float most = from[best];
    const uint32_t first = blockIdx.x * CHUNK + threadIdx.x;
    for (uint32_t k = 0; k < CHUNK / CHUNK_THREADS; k++) {
        uint32_t i = first + k * CHUNK_THREADS;
        if (i >= row_floats(n_vocab))
            break;
        double x = i < n_vocab ? ((double)from[i] - (double)most) / pick->temperature : -INFINITY;
        to[i] = x >= -103 ? expf((float)x) : 0; /* below, a float is 0; so is what pads */
    }
}

/* Calls f(token, p) for all tokens, zeros included, a thread for 4 neighbours. */
template <class F> static __device__ void each_token(const float *p, uint32_t n_vocab, F f)
{
    for (uint32_t i = threadIdx.x * 4; i < n_vocab; i += blockDim.x * 4) {
        const float4 v = *(const float4 *)(p + i);
        f(i, v.x);
        f(i + 1, v.y);
        f(i + 2, v.z);
        f(i + 3, v.w);
    }
}

static __device__ uint64_t mass_of(float p)
{
    return (uint64_t)(p * MASS_ONE);
}

/* ---- top-k */

struct logit_keys {
    const float *logits;
    uint32_t n;
    template <class F> __device__ void each_high(F f) const
    {
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
            f(score_rank(logits[i]));
    }
    template <class F> __device__ void each_low(uint32_t high, F f) const
    {
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
            if (score_rank(logits[i]) == high)
                f(~i);
    }
};

/* Probability 0 for all but the k best logits. */
static __device__ void keep_best(float *p, const float *logits, uint32_t n_vocab, uint32_t k,
                                 struct block_room *room)
{
    const struct logit_keys keys = {logits, n_vocab};
    const uint64_t lowest = block_lowest(keys, k, room).key;
    for (uint32_t i = threadIdx.x; i < n_vocab; i += blockDim.x)
        if (token_key(score_rank(logits[i]), i) < lowest)
            p[i] = 0;
    __syncthreads();
}

/* ---- top-p */

struct mass_room {
    uint32_t low[256], high[256], count[256]; /* mass as two words, tokens */
    uint64_t left;                            /* mass that is still wanted */
    uint32_t digit, n;                        /* where it is reached, tokens that share it */
    uint64_t warps[32];
};

/* One thread's part: neighbours with one digit are added at once. An overflow of the low word is
 * seen by the add that causes it, so both words together are exact. */
struct mass_tally {
    struct mass_room *room;
    uint32_t digit, run;
    uint64_t mass;
    __device__ void add(uint32_t d, uint64_t m)
    {
        if (d != digit)
            flush();
        digit = d;
        run++;
        mass += m;
    }
    __device__ void flush()
    {
        if (run > 0) {
            uint32_t low = (uint32_t)mass, high = (uint32_t)(mass >> 32);
            high += atomicAdd(&room->low[digit], low) > UINT32_MAX - low;
            if (high > 0)
                atomicAdd(&room->high[digit], high);
            atomicAdd(&room->count[digit], run);
        }
        run = 0;
        mass = 0;
    }
};

/* The digit at which the mass from the top reaches room->left. In the first pass the wanted mass
 * is a share of all. First warp. */
static __device__ void pick_mass(bool first, double top_p, struct mass_room *room)
{
    const uint32_t lane = threadIdx.x, top = 255 - 8 * lane;
    uint64_t mine = 0;
    for (uint32_t i = 0; i < 8; i++)
        mine += (uint64_t)room->high[top - i] << 32 | room->low[top - i];
    uint64_t sum = mine;
    for (uint32_t d = 1; d < 32; d *= 2) {
        uint64_t other = __shfl_up_sync(0xffffffffu, sum, d);
        sum += lane >= d ? other : 0;
    }
    const uint64_t all = __shfl_sync(0xffffffffu, sum, 31);
    uint64_t left = room->left, before = sum - mine;
    if (first) {
        left = (uint64_t)ceil(top_p * (double)all);
        left = left < 1 ? 1 : left > all ? all : left;
    }
    __syncwarp();
    if (left <= before || left > sum)
        return;
    for (uint32_t i = 0; i < 8; i++) {
        uint64_t mass = (uint64_t)room->high[top - i] << 32 | room->low[top - i];
        if (left <= before + mass) {
            room->digit = top - i;
            room->n = room->count[top - i];
            room->left = left - before;
            return;
        }
        before += mass;
    }
}

/* The largest key such that the tokens from it up have the mass top_p of all, or a key between
 * it and the next: by bytes of the probability and, where many are equal, of the id. */
static __device__ uint64_t cut_mass(const float *p, uint32_t n_vocab, double top_p,
                                    struct mass_room *room)
{
    uint64_t prefix = 0;
    for (uint32_t shift = 64; shift > 0;) {
        const uint32_t known = shift;
        shift -= 8;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x)
            room->low[i] = room->high[i] = room->count[i] = 0;
        __syncthreads();
        struct mass_tally tally = {room, 0, 0, 0};
        each_token(p, n_vocab, [&](uint32_t token, float x) {
            uint64_t key = token_key(__float_as_uint(x), token);
            if (x > 0 && (known == 64 || (key ^ prefix) >> known == 0))
                tally.add((uint32_t)(key >> shift) & 255, mass_of(x));
        });
        tally.flush();
        __syncthreads();
        if (threadIdx.x < 32)
            pick_mass(known == 64, top_p, room);
        __syncthreads();
        prefix |= (uint64_t)room->digit << shift;
        if (room->n == 1)
            break;
    }
    return prefix;
}

/* ---- the draw */

/* The mass of a token if it is still in: at or above the cut, and not below min-p of the best,
 * whose probability is 1. */
static __device__ uint64_t mass_in(float p, uint32_t token, uint64_t cut, double min_p)
{
    return token_key(__float_as_uint(p), token) >= cut && (double)p >= min_p ? mass_of(p) : 0;
}

/* The sums of all threads before this one; *total: of all. */
static __device__ uint64_t mass_before(uint64_t mine, uint64_t *total, struct mass_room *room)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t sum = mine, before = 0;
    for (uint32_t d = 1; d < 32; d *= 2) {
        uint64_t other = __shfl_up_sync(0xffffffffu, sum, d);
        sum += lane >= d ? other : 0;
    }
    __syncthreads();
    if (lane == 31)
        room->warps[warp] = sum;
    __syncthreads();
    *total = 0;
    for (uint32_t w = 0; w < blockDim.x / 32; w++) {
        before += w < warp ? room->warps[w] : 0;
        *total += room->warps[w];
    }
    return before + sum - mine;
}

/* The first token, by id, at which the mass passes draw * all. Warps own stretches; the stretch
 * with that token is divided among all threads. */
static __device__ int32_t draw_token(const float *p, uint32_t n_vocab, uint64_t cut,
                                     const struct token_pick *pick, struct mass_room *room)
{
    const uint32_t lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    const uint32_t stretch = ((n_vocab + n_warps - 1) / n_warps + 127) / 128 * 128;
    const double min_p = pick->min_p > 0 ? pick->min_p : 0;
    uint32_t first = threadIdx.x / 32 * stretch, last = first + stretch;
    uint64_t mine = 0, total;
    for (uint32_t i = first + lane * 4; i < last && i < n_vocab; i += 128) {
        const float4 v = *(const float4 *)(p + i);
        mine += mass_in(v.x, i, cut, min_p) + mass_in(v.y, i + 1, cut, min_p) +
                mass_in(v.z, i + 2, cut, min_p) + mass_in(v.w, i + 3, cut, min_p);
    }
    mass_before(mine, &total, room);
    uint64_t target = (uint64_t)(pick->draw * (double)total);
    target = target < total ? target : total - 1;
    uint32_t warp = 0;
    while (target >= room->warps[warp])
        target -= room->warps[warp++];

    const uint32_t share = (stretch + blockDim.x - 1) / blockDim.x;
    first = warp * stretch + threadIdx.x * share;
    last = first + share < (warp + 1) * stretch ? first + share : (warp + 1) * stretch;
    last = last < n_vocab ? last : n_vocab;
    mine = 0;
    for (uint32_t i = first; i < last; i++)
        mine += mass_in(p[i], i, cut, min_p);
    uint64_t before = mass_before(mine, &total, room);
    if (target < before || target >= before + mine)
        return -1;
    uint32_t i = first;
    for (uint64_t mass; (mass = mass_in(p[i], i, cut, min_p)) <= target - before; i++)
        before += mass;
    return (int32_t)i;
}

/* grid (1, n) */
static __global__ void __launch_bounds__(1024)
    draw_kernel(int32_t *tokens, const float *logits, uint32_t n_vocab,
                const struct token_pick *picks, uint8_t *scratch)
{
    SHARED(struct block_room, room, [1]);
    SHARED(struct mass_room, masses, [1]);
    const struct token_pick *pick = &picks[blockIdx.y];
    const float *from = logits + (uint64_t)pick->row * n_vocab;
    float *p = probabilities(scratch, blockIdx.y, gridDim.y, n_vocab);
    if (tokens[blockIdx.y] == PICK_NOT_FINITE || is_greedy(pick))
        return;
    if (pick->top_k > 0 && (uint32_t)pick->top_k < n_vocab)
        keep_best(p, from, n_vocab, (uint32_t)pick->top_k, room);
    const uint64_t cut = pick->top_p < 1 ? cut_mass(p, n_vocab, pick->top_p, masses) : 1;
    const int32_t token = draw_token(p, n_vocab, cut, pick, masses);
    if (token >= 0)
        tokens[blockIdx.y] = token;
}

void launch_sample(cudaStream_t stream, int32_t *tokens, const float *logits, uint32_t n,
                   uint32_t n_vocab, const struct token_pick *picks, uint8_t *scratch)
{
    const dim3 grid(n_chunks_of(n_vocab), n);
    if (n == 0)
        return;
    LAUNCH(best_kernel, grid, CHUNK_THREADS, 0, stream, logits, n_vocab, picks, scratch);
    LAUNCH(weigh_kernel, grid, CHUNK_THREADS, 0, stream, tokens, logits, n_vocab, picks, scratch);
    LAUNCH(draw_kernel, dim3(1, n), n_vocab > 16384 ? 1024 : 256, 0, stream, tokens, logits,
           n_vocab, picks, scratch);
}
